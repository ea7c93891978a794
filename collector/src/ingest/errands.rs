//! Carries jobs out within a transaction: makes them where data is stale or somebody asks, tells agents to poll, and writes
//! down what came of it. What is due when is decided in [`jobs`](crate::jobs), what is stale in
//! [`freshness`](crate::freshness).

use gapless_common::message::{CommandBody, Outcome};
use gapless_common::text::parse_duration_ms;
use gapless_common::time::Timestamp;
use rusqlite::Connection;

use super::apply::{Apply, Done};
use super::orders::{Ask, Refused};
use crate::freshness::{AGEING, Allowances, STALE, Subject, Verdict};
use crate::jobs::cadence::Cadence;
use crate::jobs::queue::{End, Job, Queue, Scope, Source, Why, Wish};
use crate::jobs::shard;
use crate::ledger::{AgentNo, DeviceNo};
use crate::obstacle;
use crate::store::jobs::{self, Ended, Standing};
use crate::store::model::{PendingJob, StopReason};
use crate::store::{AHEAD_MAX_MS, alerts, awaited, commands, names};

/// The sweep comes to each device once in so many seconds, to each of as many parts of them in turn.
const SWEEP_SECONDS: u64 = 60;
/// Jobs that are begun in one transaction at most.
const LEASED_MAX: usize = 256;
/// An agent that has not answered by then is given up, and the job is tried again.
const LEASE_MS: i64 = 120_000;

/// What a device's row says about refreshing it.
struct Known {
    standing: Standing,
    allowed_ms: i64,
    cadence: Option<Cadence>,
    /// It records by itself, so that polls add nothing.
    has_memory: bool,
}

/// `None` where no agent owes the device, or it is not to be asked.
fn know(
    connection: &Connection,
    allowances: &Allowances,
    device: i64,
    now: Timestamp,
) -> rusqlite::Result<Option<Known>> {
    let Some(standing) = jobs::standing(connection, device, now.plus_ms(AHEAD_MAX_MS))? else {
        return Ok(None);
    };
    let attributes: std::collections::BTreeMap<String, String> =
        serde_json::from_str(&standing.attributes).unwrap_or_default();
    let allowed_ms = allowances.of(&Subject {
        site: &standing.site,
        device: standing.device.as_str(),
        class: attributes.get("class").map(String::as_str),
        interval_ms: standing.interval_ms,
        flush_ms: standing.flush_ms,
    });
    let ms = |key: &str| {
        let text = attributes.get(key)?;
        parse_duration_ms(text).ok().and_then(|ms| i64::try_from(ms).ok())
    };
    let cadence = ms("every").map(|usual_ms| Cadence {
        usual_ms,
        least_ms: ms("every_least").unwrap_or(usual_ms),
        most_ms: ms("every_most").unwrap_or(usual_ms),
    });
    let has_memory = attributes.contains_key("history");
    Ok(Some(Known { standing, allowed_ms, cadence, has_memory }))
}

impl Known {
    fn score(&self, now: Timestamp) -> f64 {
        let verdict = Verdict::of(Some(self.standing.fresh_at), self.allowed_ms, AHEAD_MAX_MS, now);
        verdict.score.unwrap_or_default()
    }

    fn wish(&self, device: i64, why: Why, now: Timestamp) -> Wish {
        Wish {
            scope: Scope(device),
            source: Source(self.standing.agent),
            why,
            due: now,
            fresh_at: self.standing.fresh_at,
            allowed_ms: self.allowed_ms,
        }
    }
}

/// What the sweep of this second finds: devices that are stale, or have a rhythm, and no job yet. Reads only.
pub(super) fn sweep(
    connection: &Connection,
    allowances: &Allowances,
    queue: Option<&Queue>,
    now: Timestamp,
) -> rusqlite::Result<Vec<Wish>> {
    let Some(queue) = queue else { return Ok(Vec::new()) };
    let part = now.0.div_euclid(1_000).cast_unsigned() % SWEEP_SECONDS;
    let connected = jobs::connected(connection)?;
    let mut wishes = Vec::new();
    for device in jobs::devices(connection)? {
        if shard(device, SWEEP_SECONDS) != part || queue.get(Scope(device)).is_some() {
            continue;
        }
        let Some(known) = know(connection, allowances, device, now)? else { continue };
        // What comes by itself once its agent is back is not asked for.
        if !connected.contains(&known.standing.agent) {
            continue;
        }
        if known.cadence.is_some() {
            wishes.push(known.wish(device, Why::Rhythm, now));
        } else if known.score(now) >= STALE {
            wishes.push(known.wish(device, Why::Stale, now));
        }
    }
    Ok(wishes)
}

/// Whether a job can be begun, or its time is over.
pub(super) fn is_due(connection: &Connection, queue: &Queue, now: Timestamp) -> rusqlite::Result<bool> {
    if queue.deadline().is_none_or(|at| at > now) {
        return Ok(false);
    }
    let connected = jobs::connected(connection)?;
    Ok(queue.has_work(now, |source| connected.contains(&source.0)))
}

impl Apply<'_, '_> {
    /// Makes jobs of these wishes, ends those whose time is over, and begins what is due.
    pub(super) fn look_after_jobs(&mut self, wishes: &[Wish]) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        for wish in wishes {
            self.memory.jobs.ask(wish);
        }
        for job in self.memory.jobs.expire(now) {
            let (outcome, why) = (jobs::EXPIRED, "no answer in time");
            self.log(&job, End::Failed, Some(why))?;
            self.ended_jobs.push(ended(connection, job, outcome, Some(why.to_owned()))?);
        }
        let connected = jobs::connected(connection)?;
        let can = |source: Source| connected.contains(&source.0);
        let begun = self.memory.jobs.lease(now, LEASED_MAX, |_| LEASE_MS, can);
        jobs::save(connection, &mut self.memory.jobs)?;
        for job in begun {
            self.begin(&job)?;
        }
        Ok(())
    }

    /// Has the agent of a job that was just leased poll its device.
    fn begin(&mut self, job: &Job) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        let lease = job.lease.map_or(0, |lease| lease.no);
        let known = know(connection, self.allowances, job.scope.0, now)?;
        let Some(known) = known.filter(|known| known.standing.agent == job.source.0) else {
            // It is gone, or another agent's now: the next sweep asks that one.
            self.memory.jobs.ended(job.scope, lease, End::Refused, now, None);
            return Ok(());
        };
        let is_fresh = known.cadence.is_none() && known.score(now) < AGEING;
        if is_fresh && job.why < Why::Confirm {
            self.memory.jobs.ended(job.scope, lease, End::Done, now, None);
            self.log(job, End::Done, None)?;
            return Ok(());
        }
        let body = CommandBody::PollNow(known.standing.device);
        let agent = AgentNo(job.source.0);
        if let Some((id, is_new)) = commands::ensure(connection, agent, &body, now, now.plus_ms(LEASE_MS))? {
            jobs::begun(connection, job.scope, id, self.batch.commit)?;
            if is_new {
                self.answers.commands.push((agent, id));
            }
        }
        Ok(())
    }

    /// The agent has answered a command: where it was for a job, that has ended.
    pub(super) fn job_answered(&mut self, command: u64, outcome: &Outcome) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        let Some((scope, lease)) = jobs::of_command(connection, command)? else { return Ok(()) };
        let (end, code, detail) = match outcome {
            Outcome::Done => (End::Done, jobs::DONE, None),
            Outcome::NoData => (End::Done, jobs::NO_DATA, None),
            Outcome::Expired => (End::Failed, jobs::EXPIRED, Some("it came too late".to_owned())),
            Outcome::Failed(why) => (End::Failed, jobs::FAILED, Some(why.to_string())),
        };
        let known = know(connection, self.allowances, scope.0, now)?;
        let rhythm = known.and_then(|k| Some(k.cadence?.interval_ms(k.standing.looked_at, now)));
        let next = rhythm.map(|ms| now.plus_ms(ms));
        if let Some(job) = self.memory.jobs.ended(scope, lease, end, now, next) {
            self.log(&job, end, detail.as_deref())?;
            self.ended_jobs.push(ended(connection, job, code, detail)?);
        }
        if end == End::Done { awaited::served(connection, scope.0) } else { Ok(()) }
    }

    /// Says that a device begins to fail, and that this is over; not each try.
    fn log(&self, job: &Job, end: End, why: Option<&str>) -> Done {
        let name = || names::of_device(self.batch.connection, job.scope.0);
        match (end, job.failures) {
            (End::Failed, 0) => tracing::warn!(device = name()?, why, "cannot be read: tried again"),
            (End::Done, 1..) => tracing::info!(device = name()?, failures = job.failures, "is read again"),
            _ => {}
        }
        Ok(())
    }

    /// Has devices whose configuration changed read once, so that what is shown of them is confirmed. Those with a memory
    /// hand in what they record by themselves.
    pub(super) fn read_changed(&mut self, changed: &[DeviceNo]) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        for device in changed {
            let known = know(connection, self.allowances, device.0, now)?;
            if let Some(known) = known.filter(|known| !known.has_memory) {
                self.memory.jobs.ask(&known.wish(device.0, Why::Confirm, now));
            }
        }
        Ok(())
    }

    /// Does what is asked for, as far as there is need: who looks has only what is half stale refreshed.
    pub(super) fn refresh(
        &mut self,
        asks: &[Ask],
    ) -> rusqlite::Result<Vec<Result<Option<PendingJob>, Refused>>> {
        let (connection, now) = (self.batch.connection, self.batch.now);
        let mut answers = Vec::new();
        for ask in asks {
            if ask.why == Why::Viewed {
                jobs::looked(connection, ask.device.0, now)?;
            }
            let Some(known) = know(connection, self.allowances, ask.device.0, now)? else {
                let why = match alerts::stopped(connection, ask.device.0)? {
                    Some(StopReason::Suspended) => {
                        "it is suspended, because nothing came of it: resume it first"
                    }
                    Some(StopReason::NotConfirmed) => "nobody has confirmed it: confirm it first",
                    Some(StopReason::AgreementEnded) => {
                        "its agreement has ended: it is asked again once `agreement_ends` is later"
                    }
                    None => match jobs::obstacle(connection, ask.device.0)? {
                        Some(obstacle::Kind::NotAuthorised) => {
                            "its source has withdrawn its consent: once it is given anew, write another `consent` in the source's \
                             description"
                        }
                        Some(obstacle::Kind::Removed) => "its source does not list it any more",
                        _ => "no agent polls this device: there is nobody to ask",
                    },
                };
                answers.push(Err(Refused::NotNow(why)));
                continue;
            };
            if let Some(actor) = &ask.actor {
                awaited::note(connection, ask.device.0, actor, now)?;
            }
            let is_wanted = ask.why > Why::Viewed || known.score(now) >= AGEING;
            let wish = known.wish(ask.device.0, ask.why, now);
            let job = is_wanted.then(|| self.memory.jobs.ask(&wish));
            answers.push(Ok(job.as_ref().map(pending)));
        }
        Ok(answers)
    }
}

fn ended(connection: &Connection, job: Job, outcome: i64, detail: Option<String>) -> rusqlite::Result<Ended> {
    Ok(Ended { began_commit: jobs::began_commit(connection, job.scope)?, job, outcome, detail })
}

/// The job that an ask comes to without anything being written: it is under way, or waits for as good a reason.
pub(super) fn same(queue: &Queue, ask: &Ask, now: Timestamp) -> Option<PendingJob> {
    let job = queue.get(Scope(ask.device.0))?;
    let Job { scope, source, fresh_at, allowed_ms, .. } = *job;
    let wish = Wish { scope, source, why: ask.why, due: now, fresh_at, allowed_ms };
    // A look is written down.
    (ask.why != Why::Viewed && !queue.is_news(&wish)).then(|| pending(job))
}

/// Whether it is known that who asks waits.
pub(super) fn is_noted(connection: &Connection, ask: &Ask) -> rusqlite::Result<bool> {
    ask.actor.as_ref().map_or(Ok(true), |actor| awaited::is_known(connection, ask.device.0, actor))
}

/// In short.
pub(super) fn pending(job: &Job) -> PendingJob {
    PendingJob {
        no: job.no,
        why: job.why,
        asked_at: job.asked_at,
        due: job.due,
        began: job.lease.map(|lease| lease.began),
        failures: job.failures,
    }
}
