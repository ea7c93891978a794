//! A source that says by itself what is new: its parts are handed on as they come, and accounted for once all of them have.

use std::sync::Arc;

use gapless_common::message::Outcome;

use super::failure::Failure;
use super::life::Brought;
use super::shell::Shell;
use super::voice::Window;

impl Shell {
    /// Takes what is new of a device; nothing where it is to be asked for windows.
    pub(super) fn take_news(&mut self, at: usize) -> Result<Option<Outcome>, Failure> {
        let (overlap_ms, lag_ms) = (self.pace.overlap_ms, self.pace.lag_ms);
        let (mut brought, ground) = (Brought::default(), Arc::clone(&self.ground));
        loop {
            let Some((known, fetch)) = self.polled(at) else { return Ok(None) };
            let Some(news) = fetch.news(known.next.plus_ms(-overlap_ms))? else { return Ok(None) };
            let now = ground.now();
            brought.is_any |= !news.rows.is_empty();
            let mut messages = known.voice.pass_on(news.rows, now)?;
            let Some(end) = news.end else {
                self.hand_in(messages)?;
                continue;
            };
            // What ends this very moment is in it.
            let (to, accounted) = (now.plus_ms(1), known.next);
            let window = Window { from: accounted, to, accounted, settled: now.plus_ms(-lag_ms) };
            let (accounts, next) = known.voice.account(window, |at| end.cause(at), now)?;
            known.next = next.max(known.next);
            messages.extend(accounts);
            self.hand_in(messages)?;
            brought.trouble = end.trouble;
            return Ok(Some(brought.outcome()));
        }
    }
}
