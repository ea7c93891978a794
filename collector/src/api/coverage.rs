//! What is known of every slot, and what could not be stored as it came: coverage, conflicts, parked frames.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use gapless_common::quality::Cause;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Asker;
use super::fleet::{Freshness, find_device, json_value, path};
use super::params::{self, Params, TimeRange};
use super::problem::ProblemBody;
use super::reply::{self, Page};
use super::{ApiState, Problem};
use crate::ingest::Act;
use crate::store::ReadStore;
use crate::store::model::{
    ConflictRow, ParkReason, ParkedRow, SeriesNo, SeriesRow, SlotState, StripRun, Unread,
};

/// Why slots have no reading.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Reason {
    /// A word of the closed list of causes.
    #[schema(example = "no_answer")]
    cause: &'static str,
    /// The same for people, with its detail.
    detail: String,
}

impl From<Cause> for Reason {
    fn from(cause: Cause) -> Self {
        Self { cause: cause.slug(), detail: cause.to_string() }
    }
}

/// A run of slots in one state.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CoverageRun {
    /// Its first slot (RFC 3339).
    from: String,
    /// One interval after its last slot.
    to: String,
    /// Number of slots.
    slots: u64,
    /// `received`, `missed` (the agent said why), `lost` (proven to be missing), `late` (may still be on its
    /// way, or its source may have it later) or `unknown` (the agent has not been heard from, or its source not been read).
    state: &'static str,
    /// Why, for `missed`, `lost` and `unknown`.
    #[serde(flatten)]
    reason: Option<Reason>,
}

/// The word of a slot's state, and its cause.
pub(crate) const fn slot_state(state: SlotState) -> (&'static str, Option<Cause>) {
    match state {
        SlotState::Received => ("received", None),
        SlotState::Missed(cause) => ("missed", Some(cause)),
        SlotState::Lost(cause) => ("lost", Some(cause)),
        SlotState::Late => ("late", None),
        SlotState::Unknown => ("unknown", Some(Cause::Unreachable)),
    }
}

impl CoverageRun {
    /// `unread` where its device is one of a source that the collector reads itself: no agent of it is anywhere to be
    /// heard from.
    fn new(run: &StripRun, unread: Option<&Unread>) -> Self {
        let (state, cause) = slot_state(run.state);
        let mut reason = cause.map(Reason::from);
        if let (SlotState::Unknown, Some(reason), Some(unread)) = (run.state, &mut reason, unread) {
            reason.detail = unread_words(unread);
        }
        Self { from: run.from.to_string(), to: run.to.to_string(), slots: run.slots, state, reason }
    }
}

/// Whether a device is read, or computed, by the collector itself.
fn is_of_source(attributes: &BTreeMap<String, String>) -> bool {
    attributes.get("history").is_some_and(|history| history == "source")
        || attributes.contains_key("product_of")
}

fn unread_words(unread: &Unread) -> String {
    let mut words = match unread.since {
        Some(since) => format!("its source has not been read since {since}"),
        None => "its source could not be read".to_owned(),
    };
    if let Some(why) = &unread.why {
        words.push_str(": ");
        words.push_str(why);
    }
    words
}

/// Coverage of one device.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Coverage {
    /// Begin of the range (RFC 3339).
    from: String,
    /// End of the range.
    to: String,
    /// Number of slots due, by state.
    slots: BTreeMap<&'static str, u64>,
    /// Received ÷ due; absent where nothing was due.
    ratio: Option<f64>,
    /// How old the device's data is.
    freshness: Freshness,
    /// Runs of slots in order of time.
    runs: Vec<CoverageRun>,
}

/// Which device, when.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct CoverageQuery {
    /// The site.
    site: String,
    /// The device.
    device: String,
    /// From this instant on (RFC 3339); a day before `to` without it.
    from: Option<String>,
    /// Before this instant (RFC 3339); now without it.
    to: Option<String>,
}

/// What is known of every slot of a device in a range of time, from the first one that was due: what was before it is not told.
#[utoipa::path(get, path = "/api/v1/coverage", tag = "gaps", params(CoverageQuery),
    responses((status = 200, body = Coverage), (status = 404, body = super::problem::ProblemBody)))]
#[expect(clippy::cast_precision_loss, reason = "a ratio of counts, for people")]
pub(super) async fn coverage(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<CoverageQuery>,
) -> Result<Response, Problem> {
    let now = (state.now)();
    let TimeRange { from, to } = params::time_range(query.from.as_deref(), query.to.as_deref(), now)?;
    let device = find_device(&state, &query.site, &query.device, now).await?;
    state.orders.looked(std::iter::once(&device), now);
    let (no, is_source) = (device.no, is_of_source(&device.attributes));
    let ask = move |store: &dyn ReadStore| {
        let unread = if is_source { Some(store.unread(no)?) } else { None };
        Ok((store.strip(no, from, to, now)?, unread))
    };
    let (runs, unread) = state.ask(ask).await?;
    let mut slots: BTreeMap<&'static str, u64> = BTreeMap::new();
    for run in &runs {
        *slots.entry(slot_state(run.state).0).or_default() += run.slots;
    }
    let (due, received) = (slots.values().sum::<u64>(), slots.get("received").copied().unwrap_or(0));
    let body = Coverage {
        from: from.to_string(),
        to: to.to_string(),
        ratio: (due > 0).then(|| received as f64 / due as f64),
        slots,
        freshness: Freshness::of(&device, now),
        runs: runs.iter().map(|run| CoverageRun::new(run, unread.as_ref())).collect(),
    };
    reply::json(&headers, &body)
}

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// At most so many.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// A value that contradicts a stored one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Conflict {
    /// Its number.
    id: i64,
    /// `site/device/channel`.
    series: String,
    /// Its revision.
    revision: u32,
    /// The instant (RFC 3339).
    at: String,
    /// The value that came second.
    #[schema(value_type = Option<f64>)]
    value: serde_json::Value,
    /// Its quality.
    quality: String,
    /// The value that came first and stays.
    #[schema(value_type = Option<f64>)]
    stored_value: serde_json::Value,
    /// Its quality.
    stored_quality: Option<String>,
    /// Who sent the second.
    agent: String,
    /// In which epoch (hexadecimal).
    epoch: String,
    /// As which record of it.
    seq: u64,
    /// When it came (RFC 3339).
    received_at: String,
}

impl Conflict {
    fn new(row: &ConflictRow, series: &BTreeMap<SeriesNo, SeriesRow>) -> Self {
        let named = series.get(&row.series);
        Self {
            id: row.id,
            series: named.map(path).unwrap_or_default(),
            revision: named.map_or(0, |s| s.revision),
            at: row.at.to_string(),
            value: json_value(row.value.as_ref()),
            quality: row.quality.label().into_owned(),
            stored_value: json_value(row.stored.as_ref().and_then(|r| r.value.as_ref())),
            stored_quality: row.stored.as_ref().map(|r| r.quality.label().into_owned()),
            agent: row.agent.to_string(),
            epoch: row.epoch.to_string(),
            seq: row.seq.0,
            received_at: row.received_at.to_string(),
        }
    }
}

/// Values that contradict stored ones: both are kept, both are shown.
#[utoipa::path(get, path = "/api/v1/conflicts", tag = "gaps", params(PageQuery), responses((status = 200, body = Page<Conflict>)))]
pub(super) async fn conflicts(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Result<Response, Problem> {
    let (limit, after) = (params::limit(query.limit)?, params::cursor(query.cursor.as_deref())?);
    let question = move |store: &dyn crate::store::ReadStore| {
        let series: BTreeMap<_, _> = store.series(None, None)?.into_iter().map(|row| (row.no, row)).collect();
        Ok(store
            .conflicts(after, limit)?
            .into_iter()
            .map(|row| Conflict::new(&row, &series))
            .collect::<Vec<_>>())
    };
    let rows = state.ask(question).await?;
    reply::json(&headers, &Page::of(rows, limit, |row| row.id))
}

/// A frame that is kept, but could not be used.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Parked {
    /// Its number.
    id: i64,
    /// Whose.
    site: String,
    /// Whose.
    agent: String,
    /// Its epoch (hexadecimal).
    epoch: String,
    /// Its first record.
    first_seq: u64,
    /// Number of records.
    count: u64,
    /// `unknown_catalog`, `unknown_version` or `nonsense`.
    reason: &'static str,
    /// The reason for people.
    detail: String,
    /// Its size.
    bytes: u64,
    /// When it came (RFC 3339).
    received_at: String,
}

impl From<ParkedRow> for Parked {
    fn from(row: ParkedRow) -> Self {
        Self {
            id: row.id,
            site: row.site.to_string(),
            agent: row.agent.to_string(),
            epoch: row.epoch.to_string(),
            first_seq: row.first.0,
            count: row.count,
            reason: match row.reason {
                ParkReason::UnknownCatalog => "unknown_catalog",
                ParkReason::UnknownVersion => "unknown_version",
                ParkReason::Nonsense => "nonsense",
            },
            detail: row.detail,
            bytes: row.bytes,
            received_at: row.received_at.to_string(),
        }
    }
}

/// Frames that are intact but could not be used (yet): kept, acknowledged, shown.
#[utoipa::path(get, path = "/api/v1/parked", tag = "gaps", params(PageQuery), responses((status = 200, body = Page<Parked>)))]
pub(super) async fn parked(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<PageQuery>,
) -> Result<Response, Problem> {
    let (limit, after) = (params::limit(query.limit)?, params::cursor(query.cursor.as_deref())?);
    let rows = state.ask(move |store| store.parked(after, limit)).await?;
    reply::json(&headers, &Page::of(rows.into_iter().map(Parked::from).collect(), limit, |row| row.id))
}

/// Discards a parked frame for good: it is acknowledged, so that its agent may have given up its own copy. Nothing but this
/// removes one, and only so many are kept of an agent.
#[utoipa::path(delete, path = "/api/v1/parked/{id}", tag = "gaps", params(("id" = i64, Path, description = "Its number")),
    responses((status = 204), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody)))]
pub(super) async fn discard(
    State(state): State<ApiState>,
    Extension(Asker(name)): Extension<Asker>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let frame = id.parse().map_err(|_| Problem::not_found("parked frame", &id))?;
    state.orders.act(Act::Discard { frame, actor: format!("token {name}") }).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[cfg(test)]
mod tests {
    use gapless_common::time::Timestamp;

    use super::*;

    #[test]
    fn what_is_unknown_of_a_source_is_not_called_an_agent_that_is_silent() {
        let unread = |since: Option<i64>, why: Option<&str>| {
            Some(Unread { since: since.map(Timestamp), why: why.map(str::to_owned) })
        };
        let rows = [
            (SlotState::Unknown, None, Some("the agent has not been heard from")),
            (SlotState::Unknown, unread(None, None), Some("its source could not be read")),
            (
                SlotState::Unknown,
                unread(Some(1_000), Some("HTTP 401")),
                Some("its source has not been read since 1970-01-01T00:00:01Z: HTTP 401"),
            ),
            (SlotState::Late, unread(None, None), None),
            (
                SlotState::Missed(Cause::NotRecorded),
                unread(None, None),
                Some("the device has no record of it"),
            ),
        ];
        for (state, unread, expected) in rows {
            let run = StripRun { from: Timestamp(0), to: Timestamp(1_000), slots: 1, state };
            let told = CoverageRun::new(&run, unread.as_ref()).reason.map(|reason| reason.detail);
            assert_eq!(told.as_deref(), expected, "{state:?} {unread:?}");
        }
    }
}
