//! Which records are fresh, when they have waited long enough, and what may be sent now.

use gapless_common::id::{Epoch, Seq};
use gapless_common::planted::{self, Bug};

use super::super::budget::Room;
use super::{Action, Core, Offer};

impl Core {
    /// From here on, what is appended is live; all before is backlog, and waits for no flush.
    pub(super) fn begin_live(&mut self) {
        if let Some((_, next)) = self.delivery.newest() {
            (self.live_from, self.live_to) = (next, next);
        }
        (self.live_weight, self.flush_at_ms, self.flushing) = (0, None, false);
    }

    pub(super) fn appended(&mut self, epoch: Epoch, next: Seq, weight: u64, now_ms: u64) {
        self.delivery.appended(epoch, next);
        if !self.is_connected() || !self.is_present() {
            return;
        }
        self.live_weight = self.live_weight.saturating_add(weight);
        let at_once = self.settings.flush_ms == 0
            || now_ms < self.lease_until_ms
            || self.lease_until_ms > 0 && planted::has(Bug::LeaseForEver)
            || self.live_weight >= self.settings.full_frame_weight;
        if at_once {
            self.flush();
        } else if self.flush_at_ms.is_none() {
            self.flush_at_ms = Some(now_ms.saturating_add(u64::from(self.settings.flush_ms)));
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some((_, next)) = self.delivery.newest() {
            self.live_to = next;
        }
        (self.live_weight, self.flush_at_ms, self.flushing) = (0, None, false);
    }

    pub(super) fn check_flush(&mut self, now_ms: u64) {
        let due = self.flush_at_ms.is_some_and(|at| at <= now_ms);
        if due && !self.flushing && self.is_present() {
            self.flushing = true;
            self.actions.push_back(Action::Flush);
        }
    }

    pub(super) fn sent(&mut self, last: Seq, now_ms: u64) {
        let Some(offer) = self.offered.take() else { return };
        if last < offer.first || last > offer.last {
            return;
        }
        if !self.is_present() {
            self.schedule_probe(now_ms);
        }
        self.delivery.sent(offer, last, now_ms);
        if planted::has(Bug::TrimOnPuback) {
            self.actions.push_back(Action::Acknowledge(offer.epoch, offer.first, last));
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        self.delivery.next_live(self.live_from, u64::MAX).or_else(|| self.next_backlog()).is_some()
    }

    pub(super) fn offer(&mut self, now_ms: u64) -> Option<Action> {
        self.budget_at_ms = None;
        if !self.is_connected() || self.offered.is_some() || now_ms < self.read_retry_ms {
            return None;
        }
        let (room, live_to, opening) = if self.is_present() {
            self.budget_at_ms = self.budget.more_at_ms(now_ms);
            let allowed = self.budget.allows(now_ms);
            let room = self.room(allowed);
            // What comes after it means nothing without it: where the budget has nothing for a backlog, it is none.
            let is_live = room.live && !allowed.backlog && !self.tries_other_end();
            let opening = is_live.then(|| self.delivery.opening(self.live_from)).flatten();
            (room, self.live_to, opening)
        } else {
            let probe = self.delivery.in_flight().0 == 0 && self.probe_at_ms <= now_ms;
            (Room { live: probe, backlog: probe }, u64::MAX, None)
        };
        let live = || room.live.then(|| self.delivery.next_live(self.live_from, live_to)).flatten();
        let offer = opening.or_else(live).or_else(|| room.backlog.then(|| self.next_backlog()).flatten())?;
        self.offered = Some(offer);
        Some(Action::Send(offer))
    }

    /// What may be sent now of what is `allowed`. Of the window one slot is kept for live records, and one for the
    /// backlog: a slow link would starve either.
    fn room(&self, allowed: Room) -> Room {
        let ((all, backlog), window) = (self.delivery.in_flight(), usize::from(self.settings.window));
        let room = if self.ack_wait.failures() > 0 {
            // The last connection brought no answer, whatever the broker says of a collector: bytes cost money.
            Room { live: all == 0, backlog: all == 0 }
        } else {
            let kept = allowed.backlog && backlog == 0 && self.next_backlog().is_some();
            Room {
                live: all < window - usize::from(kept),
                backlog: (backlog < window - 2 && all < window - 1) || (backlog == 0 && all < window),
            }
        };
        Room { live: room.live && allowed.live, backlog: room.backlog && allowed.backlog }
    }

    fn next_backlog(&self) -> Option<Offer> {
        if planted::has(Bug::ForgetBacklog) {
            return None;
        }
        self.delivery.next_backlog(self.live_from, self.settings.newest_first != self.tries_other_end())
    }

    /// A frame that is never answered would hold up all others where one goes at a time: every second time another one is
    /// tried.
    fn tries_other_end(&self) -> bool {
        self.ack_wait.failures() > 0 && self.ack_wait.failures().is_multiple_of(2)
    }
}
