//! What holds of what people are told of alerts: each is raised once while it stands, and told to each receiver, in the same words
//! whenever it is told again, and never again once that is noted. Whether it is true is asked in `facts`.

use std::collections::{BTreeMap, BTreeSet};

use gapless_collector::alerts::delivery::Answer;
use gapless_collector::alerts::digest;
use gapless_collector::alerts::notice::Told;
use gapless_collector::store::model::ReceiverName;
use gapless_common::id::Incarnation;
use rusqlite::Connection;

use super::judge::Findings;
use super::overdue::Overdue;
use super::people::receivers;
use super::sometimes::Rare;
use super::world::World;

/// `alert_events.event`.
const RAISED: i64 = 1;
const RESOLVED: i64 = 3;

/// Which message: in which life of the database, to whom, up to which event.
pub(super) type Message = (Incarnation, &'static str, i64);

/// What a message was, and what became of it.
#[derive(Debug, Clone, PartialEq)]
struct Sent {
    told: Vec<Told>,
    /// Its receiver has taken it, or refused it for good.
    is_through: bool,
    /// The collector has noted that.
    is_noted: bool,
    tries: u32,
}

/// What the oracle knows of alerts.
#[derive(Debug, Clone, Default)]
pub struct Alerted {
    sent: BTreeMap<Message, Sent>,
    /// Of each receiver what it knows: alert, event and instant.
    known: BTreeSet<(String, i64, i64, i64)>,
    /// Of each receiver the alerts that stand, as far as it was told: kind and subject.
    standing: BTreeMap<(Incarnation, &'static str, &'static str, String), i64>,
    /// Who is late.
    pub(super) overdue: Overdue,
    /// When each agent was last seen to be there, in truth and to the collector, in ms of the run.
    pub(super) there_ms: BTreeMap<usize, u64>,
    /// When each agent last told its clock while that was off, in ms of the run.
    pub(super) odd_clock_ms: BTreeMap<usize, u64>,
    /// How full each agent last told its outbox to be, and the most that it ever did, in percent.
    pub(super) filled: BTreeMap<usize, (u64, u64)>,
}

impl Alerted {
    /// A message goes to its receiver, who takes it or does not.
    fn note_sent(&mut self, of: Message, told: &[Told], is_accepted: bool) -> (Option<Rare>, Findings) {
        let (sent, mut findings) = (self.sent.get(&of).cloned(), Findings::new());
        let (was_through, tries) = sent.as_ref().map_or((false, 0), |sent| (sent.is_through, sent.tries));
        if sent.as_ref().is_some_and(|sent| sent.is_noted) {
            findings.push(("told once", format!("{of:?} goes out again, though its answer was noted")));
        }
        if let Some(sent) = sent.filter(|sent| sent.told != told) {
            findings.push(("told once", format!("{of:?} is now {told:?}, and was {:?}", sent.told)));
        }
        if is_accepted && !was_through {
            findings.extend(self.take_in(of, told));
        }
        let is_through = was_through || is_accepted;
        self.sent.insert(of, Sent { told: told.to_vec(), is_through, is_noted: false, tries: tries + 1 });
        let rare = match (was_through, tries) {
            (true, _) => Some(Rare::ToldAgain),
            (false, 1..) if is_accepted => Some(Rare::ToldLater),
            _ => None,
        };
        (rare, findings)
    }

    /// What a receiver knows by a message.
    fn take_in(&mut self, (incarnation, receiver, _): Message, told: &[Told]) -> Findings {
        let mut findings = Findings::new();
        for one in told {
            let subject = (incarnation, receiver, one.kind.word(), one.subject());
            if one.is_new {
                self.known.insert((receiver.to_owned(), one.alert, RAISED, one.raised_at.0));
                let other = self.standing.insert(subject.clone(), one.alert);
                if let Some(other) = other.filter(|other| *other != one.alert) {
                    findings.push(("raised once", format!("{one:?} is raised while alert {other} stands")));
                }
            }
            if let Some(at) = one.resolved_at {
                self.known.insert((receiver.to_owned(), one.alert, RESOLVED, at.0));
                self.standing.remove(&subject);
            }
        }
        findings
    }

    /// The collector has noted an answer: that it was accepted, or that its receiver does not want it and it is given up.
    fn note_written(&mut self, of: Message, (is_accepted, is_set_aside): (bool, bool)) -> Findings {
        let Some(sent) = self.sent.get_mut(&of) else { return Findings::new() };
        let was_through = sent.is_through;
        sent.is_through |= is_set_aside;
        sent.is_noted = is_accepted || is_set_aside;
        let told = sent.told.clone();
        if is_set_aside && !was_through { self.take_in(of, &told) } else { Findings::new() }
    }
}

impl World {
    pub(super) fn note_sent(&mut self, of: Message, told: &[Told], is_accepted: bool) {
        let (rare, findings) = self.oracle.alerted.note_sent(of, told, is_accepted);
        rare.into_iter().for_each(|rare| self.sometimes.reach(rare));
        if is_accepted && told.iter().any(|one| one.resolved_at.is_some()) {
            self.sometimes.reach(Rare::AlertOver);
        }
        self.find_all(findings);
    }

    pub(super) fn note_written(&mut self, of: Message, answer: &Answer) {
        let refused = matches!(answer, Answer::Refused(_));
        let is_over = refused && self.receiver_row(of.1).is_some_and(|(_, through)| through.is_none());
        if !matches!(answer, Answer::Accepted | Answer::Passing { .. }) {
            self.sometimes.reach(Rare::ToldInVain);
        }
        let findings = self.oracle.alerted.note_written(of, (*answer == Answer::Accepted, is_over));
        self.find_all(findings);
    }

    fn find_all(&mut self, findings: Findings) {
        findings.into_iter().for_each(|(invariant, what)| self.oracle.find(invariant, what));
    }

    /// Up to which event a receiver was told, and up to which a message is under way.
    fn receiver_row(&self, name: &str) -> Option<(i64, Option<i64>)> {
        let sql = "SELECT told, through FROM receivers WHERE name = ?1";
        let connection = self.center.committer.as_ref()?.connection();
        connection.query_row(sql, [name], |r| Ok((r.get(0)?, r.get(1)?))).ok()
    }
}

/// In the end each receiver knows all that it was told by the collector's own account, and waits for nothing longer than it may.
pub(super) fn judge(world: &World, findings: &mut Findings) {
    let Some(committer) = world.center.committer.as_ref() else { return };
    let (now, alerted) = (world.center.now(world.now_ms), &world.oracle.alerted);
    let looks_ms = 2 * world.plan.alert_ms.cast_signed();
    for ReceiverName { name, .. } in receivers() {
        let account = account(committer.connection(), &name).expect("the database reads");
        for (alert, event, at) in account.told {
            if !alerted.known.contains(&(name.clone(), alert, event, at)) {
                let what = format!("{name} was never told of event {event} of alert {alert} at {at}");
                findings.push(("alerts are told", what));
            }
        }
        let waits_since = account.owed_since.filter(|_| account.next_at.is_none());
        if waits_since.is_some_and(|since| now.0 - since > digest::MOST_MS + looks_ms) {
            findings
                .push(("alerts are told", format!("{name}: what came at {waits_since:?} is gathered still")));
        }
        if account.next_at.is_some_and(|next| now.0 - next > looks_ms) {
            findings.push(("alerts are told", format!("{name}: nobody tried at {:?}", account.next_at)));
        }
    }
}

/// What the collector says of a receiver.
struct Account {
    /// Alert, event and instant.
    told: Vec<(i64, i64, i64)>,
    owed_since: Option<i64>,
    next_at: Option<i64>,
}

fn account(database: &Connection, name: &str) -> rusqlite::Result<Account> {
    let sql = "SELECT e.alert, e.event, e.at FROM alert_events e JOIN receivers v ON v.name = ?1
        WHERE e.id <= v.told AND e.event <> 2";
    let mut statement = database.prepare_cached(sql)?;
    let told = statement.query_map([name], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?;
    // What came while another message was under way is gathered once that is through.
    let sql = "SELECT (SELECT max(min(e.at), coalesce(v.accepted_at, 0), coalesce(v.set_aside_at, 0)) FROM alert_events e
            WHERE e.id > v.told AND e.event <> 2), v.next_at
        FROM receivers v WHERE v.name = ?1";
    let (owed_since, next_at) = database.query_row(sql, [name], |r| Ok((r.get(0)?, r.get(1)?)))?;
    Ok(Account { told: told.collect::<rusqlite::Result<_>>()?, owed_since, next_at })
}
