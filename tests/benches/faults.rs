//! What faults cost: 10 TCP devices × 20 float32 at 1 s; the broker down for 30 s; the same with the agent killed
//! after 15 s and started 5 s later while the broker is still away; the link frozen for 30 s and then reset.
//! Lost, doubled, and seconds unpolled beyond the restart itself.

#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::time::{Duration, Instant};

use gapless_common::time::Interval;
use gapless_tests::site::{DeviceSpec, Place, Site, SiteSpec};
use gapless_tests::{audit, wait};
use rustix::process::Signal;

const DEVICES: usize = 10;
const CHANNELS: u16 = 20;
const CALM: Duration = Duration::from_secs(10);
const FAULT: Duration = Duration::from_secs(30);

fn spec() -> SiteSpec {
    let device = |n: usize| DeviceSpec {
        name: format!("device-{n}"),
        unit: 1,
        channels: CHANNELS,
        interval: Interval::from_ms(1_000).expect("within bounds"),
        place: Place::Tcp(n),
    };
    SiteSpec { devices: (0..DEVICES).map(device).collect(), ..SiteSpec::default() }
}

fn broker_down(site: &mut Site) {
    site.broker.as_mut().expect("Mosquitto").kill();
    std::thread::sleep(FAULT);
    site.broker.as_mut().expect("Mosquitto").resume();
}

fn broker_down_and_agent_killed(site: &mut Site) {
    let began = Instant::now();
    site.broker.as_mut().expect("Mosquitto").kill();
    std::thread::sleep(FAULT / 2);
    site.kill_agent();
    std::thread::sleep(Duration::from_secs(5));
    site.start_agent();
    std::thread::sleep((began + FAULT).saturating_duration_since(Instant::now()));
    site.broker.as_mut().expect("Mosquitto").resume();
}

/// SIGSTOP keeps the connection open and answers nothing; SIGKILL then resets it.
fn link_frozen_then_reset(site: &mut Site) {
    let broker = site.broker.as_mut().expect("Mosquitto");
    broker.process().expect("it runs").signal(Signal::STOP);
    std::thread::sleep(FAULT);
    broker.kill();
    broker.resume();
}

fn run(name: &str, restarts: u64, fault: fn(&mut Site)) {
    let mut site = Site::new(spec());
    site.start_collector();
    site.start_agent();
    wait::until_true("polling", Duration::from_secs(20), || site.tcp.iter().all(|s| s.stats().requests > 2));
    std::thread::sleep(CALM);
    fault(&mut site);
    // A broker that was lost is looked for every 30 s at the longest.
    let api = site.api();
    wait::until_true("fresh readings", Duration::from_secs(60), || {
        let devices = api.items("/api/v1/devices").unwrap_or_default();
        devices.len() == DEVICES && devices.iter().all(|d| d["freshness"]["state"] == "fresh")
    });
    std::thread::sleep(CALM);
    // The audit panics where a reading is lost without a gap, doubled, or not bit for bit what was measured.
    let accounts = audit::stop_and_audit(&mut site, Duration::from_secs(120));
    let compared: u64 = accounts.iter().map(|a| a.compared).sum();
    let unpolled = accounts.iter().map(|a| a.missing.values().sum::<u64>()).max().unwrap_or(0);
    let missing: Vec<_> = accounts.iter().map(|a| &a.missing).filter(|m| !m.is_empty()).take(1).collect();
    println!(
        "{name}: {compared} readings compared; lost 0, doubled 0 (audited); {unpolled} s unpolled at most, {restarts} s of it the restart; causes {missing:?}"
    );
}

fn main() {
    println!("{DEVICES} TCP devices x {CHANNELS} float32 at 1 s, faults of {} s", FAULT.as_secs());
    run("broker down", 0, broker_down);
    run("broker down, agent killed after 15 s and started 5 s later", 5, broker_down_and_agent_killed);
    run("link frozen, then reset", 0, link_frozen_then_reset);
}
