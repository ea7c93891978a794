//! The main job, end to end with real processes: embedded broker, economy, a restored backup, a full outbox, a
//! silent device, the page in a real browser.

use std::time::Duration;

use gapless_common::time::Interval;
use gapless_simulators::modbus::{Fault, FaultKind};
use gapless_tests::api::Api;
use gapless_tests::browser::Browser;
use gapless_tests::site::{DeviceSpec, Place, SITE, Site, SiteSpec};
use gapless_tests::{audit, wait};

const SOON: Duration = Duration::from_secs(30);

fn embedded() -> SiteSpec {
    SiteSpec { embedded_broker: true, ..SiteSpec::default() }
}

/// Waits until every device has at least `count` readings of its evaluation time.
fn wait_for_readings(site: &Site, api: &Api, count: usize) {
    for spec in &site.spec.devices {
        wait::until(&format!("{count} answers of {}", spec.name), SOON, || {
            let readings = api.readings(&format!("{SITE}/{}/eval_time_ms", spec.name))?;
            if readings.len() >= count { Ok(()) } else { Err(readings.len().to_string()) }
        });
    }
}

/// Waits until no device is stale: the link is back and live readings overtake the backlog.
fn wait_for_fresh(site: &Site, api: &Api) {
    wait::until("every device to be fresh", Duration::from_secs(90), || {
        let devices = api.items("/api/v1/devices")?;
        let fresh = devices.iter().filter(|d| d["freshness"]["state"] == "fresh").count();
        if fresh == site.spec.devices.len() { Ok(()) } else { Err(format!("{fresh} fresh")) }
    });
}

fn no_open_gap(api: &Api) -> Vec<serde_json::Value> {
    api.items("/api/v1/gaps?state=open").expect("the API answers")
}

#[test]
fn readings_arrive_exactly_and_the_page_moves_live() {
    let mut site = Site::new(embedded());
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait_for_readings(&site, &api, 3);

    let token = std::fs::read_to_string(site.path("collector/admin-token")).unwrap();
    for (width, height) in [(1280, 900), (390, 844)] {
        let folder = tempfile::tempdir().unwrap();
        let browser = Browser::open(folder.path(), width, height);
        browser.go(&format!("{}/", site.base_url()));
        assert_eq!(browser.eval("location.pathname"), "/login", "without a token there is only the login");
        browser.go(&format!("{}/login#{}", site.base_url(), token.trim()));
        wait::until_true("the fleet page", SOON, || browser.eval("location.pathname") == "/");
        let devices = browser.eval("document.querySelectorAll('article.device').length");
        assert_eq!(devices, site.spec.devices.len());
        assert_eq!(browser.eval("document.querySelectorAll('.dot.fresh').length"), devices);
        let strips = browser.eval("document.querySelectorAll('svg.strip rect.received').length");
        assert!(strips.as_u64() >= devices.as_u64(), "every strip shows what was received: {strips}");
        let value = "document.querySelector('article.device td').textContent";
        let before = browser.eval(value);
        wait::until_true("a value to move without a reload", SOON, || browser.eval(value) != before);
        let wide = browser.eval("document.documentElement.scrollWidth <= window.innerWidth");
        assert_eq!(wide, true, "nothing is cut off at {width} pixels");
        assert!(browser.screenshot_base64().len() > 10_000);
        browser.go(&format!("{}/docs", site.base_url()));
        wait::until_true("the API's description", SOON, || {
            browser.eval("document.querySelectorAll('details').length > 10") == true
        });
    }

    for account in audit::stop_and_audit(&mut site, SOON) {
        assert!(account.compared > 20 && account.missing.is_empty(), "nothing was in the way: {account:?}");
    }
    assert_eq!((site.line.stats().violations, site.line.stats().requests > 4), (0, true));
    site.stop_collector();
}

#[test]
fn an_economy_flush_shows_no_false_gap() {
    let mut site = Site::new(SiteSpec { flush: "15m".to_owned(), ..embedded() });
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait::until("the devices to be known", SOON, || {
        let devices = api.items("/api/v1/devices")?;
        if devices.len() == site.spec.devices.len() { Ok(()) } else { Err(devices.len().to_string()) }
    });
    let polled = |site: &Site| site.tcp[0].stats().requests;
    let before = polled(&site);
    wait::until_true("a while of polling", SOON, || polled(&site) > before + 30);
    assert_eq!(no_open_gap(&api), Vec::<serde_json::Value>::new());
    for spec in &site.spec.devices {
        let coverage = api.get(&format!("/api/v1/coverage?site={SITE}&device={}", spec.name)).unwrap();
        let states: Vec<_> = coverage["slots"].as_object().unwrap().keys().cloned().collect();
        assert!(
            states.iter().all(|s| ["received", "late"].contains(&s.as_str())),
            "{}: {coverage}",
            spec.name
        );
    }
    site.stop_agent();
    site.stop_collector();
}

#[test]
fn a_restored_backup_gets_back_from_the_archive_what_it_lacks() {
    let mut site = Site::new(SiteSpec::default());
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait_for_readings(&site, &api, 2);
    let backup = site.path("backup.sqlite");
    let mut command = std::process::Command::new(gapless_tests::process::own_binary("gapless-collector"));
    let status =
        command.arg("backup").arg("--config").arg(site.path("collector.toml")).arg(&backup).status().unwrap();
    assert!(status.success(), "backup: {status}");
    let incarnation = |api: &Api| api.get("/health").unwrap()["incarnation"].clone();
    let first = incarnation(&api);
    wait_for_readings(&site, &api, 8);

    site.stop_collector();
    let database = site.path("collector/gapless.db");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(format!("{}{suffix}", database.display()));
    }
    std::fs::copy(&backup, &database).unwrap();
    site.start_collector();
    let api = site.api();
    assert_ne!(incarnation(&api), first, "a restored database is another incarnation");
    for account in audit::stop_and_audit(&mut site, Duration::from_secs(60)) {
        assert!(account.received >= 8 && account.missing.is_empty(), "{account:?}");
    }
}

#[test]
fn a_silent_device_is_a_gap_with_its_cause_and_starves_nobody() {
    let mut site = Site::new(embedded());
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait_for_readings(&site, &api, 2);
    let quiet = site.spec.devices[2].clone();
    assert_eq!(quiet.name, "line-1");
    site.line.faults(quiet.unit).unwrap().add(Fault::new(FaultKind::Silent));
    let count = |site: &Site, unit: u8| {
        site.line.units().log().answers().iter().filter(|a| a.unit == unit && a.answered).count()
    };
    let neighbour = count(&site, 2);
    wait::until_true("the neighbour to be read on", Duration::from_secs(60), || {
        count(&site, 2) > neighbour + 8
    });
    site.line.faults(quiet.unit).unwrap().clear();
    let back = count(&site, quiet.unit);
    wait::until_true("the device to be found again", Duration::from_secs(60), || {
        count(&site, quiet.unit) > back + 2
    });

    for account in audit::stop_and_audit(&mut site, Duration::from_secs(60)) {
        if account.device == quiet.name {
            assert!(account.missing_for("no_answer") > 0, "{account:?}");
            assert!(account.misses_only(&["no_answer", "back_off"]), "{account:?}");
        } else {
            assert!(account.missing.is_empty(), "{account:?}");
        }
    }
}

/// Devices that fill 1 MiB in well under a minute.
fn talkative() -> SiteSpec {
    let device = |n: usize| DeviceSpec {
        name: format!("fast-{n}"),
        unit: 1,
        channels: 60,
        interval: Interval::from_ms(30).expect("within bounds"),
        place: Place::Tcp(n),
    };
    SiteSpec { devices: (0..6).map(device).collect(), budget: "1MiB".to_owned(), ..SiteSpec::default() }
}

fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |e: std::fs::DirEntry| match e.metadata() {
        Ok(m) if m.is_dir() => bytes_below(&e.path()),
        Ok(m) => m.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

#[test]
fn a_full_outbox_stays_within_its_budget_and_names_what_it_dropped() {
    let mut site = Site::new(talkative());
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait_for_readings(&site, &api, 5);
    site.broker.as_mut().unwrap().kill();
    let polled = |site: &Site| site.tcp.iter().map(|server| server.stats().requests).sum::<u64>();
    let before = polled(&site);
    let mut most = 0;
    wait::until_true("more polls than the budget holds", Duration::from_secs(150), || {
        most = most.max(bytes_below(&site.path("outbox")));
        polled(&site) > before + 10_000
    });
    assert!(most <= 1 << 20, "the outbox took {most} bytes of a budget of 1 MiB");
    site.broker.as_mut().unwrap().resume();
    wait_for_fresh(&site, &api);
    for account in audit::stop_and_audit(&mut site, Duration::from_secs(90)) {
        assert!(account.missing_for("budget_full") > 0, "{account:?}");
        assert!(account.misses_only(&["budget_full", "overrun", "not_connected"]), "{account:?}");
    }
}
