//! Those who watch a site: they take a lease, take it again while they watch, and leave, with a word or without. Their agents are
//! told once, however many they are; send each poll at once while it lasts; and gather again once it is over.

use std::collections::{BTreeMap, BTreeSet};

use gapless_collector::ingest::Viewing;
use gapless_collector::live::Granted;
use gapless_collector::store::ReadStore as _;
use gapless_common::id::{DeviceIndex, SiteId};
use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::center::Center;
use super::clock::truth;
use super::plan::{Mischief, Scale};
use super::sometimes::Rare;
use super::world::{Event, World};

/// Longest lease that an agent takes, in ms, whatever its clock says.
const LEASE_MAX_MS: u64 = 3_600_000;
/// Whoever could not be granted a lease tries again after this time, in ms.
const AGAIN_MS: u64 = 10_000;
/// As many as look at once, where a crowd does.
const CROWD: u64 = 100;
/// For so many minutes all sites are watched once all is quiet.
const LAST_MINUTES: u32 = 2;
/// What an answer takes on its way to the collector, beside two intervals, in ms: the sync of an outbox, retries, the broker. Two
/// polls are further apart than one interval where the later one had to wait for its turn.
const ON_ITS_WAY_MS: i64 = 20_000;
/// An agent that has not answered is told again within this time, in ms.
const TOLD_AGAIN_MS: u64 = 70_000;
/// How often it is looked whether it has come, in ms.
const LOOK_MS: u64 = 10_000;
/// What a device remembers is here within this time after it was asked for, in ms.
const ANSWERED_MS: u64 = 300_000;
/// For how long it is counted what agents send once nobody watches, in ms.
const ECONOMY_MS: u64 = 120_000;
/// The end of a lease is waited for where it is so near, in ms, and, however far, in one of so many runs.
const SOON_MS: u64 = 600_000;
const WAITED_FOR_ONE_IN: u64 = 4;
/// Frames that may be on their way as a lease ends.
const FRAMES_LEFT: u64 = 3;

/// Somebody, or many at once, who watch a site.
#[derive(Debug, Clone)]
struct Viewer {
    site: SiteId,
    minutes: u32,
    count: u64,
    until_ms: u64,
    says_goodbye: bool,
}

/// Those who watch.
#[derive(Debug, Clone, Default)]
pub struct Viewers {
    watching: BTreeMap<u64, Viewer>,
    count: u64,
    /// When the last lease of each site is over for all that were told, in ms of the run: whatever was granted, and whatever
    /// their clocks say.
    over_ms: BTreeMap<SiteId, u64>,
    /// The same of leases that were granted while clocks may have been wrong.
    odd_over_ms: BTreeMap<SiteId, u64>,
    /// How many frames each agent has published.
    frames: BTreeMap<usize, u64>,
    /// When each agent was last told to read what a device remembers, in ms of the run.
    asked_ms: BTreeMap<usize, u64>,
}

impl Viewers {
    /// They go, without a word.
    pub(super) fn leave_all(&mut self) {
        self.watching.clear();
    }
}

impl World {
    /// Somebody, or a crowd, begins to watch a site.
    pub(super) fn begin_to_watch(&mut self, while_ms: u64) {
        let rng = &mut self.people.rng;
        let site = rng.pick(&self.gateways).path.site.clone();
        let viewer = Viewer {
            site,
            minutes: *rng.pick(&[1, 1, 2, 5, 5, 60]),
            count: *rng.pick(&[1, 1, 2, CROWD]),
            until_ms: self.now_ms + while_ms,
            says_goodbye: rng.one_in(2),
        };
        tracing::info!(at_ms = self.now_ms, ?viewer, "watches");
        self.viewers.count += 1;
        self.viewers.watching.insert(self.viewers.count, viewer);
        self.watch(self.viewers.count);
    }

    /// Whoever watches takes the lease again, or leaves.
    pub(super) fn watch(&mut self, no: u64) {
        let Some(viewer) = self.viewers.watching.get(&no).cloned() else { return };
        if self.now_ms >= viewer.until_ms {
            self.viewers.watching.remove(&no);
            if viewer.says_goodbye {
                self.leave(&viewer.site);
            }
            return;
        }
        let granted = (0..viewer.count).map_while(|_| self.take_lease(&viewer.site, viewer.minutes)).last();
        let now = self.center.now(self.now_ms);
        let waits_ms =
            granted.map_or(AGAIN_MS, |granted| granted.renew_at.since_ms(now).max(1).unsigned_abs());
        self.push(self.now_ms + waits_ms, Event::Watch(no));
    }

    /// One viewer takes the lease of a site; none where the collector does not run, or does not know it.
    fn take_lease(&mut self, site: &SiteId, minutes: u32) -> Option<Granted> {
        let now = self.center.now(self.now_ms);
        let viewing = Viewing { site: site.clone(), minutes: Some(minutes) };
        let (granted, told) = self.center.committer.as_mut()?.watch(&viewing, now).ok()?;
        let granted = granted?;
        let told = self.center.published(told);
        self.note_lease(site, granted, now);
        self.check_told(granted, &told);
        self.tell_agents(told);
        Some(granted)
    }

    /// A viewer leaves, and says so: nobody watches the site any more.
    fn leave(&mut self, site: &SiteId) {
        let now = self.center.now(self.now_ms);
        let viewing = Viewing { site: site.clone(), minutes: None };
        let left = self.center.committer.as_mut().and_then(|committer| committer.watch(&viewing, now).ok());
        if let Some((_, told)) = left.filter(|(_, told)| !told.is_empty()) {
            self.sometimes.reach(Rare::LeaseEnded);
            let told = self.center.published(told);
            self.tell_agents(told);
            self.note_goodbye(site);
        }
    }

    /// Once nothing is lost any more, whoever was told that nobody watches gathers again: of leases that the database knows, and
    /// whose end it took for one.
    fn note_goodbye(&mut self, site: &SiteId) {
        let viewers = &mut self.viewers;
        let is_odd = viewers.odd_over_ms.get(site).is_some_and(|over_ms| *over_ms > self.now_ms);
        if self.is_good && !is_odd && self.oracle.rolled_back.is_empty() {
            viewers.over_ms.insert(site.clone(), self.now_ms + TOLD_AGAIN_MS);
        }
    }

    fn note_lease(&mut self, site: &SiteId, granted: Granted, now: Timestamp) {
        let lasts_ms = granted.until.since_ms(now).max(0).unsigned_abs();
        // What an agent makes of an instant whose clock is off, or where the collector's is, is an hour at most.
        let is_odd = !self.is_good
            && (self.oracle.histories.iter().any(|history| history.has_odd_clock)
                || self.plan.has(Mischief::CenterClock));
        let over_ms = self.now_ms + lasts_ms + if is_odd { LEASE_MAX_MS } else { 0 };
        let viewers = &mut self.viewers;
        let known = [Some(&mut viewers.over_ms), is_odd.then_some(&mut viewers.odd_over_ms)];
        for known in known.into_iter().flatten() {
            let known = known.entry(site.clone()).or_default();
            *known = over_ms.max(*known);
        }
        self.sometimes.reach(if granted.is_new { Rare::Watched } else { Rare::LeaseShared });
    }

    /// Of a lease that stands nobody is told; of a new one each agent once, and of one alone.
    fn check_told(&mut self, granted: Granted, told: &[(String, Vec<u8>)]) {
        let mut topics: Vec<&String> = told.iter().map(|(topic, _)| topic).collect();
        topics.sort_unstable();
        let is_twice = topics.windows(2).any(|pair| pair[0] == pair[1]);
        if is_twice || !granted.is_new && !told.is_empty() {
            self.oracle.find("one command", format!("{granted:?}: agents are told at {topics:?}"));
        }
        let now = self.center.now(self.now_ms);
        if let Some(agent) = self.center.told_twice(now).expect("the database reads") {
            self.oracle.find("one command", format!("agent {agent} has two commands about leases"));
        }
    }

    /// An agent publishes a frame.
    pub(super) fn note_frame_sent(&mut self, no: usize) {
        *self.viewers.frames.entry(no).or_default() += 1;
    }

    /// An agent is to read what a device remembers: what that says goes out as it comes.
    pub(super) fn note_history_asked(&mut self, no: usize) {
        self.viewers.asked_ms.insert(no, self.now_ms);
    }

    /// Once all is quiet all sites are watched for a while: agents send each poll at once, and gather again after it.
    pub(super) fn watch_all(&mut self) {
        let gathers = |no: &usize| self.gateways[*no].config.uplink.flush_ms > 0;
        let gathering: Vec<usize> = (0..self.gateways.len()).filter(gathers).collect();
        if gathering.is_empty() || self.viewers.count == 0 || self.plan.scale == Scale::Weeks {
            return;
        }
        let sites: BTreeSet<SiteId> =
            gathering.iter().map(|no| self.gateways[*no].path.site.clone()).collect();
        let watched_ms = u64::from(LAST_MINUTES) * 60_000;
        let (told_ms, until_ms) = (self.now_ms + TOLD_AGAIN_MS, self.now_ms + watched_ms);
        while self.now_ms < until_ms && !self.oracle.has_found() {
            // More often than they need to: an earlier lease may end meanwhile.
            for site in &sites {
                self.take_lease(site, LAST_MINUTES);
            }
            self.run(self.now_ms + LOOK_MS);
            let is_told = self.now_ms > told_ms;
            gathering.iter().filter(|_| is_told).for_each(|no| self.check_live(*no));
        }
        if self.viewers.count.is_multiple_of(2) {
            sites.iter().for_each(|site| self.leave(site));
        }
        self.run(self.now_ms + watched_ms + LOOK_MS);
        self.wait_for_the_end_of_leases(&sites);
        let (began_ms, before) = (self.now_ms, self.viewers.frames.clone());
        self.run(began_ms + ECONOMY_MS);
        gathering.iter().for_each(|no| self.check_economy(*no, began_ms, &before));
    }

    /// What was granted before may last for up to two hours; in some runs that is waited for.
    fn wait_for_the_end_of_leases(&mut self, sites: &BTreeSet<SiteId>) {
        let over_ms = sites.iter().filter_map(|site| self.viewers.over_ms.get(site)).max();
        let over_ms = over_ms.map_or(self.now_ms, |over_ms| over_ms + LOOK_MS).max(self.now_ms);
        let is_waited_for = self.viewers.count % WAITED_FOR_ONE_IN == 1;
        if over_ms - self.now_ms > SOON_MS && is_waited_for {
            self.sometimes.reach(Rare::LongLeaseOver);
        }
        if over_ms - self.now_ms <= SOON_MS || is_waited_for {
            self.run(over_ms);
        }
    }

    /// What an agent polls is here at once.
    fn check_live(&mut self, no: usize) {
        let now = truth(self.now_ms);
        let Some(committer) = self.center.committer.as_ref() else { return };
        let gateway = &self.gateways[no];
        let polled = (0_u16..).map(DeviceIndex).zip(&self.oracle.devices[no]);
        let polled = polled
            .filter(|(index, _)| gateway.memory(*index).is_none() && !self.is_polled_no_more(no, *index));
        let late = polled.filter_map(|(_, known)| {
            let newest = newest(committer.connection(), &known.name, now).expect("the database reads")?;
            let age_ms = now.0 - newest;
            (age_ms > 2 * known.grid.interval.as_ms() + ON_ITS_WAY_MS)
                .then(|| format!("{}: {age_ms} ms", known.name))
        });
        if let Some(late) = late.into_iter().next() {
            let lease = committer.store().lease(&gateway.path.site, now).expect("the database reads");
            let what = format!("gateway {no} is watched, and the newest reading is old: {late}; {lease:?}");
            self.oracle.find("live", what);
        }
    }

    /// An agent that nobody watches gathers what it polls.
    fn check_economy(&mut self, no: usize, began_ms: u64, before: &BTreeMap<usize, u64>) {
        let gateway = &self.gateways[no];
        let flush_ms = gateway.config.uplink.flush_ms;
        let is_watched =
            self.viewers.over_ms.get(&gateway.path.site).is_some_and(|over_ms| *over_ms > began_ms);
        let is_asked = self.viewers.asked_ms.get(&no).is_some_and(|at_ms| at_ms + ANSWERED_MS > began_ms);
        if is_watched || is_asked {
            return;
        }
        let frames = self.viewers.frames.get(&no).unwrap_or(&0) - before.get(&no).unwrap_or(&0);
        if frames > 0 {
            self.sometimes.reach(Rare::GathersAgain);
        }
        if frames > ECONOMY_MS / flush_ms + FRAMES_LEFT {
            let what = format!("gateway {no} sent {frames} frames in {ECONOMY_MS} ms, though nobody watches");
            self.oracle.find("a lease ends", what);
        }
    }
}

impl Center {
    /// An agent that has two open commands about leases.
    fn told_twice(&self, now: Timestamp) -> rusqlite::Result<Option<i64>> {
        let Some(committer) = self.committer.as_ref() else { return Ok(None) };
        let sql = "SELECT agent FROM commands WHERE kind = 1 AND outcome IS NULL AND expires_at > ?1
            GROUP BY agent HAVING count(*) > 1";
        let mut statement = committer.connection().prepare_cached(sql)?;
        let row = statement.query_row([now.0], |r| r.get(0));
        row.optional()
    }
}

fn newest(database: &Connection, device: &str, now: Timestamp) -> rusqlite::Result<Option<i64>> {
    let sql =
        "SELECT max(r.ts) FROM series x JOIN devices d ON d.id = x.device JOIN readings r ON r.series = x.id
        WHERE d.name = ?1 AND r.ts <= ?2";
    database.prepare_cached(sql)?.query_row(params![device, now.0], |r| r.get(0))
}
