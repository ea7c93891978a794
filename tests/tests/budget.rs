//! The daily budget of a metered link, end to end with real processes: what a day's bytes do not cover waits in the
//! outbox, is no gap meanwhile, and arrives once there are bytes again.

use std::time::Duration;

use gapless_common::time::Interval;
use gapless_tests::api::Api;
use gapless_tests::site::{DeviceSpec, Place, SITE, Site, SiteSpec};
use gapless_tests::{audit, settle, wait};

const SOON: Duration = Duration::from_secs(60);
const DAY_MS: i64 = 86_400_000;
/// What the rest of this day may send: a few seconds of what is polled, and the least that a whole day may have.
const SHARE: i64 = 64 << 10;
/// The test is over well within this time; midnight would give it another day's bytes.
const MIDNIGHT_MS: i64 = 60_000;

/// Milliseconds until the next day begins (UTC).
fn day_left_ms() -> i64 {
    DAY_MS - settle::now().0.rem_euclid(DAY_MS)
}

/// A first day has the part of the budget that falls on the rest of it.
fn spec() -> SiteSpec {
    let device = |n: usize| DeviceSpec {
        name: format!("meter-{n}"),
        unit: 1,
        channels: 60,
        interval: Interval::from_ms(30).expect("within bounds"),
        place: Place::Tcp(n),
    };
    let daily = (SHARE * DAY_MS).div_euclid(day_left_ms()) + 1_024;
    SiteSpec {
        devices: (0..6).map(device).collect(),
        daily_budget: u64::try_from(daily).ok(),
        embedded_broker: true,
        ..SiteSpec::default()
    }
}

fn polled(site: &Site) -> u64 {
    site.tcp.iter().map(|server| server.stats().requests).sum()
}

/// Gaps other than those that a busy machine makes: slots of 30 ms are soon over.
fn false_gaps(api: &Api) -> Vec<serde_json::Value> {
    let gaps = api.items("/api/v1/gaps?state=unfilled").expect("the API answers");
    gaps.into_iter().filter(|gap| !BUSY.iter().any(|cause| gap["cause"] == *cause)).collect()
}

/// Causes of slots that a busy machine may cost.
const BUSY: [&str; 3] = ["overrun", "no_answer", "back_off"];

#[test]
fn what_a_day_does_not_cover_waits_and_is_no_gap() {
    wait::until_true("a day that lasts", 3 * SOON, || day_left_ms() > MIDNIGHT_MS);
    let mut site = Site::new(spec());
    site.start_collector();
    site.start_agent();
    let api = site.api();
    let (spent, text) = wait::until("the day's bytes to be spent", SOON, || {
        let (status, text) = site.agent_status()?;
        let is_spent = status["uplink"]["state"] == "connected, the day's budget is spent";
        if is_spent { Ok((status, text)) } else { Err(status["uplink"].to_string()) }
    });
    assert!(text.contains("the day's budget is spent"), "{text}");
    let number = |status: &serde_json::Value, group: &str, name: &str| {
        status[group][name].as_u64().unwrap_or_else(|| panic!("{group}.{name} of {status}"))
    };
    let most = number(&spent, "uplink", "bytes_today_max");
    assert!(number(&spent, "uplink", "bytes_today") >= most, "{spent}");
    assert!(most.abs_diff(SHARE.unsigned_abs()) < SHARE.unsigned_abs() / 50, "a day's rest: {spent}");

    let before = polled(&site);
    wait::until_true("four hundred polls more", SOON, || polled(&site) > before + 400);
    let (later, _) = site.agent_status().expect("the agent answers");
    assert_eq!(number(&later, "uplink", "frames_sent"), number(&spent, "uplink", "frames_sent"), "{later}");
    assert!(number(&later, "outbox", "owed_records") >= 150, "what is polled waits: {later}");
    assert_eq!(number(&later, "outbox", "dropped_records"), 0, "{later}");
    let mut received = 0;
    for spec in &site.spec.devices {
        let coverage = api.get(&format!("/api/v1/coverage?site={SITE}&device={}", spec.name)).unwrap();
        let states: Vec<_> = coverage["slots"].as_object().unwrap().keys().cloned().collect();
        let known = ["received", "late", "missed"];
        assert!(states.iter().all(|s| known.contains(&s.as_str())), "{}: {coverage}", spec.name);
        received += coverage["slots"]["received"].as_u64().unwrap_or(0);
    }
    assert!(received + 150 <= polled(&site), "{received} have arrived of {}", polled(&site));
    assert_eq!(false_gaps(&api), Vec::<serde_json::Value>::new());

    site.stop_agent();
    assert_eq!(false_gaps(&api), Vec::<serde_json::Value>::new(), "what waits on the disk is still to come");
    site.set_daily_budget(Some(1 << 40));
    site.start_agent();
    let before = polled(&site);
    wait::until_true("some polls of the second run", SOON, || polled(&site) > before + 60);
    for account in audit::stop_and_audit(&mut site, SOON) {
        assert!(account.received > 30, "{account:?}");
        // The restart itself, and what a busy machine costs.
        assert!(account.misses_only(&[&BUSY[..], &["stopped", "not_connected"]].concat()), "{account:?}");
    }
    site.stop_collector();
}
