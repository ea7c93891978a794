//! The production driver on simulated lines: every slot is accounted for, and no value is anything but the truth.

use gapless_agent::bus::{BusCommand, Driver, STOP_PATIENCE, Turn};
use gapless_agent::clock::Now;
use gapless_agent::config::{Bus, Device, Link, Parity, Serial, Tcp, TcpFraming};
use gapless_common::id::BusId;
use gapless_common::time::Timestamp;

use super::fault::{Chances, Fault};
use super::ground::{Said, SimGround};
use super::meter::{self, Account, ns};
use super::*;

/// 2026-01-01T00:00:00Z, a multiple of all intervals here.
const BEGAN_MS: i64 = 1_767_225_600_000;
const TIMEOUT_MS: u32 = 200;
const INTERVAL_MS: u64 = 1_000;
const SERIAL: Wire = Wire::Serial { baud: 9_600, character_bits: 10, chunk_ms: None };
const ADAPTER: Wire = Wire::Serial { baud: 38_400, character_bits: 11, chunk_ms: Some(16) };
const WIRES: [Wire; 4] = [SERIAL, ADAPTER, Wire::Mbap, Wire::SerialServer];

fn look(ns: u64) -> Now {
    let ms = ns / MS;
    Now { boot_ms: ms, wall: Timestamp(BEGAN_MS + i64::try_from(ms).unwrap()), wall_set: true }
}

fn setup(wire: Wire, seed: u64, chances: Chances) -> Setup {
    Setup {
        wire,
        units: vec![(1, meter::kind()), (2, meter::kind())],
        turnaround_us: (500, 8_000),
        latency_us: 900,
        began_ms: BEGAN_MS,
        seed,
        chances,
    }
}

fn link(wire: Wire) -> Link {
    let tcp = |framing| Link::Tcp(Tcp { host: "simulated".into(), port: 502, framing });
    match wire {
        Wire::Mbap => tcp(TcpFraming::Mbap),
        Wire::SerialServer => tcp(TcpFraming::Rtu),
        Wire::Serial { baud, character_bits, chunk_ms } => Link::Serial(Serial {
            port: "simulated".into(),
            baud,
            parity: if character_bits == 11 { Parity::Even } else { Parity::None },
            stop_bits: 1,
            rs485: false,
            low_latency: chunk_ms.is_none(),
        }),
    }
}

/// A driver on a line with two meters.
struct Scene {
    ground: SimGround,
    driver: Driver,
    devices: Vec<Device>,
    said: Vec<Said>,
}

impl Scene {
    fn new(wire: Wire, seed: u64, chances: Chances, retries: u8) -> Self {
        let device = |index| meter::device(index, INTERVAL_MS, TIMEOUT_MS, retries);
        Self::of(wire, seed, chances, [0, 1].map(device).to_vec())
    }

    /// Devices of one request each, with slots of `interval_ms`.
    fn with_intervals(wire: Wire, interval_ms: u64, seed: u64) -> Self {
        let device = |index| {
            let mut device = meter::device(index, interval_ms, TIMEOUT_MS, 0);
            device.channels.truncate(4);
            device
        };
        Self::of(wire, seed, Chances::none(), [0, 1].map(device).to_vec())
    }

    fn with_timeouts(wire: Wire, timeout_ms: u32) -> Self {
        let device = |index| {
            let mut device = meter::device(index, INTERVAL_MS, timeout_ms, 0);
            device.channels.truncate(4);
            device
        };
        Self::of(wire, 9, Chances::none(), [0, 1].map(device).to_vec())
    }

    fn of(wire: Wire, seed: u64, chances: Chances, devices: Vec<Device>) -> Self {
        let bus = Bus { id: BusId::new("b").unwrap(), link: link(wire), devices: devices.clone() };
        let ground = SimGround::new(SimLine::new(&setup(wire, seed, chances)).unwrap(), Box::new(look));
        Self { ground, driver: Driver::new(bus, look(0), look(0)).unwrap(), devices, said: vec![] }
    }

    fn run_until(&mut self, ms: u64) -> Turn {
        let turn = self.ground.drive(&mut self.driver, ns(ms));
        self.said.extend(std::iter::from_fn(|| self.ground.take_said()));
        turn
    }

    /// Stops the driver, and holds all that it said against the truth.
    #[track_caller]
    fn end(mut self, what: &str) -> (SimLine, [Account; 2]) {
        self.ground.command(BusCommand::Stop);
        assert_eq!(self.run_until(u64::MAX / MS), Turn::Ended, "{what}");
        for device in &self.devices {
            for said in &self.said {
                if let Err(why) = meter::check(&self.ground.line, device, said, 0) {
                    panic!("{what}: {why}");
                }
            }
        }
        let accounts = [0, 1].map(|index| Account::of(self.devices[index].index, &self.said));
        for account in &accounts {
            assert!(account.is_whole(), "{what}: {account:?}");
        }
        (self.ground.line, accounts)
    }
}

#[test]
fn a_good_line_gives_every_slot_and_keeps_its_silent_intervals() {
    for wire in WIRES {
        let mut scene = Scene::new(wire, 1, Chances::none(), 0);
        scene.run_until(60_500);
        let (line, accounts) = scene.end("good");
        for account in accounts {
            assert_eq!(account.read.len(), 61, "{wire:?}");
            assert!(account.read.values().all(|good| *good), "{wire:?}");
            assert_eq!(account.missed, BTreeMap::new(), "{wire:?}");
        }
        assert_eq!((line.gap_violations(), line.faults().len()), (0, 0), "{wire:?}");
        assert_eq!(line.served().len(), 2 * 2 * 61, "{wire:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut scene = Scene::new(SERIAL, seed, Chances::of_every_kind(200, TIMEOUT_MS), 1);
        scene.run_until(120_000);
        (scene.said, scene.ground.line.served().to_vec())
    };
    let (one, again, other) = (run(7), run(7), run(8));
    assert_eq!(one, again);
    assert_ne!(one, other);
}

/// One fault of each kind on both requests of a slot of unit 1, and what becomes of the slot.
#[test]
fn each_fault_is_a_miss_with_its_cause_and_never_a_value() {
    let late = |from_ms, to_ms| Fault::Late { from_ms, to_ms };
    let rows: [(Fault, Option<&str>); 13] = [
        (Fault::Silent, Some("no_answer")),
        (late(20, 120), None),
        (late(230, 230), Some("no_answer")),
        (late(300, 300), Some("no_answer")),
        (late(390, 390), Some("no_answer")),
        (Fault::Truncated, Some("corrupt")),
        (Fault::WrongCheck, Some("corrupt")),
        (Fault::WrongUnit, Some("corrupt")),
        (Fault::WrongFunction, Some("corrupt")),
        (Fault::WrongCount, Some("corrupt")),
        (Fault::Exception { code: 4 }, Some("refused")),
        (Fault::Unplugged { from_ms: 2_500, to_ms: 2_500 }, Some("not_connected")),
        (Fault::Restart, Some("no_answer")),
    ];
    for wire in WIRES {
        for (fault, cause) in rows {
            let what = format!("{fault:?} on {wire:?}");
            let mut scene = Scene::new(wire, 3, Chances::none(), 0);
            scene.run_until(5_500);
            scene.ground.line.strike(1, fault, 2);
            scene.run_until(20_500);
            let (line, [account, _]) = scene.end(&what);
            assert_eq!(line.announced(1), 0, "{what}");
            let causes: Vec<&str> = account.causes().into_keys().collect();
            assert_eq!(causes, cause.into_iter().collect::<Vec<_>>(), "{what}");
        }
    }
}

/// An answer that comes while another request is awaited, which it would fit: late, behind noise, in the next poll.
#[test]
fn a_late_answer_is_never_a_reading_of_another_request() {
    let late = |ms| Fault::Late { from_ms: ms, to_ms: ms };
    let noise_then = |ms| Fault::NoiseThenLate { bytes: 2, from_ms: ms, to_ms: ms };
    let between = Fault::NoiseBetween { bytes: 5, from_ms: 1, to_ms: 1 };
    let slow = late(150);
    let rows: [(&str, Vec<Fault>, u8); 7] = [
        ("during the settling", vec![late(230), slow], 0),
        ("after the settling", vec![late(270), slow], 0),
        ("at the last moment", vec![late(390), slow], 0),
        ("with a retry under way", vec![late(270), slow, slow], 1),
        ("behind noise", vec![noise_then(180), slow], 0),
        ("long behind noise", vec![noise_then(390), slow, slow], 1),
        ("with noise before it", vec![between, late(320), slow, slow], 0),
    ];
    for wire in WIRES {
        for (what, faults, retries) in &rows {
            let what = format!("{what} on {wire:?}");
            let mut scene = Scene::new(wire, 5, Chances::none(), *retries);
            scene.run_until(5_500);
            faults.iter().for_each(|fault| scene.ground.line.strike(1, *fault, 1));
            scene.run_until(12_500);
            let (line, [account, _]) = scene.end(&what);
            assert_eq!(line.announced(1), 0, "{what}");
            assert!(account.read.len() + account.missed.len() == 13, "{what}: {account:?}");
            assert_eq!(account.read.values().filter(|good| **good).count() < 13, *retries == 0, "{what}");
        }
    }
}

/// One request, slots shorter than an answer may be late: the answer of one slot must not be read for the next.
#[test]
fn a_late_answer_is_never_a_reading_of_another_slot() {
    for wire in WIRES {
        for late_ms in [210, 260, 330, 390] {
            let what = format!("late by {late_ms} on {wire:?}");
            let mut scene = Scene::with_intervals(wire, 250, 6);
            scene.run_until(5_500);
            scene.ground.line.strike(1, Fault::Late { from_ms: late_ms, to_ms: late_ms }, 1);
            scene.ground.line.strike(1, Fault::Late { from_ms: 150, to_ms: 150 }, 2);
            scene.run_until(12_500);
            let (line, [account, _]) = scene.end(&what);
            assert_eq!(line.announced(1), 0, "{what}");
            assert!(account.causes().contains_key("no_answer"), "{what}: {:?}", account.causes());
        }
    }
}

/// A device that may take a minute to answer, and a bus that is to stop: it ends within its patience, what comes within
/// it is stored, and the slot is accounted for either way.
#[test]
fn a_stop_waits_for_an_answer_no_longer_than_its_patience() {
    let rows = [(400, true), (900, true), (1_500, false), (30_000, false)];
    let patience = u64::try_from(STOP_PATIENCE.as_millis()).unwrap();
    for wire in WIRES {
        for (after_ms, is_read) in rows {
            let what = format!("answered {after_ms} ms after the stop on {wire:?}");
            let mut scene = Scene::with_timeouts(wire, 60_000);
            scene.run_until(5_900);
            let (took_ms, total_ms) = (2_000, 2_000 + after_ms);
            scene.ground.line.strike(1, Fault::Late { from_ms: total_ms, to_ms: total_ms }, 1);
            scene.run_until(5_999);
            // The poll of the slot at 6 s is one turn: the stop comes while it lasts.
            scene.ground.command_at(ns(6_000 + took_ms), BusCommand::Stop);
            assert_eq!(scene.run_until(120_000), Turn::Ended, "{what}");
            let last = scene.said.iter().map(|said| said.at_ns).max().unwrap();
            let late_by = last.saturating_sub(ns(6_000 + took_ms));
            assert!(late_by < ns(patience + 200), "{what}: {late_by} ns");
            let (_, [account, _]) = scene.end(&what);
            assert_eq!(account.read.len(), 6 + usize::from(is_read), "{what}: {account:?}");
            let last = account.missed.last_key_value().map(|(_, cause)| *cause);
            assert_eq!(last, Some("stopped"), "{what}: the slot of the stop");
        }
    }
}

/// Seeds per wire of the run below; `GAPLESS_LINE_SEEDS` asks for more.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("GAPLESS_LINE_SEEDS").ok().and_then(|text| text.parse().ok());
    0..asked.unwrap_or(6)
}

/// All faults at once, many seeds: the account is whole and every value true.
#[test]
fn whatever_goes_wrong_nothing_is_stored_but_the_truth() {
    for wire in WIRES {
        for seed in seeds() {
            let retries = u8::try_from(seed % 3).unwrap();
            let mut scene = Scene::new(wire, seed, Chances::of_every_kind(150, TIMEOUT_MS), retries);
            scene.run_until(200_000);
            let (line, accounts) = scene.end(&format!("seed {seed} on {wire:?}"));
            assert!(line.faults().len() > 10, "seed {seed} on {wire:?}: {:?}", line.faults());
            assert!(accounts.iter().all(|account| account.read.len() > 60), "seed {seed} on {wire:?}");
        }
    }
}
