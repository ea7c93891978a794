//! The main job under mischief: agent, broker and collector are killed and frozen at random, their links stall, break
//! and crawl, their disks fill up, turn read-only and fail, ports and devices vanish. Afterwards every slot is stored
//! once with the exact value, or is a gap with its cause, and something that was done explains that cause.
//!
//! All of it follows from one seed, which is told with the command that replays its schedule. A short run of two
//! minutes in all has the same schedule each time; one of `GAPLESS_CHAOS_SECONDS` (`./dev chaos` takes twenty minutes)
//! draws its own unless `GAPLESS_CHAOS_SEED` names one. Of the schedule only what has `GAPLESS_CHAOS_ONLY` in its name,
//! to look into one kind of trouble.

#![expect(clippy::print_stdout, reason = "a run tells its seed, what it does, and what came of it")]

use std::time::{Duration, Instant};

use gapless_common::time::Interval;
use gapless_tests::audit::{self, Account};
use gapless_tests::deed::{Deed, Trouble};
use gapless_tests::mischief::{Mischief, schedule};
use gapless_tests::site::{DeviceSpec, Place, Site, SiteSpec};
use gapless_tests::{explain, havoc, wait};

/// How long mischief is done in a short run; settling comes on top.
const SHORT_S: u64 = 100;
/// Its schedule: nearly every kind of mischief, and an agent that is frozen just as a port is back.
const SHORT_SEED: u64 = 1_795_546_866_514;
/// Everything runs and has delivered something.
const START_WITHIN: Duration = Duration::from_secs(120);
/// Everything is whole again: the longest waits that follow a failure are those of the uplink, for a broker and for
/// an acknowledgement.
const HEAL_WITHIN: Duration = Duration::from_secs(400);
/// What was polled last has arrived.
const PROOF_WITHIN: Duration = Duration::from_secs(200);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Two devices of 20 channels behind one endpoint, a fast one of 60 behind another, two on the line.
fn spec() -> SiteSpec {
    let mut devices = SiteSpec::default().devices;
    devices.push(DeviceSpec {
        name: "fast".to_owned(),
        unit: 1,
        channels: 60,
        interval: Interval::from_ms(500).expect("within bounds"),
        place: Place::Tcp(1),
    });
    SiteSpec {
        devices,
        // The least there is: what a full disk makes it give up is soon needed.
        budget: "1MiB".to_owned(),
        keep_alive: "10s".to_owned(),
        proxies: true,
        small_disks: true,
        ..SiteSpec::default()
    }
}

/// Waits until every device is fresh, and what it gives is durable on the gateway.
fn settle(site: &Site, within: Duration) {
    wait::until("every device to be fresh, every reading durable", within, || {
        let api = site.api_now()?;
        let (devices, agents) = (api.items("/api/v1/devices")?, api.items("/api/v1/agents")?);
        let fresh = devices.iter().filter(|d| d["freshness"]["state"] == "fresh").count();
        let durable = agents.iter().all(|a| a["link"] == "connected" && a["durable"] == true);
        if fresh == site.spec.devices.len() && durable {
            Ok(())
        } else {
            Err(format!("{fresh} fresh of {devices:?}; {agents:?}"))
        }
    });
}

/// What the collector says of the agent after all that: one, whole, and nothing damaged or contradicted.
fn check_agent(site: &Site) {
    let agents = site.api().items("/api/v1/agents").expect("the API answers");
    assert_eq!(agents.len(), 1, "{agents:?}");
    let agent = &agents[0];
    assert!(agent["cloned_at"].is_null(), "there is no other gateway of its name: {agent}");
    for count in ["conflicts", "damaged_frames", "refused_frames", "missing_records"] {
        assert_eq!(agent[count], 0, "{count} of {agent}");
    }
}

fn check(site: &Site, accounts: &[Account], deeds: &[Deed]) {
    for account in accounts {
        let Account { device, received, missing, compared, .. } = account;
        println!("{device}: {received} slots received, missing {missing:?}, {compared} readings compared");
        for gap in &account.gaps {
            println!("    {} to {}: {} {}", gap.from, gap.to, gap.slots, gap.cause);
        }
        assert!(*received > 10, "{account:?}");
    }
    explain::check(&site.spec.devices, accounts, deeds);
    let kills = deeds.iter().filter(|deed| deed.what == Trouble::Done(Mischief::KillAgent));
    let crashed: u64 = accounts.iter().map(|account| account.missing_for("crashed")).sum();
    assert!(kills.count() == 0 || crashed > 0, "a killed agent must have cost slots");
}

/// Tells the command that does the same again, where the run fails.
struct Replay(String);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the same schedule again: {}", self.0);
        }
    }
}

#[test]
fn every_slot_is_stored_once_or_is_a_gap_whose_cause_was_done() {
    let asked = number("GAPLESS_CHAOS_SECONDS");
    let seed = number("GAPLESS_CHAOS_SEED").unwrap_or_else(|| asked.map_or(SHORT_SEED, |_| drawn()));
    let seconds = asked.unwrap_or(SHORT_S);
    let replay = format!(
        "GAPLESS_CHAOS_SEED={seed} GAPLESS_CHAOS_SECONDS={seconds} cargo test -p gapless-tests --test chaos -- --nocapture"
    );
    println!("{replay}");
    let _replay = Replay(replay);

    let mut site = Site::new(spec());
    site.start_collector();
    site.start_agent();
    settle(&site, START_WITHIN);
    let began = Instant::now();
    let only = std::env::var("GAPLESS_CHAOS_ONLY").unwrap_or_default();
    let mut strikes = schedule(seed, seconds * 1_000, havoc::means(&site));
    strikes.retain(|strike| strike.what.to_string().contains(&only));
    let deeds = havoc::wreak(&mut site, &strikes, |line| println!("{line}"));
    println!("{:6.1} s  all is over", began.elapsed().as_secs_f64());
    settle(&site, HEAL_WITHIN);
    println!("{:6.1} s  every device is fresh", began.elapsed().as_secs_f64());
    let accounts = audit::stop_and_audit(&mut site, PROOF_WITHIN);
    println!("{:6.1} s  audited", began.elapsed().as_secs_f64());
    check(&site, &accounts, &deeds);
    check_agent(&site);
    site.stop_collector();
}

/// Some number that is another one each time.
fn drawn() -> u64 {
    let now = gapless_tests::settle::now().0;
    u64::try_from(now).expect("after 1970")
}
