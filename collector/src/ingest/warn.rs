//! Raises and resolves alerts within a transaction, stops devices of which nothing came, and makes messages of what was
//! gathered. What is told when is decided in [`alerts`](crate::alerts); `tell` sends it.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::apply::{Apply, Done};
use super::orders::{Act, Refused};
use crate::alerts::delivery::{self, Answer, Next};
use crate::alerts::judge::{self, AgentFacts, DeviceFacts};
use crate::alerts::{Change, Kind, Stand, digest, step};
use crate::jobs::shard;
use crate::ledger::AgentNo;
use crate::store::alerts::{self, Known, Measure, Subjected};
use crate::store::model::StopReason;
use crate::store::receivers::{self, Gathered};
use crate::store::{jobs, names};

/// The sweep comes to each device and each agent once in so many seconds.
const SWEEP_SECONDS: u64 = 60;

/// What the sweep of a second finds to write down.
#[derive(Debug, Default)]
pub(super) struct Found {
    changes: Vec<(Option<i64>, Subjected, Kind, Changed)>,
    stopped: Vec<(i64, String)>,
    resumed: Vec<i64>,
    closed: Vec<Gathered>,
}

#[derive(Debug)]
enum Changed {
    Raised(String),
    Resolved(i64),
    /// It is open, and about something else by now.
    Reworded(i64, String),
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        let Self { changes, stopped, resumed, closed } = self;
        changes.is_empty() && stopped.is_empty() && resumed.is_empty() && closed.is_empty()
    }

    fn judged<F>(&mut self, subject: Subjected, known: &Known<F>, stands: Vec<(Kind, Stand)>) {
        self.change((known.site, subject), &known.open, stands);
    }

    fn change(
        &mut self,
        (site, subject): (Option<i64>, Subjected),
        open: &BTreeMap<Kind, i64>,
        stands: Vec<(Kind, Stand)>,
    ) {
        for (kind, stand) in stands {
            let open = open.get(&kind);
            let changed = match (step(kind, open.is_some(), stand), open) {
                (Some(Change::Raise(words)), _) => Changed::Raised(words),
                (Some(Change::Resolve), Some(id)) => Changed::Resolved(*id),
                (Some(Change::Reword(words)), Some(id)) => Changed::Reworded(*id, words),
                _ => continue,
            };
            self.changes.push((site, subject, kind, changed));
        }
    }

    /// Leaves out words that alerts have already, or may not have yet.
    fn without_known_words(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        for change in std::mem::take(&mut self.changes) {
            let is_kept = match &change.3 {
                Changed::Reworded(alert, words) => alerts::is_to_reword(connection, *alert, words)?,
                Changed::Raised(_) | Changed::Resolved(_) => true,
            };
            if is_kept {
                self.changes.push(change);
            }
        }
        Ok(())
    }

    fn device(&mut self, no: i64, mut known: Known<DeviceFacts>, measure: Measure<'_>) {
        let now = measure.now;
        if judge::is_to_suspend(&known.facts, &known.limits, now) {
            let days = now.since_ms(known.facts.commissioned_at) / 86_400_000;
            let why = format!("nothing came of it in {days} days");
            known.facts.is_collected = false;
            known.facts.suspended = Some(why.clone());
            self.stopped.push((no, why));
        } else if known.facts.suspended.is_some() && known.facts.last_reading_at.is_some() {
            // Its agent went on by itself, and now there is something.
            known.facts.suspended = None;
            self.resumed.push(no);
        }
        let stands = judge::device(&known.facts, &known.limits, now);
        self.judged(Subjected::Device(no), &known, stands);
    }

    fn agent(&mut self, no: i64, known: &Known<AgentFacts>, measure: Measure<'_>) {
        let stands = judge::agent(&known.facts, &known.limits, measure.now);
        self.judged(Subjected::Agent(no), known, stands);
    }
}

/// What is to be told as of this second. Agents that `spoke` of their gateway are judged at once: what they say next may be
/// that all is well again. Reads only.
pub(super) fn sweep(
    connection: &Connection,
    measure: Measure<'_>,
    spoke: &BTreeSet<AgentNo>,
) -> rusqlite::Result<Found> {
    let part = measure.now.0.div_euclid(1_000).cast_unsigned() % SWEEP_SECONDS;
    let is_turn = |no: &i64| shard(*no, SWEEP_SECONDS) == part;
    let mut found = Found::default();
    for no in jobs::devices(connection)?.into_iter().filter(is_turn) {
        if let Some(known) = alerts::device(connection, measure, no)? {
            found.device(no, known, measure);
        }
    }
    for no in
        alerts::agents(connection)?.into_iter().filter(|no| is_turn(no) || spoke.contains(&AgentNo(*no)))
    {
        if let Some(known) = alerts::agent(connection, measure, no)? {
            found.agent(no, &known, measure);
        }
    }
    let limits = measure.rules.of_all();
    let stands = judge::collector(measure.unheard_since, &limits, measure.now);
    let open = alerts::open_of(connection, Subjected::Collector)?;
    found.change((None, Subjected::Collector), &open, stands);
    found.without_known_words(connection)?;
    let gathered = receivers::gathered(connection)?.into_iter();
    found.closed = gathered.filter(|g| digest::is_closed(g.first, g.last, measure.now)).collect();
    Ok(found)
}

impl Apply<'_, '_> {
    /// Writes down what the sweep found.
    pub(super) fn warn(&mut self, found: &Found) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        for (device, why) in &found.stopped {
            self.stop(*device, StopReason::Suspended, why)?;
        }
        for device in &found.resumed {
            let name = names::of_device(connection, *device)?;
            tracing::info!(device = name, "asked again: something came of it");
            self.go_on(*device, None)?;
        }
        for (site, subject, kind, changed) in &found.changes {
            match changed {
                Changed::Raised(words) => alerts::raise(connection, (*site, *subject), *kind, words, now)?,
                Changed::Resolved(alert) => alerts::resolve(connection, *alert, now)?,
                Changed::Reworded(alert, words) => alerts::reword(connection, *alert, words)?,
            }
        }
        found.closed.iter().try_for_each(|gathered| receivers::close(connection, gathered, now))
    }

    /// Does what a person wishes about alerts and devices.
    pub(super) fn act(&mut self, act: &Act) -> rusqlite::Result<Result<(), Refused>> {
        let (connection, now) = (self.batch.connection, self.batch.now);
        Ok(match act {
            Act::Acknowledge { alert, actor } => match alerts::acknowledge(connection, *alert, actor, now)? {
                true => Ok(()),
                false if alerts::is_known(connection, *alert)? => Err(Refused::AlertOver(*alert)),
                false => Err(Refused::NoAlert(*alert)),
            },
            Act::Resume { device, actor } => match alerts::stopped(connection, device.0)? {
                Some(StopReason::Suspended) => {
                    tracing::info!(device = names::of_device(connection, device.0)?, actor, "resumed");
                    self.go_on(device.0, Some(now))?;
                    Ok(())
                }
                _ => Err(Refused::NotNow("it is not suspended")),
            },
            Act::Confirm { device, actor } => return self.confirm(*device, actor),
            Act::Discard { frame, actor } => return self.discard(*frame, actor),
        })
    }

    /// A receiver has answered.
    pub(super) fn told(&mut self, receiver: &str, through: i64, answer: &Answer) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        let next = delivery::next(receivers::tries(connection, receiver)?, answer, now);
        if next == Next::SetAside {
            tracing::error!(
                receiver,
                through,
                ?answer,
                "set aside: the receiver does not want it; later messages go on"
            );
        }
        receivers::answered(connection, (receiver, through), answer, next, now)
    }
}
