//! The production driver on simulated lines: every slot is accounted for, and no value is anything but the truth.

use gapless_agent::bus::{BusCommand, Driver, Turn};
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
        let devices: Vec<Device> =
            [0, 1].map(|index| meter::device(index, INTERVAL_MS, TIMEOUT_MS, retries)).to_vec();
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
