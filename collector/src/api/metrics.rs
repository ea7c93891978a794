//! What a monitoring system scrapes: names, units and help of every metric, by the conventions of Prometheus (base units,
//! `_total` for what only grows), as OpenMetrics 1.0 or, where the scraper takes nothing else, as text 0.0.4. The rules of
//! `collector/deploy/prometheus-rules.yml` are about these names. How they are written is `exposition`'s business.
//!
//! A scrape asks the database at most once, and what it was told serves all who ask at the same time and for [`GOOD_FOR`]
//! times as long as the question took: however many scrape however often, it costs a tenth of one core.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use gapless_common::time::Timestamp;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tokio::sync::Mutex;

use super::exposition::{Labels, Rows, Spread, Spreads, older_text};
use super::{ApiState, Problem, gap_state};
use crate::store::model::{AgentRow, DeviceRow, GapState, Link, Meters, ReceiverRow};

/// An answer is good for so many times as long as it took to find.
const GOOD_FOR: u32 = 10;
/// And for so long at least.
const GOOD_FOR_LEAST: Duration = Duration::from_secs(1);

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const OLDER_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// An answer, and until when it is good.
type Answer = (Instant, Arc<str>);

/// The last answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Scrapes(Arc<Mutex<Option<Answer>>>);

impl Scrapes {
    /// OpenMetrics, as of now or a moment ago.
    async fn text(&self, state: &ApiState) -> Result<Arc<str>, Problem> {
        // Whoever comes while another one asks waits for that answer.
        let mut last = self.0.lock().await;
        if let Some((good_until, text)) = &*last
            && Instant::now() < *good_until
        {
            return Ok(Arc::clone(text));
        }
        let (began, now) = (Instant::now(), (state.now)());
        let meters = state.ask(move |store| store.meters(now)).await?;
        let text: Arc<str> = written(state, &meters, now)?.into();
        let good_for = (began.elapsed() * GOOD_FOR).max(GOOD_FOR_LEAST);
        *last = Some((Instant::now() + good_for, Arc::clone(&text)));
        Ok(text)
    }
}

/// What a monitoring system scrapes: OpenMetrics 1.0, or text 0.0.4 where `Accept` names `text/plain` and no OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, content(
    (String = "application/openmetrics-text"), (String = "text/plain")))))]
pub(super) async fn metrics(
    State(state): State<ApiState>,
    Extension(scrapes): Extension<Scrapes>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let text = scrapes.text(&state).await?;
    Ok(if wants_older(&headers) {
        ([(header::CONTENT_TYPE, OLDER_TEXT)], older_text(&text)).into_response()
    } else {
        ([(header::CONTENT_TYPE, OPEN_METRICS)], text.to_string()).into_response()
    })
}

fn wants_older(headers: &HeaderMap) -> bool {
    let accepts = || headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let names = |media: &str| accepts().any(|accepted| accepted.contains(media));
    names("text/plain") && !names("application/openmetrics-text")
}

fn written(state: &ApiState, meters: &Meters, now: Timestamp) -> Result<String, Problem> {
    let mut registry = Registry::with_prefix("gapless");
    registry.register(
        "build",
        "Version of the collector",
        Info::new([("version", env!("CARGO_PKG_VERSION"))]),
    );
    collector(&mut registry, state, meters);
    gaps(&mut registry, meters);
    jobs(&mut registry, meters);
    alerts(&mut registry, meters);
    agents(&mut registry, &meters.agents, &meters.devices);
    devices(&mut registry, &meters.devices, now);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Problem::Store(e.into()))?;
    Ok(text)
}

#[expect(clippy::cast_precision_loss, reason = "counts and bytes far below 2^53")]
const fn level(n: u64) -> f64 {
    n as f64
}

/// A time in seconds.
#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 stay below 2^53 for 285,000 years")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

fn one(n: u64) -> Rows {
    Rows::Gauges(vec![(Labels::new(), level(n))])
}

fn collector(registry: &mut Registry, state: &ApiState, meters: &Meters) {
    let yes_or_no = |is: bool| one(u64::from(is));
    let commits = Rows::Counters(vec![(Labels::new(), meters.head.commit.0)]);
    registry.register("commits", "Commits of the database; it falls back with a restored backup", commits);
    registry.register("writing", "1 where the last commit worked", yes_or_no(state.health.writing()));
    registry.register("receiving", "1 where the broker is connected", yes_or_no(state.health.receiving()));
    registry.register("series", "Series, all revisions", one(meters.series));
    registry.register("parked_frames", "Frames kept but not usable", one(meters.parked));
    let parked = one(meters.parked_bytes);
    registry.register_with_unit("parked", "Size of the parked frames", Unit::Bytes, parked);
    let file = one(meters.file_bytes);
    registry.register_with_unit("database", "Size of the database file", Unit::Bytes, file);
}

fn gaps(registry: &mut Registry, meters: &Meters) {
    // Refusals of several kinds are one cause here.
    let mut by_words: BTreeMap<_, (u64, u64)> = BTreeMap::new();
    for count in &meters.gaps {
        let words = (gap_state(GapState::Missing(count.phase)), count.cause.slug());
        let here = by_words.entry(words).or_default();
        *here = (here.0 + count.gaps, here.1 + count.slots);
    }
    let rows = |of: fn(&(u64, u64)) -> u64| {
        let labels =
            |state: &str, cause: &str| vec![("state", state.to_owned()), ("cause", cause.to_owned())];
        let row = |((state, cause), counts): (&(&str, &str), &(u64, u64))| {
            (labels(state, cause), level(of(counts)))
        };
        Rows::Gauges(by_words.iter().map(row).collect())
    };
    registry.register("gaps", "Gaps that are not filled", rows(|(gaps, _)| *gaps));
    registry.register("gap_slots", "Slots within gaps that are not filled", rows(|(_, slots)| *slots));
    let events = meters.gap_events.iter().map(|(word, n)| (vec![("event", (*word).to_owned())], *n));
    let help = "What became of gaps: opened, requested, filled and so on, as in their histories";
    registry.register("gap_events", help, Rows::Counters(events.collect()));
    let retries = Rows::Counters(vec![(Labels::new(), meters.gap_retries)]);
    registry.register("gap_retries", "Times that a source was asked again for a gap", retries);
}

fn jobs(registry: &mut Registry, meters: &Meters) {
    let states = meters.jobs.iter().map(|(word, n)| (vec![("state", (*word).to_owned())], level(*n)));
    let help = "Jobs that refresh devices: queued, running, or waiting to be tried again after a failure";
    registry.register("jobs", help, Rows::Gauges(states.collect()));
    let failed = meters.job_times.iter().filter(|times| ["failed", "expired"].contains(&times.outcome));
    let retries = Rows::Counters(vec![(Labels::new(), failed.map(|times| times.jobs).sum())]);
    registry.register(
        "job_retries",
        "Times that a job failed or had no answer, and was queued again",
        retries,
    );
    let spread = |times: &crate::store::model::JobTimes| Spread {
        buckets: times.by_duration.iter().map(|(ms, jobs)| (seconds(*ms), *jobs)).collect(),
        count: times.jobs,
        sum: seconds(i64::try_from(times.ms).unwrap_or(i64::MAX)),
    };
    let rows =
        meters.job_times.iter().map(|times| (vec![("outcome", times.outcome.to_owned())], spread(times)));
    let help = "How long the work of jobs took, by how it ended";
    registry.register_with_unit("job_duration", help, Unit::Seconds, Spreads(rows.collect()));
}

fn alerts(registry: &mut Registry, meters: &Meters) {
    let open = meters.alerts.iter().map(|(word, n)| (vec![("kind", (*word).to_owned())], level(*n)));
    registry.register("alerts", "Alerts that are not over", Rows::Gauges(open.collect()));
    let there = || meters.receivers.iter().filter(|receiver| receiver.gone_at.is_none());
    let gauges = |of: fn(&ReceiverRow) -> u64| {
        Rows::Gauges(there().map(|row| (vec![("receiver", row.name.clone())], level(of(row)))).collect())
    };
    registry.register(
        "receiver_owed",
        "Alerts that the receiver has not been told of yet",
        gauges(|row| row.owed),
    );
    let help = "Tries in a row that failed of the message under way";
    registry.register("receiver_failures", help, gauges(|row| u64::from(row.failures)));
    let aside = there().map(|row| (vec![("receiver", row.name.clone())], row.set_aside)).collect();
    let help = "Messages that the receiver did not want, time and again";
    registry.register("receiver_set_aside", help, Rows::Counters(aside));
}

fn agents(registry: &mut Registry, agents: &[AgentRow], devices: &[DeviceRow]) {
    let labels =
        |agent: &AgentRow| vec![("site", agent.site.to_string()), ("agent", agent.agent.to_string())];
    type Column<T> = (&'static str, Option<Unit>, &'static str, fn(&AgentRow) -> T);
    let counters: [Column<u64>; 8] = [
        ("agent_frames", None, "Frames taken", |a| a.counters.frames),
        ("agent_readings", None, "Readings stored", |a| a.counters.readings),
        ("agent_duplicates", None, "Records or readings that were there already", |a| a.counters.duplicates),
        ("agent_conflicts", None, "Readings that contradicted a stored one", |a| a.counters.conflicts),
        ("agent_damaged_frames", None, "Frames with a wrong checksum", |a| a.counters.damaged),
        (
            "agent_refused_frames",
            None,
            "Messages refused: what cannot be, or more than is kept of an agent",
            |a| a.counters.refused,
        ),
        ("agent_received", Some(Unit::Bytes), "On the link from the agent, headers estimated", |a| {
            a.counters.received_bytes
        }),
        ("agent_sent", Some(Unit::Bytes), "On the link to the agent, headers estimated", |a| {
            a.counters.sent_bytes
        }),
    ];
    for (name, unit, help, value) in counters {
        let rows = Rows::Counters(agents.iter().map(|agent| (labels(agent), value(agent))).collect());
        put(registry, name, unit, help, rows);
    }
    // A row is missing where its value is not known: what an agent said before it left says nothing of now.
    let gauges: [Column<Option<f64>>; 8] = [
        ("agent_connected", None, "1 where the agent is connected", |a| {
            Some(level(u64::from(a.link == Link::Connected)))
        }),
        ("agent_durable", None, "0 where the agent's disk fails and what it polls is only in memory", |a| {
            a.durable.filter(|_| a.link == Link::Connected).map(|is| level(u64::from(is)))
        }),
        (
            "agent_clock_offset",
            Some(Unit::Seconds),
            "How far the agent's clock is ahead of the collector's",
            |a| a.clock_off_ms.map(seconds),
        ),
        ("agent_outbox_fill_ratio", None, "What of the agent's outbox is not delivered", |a| {
            a.outbox.map(|fill| level(fill.percent()) / 100.0)
        }),
        ("agent_clock_set", None, "1 where the agent's clock is set", |a| {
            a.clock_set.filter(|_| a.link == Link::Connected).map(|is| level(u64::from(is)))
        }),
        (
            "agent_cloned_timestamp",
            Some(Unit::Seconds),
            "When two live outboxes were seen under the agent's name last; 0 where they never were",
            |a| Some(a.cloned_at.map_or(0.0, |at| seconds(at.0))),
        ),
        ("agent_missing_records", None, "Records known to exist that have not arrived", |a| {
            Some(level(a.missing_records))
        }),
        ("agent_last_heard_timestamp", Some(Unit::Seconds), "When the agent was heard from last", |a| {
            a.last_heard_at.map(|at| seconds(at.0))
        }),
    ];
    for (name, unit, help, value) in gauges {
        let rows = agents.iter().filter_map(|agent| Some((labels(agent), value(agent)?)));
        put(registry, name, unit, help, Rows::Gauges(rows.collect()));
    }
    let mut due: BTreeMap<_, u64> = BTreeMap::new();
    for device in devices.iter().filter(|device| device.grid.is_some()) {
        *due.entry((&device.site, device.agent.as_ref())).or_default() += 1;
    }
    let devices = |agent: &AgentRow| due.get(&(&agent.site, Some(&agent.agent))).copied().unwrap_or_default();
    let rows = agents.iter().map(|agent| (labels(agent), level(devices(agent)))).collect();
    put(registry, "agent_devices", None, "Devices that are due of the agent", Rows::Gauges(rows));
}

/// Of devices that are due; one that no catalog names any more has no freshness.
fn devices(registry: &mut Registry, devices: &[DeviceRow], now: Timestamp) {
    let due: Vec<&DeviceRow> = devices.iter().filter(|device| device.grid.is_some()).collect();
    let rows = |value: &dyn Fn(&DeviceRow) -> Option<f64>| {
        let row = |device: &&DeviceRow| {
            let labels = vec![("site", device.site.to_string()), ("device", device.device.to_string())];
            Some((labels, value(device)?))
        };
        Rows::Gauges(due.iter().filter_map(row).collect())
    };
    let staleness = rows(&|d| Some(seconds(now.since_ms(d.last_reading_at?).max(0))));
    let help = "Age of the device's latest reading; none where nothing has come yet";
    put(registry, "staleness", Some(Unit::Seconds), help, staleness);
    let allowed = rows(&|d| Some(seconds(d.allowed_ms)));
    put(
        registry,
        "allowed_staleness",
        Some(Unit::Seconds),
        "How old the device's latest reading may be",
        allowed,
    );
    let open = rows(&|d| Some(level(d.open_gaps)));
    put(registry, "device_gaps", None, "Gaps of the device that are not filled", open);
}

fn put(registry: &mut Registry, name: &str, unit: Option<Unit>, help: &str, rows: Rows) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, rows),
        None => registry.register(name, help, rows),
    }
}
