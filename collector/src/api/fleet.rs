//! What there is and how fresh it is: sites, agents, devices, series.

use std::collections::BTreeMap;

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use gapless_common::catalog::{Aggregation, PeriodLabel};
use gapless_common::id::{DeviceId, SiteId};
use gapless_common::reading::Value;
use gapless_common::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::jobs::Refresh;
use super::params::{self, Params};
use super::reply::{self, Page};
use super::{ApiState, Problem};
use crate::freshness::{State as Staleness, Verdict};
use crate::obstacle::Obstacle;
use crate::store::model::{AgentRow, DeviceRow, Link, SeriesRow, SiteRow, StopReason, Stopped};
use crate::store::{AHEAD_MAX_MS, ReadStore};

/// How old a device's data is, beside how old it may be.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Freshness {
    /// The verdict.
    pub state: FreshnessState,
    /// Time of the latest reading (RFC 3339).
    pub last_reading_at: Option<String>,
    /// Staleness ÷ allowed staleness: 1 or more is stale.
    pub score: Option<f64>,
    /// What stands in the way of newer data, as the device's source has said; absent where nothing does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// When its configuration changed (RFC 3339), where no reading has come under the new one yet: what is shown was read
    /// under the old one. Absent once one has come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unconfirmed_since: Option<String>,
    /// What is being done about it; absent where nothing is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,
}

/// What stands in the way of newer data.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Reason {
    /// `not_authorised` (the source has withdrawn its consent), `removed` (the source does not list the device any more): it is
    /// not asked any more; `unreachable` (the source cannot reach the device): it is asked seldom until it can.
    pub word: &'static str,
    /// Since when (RFC 3339).
    pub since: String,
    /// Why, in the source's words.
    pub detail: String,
}

impl Reason {
    fn of(attributes: &BTreeMap<String, String>) -> Option<Self> {
        let Obstacle { kind, since, why } = Obstacle::of(attributes)?;
        Some(Self { word: kind.word(), since: since.to_owned(), detail: why.to_owned() })
    }
}

/// The verdict of a [`Freshness`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FreshnessState {
    /// Within half of its allowed staleness.
    Fresh,
    /// Older than half of it.
    Ageing,
    /// Older than allowed.
    Stale,
    /// Nothing has come yet.
    Unknown,
    /// No slot is due of the device any more: no catalog names it, or its source is not to be asked (see `reason`).
    Retired,
}

impl Freshness {
    /// The freshness of a device at `now`.
    #[must_use]
    pub fn of(device: &DeviceRow, now: Timestamp) -> Self {
        let verdict = Verdict::of(device.last_reading_at, device.allowed_ms, AHEAD_MAX_MS, now);
        let state = match verdict.state {
            _ if device.grid.is_none() => FreshnessState::Retired,
            Staleness::Fresh => FreshnessState::Fresh,
            Staleness::Ageing => FreshnessState::Ageing,
            Staleness::Stale => FreshnessState::Stale,
            Staleness::Unknown => FreshnessState::Unknown,
        };
        Self {
            state,
            last_reading_at: device.last_reading_at.map(|t| t.to_string()),
            score: verdict.score.filter(|_| device.grid.is_some()),
            reason: Reason::of(&device.attributes),
            unconfirmed_since: device.changed_at.map(|t| t.to_string()),
            refresh: device.job.as_ref().map(Refresh::of),
        }
    }
}

/// One site.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Site {
    /// Its name.
    site: String,
    /// Number of agents.
    agents: u64,
    /// Number of devices.
    devices: u64,
    /// Gaps that are open.
    open_gaps: u64,
    /// When any of its agents was heard from last.
    last_heard_at: Option<String>,
}

impl From<SiteRow> for Site {
    fn from(row: SiteRow) -> Self {
        Self {
            site: row.site.to_string(),
            agents: row.agents,
            devices: row.devices,
            open_gaps: row.open_gaps,
            last_heard_at: row.last_heard_at.map(|t| t.to_string()),
        }
    }
}

/// One agent.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Agent {
    /// Its site.
    site: String,
    /// Its name there.
    agent: String,
    /// `connected`, `stopped` (said goodbye) or `gone`.
    link: &'static str,
    /// Version of the program.
    version: Option<String>,
    /// When anything of it came last.
    last_heard_at: Option<String>,
    /// Milliseconds between its frames, 0 where each poll is sent at once.
    flush_ms: u32,
    /// Whether what it polls is durable on the gateway, as it said last.
    durable: Option<bool>,
    /// Whether its clock is set.
    clock_set: Option<bool>,
    /// How far its clock is ahead of the collector's (negative: behind), in ms, where it has said.
    clock_off_ms: Option<i64>,
    /// How much of its outbox it could not deliver, in percent of the most before it has to drop, where it has said.
    outbox_percent: Option<u64>,
    /// When two live agents were seen under this name; a person must look.
    cloned_at: Option<String>,
    /// Records known to exist that have not arrived.
    missing_records: u64,
    /// Frames taken.
    frames: u64,
    /// Readings stored.
    readings: u64,
    /// Readings that were there already.
    duplicates: u64,
    /// Readings that contradicted a stored one.
    conflicts: u64,
    /// Frames with a wrong checksum.
    damaged_frames: u64,
    /// Messages refused, not acknowledged: what cannot be, or more than is kept of one agent.
    refused_frames: u64,
    /// Bytes on the link from the agent, MQTT, TCP and IP headers estimated.
    received_bytes: u64,
    /// The same, to the agent.
    sent_bytes: u64,
}

/// The word for how an agent's connection stands.
pub(crate) const fn link_word(link: Link) -> &'static str {
    match link {
        Link::Connected => "connected",
        Link::Stopped => "stopped",
        Link::Gone => "gone",
    }
}

impl From<AgentRow> for Agent {
    fn from(row: AgentRow) -> Self {
        Self {
            site: row.site.to_string(),
            agent: row.agent.to_string(),
            link: link_word(row.link),
            version: row.version,
            last_heard_at: row.last_heard_at.map(|t| t.to_string()),
            flush_ms: row.flush_ms,
            durable: row.durable,
            clock_set: row.clock_set,
            clock_off_ms: row.clock_off_ms,
            outbox_percent: row.outbox.map(|fill| fill.percent()),
            cloned_at: row.cloned_at.map(|t| t.to_string()),
            missing_records: row.missing_records,
            frames: row.counters.frames,
            readings: row.counters.readings,
            duplicates: row.counters.duplicates,
            conflicts: row.counters.conflicts,
            damaged_frames: row.counters.damaged,
            refused_frames: row.counters.refused,
            received_bytes: row.counters.received_bytes,
            sent_bytes: row.counters.sent_bytes,
        }
    }
}

/// One device.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Device {
    /// Its site.
    site: String,
    /// Its name there.
    device: String,
    /// The agent that carries it.
    agent: Option<String>,
    /// Milliseconds between its slots.
    interval_ms: Option<i64>,
    /// Milliseconds that its slots are shifted by.
    phase_ms: Option<u32>,
    /// Make, model, serial number and the like.
    attributes: BTreeMap<String, String>,
    /// How old its data is.
    freshness: Freshness,
    /// Everything due up to this instant is accounted for.
    proven_until: Option<String>,
    /// Gaps that are open.
    open_gaps: u64,
    /// Whether its source is asked.
    collection: Collection,
    /// When somebody said that it is to be collected; absent where nobody has.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed_at: Option<String>,
    /// Who: `collector`, where announcing it is enough, or `token NAME`.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed_by: Option<String>,
}

/// Whether a device's source is asked, and why not.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Collection {
    /// `active`, `suspended` (nothing came of it since it was commissioned), `agreement_ended` or `not_confirmed`.
    state: &'static str,
    /// Since when it is not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    /// Why, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The word for why a device is not asked.
pub(crate) const fn stop_word(reason: StopReason) -> &'static str {
    match reason {
        StopReason::Suspended => "suspended",
        StopReason::AgreementEnded => "agreement_ended",
        StopReason::NotConfirmed => "not_confirmed",
    }
}

impl From<Option<Stopped>> for Collection {
    fn from(stopped: Option<Stopped>) -> Self {
        match stopped {
            None => Self { state: "active", since: None, why: None },
            Some(stopped) => Self {
                state: stop_word(stopped.reason),
                since: Some(stopped.since.to_string()),
                why: Some(stopped.why),
            },
        }
    }
}

impl Device {
    pub(super) fn new(row: DeviceRow, now: Timestamp) -> Self {
        let freshness = Freshness::of(&row, now);
        let (confirmed_at, confirmed_by) = row.confirmed.unzip();
        Self {
            freshness,
            site: row.site.to_string(),
            device: row.device.to_string(),
            agent: row.agent.map(|a| a.to_string()),
            interval_ms: row.grid.map(|g| g.interval.as_ms()),
            phase_ms: row.grid.map(|g| g.phase_ms),
            attributes: row.attributes,
            proven_until: row.proven_until.map(|t| t.to_string()),
            open_gaps: row.open_gaps,
            collection: row.stopped.into(),
            confirmed_at: confirmed_at.map(|at| at.to_string()),
            confirmed_by,
        }
    }
}

/// One revision of a series.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Series {
    /// `site/device/channel`.
    series: String,
    /// 1 for the first; a changed unit or quantity opens the next.
    revision: u32,
    /// Unit symbol.
    unit: String,
    /// What is measured.
    quantity: String,
    /// How the number comes about.
    aggregation: &'static str,
    /// Which end of a period the timestamp names: `start` or `end`.
    label: &'static str,
    /// Height, orientation and the like.
    attributes: BTreeMap<String, String>,
}

/// The word for an aggregation.
const fn aggregation_word(aggregation: Aggregation) -> &'static str {
    match aggregation {
        Aggregation::Instant => "instant",
        Aggregation::Mean => "mean",
        Aggregation::Minimum => "minimum",
        Aggregation::Maximum => "maximum",
        Aggregation::StandardDeviation => "standard_deviation",
        Aggregation::Counter => "counter",
        Aggregation::Sum => "sum",
        Aggregation::CircularMean => "circular_mean",
    }
}

/// The path of a series.
pub(crate) fn path(row: &SeriesRow) -> String {
    format!("{}/{}/{}", row.site, row.device, row.channel)
}

impl From<SeriesRow> for Series {
    fn from(row: SeriesRow) -> Self {
        Self {
            series: path(&row),
            revision: row.revision,
            unit: row.unit,
            quantity: row.quantity,
            aggregation: aggregation_word(row.aggregation),
            label: match row.label {
                PeriodLabel::Start => "start",
                PeriodLabel::End => "end",
            },
            attributes: row.attributes,
        }
    }
}

/// A stored value in JSON: a number, a text, or null where the quality has none.
pub(super) fn json_value(value: Option<&Value>) -> serde_json::Value {
    match value {
        Some(Value::Number(number)) => (*number).into(),
        Some(Value::Text(text)) => text.as_ref().into(),
        None => serde_json::Value::Null,
    }
}

/// Which sites and devices.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Where {
    /// Only of this site.
    site: Option<String>,
    /// Only of this device.
    device: Option<String>,
}

impl Where {
    fn parse(&self) -> Result<(Option<SiteId>, Option<DeviceId>), Problem> {
        Ok((params::site(self.site.as_deref())?, params::device(self.device.as_deref())?))
    }
}

/// Which site.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct At {
    /// Only of this site.
    site: Option<String>,
}

/// Every site.
#[utoipa::path(get, path = "/api/v1/sites", tag = "fleet", responses((status = 200, body = Page<Site>)))]
pub(super) async fn sites(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, Problem> {
    let rows = state.ask(|store| store.sites()).await?;
    reply::json(&headers, &Page::whole(rows.into_iter().map(Site::from).collect()))
}

/// Every agent, with what came of its frames.
#[utoipa::path(get, path = "/api/v1/agents", tag = "fleet", params(At),
    responses((status = 200, body = Page<Agent>), (status = 404, body = super::problem::ProblemBody)))]
pub(super) async fn agents(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(at): Params<At>,
) -> Result<Response, Problem> {
    let site = params::site(at.site.as_deref())?;
    is_there(&state, site.as_ref(), None).await?;
    let rows = state.ask(move |store| store.agents(site.as_ref())).await?;
    reply::json(&headers, &Page::whole(rows.into_iter().map(Agent::from).collect()))
}

/// Every device, with its freshness.
#[utoipa::path(get, path = "/api/v1/devices", tag = "fleet", params(Where),
    responses((status = 200, body = Page<Device>), (status = 404, body = super::problem::ProblemBody)))]
pub(super) async fn devices(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(filter): Params<Where>,
) -> Result<Response, Problem> {
    let (site, device) = filter.parse()?;
    is_there(&state, site.as_ref(), device.as_ref()).await?;
    let now = (state.now)();
    let rows = state.ask(move |store| store.devices(site.as_ref(), now)).await?;
    let wanted = rows.into_iter().filter(|row| device.as_ref().is_none_or(|d| *d == row.device));
    let wanted: Vec<_> = wanted.collect();
    state.orders.looked(wanted.iter(), now);
    reply::json(&headers, &Page::whole(wanted.into_iter().map(|row| Device::new(row, now)).collect()))
}

/// One device.
#[utoipa::path(get, path = "/api/v1/devices/{site}/{device}", tag = "fleet",
    params(("site" = String, Path, description = "Site"), ("device" = String, Path, description = "Device")),
    responses((status = 200, body = Device), (status = 404, body = super::problem::ProblemBody)))]
pub(super) async fn device(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path((site, device)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let now = (state.now)();
    let row = find_device(&state, &site, &device, now).await?;
    state.orders.looked(std::iter::once(&row), now);
    reply::json(&headers, &Device::new(row, now))
}

/// The device of that name, or the problem that there is none.
pub(crate) async fn find_device(
    state: &ApiState,
    site: &str,
    device: &str,
    now: Timestamp,
) -> Result<DeviceRow, Problem> {
    let name = format!("{site}/{device}");
    let (Ok(site), Ok(device)) = (SiteId::new(site), DeviceId::new(device)) else {
        return Err(Problem::not_found("device", name));
    };
    let rows = state.ask(move |store| store.devices(Some(&site), now)).await?;
    rows.into_iter().find(|row| row.device == device).ok_or_else(|| Problem::not_found("device", name))
}

/// That there is a site of that name, and a device of that name there, where any is asked for: an empty list would say of a
/// mistyped name that all is well.
pub(crate) async fn is_there(
    state: &ApiState,
    site: Option<&SiteId>,
    device: Option<&DeviceId>,
) -> Result<(), Problem> {
    if site.is_none() && device.is_none() {
        return Ok(());
    }
    let (at, name) = (site.cloned(), device.cloned());
    let look = move |store: &dyn ReadStore| {
        let has_site = at.as_ref().map_or(Ok(true), |site| store.has_site(site))?;
        let has_device = name.as_ref().map_or(Ok(true), |device| store.has_device(at.as_ref(), device))?;
        Ok((has_site, has_device))
    };
    match (state.ask(look).await?, site, device) {
        ((false, _), Some(site), _) => Err(Problem::not_found("site", site)),
        ((_, false), site, Some(device)) => {
            let name = site.map_or_else(|| device.to_string(), |site| format!("{site}/{device}"));
            Err(Problem::not_found("device", name))
        }
        _ => Ok(()),
    }
}

/// Every series, all revisions.
#[utoipa::path(get, path = "/api/v1/series", tag = "fleet", params(Where),
    responses((status = 200, body = Page<Series>), (status = 404, body = super::problem::ProblemBody)))]
pub(super) async fn series(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(filter): Params<Where>,
) -> Result<Response, Problem> {
    let (site, device) = filter.parse()?;
    is_there(&state, site.as_ref(), device.as_ref()).await?;
    let rows = state.ask(move |store| store.series(site.as_ref(), device.as_ref())).await?;
    reply::json(&headers, &Page::whole(rows.into_iter().map(Series::from).collect()))
}

#[cfg(test)]
mod tests {
    use gapless_common::time::{Interval, SlotGrid};

    use super::*;
    use crate::store::model::DeviceNo;

    #[test]
    fn a_device_that_is_not_due_any_more_is_retired() {
        let mut row = DeviceRow {
            no: DeviceNo(1),
            site: SiteId::new("s").unwrap(),
            device: DeviceId::new("d").unwrap(),
            agent: None,
            grid: Some(SlotGrid::every(Interval::from_ms(10_000).unwrap())),
            attributes: BTreeMap::new(),
            last_reading_at: Some(Timestamp(0)),
            proven_until: None,
            open_gaps: 0,
            flush_ms: 0,
            allowed_ms: 30_000,
            job: None,
            stopped: None,
            confirmed: None,
            changed_at: None,
        };
        let state = |row: &DeviceRow, now| Freshness::of(row, Timestamp(now)).state;
        assert_eq!(state(&row, 14_000), FreshnessState::Fresh);
        assert_eq!(state(&row, 15_000), FreshnessState::Ageing);
        assert_eq!(state(&row, 30_000), FreshnessState::Stale);
        row.last_reading_at = Some(Timestamp(AHEAD_MAX_MS));
        assert_eq!(state(&row, 0), FreshnessState::Fresh);
        row.last_reading_at = None;
        assert_eq!(state(&row, 0), FreshnessState::Unknown);
        row.grid = None;
        assert_eq!(state(&row, 0), FreshnessState::Retired);
        assert_eq!(Freshness::of(&row, Timestamp(0)).reason, None);
        let word = |key: &str, text: &str| (key.to_owned(), text.to_owned());
        row.attributes = [
            word("not_authorised_since", "2026-01-01T00:00:00Z"),
            word("not_authorised_reason", "moved out"),
        ]
        .into();
        let (since, detail) = ("2026-01-01T00:00:00Z".to_owned(), "moved out".to_owned());
        let expected = Reason { word: "not_authorised", since, detail };
        assert_eq!(Freshness::of(&row, Timestamp(0)).reason, Some(expected));
    }
}
