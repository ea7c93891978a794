//! The page at `/`: the fleet with its freshness, per device the latest values and a strip of the last day,
//! moving live by server-sent events; the lists of gaps and alerts, the calendar of coverage, the login and a page to browse the API.
//!
//! Rendered on the server from the same [`ReadStore`](crate::store::ReadStore) as the API; the script only
//! swaps in what the server rendered.

mod alerts_page;
mod calendar;
mod calendar_page;
mod fleet_page;
mod gaps_page;
mod login;
mod waiting;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{MethodRouter, get, post};
use gapless_common::id::{DeviceId, SiteId};
use maud::{DOCTYPE, Markup, html};
use serde::Deserialize;

use crate::api::{ApiState, Params, Problem, is_known, is_there};
use crate::store::model::SiteRow;

/// Only what this server serves may run or load.
const CONTENT_SECURITY_POLICY: &str =
    "default-src 'self'; img-src data:; frame-ancestors 'none'; form-action 'self'; base-uri 'none'";

fn asset(media_type: &'static str, text: &'static str) -> MethodRouter<ApiState> {
    get(move || std::future::ready(([(header::CONTENT_TYPE, media_type)], text)))
}

/// The page's routes; each checks the token itself, because a browser is sent to the login.
pub(crate) fn router() -> Router<ApiState> {
    Router::new()
        .route("/", get(page))
        .route("/fragment", get(fragment))
        .route("/gaps", get(gaps_page::page))
        .route("/gaps/{id}/{wish}", post(gaps_page::act))
        .route("/alerts", get(alerts_page::page))
        .route("/alerts/{id}/acknowledge", post(alerts_page::acknowledge))
        .route("/devices/{site}/{device}/{word}", post(waiting::act))
        .route("/calendar", get(calendar_page::page))
        .route("/login", get(login::form).post(login::submit))
        .route("/logout", get(login::logout))
        .route("/docs", get(docs))
        .route("/assets/page.css", asset("text/css", include_str!("page.css")))
        .route("/assets/page.js", asset("text/javascript", include_str!("page.js")))
        .route("/assets/login.js", asset("text/javascript", include_str!("login.js")))
        .route("/assets/docs.js", asset("text/javascript", include_str!("docs.js")))
        .layer(middleware::from_fn(guard_headers))
}

async fn guard_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// The frame of every page.
fn document(title: &str, script: Option<&str>, body: &Markup) -> Html<String> {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (title) }
                link rel="icon" href="data:,";
                link rel="stylesheet" href="/assets/page.css";
                @if let Some(script) = script { script src=(script) defer {} }
            }
            body { (body) }
        }
    };
    Html(page.into_string())
}

/// Which page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Here {
    Fleet,
    Gaps,
    Calendar,
    Alerts,
}

/// The head of every page, with the way to the others, and how many alerts nobody has acknowledged.
fn banner(here: Here, alerts: u64) -> Markup {
    let pages = [
        (Here::Fleet, "/", "Fleet"),
        (Here::Gaps, "/gaps", "Gaps"),
        (Here::Calendar, "/calendar", "Coverage"),
        (Here::Alerts, "/alerts", "Alerts"),
    ];
    html! {
        header {
            h1 { "Gapless" }
            nav {
                @for (page, link, name) in pages {
                    a href=(link) aria-current=[(page == here).then_some("page")] {
                        (name)
                        @if page == Here::Alerts && alerts > 0 { " " span.badge.bad { (alerts) } }
                    }
                }
                a href="/docs" { "API" }
                a href="/logout" { "Log out" }
            }
        }
    }
}

/// So many of something.
fn counted(n: impl TryInto<u64>, one: &str, several: &str) -> String {
    let n = n.try_into().unwrap_or(u64::MAX);
    format!("{n} {}", if n == 1 { one } else { several })
}

/// What a page says where there is no such site or device: an empty list would say that all is well there.
async fn nowhere(
    state: &ApiState,
    site: Option<&SiteId>,
    device: Option<&DeviceId>,
) -> Result<Option<String>, Problem> {
    match is_there(state, site, device).await {
        Ok(()) => Ok(None),
        Err(problem @ Problem::NotFound { .. }) => Ok(Some(problem.to_string())),
        Err(problem) => Err(problem),
    }
}

/// A page, or, where its place is not there, the same with that status.
fn found(page: Html<String>, nowhere: Option<&String>) -> Response {
    let status = if nowhere.is_some() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    (status, page).into_response()
}

/// What a form sends for what is not chosen is empty.
fn picked(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// A choice of a site, or of all where there is such a choice.
fn site_select(sites: &[SiteRow], chosen: Option<&str>, or_all: bool) -> Markup {
    html! {
        label for="site" { "Site" }
        select id="site" name="site" {
            @if or_all { option value="" { "all" } }
            @if let Some(name) = chosen.filter(|name| !name.is_empty() && sites.iter().all(|row| row.site.as_str() != *name)) {
                option value=(name) selected { (name) }
            }
            @for row in sites {
                option value=(row.site) selected[chosen == Some(row.site.as_str())] { (row.site) }
            }
        }
    }
}

/// Which part of the fleet.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    /// Only this site, which is watched live meanwhile.
    site: Option<String>,
}

async fn page(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(shown): Params<Shown>,
) -> Result<Response, Problem> {
    if !is_known(&state, &headers).await? {
        return Ok(Redirect::to("/login").into_response());
    }
    let site = picked(shown.site);
    let alerts = state.ask(|store| store.open_alerts()).await?;
    let body = html! {
        (banner(Here::Fleet, alerts))
        noscript { p.note { "Without JavaScript this page stands still: reload it." } }
        main id="fleet" data-site=[site.as_deref()] { (fleet_page::render(&state, site.as_deref()).await?) }
        footer { p id="live" role="status" { "connecting …" } }
    };
    Ok(document("Gapless: fleet", Some("/assets/page.js"), &body).into_response())
}

/// The moving part of the page.
async fn fragment(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(shown): Params<Shown>,
) -> Result<Response, Problem> {
    if !is_known(&state, &headers).await? {
        return Err(Problem::Unauthorized);
    }
    let site = picked(shown.site);
    Ok(Html(fleet_page::render(&state, site.as_deref()).await?.into_string()).into_response())
}

/// A page to browse the API's description.
async fn docs() -> Html<String> {
    let body = html! {
        header {
            h1 { "Gapless API" }
            nav { a href="/" { "Fleet" } " · " a href="/openapi.json" { "openapi.json" } }
        }
        main id="docs" { p { "Loading the description …" } }
    };
    document("Gapless: API", Some("/assets/docs.js"), &body)
}
