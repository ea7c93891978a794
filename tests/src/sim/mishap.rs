//! Devices with a memory in a plan, what befalls them, and what persons do who look at the collector's data. All of it is
//! drawn from a stream of its own. Checks nothing.

use std::fmt::Write as _;

use gapless_collector::gaps::plan::Order as WindowOrder;
use gapless_collector::gaps::{Policies, Policy};
use gapless_collector::ingest::{Ask, Order, Wish};
use gapless_collector::jobs::queue::Why;
use gapless_collector::store::model::DeviceNo;
use gapless_simulators::campbell::clock::REAL_TIME_PPM;
use gapless_simulators::campbell::{Fault, FaultKind, LoggerConfig, TableConfig};

use super::logger::Setup;
use super::plan::{Mischief, Scale};
use super::rng::Rng;
use super::world::{Event, World};

/// One in so many agents has a logger.
const LOGGERS_ONE_IN: u64 = 3;
/// Fields of a table; another program has another last one.
const FIELDS: usize = 4;
/// Zones as they are configured, and what that is in ms.
const ZONES: [(&str, i64); 3] = [("+00:00", 0), ("-07:00", -25_200_000), ("+05:30", 19_800_000)];

/// What befalls devices with a memory in a run.
#[derive(Debug, Clone)]
pub struct Mishap {
    kinds: Vec<Mischief>,
    mean_ms: u64,
    longest_ms: u64,
    rng: Rng,
}

impl Mishap {
    /// Of a run that lasts `bad_ms`; none where there is no such device.
    #[must_use]
    pub fn draw(has_loggers: bool, bad_ms: u64, rng: &mut Rng) -> Self {
        let mut kinds: Vec<Mischief> =
            Mischief::OF_MEMORIES.into_iter().filter(|_| rng.per_mille(500)).collect();
        kinds.retain(|_| has_loggers);
        let mean_ms = bad_ms / rng.within(3, 12);
        Self { kinds, mean_ms, longest_ms: bad_ms * 2 / 3, rng: rng.fork(7) }
    }

    /// A while, mostly short beside the run, now and then most of it.
    fn a_while_ms(&mut self) -> u64 {
        match self.rng.below(4) {
            0 => self.rng.within(1_000, 60_000),
            1 => self.rng.within(self.longest_ms / 8, self.longest_ms),
            _ => self.rng.within(10_000, self.longest_ms / 8),
        }
    }
}

/// How the collector asks for what is missing: of devices of the class `hasty` soon again, so that an hour holds the whole
/// life of a gap, in short windows, and the oldest first; of its own sources (`remote`) somewhat later, the newest first.
#[must_use]
pub fn policies() -> Policies {
    let hasty =
        Policy { waits_ms: vec![0, 60_000, 300_000], window_ms: 600_000, order: WindowOrder::OldestFirst };
    let remote = Policy {
        waits_ms: vec![0, 120_000, 900_000, 3_600_000],
        window_ms: 1_800_000,
        order: WindowOrder::NewestFirst,
    };
    let of_class = [("hasty", hasty), ("remote", remote)].map(|(class, policy)| (class.to_owned(), policy));
    Policies { usual: Policy::default(), of_class: of_class.into() }
}

/// Adds the loggers of an agent to its configuration, and gives what they are like.
pub fn draw_loggers(no: usize, scale: Scale, toml: &mut String, rng: &mut Rng) -> Vec<Setup> {
    if rng.one_in(LOGGERS_ONE_IN) { vec![draw_logger(no, scale, toml, rng)] } else { Vec::new() }
}

fn draw_logger(no: usize, scale: Scale, toml: &mut String, rng: &mut Rng) -> Setup {
    let timeout_ms = rng.pick(&[500, 2_000, 10_000]);
    let _ = write!(
        toml,
        "[[bus]]\nid = \"logger\"\ncampbell = {{ url = \"http://logger{no}\" }}\ntimeout = \"{timeout_ms}ms\"\n"
    );
    let (zone, zone_ms) = *rng.pick(&ZONES);
    let names: &[&str] = if rng.one_in(3) { &["Met", "Diag"] } else { &["Met"] };
    let tables = names.iter().map(|name| draw_table(no, (name, zone), scale, toml, rng)).collect();
    let device = LoggerConfig {
        tables,
        zone_ms,
        speed_ppm: REAL_TIME_PPM + rng.within(0, 100).cast_signed() - 50,
        history_ms: rng.within(0, 7_200_000).cast_signed(),
        records_max: usize::try_from(rng.within(5, 200)).expect("small"),
        since_record_inclusive: rng.one_in(2),
        seed: rng.draw() >> 32,
        ..LoggerConfig::default()
    };
    Setup { device, latency_ms: rng.within(2, 200) }
}

fn draw_table(
    no: usize,
    (name, zone): (&str, &str),
    scale: Scale,
    toml: &mut String,
    rng: &mut Rng,
) -> TableConfig {
    let (intervals_ms, capacity) = match scale {
        Scale::Hours => (&[10_000, 30_000, 60_000], rng.within(10, 200)),
        Scale::Weeks => (&[600_000, 600_000, 1_800_000], rng.within(20, 1_000)),
    };
    let (interval_ms, first) = (*rng.pick(intervals_ms), *rng.pick(&["0s", "5m", "1h", "24h"]));
    let channels = if rng.one_in(2) { "\"all\"" } else { "[\"WS_ms_Avg\", \"WindDir_D1_WVT\"]" };
    let class = if rng.one_in(2) { "attributes = { class = \"hasty\" }\n" } else { "" };
    let _ = write!(
        toml,
        "[[bus.device]]\nid = \"{}{no}\"\ntable = \"{name}\"\ninterval = \"{interval_ms}ms\"\nzone = \"{zone}\"\n\
         first = \"{first}\"\nchannels = {channels}\n{class}",
        name.to_lowercase()
    );
    TableConfig { name: name.to_owned(), interval_ms, capacity, fields: FIELDS }
}

impl World {
    /// Sets when the first one is.
    pub(super) fn begin_mishaps(&mut self) {
        if !self.mishap.kinds.is_empty() {
            let first_ms = self.mishap.rng.wait_ms(self.mishap.mean_ms);
            self.push(first_ms, Event::Mishap);
        }
    }

    pub(super) fn mishap(&mut self) {
        if self.is_good || self.now_ms >= self.plan.bad_ms {
            return;
        }
        let next_ms = self.now_ms + self.mishap.rng.wait_ms(self.mishap.mean_ms);
        self.push(next_ms, Event::Mishap);
        let kind = *self.mishap.rng.pick(&self.mishap.kinds);
        let all = self.gateways.iter().enumerate();
        let all = all.flat_map(|(no, gateway)| (0..gateway.loggers.len()).map(move |logger| (no, logger)));
        let (no, logger) = *self.mishap.rng.pick(&all.collect::<Vec<_>>());
        tracing::info!(at_ms = self.now_ms, ?kind, gateway = no, logger, "strikes");
        self.sometimes.strike(kind);
        if kind == Mischief::Person { self.be_asked() } else { self.befall(kind, no, logger) }
    }

    fn befall(&mut self, kind: Mischief, no: usize, logger: usize) {
        let now_ms = self.now_ms;
        let while_ms = self.mishap.a_while_ms();
        let rng = &mut self.mishap.rng;
        let struck = &mut self.gateways[no].loggers[logger];
        match kind {
            Mischief::LoggerAway => struck.go_away(now_ms + while_ms, rng.one_in(2)),
            // What has no power is set by nobody.
            _ if struck.is_off() => {}
            Mischief::LoggerOff => {
                struck.switch_off(now_ms);
                self.push(now_ms + while_ms, Event::SwitchOn(no, logger));
            }
            Mischief::LoggerClock => {
                let most_ms = *rng.pick(&[1_000, 60_000, 600_000]);
                let by_ms = rng.within(0, 2 * most_ms).cast_signed() - most_ms.cast_signed();
                self.oracle.recall.note_clock(no, logger);
                struck.step_clock(by_ms, now_ms);
            }
            Mischief::LoggerProgram => struck.change_program(now_ms),
            _ => {
                let kinds = [
                    FaultKind::Slow { ms: rng.within(100, 12_000) },
                    FaultKind::Silent,
                    FaultKind::ErrorBody,
                    FaultKind::Html,
                    FaultKind::CutOff,
                    FaultKind::Truncated,
                ];
                let times = u32::try_from(rng.within(1, 12)).expect("few");
                struck.add_fault(Fault::new(*rng.pick(&kinds)).times(times));
            }
        }
    }

    /// A person asks something of the collector.
    fn be_asked(&mut self) {
        let now = self.center.now(self.now_ms);
        let Some(committer) = self.center.committer.as_mut() else { return };
        let rng = &mut self.mishap.rng;
        let mut one_of = |sql: &str| {
            let mut statement = committer.connection().prepare_cached(sql).expect("the database reads");
            let ids = statement.query_map([], |r| r.get::<_, i64>(0)).expect("the database reads");
            let ids: Vec<i64> = ids.collect::<Result<_, _>>().expect("the database reads");
            (!ids.is_empty()).then(|| *rng.pick(&ids))
        };
        let gap = one_of("SELECT id FROM gaps WHERE state IN (1, 4, 5) ORDER BY id");
        let device = one_of("SELECT id FROM devices ORDER BY id");
        let wish = *rng.pick(&[Wish::Retry, Wish::Reopen]);
        let why = *rng.pick(&[Why::Viewed, Why::Asked]);
        if let Some(gap) = gap.filter(|_| rng.one_in(2)) {
            let order = Order { gap, wish, actor: "token ada".to_owned() };
            // What cannot be done is refused, which changes nothing.
            let _ = committer.carry_out(&order, now);
        } else if let Some(device) = device {
            let ask = Ask::of(DeviceNo(device), why);
            let told = committer.refresh(&[ask], now).map(|(_, told)| told);
            let told = self.center.unless_full(told);
            let told = self.center.published(told);
            self.tell_agents(told);
        }
    }
}
