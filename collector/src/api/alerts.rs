//! What people are told: alerts with their history, who is told and how far; and a person's wishes about them.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Asker;
use super::fleet::{Device, find_device, is_there};
use super::params::{self, Params};
use super::problem::ProblemBody;
use super::reply::{self, Page};
use super::{ApiState, Problem};
use crate::alerts::Kind;
use crate::ingest::Act;
use crate::store::model::{AlertChoice, AlertEventRow, AlertFilter, AlertRow, AlertState, ReceiverRow};

/// Something that people are told.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Alert {
    /// Its number.
    id: i64,
    /// What it is about: `stale`, `silent`, `gap`, `unauthorised`, `no_data`, `suspended`, `outbox`, `clock`, `implausible`,
    /// `flat`, `broker` or `unreachable`.
    kind: &'static str,
    /// `open`, `acknowledged` (somebody has seen it) or `resolved` (it is over).
    state: &'static str,
    /// Where; absent where it is about the collector itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    /// The device, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// The agent, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<String>,
    /// In words, as of when it was raised; of a gap as things are, or were when a message with it began its way to a receiver that has
    /// not accepted it yet.
    detail: String,
    /// When it was raised (RFC 3339).
    raised_at: String,
    /// When somebody acknowledged it.
    acknowledged_at: Option<String>,
    /// Who: `token NAME`.
    acknowledged_by: Option<String>,
    /// When it was over.
    resolved_at: Option<String>,
    /// Who asked for the device while its source could not reach it: `token NAME`, several with `, ` between them.
    #[serde(skip_serializing_if = "Option::is_none")]
    awaited_by: Option<String>,
}

/// The words of an alert's states.
pub(crate) const STATES: [(&str, AlertState); 3] = [
    ("open", AlertState::Open),
    ("acknowledged", AlertState::Acknowledged),
    ("resolved", AlertState::Resolved),
];

/// The word of an alert's state.
pub(crate) fn alert_state(state: AlertState) -> &'static str {
    STATES.iter().find(|(_, known)| *known == state).map_or("open", |(word, _)| word)
}

impl From<AlertRow> for Alert {
    fn from(row: AlertRow) -> Self {
        let state = alert_state(row.state());
        let (at, by) = row.acknowledged.unzip();
        Self {
            id: row.id,
            kind: row.kind.word(),
            state,
            site: row.site.map(|site| site.to_string()),
            device: row.device.map(|device| device.to_string()),
            agent: row.agent.map(|agent| agent.to_string()),
            detail: row.detail,
            raised_at: row.raised_at.to_string(),
            acknowledged_at: at.map(|at| at.to_string()),
            acknowledged_by: by,
            resolved_at: row.resolved_at.map(|at| at.to_string()),
            awaited_by: row.awaited_by,
        }
    }
}

/// Which alerts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AlertsQuery {
    /// Only of this site.
    pub(crate) site: Option<String>,
    /// Only of this device.
    pub(crate) device: Option<String>,
    /// Only of this kind.
    pub(crate) kind: Option<String>,
    /// Only those in this state, or `unresolved`: all but those that are over.
    pub(crate) state: Option<String>,
    /// At most so many.
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) cursor: Option<String>,
}

impl AlertsQuery {
    /// As the store is asked.
    pub(crate) fn filter(&self) -> Result<AlertFilter, Problem> {
        let state = match self.state.as_deref() {
            None => None,
            Some("unresolved") => Some(AlertChoice::Unresolved),
            Some(asked) => match STATES.iter().find(|(word, _)| *word == asked) {
                Some((_, state)) => Some(AlertChoice::Only(*state)),
                None => {
                    let words = STATES.map(|(word, _)| word).join(", ");
                    return Err(Problem::parameter("state", format!("{words} or unresolved, got `{asked}`")));
                }
            },
        };
        let kind = self.kind.as_deref().map(|word| {
            Kind::of_word(word).ok_or_else(|| {
                let words = Kind::ALL.map(Kind::word).join(", ");
                Problem::parameter("kind", format!("{words}, got `{word}`"))
            })
        });
        Ok(AlertFilter {
            site: params::site(self.site.as_deref())?,
            device: params::device(self.device.as_deref())?,
            kind: kind.transpose()?,
            state,
            after: params::cursor(self.cursor.as_deref())?,
            limit: params::limit(self.limit)?,
        })
    }
}

/// Alerts: what people are told, and whether somebody has seen it.
#[utoipa::path(get, path = "/api/v1/alerts", tag = "alerts", params(AlertsQuery),
    responses((status = 200, body = Page<Alert>), (status = 404, body = ProblemBody)))]
pub(super) async fn alerts(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<AlertsQuery>,
) -> Result<Response, Problem> {
    let filter = query.filter()?;
    is_there(&state, filter.site.as_ref(), filter.device.as_ref()).await?;
    let limit = filter.limit;
    let rows = state.ask(move |store| store.alerts(&filter)).await?;
    reply::json(&headers, &Page::of(rows.into_iter().map(Alert::from).collect(), limit, |alert| alert.id))
}

/// A line of an alert's history.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AlertEvent {
    /// When.
    at: String,
    /// `raised`, `acknowledged` or `resolved`.
    event: &'static str,
    /// Who: `collector` or `token NAME`.
    actor: String,
}

impl From<AlertEventRow> for AlertEvent {
    fn from(row: AlertEventRow) -> Self {
        Self { at: row.at.to_string(), event: row.event, actor: row.actor }
    }
}

/// An alert and all that became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AlertHistory {
    #[serde(flatten)]
    alert: Alert,
    /// In order of time.
    history: Vec<AlertEvent>,
}

fn number(text: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| Problem::not_found("alert", text))
}

async fn look(state: &ApiState, id: i64) -> Result<AlertHistory, Problem> {
    let found = state.ask(move |store| Ok(store.alert(id)?.zip(Some(store.alert_events(id)?)))).await?;
    let (alert, events) = found.ok_or_else(|| Problem::not_found("alert", id))?;
    Ok(AlertHistory { alert: alert.into(), history: events.into_iter().map(AlertEvent::from).collect() })
}

/// One alert with its history.
#[utoipa::path(get, path = "/api/v1/alerts/{id}", tag = "alerts", params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, body = AlertHistory), (status = 404, body = ProblemBody)))]
pub(super) async fn alert(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    reply::json(&headers, &look(&state, number(&id)?).await?)
}

/// Says that somebody has seen an alert. It is over by itself, and not before.
#[utoipa::path(post, path = "/api/v1/alerts/{id}/acknowledge", tag = "alerts",
    params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, body = AlertHistory), (status = 404, body = ProblemBody),
        (status = 409, body = ProblemBody, description = "It is over already"), (status = 503, body = ProblemBody)))]
pub(super) async fn acknowledge(
    State(state): State<ApiState>,
    Extension(Asker(name)): Extension<Asker>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let alert = number(&id)?;
    state.orders.act(Act::Acknowledge { alert, actor: format!("token {name}") }).await?;
    reply::json(&headers, &look(&state, alert).await?)
}

/// Has a suspended device asked again; from now on it counts as commissioned.
#[utoipa::path(post, path = "/api/v1/devices/{site}/{device}/resume", tag = "alerts",
    params(("site" = String, Path, description = "Site"), ("device" = String, Path, description = "Device")),
    responses((status = 200, body = Device), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 503, body = ProblemBody)))]
pub(super) async fn resume(
    State(state): State<ApiState>,
    Extension(Asker(name)): Extension<Asker>,
    headers: HeaderMap,
    Path((site, device)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let now = (state.now)();
    let row = find_device(&state, &site, &device, now).await?;
    state.orders.act(Act::Resume { device: row.no, actor: format!("token {name}") }).await?;
    reply::json(&headers, &Device::new(find_device(&state, &site, &device, now).await?, now))
}

/// Somebody who is told of alerts.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Receiver {
    /// `webhook.NAME` or `mail.NAME`, as in the configuration.
    name: String,
    /// Messages that it has accepted.
    accepted: u64,
    /// When it accepted the last one.
    accepted_at: Option<String>,
    /// Raised and resolved alerts that it has not been told of yet.
    owed: u64,
    /// Tries of the message under way that failed.
    failures: u32,
    /// When it is tried next; absent where nothing is under way.
    next_try_at: Option<String>,
    /// Why the last try failed.
    last_error: Option<String>,
    /// Messages that it refused, time and again, and that were set aside so that later ones go on.
    set_aside: u64,
    /// When the last one was.
    set_aside_at: Option<String>,
    /// Since when it has not been in the configuration; what it is owed is kept for a month.
    gone_at: Option<String>,
}

impl From<ReceiverRow> for Receiver {
    fn from(row: ReceiverRow) -> Self {
        Self {
            name: row.name,
            accepted: row.accepted,
            accepted_at: row.accepted_at.map(|at| at.to_string()),
            owed: row.owed,
            failures: row.failures,
            next_try_at: row.next_try_at.map(|at| at.to_string()),
            last_error: row.last_error,
            set_aside: row.set_aside,
            set_aside_at: row.set_aside_at.map(|at| at.to_string()),
            gone_at: row.gone_at.map(|at| at.to_string()),
        }
    }
}

/// Who is told of alerts, how far, and what stands in the way.
#[utoipa::path(get, path = "/api/v1/receivers", tag = "alerts", responses((status = 200, body = Page<Receiver>)))]
pub(super) async fn receivers(
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let rows = state.ask(|store| store.receivers()).await?;
    reply::json(&headers, &Page::whole(rows.into_iter().map(Receiver::from).collect()))
}
