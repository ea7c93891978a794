//! The list of alerts: kind, words and state of each, chosen by site, kind and state, a button to acknowledge, devices that
//! wait for a word, and who is told; plain forms that work without a script.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use gapless_common::time::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Here, banner, counted, document, found, nowhere, picked, site_select, waiting};
use crate::alerts::Kind;
use crate::api::{ALERT_STATES, AlertsQuery, ApiState, Params, Problem, alert_state, who};
use crate::ingest::Act;
use crate::store::model::{AlertRow, AlertState, DeviceRow, ReceiverRow, SiteRow};

/// Alerts on one page.
const ALERTS_SHOWN: usize = 100;

/// Which alerts. A form sends an empty text for what is not chosen.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    site: Option<String>,
    device: Option<String>,
    kind: Option<String>,
    state: Option<String>,
    cursor: Option<String>,
}

impl Asked {
    fn query(&self) -> AlertsQuery {
        let state = picked(self.state.clone()).unwrap_or_else(|| "unresolved".to_owned());
        AlertsQuery {
            site: picked(self.site.clone()),
            device: picked(self.device.clone()),
            kind: picked(self.kind.clone()),
            state: (state != "all").then_some(state),
            cursor: picked(self.cursor.clone()),
            limit: Some(ALERTS_SHOWN),
        }
    }

    /// The same choice as a query string, with another cursor.
    fn link(&self, cursor: Option<&str>) -> String {
        let fields = [
            ("site", self.site.as_deref()),
            ("device", self.device.as_deref()),
            ("kind", self.kind.as_deref()),
            ("state", self.state.as_deref()),
            ("cursor", cursor),
        ];
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        let chosen = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let chosen = chosen.filter(|(_, value)| !value.is_empty() && plain(value));
        chosen.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }

    /// This very choice as a query string.
    pub(super) fn here(&self) -> String {
        self.link(self.cursor.as_deref())
    }

    /// Back to the page as it was.
    pub(super) fn back(&self) -> Response {
        Redirect::to(&format!("/alerts?{}", self.here())).into_response()
    }
}

struct View {
    sites: Vec<SiteRow>,
    alerts: Vec<AlertRow>,
    waiting: Vec<DeviceRow>,
    receivers: Vec<ReceiverRow>,
    open: u64,
}

/// The page.
pub(super) async fn page(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(asked): Params<Asked>,
) -> Result<Response, Problem> {
    if who(&state, &headers).await?.is_none() {
        return Ok(Redirect::to("/login").into_response());
    }
    show(&state, &asked, None).await
}

/// Somebody has seen an alert, and says so by a form; what was chosen stays chosen.
pub(super) async fn acknowledge(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(alert): Path<i64>,
    Params(asked): Params<Asked>,
) -> Result<Response, Problem> {
    let Some(name) = who(&state, &headers).await? else {
        return Ok(Redirect::to("/login").into_response());
    };
    match state.orders.act(Act::Acknowledge { alert, actor: format!("token {name}") }).await {
        Ok(()) => Ok(asked.back()),
        Err(problem) => refused(&state, &asked, problem).await,
    }
}

/// The page with why a wish was not carried out.
pub(super) async fn refused(state: &ApiState, asked: &Asked, problem: Problem) -> Result<Response, Problem> {
    let told = problem.to_string();
    let mut response = show(state, asked, Some(&told)).await?;
    *response.status_mut() = problem.into_response().status();
    Ok(response)
}

async fn show(state: &ApiState, asked: &Asked, problem: Option<&str>) -> Result<Response, Problem> {
    let filter = asked.query().filter()?;
    let now = (state.now)();
    let nowhere = nowhere(state, filter.site.as_ref(), filter.device.as_ref()).await?;
    let problem = problem.or(nowhere.as_deref());
    let look = move |store: &dyn crate::store::ReadStore| {
        let (sites, alerts) = (store.sites()?, store.alerts(&filter)?);
        let waiting = waiting::of(store.devices(filter.site.as_ref(), now)?);
        Ok(View { sites, alerts, waiting, receivers: store.receivers()?, open: store.open_alerts()? })
    };
    let view = state.ask(look).await?;
    let page = document("Gapless: alerts", None, &render(&view, asked, problem));
    Ok(found(page, nowhere.as_ref()))
}

fn render(view: &View, asked: &Asked, problem: Option<&str>) -> Markup {
    let alerts = &view.alerts;
    let next =
        (alerts.len() == ALERTS_SHOWN).then(|| alerts.last().map(|alert| alert.id.to_string())).flatten();
    html! {
        (banner(Here::Alerts, view.open))
        main {
            h2 { "Alerts" }
            (render_filter(&view.sites, asked))
            @if let Some(told) = problem { p.problem role="alert" { (told) } }
            @if alerts.is_empty() && problem.is_some() {}
            @else if alerts.is_empty() { p.note { "No alert of this choice." } } @else { (render_table(alerts, asked)) }
            @if let Some(cursor) = &next { p { a href=(format!("/alerts?{}", asked.link(Some(cursor)))) { "Next page" } } }
            p.note { "Times are UTC; oldest first. An alert is over by itself; to acknowledge it says that somebody looks into it." }
            (waiting::render(&view.waiting, asked))
            h2 { "Who is told" }
            @if view.receivers.is_empty() {
                p.note { "Nobody: name them in the collector's configuration, " code { "[alerts.webhook.NAME]" } " or " code { "[alerts.mail.NAME]" } "." }
            } @else { (render_receivers(&view.receivers)) }
        }
    }
}

fn render_filter(sites: &[SiteRow], asked: &Asked) -> Markup {
    let chosen = asked.state.as_deref().filter(|s| !s.is_empty()).unwrap_or("unresolved");
    let words = ["unresolved", "all"].into_iter().chain(ALERT_STATES.iter().map(|(word, _)| *word));
    html! {
        form.filter method="get" action="/alerts" {
            (site_select(sites, asked.site.as_deref(), true))
            label for="kind" { "Kind" }
            select id="kind" name="kind" {
                option value="" { "all" }
                @for kind in Kind::ALL {
                    option value=(kind.word()) selected[asked.kind.as_deref() == Some(kind.word())] { (kind.word()) }
                }
            }
            label for="state" { "State" }
            select id="state" name="state" {
                @for word in words { option value=(word) selected[word == chosen] { (word) } }
            }
            @if let Some(device) = asked.device.as_deref().filter(|d| !d.is_empty()) {
                input type="hidden" name="device" value=(device);
                span.badge { "device " (device) }
            }
            button type="submit" { "Show" }
            @if asked.device.is_some() { a href="/alerts" { "Clear" } }
        }
    }
}

fn render_table(alerts: &[AlertRow], asked: &Asked) -> Markup {
    html! {
        table.gaps {
            thead {
                tr { @for name in ["About", "Kind", "What", "Since", "State", "Do"] { th scope="col" { (name) } } }
            }
            tbody { @for alert in alerts { (render_alert(alert, asked)) } }
        }
    }
}

fn render_alert(alert: &AlertRow, asked: &Asked) -> Markup {
    let word = alert_state(alert.state());
    html! {
        tr id=(format!("alert-{}", alert.id)) {
            th scope="row" {
                @match (&alert.site, &alert.device, &alert.agent) {
                    (Some(site), Some(device), _) => {
                        a href=(format!("/calendar?site={site}&device={device}")) { (site) "/" wbr; (device) }
                    }
                    (Some(site), None, Some(agent)) => { "agent " (site) "/" wbr; (agent) }
                    _ => { "the collector" }
                }
            }
            td data-label="Kind" { span { (alert.kind.word()) } }
            td data-label="What" {
                span { (alert.detail) }
                @if let Some(who) = &alert.awaited_by { " " span.quiet { "asked for by " (who) } }
            }
            td data-label="Since" {
                span {
                    (instant(alert.raised_at))
                    @if let Some(at) = alert.resolved_at { " to " (instant(at)) }
                }
            }
            td data-label="State" {
                span {
                    span.badge.(class(alert.state())) { (word) }
                    @if let Some((_, by)) = &alert.acknowledged { " " span.quiet { "by " (by) } }
                }
            }
            td data-label="Do" {
                @if alert.state() == AlertState::Open {
                    form method="post" action=(format!("/alerts/{}/acknowledge?{}", alert.id, asked.here())) {
                        button type="submit" aria-label=(format!("Acknowledge alert {}", alert.id)) { "Acknowledge" }
                    }
                } @else { span.quiet { "–" } }
            }
        }
    }
}

fn render_receivers(receivers: &[ReceiverRow]) -> Markup {
    html! {
        table.gaps {
            thead {
                tr { @for name in ["Receiver", "Told", "Waiting", "Next try", "Last error"] { th scope="col" { (name) } } }
            }
            tbody {
                @for receiver in receivers {
                    tr {
                        th scope="row" {
                            (receiver.name)
                            @if receiver.gone_at.is_some() { " " span.badge.warn { "not in the configuration" } }
                        }
                        td data-label="Told" {
                            span {
                                (counted(receiver.accepted, "message", "messages"))
                                @if let Some(at) = receiver.accepted_at { ", last " (instant(at)) }
                                @if receiver.set_aside > 0 { "; " span.badge.bad { (receiver.set_aside) " refused and set aside" } }
                            }
                        }
                        td data-label="Waiting" { span { (receiver.owed) } }
                        td data-label="Next try" {
                            @match receiver.next_try_at { Some(at) => (instant(at)), None => span.quiet { "–" } }
                        }
                        td data-label="Last error" {
                            @match &receiver.last_error { Some(why) => span.problem { (why) }, None => span.quiet { "–" } }
                        }
                    }
                }
            }
        }
    }
}

const fn class(state: AlertState) -> &'static str {
    match state {
        AlertState::Open => "bad",
        AlertState::Acknowledged => "warn",
        AlertState::Resolved => "connected",
    }
}

/// An instant to the second without its `T` and `Z`.
pub(super) fn instant(t: Timestamp) -> Markup {
    let text = t.to_string();
    let short = text.get(..19).unwrap_or(&text).replace('T', " ");
    html! { time datetime=(text) { (short) } }
}
