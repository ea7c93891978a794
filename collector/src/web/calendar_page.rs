//! The calendar of coverage: per device the last weeks, each day with the share of its due slots that were received, as
//! text and as colour, and a way to that day's gaps.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Redirect, Response};
use gapless_common::id::{DeviceId, SiteId};
use maud::{Markup, html};
use serde::Deserialize;

use super::calendar::{Count, Day, days};
use super::{Here, banner, document, found, nowhere, picked, site_select};
use crate::api::{ApiState, Params, Problem, is_known};
use crate::store::model::{DeviceRow, SiteRow};
use crate::store::{ReadError, ReadStore};

/// Whole weeks shown before this one.
const WEEKS_BEFORE: i64 = 4;

/// Devices shown at once; the others by their names.
const DEVICES_SHOWN_MAX: usize = 50;

/// Which devices.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    site: Option<String>,
    device: Option<String>,
}

struct View {
    sites: Vec<SiteRow>,
    site: String,
    devices: Vec<(DeviceRow, BTreeMap<Day, Count>)>,
    more: usize,
    first: Day,
    today: Day,
    alerts: u64,
    problem: Option<String>,
}

/// The page.
pub(super) async fn page(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(asked): Params<Asked>,
) -> Result<Response, Problem> {
    if !is_known(&state, &headers).await? {
        return Ok(Redirect::to("/login").into_response());
    }
    let now = (state.now)();
    let (site, device) = (picked(asked.site), picked(asked.device));
    let site =
        site.map(|name| SiteId::new(&name).map_err(|_| Problem::not_found("site", name))).transpose()?;
    let device = device.map(|name| DeviceId::new(&name).map_err(|_| Problem::not_found("device", name)));
    let device = device.transpose()?;
    let nowhere = nowhere(&state, site.as_ref(), device.as_ref()).await?;
    let problem = nowhere.clone();
    let today = Day::of(now);
    let first = Day(today.0 - today.weekday() - 7 * WEEKS_BEFORE);
    let look = move |store: &dyn ReadStore| {
        let (sites, all) = (store.sites()?, store.devices(None, now)?);
        // A fleet is looked at site by site.
        let own = all.iter().find(|row| Some(&row.device) == device.as_ref()).map(|row| row.site.clone());
        let site = site.or(own).or_else(|| sites.first().map(|row| row.site.clone()));
        let site = site.map(|site| site.to_string()).unwrap_or_default();
        let wanted = |row: &DeviceRow| {
            row.site.as_str() == site && device.as_ref().is_none_or(|name| *name == row.device)
        };
        let mut rows: Vec<_> = all.into_iter().filter(wanted).collect();
        let more = rows.len().saturating_sub(DEVICES_SHOWN_MAX);
        rows.truncate(DEVICES_SHOWN_MAX);
        let counted = rows.into_iter().map(|row| {
            let runs = store.strip(row.no, first.begin(), now, now)?;
            Ok((row, days(&runs)))
        });
        let devices = counted.collect::<Result<_, ReadError>>()?;
        let alerts = store.open_alerts()?;
        Ok(View { sites, site, devices, more, first, today, alerts, problem })
    };
    let view = state.ask(look).await?;
    Ok(found(document("Gapless: coverage", None, &render(&view)), nowhere.as_ref()))
}

fn render(view: &View) -> Markup {
    html! {
        (banner(Here::Calendar, view.alerts))
        main {
            h2 { "Coverage" }
            form.filter method="get" action="/calendar" {
                (site_select(&view.sites, Some(&view.site), false))
                button type="submit" { "Show" }
            }
            p.note { "Share of the slots due each day (UTC) whose reading is stored, rounded down. A day leads to its gaps." }
            ul.legend {
                li { span.swatch.full aria-hidden="true" {} "all" }
                li { span.swatch.most aria-hidden="true" {} "95 % or more" }
                li { span.swatch.some aria-hidden="true" {} "less" }
                li { span.swatch.unheard aria-hidden="true" {} "agent not heard from" }
            }
            @if let Some(told) = &view.problem { p.problem role="alert" { (told) } }
            @else if view.devices.is_empty() { p.note { "No device of this site is known." } }
            div.calendars { @for (device, days) in &view.devices { (render_device(view, device, days)) } }
            @if view.more > 0 { p.note { "and " (view.more) " more: name one by ?site=…&device=…" } }
        }
    }
}

const WEEKDAYS: [&str; 7] = ["Mo", "Tu", "We", "Th", "Fr", "Sa", "Su"];

fn render_device(view: &View, device: &DeviceRow, days: &BTreeMap<Day, Count>) -> Markup {
    let nothing = Count::default();
    html! {
        section.device.calendar {
            h3 id=(format!("cal-{}", device.device)) { (device.device) }
            table aria-labelledby=(format!("cal-{}", device.device)) {
                thead { tr { @for name in WEEKDAYS { th scope="col" { (name) } } } }
                tbody {
                    @for week in 0..=WEEKS_BEFORE {
                        tr {
                            @for weekday in 0..7 {
                                @let day = Day(view.first.0 + 7 * week + weekday);
                                @if day > view.today { td {} } @else {
                                    (render_day(device, day, days.get(&day).unwrap_or(&nothing)))
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The class of a day's colour.
const fn class(count: &Count) -> &'static str {
    match count.permille() {
        None => "none",
        Some(1_000) => "full",
        Some(_) if count.missing == 0 => "unheard",
        Some(950..) => "most",
        Some(_) => "some",
    }
}

/// The share as text: whole percents, with a tenth from 99 on so that a day is 100 only where nothing is missing.
fn share(count: &Count) -> String {
    match count.permille() {
        None if count.late > 0 => "…".to_owned(),
        None => "–".to_owned(),
        Some(1_000) => "100".to_owned(),
        Some(p @ 990..) => format!("{}.{}", p / 10, p % 10),
        Some(0) if count.received > 0 => "<1".to_owned(),
        Some(p) => (p / 10).to_string(),
    }
}

fn told(day: &str, count: &Count) -> String {
    let mut parts = vec![format!("{} received", count.received)];
    for (n, word) in [(count.missing, "missing"), (count.unknown, "unknown"), (count.late, "on the way")] {
        if n > 0 {
            parts.push(format!("{n} {word}"));
        }
    }
    format!("{day}: {}", parts.join(", "))
}

fn render_day(device: &DeviceRow, day: Day, count: &Count) -> Markup {
    let (begin, end) = (day.begin().to_string(), Day(day.0 + 1).begin().to_string());
    let date = begin.get(..10).unwrap_or_default();
    let inner = html! {
        span.day { (date.get(8..).unwrap_or_default()) }
        span.share { (share(count)) @if count.permille().is_some() { span.percent { " %" } } }
    };
    let told = told(date, count);
    html! {
        td.(class(count)) {
            @if count.missing > 0 {
                @let link = format!("/gaps?site={}&device={}&state=all&from={begin}&to={end}", device.site, device.device);
                a href=(link) title=(told) aria-label=(told) { (inner) }
            } @else {
                span.cell title=(told) { (inner) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_told_by_text_as_well_as_by_colour() {
        let of = |received, missing, unknown, late| Count { received, missing, unknown, late };
        let rows = [
            (of(0, 0, 0, 0), "–", "none"),
            (of(0, 0, 0, 3), "…", "none"),
            (of(96, 0, 0, 1), "100", "full"),
            (of(9_999, 1, 0, 0), "99.9", "most"),
            (of(96, 4, 0, 0), "96", "most"),
            (of(9, 0, 1, 0), "90", "unheard"),
            (of(1, 2_000, 0, 0), "<1", "some"),
            (of(0, 1, 0, 0), "0", "some"),
        ];
        for (count, text, colour) in rows {
            assert_eq!((share(&count).as_str(), class(&count)), (text, colour), "{count:?}");
        }
    }
}
