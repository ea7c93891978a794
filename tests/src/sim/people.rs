//! People: those who are told of alerts, as the threads of `tell` would tell them, and what befalls them. All of it is drawn from
//! a stream of its own. What they are told is held against the truth by `alerted`.
//!
//! Not simulated: webhooks and mail themselves; a receiver answers at once.

use gapless_collector::alerts::delivery::Answer;
use gapless_collector::store::model::ReceiverName;

use super::center::Center;
use super::plan::Mischief;
use super::rng::Rng;
use super::world::{Event, World};

/// Those who are told, as the configuration names them.
const RECEIVERS: [&str; 2] = ["mail.oncall", "webhook.ops"];

/// Who they are, for the collector.
#[must_use]
pub fn receivers() -> Vec<ReceiverName> {
    RECEIVERS.map(|name| ReceiverName { name: name.to_owned(), formerly: None }).to_vec()
}

/// People in a run, and what befalls them.
#[derive(Debug, Clone)]
pub struct People {
    kinds: Vec<Mischief>,
    mean_ms: u64,
    longest_ms: u64,
    receivers: Vec<Receiver>,
    /// The collector is killed once a receiver has taken a message, and before that is noted.
    dies_untold: bool,
    /// How often the collector has looked after alerts.
    pub(super) looks: u64,
    pub(super) rng: Rng,
}

/// Somebody who is told.
#[derive(Debug, Clone)]
struct Receiver {
    name: &'static str,
    away_until_ms: u64,
    /// So many messages it does not want.
    refuses: u64,
    /// What it has answered, to which start of the collector, and is not written down yet.
    unsaid: Option<(u64, i64, Answer)>,
}

impl People {
    /// Of a run that lasts `bad_ms`.
    #[must_use]
    pub fn draw(bad_ms: u64, rng: &mut Rng) -> Self {
        let kinds = Mischief::OF_PEOPLE.into_iter().filter(|_| rng.per_mille(500)).collect();
        let mean_ms = bad_ms / rng.within(3, 12);
        let new = |name| Receiver { name, away_until_ms: 0, refuses: 0, unsaid: None };
        let receivers = RECEIVERS.map(new).to_vec();
        let (longest_ms, dies_untold, looks) = (bad_ms / 3, false, 0);
        Self { kinds, mean_ms, longest_ms, receivers, dies_untold, looks, rng: rng.fork(1) }
    }

    /// Nothing befalls them any more.
    pub(super) fn make_good(&mut self) {
        self.dies_untold = false;
        self.receivers.iter_mut().for_each(|receiver| (receiver.away_until_ms, receiver.refuses) = (0, 0));
    }
}

impl Receiver {
    /// What it does with a message.
    fn answer(&mut self, now_ms: u64, rng: &mut Rng) -> Answer {
        let why = "simulated".to_owned();
        if now_ms < self.away_until_ms {
            let after_ms = rng.one_in(4).then(|| rng.within(1_000, 120_000).cast_signed());
            return Answer::Passing { after_ms, why };
        }
        if self.refuses == 0 {
            return Answer::Accepted;
        }
        self.refuses -= 1;
        match rng.below(4) {
            0 => Answer::Address(why),
            1 => Answer::Credentials(why),
            _ => Answer::Refused(why),
        }
    }
}

impl World {
    /// Sets when the first thing befalls them.
    pub(super) fn begin_people(&mut self) {
        if !self.people.kinds.is_empty() {
            let first_ms = self.people.rng.wait_ms(self.people.mean_ms);
            self.push(first_ms, Event::People);
        }
    }

    pub(super) fn strike_people(&mut self) {
        if self.is_good || self.now_ms >= self.plan.bad_ms {
            return;
        }
        let next_ms = self.now_ms + self.people.rng.wait_ms(self.people.mean_ms);
        self.push(next_ms, Event::People);
        let people = &mut self.people;
        let kind = *people.rng.pick(&people.kinds);
        let while_ms = people.rng.within(10_000, people.longest_ms);
        let whom = usize::try_from(people.rng.below(people.receivers.len() as u64)).expect("few");
        tracing::info!(at_ms = self.now_ms, ?kind, "strikes");
        match kind {
            Mischief::ReceiverAway => people.receivers[whom].away_until_ms = self.now_ms + while_ms,
            Mischief::ReceiverRefuses => people.receivers[whom].refuses = people.rng.within(1, 5),
            Mischief::KillUntold => people.dies_untold = true,
            _ => self.begin_to_watch(while_ms),
        }
        self.sometimes.strike(kind);
    }

    /// The collector looks after alerts, and tells those who are due.
    pub(super) fn look_after_alerts(&mut self) {
        self.push(self.now_ms + self.plan.alert_ms, Event::Alerts);
        let known = self.center.newest_alert();
        self.note_who_is_there();
        self.center.look_after_alerts(self.now_ms);
        self.check_raised(known);
        self.see_overdue();
        for at in 0..self.people.receivers.len() {
            self.send_to(at);
            self.write_down(at);
        }
    }

    /// Sends a receiver what is due, as its thread in `tell` does.
    fn send_to(&mut self, at: usize) {
        let (now, start) = (self.center.now(self.now_ms), self.center.starts);
        let Some(committer) = self.center.committer.as_ref() else { return };
        let People { receivers, rng, dies_untold, .. } = &mut self.people;
        let receiver = &mut receivers[at];
        // What the one that was killed knew died with it.
        receiver.unsaid.take_if(|(of, ..)| *of != start);
        if receiver.unsaid.is_some() {
            return;
        }
        let owed = committer.owed(receiver.name, now).expect("the database reads");
        let Some((through, told)) = owed else { return };
        let answer = receiver.answer(self.now_ms, rng);
        tracing::info!(at_ms = self.now_ms, receiver = receiver.name, through, ?answer, ?told, "is told");
        let is_accepted = answer == Answer::Accepted;
        let dies = is_accepted && std::mem::take(dies_untold);
        receiver.unsaid = Some((start, through, answer));
        let message = (committer.head().incarnation, receiver.name, through);
        self.note_sent(message, &told, is_accepted);
        if dies {
            let waits_ms = self.people.rng.within(1_000, 120_000);
            self.kill_center_for(waits_ms);
        }
    }

    /// Has what a receiver has answered written down.
    fn write_down(&mut self, at: usize) {
        let now = self.center.now(self.now_ms);
        let Some(committer) = self.center.committer.as_mut() else { return };
        let receiver = &mut self.people.receivers[at];
        let Some((_, through, answer)) = receiver.unsaid.clone() else { return };
        let message = (committer.head().incarnation, receiver.name, through);
        let written = committer.told(receiver.name, through, &answer, now);
        if written.is_ok() {
            receiver.unsaid = None;
            self.note_written(message, &answer);
        }
        self.center.unless_full(written);
    }
}

impl Center {
    /// Raises and resolves what is to be told, and says whether anything can be heard, as its shell does.
    fn look_after_alerts(&mut self, at_ms: u64) {
        let (now, hears) = (self.now(at_ms), self.hears);
        if hears {
            self.heard_ms = at_ms;
        }
        let Some(committer) = self.committer.as_mut() else { return };
        let done = committer.hears(hears, now).and_then(|()| committer.look_after_alerts(now));
        self.looks_refused += u64::from(done.is_err());
        self.unless_full(done);
    }

    /// The number of the newest alert.
    fn newest_alert(&self) -> i64 {
        let Some(committer) = self.committer.as_ref() else { return 0 };
        let sql = "SELECT coalesce(max(id), 0) FROM alerts";
        let mut statement = committer.connection().prepare_cached(sql).expect("the database reads");
        statement.query_row([], |r| r.get(0)).expect("the database reads")
    }
}
