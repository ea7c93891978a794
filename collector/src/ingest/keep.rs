//! Looks after gaps within a transaction: asks the sources of those that are due, in as few requests as hold them, and
//! writes down what came of it. When is due what, and in which windows, is decided in [`gaps`](crate::gaps).

use std::collections::BTreeMap;

use gapless_common::message::{CommandBody, Outcome};
use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::apply::{Apply, Done};
use super::orders::{Order, Refused, Wish};
use crate::gaps::life::{Answer, Life, Phase};
use crate::gaps::plan::{self, Window};
use crate::gaps::{ARRIVAL_MS, Policy};
use crate::ledger::AgentNo;
use crate::store::commands;
use crate::store::gap_lives::{self, Event, Happened, Wanted};
use crate::store::unasked::{LeftBefore, Nobody};

/// Gaps that are looked at in one transaction.
const GAPS_MAX: i64 = 10_000;
/// Requests to one device that are under way at once.
const WINDOWS_MAX: usize = 4;
/// A request that is not answered by then is taken for lost.
const REQUEST_LIFE_MS: i64 = 6 * 3_600_000;

/// Whether there is anything to do: asked before a transaction is begun for it.
pub(super) fn is_due(connection: &Connection, now: Timestamp, away: LeftBefore) -> rusqlite::Result<bool> {
    let is_over = !gap_lives::ended(connection, now, away, 1)?.is_empty();
    Ok(is_over || !gap_lives::due(connection, now, away, 1)?.is_empty())
}

impl Apply<'_, '_> {
    /// Ends requests whose time is over, asks for what is due, and gives up what nobody can be asked for.
    pub(super) fn look_after_gaps(&mut self) -> Done {
        let policies = self.policies;
        let (connection, now, away) = (self.batch.connection, self.batch.now, self.away);
        for gap in gap_lives::ended(connection, now, away, GAPS_MAX)? {
            let (answer, why) = match gap.outcome {
                Some(commands::DONE) if !gap.is_agent_away => {
                    (Answer::NoData, "what the device gave does not hold it")
                }
                Some(commands::DONE) => (
                    Answer::Failed,
                    "the agent carried it out, and has been away for a week: what the device gave may never have come",
                ),
                _ => (Answer::Failed, "the agent did not answer in time"),
            };
            self.in_vain(&gap, answer, "collector", why, policies.of(gap.class.as_deref()))?;
        }
        let mut by_device: BTreeMap<_, Vec<Wanted>> = BTreeMap::new();
        let (due, nobodys): (Vec<_>, Vec<_>) = gap_lives::due(connection, now, away, GAPS_MAX)?
            .into_iter()
            .partition(|gap| gap.nobody.is_none());
        for (gap, nobody) in nobodys.iter().filter_map(|gap| Some((gap, gap.nobody?))) {
            self.unasked(gap, nobody)?;
        }
        for gap in due {
            by_device.entry((gap.agent, gap.device.clone())).or_default().push(gap);
        }
        for gaps in by_device.values() {
            self.ask(gaps)?;
        }
        Ok(())
    }

    /// A gap is due that nobody can be asked for. Of a device that could be asked until now it counts from now on.
    fn unasked(&mut self, gap: &Wanted, nobody: Nobody) -> Done {
        let (connection, stamp) = (self.batch.connection, self.batch.stamp());
        let (to, open_ms) = (gap.window().to, gap.open_ms(self.policies, gap.life.attempts));
        let to = if nobody == Nobody::NoMemory { to } else { to.max(stamp.at) };
        let life = gap.life.unasked(to, stamp.at, open_ms);
        gap_lives::put_life(connection, stamp, gap.id, &life)?;
        if life.phase != Phase::Abandoned {
            return Ok(());
        }
        let detail = format!("nobody can be asked for it: {}, and no other device filled it", nobody.why());
        let event = Event { detail: Some(&detail), ..Event::of(gap.id, Happened::Unasked) };
        gap_lives::tell(connection, stamp, &event)
    }

    /// Asks one device for all that is due of it.
    fn ask(&mut self, gaps: &[Wanted]) -> Done {
        let Some(one) = gaps.first() else { return Ok(()) };
        let policy = self.policies.of(one.class.as_deref());
        let due: Vec<Window> = gaps.iter().map(Wanted::window).collect();
        // A window that is shorter than the distance of two slots may hold none.
        let interval_ms = gaps.iter().map(|gap| gap.times.interval.as_ms()).max().unwrap_or(1);
        let longest_ms = policy.window_ms.min(one.longest_ms.unwrap_or(i64::MAX)).max(interval_ms);
        for window in plan::windows(&due, longest_ms, policy.order, WINDOWS_MAX) {
            let body =
                CommandBody::ReadHistory { device: one.device.clone(), from: window.from, to: window.to };
            let (now, until) = (self.batch.now, self.batch.now.plus_ms(REQUEST_LIFE_MS));
            let asked = commands::ensure(self.batch.connection, one.agent, &body, now, until)?;
            let Some((id, is_new)) = asked else { continue };
            // Where the same one is still open its answer is this one's.
            if is_new {
                self.answers.commands.push((one.agent, id));
            }
            for gap in gaps {
                self.request(gap, window, id, until)?;
            }
        }
        Ok(())
    }

    /// Notes that the part of a gap within `window` is asked for; what lies outside is cut off and goes on waiting.
    fn request(&mut self, gap: &Wanted, window: Window, request: u64, until: Timestamp) -> Done {
        let slot_from = |at: Timestamp| {
            let slot = gap.times.slot_at(at);
            if gap.times.at(slot) < at { slot.0 + 1 } else { slot.0 }
        };
        let first = gap.slots.0.max(slot_from(window.from));
        let last = gap.slots.1.min(slot_from(window.to) - 1);
        if first > last {
            return Ok(());
        }
        let (connection, stamp) = (self.batch.connection, self.batch.stamp());
        if let Some(mut there) = gap_lives::holding(connection, gap.grid, first)? {
            if there.slots.0 < first {
                gap_lives::cut_before(connection, stamp, &there, first)?;
                there.slots.0 = first;
            }
            if there.slots.1 > last {
                there.id = gap_lives::cut_before(connection, stamp, &there, last + 1)?;
                there.slots.1 = last;
            }
            gap_lives::put_life(connection, stamp, there.id, &there.life.asked(request, until))?;
            let detail = format!("from {} to {}", window.from, window.to);
            let event = Event {
                next: Some(until),
                detail: Some(&detail),
                ..Event::of(there.id, Happened::Requested)
            };
            gap_lives::tell(connection, stamp, &event)?;
            if there.life.attempts + there.life.failures > 0 {
                gap_lives::asked_again(connection)?;
            }
        }
        Ok(())
    }

    /// The agent has answered a request for history.
    pub(super) fn history_answered(&mut self, no: AgentNo, request: u64, outcome: &Outcome) -> Done {
        let (connection, stamp) = (self.batch.connection, self.batch.stamp());
        let actor =
            self.memory.registry.path(no).map_or_else(String::new, |path| format!("agent {}", path.agent));
        for gap in gap_lives::of_request(connection, request)? {
            let policy = self.policies.of(gap.class.as_deref());
            let (answer, why) = match outcome {
                Outcome::Done => {
                    let until = stamp.at.plus_ms(gap.flush_ms.saturating_add(ARRIVAL_MS));
                    gap_lives::put_life(connection, stamp, gap.id, &gap.life.carried_out(until))?;
                    continue;
                }
                Outcome::NoData => (Answer::NoData, ""),
                Outcome::Expired => (Answer::Failed, "the request came too late"),
                Outcome::Failed(why) => (Answer::Failed, why.as_ref()),
            };
            self.in_vain(&gap, answer, &actor, why, policy)?;
        }
        Ok(())
    }

    /// A request for history was taken back: its device is not asked any more.
    pub(super) fn history_taken_back(&mut self, request: u64) -> Done {
        let (connection, stamp) = (self.batch.connection, self.batch.stamp());
        for gap in gap_lives::of_request(connection, request)? {
            let life = gap.life.taken_back(stamp.at);
            gap_lives::put_life(connection, stamp, gap.id, &life)?;
            let detail = Some("its device is not asked any more: it is asked for once that goes on");
            let event = Event { next: life.next, detail, ..Event::of(gap.id, Happened::Failed) };
            gap_lives::tell(connection, stamp, &event)?;
        }
        Ok(())
    }

    /// A request is over, and the gap is still there.
    fn in_vain(&mut self, gap: &Wanted, answer: Answer, actor: &str, why: &str, policy: &Policy) -> Done {
        let (connection, stamp) = (self.batch.connection, self.batch.stamp());
        let life = gap.life.answered(answer, stamp.at, policy);
        gap_lives::put_life(connection, stamp, gap.id, &life)?;
        let happened = if answer == Answer::NoData { Happened::NoData } else { Happened::Failed };
        let detail = (!why.is_empty()).then_some(why);
        gap_lives::tell(
            connection,
            stamp,
            &Event { actor, next: life.next, detail, ..Event::of(gap.id, happened) },
        )?;
        if life.phase == Phase::Abandoned {
            gap_lives::tell(connection, stamp, &Event::of(gap.id, Happened::Abandoned))?;
        }
        Ok(())
    }

    /// Does what a person wishes.
    pub(super) fn carry_out(&mut self, order: &Order) -> rusqlite::Result<Result<(), Refused>> {
        let (connection, stamp) = (self.batch.connection, self.batch.stamp());
        let Some(gap) = gap_lives::one(connection, order.gap, self.away)? else {
            let is_known = gap_lives::is_known(connection, order.gap)?;
            return Ok(Err(if is_known { Refused::GapFilled(order.gap) } else { Refused::NoGap(order.gap) }));
        };
        if let Some(nobody) = gap.nobody.filter(|_| order.wish == Wish::Retry) {
            return Ok(Err(Refused::NotNow(match nobody {
                Nobody::NoMemory => {
                    "nobody can be asked for it: its device has no memory of its own; what comes late fills it all the same"
                }
                _ => {
                    "nobody can be asked for it as long as its device is not polled: it is due once that is polled again, and what \
                     comes late fills it all the same"
                }
            })));
        }
        let (life, happened): (Option<Life>, _) = match order.wish {
            Wish::Retry => (gap.life.due_now(stamp.at), Happened::Retried),
            Wish::Reopen => (gap.life.reopened(stamp.at), Happened::Reopened),
        };
        let sourceless = || Life::sourceless(stamp.at, gap.open_ms(self.policies, 0));
        let life = life.map(|life| if gap.nobody.is_none() { life } else { sourceless() });
        let Some(life) = life else {
            return Ok(Err(Refused::NotNow(match (order.wish, gap.life.phase) {
                (Wish::Retry, Phase::Abandoned) => "it was abandoned: reopen it to begin its schedule anew",
                (Wish::Retry, _) => "it is being asked for at this moment",
                (Wish::Reopen, _) => {
                    "it is being asked for at this moment: reopen it once that has brought nothing"
                }
            })));
        };
        gap_lives::put_life(connection, stamp, gap.id, &life)?;
        let event = Event { actor: &order.actor, next: life.next, ..Event::of(gap.id, happened) };
        gap_lives::tell(connection, stamp, &event)?;
        Ok(Ok(()))
    }
}
