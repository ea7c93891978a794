//! The bytes of wire v1. **Do not change this test**: outboxes and brokers in the field hold these bytes. A new
//! kind gets a new row; a new version gets a file of its own beside this one.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests fail like tests")]

use std::collections::BTreeMap;

use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::*;
use gapless_common::message::*;
use gapless_common::quality::{Cause, ExceptionCode, Quality};
use gapless_common::reading::*;
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::AgentPath;
use gapless_common::wire::{self, Message};

const AT: Timestamp = Timestamp(1_769_860_800_050);
const EPOCH: Epoch = Epoch(0x0123_4567_89AB_CDEF);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn catalog() -> Catalog {
    let channel = |id: &str, unit: &str, aggregation| Channel {
        id: ChannelId::new(id).unwrap(),
        unit: unit.into(),
        quantity: "any".into(),
        aggregation,
        label: PeriodLabel::End,
        attributes: BTreeMap::from([("height".to_owned(), "80".to_owned())]),
    };
    let channels = vec![
        channel("u", "V", Aggregation::Instant),
        channel("e", "kWh", Aggregation::Counter),
        channel("d", "deg", Aggregation::CircularMean),
    ];
    let grid = SlotGrid { interval: Interval::from_ms(1_000).unwrap(), phase_ms: 50 };
    let attributes = BTreeMap::from([("make".to_owned(), "x".to_owned())]);
    Catalog {
        devices: vec![Device { id: DeviceId::new("m").unwrap(), grid, paused: false, channels, attributes }],
    }
}

fn good(channel: u16, value: f64) -> Sample {
    Sample { channel: ChannelIndex(channel), value: Some(Value::Number(value)), quality: Quality::Good }
}

fn answer(acquired: Acquired, samples: Vec<Sample>) -> Record {
    Record::Readings(Readings { device: DeviceIndex(0), acquired, at: AT, samples })
}

fn slot(n: i64) -> Acquired {
    Acquired::InSlot(Slot(1_769_860_800 + n))
}

fn records() -> Vec<(&'static str, Record)> {
    let bad =
        Sample { channel: ChannelIndex(7), value: None, quality: Quality::BadRefused(ExceptionCode(2)) };
    let text =
        Sample { channel: ChannelIndex(9), value: Some(Value::Text("SN1".into())), quality: Quality::Good };
    let (hash, bytes) = wire::encode_catalog(&catalog());
    vec![
        ("readings, decimals", answer(slot(0), vec![good(0, 230.1), good(1, 12.34)])),
        (
            "readings, f32",
            answer(slot(0), vec![good(0, f64::from(230.123_46f32)), good(1, f64::from(1e-9f32))]),
        ),
        ("readings, f64", answer(slot(0), vec![good(3, std::f64::consts::PI), good(4, -0.0)])),
        ("readings, mixed", answer(Acquired::SinceBoot(61_000), vec![good(0, 1.5), bad, text])),
        ("readings, recorded", answer(Acquired::Recorded(Slot(7)), vec![good(0, -1.0)])),
        ("catalog", Record::Catalog(CatalogRecord { hash, since: Some(AT), bytes })),
        (
            "start",
            Record::Start(EpochStart {
                previous: Some((EPOCH, Seq(9))),
                boot: BootId(5),
                boot_clock_ms: 61_000,
                at: AT,
                clock_set: true,
                durable: true,
                agent_version: "0.1.0".into(),
            }),
        ),
        (
            "misses",
            Record::Misses(Misses {
                device: DeviceIndex(1),
                first: Slot(1_769_860_800),
                count: 60,
                cause: Cause::Refused(ExceptionCode(11)),
            }),
        ),
        ("downtime", Record::Downtime(Downtime { from: Timestamp(0), to: AT, cause: Cause::PowerOff })),
        (
            "complete",
            Record::Complete(Completeness {
                through: vec![(DeviceIndex(0), Slot(8)), (DeviceIndex(2), Slot(-1))],
            }),
        ),
        (
            "loss",
            Record::Loss(Loss {
                epoch: EPOCH,
                first: Seq(3),
                last: Seq(400),
                from: Timestamp(1),
                to: AT,
                cause: Cause::BudgetFull,
            }),
        ),
        (
            "clock correction",
            Record::ClockCorrection(ClockCorrection {
                boot: BootId(5),
                epoch: EPOCH,
                first: Seq(1),
                last: Seq(300),
                boot_began: AT,
            }),
        ),
    ]
}

fn data(records: Vec<Record>) -> Message {
    Message::Data(DataFrame {
        agent: AgentTag(0xA101),
        connection: ConnectionId(0x1122_3344),
        epoch: EPOCH,
        first: Seq(300),
        catalog: CatalogHash(0xFEDC_BA98_7654_3210),
        records,
    })
}

/// Six answers of two channels in one block: a Level column and a Drift column, then a row.
fn columns() -> Message {
    let volts = [230.1, 229.9, 230.4, 230.0, 230.2, 229.8];
    let answers =
        (0..).zip(volts).map(|(n, u)| answer(slot(n), vec![good(0, u), good(1, 12.0 + n as f64 / 100.0)]));
    data(answers.chain([records().remove(7).1]).collect())
}

fn health(clock: Option<ClockReading>) -> Message {
    let outbox = OutboxFill { owed_bytes: 12 << 20, most_bytes: 62 << 20 };
    Message::State(AgentState::Health { connection: ConnectionId(0x1122_3344), outbox, clock })
}

fn messages() -> Vec<(&'static str, Message)> {
    let mast = || DeviceId::new("mast").unwrap();
    let command = |body| Message::Command(Command { id: 77, expires: AT, body });
    let reply = |outcome| Message::Reply(Reply { id: 77, outcome });
    let (hash, bytes) = wire::encode_catalog(&Catalog::default());
    let range = vec![(Seq(12), Seq(20))];
    let epoch = EpochAck { epoch: EPOCH, watermark: Seq(10), above: range.clone(), parked: range };
    vec![
        ("data, a row", data(vec![answer(slot(0), vec![good(0, 230.1)])])),
        ("data, columns", columns()),
        (
            "birth",
            Message::State(AgentState::Birth {
                path: AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw-1").unwrap() },
                connection: ConnectionId(0x1122_3344),
                agent_version: "0.1.0".into(),
                boot: BootId(5),
                epoch: EPOCH,
                catalog: CatalogHash(6),
                held: vec![HeldEpoch { epoch: EPOCH, first: Seq(1), next: Seq(300) }],
                durable: true,
                clock_set: false,
                flush_ms: 900_000,
            }),
        ),
        ("gone", Message::State(AgentState::Gone { connection: ConnectionId(0x1122_3344), clean: true })),
        ("health", health(Some(ClockReading { boot_ms: 86_400_000, wall: AT }))),
        ("health, clock not set", health(None)),
        ("catalog", Message::Catalog { hash, bytes }),
        ("ack", Message::Ack(Ack { incarnation: Incarnation(8), commit: Commit(300), epochs: vec![epoch] })),
        ("live", command(CommandBody::Live { until: AT })),
        ("resend", command(CommandBody::Resend { epoch: EPOCH, first: Seq(3), last: Seq(4) })),
        ("send catalog", command(CommandBody::SendCatalog(CatalogHash(6)))),
        ("poll now", command(CommandBody::PollNow(mast()))),
        ("read history", command(CommandBody::ReadHistory { device: mast(), from: Timestamp(0), to: AT })),
        ("pause", command(CommandBody::Pause { device: mast(), paused: true })),
        ("unknown command", command(CommandBody::Unknown)),
        ("done", reply(Outcome::Done)),
        ("expired", reply(Outcome::Expired)),
        ("failed", reply(Outcome::Failed("no".into()))),
        ("no data", reply(Outcome::NoData)),
        ("presence", Message::Presence(Presence { incarnation: Incarnation(8), online: true })),
    ]
}

/// All rows are compared before the test fails, so that a new row shows its bytes.
fn check(found: &[(String, String)], pinned: &[(&str, &str)]) {
    let pinned: Vec<(String, String)> =
        pinned.iter().map(|(what, hex)| ((*what).into(), (*hex).into())).collect();
    for (what, hex) in found.iter().filter(|row| !pinned.contains(row)) {
        println!("        (\"{what}\", \"{hex}\"),");
    }
    assert!(found == pinned, "these bytes are frozen; the rows above differ");
}

#[test]
fn records_are_pinned() {
    let encode = |(what, record): (&str, Record)| {
        let bytes = wire::encode_record(&record);
        assert_eq!(wire::decode_record(&bytes), Ok(record), "{what}");
        (what.to_owned(), hex(&bytes))
    };
    let found: Vec<(String, String)> = records().into_iter().map(encode).collect();
    check(
        &found,
        &[
            ("readings, decimals", "011c0080bbef970de4f8e4be82670501fa2302a413"),
            ("readings, f32", "011c0080bbef970de4f8e4be8267051e9b1f66431302"),
            ("readings, f64", "011c0080bbef970de4f8e4be82670203021f182d4454fb2109401e00000080"),
            ("readings, mixed", "011900c8dc03e4f8e4be82670600010601010100018105010001011e2003534e31"),
            ("readings, recorded", "011e000ee4f8e4be8267030001"),
            (
                "catalog",
                "02958e83eba991ea830a01e4f8e4be8267562a01016de8073200030175015603616e7900010165036b576803616e79050101640364656703616e7907010101046d616b65017803010668656967687402383001066865696768740238300106686569676874023830",
            ),
            ("start", "0301ef9bafcdf8acd191010905c8dc03e4f8e4be8267010105302e312e30"),
            ("misses", "040180bbef970d3c8216"),
            ("downtime", "0500e4f8e4be826709"),
            ("complete", "060200100201"),
            ("loss", "07ef9bafcdf8acd1910103900302e4f8e4be82670b"),
            ("clock correction", "0805ef9bafcdf8acd1910101ac02e4f8e4be8267"),
        ],
    );
}

#[test]
fn messages_are_pinned() {
    let encode = |(what, message): (&str, Message)| {
        let bytes = match &message {
            Message::Data(frame) => wire::encode_data(frame, &catalog()).unwrap(),
            other => wire::encode(other).unwrap(),
        };
        assert_eq!(wire::decode(&bytes), Ok(message), "{what}");
        (what.to_owned(), hex(&bytes))
    };
    let found: Vec<(String, String)> = messages().into_iter().map(encode).collect();
    check(
        &found,
        &[
            (
                "data, a row",
                "47b701014433221101a1efcdab89674523011032547698badcfeac020116f041dc4000010012011c0080bbef970de4f8e4be82670301fa23",
            ),
            (
                "data, columns",
                "47b701014433221101a1efcdab89674523011032547698badcfeac02072fcf5afe9e010400e807320605aa0002aa80bbef970d02aa00cf0f0117f4238b450002aae0120201060a040180bbef970d3c8216",
            ),
            (
                "birth",
                "47b7010233aaa9f32400046661726d0467772d31c4e688890105302e312e3005ef9bafcdf8acd191010601ef9bafcdf8acd1910101ac020100a0f736",
            ),
            ("gone", "47b70102079e365da701c4e688890101"),
            ("health", "47b70102199fde8a7302c4e6888901808080068080801f0180b89929e4f8e4be8267"),
            ("health, clock not set", "47b701020fed91ff8302c4e6888901808080068080801f00"),
            ("catalog", "47b701030b156a28966e340b9cffb37a98010000"),
            ("ack", "47b70104142979a59b08ac0201ef9bafcdf8acd191010a010c14010c14"),
            ("live", "47b701050f8a29b0bf4de4f8e4be82670700e4f8e4be8267"),
            ("resend", "47b70105140d75b1e64de4f8e4be82670c01ef9bafcdf8acd191010304"),
            ("send catalog", "47b701050a029e43364de4f8e4be8267020206"),
            ("poll now", "47b701050e827c8e0b4de4f8e4be82670603046d617374"),
            ("read history", "47b70105151adcbb534de4f8e4be82670d04046d61737400e4f8e4be8267"),
            ("pause", "47b701050f39f9060d4de4f8e4be82670705046d61737401"),
            ("unknown command", "47b70105084e3bac434de4f8e4be826700"),
            ("done", "47b70106029263c58f4d00"),
            ("expired", "47b701060291e0ae7d4d01"),
            ("failed", "47b70106059dd15aab4d02026e6f"),
            ("no data", "47b70106026690959c4d03"),
            ("presence", "47b70107028675d4020801"),
        ],
    );
}
