//! A folder as it is planned: how its logger writes, how the collector's source of it is described, and what befalls it, which strikes by
//! draws of its own. The folder itself is `folder`'s, what its logger does to it `scribe`'s.

use gapless_common::time::Timestamp;

use super::clock::{BEGAN_MS, signed};
use super::folder::{DEVICE, SITE};
use super::plan::{Mischief, Scale};
use super::rng::Rng;
use super::source::Sources;
use super::world::{Event, World};

const MINUTE_MS: i64 = 60_000;

/// A drop, as its description has it, and how its logger writes.
#[derive(Debug, Clone)]
pub struct Dropping {
    /// The distance of its rows.
    pub interval_ms: i64,
    /// How often it is looked.
    pub every_ms: i64,
    /// What is not there after so long is missing.
    pub lag_ms: i64,
    /// How far back the first look goes; as far as there is anything where it is not said.
    pub first_ms: Option<i64>,
    /// Whose policy its gaps go by.
    pub class: &'static str,
    /// The first row, and how long each takes to be written.
    pub(super) oldest: Timestamp,
    pub(super) delay_ms: u64,
    /// One line in so many is written in two parts.
    pub(super) halves_one_in: u64,
    /// One in so many has no value, and one in so many is no line; none where it is 0.
    pub(super) nan_one_in: u64,
    pub(super) spoilt_one_in: u64,
    /// Each line is as much longer, so that files are longer than one read.
    pub(super) note_bytes: usize,
    /// Until then the folder is not there at first, and whether it seems to be empty.
    pub(super) away: (u64, bool),
    /// What befalls it, how often, and for how long at most but for what it is longer for by itself.
    kinds: Vec<Mischief>,
    mean_ms: u64,
    longest_ms: u64,
    rng: Rng,
}

impl Dropping {
    pub(super) fn draw(scale: Scale, bad_ms: u64, rng: &mut Rng) -> Self {
        let minutes: &[i64] = if scale == Scale::Hours { &[1, 1, 2, 5] } else { &[30, 60] };
        let interval_ms = *rng.pick(minutes) * MINUTE_MS;
        let times = |rng: &mut Rng, first, last| signed(rng.within(first, last)) * interval_ms;
        let lag_ms = times(rng, 3, 10);
        let rarely = |rng: &mut Rng| if rng.one_in(2) { *rng.pick(&[5, 20]) } else { 0 };
        let away_ms = if rng.one_in(5) { rng.within(10_000, bad_ms / 3) } else { 0 };
        Self {
            interval_ms,
            every_ms: interval_ms,
            lag_ms,
            first_ms: rng.one_in(4).then(|| times(rng, 1, 60)),
            class: if scale == Scale::Hours { "remote" } else { "http" },
            oldest: Timestamp(BEGAN_MS).plus_ms(-times(rng, 5, 100)),
            delay_ms: rng.below(interval_ms.unsigned_abs() / 2),
            halves_one_in: *rng.pick(&[3, 10]),
            nan_one_in: rarely(rng),
            spoilt_one_in: rarely(rng),
            note_bytes: if rng.one_in(3) { 2_000 } else { 0 },
            away: (away_ms, rng.one_in(2)),
            kinds: Mischief::OF_DROPS.into_iter().filter(|_| rng.per_mille(500)).collect(),
            mean_ms: bad_ms / rng.within(4, 16),
            longest_ms: bad_ms / 4,
            rng: rng.fork(1),
        }
    }

    /// Its description.
    pub(super) fn text(&self) -> String {
        let Self { interval_ms, every_ms, lag_ms, class, .. } = self;
        let first = self.first_ms.map_or_else(String::new, |ms| format!("first = \"{ms}ms\"\n"));
        format!(
            "site = \"{SITE}\"\nname = \"drop\"\nclass = \"{class}\"\nlag = \"{lag_ms}ms\"\nevery = \"{every_ms}ms\"\n\
             every_least = \"{every_ms}ms\"\n{first}[drop]\nfolder = \"/share\"\nfiles = \"Met*.csv\"\n[rows]\nformat = \"csv\"\n\
             zone = \"+00:00\"\ntime = \"time\"\n[[device]]\nname = \"{DEVICE}\"\ninterval = \"{interval_ms}ms\"\n\
             [[device.channels]]\nname = \"wind_speed\"\nvalue = \"ws\"\nunit = \"m/s\"\nquantity = \"wind_speed\"\n\
             aggregation = \"mean\"\n"
        )
    }

    /// Until when what strikes now lasts: every other time for so long that what is due by then is missing, as a share that nobody mounts
    /// again is.
    fn until_ms(&mut self, now_ms: u64) -> u64 {
        let until_ms = now_ms + self.rng.within(10_000, self.longest_ms);
        let intervals_ms = self.rng.within(1, 6) * self.interval_ms.unsigned_abs();
        let lagging_ms = now_ms + self.lag_ms.unsigned_abs() + intervals_ms;
        if self.rng.one_in(2) { until_ms.max(lagging_ms) } else { until_ms }
    }
}

impl World {
    /// Sets when the first thing befalls the folder.
    pub(super) fn begin_folder(&mut self) {
        let dropping = self.sources.as_mut().and_then(|sources| sources.plan.dropping.as_mut());
        if let Some(dropping) = dropping.filter(|dropping| !dropping.kinds.is_empty()) {
            let first_ms = dropping.rng.wait_ms(dropping.mean_ms);
            self.push(first_ms, Event::Folder);
        }
    }

    /// The next thing that befalls it.
    pub(super) fn strike_folder(&mut self) {
        if self.is_good || self.now_ms >= self.plan.bad_ms {
            return;
        }
        let now_ms = self.now_ms;
        let Some(Sources { plan, ground, .. }) = &mut self.sources else { return };
        let Some(dropping) = &mut plan.dropping else { return };
        let next_ms = now_ms + dropping.rng.wait_ms(dropping.mean_ms);
        let kind = *dropping.rng.pick(&dropping.kinds);
        let until_ms = dropping.until_ms(now_ms);
        tracing::info!(at_ms = now_ms, until_ms, ?kind, "strikes");
        if let Some(folder) = &mut ground.state().folder {
            folder.befall(kind, (now_ms, until_ms), &mut dropping.rng);
        }
        self.push(next_ms, Event::Folder);
        self.sometimes.strike(kind);
    }
}
