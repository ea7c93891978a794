//! Devices that wait for a person's word, on the page of alerts: one that is suspended is resumed, one that nobody has
//! confirmed is confirmed, each by a plain form that works without a script.

use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use gapless_common::id::{DeviceId, SiteId};
use maud::{Markup, html};

use super::alerts_page::{Asked, instant, refused};
use crate::api::{ApiState, Params, Problem, find_device, who};
use crate::ingest::Act;
use crate::store::model::{DeviceRow, StopReason};

/// Devices that are shown; what is beyond is said.
const DEVICES_SHOWN: usize = 100;

/// A person's word for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Resume,
    Confirm,
}

impl Word {
    const ALL: [Self; 2] = [Self::Resume, Self::Confirm];

    const fn path(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Confirm => "confirm",
        }
    }

    const fn button(self) -> &'static str {
        match self {
            Self::Resume => "Resume",
            Self::Confirm => "Confirm",
        }
    }

    /// What a device waits for, where it does.
    fn of(device: &DeviceRow) -> Option<Self> {
        let stopped = device.stopped.as_ref().map(|stopped| stopped.reason);
        match (stopped, &device.confirmed) {
            (Some(StopReason::Suspended), _) => Some(Self::Resume),
            (Some(StopReason::AgreementEnded), _) => None,
            // One that no catalog names any more is nothing to be confirmed, unless it was dropped before.
            (Some(StopReason::NotConfirmed), _) => Some(Self::Confirm),
            (None, None) if device.grid.is_some() => Some(Self::Confirm),
            (None, _) => None,
        }
    }
}

/// Somebody gives their word by a form; what was chosen on the page stays chosen.
pub(super) async fn act(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path((site, device, said)): Path<(String, String, String)>,
    Params(asked): Params<Asked>,
) -> Result<Response, Problem> {
    let Some(name) = who(&state, &headers).await? else {
        return Ok(Redirect::to("/login").into_response());
    };
    let word = Word::ALL.into_iter().find(|known| known.path() == said);
    let word = word.ok_or_else(|| Problem::not_found("wish", said))?;
    let now = (state.now)();
    let no = find_device(&state, &site, &device, now).await?.no;
    let actor = format!("token {name}");
    let act = match word {
        Word::Resume => Act::Resume { device: no, actor },
        Word::Confirm => Act::Confirm { device: no, actor },
    };
    match state.orders.act(act).await {
        Ok(()) => Ok(asked.back()),
        Err(problem) => refused(&state, &asked, problem).await,
    }
}

/// The devices that wait, of those of the chosen site.
pub(super) fn of(devices: Vec<DeviceRow>) -> Vec<DeviceRow> {
    devices.into_iter().filter(|device| Word::of(device).is_some()).collect()
}

/// The list; nothing where no device waits.
pub(super) fn render(devices: &[DeviceRow], asked: &Asked) -> Markup {
    html! {
        @if !devices.is_empty() {
            h2 { "Devices that wait for your word" }
            table.gaps {
                thead { tr { @for name in ["Device", "Why", "Since", "Do"] { th scope="col" { (name) } } } }
                tbody { @for device in devices.iter().take(DEVICES_SHOWN) { (render_device(device, asked)) } }
            }
            @if devices.len() > DEVICES_SHOWN {
                p.note { (devices.len() - DEVICES_SHOWN) " more are not shown: choose a site." }
            }
        }
    }
}

fn render_device(device: &DeviceRow, asked: &Asked) -> Markup {
    let (site, name): (&SiteId, &DeviceId) = (&device.site, &device.device);
    let why = device.stopped.as_ref().map_or("nobody has confirmed it", |stopped| stopped.why.as_str());
    html! {
        tr id=(format!("waits-{site}-{name}")) {
            th scope="row" { a href=(format!("/calendar?site={site}&device={name}")) { (site) "/" wbr; (name) } }
            td data-label="Why" { span { (why) } }
            td data-label="Since" {
                @match &device.stopped { Some(stopped) => (instant(stopped.since)), None => span.quiet { "–" } }
            }
            td data-label="Do" {
                @if let Some(word) = Word::of(device) {
                    form method="post" action=(format!("/devices/{site}/{name}/{}?{}", word.path(), asked.here())) {
                        button type="submit" aria-label=(format!("{} {site}/{name}", word.button())) { (word.button()) }
                    }
                }
            }
        }
    }
}
