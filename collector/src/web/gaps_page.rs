//! The list of gaps: cause, state, attempts and next try of each, chosen by site and state, and a person's wishes
//! about them as plain forms that work without a script.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use gapless_common::time::Timestamp;
use maud::{Markup, html};
use serde::Deserialize;

use super::{Here, banner, counted, document, found, nowhere, picked, site_select};
use crate::api::{ApiState, GAP_STATES, GapsQuery, Params, Problem, gap_state, who};
use crate::gaps::life::Phase;
use crate::ingest::{Order, Wish};
use crate::store::ReadStore;
use crate::store::model::{Awaited, GapRow, GapState, SiteRow};

/// Gaps on one page.
const GAPS_SHOWN: usize = 100;

/// Which gaps. A form sends an empty text for what is not chosen.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    site: Option<String>,
    device: Option<String>,
    state: Option<String>,
    from: Option<String>,
    to: Option<String>,
    cursor: Option<String>,
}

impl Asked {
    fn query(&self) -> GapsQuery {
        let state = picked(self.state.clone()).unwrap_or_else(|| "unfilled".to_owned());
        GapsQuery {
            site: picked(self.site.clone()),
            device: picked(self.device.clone()),
            state: (state != "all").then_some(state),
            from: picked(self.from.clone()),
            to: picked(self.to.clone()),
            cursor: picked(self.cursor.clone()),
            limit: Some(GAPS_SHOWN),
            changed_after: None,
        }
    }

    /// The same choice as a query string, with another cursor.
    fn link(&self, cursor: Option<&str>) -> String {
        let fields = [
            ("site", self.site.as_deref()),
            ("device", self.device.as_deref()),
            ("state", self.state.as_deref()),
            ("from", self.from.as_deref()),
            ("to", self.to.as_deref()),
            ("cursor", cursor),
        ];
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
        let chosen = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let chosen = chosen.filter(|(_, value)| !value.is_empty() && plain(value));
        chosen.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
    }
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

/// A person's wish, sent by a form; what was chosen stays chosen.
pub(super) async fn act(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path((gap, wish)): Path<(i64, String)>,
    Params(asked): Params<Asked>,
) -> Result<Response, Problem> {
    let Some(name) = who(&state, &headers).await? else {
        return Ok(Redirect::to("/login").into_response());
    };
    let wish = match wish.as_str() {
        "retry" => Wish::Retry,
        "reopen" => Wish::Reopen,
        other => return Err(Problem::not_found("wish", other)),
    };
    match state.orders.carry_out(Order { gap, wish, actor: format!("token {name}") }).await {
        Ok(()) => {
            let back = format!("/gaps?{}", asked.link(asked.cursor.as_deref()));
            Ok(Redirect::to(&back).into_response())
        }
        Err(problem) => {
            let told = problem.to_string();
            let mut response = show(&state, &asked, Some(&told)).await?;
            *response.status_mut() = problem.into_response().status();
            Ok(response)
        }
    }
}

async fn show(state: &ApiState, asked: &Asked, problem: Option<&str>) -> Result<Response, Problem> {
    let filter = asked.query().filter()?;
    let nowhere = nowhere(state, filter.site.as_ref(), filter.device.as_ref()).await?;
    let problem = problem.or(nowhere.as_deref());
    let look = move |store: &dyn ReadStore| Ok((store.sites()?, store.gaps(&filter)?, store.open_alerts()?));
    let (sites, gaps, alerts) = state.ask(look).await?;
    let head = banner(Here::Gaps, alerts);
    let body = html! { (head) (render(&sites, &gaps, asked, problem, (state.now)())) };
    Ok(found(document("Gapless: gaps", None, &body), nowhere.as_ref()))
}

fn render(
    sites: &[SiteRow],
    gaps: &[GapRow],
    asked: &Asked,
    problem: Option<&str>,
    now: Timestamp,
) -> Markup {
    let next = (gaps.len() == GAPS_SHOWN).then(|| gaps.last().map(|gap| gap.id.to_string())).flatten();
    html! {
        main {
            h2 { "Gaps" }
            (render_filter(sites, asked))
            @if let Some(told) = problem { p.problem role="alert" { (told) } }
            @if gaps.is_empty() && problem.is_some() {
            } @else if gaps.is_empty() {
                p.note { "No gap of this choice: every slot that was due is stored, or may still be on its way." }
            } @else {
                (render_table(gaps, asked, now))
            }
            @if let Some(cursor) = &next { p { a href=(format!("/gaps?{}", asked.link(Some(cursor)))) { "Next page" } } }
            p.note { "Times are UTC; oldest first. Nobody can be asked for a gap whose device has no memory of its own, or is not polled any more: it is held open for what comes late, and given up when its schedule would have ended." }
        }
    }
}

fn render_filter(sites: &[SiteRow], asked: &Asked) -> Markup {
    let chosen = asked.state.as_deref().filter(|s| !s.is_empty()).unwrap_or("unfilled");
    let words = ["unfilled", "all"].into_iter().chain(GAP_STATES.iter().map(|(word, _)| *word));
    html! {
        form.filter method="get" action="/gaps" {
            (site_select(sites, asked.site.as_deref(), true))
            label for="state" { "State" }
            select id="state" name="state" {
                @for word in words { option value=(word) selected[word == chosen] { (word) } }
            }
            @for (name, value) in [("device", &asked.device), ("from", &asked.from), ("to", &asked.to)] {
                @if let Some(value) = value.as_deref().filter(|v| !v.is_empty()) {
                    input type="hidden" name=(name) value=(value);
                    span.badge { (name) " " (value) }
                }
            }
            button type="submit" { "Show" }
            @if asked.device.is_some() || asked.from.is_some() { a href="/gaps" { "Clear" } }
        }
    }
}

fn render_table(gaps: &[GapRow], asked: &Asked, now: Timestamp) -> Markup {
    html! {
        table.gaps {
            thead {
                tr {
                    @for name in ["Device", "Missing", "Cause", "State", "Attempts", "Next try", "Do"] {
                        th scope="col" { (name) }
                    }
                }
            }
            tbody { @for gap in gaps { (render_gap(gap, asked, now)) } }
        }
    }
}

fn render_gap(gap: &GapRow, asked: &Asked, now: Timestamp) -> Markup {
    let word = gap_state(gap.state);
    html! {
        tr id=(format!("gap-{}", gap.id)) {
            th scope="row" { a href=(format!("/calendar?site={}&device={}", gap.site, gap.device)) {
                (gap.site) "/" wbr; (gap.device)
            } }
            td data-label="Missing" {
                span {
                    (instant(gap.from)) " to " (instant(gap.to))
                    span.quiet { " · " (counted(gap.slots, "slot", "slots")) }
                }
            }
            td data-label="Cause" { span { (gap.cause) } }
            td data-label="State" { span.badge.(class(gap.state)) { (word) } }
            td data-label="Attempts" { span { (gap.attempts) } }
            td data-label="Next try" { span { (next_try(gap, now)) } }
            td data-label="Do" { (render_wish(gap, asked)) }
        }
    }
}

fn render_wish(gap: &GapRow, asked: &Asked) -> Markup {
    let wishes: &[(&str, &str)] = match gap.state {
        GapState::Missing(Phase::Abandoned) => &[("reopen", "Reopen")],
        GapState::Missing(Phase::Waiting) if gap.source.is_some() => {
            &[("retry", "Retry now"), ("reopen", "Reopen")]
        }
        GapState::Missing(Phase::Waiting) => &[("reopen", "Reopen")],
        GapState::Missing(Phase::Open) if gap.source.is_some() => &[("retry", "Retry now")],
        _ => &[],
    };
    let query = asked.link(asked.cursor.as_deref());
    html! {
        @for (word, label) in wishes {
            form method="post" action=(format!("/gaps/{}/{word}?{query}", gap.id)) {
                button type="submit" aria-label=(format!("{label}: gap {} of {}", gap.id, gap.device)) { (label) }
            }
        }
        @if wishes.is_empty() { span.quiet { "–" } }
    }
}

const fn class(state: GapState) -> &'static str {
    match state {
        GapState::Filled => "connected",
        GapState::Missing(Phase::Abandoned) => "bad",
        GapState::Missing(Phase::Waiting) => "warn",
        GapState::Missing(Phase::Open | Phase::Requested) => "plain",
    }
}

/// An instant to the second without its `T` and `Z`.
fn instant(t: Timestamp) -> Markup {
    let text = t.to_string();
    let short = text.get(..19).unwrap_or(&text).replace('T', " ");
    html! { time datetime=(text) { (short) } }
}

/// When a gap is asked for that is due.
const fn awaited(waits_for: Option<Awaited>) -> &'static str {
    match waits_for {
        None => "at once",
        Some(Awaited::Agent) => "when its agent is back",
        Some(Awaited::Reach) => "when its source reaches its device",
        Some(Awaited::Turn) => "after what its device is being asked for now",
        Some(Awaited::Newer) => "when something newer of its device has come",
    }
}

fn next_try(gap: &GapRow, now: Timestamp) -> Markup {
    html! {
        @match (gap.state, gap.next_try_at) {
            (GapState::Missing(Phase::Requested), _) => "being asked",
            (GapState::Missing(_), _) if gap.source.is_none() => span.quiet {
                "no source"
                @if let Some(at) = gap.given_up_at { ", given up " (instant(at)) }
            },
            (GapState::Missing(_), Some(at)) if at <= now => (awaited(gap.waits_for)),
            (GapState::Missing(_), Some(at)) => (instant(at)),
            _ => span.quiet { "–" },
        }
    }
}
