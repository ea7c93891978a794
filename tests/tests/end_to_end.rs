//! The main job, end to end with real processes: embedded broker, economy, a restored backup, a full outbox, a
//! silent device, the page in a real browser.

use std::time::Duration;

use gapless_common::time::Interval;
use gapless_simulators::modbus::{Fault, FaultKind};
use gapless_tests::api::Api;
use gapless_tests::browser::Browser;
use gapless_tests::deed::{Deed, MachineWatch, Trouble};
use gapless_tests::mischief::Mischief;
use gapless_tests::site::{DeviceSpec, Place, SITE, Site, SiteSpec};
use gapless_tests::{audit, explain, settle, usage, wait};

const SOON: Duration = Duration::from_secs(120);

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
    wait::until("every device to be fresh", Duration::from_secs(300), || {
        let devices = api.items("/api/v1/devices")?;
        let fresh = devices.iter().filter(|d| d["freshness"]["state"] == "fresh").count();
        if fresh == site.spec.devices.len() { Ok(()) } else { Err(format!("{fresh} fresh")) }
    });
}

fn no_open_gap(api: &Api) -> Vec<serde_json::Value> {
    api.items("/api/v1/gaps?state=unfilled").expect("the API answers")
}

#[test]
fn readings_arrive_exactly_and_the_page_moves_live() {
    let watch = MachineWatch::start();
    let mut site = Site::new(embedded());
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait_for_readings(&site, &api, 3);

    let token = std::fs::read_to_string(site.path("collector/admin-token")).expect("the admin token");
    for (width, height) in [(1280, 900), (390, 844)] {
        let folder = tempfile::tempdir().expect("a folder for the browser");
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

    let accounts = audit::stop_and_audit(&mut site, SOON);
    assert!(accounts.iter().all(|account| account.compared > 20), "{accounts:?}");
    // Nothing was in the way but a busy machine.
    explain::check(&site.spec.devices, &accounts, &watch.stop());
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
    let watch = MachineWatch::start();
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
    let accounts = audit::stop_and_audit(&mut site, SOON);
    assert!(accounts.iter().all(|account| account.received >= 8), "{accounts:?}");
    explain::check(&site.spec.devices, &accounts, &watch.stop());
}

/// The list of gaps and the calendar name what is missing of a device, on a desk and on a phone.
fn see_the_gap_in_a_browser(site: &Site, device: &str) {
    let token = std::fs::read_to_string(site.path("collector/admin-token")).expect("the admin token");
    for (width, height) in [(1280, 900), (390, 844)] {
        let folder = tempfile::tempdir().expect("a folder for the browser");
        let browser = Browser::open(folder.path(), width, height);
        browser.go(&format!("{}/login#{}", site.base_url(), token.trim()));
        wait::until_true("the fleet page", SOON, || browser.eval("location.pathname") == "/");
        browser.go(&format!("{}/gaps?state=all&device={device}", site.base_url()));
        assert_eq!(browser.eval("document.querySelector('table.gaps tbody tr td').dataset.label"), "Missing");
        let wide = "document.documentElement.scrollWidth <= window.innerWidth";
        assert_eq!(browser.eval(wide), true, "nothing is cut off at {width} pixels");
        browser.go(&format!("{}/calendar?site={SITE}", site.base_url()));
        assert_eq!(browser.eval("document.querySelectorAll('.calendar').length"), site.spec.devices.len());
        assert_eq!(browser.eval(wide), true, "nothing is cut off at {width} pixels");
        assert_eq!(browser.eval("document.querySelectorAll('.calendar td a').length > 0"), true);
        let link = format!(
            "new URL(document.querySelector('#cal-{device}').parentNode.querySelector('td a').href).pathname"
        );
        assert_eq!(browser.eval(&link), "/gaps", "a day with something missing leads to its gaps");
    }
}

#[test]
fn a_silent_device_is_a_gap_with_its_cause_and_starves_nobody() {
    let watch = MachineWatch::start();
    let mut site = Site::new(embedded());
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait_for_readings(&site, &api, 2);
    let quiet = site.spec.devices[2].clone();
    assert_eq!(quiet.name, "line-1");
    let from = settle::now();
    site.line.faults(quiet.unit).unwrap().add(Fault::new(FaultKind::Silent));
    let count = |site: &Site, unit: u8| {
        site.line.units().log().answers().iter().filter(|a| a.unit == unit && a.answered).count()
    };
    let neighbour = count(&site, 2);
    wait::until_true("the neighbour to be read on", SOON, || count(&site, 2) > neighbour + 8);
    site.line.faults(quiet.unit).unwrap().clear();
    let silence = Deed { what: Trouble::Done(Mischief::Silence(2)), from, to: settle::now() };
    let back = count(&site, quiet.unit);
    wait::until_true("the device to be found again", SOON, || count(&site, quiet.unit) > back + 2);

    let gaps = format!("/api/v1/gaps?site={SITE}&device={}&limit=10", quiet.name);
    let is_proven = || api.items(&gaps).is_ok_and(|found| !found.is_empty());
    wait::until_true("the gap to be proven", SOON, is_proven);
    see_the_gap_in_a_browser(&site, &quiet.name);
    let mut accounts = audit::stop_and_audit(&mut site, SOON);
    assert!(accounts[2].missing_for("no_answer") > 0, "{accounts:?}");
    let busy = watch.stop();
    let deeds: Vec<Deed> = busy.iter().copied().chain([silence]).collect();
    explain::check(&site.spec.devices, &accounts, &deeds);
    // Its neighbours miss a slot only where the machine was busy.
    accounts[2].gaps.clear();
    explain::check(&site.spec.devices, &accounts, &busy);
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

/// The alert of the agent's outbox, once it is in this state.
fn outbox_alert(api: &Api, state: &str) -> serde_json::Value {
    wait::until(&format!("an alert of the outbox that is {state}"), SOON, || {
        let alerts = api.items("/api/v1/alerts?kind=outbox")?;
        let found = alerts.iter().find(|alert| alert["state"] == state).cloned();
        found.ok_or_else(|| format!("{alerts:?}; {:?}", api.items("/api/v1/agents")))
    })
}

#[test]
fn an_outbox_that_fills_while_the_broker_is_away_is_told_of_and_is_over_once_it_is_delivered() {
    let mut site = Site::new(talkative());
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait_for_readings(&site, &api, 5);
    assert_eq!(api.items("/api/v1/alerts?kind=outbox"), Ok(Vec::new()));
    site.broker.as_mut().unwrap().kill();
    wait::until("an outbox that is nearly full", 4 * SOON, || {
        let percent = site.agent_status()?.0["outbox"]["owed_percent"].as_u64().unwrap_or_default();
        if percent >= 85 { Ok(()) } else { Err(format!("{percent} %")) }
    });
    // What comes from now on is little, so that the rest is soon delivered.
    site.tcp.iter().for_each(|server| server.faults(1).unwrap().silent());
    site.broker.as_mut().unwrap().resume();
    let raised = outbox_alert(&api, "open");
    let detail = raised["detail"].as_str().unwrap_or_default().to_owned();
    let percent: u64 = detail.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
    assert!(percent >= 80, "{raised}");
    assert_eq!((&raised["agent"], &raised["device"]), (&"gateway".into(), &serde_json::Value::Null));
    let over = outbox_alert(&api, "resolved");
    assert_eq!(over["id"], raised["id"], "the same one");
    let agent = api.items("/api/v1/agents").expect("the API answers").remove(0);
    assert!(agent["outbox_percent"].as_u64().is_some_and(|percent| percent < 70), "{agent}");
    assert!(
        agent["clock_off_ms"].as_i64().is_some_and(|ms| ms.abs() < 60_000),
        "one machine, one clock: {agent}"
    );
}

#[test]
fn a_broker_that_is_away_is_one_alert_and_its_return_is_known() {
    let mut site = Site::new(SiteSpec::default());
    let mut config = std::fs::read_to_string(site.path("collector.toml")).expect("it was written");
    config.push_str("\n[alerts]\nsilent = \"4s\"\n");
    std::fs::write(site.path("collector.toml"), config).expect("the folder can be written");
    site.start_collector();
    site.start_agent();
    let api = site.api();
    wait_for_readings(&site, &api, 2);
    site.broker.as_mut().unwrap().kill();
    let alert = |state: &str| {
        wait::until(&format!("an alert of the broker that is {state}"), SOON, || {
            let alerts = api.items("/api/v1/alerts?kind=broker")?;
            alerts.iter().find(|alert| alert["state"] == state).cloned().ok_or_else(|| format!("{alerts:?}"))
        })
    };
    let raised = alert("open");
    assert_eq!((&raised["site"], &raised["device"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    wait::until_true("devices that are stale", SOON, || {
        let devices = api.items("/api/v1/devices").unwrap_or_default();
        devices.iter().all(|device| device["freshness"]["state"] == "stale")
    });
    site.broker.as_mut().unwrap().resume();
    assert_eq!(alert("resolved")["id"], raised["id"]);
    wait_for_fresh(&site, &api);
    let all = api.items("/api/v1/alerts").expect("the API answers");
    assert!(all.iter().all(|alert| alert["kind"] == "broker"), "nobody else is blamed: {all:?}");
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
    wait::until_true("more polls than the budget holds", 4 * SOON, || {
        most = most.max(usage::bytes_below(&site.outbox_folder()));
        polled(&site) > before + 10_000
    });
    assert!(most <= 1 << 20, "the outbox took {most} bytes of a budget of 1 MiB");
    site.broker.as_mut().unwrap().resume();
    wait_for_fresh(&site, &api);
    for account in audit::stop_and_audit(&mut site, SOON) {
        assert!(account.missing_for("budget_full") > 0, "{account:?}");
        // Thirty milliseconds are soon over on a busy machine; the last are those of the time it takes to stop.
        let causes = ["budget_full", "overrun", "not_connected", "no_answer", "back_off", "stopped"];
        assert!(account.misses_only(&causes), "{account:?}");
    }
}
