//! Devices that wait for a person's word, in a real browser: one that never answered was suspended and is resumed, one that an
//! agent announced is confirmed, each by its button. And one that nobody's word keeps: its agreement has ended.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use gapless_tests::api::Api;
use gapless_tests::browser::Browser;
use gapless_tests::site::{Place, SITE, Site, SiteSpec};
use gapless_tests::{settle, wait};

const SOON: Duration = Duration::from_secs(180);

/// What the API says of a device.
fn device(api: &Api, name: &str) -> serde_json::Value {
    api.get(&format!("/api/v1/devices/{SITE}/{name}")).unwrap_or_default()
}

/// Presses the button of a device on the page, once it is there.
fn press(browser: &Browser, site: &Site, name: &str, word: &str) {
    let button = format!("document.querySelector('#waits-{SITE}-{name} form[action*=\"/{word}?\"] button')");
    wait::until_true(&format!("a button to {word} {name}"), SOON, || {
        browser.go(&format!("{}/alerts", site.base_url()));
        browser.eval(&format!("{button} !== null")) == true
    });
    let _ = browser.eval(&format!("{button}.click()"));
}

#[test]
fn a_suspended_device_is_resumed_and_an_announced_one_confirmed_by_a_button() {
    let mut site = Site::new(SiteSpec { embedded_broker: true, ..SiteSpec::default() });
    let (quiet, other) = ("line-1", "tcp-1");
    site.line.faults(1).expect("line-1 has unit 1").silent();
    let mut config =
        OpenOptions::new().append(true).open(site.path("collector.toml")).expect("it was written");
    let more = format!(
        "\n[housekeeping]\nconfirm = \"person\"\n\n[alerts.device.\"{SITE}/{quiet}\"]\nwarn_after = \"1s\"\nsuspend_after = \"2s\"\n"
    );
    config.write_all(more.as_bytes()).expect("the folder can be written");
    site.start_collector();
    site.start_agent();
    let api = site.api();

    let token = std::fs::read_to_string(site.path("collector/admin-token")).expect("the admin token");
    let folder = tempfile::tempdir().expect("a folder for the browser");
    let browser = Browser::open(folder.path(), 390, 844);
    browser.go(&format!("{}/login#{}", site.base_url(), token.trim()));
    wait::until_true("the fleet page", SOON, || browser.eval("location.pathname") == "/");

    press(&browser, &site, other, "confirm");
    wait::until_true("the page again", SOON, || {
        browser.eval(&format!(
            "location.pathname === '/alerts' && document.querySelector('#waits-{SITE}-{other}') === null"
        )) == true
    });
    assert_eq!(device(&api, other)["confirmed_by"], "token admin");

    wait::until("the quiet device to be suspended", SOON, || {
        let collection = device(&api, quiet)["collection"].clone();
        if collection["state"] == "suspended" { Ok(()) } else { Err(collection) }
    });
    // From now on it answers, so that it is not suspended again.
    site.line.faults(1).expect("line-1 has unit 1").clear();
    press(&browser, &site, quiet, "resume");
    wait::until("it to be asked again", SOON, || {
        let collection = device(&api, quiet)["collection"].clone();
        if collection["state"] == "active" { Ok(()) } else { Err(collection) }
    });
    let wide = "document.documentElement.scrollWidth <= window.innerWidth";
    assert_eq!(browser.eval(wide), true, "nothing is cut off on a phone");
}

/// The agent's word for how a device is.
fn condition(site: &Site, name: &str) -> String {
    let Ok((status, _)) = site.agent_status() else { return "no status".to_owned() };
    let devices = status["devices"].as_array().cloned().unwrap_or_default();
    let found = devices.iter().find(|device| device["id"] == name);
    found.map_or("unknown", |device| device["state"].as_str().unwrap_or("none")).to_owned()
}

/// The device behind the first endpoint is paused, and asked for nothing while the other one is polled on.
fn assert_left_alone(site: &Site, when: &str) {
    wait::until(&format!("the agent to pause the device {when}"), SOON, || match condition(site, "tcp-1") {
        paused if paused == "paused" => Ok(()),
        other => Err(other),
    });
    let requests = |place: usize| site.tcp[place].stats().requests;
    let before = (requests(0), requests(1));
    wait::until_true("the other device's polls", SOON, || requests(1) >= before.1 + 10);
    assert_eq!(requests(0), before.0, "{when}");
}

#[test]
fn an_agent_polls_a_device_no_more_whose_agreement_has_ended_and_again_when_it_goes_on() {
    let usual = SiteSpec::default();
    let mut devices = usual.devices.clone();
    devices.truncate(2);
    devices[1].place = Place::Tcp(1);
    let mut site = Site::new(SiteSpec { embedded_broker: true, devices, ..usual });
    let path = site.path("collector.toml");
    let goes_on = std::fs::read_to_string(&path).expect("it was written");
    let ended = format!("{goes_on}\n[housekeeping.agreement_ends]\n\"{SITE}/tcp-1\" = \"2025-12-31\"\n");
    std::fs::write(&path, ended).expect("the folder can be written");
    site.start_collector();
    site.start_agent();
    let api = site.api();
    assert_left_alone(&site, "at first");
    assert_eq!(device(&api, "tcp-1")["collection"]["state"], "agreement_ended");
    // A new process does not know of it.
    site.stop_agent();
    site.start_agent();
    assert_left_alone(&site, "after a start");

    let since = settle::now();
    site.stop_collector();
    std::fs::write(&path, goes_on).expect("the folder can be written");
    site.start_collector();
    let api = site.api();
    let readings = || api.readings(&format!("{SITE}/tcp-1/eval_time_ms"));
    wait::until("readings after the agreement was renewed", SOON, || {
        let fresh = readings()?.into_iter().filter(|reading| reading.at_ms > since.0).count();
        if fresh > 5 { Ok(()) } else { Err(fresh.to_string()) }
    });
    assert_eq!(device(&api, "tcp-1")["collection"]["state"], "active");
}
