//! What holds of the tokens that sources go by: no call is made without one, with one that has expired, or with another one than was
//! given last; none is asked for while one is in force that was not refused; after a question that brought none, and after a new
//! token that was refused as the one before it, there is a pause that is longer each time. The shortest that the product takes are
//! held against it, not what it says of them.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;

use super::door::LogIn;
use super::judge::Findings;
use super::remote::{Call, What};
use super::sometimes::Rare;
use super::source::Sourcing;
use super::world::World;

/// A token may be given up so long before it expires, or by the last quarter of its life, in ms.
const MARGIN_MS: i64 = 60_000;
/// First and longest pause after no token came, in ms.
const TROUBLE_MS: (i64, i64) = (5_000, 300_000);
/// The same after a new one was of no more use than the one before it.
const VAIN_MS: (i64, i64) = (60_000, 3_600_000);

/// Turn, API, meter, and what is asked for.
type Question = (u64, usize, String, What);

/// What is known of the tokens that one API gives, in this life of the collector.
#[derive(Debug, Default)]
struct Pass {
    /// The one that was given last, and when it was asked for.
    token: Option<(String, Timestamp)>,
    /// A call with it was refused.
    is_refused: bool,
    /// The question that was refused last.
    refused: Option<Question>,
    /// The question for which it was asked for, as that was refused, and which was not put again yet.
    instead_for: Option<Question>,
    /// So many new ones in a row were refused, too; no other one is asked for before.
    vain: u32,
    vain_until: Timestamp,
    /// So many questions in a row brought none; none is put before.
    failures: u32,
    rests_until: Timestamp,
}

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Passes(BTreeMap<usize, Pass>);

impl Passes {
    /// No token outlives the collector.
    pub(super) fn end(&mut self) {
        self.0.clear();
    }

    /// The collector's clock was set back: what was to wait is asked for as soon as that lets it.
    pub(super) fn note_set_back(&mut self) {
        for pass in self.0.values_mut() {
            (pass.vain_until, pass.rests_until) = (Timestamp(0), Timestamp(0));
            pass.is_refused = true;
        }
    }

    /// The calls of a turn.
    pub(super) fn note_turn(&mut self, plan: &Sourcing, calls: &[&Call]) -> Findings {
        let mut findings = Findings::new();
        for call in calls {
            let Some(log_in) = plan.described[call.api].log_in else { continue };
            let pass = self.0.entry(log_in.no).or_default();
            let why =
                if call.what == What::Token { pass.ask(log_in, call) } else { pass.go_by(log_in, call) };
            findings.extend(why.map(|why| ("tokens", format!("{call:?}: {why}; {pass:?}"))));
        }
        findings
    }
}

impl Pass {
    /// A token is asked for. Returns what is wrong with that.
    fn ask(&mut self, log_in: LogIn, call: &Call) -> Option<&'static str> {
        let used_ms = log_in.life_ms - MARGIN_MS.min(log_in.life_ms / 4);
        let is_in_force = |(_, since): &(String, Timestamp)| call.at.since_ms(*since) < used_ms;
        let is_in_force = self.token.as_ref().is_some_and(is_in_force);
        let why = match () {
            () if call.at < self.rests_until => Some("it is to rest"),
            () if is_in_force && !self.is_refused => Some("one is in force"),
            () if is_in_force && call.at < self.vain_until => Some("another one was of no use a moment ago"),
            () => None,
        };
        match &call.token {
            Some(token) => {
                // One whose time was over was not replaced because it was of no use: if the new one is not either, another one is had.
                if !is_in_force {
                    self.vain_until = Timestamp(0);
                }
                // Where no call was left for it then, it is asked for as if there had been none.
                self.instead_for = self.refused.take().filter(|(turn, ..)| *turn == call.turn);
                (self.token, self.is_refused) = (Some((token.clone(), call.at)), false);
                (self.failures, self.rests_until) = (0, Timestamp(0));
            }
            None => {
                self.rests_until = call.answered().plus_ms(doubled(TROUBLE_MS, self.failures));
                self.failures += 1;
            }
        }
        why
    }

    /// A call is made. Returns what is wrong with its token.
    fn go_by(&mut self, log_in: LogIn, call: &Call) -> Option<&'static str> {
        let Some((token, since)) = &self.token else { return Some("there is no token") };
        if call.token.as_ref() != Some(token) {
            return Some("another token was given last");
        }
        let why = (call.at.since_ms(*since) >= log_in.life_ms).then_some("its token has expired");
        let question = (call.turn, call.api, call.utility.clone(), call.what);
        let is_instead = self.instead_for.take().as_ref() == Some(&question);
        self.refused = (call.status == Some(401)).then_some(question);
        match call.status {
            Some(401) if is_instead => {
                self.vain_until = call.answered().plus_ms(doubled(VAIN_MS, self.vain));
                (self.is_refused, self.vain) = (true, self.vain + 1);
            }
            Some(401) => self.is_refused = true,
            Some(_) if is_instead => (self.vain, self.vain_until) = (0, Timestamp(0)),
            _ => {}
        }
        why
    }
}

impl World {
    /// What the run reached of it.
    pub(super) fn note_tokens_reached(&mut self) {
        let Some(sources) = &self.sources else { return };
        let (state, mut reached) = (sources.ground.state(), BTreeSet::new());
        let is_heard = |call: &Call| call.what != What::Token && call.is_heard() && call.token.is_some();
        let by_token = state.calls.iter().filter(|call| is_heard(call));
        let mut users: BTreeMap<(u64, usize, &str), BTreeSet<usize>> = BTreeMap::new();
        for call in by_token {
            let (Some(log_in), Some(token)) = (sources.plan.described[call.api].log_in, &call.token) else {
                continue;
            };
            users.entry((call.start, log_in.no, token)).or_default().insert(call.api);
        }
        if users.values().any(|apis| apis.len() > 1) {
            reached.insert(Rare::TokenShared);
        }
        for three in state.calls.windows(3) {
            let is_renewed =
                three[0].status == Some(401) && three[1].what == What::Token && is_heard(&three[2]);
            let is_one = three[0].turn == three[2].turn && three[0].api == three[2].api;
            if is_renewed && is_one && three[0].token.is_some() && three[0].token != three[2].token {
                reached.insert(Rare::TokenRenewed);
            }
            let is_later = three[1].what == What::Token && three[0].start == three[1].start;
            if is_later && is_heard(&three[0]) && three[0].api == three[1].api && three[1].token.is_some() {
                reached.insert(Rare::TokenExpired);
            }
        }
        drop(state);
        reached.into_iter().for_each(|rare| self.sometimes.reach(rare));
    }
}

fn doubled((first, most): (i64, i64), times: u32) -> i64 {
    first.saturating_mul(1 << times.min(16)).min(most)
}
