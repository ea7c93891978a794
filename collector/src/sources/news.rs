//! A source that says by itself what is new: its parts are handed on as they come, and accounted for once all of them have. What is to
//! be known of its files after a restart is written down once their rows are stored.

use std::sync::Arc;
use std::time::Duration;

use gapless_common::message::Outcome;

use super::failure::Failure;
use super::life::Brought;
use super::shell::Shell;
use super::voice::Window;

/// What was read of files is written down so often in the course of a long look, and at the end of each.
const WRITE_EVERY: Duration = Duration::from_secs(30);

impl Shell {
    /// Takes what is new of a device; nothing where it is to be asked for windows.
    pub(super) fn take_news(&mut self, at: usize) -> Result<Option<Outcome>, Failure> {
        let (overlap_ms, lag_ms) = (self.pace.overlap_ms, self.pace.lag_ms);
        let (mut brought, ground) = (Brought::default(), Arc::clone(&self.ground));
        let mut written_at = ground.instant();
        loop {
            let Some((known, fetch)) = self.polled(at) else { return Ok(None) };
            let Some(news) = fetch.news(known.next.plus_ms(-overlap_ms))? else { return Ok(None) };
            let now = ground.now();
            brought.is_any |= !news.rows.is_empty();
            let mut messages = known.voice.pass_on(news.rows, now)?;
            let Some(end) = news.end else {
                self.hand_in(messages)?;
                if ground.instant().duration_since(written_at) >= WRITE_EVERY {
                    self.write_down(at)?;
                    written_at = ground.instant();
                }
                continue;
            };
            // What ends this very moment is in it.
            let (to, accounted) = (now.plus_ms(1), known.next);
            let window = Window { from: accounted, to, accounted, settled: now.plus_ms(-lag_ms) };
            let (accounts, next) = known.voice.account(window, |at| end.cause(at), now)?;
            known.next = next.max(known.next);
            messages.extend(accounts);
            self.hand_in(messages)?;
            self.write_down(at)?;
            brought.trouble = end.trouble;
            return Ok(Some(brought.outcome()));
        }
    }

    /// Has written down what was read of a device's files. Waits until the rows that came of them are stored.
    fn write_down(&mut self, at: usize) -> Result<(), Failure> {
        let ground = Arc::clone(&self.ground);
        let Some((known, fetch)) = self.polled(at) else { return Ok(()) };
        let Some(changes) = fetch.unwritten() else { return Ok(()) };
        match ground.has_read(known.voice.path(), known.voice.said(), changes) {
            None => return Err(Failure::Ending),
            Some(true) => fetch.written(),
            // The next look has it written down.
            Some(false) => {}
        }
        Ok(())
    }
}
