//! What befalls the APIs that the collector's sources ask, and when; and a kill of the collector in the midst of a turn.

use std::collections::BTreeSet;

use gapless_common::time::Timestamp;

use super::api::Api;
use super::clock::{signed, truth};
use super::described::Described;
use super::listing::{LISTED, List};
use super::plan::Mischief;
use super::rng::Rng;
use super::sometimes::Rare;
use super::source::{Sources, Sourcing};
use super::sourced::account;
use super::way::Way;
use super::world::{Event, World};

impl World {
    /// Sets when the first thing befalls them.
    pub(super) fn begin_sources(&mut self) {
        let Some(Sources { plan, .. }) = &mut self.sources else { return };
        if !plan.kinds.is_empty() {
            let first_ms = plan.rng.wait_ms(plan.mean_ms);
            self.push(first_ms, Event::Remote);
        }
    }

    /// The next thing that befalls an API, or the collector in the midst of a turn.
    pub(super) fn strike_remote(&mut self) {
        if self.is_good || self.now_ms >= self.plan.bad_ms {
            return;
        }
        let now_ms = self.now_ms;
        let Some(Sources { plan, ground, .. }) = &mut self.sources else { return };
        let Sourcing { kinds, mean_ms, longest_ms, described, workers, rng, .. } = plan;
        let accounts = described.iter().map(account).collect::<BTreeSet<_>>().len();
        let next_ms = now_ms + rng.wait_ms(*mean_ms);
        let (kind, while_ms) = (*rng.pick(kinds), rng.within(10_000, *longest_ms));
        let picked = rng.pick(described);
        let listed = described.iter().find(|one| one.listing.is_some() && Mischief::OF_LISTS.contains(&kind));
        let described = listed.unwrap_or(picked);
        let utility = *rng.pick(described.utilities());
        tracing::info!(at_ms = now_ms, ?kind, api = described.no, utility, "strikes");
        let (until_ms, no) = (now_ms + while_ms, described.no);
        let mut state = ground.state();
        let log_in = described.log_in.filter(|_| Mischief::OF_LOGINS.contains(&kind));
        if let Some(door) = log_in.and_then(|log_in| state.doors.get_mut(&log_in.no)) {
            match kind {
                Mischief::RemoteTakesBack => door.issuer.take_back(),
                Mischief::RemoteShut => door.shut_until_ms = until_ms,
                _ => door.vain_until_ms = until_ms,
            }
        }
        let gives_back = if kind == Mischief::KillInTurn {
            state.dies_after = Some(rng.within(1, 3));
            state.dies_beside = *workers > 1 && accounts > 1 && rng.one_in(2);
            false
        } else {
            befall(&mut state.apis[no], (described, utility), kind, (now_ms, until_ms), rng)
        };
        drop(state);
        self.push(next_ms, Event::Remote);
        if gives_back {
            self.push(until_ms, Event::GiveBack(no, utility));
        }
        self.sometimes.strike(kind);
    }

    /// Consent is given anew: its description has another word for it from now on, and the collector is started again.
    pub(super) fn give_back(&mut self, no: usize, utility: &str) {
        if self.is_good || self.center.committer.is_none() {
            return;
        }
        if let Some(Sources { plan, ground, .. }) = &mut self.sources {
            ground.state().apis[no].meter.withdrawn.remove(utility);
            plan.described[no].consent += 1;
        }
        self.sometimes.reach(Rare::ConsentGivenAnew);
        self.kill_center();
    }
}

/// Something befalls an API. Returns whether consent was withdrawn, and is given anew in the end.
fn befall(
    api: &mut Api,
    (described, utility): (&Described, &'static str),
    kind: Mischief,
    (now_ms, until_ms): (u64, u64),
    rng: &mut Rng,
) -> bool {
    let (now, interval_ms) = (truth(now_ms), described.interval_ms);
    let slot = |n: i64| Timestamp((now.0.div_euclid(interval_ms) + n) * interval_ms);
    let own = utility.to_owned();
    match kind {
        Mischief::RemoteAway => api.away_until_ms = until_ms,
        Mischief::RemoteTooMany => api.too_many_until_ms = until_ms,
        Mischief::RemoteFails => api.fails_until_ms = until_ms,
        Mischief::RemoteGarbles => api.garbled_until_ms = until_ms,
        Mischief::RemoteInvalid => api.meter.invalid.extend((1..=signed(rng.within(1, 8))).map(slot)),
        Mischief::RemoteEmpty => {
            api.empty_until_ms.insert(own, until_ms);
        }
        Mischief::RemoteUnreachable => {
            api.unreachable_until_ms.insert(own, until_ms);
        }
        Mischief::RemoteLate => {
            let is_never = rng.one_in(4);
            for n in 1..=signed(rng.within(1, 8)) {
                if is_never {
                    api.meter.holes.entry(own.clone()).or_default().insert(slot(n));
                } else {
                    let late_ms = signed(rng.within(1, 4 * described.lag_ms.unsigned_abs()));
                    api.meter.late.entry(own.clone()).or_default().insert(slot(n), slot(n).plus_ms(late_ms));
                }
            }
        }
        Mischief::RemoteCorrects => {
            let by = [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0].map(|by| by / 128.0);
            let anew_ms = described.way.changes().map_or(0, |changes| changes.back_ms);
            let back = 2 + 2 * (described.overlap_ms.max(anew_ms / 2) / interval_ms).unsigned_abs();
            for _ in 0..rng.within(1, 4) {
                let at = slot(-signed(rng.below(back)));
                let is_told = described.way == Way::Windows || !rng.one_in(3);
                api.put_right(utility, at, *rng.pick(&by), (now, is_told));
            }
        }
        Mischief::RemoteBehind => api.feed.behind_until_ms = until_ms,
        Mischief::RemoteUnsaid => {
            let slots = (1..=signed(rng.within(1, 4))).map(slot);
            api.feed.unsaid.extend(slots.map(|at| (own.clone(), at)));
        }
        Mischief::RemoteForgets => api.feed.forget(),
        Mischief::RemoteUnlists | Mischief::RemoteListShort | Mischief::RemoteListCut => {
            if let Some(list) = &mut api.list {
                befall_list(list, own, kind, (now_ms, until_ms), rng);
            }
        }
        Mischief::RemoteTakesBack | Mischief::RemoteShut | Mischief::RemoteVain => {}
        _ => return api.meter.withdrawn.insert(own) && rng.one_in(2),
    }
    false
}

/// Something befalls the list of an API.
fn befall_list(
    list: &mut List,
    utility: String,
    kind: Mischief,
    (now_ms, until_ms): (u64, u64),
    rng: &mut Rng,
) {
    // Now and then so long that it is seen once more.
    let seen_ms = now_ms + 5 * list.every_ms() / 2;
    match kind {
        Mischief::RemoteUnlists => {
            let until_ms = if rng.one_in(3) { u64::MAX } else { until_ms };
            list.unlisted_until_ms.insert(utility, until_ms);
        }
        Mischief::RemoteListShort => {
            let most = usize::try_from(rng.below(LISTED.len() as u64)).expect("few");
            list.short_until_ms = (until_ms, most, rng.one_in(2));
        }
        _ => list.cut_until_ms = if rng.one_in(2) { until_ms.max(seen_ms) } else { until_ms },
    }
}
