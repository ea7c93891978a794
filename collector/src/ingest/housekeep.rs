//! Tidies away within a transaction, a part at a time, and notes what it was. What is tidied away when is decided in
//! [`housekeeping`](crate::housekeeping).

use rusqlite::Connection;

use super::apply::{Apply, Done};
use super::orders::Refused;
use crate::housekeeping::{Facts, Policy, Polling, Verdict, pause, verdict};
use crate::jobs::{queue::Scope, shard};
use crate::store::housekeeping::{self as rows, Removed};
use crate::store::model::{DeviceNo, StopReason};
use crate::store::{alerts, commands, drops, jobs, names, parked, unasked};
use gapless_common::time::Timestamp;

/// The sweep comes to each device once in so many seconds; to what is removed by its age once in as many.
const SWEEP_SECONDS: u64 = 60;
/// What was read of the files of a drop is known for so long after it was heard of last: one that is not described any more, or by
/// another name.
const DROPS_KEPT_MS: i64 = 90 * 86_400_000;

/// What is to be tidied away.
#[derive(Debug, Default)]
pub(super) struct Found {
    devices: Vec<(i64, Verdict)>,
    /// Devices whose agents are to be told to poll them no more, or again.
    pauses: Vec<i64>,
    jobs: Vec<i64>,
    alerts: Vec<i64>,
    /// Drops of which nobody has heard for long.
    drops: Vec<i64>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        let Self { devices, pauses, jobs, alerts, drops } = self;
        devices.is_empty() && pauses.is_empty() && jobs.is_empty() && alerts.is_empty() && drops.is_empty()
    }
}

/// What is to be tidied away as of this second. Reads only.
pub(super) fn sweep(connection: &Connection, policy: &Policy, now: Timestamp) -> rusqlite::Result<Found> {
    let part = now.0.div_euclid(1_000).cast_unsigned() % SWEEP_SECONDS;
    let mut found = Found::default();
    for no in jobs::devices(connection)?.into_iter().filter(|no| shard(*no, SWEEP_SECONDS) == part) {
        let Some(device) = rows::device(connection, no)? else { continue };
        if commands::polling(connection, no, now)?.is_some_and(|(.., polling)| pause(&polling).is_some()) {
            found.pauses.push(no);
        }
        let attribute = device.attributes.get("agreement_ends").map(String::as_str);
        let agreement_ends = match policy.agreement_ends(&device.site, &device.name, attribute) {
            Ok(ends) => ends,
            Err(why) => {
                // It stays as it is: a slip of the pen must not begin what an agreement has ended.
                tracing::warn!(site = device.site, device = device.name, "attribute `agreement_ends`: {why}");
                continue;
            }
        };
        let facts = Facts {
            announced_at: device.announced_at,
            is_confirmed: device.is_confirmed,
            has_readings: device.has_readings,
            agreement_ends,
            stopped: device.stopped,
        };
        found.devices.extend(verdict(&facts, policy, now).map(|verdict| (no, verdict)));
    }
    if part == 0 {
        let before = |age_ms: i64| now.plus_ms(age_ms.saturating_neg());
        found.jobs = rows::old_jobs(connection, before(policy.job_history_ms))?;
        found.alerts = rows::old_alerts(connection, before(policy.alerts_ms))?;
        found.drops = drops::left(connection, before(DROPS_KEPT_MS))?;
    }
    Ok(found)
}

impl Apply<'_, '_> {
    /// Tidies away what the sweep found.
    pub(super) fn housekeep(&mut self, found: &Found) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        for (device, verdict) in &found.devices {
            match verdict {
                Verdict::Confirm => rows::confirm(connection, *device, "collector", now)?,
                Verdict::Stop(reason, why) => self.stop(*device, *reason, why)?,
                Verdict::GoOn => {
                    tracing::info!(
                        device = names::of_device(connection, *device)?,
                        "asked again: its agreement goes on"
                    );
                    self.go_on(*device, Some(now))?;
                }
            }
        }
        found.pauses.iter().try_for_each(|device| self.tell_pause(*device, None))?;
        rows::forget_jobs(connection, &found.jobs)?;
        rows::forget_alerts(connection, &found.alerts)?;
        for agent in &found.drops {
            tracing::info!(agent, "a drop is gone for long: what was read of its files is forgotten");
            drops::forget(connection, *agent)?;
        }
        let removed = [
            (Removed::JobHistory, found.jobs.len(), "by its age"),
            (Removed::Alerts, found.alerts.len(), "over, and old"),
        ];
        for (what, count, detail) in removed {
            if count > 0 {
                rows::tell(connection, what, (None, count), detail, now)?;
            }
        }
        Ok(())
    }

    /// A device is asked no more; what it sent stays.
    pub(super) fn stop(&mut self, device: i64, reason: StopReason, why: &str) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        alerts::stop(connection, device, (reason, why), now)?;
        self.memory.jobs.cancel(Scope(device));
        // What its agent has not begun is not to be begun; what is missing is asked for once it goes on.
        for command in commands::take_back(connection, device, now)? {
            self.history_taken_back(command)?;
        }
        self.tell_pause(device, None)?;
        let removed = match reason {
            StopReason::Suspended => Removed::Suspended,
            StopReason::AgreementEnded => Removed::AgreementEnded,
            StopReason::NotConfirmed => Removed::NotConfirmed,
        };
        rows::tell(connection, removed, (Some(device), 1), why, now)
    }

    /// A device is asked again; from `resumed` on it counts as commissioned, where a person wants it.
    pub(super) fn go_on(&mut self, device: i64, resumed: Option<Timestamp>) -> Done {
        alerts::go_on(self.batch.connection, device, resumed)?;
        self.tell_pause(device, None)?;
        unasked::begin_to_ask_one(self.batch.connection, self.batch.stamp(), self.away, device)
    }

    /// Tells the agent of a device to poll it no more, or again, where it is to know. Whether it is polled may be known before it is
    /// written down.
    pub(super) fn tell_pause(&mut self, device: i64, is_polled: Option<bool>) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        let Some((agent, name, known)) = commands::polling(connection, device, now)? else { return Ok(()) };
        let polling = Polling { is_polled: is_polled.unwrap_or(known.is_polled), ..known };
        if let Some(paused) = pause(&polling) {
            let told = commands::tell_pause(connection, (agent, polling.epoch), (&name, paused), now)?;
            self.answers.commands.extend(told.map(|id| (agent, id)));
        }
        Ok(())
    }

    /// A person discards a frame that was kept though it could not be used.
    pub(super) fn discard(&mut self, frame: i64, actor: &str) -> rusqlite::Result<Result<(), Refused>> {
        let (connection, now) = (self.batch.connection, self.batch.now);
        let Some(agent) = parked::agent(connection, frame)? else {
            return Ok(Err(Refused::NoFrame(frame)));
        };
        parked::forget(connection, frame, self.memory.parked.entry(agent).or_default())?;
        let detail = format!("frame {frame}, which could not be used, by {actor}");
        rows::tell(connection, Removed::Quarantine, (None, 1), &detail, now)?;
        Ok(Ok(()))
    }

    /// A person says that a device is to be collected; one that was dropped comes back.
    pub(super) fn confirm(&mut self, device: DeviceNo, actor: &str) -> rusqlite::Result<Result<(), Refused>> {
        let (connection, now) = (self.batch.connection, self.batch.now);
        rows::confirm(connection, device.0, actor, now)?;
        if alerts::stopped(connection, device.0)? == Some(StopReason::NotConfirmed) {
            tracing::info!(device = names::of_device(connection, device.0)?, actor, "confirmed: asked again");
            // What was not collected meanwhile is not held against it.
            self.go_on(device.0, Some(now))?;
        }
        Ok(Ok(()))
    }
}
