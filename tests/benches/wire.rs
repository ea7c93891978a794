//! Bench `wire`: bytes and nanoseconds per reading of wire v1, beside JSON, Influx line protocol and Sparkplug B
//! of the same readings. Prints a table; judges nothing but that every frame gives back what went in.
//!
//! `cargo bench -p gapless-tests --bench wire`
//!
//! Bytes of a message include its MQTT header (fixed header, 2 + 30 bytes of topic, 2 of packet id) and 40 bytes
//! of TCP/IP. Ours carries slots and acquisition times to the millisecond, seqs and qualities; the others one
//! timestamp a poll and no quality. JSON goes out per poll, as gateways do; the others are batched like ours.

#![expect(clippy::print_stdout, reason = "a bench speaks through its table")]

use std::fmt::Write as _;
use std::hint::black_box;
use std::time::{Duration, Instant};

use gapless_common::catalog::{Catalog, Channel, Device};
use gapless_common::id::{
    AgentTag, CatalogHash, ChannelId, ChannelIndex, ConnectionId, DeviceId, DeviceIndex, Epoch, Seq,
};
use gapless_common::message::DataFrame;
use gapless_common::quality::Quality;
use gapless_common::reading::{Acquired, Readings, Record, Sample, Value};
use gapless_common::time::{Interval, Slot, SlotGrid};
use gapless_common::wire::{FRAME_BYTES_MAX, Message, decode, encode_prefix};

/// 2026-01-31T12:00:00Z.
const BEGIN_MS: i64 = 1_769_860_800_000;

/// One device's polls, row by row.
struct Data {
    what: &'static str,
    interval_ms: u32,
    names: Vec<String>,
    polls: Vec<Vec<f64>>,
}

/// A reproducible source of noise (SplitMix64).
struct Noise(u64);

impl Noise {
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Standard normal, by the sum of twelve uniforms.
    fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
    }
}

/// First-order autoregression around a mean that walks.
struct Walk {
    mean: f64,
    drift: f64,
    spread: f64,
    memory: f64,
    state: f64,
}

impl Walk {
    /// `spread` is the standard deviation around the mean, `memory` its correlation from poll to poll, `drift`
    /// the step of the mean.
    fn new(mean: f64, spread: f64, memory: f64, drift: f64) -> Self {
        Self { mean, drift, spread, memory, state: 0.0 }
    }

    fn next(&mut self, noise: &mut Noise) -> f64 {
        self.mean += self.drift * noise.normal();
        let fresh = self.spread * (1.0 - self.memory * self.memory).sqrt() * noise.normal();
        self.state = self.memory * self.state + fresh;
        self.mean + self.state
    }
}

/// The decimal of `digits` digits nearest to `value`, as a parser or a division gives it.
fn rounded(value: f64, digits: i32) -> f64 {
    let power = 10f64.powi(digits);
    (value * power).round() / power + 0.0
}

/// A met mast at 1 s: turbulence of 10 % with a time scale of 10 s; temperatures, pressures and voltages with
/// a few units of sensor noise.
fn mast(polls: usize) -> Data {
    let mut columns: Vec<(&str, i32, Walk)> = Vec::new();
    let speeds = ["80m_n", "80m_s", "60m_n", "60m_s", "40m_n", "40m_s"];
    columns.extend(speeds.map(|name| (name, 2, Walk::new(8.0, 0.8, 0.905, 0.005))));
    columns
        .extend(["dir_78m", "dir_58m", "dir_38m"].map(|name| (name, 2, Walk::new(210.0, 6.0, 0.905, 0.02))));
    columns.extend(["vertical_80m", "vertical_40m"].map(|name| (name, 2, Walk::new(0.1, 0.4, 0.8, 0.0))));
    let temperatures = ["temp_78m", "temp_40m", "temp_2m", "temp_logger"];
    columns.extend(temperatures.map(|name| (name, 3, Walk::new(11.2, 0.012, 0.7, 0.001))));
    columns.extend(["humidity_78m", "humidity_2m"].map(|name| (name, 2, Walk::new(67.0, 0.06, 0.7, 0.005))));
    columns.extend(["pressure_78m", "pressure_2m"].map(|name| (name, 2, Walk::new(987.0, 0.03, 0.5, 0.001))));
    columns.extend(["global", "diffuse"].map(|name| (name, 2, Walk::new(431.0, 0.6, 0.9, 0.1))));
    columns.push(("battery", 3, Walk::new(12.94, 0.003, 0.3, 0.0)));
    columns.push(("heater_a", 3, Walk::new(0.412, 0.002, 0.3, 0.0)));
    columns.push(("rain", 2, Walk::new(0.0, 0.0, 0.0, 0.0)));
    let mut noise = Noise(1);
    let names = columns.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let poll =
        |_| columns.iter_mut().map(|(_, digits, walk)| rounded(walk.next(&mut noise), *digits)).collect();
    Data {
        what: "met mast, 24 channels, 1 s",
        interval_ms: 1_000,
        names,
        polls: (0..polls).map(poll).collect(),
    }
}

/// The resolution of each register of the meter; `None` for a float register with all its noise.
const METER: [(&str, Option<i32>); 20] = [
    ("voltage_l1", Some(1)),
    ("voltage_l2", Some(1)),
    ("voltage_l3", Some(1)),
    ("current_l1", Some(3)),
    ("current_l2", Some(3)),
    ("current_l3", Some(3)),
    ("power_l1", Some(1)),
    ("power_l2", Some(1)),
    ("power_l3", Some(1)),
    ("power", Some(1)),
    ("reactive_power", Some(1)),
    ("current_n", Some(3)),
    ("power_factor", Some(3)),
    ("frequency", Some(2)),
    ("energy_import", Some(2)),
    ("energy_export", Some(2)),
    ("reactive_energy", Some(2)),
    ("demand_max", Some(1)),
    ("thd_voltage", None),
    ("thd_current", None),
];

/// A meter at 10 s: three phases of some 10 A whose load wanders by a percent from poll to poll.
fn meter(polls: usize) -> Data {
    let mut noise = Noise(2);
    let mut voltages = [0; 3].map(|_| Walk::new(231.0, 1.0, 0.95, 0.02));
    let mut currents = [0; 3].map(|_| Walk::new(10.0, 0.3, 0.95, 0.01));
    let mut factor = Walk::new(0.93, 0.004, 0.8, 0.0);
    let mut frequency = Walk::new(50.0, 0.02, 0.9, 0.0);
    let mut thd = [Walk::new(2.1, 0.05, 0.8, 0.0), Walk::new(11.0, 0.4, 0.8, 0.0)];
    let (mut import, mut reactive) = (48_213.27, 9_120.4);
    let mut poll = || {
        let [u1, u2, u3] = voltages.each_mut().map(|walk| walk.next(&mut noise));
        let [i1, i2, i3] = currents.each_mut().map(|walk| walk.next(&mut noise));
        let pf = factor.next(&mut noise);
        let [p1, p2, p3] = [u1 * i1 * pf, u2 * i2 * pf, u3 * i3 * pf];
        let p = p1 + p2 + p3;
        let q = p * (1.0 - pf * pf).sqrt() / pf;
        import += p * 10.0 / 3.6e6;
        reactive += q * 10.0 / 3.6e6;
        let n = (i1 * i1 + i2 * i2 + i3 * i3 - i1 * i2 - i2 * i3 - i3 * i1).max(0.0).sqrt();
        let [thd_u, thd_i] = thd.each_mut().map(|walk| walk.next(&mut noise));
        let f = frequency.next(&mut noise);
        [u1, u2, u3, i1, i2, i3, p1, p2, p3, p, q, n, pf, f, import, 12.5, reactive, 8_734.2, thd_u, thd_i]
    };
    let register = |(value, (_, digits)): (f64, (&str, Option<i32>))| match digits {
        Some(digits) => rounded(value, digits),
        None => f64::from(value.to_string().parse::<f32>().unwrap_or_default()),
    };
    let polls = (0..polls).map(|_| poll().into_iter().zip(METER).map(register).collect()).collect();
    let names = METER.map(|(name, _)| name.to_owned()).to_vec();
    Data { what: "meter, 20 registers, 10 s", interval_ms: 10_000, names, polls }
}

/// Ten-minute records of a real mast, where the sample file lies beside the repository.
fn real_mast() -> Result<Data, String> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../shared/samples/met-mast/campbell_scientific_demo_data1.csv"
    );
    let text = std::fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))?;
    let mut lines = text.lines().skip(1);
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let number =
        |line: &str| -> Vec<Option<f64>> { line.trim().split(',').map(|cell| cell.parse().ok()).collect() };
    let rows = lines.skip(2).filter(|line| !line.trim().is_empty());
    let rows: Vec<Vec<Option<f64>>> = rows.map(number).collect();
    let numeric = |column: &usize| rows.iter().all(|row| row.get(*column).copied().flatten().is_some());
    let columns: Vec<usize> = (4..header.len()).filter(numeric).collect();
    let poll = |row: &Vec<Option<f64>>| columns.iter().filter_map(|column| row[*column]).collect();
    Ok(Data {
        what: "real met mast, 10 min records",
        interval_ms: 600_000,
        names: columns.iter().map(|column| header[*column].to_owned()).collect(),
        polls: rows.iter().map(poll).collect(),
    })
}

impl Data {
    fn grid(&self) -> SlotGrid {
        SlotGrid::every(Interval::from_ms(u64::from(self.interval_ms)).expect("intervals of seconds"))
    }

    fn catalog(&self) -> Catalog {
        let channel = |name: &String| Channel {
            id: ChannelId::new(name).expect("names without spaces"),
            unit: "".into(),
            quantity: "".into(),
            aggregation: Default::default(),
            label: Default::default(),
            attributes: Default::default(),
        };
        let channels = self.names.iter().map(channel).collect();
        let id = DeviceId::new("device-1").expect("a name");
        let device =
            Device { id, grid: self.grid(), paused: false, channels, attributes: Default::default() };
        Catalog { devices: vec![device] }
    }

    /// The first polls as an agent would record them, each answer complete 40 to 70 ms after its slot.
    fn records(&self, polls: usize) -> Vec<Record> {
        let mut noise = Noise(3);
        let first = self.grid().slot_at(gapless_common::time::Timestamp(BEGIN_MS)).0;
        let mut slots = first..;
        let mut record = |values: &Vec<f64>| {
            let slot = Slot(slots.next().expect("slots go on"));
            let late =
                (noise.uniform() * 30.0).to_string().split('.').next().and_then(|ms| ms.parse::<i64>().ok());
            let sample = |(channel, value): (u16, &f64)| Sample {
                channel: ChannelIndex(channel),
                value: Some(Value::Number(*value)),
                quality: Quality::Good,
            };
            Record::Readings(Readings {
                device: DeviceIndex(0),
                acquired: Acquired::InSlot(slot),
                at: self.grid().at(slot).plus_ms(40 + late.unwrap_or_default()),
                samples: (0..).zip(values).map(sample).collect(),
            })
        };
        self.polls.iter().take(polls).map(&mut record).collect()
    }

    fn at(&self, poll: usize) -> i64 {
        BEGIN_MS + i64::from(self.interval_ms) * i64::try_from(poll).expect("a day of polls")
    }

    fn json(&self, poll: usize) -> String {
        let values: serde_json::Map<String, serde_json::Value> =
            self.names.iter().cloned().zip(self.polls[poll].iter().map(|v| (*v).into())).collect();
        serde_json::json!({ "ts": self.at(poll), "device": "device-1", "values": values }).to_string()
    }

    fn influx(&self, poll: usize) -> String {
        let fields =
            self.names.iter().zip(&self.polls[poll]).fold(String::new(), |mut text, (name, value)| {
                let comma = if text.is_empty() { "" } else { "," };
                write!(text, "{comma}{name}={value}").expect("a String grows");
                text
            });
        format!("device-1,site=farm {fields} {}\n", self.at(poll) * 1_000_000)
    }

    /// The metrics of a Sparkplug B 3.0 DDATA payload: alias (2), timestamp (3), float (12) or double (13); the
    /// data type and the name stand in the birth certificate only.
    fn sparkplug(&self, poll: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for (alias, value) in (1u64..).zip(&self.polls[poll]) {
            let mut metric = vec![0x10];
            varint(&mut metric, alias);
            metric.push(0x18);
            varint(&mut metric, self.at(poll).unsigned_abs());
            match value.to_string().parse::<f32>() {
                Ok(narrow) if f64::from(narrow).to_bits() == value.to_bits() => {
                    metric.push(0x65);
                    metric.extend_from_slice(&narrow.to_le_bytes());
                }
                _ => {
                    metric.push(0x69);
                    metric.extend_from_slice(&value.to_le_bytes());
                }
            }
            out.push(0x12);
            varint(&mut out, metric.len() as u64);
            out.extend_from_slice(&metric);
        }
        out
    }
}

/// Timestamp (1) and seq (3) of a Sparkplug B payload.
const SPARKPLUG_ENVELOPE_BYTES: usize = 7 + 3;

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(0x80 | u8::try_from(value & 0x7F).expect("seven bits"));
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

/// Bytes on the line of one QoS 1 publish, IP and TCP headers included.
fn on_the_line(payload: usize) -> usize {
    let rest = 2 + 30 + 2 + payload;
    let mut length = Vec::new();
    varint(&mut length, rest as u64);
    40 + 1 + length.len() + rest
}

/// Bytes on the line of units packed into as few messages as 64 KiB allow.
fn batched(units: impl Iterator<Item = usize>, envelope: usize) -> usize {
    let (mut total, mut open) = (0, 0);
    for unit in units {
        if open + unit + envelope > FRAME_BYTES_MAX {
            total += on_the_line(open + envelope);
            open = 0;
        }
        open += unit;
    }
    total + on_the_line(open + envelope)
}

fn frame(first: u64, records: Vec<Record>) -> DataFrame {
    DataFrame {
        agent: AgentTag(0xA101),
        connection: ConnectionId(0x1234_5678),
        epoch: Epoch(0x0123_4567_89AB_CDEF),
        first: Seq(first),
        catalog: CatalogHash(0xFEDC_BA98_7654_3210),
        records,
    }
}

/// All records in as few frames as they fit, as the uplink sends them.
fn frames(catalog: &Catalog, records: &[Record]) -> Vec<Vec<u8>> {
    let mut sent = 0;
    let mut out = Vec::new();
    while sent < records.len() {
        let rest = frame(100_000 + sent as u64, records[sent..].to_vec());
        let (bytes, count) = encode_prefix(&rest, catalog).expect("each record fits a frame");
        match decode(&bytes) {
            Ok(Message::Data(back)) => assert_eq!(back.records, rest.records[..count], "a frame lied"),
            other => assert!(matches!(other, Ok(Message::Data(_))), "a frame does not decode"),
        }
        out.push(bytes);
        sent += count;
    }
    out
}

/// Nanoseconds of one call, the least of several rounds.
fn time<T>(mut call: impl FnMut() -> T) -> f64 {
    let mut least = f64::INFINITY;
    let until = Instant::now() + Duration::from_millis(300);
    while Instant::now() < until {
        let start = Instant::now();
        black_box(call());
        least = least.min(start.elapsed().as_secs_f64() * 1e9);
    }
    least
}

fn report(data: &Data, span: &str, polls: usize) {
    let polls = polls.min(data.polls.len());
    let readings = (polls * data.names.len()) as f64;
    let catalog = data.catalog();
    let records = data.records(polls);
    let sent = frames(&catalog, &records);
    let ours: usize = sent.iter().map(|bytes| on_the_line(bytes.len())).sum();
    let json: usize = (0..polls).map(|poll| on_the_line(data.json(poll).len())).sum();
    let influx = batched((0..polls).map(|poll| data.influx(poll).len()), 0);
    let sparkplug = batched((0..polls).map(|poll| data.sparkplug(poll).len()), SPARKPLUG_ENVELOPE_BYTES);
    let whole = frame(100_000, records);
    let first = match decode(&sent[0]) {
        Ok(Message::Data(frame)) => frame,
        _ => whole.clone(),
    };
    let in_first = (first.records.len() * data.names.len()) as f64;
    let encode_ns = time(|| encode_prefix(&first, &catalog)) / in_first;
    let decode_ns = time(|| decode(&sent[0])) / in_first;
    let per = |bytes: usize| bytes as f64 / readings;
    println!(
        "| {:<9} | {:>7} | {:>6} | {:>7.2} | {:>6.1} | {:>6.1} | {:>9.1} | {:>9.0} | {:>9.0} |",
        span,
        readings,
        sent.len(),
        per(ours),
        per(json),
        per(influx),
        per(sparkplug),
        encode_ns,
        decode_ns
    );
}

fn table(data: &Data, spans: &[(&str, usize)]) {
    println!("\n{} (bytes per reading, all included; ns per reading)\n", data.what);
    println!(
        "| span      | readings | frames | Gapless |   JSON | Influx | Sparkplug | encode ns | decode ns |"
    );
    println!(
        "|-----------|---------:|-------:|--------:|-------:|-------:|----------:|----------:|----------:|"
    );
    for (span, polls) in spans {
        report(data, span, *polls);
    }
}

fn main() {
    let day = 86_400;
    table(&mast(day), &[("1 poll", 1), ("15 polls", 15), ("1 hour", 3_600), ("1 day", day)]);
    table(&meter(8_640), &[("1 poll", 1), ("15 polls", 15), ("1 hour", 360), ("1 day", 8_640)]);
    match real_mast() {
        Ok(data) => {
            let all = data.polls.len();
            table(&data, &[("1 record", 1), ("15", 15), ("1 day", 144), ("all", all)]);
        }
        Err(why) => println!("\nreal met mast skipped: {why}"),
    }
}
