//! A folder in made-up time: files that grow, are renamed, replaced and gone, and a share that is away.

use std::collections::BTreeSet;

use gapless_common::message::Outcome;
use gapless_common::time::{Interval, SlotGrid};

use super::*;
use crate::files::form::{Form, Kind};
use crate::files::tail::Stat;
use crate::records::layout::Channels;

/// 2026-01-01T00:00:00Z
const T: i64 = 1_767_225_600_000;
const MINUTE: i64 = 60_000;

struct Bench {
    folder: Folder,
    files: BTreeMap<Box<str>, (u64, i64, Vec<u8>)>,
    is_up: bool,
    ms: i64,
    inodes: u64,
    rows: BTreeMap<i64, String>,
    twice: usize,
    missed: BTreeMap<i64, Cause>,
    through: i64,
    history: Vec<(u64, Outcome)>,
    read: usize,
}

fn now(ms: i64) -> Now {
    Now { boot_ms: u64::try_from(ms).unwrap(), wall: Timestamp(T + ms), wall_set: true }
}

fn form(kind: Kind) -> Form {
    Form::new(kind, "+01:00".parse().unwrap())
}

fn settings(pattern: &str) -> Settings {
    Settings {
        device: DeviceIndex(0),
        pattern: pattern.into(),
        grid: SlotGrid::every(Interval::from_ms(60_000).unwrap()),
        form: form(Kind::Csv { skip: 0, names: None, time: vec!["t".into()] }),
        first_ms: 60 * MINUTE,
        late_ms: 3 * MINUTE,
        look_ms: 10_000,
        channels: Channels::All,
        paused: false,
    }
}

impl Bench {
    fn new(settings: Settings) -> Self {
        Self {
            folder: Folder::new(BusId::new("share").unwrap(), vec![settings], now(0), now(0)),
            files: BTreeMap::new(),
            is_up: true,
            ms: 0,
            inodes: 0,
            rows: BTreeMap::new(),
            twice: 0,
            missed: BTreeMap::new(),
            through: i64::MIN,
            history: Vec::new(),
            read: 0,
        }
    }

    fn write(&mut self, name: &str, text: &str) {
        self.inodes += 1;
        let inode = self.inodes;
        let file = self.files.entry(name.into()).or_insert_with(|| (inode, 0, Vec::new()));
        file.1 = T + self.ms;
        file.2.extend_from_slice(text.as_bytes());
    }

    /// The rows of these minutes since the begin.
    fn rows(range: std::ops::Range<i64>) -> String {
        let row = |minute: i64| {
            let at = Timestamp(T + minute * MINUTE + 60 * MINUTE).to_string();
            format!("{},{minute}\n", at.trim_end_matches('Z').replace('T', " "))
        };
        range.map(row).collect()
    }

    fn find(&mut self, ask: Ask) -> Result<Found, Failure> {
        if !self.is_up {
            return Err(Failure::Unreadable("the share is away".to_owned()));
        }
        match ask {
            Ask::List(_) => Ok(Found::Files(
                self.files
                    .iter()
                    .map(|(name, (inode, at, text))| {
                        let size = u64::try_from(text.len()).unwrap();
                        (name.clone(), Stat { identity: (1, *inode), size, modified_ms: *at, modified_ns: 0 })
                    })
                    .collect(),
            )),
            Ask::Read(name, offset, len) => {
                let (.., text) = self.files.get(&name).ok_or(Failure::Gone)?;
                let from = usize::try_from(offset).unwrap().min(text.len());
                let bytes = text[from..(from + len).min(text.len())].to_vec();
                self.read += bytes.len();
                Ok(Found::Bytes(bytes))
            }
        }
    }

    fn run(&mut self, span_ms: i64) {
        let end = self.ms + span_ms;
        while self.ms < end {
            match self.folder.next(now(self.ms)) {
                Step::Wait { until_boot_ms } => {
                    self.ms = i64::try_from(until_boot_ms).unwrap().clamp(self.ms + 1, end);
                }
                Step::Ask(ask) => {
                    self.ms += 1;
                    let found = self.find(ask);
                    self.folder.took(found, now(self.ms));
                }
            }
            self.take();
        }
    }

    fn take(&mut self) {
        while let Some(event) = self.folder.drain() {
            match event {
                BusEvent::Answered { at, samples, .. } => {
                    let told = format!("{:?} {}", samples[0].value, samples[0].quality.label());
                    self.twice += usize::from(self.rows.insert((at.0 - T) / MINUTE, told).is_some());
                }
                BusEvent::Missed(run) => {
                    for n in 0..i64::from(run.count) {
                        self.missed.insert(run.first.0 + n - T / MINUTE, run.cause);
                    }
                }
                BusEvent::Through { slot, .. } => self.through = slot.0 - T / MINUTE,
                BusEvent::HistoryRead { command, outcome } => self.history.push((command, outcome)),
                _ => {}
            }
        }
    }

    /// Minutes that neither came nor were missed.
    fn open(&self, range: std::ops::Range<i64>) -> Vec<i64> {
        range.filter(|minute| !self.rows.contains_key(minute) && !self.missed.contains_key(minute)).collect()
    }

    fn minutes(&self) -> BTreeSet<i64> {
        self.rows.keys().copied().collect()
    }
}

#[test]
fn files_are_tailed_through_half_lines_renaming_and_replacement() {
    let mut bench = Bench::new(settings("Met*"));
    bench.write("Met.csv", "t,a\n");
    bench.write("Met.csv", &Bench::rows(-300..0));
    bench.run(1_000);
    assert_eq!(bench.minutes(), (-60..0).collect(), "the last hour before the file was written last");
    let line = Bench::rows(0..1);
    bench.write("Met.csv", &line[..21]);
    bench.run(MINUTE);
    assert_eq!(bench.rows.len(), 60, "half a number is a wrong number");
    bench.write("Met.csv", &line[21..]);
    bench.run(MINUTE);
    assert_eq!(bench.rows[&0], "Some(Number(0.0)) good");

    // A row of it more, then it is renamed and another one begun, all between two looks.
    bench.write("Met.csv", &Bench::rows(1..2));
    let moved = bench.files.remove("Met.csv").unwrap();
    bench.files.insert("Met_1.csv".into(), moved);
    bench.write("Met.csv", "t,a\n");
    bench.write("Met.csv", &Bench::rows(2..3));
    let read = bench.read;
    bench.run(MINUTE);
    assert_eq!((bench.minutes().last(), bench.twice), (Some(&2), 0));
    assert!(bench.read - read < 4_000, "the renamed one was not read again: {} bytes", bench.read - read);

    // The same name, written anew and longer; then a copy that replaced its original, and went on.
    bench.files.remove("Met.csv");
    bench.write("Met.csv", "t,a\n");
    bench.write("Met.csv", &Bench::rows(3..5));
    bench.run(MINUTE);
    assert_eq!((bench.minutes().last(), bench.twice), (Some(&4), 0));
    let (_, at, text) = bench.files.remove("Met.csv").unwrap();
    bench.files.insert("Met.csv".into(), (999, at, text));
    bench.write("Met.csv", &Bench::rows(5..6));
    bench.run(MINUTE);
    assert_eq!((bench.minutes().last(), bench.twice), (Some(&5), 0));
    bench.run(10 * MINUTE);
    bench.folder.stop(now(bench.ms));
    bench.take();
    assert_eq!(bench.open(0..bench.ms / MINUTE), Vec::<i64>::new());
    assert_eq!(bench.missed.values().copied().collect::<BTreeSet<_>>().len(), 2, "{:?}", bench.missed);
}

#[test]
fn what_a_share_held_while_it_was_away_is_read_and_what_was_missed_is_filled() {
    let mut bench = Bench::new(settings("Met*"));
    bench.write("Met.csv", "t,a\n");
    for minute in 0..20 {
        bench.is_up = !(5..15).contains(&minute);
        bench.write("Met.csv", &Bench::rows(minute..minute + 1));
        bench.run(MINUTE);
    }
    assert_eq!((bench.minutes(), bench.twice), ((0..20).collect(), 0));
    assert_eq!(bench.missed.values().copied().collect::<BTreeSet<_>>(), [Cause::NotConnected].into());
    assert!(bench.missed.len() >= 9, "{:?}", bench.missed);
    assert!(bench.through >= 15, "{}", bench.through);
}

#[test]
fn bad_lines_are_missed_as_such_and_bad_values_told_as_such() {
    let mut bench = Bench::new(Settings { form: form(Kind::Toa5), late_ms: 20 * MINUTE, ..settings("Met*") });
    let head = "\"TOA5\",\"s\"\n\"TIMESTAMP\",\"RECORD\",\"a\"\n\"TS\",\"RN\",\"V\"\n\"\",\"\",\"Avg\"\n";
    bench.run(30_000);
    bench.write("Met.dat", head);
    let cells = ["7", "\"NAN\"", "", "7,7", "\"INF\"", "x"];
    for (n, cell) in cells.iter().enumerate() {
        bench.write("Met.dat", &format!("\"2026-01-01 01:0{n}:00\",{n},{cell}\n"));
    }
    bench.run(40 * MINUTE);
    let told: Vec<(i64, &str)> = bench.rows.iter().map(|(at, told)| (*at, told.as_str())).collect();
    let expected = [
        (0, "Some(Number(7.0)) good"),
        (1, "None bad_invalid"),
        (2, "None bad_invalid"),
        (4, "None bad_out_of_range"),
        (5, "None bad_invalid"),
    ];
    assert_eq!(told, expected);
    assert_eq!(bench.missed.get(&3), Some(&Cause::Corrupt));
    assert_eq!((bench.folder.standing.totals.corrupt, bench.missed.get(&6)), (1, Some(&Cause::NotRecorded)));
}

#[test]
fn history_is_read_from_all_files_that_may_hold_it() {
    let mut bench = Bench::new(settings("Met*"));
    for day in 0..5 {
        let name = format!("Met_{day}.csv");
        bench.ms = day * 24 * 60 * MINUTE;
        bench.write(&name, "t,a\n");
        bench.write(&name, &Bench::rows(day * 1_440 - 1_440..day * 1_440));
    }
    bench.run(5 * MINUTE);
    assert_eq!(bench.rows.len(), 60, "the last hour");
    let range = |from: i64, to: i64| (Timestamp(T + from * MINUTE), Timestamp(T + to * MINUTE));
    bench.folder.read_history(1, DeviceIndex(0), range(-100, 1_500));
    bench.folder.read_history(2, DeviceIndex(0), range(2_000, 2_100));
    bench.folder.read_history(3, DeviceIndex(0), range(-20_000, -19_000));
    bench.run(MINUTE);
    let told = [(1, Outcome::Done), (2, Outcome::Done), (3, Outcome::NoData)];
    assert_eq!(bench.history, told);
    let expected = (-100..1_500).chain(2_000..2_100).chain(5_700..5_760);
    assert_eq!((bench.minutes(), bench.twice), (expected.collect(), 0));
    bench.is_up = false;
    bench.folder.read_history(4, DeviceIndex(0), range(0, 10));
    bench.run(MINUTE);
    assert_eq!(bench.history.last(), Some(&(4, Outcome::Failed("the share is away".into()))));
}

#[test]
fn who_asks_sees_the_newest_row_and_a_paused_device_is_left_alone() {
    let mut bench = Bench::new(Settings { paused: true, ..settings("Met*") });
    bench.write("Met.csv", "t,a\n");
    bench.write("Met.csv", &Bench::rows(-3..0));
    bench.run(5 * MINUTE);
    assert_eq!((bench.rows.len(), bench.read), (0, 0));
    assert_eq!(bench.missed.values().copied().collect::<BTreeSet<_>>(), [Cause::Paused].into());
    bench.folder.poll_now(DeviceIndex(0));
    bench.run(MINUTE);
    assert_eq!(bench.minutes(), (-3..0).collect());
    bench.folder.poll_now(DeviceIndex(0));
    bench.run(MINUTE);
    assert!(bench.twice >= 1, "the newest row is told again");
}

#[test]
fn what_came_while_the_agent_stood_still_is_read_before_anything_is_missed() {
    let mut bench = Bench::new(settings("*.csv"));
    bench.write("a.csv", "t,x\n");
    bench.write("a.csv", &Bench::rows(0..60));
    bench.run(2 * MINUTE);
    // Ten minutes pass in which nobody looks, and the rows come as ever.
    bench.ms += 10 * MINUTE;
    bench.write("a.csv", &Bench::rows(60..72));
    bench.run(MINUTE);
    assert_eq!(bench.missed, BTreeMap::new());
    assert_eq!(bench.through, 71);
}
