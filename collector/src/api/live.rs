//! Live on demand: a viewer's lease of a site, and the bytes that are spent on its links, by day.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use gapless_common::id::SiteId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::fleet::is_there;
use super::params::{self, Params};
use super::problem::ProblemBody;
use super::reply::{self, Page};
use super::{ApiState, Problem};
use crate::ingest::Viewing;
use crate::live::{Granted, MINUTES_LEAST, MINUTES_MOST, MINUTES_USUAL};
use crate::store::model::{LeaseAgent, LeaseRow, LeaseState, TrafficRow};

/// The days that are answered where the caller names no range.
const DAYS_USUAL: i64 = 30;
const DAY_MS: i64 = 86_400_000;

/// A site's lease.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Live {
    /// The site.
    site: String,
    /// Its agents send each poll at once until then (RFC 3339); null where nobody watches.
    until: Option<String>,
    /// When to ask again, as long as somebody watches. Only in the answer to who took the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    renew_at: Option<String>,
    /// The same in milliseconds from now, for who has no clock, or a wrong one.
    #[serde(skip_serializing_if = "Option::is_none")]
    renew_in_ms: Option<i64>,
    /// Its agents.
    agents: Vec<LiveAgent>,
}

/// An agent of the site.
#[derive(Debug, Serialize, ToSchema)]
struct LiveAgent {
    agent: String,
    /// `gathering` (it sends in economy), `told` (it has not answered yet), `live`, `always_live` (it is not in economy),
    /// `away` (not connected: it is told when it is back) or `failed`.
    state: &'static str,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl From<LeaseAgent> for LiveAgent {
    fn from(row: LeaseAgent) -> Self {
        let state = match row.state {
            LeaseState::Gathering => "gathering",
            LeaseState::Told => "told",
            LeaseState::Live => "live",
            LeaseState::AlwaysLive => "always_live",
            LeaseState::Away => "away",
            LeaseState::Failed => "failed",
        };
        Self { agent: row.agent.to_string(), state, detail: row.detail }
    }
}

/// For how long.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LiveQuery {
    /// Minutes from now on, 1 to 60; 5 without it.
    minutes: Option<u32>,
}

fn site_of(name: &str) -> Result<SiteId, Problem> {
    SiteId::new(name).map_err(|_| Problem::not_found("site", name))
}

async fn answer(
    state: &ApiState,
    headers: &HeaderMap,
    site: SiteId,
    granted: Option<Granted>,
) -> Result<Response, Problem> {
    let (now, name) = ((state.now)(), site.clone());
    let row = state.ask(move |store| store.lease(&site, now)).await?;
    let LeaseRow { until, agents } = row.ok_or_else(|| Problem::not_found("site", &name))?;
    let body = Live {
        site: name.to_string(),
        until: until.map(|at| at.to_string()),
        renew_at: granted.map(|granted| granted.renew_at.to_string()),
        renew_in_ms: granted.map(|granted| granted.renew_at.since_ms(now).max(0)),
        agents: agents.into_iter().map(LiveAgent::from).collect(),
    };
    reply::json(headers, &body)
}

/// Whether a site is watched, and how its agents stand to that.
#[utoipa::path(get, path = "/api/v1/sites/{site}/live", tag = "live", params(("site" = String, Path, description = "Site")),
    responses((status = 200, body = Live), (status = 404, body = ProblemBody)))]
pub(super) async fn show(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(site): Path<String>,
) -> Result<Response, Problem> {
    answer(&state, &headers, site_of(&site)?, None).await
}

/// Has a site's agents send each poll at once, for some minutes: ask again at `renew_at` as long as you watch, and stop asking
/// when you do not. However many watch, the agents are told once, and again only when the lease would run out. It costs the
/// bytes that economy saves; see `traffic`.
#[utoipa::path(post, path = "/api/v1/sites/{site}/live", tag = "live",
    params(("site" = String, Path, description = "Site"), LiveQuery),
    responses((status = 200, body = Live), (status = 400, body = ProblemBody), (status = 404, body = ProblemBody),
        (status = 503, body = ProblemBody)))]
pub(super) async fn take(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(site): Path<String>,
    Params(query): Params<LiveQuery>,
) -> Result<Response, Problem> {
    let minutes = query.minutes.unwrap_or(MINUTES_USUAL);
    if !(MINUTES_LEAST..=MINUTES_MOST).contains(&minutes) {
        let why = format!("{MINUTES_LEAST} to {MINUTES_MOST}, got {minutes}");
        return Err(Problem::parameter("minutes", why));
    }
    let site = site_of(&site)?;
    let granted = state.orders.watch(Viewing { site: site.clone(), minutes: Some(minutes) }).await?;
    answer(&state, &headers, site, granted).await
}

/// Ends a site's lease for all who watch; who still does takes another one when it asks again.
#[utoipa::path(delete, path = "/api/v1/sites/{site}/live", tag = "live",
    params(("site" = String, Path, description = "Site")),
    responses((status = 200, body = Live), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody)))]
pub(super) async fn end(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(site): Path<String>,
) -> Result<Response, Problem> {
    let site = site_of(&site)?;
    state.orders.watch(Viewing { site: site.clone(), minutes: None }).await?;
    answer(&state, &headers, site, None).await
}

/// Bytes on the links of a site's agents in a day.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Traffic {
    /// The site.
    site: String,
    /// The day (UTC), as `2026-01-31`.
    day: String,
    /// From the agents. An estimate: payloads and topics with the headers of MQTT, TCP and IP; no pings, TLS or repetitions.
    received_bytes: u64,
    /// To them.
    sent_bytes: u64,
}

impl From<TrafficRow> for Traffic {
    fn from(row: TrafficRow) -> Self {
        let day = row.day.to_string();
        Self {
            site: row.site.to_string(),
            day: day.split('T').next().unwrap_or_default().to_owned(),
            received_bytes: row.received_bytes,
            sent_bytes: row.sent_bytes,
        }
    }
}

/// Which days of which sites.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct TrafficQuery {
    /// Only of this site.
    site: Option<String>,
    /// From the day on that holds this instant (RFC 3339); thirty days before `to` without it. 400 days are kept.
    from: Option<String>,
    /// Up to the day that holds this instant; today without it.
    to: Option<String>,
}

/// Bytes spent, by site and day.
#[utoipa::path(get, path = "/api/v1/traffic", tag = "live", params(TrafficQuery),
    responses((status = 200, body = Page<Traffic>), (status = 400, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(super) async fn traffic(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<TrafficQuery>,
) -> Result<Response, Problem> {
    let site = params::site(query.site.as_deref())?;
    let (from, to) = params::open_range(query.from.as_deref(), query.to.as_deref())?;
    let to = to.unwrap_or_else(|| (state.now)());
    let from = from.unwrap_or_else(|| to.plus_ms(-DAYS_USUAL * DAY_MS));
    params::in_order(from, to)?;
    is_there(&state, site.as_ref(), None).await?;
    let rows = state.ask(move |store| store.traffic(site.as_ref(), from, to)).await?;
    reply::json(&headers, &Page::whole(rows.into_iter().map(Traffic::from).collect()))
}
