//! Carries a schedule of mischief out on a running site, and keeps what was really done and when: what a gap may be
//! explained with.
//!
//! Decides nothing: what happens is [`mischief`](crate::mischief)'s word, what it explains [`explain`](crate::explain)'s.

use std::time::{Duration, Instant};

use gapless_common::time::Timestamp;
use gapless_simulators::modbus::{Fault, FaultKind, Faults};

use crate::broker::Broker;
use crate::deed::{Deed, MachineWatch, Trouble};
use crate::mischief::{Means, Mischief, Strike};
use crate::process::Process;
use crate::proxy::Mood;
use crate::settle;
use crate::site::{DeviceSpec, Place, Site};
use crate::wait;

/// How long the agent may hold on to a disk that has failed.
const LET_GO_WITHIN: Duration = Duration::from_secs(90);
/// How often the processes are looked at between two strikes.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What can be done to `site`.
#[must_use]
pub fn means(site: &Site) -> Means {
    Means {
        devices: site.spec.devices.len(),
        endpoints: site.tcp.len(),
        disks: site.outbox_disk.is_some() && site.collector_disk.is_some(),
        failing_disk: site.outbox_disk.as_ref().is_some_and(crate::small_disk::SmallDisk::can_fail),
    }
}

/// Does it all, ends it all, and returns what was done; `say` is told of each deed as it begins and ends.
///
/// # Panics
/// When a process ends by itself, or a disk cannot be put back.
pub fn wreak(site: &mut Site, schedule: &[Strike], say: impl Fn(&str)) -> Vec<Deed> {
    let watch = MachineWatch::start();
    let began = Instant::now();
    let begins = schedule.iter().map(|strike| (strike.at_ms, true, strike));
    let ends = schedule.iter().map(|strike| (strike.at_ms + strike.lasts_ms, false, strike));
    let mut events: Vec<_> = begins.chain(ends).collect();
    events.sort_by_key(|(at_ms, ..)| *at_ms);
    let mut open: Vec<(Mischief, Timestamp)> = Vec::new();
    let mut deeds = Vec::new();
    for (at_ms, is_begin, strike) in events {
        pass_time(site, began + Duration::from_millis(at_ms));
        let seconds = began.elapsed().as_secs_f64();
        say(&format!("{seconds:6.1} s  {} {}", if is_begin { "begin" } else { "end  " }, strike.what));
        if is_begin {
            open.push((strike.what, settle::now()));
            begin(site, strike.what);
        } else {
            end(site, strike.what);
            if let Some(at) = open.iter().position(|(what, _)| *what == strike.what) {
                let (what, from) = open.remove(at);
                deeds.push(Deed { what: Trouble::Done(what), from, to: settle::now() });
            }
        }
    }
    deeds.extend(watch.stop());
    deeds
}

/// Sleeps until `until`, looking that nobody ends by itself.
fn pass_time(site: &mut Site, until: Instant) {
    loop {
        let dead = site.died();
        assert!(dead.is_empty(), "a process has ended by itself: {}", dead.join("\n---\n"));
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::sleep(left.min(LOOK_EVERY));
    }
}

fn begin(site: &mut Site, what: Mischief) {
    match what {
        Mischief::KillAgent => site.kill_agent(),
        Mischief::FreezeAgent => site.agent().freeze(),
        Mischief::FillOutbox => outbox_disk(site).fill(),
        Mischief::FillOutboxAndRestart => {
            outbox_disk(site).fill();
            site.kill_agent();
            site.start_agent();
        }
        Mischief::RestartReadOnly => {
            site.kill_agent();
            outbox_disk(site).remount(false).expect("nobody has a file open");
            site.start_agent();
        }
        Mischief::FailOutbox => outbox_disk(site).fail(),
        Mischief::KillBroker => site.broker.as_mut().expect("Mosquitto").kill(),
        Mischief::FreezeBroker => broker(site).freeze(),
        Mischief::KillCollector => site.kill_collector(),
        Mischief::FreezeCollector => site.collector().freeze(),
        Mischief::FillCollector => site.collector_disk.as_ref().expect("a small disk").fill(),
        Mischief::AgentLink(mood) => site.agent_link.as_ref().expect("a link").set(mood),
        Mischief::CollectorLink(mood) => site.collector_link.as_ref().expect("a link").set(mood),
        Mischief::UnplugLine => site.line.unplug(),
        Mischief::UnplugTcp(n) => site.tcp[n].unplug(),
        Mischief::Silence(n) => faults(site, n).silent(),
        Mischief::RestartDevice(n) => {
            let spec = &site.spec.devices[n];
            faults(site, n).silent();
            site.units(spec).device(spec.unit).expect("it is there").restart(settle::now().0);
        }
        Mischief::Garble(n) => faults(site, n).add(Fault::new(FaultKind::WrongCrc)),
    }
}

fn end(site: &mut Site, what: Mischief) {
    match what {
        Mischief::KillAgent => site.start_agent(),
        Mischief::FreezeAgent => site.agent().thaw(),
        Mischief::FillOutbox | Mischief::FillOutboxAndRestart => outbox_disk(site).free(),
        Mischief::RestartReadOnly => outbox_disk(site).remount(true).expect("a disk can be made writable"),
        Mischief::FailOutbox => put_disk_back(site),
        Mischief::KillBroker => site.broker.as_mut().expect("Mosquitto").resume(),
        Mischief::FreezeBroker => broker(site).thaw(),
        Mischief::KillCollector => site.begin_collector(),
        Mischief::FreezeCollector => site.collector().thaw(),
        Mischief::FillCollector => site.collector_disk.as_ref().expect("a small disk").free(),
        Mischief::AgentLink(_) => site.agent_link.as_ref().expect("a link").set(Mood::Open),
        Mischief::CollectorLink(_) => site.collector_link.as_ref().expect("a link").set(Mood::Open),
        Mischief::UnplugLine => site.line.replug().expect("a new pty"),
        Mischief::UnplugTcp(n) => site.tcp[n].replug().expect("the port is still free"),
        Mischief::Silence(n) | Mischief::RestartDevice(n) | Mischief::Garble(n) => faults(site, n).clear(),
    }
}

/// The agent is held still for the moment, so that it does not open an outbox where no disk is mounted.
fn put_disk_back(site: &mut Site) {
    wait::until("the agent to let go of its failed disk", LET_GO_WITHIN, || {
        site.agent().freeze();
        let done = outbox_disk(site).replace();
        site.agent().thaw();
        done
    });
}

fn outbox_disk(site: &Site) -> &crate::small_disk::SmallDisk {
    site.outbox_disk.as_ref().expect("a small disk")
}

fn broker(site: &Site) -> &Process {
    site.broker.as_ref().and_then(Broker::process).expect("Mosquitto runs")
}

fn faults(site: &Site, device: usize) -> &Faults {
    let spec: &DeviceSpec = &site.spec.devices[device];
    let found = match spec.place {
        Place::Line => site.line.faults(spec.unit),
        Place::Tcp(n) => site.tcp[n].faults(spec.unit),
    };
    found.expect("the simulator has the unit")
}
