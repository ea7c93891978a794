//! The main job under kills: the broker is away for a fifth of the time, the agent and the collector are killed
//! three times each. Afterwards every slot is stored once with the exact value, or is a gap with its cause.
//!
//! 90 seconds unless `GAPLESS_CHAOS_SECONDS` says otherwise (`./dev chaos` takes ten minutes).

use std::time::{Duration, Instant};

use gapless_tests::audit;
use gapless_tests::site::{Site, SiteSpec};

#[derive(Debug, Clone, Copy)]
enum Blow {
    BrokerAway,
    BrokerBack,
    KillAgent,
    StartAgent,
    KillCollector,
    StartCollector,
}

/// When what happens, in thousandths of the run.
const BLOWS: [(u32, Blow); 16] = [
    (100, Blow::BrokerAway),
    (200, Blow::BrokerBack),
    (280, Blow::KillAgent),
    (300, Blow::StartAgent),
    (380, Blow::KillCollector),
    (420, Blow::StartCollector),
    (500, Blow::BrokerAway),
    (540, Blow::KillAgent),
    (570, Blow::StartAgent),
    (600, Blow::BrokerBack),
    (660, Blow::KillCollector),
    (700, Blow::StartCollector),
    (780, Blow::KillAgent),
    (800, Blow::StartAgent),
    (860, Blow::KillCollector),
    (880, Blow::StartCollector),
];

fn strike(site: &mut Site, blow: Blow) {
    match blow {
        Blow::BrokerAway => site.broker.as_mut().expect("Mosquitto").kill(),
        Blow::BrokerBack => site.broker.as_mut().expect("Mosquitto").resume(),
        Blow::KillAgent => site.kill_agent(),
        Blow::StartAgent => site.start_agent(),
        Blow::KillCollector => site.kill_collector(),
        Blow::StartCollector => site.start_collector(),
    }
}

fn run_time() -> Duration {
    let seconds = std::env::var("GAPLESS_CHAOS_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(90);
    Duration::from_secs(seconds)
}

#[test]
fn every_slot_is_stored_once_or_is_a_gap_with_its_cause() {
    let mut site = Site::new(SiteSpec::default());
    site.start_collector();
    site.start_agent();
    let (began, length) = (Instant::now(), run_time());
    for (thousandth, blow) in BLOWS {
        let at = began + length * thousandth / 1_000;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        strike(&mut site, blow);
    }
    std::thread::sleep((began + length).saturating_duration_since(Instant::now()));

    for account in audit::stop_and_audit(&mut site, Duration::from_secs(90)) {
        println!("{account:?}");
        // Only the agent's own absence may cost slots; a machine too busy to poll says so itself.
        assert!(
            account.misses_only(&["crashed", "overrun"]),
            "causes that nothing here explains: {account:?}"
        );
        let crashed = account.missing_for("crashed");
        assert!(crashed >= 2, "three kills must have cost slots: {account:?}");
        assert!(account.received > 3 * crashed, "{account:?}");
    }
}
