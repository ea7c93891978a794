//! The queue: at most one job for each scope, however many ask.
//!
//! Contract: [`Queue::ask`] for whoever wants a scope refreshed; [`Queue::lease`] to take what is due, the most urgent
//! first, as far as the sources' budgets allow; [`Queue::ended`] with what came of it; [`Queue::expire`] now and then, for
//! workers that died. What [`Queue::take_changes`] names is written down with the transaction; a queue that was loaded
//! from there goes on where it was.

use std::collections::{BTreeMap, BTreeSet};

use gapless_common::time::Timestamp;

use super::budget::{Limits, Urgency, Used, Verdict};

/// First pause after a passing failure, in ms; doubled each time.
pub const BACK_OFF_FIRST_MS: i64 = 5_000;
/// Longest pause after a passing failure.
pub const BACK_OFF_MAX_MS: i64 = 300_000;

/// What is refreshed: a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope(pub i64);

/// Who is asked for it: an agent, or an account of a remote API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(pub i64);

/// Why a job was made; a later one in this list outweighs the ones before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// Its rhythm.
    Rhythm,
    /// The sweep found it stale.
    Stale,
    /// Somebody looked at it.
    Viewed,
    /// Something was written to it, or its configuration changed: what it has now must be seen.
    Confirm,
    /// A person wants it now.
    Asked,
}

/// A worker's right to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its number; never given twice.
    pub no: u64,
    /// When the work began.
    pub began: Timestamp,
    /// When the worker counts as dead.
    pub until: Timestamp,
}

/// One job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    /// Its number; never given twice.
    pub no: u64,
    /// What is refreshed.
    pub scope: Scope,
    /// Who is asked.
    pub source: Source,
    /// Why it was made.
    pub why: Why,
    /// When it was made.
    pub asked_at: Timestamp,
    /// Not before this instant.
    pub due: Timestamp,
    /// The time of the latest reading when it was made.
    pub fresh_at: Timestamp,
    /// The staleness that is allowed.
    pub allowed_ms: i64,
    /// Passing failures in a row.
    pub failures: u32,
    /// The worker that has it.
    pub lease: Option<Lease>,
}

impl Job {
    /// How urgent it is: staleness ÷ allowed staleness.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio of durations")]
    pub fn score(&self, now: Timestamp) -> f64 {
        now.since_ms(self.fresh_at).max(0) as f64 / self.allowed_ms.max(1) as f64
    }

    /// The same beside what is asked otherwise.
    #[must_use]
    pub fn urgency(&self, now: Timestamp) -> Urgency {
        if self.why == Why::Asked { Urgency::Asked } else { Urgency::Score(self.score(now)) }
    }
}

/// A wish to have a scope refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// What.
    pub scope: Scope,
    /// Who is to be asked.
    pub source: Source,
    /// Why.
    pub why: Why,
    /// Not before this instant.
    pub due: Timestamp,
    /// The time of its latest reading.
    pub fresh_at: Timestamp,
    /// The staleness that is allowed.
    pub allowed_ms: i64,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The source was read.
    Done,
    /// The source could not be read; it is tried again.
    Failed,
    /// It will not get better by trying.
    Refused,
}

/// See the module's text.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    jobs: BTreeMap<Scope, Job>,
    /// Those that nobody has, by due time.
    waiting: BTreeSet<(Timestamp, Scope)>,
    /// Those that somebody has, by the end of the lease.
    leased: BTreeSet<(Timestamp, Scope)>,
    limits: BTreeMap<Source, Limits>,
    used: BTreeMap<Source, Used>,
    last_no: u64,
    changed: BTreeSet<Scope>,
}

/// Calls under way at once to a source that says nothing else.
const AT_ONCE_MAX: u32 = 4;

impl Queue {
    /// As it was written down.
    #[must_use]
    pub fn load(jobs: Vec<Job>, last_no: u64) -> Self {
        let mut queue = Self { last_no, ..Self::default() };
        for job in jobs {
            if let Some(lease) = job.lease {
                let limits = queue.limits_of(job.source);
                queue.used.entry(job.source).or_default().began(&limits, lease.began);
            }
            queue.put(job);
        }
        queue.changed.clear();
        queue
    }

    /// What a source allows.
    pub fn limit(&mut self, source: Source, limits: Limits) {
        self.limits.insert(source, limits);
    }

    fn limits_of(&self, source: Source) -> Limits {
        self.limits.get(&source).cloned().unwrap_or(Limits::at_once(AT_ONCE_MAX))
    }

    /// Scopes whose rows are to be written, or taken away where they are gone; and the last number given.
    pub fn take_changes(&mut self) -> (BTreeSet<Scope>, u64) {
        (std::mem::take(&mut self.changed), self.last_no)
    }

    /// The job of a scope.
    #[must_use]
    pub fn get(&self, scope: Scope) -> Option<&Job> {
        self.jobs.get(&scope)
    }

    /// Whether a lease is over, or a job is due whose source `can` be asked.
    pub fn has_work(&self, now: Timestamp, can: impl Fn(Source) -> bool) -> bool {
        let mut due = self.waiting.range(..=(now, Scope(i64::MAX)));
        self.leased.first().is_some_and(|(until, _)| *until <= now)
            || due.any(|(_, scope)| self.jobs.get(scope).is_some_and(|job| can(job.source)))
    }

    /// Whether this wish changes anything.
    #[must_use]
    pub fn is_news(&self, wish: &Wish) -> bool {
        self.jobs.get(&wish.scope).is_none_or(|job| {
            let sooner = wish.due < job.due && (job.failures == 0 || wish.why == Why::Asked);
            job.lease.is_none() && (sooner || wish.why > job.why)
        })
    }

    /// How many jobs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// When to look again: the next due time or end of a lease.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        let first = |set: &BTreeSet<(Timestamp, Scope)>| set.first().map(|(at, _)| *at);
        first(&self.waiting).into_iter().chain(first(&self.leased)).min()
    }

    /// Has a scope refreshed. Where there is a job already that is it, made due earlier or for a better reason where need
    /// be; what failed before waits out its pause, unless a person asks. Returns the job.
    pub fn ask(&mut self, wish: &Wish) -> Job {
        if let Some(there) = self.jobs.get(&wish.scope).copied() {
            let waits_out = there.failures > 0 && wish.why != Why::Asked;
            let due = if waits_out { there.due } else { there.due.min(wish.due) };
            let why = there.why.max(wish.why);
            let fresh_at = there.fresh_at.max(wish.fresh_at);
            // Another agent may have the device by now.
            let source = wish.source;
            let job = Job { source, due, why, fresh_at, allowed_ms: wish.allowed_ms, ..there };
            if there.lease.is_none() && job != there {
                self.put(job);
                return job;
            }
            return there;
        }
        self.last_no += 1;
        let Wish { scope, source, why, due, fresh_at, allowed_ms } = *wish;
        let (no, asked_at) = (self.last_no, due);
        let job =
            Job { no, scope, source, why, asked_at, due, fresh_at, allowed_ms, failures: 0, lease: None };
        self.put(job);
        job
    }

    /// Takes at most `most` jobs that are due, the most urgent first, whose source `can` be asked now; each has to be ended
    /// within `life_ms`. What its source's budget does not allow is put off.
    pub fn lease(
        &mut self,
        now: Timestamp,
        most: usize,
        life_ms: impl Fn(Source) -> i64,
        can: impl Fn(Source) -> bool,
    ) -> Vec<Job> {
        let due = self.waiting.range(..=(now, Scope(i64::MAX)));
        let mut due: Vec<Job> = due.filter_map(|(_, scope)| self.jobs.get(scope).copied()).collect();
        due.retain(|job| can(job.source));
        let urgency = |job: &Job| (job.why == Why::Asked, job.score(now));
        due.sort_by(|a, b| {
            let ((a_first, a_score), (b_first, b_score)) = (urgency(a), urgency(b));
            let order = b_first.cmp(&a_first).then(b_score.total_cmp(&a_score));
            order.then_with(|| (a.due, a.scope).cmp(&(b.due, b.scope)))
        });
        let mut taken = Vec::new();
        for job in due {
            if taken.len() >= most {
                break;
            }
            let limits = self.limits_of(job.source);
            let used = self.used.entry(job.source).or_default();
            match used.may(&limits, job.urgency(now), now) {
                Verdict::Go => {
                    used.began(&limits, now);
                    self.last_no += 1;
                    let until = now.plus_ms(life_ms(job.source));
                    let lease = Lease { no: self.last_no, began: now, until };
                    let job = Job { lease: Some(lease), ..job };
                    self.put(job);
                    taken.push(job);
                }
                Verdict::Wait => {}
                Verdict::NotBefore(at) => self.put(Job { due: at.max(now.plus_ms(1)), ..job }),
            }
        }
        taken
    }

    /// A worker is through with a job. Returns the job as it was; `None` where the lease is not (any longer) its own:
    /// then nothing has changed. `next` is when its rhythm wants it again.
    pub fn ended(
        &mut self,
        scope: Scope,
        lease: u64,
        end: End,
        now: Timestamp,
        next: Option<Timestamp>,
    ) -> Option<Job> {
        let job = self.jobs.get(&scope).copied()?;
        job.lease.filter(|held| held.no == lease)?;
        self.used.entry(job.source).or_default().ended();
        match end {
            End::Failed => {
                let failures = job.failures.saturating_add(1);
                let doubled = BACK_OFF_FIRST_MS.saturating_mul(1 << (failures - 1).min(16));
                let due = now.plus_ms(doubled.min(BACK_OFF_MAX_MS));
                let why = job.why.min(Why::Confirm);
                self.put(Job { failures, due, why, lease: None, ..job });
            }
            End::Done | End::Refused => {
                self.remove(scope);
                if let Some(due) = next {
                    self.last_no += 1;
                    let fresh_at = if end == End::Done { now } else { job.fresh_at };
                    let (no, why) = (self.last_no, Why::Rhythm);
                    self.put(Job { no, why, asked_at: now, due, fresh_at, failures: 0, lease: None, ..job });
                }
            }
        }
        Some(job)
    }

    /// Ends the leases of workers that have not come back: as a failure that passes. Returns the jobs as they were.
    pub fn expire(&mut self, now: Timestamp) -> Vec<Job> {
        let over: Vec<Scope> =
            self.leased.range(..=(now, Scope(i64::MAX))).map(|(_, scope)| *scope).collect();
        let leases = over.into_iter().filter_map(|scope| Some((scope, self.jobs.get(&scope)?.lease?.no)));
        let leases: Vec<_> = leases.collect();
        leases.into_iter().filter_map(|(scope, no)| self.ended(scope, no, End::Failed, now, None)).collect()
    }

    /// Takes a job away whoever works on it: its device is not to be asked any more. What comes of it ends no job then.
    pub fn cancel(&mut self, scope: Scope) {
        self.remove(scope);
    }

    fn put(&mut self, job: Job) {
        self.remove(job.scope);
        match job.lease {
            Some(lease) => self.leased.insert((lease.until, job.scope)),
            None => self.waiting.insert((job.due, job.scope)),
        };
        self.changed.insert(job.scope);
        self.jobs.insert(job.scope, job);
    }

    fn remove(&mut self, scope: Scope) {
        if let Some(old) = self.jobs.remove(&scope) {
            match old.lease {
                Some(lease) => self.leased.remove(&(lease.until, scope)),
                None => self.waiting.remove(&(old.due, scope)),
            };
            self.changed.insert(scope);
        }
    }
}

#[cfg(test)]
mod tests;
