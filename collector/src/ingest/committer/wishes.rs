//! What API and page ask for, carried out in a transaction of its own each.

use gapless_common::time::Timestamp;

use super::Committer;
use crate::ingest::orders::{Act, Ask};
use crate::ingest::{Order, Outbound, Refused, Viewing, errands};
use crate::live::{self, Granted};
use crate::store::leases;
use crate::store::model::PendingJob;

/// The job of each ask, and what agents are told.
pub type Refreshed = (Vec<Result<Option<PendingJob>, Refused>>, Vec<Outbound>);

/// The lease that a viewer was granted, and what agents are told.
pub type Watched = (Option<Granted>, Vec<Outbound>);

impl Committer {
    /// Makes jobs of what is asked for, and begins those that are due. Returns the job of each, where there is need of one,
    /// and what agents are told. Where all of it is under way already there is no commit.
    ///
    /// # Errors
    /// The database failed: nothing has changed.
    pub fn refresh(&mut self, asks: &[Ask], now: Timestamp) -> rusqlite::Result<Refreshed> {
        let queue = self.memory.as_ref().map(|memory| &memory.jobs);
        let mut same = Some(Vec::new());
        for ask in asks {
            let is_noted = errands::is_noted(&self.connection, ask)?;
            let job = queue.filter(|_| is_noted).and_then(|queue| errands::same(queue, ask, now));
            same = same.zip(job).map(|(mut jobs, job)| {
                jobs.push(job);
                jobs
            });
        }
        if let Some(jobs) = same {
            return Ok((jobs.into_iter().map(|job| Ok(Some(job))).collect(), Vec::new()));
        }
        let mut answers = Vec::new();
        let told = self.uncounted(now, |apply| {
            answers = apply.refresh(asks)?;
            apply.look_after_jobs(&[])
        })?;
        Ok((answers, told))
    }

    /// Grants a viewer of a site its lease, or ends it: then, and where nobody watches, there is none. Returns what agents are
    /// told, too. Where the lease that stands is enough there is no transaction.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn watch(&mut self, watch: &Viewing, now: Timestamp) -> Result<Watched, Refused> {
        let failed = failed("a lease could not be written down");
        let site = leases::site(&self.connection, &watch.site).map_err(failed)?;
        let site = site.ok_or_else(|| Refused::NoSite(watch.site.clone()))?;
        let standing = leases::standing(&self.connection, site, now).map_err(failed)?;
        let granted = watch.minutes.map(|minutes| live::take(standing, minutes, now));
        let told = match granted {
            Some(granted) if !granted.is_new => return Ok((Some(granted), Vec::new())),
            None if standing.is_none() => return Ok((None, Vec::new())),
            Some(Granted { until, .. }) => self.uncounted(now, |apply| apply.watch(site, until)),
            None => self.uncounted(now, |apply| apply.unwatch(site)),
        };
        Ok((granted, told.map_err(failed)?))
    }

    /// Does what a person wishes about an alert or a device.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn act(&mut self, act: &Act, now: Timestamp) -> Result<Vec<Outbound>, Refused> {
        let mut answer = Ok(());
        let done = self.uncounted(now, |apply| apply.act(act).map(|done| answer = done));
        let told = done.map_err(failed("a wish could not be carried out"))?;
        answer.map(|()| told)
    }

    /// Does what a person wishes.
    ///
    /// # Errors
    /// [`Refused`]: nothing has changed.
    pub fn carry_out(&mut self, order: &Order, now: Timestamp) -> Result<(), Refused> {
        let mut answer = Ok(());
        // Where it is refused nothing was written but the number of the commit.
        let done = self.counted(now, |apply| apply.carry_out(order).map(|done| answer = done));
        done.map_err(failed("an order could not be carried out"))?;
        answer
    }
}

/// Says in the log why a person is answered that the database failed.
fn failed(what: &'static str) -> impl Fn(rusqlite::Error) -> Refused + Copy {
    move |error| {
        tracing::error!(%error, "{what}");
        Refused::Database
    }
}
