//! Meters that remember, the whole way with real processes: agent, Mosquitto, collector, and simulated meters with the
//! shipped example profiles, whose intervals are seconds here.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail its test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use gapless_common::profile::ProfileSet;
use gapless_common::reading::Value;
use gapless_common::time::Interval;
use gapless_simulators::modbus::{DeviceKind, LineConfig, PtyLine, TcpConfig, TcpServer, Units};
use gapless_tests::api::{Api, instant_ms};
use gapless_tests::site::{SITE, Site, SiteSpec};
use gapless_tests::{settle, wait};

const SOON: Duration = Duration::from_secs(120);
const WINDOW: &str = "example-load-profile-window";
const FILE: &str = "example-load-profile-file";
const SECOND: i64 = 1_000;

/// A meter with a shipped profile that records every second.
fn kind(profile: &str) -> DeviceKind {
    let mut profile = ProfileSet::embedded().unwrap().get(profile).unwrap().clone();
    profile.load.as_mut().unwrap().interval = Interval::from_ms(1_000).unwrap();
    DeviceKind::Profile(Box::new(profile))
}

/// A site with a meter behind a window on a paced line, and one with file records behind TCP; both are polled as well.
struct MeterSite {
    site: Site,
    line: PtyLine,
    tcp: TcpServer,
}

impl MeterSite {
    fn new(first: &str) -> Self {
        let line = LineConfig { baud: 19_200, units: vec![(1, kind(WINDOW))], ..LineConfig::default() };
        let line = PtyLine::start(&line).unwrap();
        let tcp =
            TcpServer::start(&TcpConfig { units: vec![(1, kind(FILE))], ..TcpConfig::default() }).unwrap();
        let site = Site::new(SiteSpec { devices: Vec::new(), ..SiteSpec::default() });
        let path = site.path("agent.toml");
        let mut text = std::fs::read_to_string(&path).unwrap();
        let links = [
            ("line", format!("serial = {{ port = \"{}\", baud = 19200 }}", line.path().display()), WINDOW),
            ("tcp", format!("tcp = {{ address = \"{}\" }}", tcp.address()), FILE),
        ];
        for (name, link, profile) in links {
            let _ = write!(
                text,
                "\n[[bus]]\nid = \"{name}\"\n{link}\ntimeout = \"300ms\"\n\
                 [[bus.device]]\nid = \"{name}-records\"\nunit = 1\nprofile = \"{profile}\"\n\
                 collect = \"load-profile\"\ninterval = \"1s\"\nzone = \"+00:00\"\nfirst = \"{first}\"\n\
                 [[bus.device]]\nid = \"{name}-polled\"\nunit = 1\nprofile = \"{profile}\"\ninterval = \"1s\"\n"
            );
        }
        std::fs::write(&path, text).unwrap();
        Self { site, line, tcp }
    }

    fn units(&self, name: &str) -> &Units {
        if name == "line" { self.line.units() } else { self.tcp.units() }
    }

    /// The instants of which all fields are stored; each of them is the meter's.
    fn instants(&self, api: &Api, name: &str) -> Vec<i64> {
        let readings = match api.readings(&format!("{SITE}/{name}-records/*")) {
            Err(why) if why.contains("there is no series") => Vec::new(),
            told => told.expect("the API answers"),
        };
        let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
        for reading in readings {
            let channel = reading.series.rsplit('/').next().unwrap();
            let meter = self.units(name).device(1).unwrap();
            let truth = meter.with_memory(|memory| memory.truth(channel, reading.at_ms)).flatten();
            let Some(Value::Number(truth)) = truth else { unreachable!("a field of numbers") };
            let told = (reading.value.as_f64().map(f64::to_bits), reading.quality.as_str());
            assert_eq!(told, (Some(truth.to_bits()), "good"), "{reading:?}, and true is {truth}");
            *counts.entry(reading.at_ms).or_default() += 1;
        }
        counts.into_iter().filter(|(_, count)| *count == 3).map(|(at, _)| at).collect()
    }

    fn wait_for(&self, api: &Api, name: &str, what: &str, is_it: impl Fn(&[i64]) -> bool) -> Vec<i64> {
        wait::until(&format!("{what} of {name}"), SOON, || {
            let instants = self.instants(api, name);
            if is_it(&instants) { Ok(instants) } else { Err((instants.len(), instants.last().copied())) }
        })
    }
}

fn gaps(api: &Api, name: &str, state: &str) -> Vec<serde_json::Value> {
    api.items(&format!("/api/v1/gaps?site={SITE}&device={name}-records&state={state}&limit=1000"))
        .expect("the API answers")
}

/// Waits until nothing between these instants lacks any more.
fn wait_for_no_gap(api: &Api, name: &str, from: i64, to: i64) {
    wait::until(&format!("the gaps of {name} to close"), SOON, || {
        let mut left = gaps(api, name, "unfilled");
        left.retain(|gap| {
            let (begin, end) = (instant_ms(&gap["from"]).unwrap(), instant_ms(&gap["to"]).unwrap());
            end > from && begin < to
        });
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// Whether there is a record for each second from `from` on to `to`.
fn is_whole(instants: &[i64], from: i64, to: i64) -> bool {
    let within: Vec<i64> = instants.iter().copied().filter(|at| (from..=to).contains(at)).collect();
    within.windows(2).all(|two| two[1] - two[0] == SECOND)
        && within.first().is_some_and(|first| *first < from + SECOND)
        && within.last().is_some_and(|last| *last > to - SECOND)
}

#[test]
fn a_line_that_was_cut_leaves_no_hole_and_polls_go_on_beside_what_is_read() {
    let mut place = MeterSite::new("30s");
    place.site.start_collector();
    place.site.start_agent();
    let api = place.site.api();
    for name in ["line", "tcp"] {
        place.wait_for(&api, name, "the half minute before the start", |instants| instants.len() > 32);
    }
    place.line.unplug();
    place.tcp.unplug();
    let down = settle::now().0;
    wait::until("what was due meanwhile to be a gap", SOON, || {
        let all = ["line", "tcp"].map(|name| gaps(&api, name, "unfilled"));
        let is_told = |gaps: &Vec<serde_json::Value>| gaps.iter().any(|gap| gap["cause"] == "not_connected");
        if all.iter().all(is_told) && settle::now().0 > down + 25 * SECOND { Ok(()) } else { Err(all) }
    });
    place.line.replug().unwrap();
    place.tcp.replug().unwrap();
    let back = settle::now().0;
    for name in ["line", "tcp"] {
        place.wait_for(&api, name, "every second of the outage", |instants| {
            is_whole(instants, down - 5 * SECOND, back + 5 * SECOND)
        });
        wait_for_no_gap(&api, name, down, back);
        assert!(!gaps(&api, name, "filled").is_empty(), "what was a gap was filled");
    }
    // Of the seconds since the line is back, but for those in which it was opened and what is still on its way.
    let slots = usize::try_from((settle::now().0 - back) / SECOND).unwrap().saturating_sub(6);
    let polled = api.readings(&format!("{SITE}/line-polled/active_power")).expect("the API answers");
    let since = polled.iter().filter(|reading| reading.at_ms > back).count();
    assert!(since > 0 && since >= slots * 3 / 4, "{since} polls in {slots} seconds since the line is back");
    place.site.stop_agent();
    place.site.stop_collector();
}

/// One unit that is polled and whose records are read is two devices; the collector is told that one stands in for the other.
#[test]
fn a_polled_meter_s_gaps_are_filled_from_its_load_profile_where_the_instants_are_the_same() {
    let mut place = MeterSite::new("30s");
    let edit = |file: &str, change: &dyn Fn(&str) -> String| {
        let text = std::fs::read_to_string(place.site.path(file)).unwrap();
        let changed = change(&text);
        assert_ne!(changed, text);
        std::fs::write(place.site.path(file), changed).unwrap();
    };
    // Only the counter: the profile keeps no power of an instant, and a slot is there once all of its channels are.
    let polled = format!("id = \"line-polled\"\nunit = 1\nprofile = \"{WINDOW}\"\ninterval = \"1s\"\n");
    let counter = format!("{polled}channels = [\"active_energy_import\"]\n");
    edit("agent.toml", &|text| text.replacen(&polled, &counter, 1));
    let donor =
        format!("\n[[gaps.donor]]\ndevice = \"{SITE}/line-polled\"\nfrom = [\"nobody\", \"line-records\"]\n");
    edit("collector.toml", &|text| format!("{text}{donor}"));
    place.site.start_collector();
    place.site.start_agent();
    let api = place.site.api();
    place.wait_for(&api, "line", "some records", |instants| instants.len() > 32);
    let polled = |state: &str| {
        let of = format!("/api/v1/gaps?site={SITE}&device=line-polled&state={state}&limit=1000");
        api.items(&of).expect("the API answers")
    };
    place.line.unplug();
    let down = settle::now().0;
    wait::until("what was due meanwhile to be a gap", SOON, || {
        let gaps = polled("unfilled");
        let is_told = gaps.iter().any(|gap| gap["cause"] == "not_connected");
        if is_told && settle::now().0 > down + 12 * SECOND { Ok(()) } else { Err(gaps) }
    });
    place.line.replug().unwrap();
    let back = settle::now().0;
    let within = |gaps: Vec<serde_json::Value>| {
        let is_of_it = |gap: &serde_json::Value| {
            instant_ms(&gap["to"]).unwrap() > down + SECOND
                && instant_ms(&gap["from"]).unwrap() < back - SECOND
        };
        gaps.into_iter().filter(is_of_it).collect::<Vec<_>>()
    };
    wait::until("the gap to close", SOON, || {
        let left = within(polled("unfilled"));
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    let told: Vec<_> = within(polled("filled"))
        .iter()
        .map(|gap| api.get(&format!("/api/v1/gaps/{}", gap["id"])).expect("the API answers"))
        .collect();
    let by_donor = |gap: &serde_json::Value| {
        let history = gap["history"].as_array().cloned().unwrap_or_default();
        history.iter().any(|event| event["event"] == "filled" && event["actor"] == "device line-records")
    };
    assert!(!told.is_empty() && told.iter().all(by_donor), "{told:?}");
    // What was lent is what the meter recorded at that instant.
    let rows = api.readings(&format!("{SITE}/line-polled/active_energy_import")).expect("the API answers");
    let lent: Vec<_> =
        rows.iter().filter(|row| row.at_ms > down + SECOND && row.at_ms < back - SECOND).collect();
    assert!(lent.len() >= 10, "{lent:?}");
    let meter = place.units("line").device(1).unwrap();
    for row in lent {
        let truth = meter.with_memory(|memory| memory.truth("active_energy_import", row.at_ms)).flatten();
        let Some(Value::Number(truth)) = truth else { unreachable!("a counter is a number") };
        assert_eq!((row.at_ms % SECOND, row.value.as_f64()), (0, Some(truth)), "{row:?}");
    }
    let log = std::fs::read_to_string(place.site.path("collector.log")).unwrap();
    assert!(log.contains("site/nobody is named in `gaps.donor`"), "{log}");
    place.site.stop_agent();
    place.site.stop_collector();
}

#[test]
fn what_was_recorded_before_the_agent_began_is_asked_for_by_the_collector_and_filled() {
    let mut place = MeterSite::new("0s");
    place.site.start_collector();
    place.site.start_agent();
    let api = place.site.api();
    for name in ["line", "tcp"] {
        place.wait_for(&api, name, "some records", |instants| instants.len() > 3);
    }
    place.site.stop_agent();
    let stopped = settle::now().0;
    wait::until_true("some time without an agent", SOON, || settle::now().0 > stopped + 12 * SECOND);
    place.site.start_agent();
    let started = settle::now().0;
    for name in ["line", "tcp"] {
        place.wait_for(&api, name, "what was recorded meanwhile", |instants| {
            is_whole(instants, stopped - 2 * SECOND, started + 5 * SECOND)
        });
        let asked = wait::until("a gap that was filled on request", SOON, || {
            let filled = gaps(&api, name, "filled");
            let ids: Vec<i64> = filled.iter().filter_map(|gap| gap["id"].as_i64()).collect();
            let told = ids.iter().filter_map(|id| api.get(&format!("/api/v1/gaps/{id}")).ok());
            let asked = told.into_iter().find(|gap| {
                let events = gap["history"].as_array().cloned().unwrap_or_default();
                events.iter().any(|event| event["event"] == "requested")
                    && instant_ms(&gap["from"]).is_ok_and(|from| from > stopped - 3 * SECOND)
            });
            asked.ok_or_else(|| serde_json::to_string(&filled).unwrap_or_default())
        });
        assert_eq!((&asked["source"], &asked["state"]), (&"device".into(), &"filled".into()), "{asked}");
        wait_for_no_gap(&api, name, stopped, started);
    }
    place.site.stop_agent();
    place.site.stop_collector();
}
