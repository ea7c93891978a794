//! The fleet as HTML: sites, devices with freshness and latest values, and the strip of the last day.

use std::collections::BTreeMap;

use gapless_common::id::SiteId;
use gapless_common::reading::Value;
use gapless_common::time::Timestamp;
use maud::{Markup, html};

use super::counted;
use crate::api::{ApiState, Freshness, FreshnessState, Problem, latest_rows, link_word, slot_state};
use crate::store::model::{
    AgentRow, DeviceNo, DeviceRow, Link, SeriesRow, SiteRow, StopReason, StoredReading, StripRun, TrafficRow,
};
use crate::store::{ReadError, ReadStore};

/// The strip shows a day.
const STRIP_MS: i64 = 24 * 3_600_000;

/// An outbox that is fuller is shown.
const OUTBOX_SHOWN_PERCENT: u64 = 50;

/// Channels shown of a device; the API has the rest.
const VALUES_SHOWN_MAX: usize = 24;

struct View {
    now: Timestamp,
    sites: Vec<SiteRow>,
    agents: Vec<AgentRow>,
    devices: Vec<DeviceRow>,
    latest: BTreeMap<DeviceNo, Vec<(SeriesRow, StoredReading)>>,
    strips: BTreeMap<DeviceNo, Vec<StripRun>>,
    /// Until when sites are watched.
    leases: BTreeMap<SiteId, Timestamp>,
    /// What today has cost so far.
    traffic: BTreeMap<SiteId, TrafficRow>,
    /// Whether one site is shown alone.
    is_one: bool,
}

fn look(store: &dyn ReadStore, only: Option<&SiteId>, now: Timestamp) -> Result<View, ReadError> {
    let devices = store.devices(only, now)?;
    let mut latest: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (series, reading, device) in latest_rows(store, now, store.series(only, None)?)? {
        latest.entry(device.no).or_default().push((series, reading));
    }
    let from = now.plus_ms(-STRIP_MS);
    let strips = devices.iter().map(|d| Ok((d.no, store.strip(d.no, from, now, now)?)));
    let strips = strips.collect::<Result<_, ReadError>>()?;
    let mut sites = store.sites()?;
    sites.retain(|row| only.is_none_or(|site| row.site == *site));
    let leases = store.leases(now)?.into_iter().collect();
    let traffic = store.traffic(only, now, now)?.into_iter().map(|row| (row.site.clone(), row)).collect();
    let (agents, is_one) = (store.agents(only)?, only.is_some());
    Ok(View { now, sites, agents, devices, latest, strips, leases, traffic, is_one })
}

/// Renders the moving part of the page, of all sites or of one, from one look at the database.
pub(super) async fn render(state: &ApiState, site: Option<&str>) -> Result<Markup, Problem> {
    let now = (state.now)();
    let only =
        site.map(|name| SiteId::new(name).map_err(|_| Problem::not_found("site", name))).transpose()?;
    let view = state.ask(move |store| look(store, only.as_ref(), now)).await?;
    state.orders.looked(view.devices.iter(), now);
    if let Some(site) = site.filter(|_| view.sites.is_empty()) {
        return Err(Problem::not_found("site", site));
    }
    if view.sites.is_empty() {
        return Ok(html! {
            p.note { "No agent has reported yet. Start one: " code { "gapless-agent run CONFIG" } }
        });
    }
    Ok(html! { @for site in &view.sites { (render_site(&view, site)) } })
}

fn render_site(view: &View, site: &SiteRow) -> Markup {
    let dropped = |d: &DeviceRow| d.stopped.as_ref().is_some_and(|s| s.reason == StopReason::NotConfirmed);
    let of_site = || view.devices.iter().filter(|d| d.site == site.site);
    let (devices, hidden) = (of_site().filter(|d| !dropped(d)), of_site().filter(|d| dropped(d)).count());
    html! {
        section.site {
            h2 {
                @if view.is_one { (site.site) " " small { a href="/" { "all sites" } } }
                @else { a href=(format!("/?site={}", site.site)) title="this site alone, live" { (site.site) } }
            }
            p.agents {
                @for agent in view.agents.iter().filter(|a| a.site == site.site) { (render_agent(agent, view.now)) }
                @if site.open_gaps > 0 {
                    a.badge.bad href=(format!("/gaps?site={}", site.site)) { (counted(site.open_gaps, "open gap", "open gaps")) } " "
                }
                @if let Some(until) = view.leases.get(&site.site) {
                    span.badge.connected.live title=(format!("each poll is sent at once until {until}")) {
                        "live for " (left(*until, view.now))
                    } " "
                }
                @if let Some(traffic) = view.traffic.get(&site.site) {
                    span.note.traffic title="on the links of its agents, headers estimated; /api/v1/traffic has the days before" {
                        "today " (bytes(traffic.received_bytes)) " received, " (bytes(traffic.sent_bytes)) " sent"
                    }
                }
            }
            div.devices { @for device in devices { (render_device(view, device)) } }
            @if hidden > 0 { p.note {
                (counted(hidden, "device", "devices")) " that nobody confirmed in time"
                @if hidden == 1 { " is not shown; the API has it, and what it sent." }
                @else { " are not shown; the API has them, and what they sent." }
            } }
        }
    }
}

fn render_agent(agent: &AgentRow, now: Timestamp) -> Markup {
    let heard = agent
        .last_heard_at
        .map_or_else(|| "never heard from".to_owned(), |t| format!("heard {}", ago(t, now)));
    // What it said before it left says nothing of now.
    let (word, is_there) = (link_word(agent.link), agent.link == Link::Connected);
    html! {
        span.badge.(word) { "agent " (agent.agent) ": " (word) }
        " " span.note { (heard) }
        @if is_there && agent.durable == Some(false) { " " span.badge.bad { "not durable: its disk fails" } }
        @if is_there && agent.clock_set == Some(false) { " " span.badge.warn { "clock not set" } }
        @if let Some(fill) = agent.outbox.filter(|fill| fill.percent() >= OUTBOX_SHOWN_PERCENT) {
            " " span.badge.warn { "outbox " (fill.percent()) " % full" }
        }
        @if agent.cloned_at.is_some() { " " span.badge.bad { "cloned agent: two gateways use this name" } }
        " "
    }
}

fn render_device(view: &View, device: &DeviceRow) -> Markup {
    let freshness = Freshness::of(device, view.now);
    let (class, word) = match freshness.state {
        FreshnessState::Fresh => ("fresh", "fresh"),
        FreshnessState::Ageing => ("fresh", "ageing"),
        FreshnessState::Stale => ("stale", "stale"),
        FreshnessState::Unknown => ("never", "nothing yet"),
        FreshnessState::Retired => ("retired", "retired"),
    };
    // What stands in the way says more than how old the data is.
    let word = freshness.reason.as_ref().map_or(word, |reason| spoken(reason.word));
    let values = view.latest.get(&device.no).map_or(&[][..], Vec::as_slice);
    html! {
        article.device data-device=(format!("{}/{}", device.site, device.device)) {
            h3 { span.dot.(class) aria-hidden="true" {} (device.device) " " small.(class) { (word) } }
            p.note {
                @if let Some(model) = device.attributes.get("model") { (model) " · " }
                @if let Some(grid) = device.grid { "every " (grid.interval) " · " }
                (device.last_reading_at.map_or_else(|| "no reading".to_owned(), |t| ago(t, view.now)))
                @if device.open_gaps > 0 { " · " a.badge.bad href=(format!("/gaps?site={}&device={}", device.site, device.device)) { (counted(device.open_gaps, "gap", "gaps")) } }
            }
            @if let Some(since) = device.changed_at {
                p.note { span.badge.warn { "not confirmed" } " configuration changed " (ago(since, view.now)) ", not read since" }
            }
            @if let Some(reason) = &freshness.reason {
                p.note { span.badge.warn { (spoken(reason.word)) } " since " (reason.since) ": " (reason.detail) }
            }
            @if let Some(stopped) = &device.stopped {
                p.note { span.badge.warn { "not asked" } " since " (stopped.since) ": " (stopped.why) }
            }
            (render_strip(view.strips.get(&device.no).map_or(&[][..], Vec::as_slice), view.now))
            table {
                @for (series, reading) in values.iter().take(VALUES_SHOWN_MAX) { (render_value(series, reading)) }
            }
            @if values.len() > VALUES_SHOWN_MAX { p.note { "and " (values.len() - VALUES_SHOWN_MAX) " more" } }
        }
    }
}

fn render_value(series: &SeriesRow, reading: &StoredReading) -> Markup {
    html! {
        tr {
            th scope="row" { (breakable(series.channel.as_str())) }
            @match &reading.value {
                Some(value) if reading.lent => td title="measured by another device, which stands in" {
                    (show(value)) " " span.badge { "lent" }
                },
                Some(value) => td { (show(value)) },
                None => td.bad title=(reading.quality) { (reading.quality.label()) },
            }
            td.unit { (series.unit) }
        }
    }
}

/// The word of a reason for people.
fn spoken(word: &str) -> &str {
    match word {
        "not_authorised" => "not authorised",
        "removed" => "not listed any more",
        other => other,
    }
}

/// A name that may be broken after its underscores, and nowhere else.
fn breakable(name: &str) -> Markup {
    html! { @for part in name.split_inclusive('_') { (part) wbr; } }
}

/// An instant's place on the strip in 1/100 of a percent of the day.
fn place(t: Timestamp, now: Timestamp) -> i64 {
    (t.since_ms(now.plus_ms(-STRIP_MS)).clamp(0, STRIP_MS) * 10_000) / STRIP_MS
}

/// The narrowest run that can still be seen and pointed at, in the strip's units.
const RUN_WIDTH_MIN: i64 = 8;

fn render_strip(runs: &[StripRun], now: Timestamp) -> Markup {
    html! {
        svg.strip viewBox="0 0 10000 100" preserveAspectRatio="none" role="img" aria-label="coverage of the last day" {
            @for run in runs {
                @let (word, cause) = slot_state(run.state);
                @let (from, to) = (place(run.from, now), place(run.to, now));
                rect.(word) x=(from) y="0" width=((to - from).max(RUN_WIDTH_MIN)) height="100" {
                    title {
                        (run.from) " to " (run.to) ": " (run.slots) " " (word)
                        @if let Some(cause) = cause { ", " (cause) }
                    }
                }
            }
        }
    }
}

/// How long from now on, in the unit that fits.
fn left(until: Timestamp, now: Timestamp) -> String {
    let seconds = (until.since_ms(now).max(0) + 999) / 1_000;
    if seconds < 120 { format!("{seconds} s") } else { format!("{} min", seconds / 60) }
}

/// A size for people.
fn bytes(n: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let n = n as f64;
    match n {
        n if n < 1e3 => format!("{n} B"),
        n if n < 1e6 => format!("{:.1} kB", n / 1e3),
        n if n < 1e9 => format!("{:.1} MB", n / 1e6),
        n => format!("{:.1} GB", n / 1e9),
    }
}

/// How long ago, in the largest unit that fits.
fn ago(t: Timestamp, now: Timestamp) -> String {
    let seconds = now.since_ms(t).max(0) / 1_000;
    match seconds {
        0..=119 => format!("{seconds} s ago"),
        120..=7_199 => format!("{} min ago", seconds / 60),
        7_200..=172_799 => format!("{} h ago", seconds / 3_600),
        _ => format!("{} days ago", seconds / 86_400),
    }
}

/// A value for people: seven significant digits, what a binary32 of a device holds.
fn show(value: &Value) -> String {
    match value {
        Value::Text(text) => text.to_string(),
        Value::Number(number) => {
            let short: f64 = format!("{number:.6e}").parse().unwrap_or(*number);
            short.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_for_people() {
        let rows =
            [(230.100_006_103_515_62, "230.1"), (0.0, "0"), (-1.5, "-1.5"), (12_345_678.0, "12345680")];
        for (number, text) in rows {
            assert_eq!(show(&Value::Number(number)), text);
        }
        assert_eq!(show(&Value::Text("SN 12".into())), "SN 12");
    }

    #[test]
    fn sizes_and_what_is_left_are_shown_in_the_unit_that_fits() {
        let rows =
            [(0, "0 B"), (999, "999 B"), (1_250, "1.2 kB"), (3_400_000, "3.4 MB"), (5_000_000_000, "5.0 GB")];
        for (n, text) in rows {
            assert_eq!(bytes(n), text);
        }
        for (ms, text) in
            [(-5, "0 s"), (1, "1 s"), (119_000, "119 s"), (120_000, "2 min"), (3_600_000, "60 min")]
        {
            assert_eq!(left(Timestamp(ms), Timestamp(0)), text);
        }
    }

    #[test]
    fn ages_are_shown_in_the_largest_unit() {
        for (ms, text) in
            [(0, "0 s ago"), (119_000, "119 s ago"), (120_000, "2 min ago"), (7_200_000, "2 h ago")]
        {
            assert_eq!(ago(Timestamp(0), Timestamp(ms)), text);
        }
    }
}
