//! Whatever can be said comes back as it was said; whatever is damaged is refused; nothing makes a decoder panic.
//! The bytes themselves are pinned in `wire_v1_pinned.rs`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::collections::BTreeMap;

use gapless_common::catalog::{Aggregation, Catalog, Channel, Device, PeriodLabel};
use gapless_common::id::*;
use gapless_common::message::*;
use gapless_common::quality::{Cause, ExceptionCode, Quality};
use gapless_common::reading::*;
use gapless_common::time::{Interval, Slot, SlotGrid, Timestamp};
use gapless_common::topic::AgentPath;
use gapless_common::wire::{self, DecodeError, EncodeError, Message};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => (-100_000i64..100_000, 0i32..5).prop_map(|(k, d)| Value::Number(k as f64 / 10f64.powi(d))),
        2 => any::<f32>().prop_map(|v| Value::Number(f64::from(v))),
        1 => any::<u64>().prop_map(|bits| Value::Number(f64::from_bits(bits))),
        1 => Just(Value::Number(-0.0)),
        1 => (-3_000i32..3_000).prop_map(|k| Value::Number(f64::from(k) * 0.1)),
        1 => ".{0,6}".prop_map(|text| Value::Text(text.into())),
    ]
}

fn quality() -> impl Strategy<Value = Quality> {
    let refused = any::<u8>().prop_map(|code| Quality::BadRefused(ExceptionCode(code)));
    prop_oneof![6 => Just(Quality::Good), 1 => Just(Quality::UncertainClock), 1 => refused, 1 => Just(Quality::NoData)]
}

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![Just(Cause::ClockStepped), any::<u8>().prop_map(|code| Cause::Refused(ExceptionCode(code)))]
}

fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let sets = prop_oneof![
        Just(vec![0, 1, 2]),
        Just(vec![4, 5, 9]),
        prop::collection::btree_set(any::<u16>(), 1..6).prop_map(|set| set.into_iter().collect()),
    ];
    let sample = |channel| {
        (quality(), value()).prop_map(move |(quality, value)| Sample {
            channel: ChannelIndex(channel),
            value: quality.has_value().then_some(value),
            quality,
        })
    };
    sets.prop_flat_map(move |set: Vec<u16>| set.into_iter().map(sample).collect::<Vec<_>>())
}

fn acquired() -> impl Strategy<Value = Acquired> {
    let slot = || prop_oneof![4 => 1_700_000i64..1_700_050, 1 => any::<i64>()].prop_map(Slot);
    let clock = prop_oneof![any::<u64>(), 0u64..100_000];
    prop_oneof![
        6 => slot().prop_map(Acquired::InSlot),
        1 => slot().prop_map(Acquired::Recorded),
        2 => clock.prop_map(Acquired::SinceBoot),
    ]
}

fn time() -> impl Strategy<Value = Timestamp> {
    prop_oneof![3 => 1_700_000_000_000i64..1_700_000_100_000, 1 => any::<i64>()].prop_map(Timestamp)
}

prop_compose! {
    fn range()(a: u64, b: u64) -> (Seq, Seq) { (Seq(a.min(b)), Seq(a.max(b))) }
}

fn record() -> impl Strategy<Value = Record> {
    let readings = (0u16..4, acquired(), time(), samples()).prop_map(|(device, acquired, at, samples)| {
        Record::Readings(Readings { device: DeviceIndex(device), acquired, at, samples })
    });
    let others =
        (0u8..7, any::<[u64; 3]>(), range(), [time(), time()], cause(), ".{0,9}", any::<[bool; 2]>());
    let others = others.prop_map(|(kind, [a, b, c], (first, last), [from, to], cause, text, [yes, no])| {
        let (boot, epoch) = (BootId(a), Epoch(b));
        match kind {
            0 => Record::Misses(Misses {
                device: DeviceIndex(7),
                first: Slot(to.0 / 2),
                count: 1 + u32::from(yes),
                cause,
            }),
            1 => Record::Downtime(Downtime { from, to, cause }),
            2 => Record::Loss(Loss { epoch, first, last, from, to, cause }),
            3 => Record::ClockCorrection(ClockCorrection { boot, epoch, first, last, boot_began: to }),
            4 => Record::Catalog(CatalogRecord {
                hash: CatalogHash(c),
                since: yes.then_some(to),
                bytes: text.as_bytes().into(),
            }),
            5 => Record::Complete(Completeness {
                through: vec![(DeviceIndex(0), Slot(from.0)), (DeviceIndex(9), Slot(to.0))],
            }),
            _ => Record::Start(EpochStart {
                previous: yes.then_some((epoch, first)),
                boot,
                boot_clock_ms: c,
                at: to,
                clock_set: yes,
                durable: no,
                agent_version: text.into(),
            }),
        }
    });
    prop_oneof![4 => readings, 1 => others]
}

fn device(id: usize, interval_ms: u32, phase_ms: u32) -> Device {
    let channel = |n: usize| Channel {
        id: ChannelId::new(&format!("c{n}")).unwrap(),
        unit: "V".into(),
        quantity: "voltage".into(),
        aggregation: Aggregation::CircularMean,
        label: PeriodLabel::Start,
        attributes: BTreeMap::new(),
    };
    Device {
        id: DeviceId::new(&format!("d{id}")).unwrap(),
        grid: SlotGrid { interval: Interval::from_ms(u64::from(interval_ms)).unwrap(), phase_ms },
        paused: false,
        channels: (0..3).map(channel).collect(),
        attributes: BTreeMap::new(),
    }
}

/// Three devices; records may name a fourth, which it does not have.
fn catalog() -> Catalog {
    Catalog { devices: vec![device(0, 1_000, 0), device(1, 10_000, 250), device(2, 600_000, 599_999)] }
}

fn frame_of(records: Vec<Record>) -> DataFrame {
    DataFrame {
        connection: ConnectionId(1),
        agent: AgentTag(2),
        epoch: Epoch(3),
        first: Seq(4),
        catalog: CatalogHash(5),
        records,
    }
}

prop_compose! {
    fn frame()(first in 1u64..1 << 60, epoch: u64, records in prop::collection::vec(record(), 1..40)) -> DataFrame {
        DataFrame { first: Seq(first), epoch: Epoch(epoch), ..frame_of(records) }
    }
}

/// `PartialEq` calls a NaN unequal to itself and -0.0 equal to 0.0; the bits do neither.
fn exactly(records: &[Record]) -> Vec<String> {
    let value = |value: &Value| match value {
        Value::Number(number) => format!("{:016x}", number.to_bits()),
        Value::Text(text) => format!("{text:?}"),
    };
    let one = |record: &Record| match record {
        Record::Readings(r) => {
            let samples = r.samples.iter().map(|s| (s.channel, s.quality, s.value.as_ref().map(value)));
            format!("{:?} {:?} {:?} {:?}", r.device, r.acquired, r.at, samples.collect::<Vec<_>>())
        }
        other => format!("{other:?}"),
    };
    records.iter().map(one).collect()
}

fn check_frame(frame: &DataFrame, catalog: &Catalog) -> Vec<u8> {
    let bytes = wire::encode_data(frame, catalog).unwrap();
    let Message::Data(back) = wire::decode(&bytes).unwrap() else { panic!("not data") };
    assert_eq!(exactly(&back.records), exactly(&frame.records));
    let bare = |frame: &DataFrame| DataFrame { records: Vec::new(), ..frame.clone() };
    assert_eq!(bare(&back), bare(frame));
    let header = wire::peek(&bytes).unwrap().data.unwrap();
    assert_eq!(
        (header.epoch, header.first, header.count),
        (frame.epoch, frame.first, frame.records.len() as u64)
    );
    bytes
}

fn message() -> impl Strategy<Value = Message> {
    let ends = prop::collection::btree_set(1u64 << 32.., 0..12).prop_map(|set| {
        let ends: Vec<u64> = set.into_iter().collect();
        ends.chunks_exact(2).map(|pair| (Seq(pair[0]), Seq(pair[1]))).collect::<Vec<_>>()
    });
    let parts =
        (0u8..15, any::<[u64; 3]>(), any::<[u32; 2]>(), range(), [time(), time()], ends, any::<[bool; 2]>());
    parts.prop_map(|(kind, [a, b, c], [d, e], (first, last), [from, to], ranges, [yes, no])| {
        let mast = DeviceId::new("mast").unwrap();
        let command = |body| Message::Command(Command { id: a, expires: to, body });
        let reply = |outcome| Message::Reply(Reply { id: a, outcome });
        match kind {
            0 => Message::State(AgentState::Birth {
                path: AgentPath { site: SiteId::new("farm").unwrap(), agent: AgentId::new("gw-1").unwrap() },
                connection: ConnectionId(d),
                agent_version: "0.1.0".into(),
                boot: BootId(a),
                epoch: Epoch(b),
                catalog: CatalogHash(c),
                held: vec![HeldEpoch { epoch: Epoch(b), first, next: last }],
                durable: yes,
                clock_set: no,
                flush_ms: e,
            }),
            1 => Message::State(AgentState::Gone { connection: ConnectionId(d), clean: yes }),
            2 => {
                let epoch = EpochAck {
                    epoch: Epoch(b),
                    watermark: Seq(u64::from(d)),
                    above: ranges.clone(),
                    parked: ranges,
                };
                Message::Ack(Ack { incarnation: Incarnation(a), commit: Commit(c), epochs: vec![epoch] })
            }
            3 => Message::Presence(Presence { incarnation: Incarnation(a), online: yes }),
            4 => command(CommandBody::Live { until: from }),
            5 => command(CommandBody::Resend { epoch: Epoch(b), first, last }),
            6 => command(CommandBody::SendCatalog(CatalogHash(c))),
            7 => command(CommandBody::PollNow(mast)),
            8 => command(CommandBody::ReadHistory { device: mast, from, to }),
            9 => command(CommandBody::Unknown),
            13 => command(CommandBody::Pause { device: mast, paused: yes }),
            10 => reply(if yes { Outcome::Done } else { Outcome::NoData }),
            11 => reply(Outcome::Expired),
            12 => Message::State(AgentState::Health {
                connection: ConnectionId(d),
                outbox: OutboxFill { owed_bytes: a, most_bytes: b },
                clock: yes.then_some(ClockReading { boot_ms: c, wall: from }),
            }),
            _ => reply(Outcome::Failed(format!("{b}").into())),
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn frames_come_back(frame in frame()) {
        check_frame(&frame, &catalog());
        check_frame(&frame, &Catalog::default());
    }

    #[test]
    fn records_come_back(record in record()) {
        let bytes = wire::encode_record(&record);
        prop_assert_eq!(bytes[0], wire::record_kind(&record) as u8);
        let back = wire::decode_record(&bytes).unwrap();
        prop_assert_eq!(exactly(&[back]), exactly(&[record]));
        for len in 0..bytes.len() {
            let _ = wire::decode_record(&bytes[..len]);
        }
    }

    #[test]
    fn messages_come_back(message in message()) {
        let bytes = wire::encode(&message).unwrap();
        prop_assert_eq!(wire::decode(&bytes), Ok(message));
    }

    #[test]
    fn catalogs_come_back(
        unit in ".{0,8}",
        attributes in prop::collection::btree_map(".{0,8}", ".{0,8}", 0..4),
        paused: bool,
    ) {
        let mut catalog = catalog();
        catalog.devices[1].attributes = attributes.clone();
        catalog.devices[1].paused = paused;
        catalog.devices[0].channels[1].unit = unit.into();
        catalog.devices[0].channels[2].attributes = attributes;
        let (hash, bytes) = wire::encode_catalog(&catalog);
        prop_assert_eq!(wire::decode_catalog(&bytes), Ok((hash, catalog)));
        let message = Message::Catalog { hash, bytes };
        prop_assert_eq!(wire::decode(&wire::encode(&message).unwrap()), Ok(message));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes: Vec<u8>) {
        let _ = wire::decode(&bytes);
        let _ = wire::decode_record(&bytes);
        let _ = wire::decode_catalog(&bytes);
    }

    /// Nonsense behind a checksum that holds: reaches the decoder of every payload.
    #[test]
    fn no_payload_makes_a_decoder_panic(
        kind in 0u8..64, payload in prop::collection::vec(any::<u8>(), 0..127), count in 1u8..100,
    ) {
        let mut bytes = vec![0x47, 0xB7, 1, kind];
        if kind & 0x0F == 1 {
            bytes.extend_from_slice(&[7; 22]);
            bytes.extend_from_slice(&[1, count]);
        }
        bytes.push(u8::try_from(payload.len()).unwrap());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes), &payload);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&payload);
        prop_assert!(wire::peek(&bytes).is_ok());
        prop_assert!(wire::decode(&bytes).map_or_else(|e| e.is_intact(), |_| true));
    }
}

fn sample_frames() -> Vec<DataFrame> {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..3).map(|_| frame().new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn damage_is_never_a_value() {
    for frame in sample_frames() {
        let bytes = check_frame(&frame, &catalog());
        let hole = |bytes: &[u8], what: String| {
            let error = wire::decode(bytes).expect_err(&what);
            assert!(!error.is_intact(), "{what}: {error}");
        };
        (0..bytes.len()).for_each(|len| hole(&bytes[..len], format!("cut off at {len}")));
        for at in 0..bytes.len() {
            let mut hit = bytes.clone();
            for bit in 0..8 {
                hit[at] = bytes[at] ^ 1 << bit;
                hole(&hit, format!("bit {bit} of byte {at} flipped"));
            }
        }
        hole(&[bytes.as_slice(), &[0]].concat(), "a byte too many".into());
    }
}

/// Writes the checksum of a data frame anew, as a later version would.
fn reseal(bytes: &mut [u8]) {
    let mut at = 26;
    for _varint in 0..3 {
        while bytes[at] & 0x80 != 0 {
            at += 1;
        }
        at += 1;
    }
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..at]), &bytes[at + 4..]);
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A sealed, unknown or later message is intact: it can be parked, and its seqs are known.
#[test]
fn what_cannot_be_used_is_accounted_for() {
    let frame = frame_of(vec![answer(1, &[1.5, 2.5])]);
    let bytes = check_frame(&frame, &catalog());
    for (at, flip, error) in [
        (2, 3, DecodeError::Version(2)),
        (3, 0x20, DecodeError::Sealed),
        (3, 0x40, DecodeError::Flags(0x40)),
        (3, 0x80, DecodeError::Flags(0x80)),
    ] {
        let mut changed = bytes.clone();
        changed[at] ^= flip;
        assert_eq!(wire::decode(&changed), Err(DecodeError::Checksum));
        reseal(&mut changed);
        assert_eq!(wire::decode(&changed), Err(error));
        let header = wire::peek(&changed).unwrap().data.unwrap();
        assert_eq!((header.epoch, header.first, header.last()), (frame.epoch, frame.first, frame.first));
    }
}

fn answer(slot: i64, values: &[f64]) -> Record {
    let sample = |(n, value): (u16, &f64)| Sample {
        channel: ChannelIndex(n),
        value: Some(Value::Number(*value)),
        quality: Quality::Good,
    };
    Record::Readings(Readings {
        device: DeviceIndex(0),
        acquired: Acquired::InSlot(Slot(slot)),
        at: Timestamp(slot * 1_000 + 60),
        samples: (0..).zip(values).map(sample).collect(),
    })
}

#[test]
fn records_are_small_on_the_disk() {
    let noisy: Vec<f64> = (0..20u8).map(|n| f64::from(230.0f32 + f32::from(n).sin())).collect();
    let tenths: Vec<f64> = (0..20).map(|n| f64::from(2_300 + n) / 10.0).collect();
    for (what, values, at_most) in [("float registers", noisy, 97), ("tenths of volts", tenths, 57)] {
        let bytes = wire::encode_record(&answer(1_769_860_800, &values));
        assert!(bytes.len() <= at_most, "{what}: {} bytes", bytes.len());
    }
}

#[test]
fn frames_are_bounded_and_split() {
    let row =
        |slot: i64| (1..31u32).map(|n| (f64::from(n) * (slot as f64 + 2.5).ln()).sin()).collect::<Vec<f64>>();
    let frame = frame_of((0..3_000).map(|slot| answer(slot, &row(slot))).collect());
    assert!(matches!(wire::encode_data(&frame, &catalog()), Err(EncodeError::TooLarge(_))));
    let (bytes, count) = wire::encode_prefix(&frame, &catalog()).unwrap();
    assert!(
        bytes.len() <= wire::FRAME_BYTES_MAX && bytes.len() > wire::FRAME_BYTES_MAX / 2,
        "{}",
        bytes.len()
    );
    assert_eq!(wire::peek(&bytes).unwrap().data.unwrap().count, count as u64);

    let many = frame_of(vec![answer(1, &[1.0]); wire::RECORDS_MAX + 1]);
    assert_eq!(wire::encode_data(&many, &catalog()), Err(EncodeError::TooMany("records")));
    assert_eq!(wire::encode_data(&frame_of(Vec::new()), &catalog()), Err(EncodeError::Empty));
    let mut nonsense = answer(1, &[1.0, 2.0]);
    if let Record::Readings(readings) = &mut nonsense {
        readings.samples.reverse();
    }
    assert_eq!(wire::encode_data(&frame_of(vec![nonsense]), &catalog()), Err(EncodeError::Record(Seq(4))));
}

#[test]
fn the_hash_of_a_catalog_covers_what_decoding_and_scheduling_need() {
    let (hash, _) = wire::encode_catalog(&catalog());
    type Change = fn(&mut Catalog);
    let rows: [(&str, bool, Change); 5] = [
        ("attributes", false, |c| drop(c.devices[0].attributes.insert("make".into(), "x".into()))),
        ("unit", true, |c| c.devices[0].channels[0].unit = "kV".into()),
        ("phase", true, |c| c.devices[0].grid.phase_ms = 1),
        ("pause", true, |c| c.devices[0].paused = true),
        ("order", true, |c| c.devices.swap(0, 1)),
    ];
    for (what, another, change) in rows {
        let mut changed = catalog();
        change(&mut changed);
        assert_eq!(wire::encode_catalog(&changed).0 != hash, another, "{what}");
    }
    let mut twice = catalog();
    twice.devices[1].id = twice.devices[0].id.clone();
    assert!(wire::decode_catalog(&wire::encode_catalog(&twice).1).is_err());
}
