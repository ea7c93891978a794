//! A drop in made-up time, whose files grow, rest, are replaced, and cannot be read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use gapless_common::files::tail::Stat;
use gapless_common::quality::Cause;
use gapless_common::time::Interval;

use super::super::files::QUIET;
use super::super::lines::tests::meaning;
use super::*;
use crate::store::model::FileRow;

const NOW: Timestamp = Timestamp(1_767_312_000_000);

/// What lies at a place that says no more of its files than an SFTP server does.
#[derive(Clone, Default)]
struct Shelf(Arc<Mutex<Lying>>);

#[derive(Default)]
struct Lying {
    files: BTreeMap<&'static str, (Vec<u8>, i64)>,
    unreadable: Vec<&'static str>,
    hidden: BTreeMap<Box<str>, String>,
    left_out: u64,
    /// What happens right after the next look.
    after_look: Option<fn(&mut Self)>,
}

impl Shelf {
    /// Writes a file, each time later than all before it.
    fn put(&self, name: &'static str, bytes: impl Into<Vec<u8>>) {
        let mut lying = self.0.lock().unwrap();
        let later = lying.files.values().map(|(_, ms)| *ms).max().unwrap_or(NOW.0) + 1_000;
        lying.files.insert(name, (bytes.into(), later));
    }

    fn change(&self, change: impl FnOnce(&mut Lying)) {
        change(&mut self.0.lock().unwrap());
    }
}

impl Place for Shelf {
    fn list(&mut self, _: &str) -> Result<Listing, Trouble> {
        let mut lying = self.0.lock().unwrap();
        let stat = |(bytes, ms): &(Vec<u8>, i64)| {
            let size = u64::try_from(bytes.len()).unwrap();
            Stat { identity: (0, 0), size, modified_ms: *ms, modified_ns: 0 }
        };
        let files = lying.files.iter().map(|(name, file)| (Box::from(*name), stat(file))).collect();
        let listing = Listing { files, left_out: lying.left_out, hidden: lying.hidden.clone() };
        if let Some(change) = lying.after_look.take() {
            change(&mut lying);
        }
        Ok(listing)
    }

    fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
        let lying = self.0.lock().unwrap();
        if lying.unreadable.contains(&name) {
            return Err(Trouble::Unread("no".to_owned()));
        }
        let (bytes, _) = lying.files.get(name).ok_or(Trouble::Gone)?;
        Ok(bytes.iter().skip(usize::try_from(offset).unwrap()).take(len).copied().collect())
    }
}

fn device(shelf: &Shelf, first_ms: Option<i64>) -> DropDevice {
    device_of(shelf, first_ms, LastLine::Waits)
}

fn device_of(shelf: &Shelf, first_ms: Option<i64>, last_line: LastLine) -> DropDevice {
    let packing =
        Packing { unpack: None, entries: None, decrypt: None, is_unpacked_first: false, bytes_max: 1 << 20 };
    let settings = Settings {
        source: "loggers".to_owned(),
        pattern: "*".to_owned(),
        grid: SlotGrid::every(Interval::from_ms(60_000).unwrap()),
        first_ms,
        meaning: Meaning { status: None, ..meaning(&["a"]) },
        last_line,
        packing,
        reads: 1,
    };
    DropDevice::new(settings, Box::new(shelf.clone()), Box::new(Instant::now))
}

/// A row of the minute `no` of the day before.
fn line(no: i64, value: f64) -> String {
    let at = Timestamp(NOW.0 - 86_400_000 + no * 60_000).to_string().replace('T', " ").replace('Z', "");
    format!("{at},{value}\n")
}

fn text(rows: std::ops::Range<i64>) -> String {
    rows.fold("t,a\n".to_owned(), |text, no| text + &line(no, 0.5))
}

/// What one look brings: minutes and values, and what is wrong.
fn look(device: &mut DropDevice, now: Duration) -> (Vec<(i64, f64)>, Option<String>) {
    look_from(device, Timestamp(0), now)
}

fn look_from(device: &mut DropDevice, from: Timestamp, now: Duration) -> (Vec<(i64, f64)>, Option<String>) {
    let mut rows = Vec::new();
    loop {
        let news = device.news_at(from, now).unwrap();
        rows.extend(news.rows.iter().map(|row| {
            let minute = (row.at.0 - NOW.0 + 86_400_000) / 60_000;
            (minute, row.cells[0].and_then(|(value, _)| value).unwrap())
        }));
        if let Some(end) = news.end {
            return (rows, end.trouble);
        }
    }
}

fn rows(range: std::ops::Range<i64>) -> Vec<(i64, f64)> {
    range.map(|no| (no, 0.5)).collect()
}

#[test]
fn a_last_line_without_its_end_waits_and_is_told_once_its_file_rests() {
    let (shelf, begin) = (Shelf::default(), Duration::ZERO);
    let mut first = device(&shelf, None);
    let half = text(0..3) + line(3, 0.25).trim_end_matches("5\n");
    shelf.put("a", half.clone());
    assert_eq!(look(&mut first, begin), (rows(0..3), None));
    let (none, told) = look(&mut first, begin + QUIET);
    let told = told.expect("it rests");
    assert!(none.is_empty() && told.starts_with("a line 5: it has no line end, and waits"), "{told}");
    assert!(told.contains("`last_line = \"whole\"`"), "{told}");
    assert_eq!(look(&mut first, begin + QUIET * 2), (Vec::new(), None), "once");
    let minute = |no: i64| Timestamp(NOW.0 - 86_400_000 + no * 60_000);
    first.begun = Instant::now().checked_sub(QUIET * 3).unwrap();
    let had = first.fetch(minute(0), minute(9)).unwrap().rows.len();
    assert_eq!(had, 3, "nor is it in a stretch that is asked for");
    // The rest of it comes while there is no collector; the next one begins behind the newest row that there is.
    shelf.put("a", half + "5\n");
    let mut second = device(&shelf, None);
    assert_eq!(look_from(&mut second, minute(3), begin), (vec![(3, 0.25)], None));
}

#[test]
fn what_comes_between_the_begin_and_the_first_look_is_read_whatever_its_times() {
    let minute = |no: i64| Timestamp(NOW.0 - 86_400_000 + no * 60_000);
    for (first_ms, expected) in [(None, 0..3), (Some(86_400_000 - 60_000), 1..3)] {
        let shelf = Shelf::default();
        let mut device = device(&shelf, first_ms);
        let begin = device.oldest(NOW).unwrap();
        shelf.put("late", text(0..3));
        assert_eq!(look_from(&mut device, begin, Duration::ZERO), (rows(expected), None), "{first_ms:?}");
    }
    // Nor does it matter that the collector was started again before that; how far back is told counts from the first start.
    for (first_ms, expected) in [(None, 0..3), (Some(60_000), 2..3)] {
        let shelf = Shelf::default();
        shelf.put("late", text(0..3));
        let mut again = device(&shelf, first_ms);
        again.was_never_read();
        assert_eq!(look_from(&mut again, minute(2), Duration::ZERO), (rows(expected), None), "{first_ms:?}");
    }
    // Of a device that was read before, only what is not known yet is new.
    let shelf = Shelf::default();
    shelf.put("known", text(0..3));
    assert_eq!(look_from(&mut device(&shelf, None), minute(2), Duration::ZERO), (rows(2..3), None));
}

#[test]
fn a_whole_last_line_without_its_end_is_read_once_its_file_rests_and_is_put_right_where_it_goes_on() {
    let (shelf, begin) = (Shelf::default(), Duration::ZERO);
    let mut device = device_of(&shelf, None, LastLine::Whole);
    let half = text(0..3) + line(3, 0.25).trim_end_matches("5\n");
    shelf.put("a", half.clone());
    let mut after = |seconds| look(&mut device, begin + Duration::from_secs(seconds)).0;
    assert_eq!(after(0), rows(0..3), "half of it may be still to come");
    assert_eq!(after(QUIET.as_secs() - 1), []);
    assert_eq!(after(QUIET.as_secs()), [(3, 0.2)]);
    assert_eq!(after(QUIET.as_secs() * 2), [], "nothing is read twice");
    shelf.put("a", half.clone() + "5\n");
    assert_eq!(after(QUIET.as_secs() * 2 + 1), [(3, 0.25)], "the whole one takes its place");
    // The other way round: it was whole, and only its end came.
    shelf.put("a", half.clone() + "5\n" + line(4, 1.0).trim_end());
    assert_eq!(after(QUIET.as_secs() * 3), []);
    assert_eq!(after(QUIET.as_secs() * 4), [(4, 1.0)]);
    shelf.put("a", half + "5\n" + &line(4, 1.0) + &line(5, 2.0));
    assert_eq!(after(QUIET.as_secs() * 4 + 1), [(5, 2.0)]);
    shelf.put("b", text(6..7) + "2026-01");
    assert_eq!(after(QUIET.as_secs() * 5), rows(6..7));
    let (none, told) = look(&mut device, begin + QUIET * 6);
    let told = told.unwrap();
    assert!(none.is_empty() && told.starts_with("b line 3: it has no line end, and no whole row"), "{told}");
}

#[test]
fn what_grew_since_it_was_listed_does_not_rest() {
    struct Late(Shelf);
    impl Place for Late {
        fn list(&mut self, pattern: &str) -> Result<Listing, Trouble> {
            self.0.list(pattern)
        }
        fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
            // The number goes on just now.
            let mut bytes = self.0.read(name, offset, len)?;
            bytes.push(b'1');
            Ok(bytes)
        }
    }
    let (shelf, begin) = (Shelf::default(), Duration::ZERO);
    let mut device = device_of(&shelf, None, LastLine::Whole);
    device.place = Box::new(Late(shelf.clone()));
    shelf.put("a", text(0..3) + line(3, 1.0).trim_end());
    assert_eq!(look(&mut device, begin).0, rows(0..3));
    assert_eq!(look(&mut device, begin + QUIET).0, []);
}

#[test]
fn a_file_that_is_longer_is_read_on_only_where_it_begins_and_ends_as_it_did() {
    let (shelf, now) = (Shelf::default(), Duration::ZERO);
    let mut device = device(&shelf, None);
    shelf.put("a", text(0..100));
    assert_eq!(look(&mut device, now).0, rows(0..100));
    shelf.put("a", text(0..110));
    assert_eq!(look(&mut device, now).0, rows(100..110), "it grew");
    let corrected = |no| text(0..120).replace(&line(no, 0.5), &line(no, 0.7));
    shelf.put("a", corrected(5));
    let (all, _) = look(&mut device, now);
    assert_eq!((all.len(), all[5]), (120, (5, 0.7)), "one value near its begin is another one");
    shelf.put("a", corrected(119) + &line(120, 0.5));
    let (all, _) = look(&mut device, now);
    assert_eq!((all.len(), all[119]), (121, (119, 0.7)), "one near its end");
    shelf.put("a", "a,t\n".to_owned() + &text(0..130));
    assert_eq!(look(&mut device, now).0.len(), 0, "its columns are other ones, and its times are none");
}

#[test]
fn a_packed_file_is_read_anew_when_it_has_changed_whatever_its_length() {
    use std::io::Write as _;
    let gzip = |text: &str| {
        let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
        to.write_all(text.as_bytes()).unwrap();
        to.finish().unwrap()
    };
    let (shelf, now) = (Shelf::default(), Duration::ZERO);
    let mut device = device(&shelf, None);
    // An upload begins with an empty file, which says nothing of what it will be.
    shelf.put("a", Vec::new());
    assert_eq!(look(&mut device, now), (Vec::new(), None));
    shelf.put("a", gzip(&text(0..100)));
    assert_eq!(look(&mut device, now).0, rows(0..100));
    let other = text(0..110).replace(&line(50, 0.5), &line(50, 0.7));
    shelf.put("a", gzip(other.trim_end()));
    let (all, _) = look(&mut device, now);
    assert_eq!((all.len(), all[50], all[109]), (110, (50, 0.7), (109, 0.5)), "its last line is whole");
    shelf.put("a", text(0..3));
    assert_eq!(look(&mut device, now).0, rows(0..3), "it is a plain one now");
}

#[test]
fn a_drop_that_can_read_nothing_at_its_first_start_waits() {
    let minute = |no: i64| Ok(Timestamp(NOW.0 - 86_400_000 + no * 60_000));
    let full = |lying: &mut Lying| drop(lying.files.insert("a", (text(7..9).into(), NOW.0)));
    let half = |lying: &mut Lying| {
        let text = text(0..0) + line(7, 1.0).trim_end();
        lying.files.insert("a", (text.into(), NOW.0));
    };
    let unreadable = |lying: &mut Lying| {
        lying.files.insert("b", (text(3..5).into(), NOW.0));
        lying.unreadable.push("b");
    };
    let strange = |lying: &mut Lying| drop(lying.files.insert("c", (b"x,y\n1,2\n".to_vec(), NOW.0)));
    let hidden = |lying: &mut Lying| drop(lying.hidden.insert("d/".into(), "permission denied".to_owned()));
    type Change<'a> = &'a dyn Fn(&mut Lying);
    let rows: [(&str, &[Change<'_>], Result<Timestamp, &str>); 8] = [
        ("there is nothing yet", &[], Ok(NOW)),
        ("it has rows", &[&full], minute(7)),
        ("it has half a row", &[&half], minute(7)),
        ("one file cannot be read", &[&full, &unreadable], Err("loggers: b: no")),
        ("one holds nothing", &[&full, &strange], minute(7)),
        ("that is all there is", &[&strange], Err("loggers: in none of its 1 files is a row of this device")),
        ("what is there is not known", &[&hidden], Err("loggers: d/: permission denied")),
        ("a folder cannot be read", &[&full, &hidden], minute(7)),
    ];
    for (what, changes, expected) in rows {
        let shelf = Shelf::default();
        changes.iter().for_each(|change| shelf.change(change));
        let oldest = device(&shelf, None).oldest(NOW).map_err(|why| why.to_string());
        assert_eq!(oldest, expected.map_err(str::to_owned), "{what}");
    }
    let shelf = Shelf::default();
    shelf.change(unreadable);
    let said = device(&shelf, Some(120_000)).oldest(NOW).unwrap();
    assert_eq!(said, NOW.plus_ms(-120_000), "where it is said nothing need be read");
}

#[test]
fn a_stretch_has_what_can_be_read_of_it_and_says_what_cannot() {
    let shelf = Shelf::default();
    let mut device = device(&shelf, None);
    shelf.put("a", text(0..3));
    let minute = |no: i64| Timestamp(NOW.0 - 86_400_000 + no * 60_000);
    let mut fetch = |from, to| {
        let parsed = device.fetch(minute(from), minute(to)).unwrap();
        (parsed.rows.len(), parsed.trouble)
    };
    assert_eq!(fetch(-5, 0), (0, None));
    shelf.change(|lying| drop(lying.hidden.insert("2026/".into(), "no".to_owned())));
    let told = Some("2026/: no".to_owned());
    assert_eq!((fetch(-5, 0), fetch(0, 5)), ((0, told.clone()), (3, told)));
    shelf.change(|lying| (lying.hidden, lying.unreadable) = (BTreeMap::new(), vec!["a"]));
    assert_eq!(fetch(0, 5), (0, Some("a: no".to_owned())));
}

#[test]
fn what_may_lie_where_nobody_could_look_is_not_said_to_be_in_no_record() {
    let (not_recorded, unseen) = (Cause::NotRecorded, Cause::NotConnected);
    type Change<'a> = &'a dyn Fn(&mut Lying);
    let none = |_: &mut Lying| ();
    let hidden = |lying: &mut Lying| drop(lying.hidden.insert("2026/".into(), "no".to_owned()));
    let unreadable = |lying: &mut Lying| lying.unreadable.push("b");
    let left_out = |lying: &mut Lying| lying.left_out = 1;
    let growing = |lying: &mut Lying| drop(lying.files.insert("b", (b"\x1f\x8b".to_vec(), NOW.0 + 2_000)));
    // Before both files were written, between them, and behind both.
    let rows: [(&str, Change<'_>, [Cause; 3]); 5] = [
        ("all was read", &none, [not_recorded; 3]),
        ("a folder cannot be listed", &hidden, [unseen; 3]),
        ("the newest file cannot be read", &unreadable, [unseen, unseen, not_recorded]),
        ("the newest file is not whole yet", &growing, [unseen, unseen, not_recorded]),
        ("an old file is left out", &left_out, [unseen, not_recorded, not_recorded]),
    ];
    for (what, change, expected) in rows {
        let shelf = Shelf::default();
        shelf.put("a", text(0..3));
        shelf.put("b", text(5..7));
        shelf.change(change);
        let mut device = device(&shelf, None);
        let mut end = None;
        while end.is_none() {
            end = device.news_at(Timestamp(0), Duration::ZERO).unwrap().end;
        }
        let end = end.unwrap();
        let told = [500, 1_500, 2_500].map(|ms| end.cause(NOW.plus_ms(ms)));
        assert_eq!(told, expected, "{what}");
    }
}

#[test]
fn what_is_not_read_is_told_beside_what_is() {
    let (shelf, now) = (Shelf::default(), Duration::ZERO);
    let mut device = device(&shelf, None);
    shelf.put("a", text(0..3));
    shelf.change(|lying| {
        lying.hidden.insert("2026/".into(), "it cannot be listed: permission denied".to_owned());
    });
    let told = Some("2026/: it cannot be listed: permission denied".to_owned());
    assert_eq!(look(&mut device, now), (rows(0..3), told.clone()));
    assert_eq!(look(&mut device, now), (Vec::new(), told), "as long as it lasts");
    shelf.change(|lying| (lying.hidden, lying.left_out) = (BTreeMap::new(), 5));
    let (_, told) = look(&mut device, now);
    assert!(told.unwrap().starts_with("`files`: means 5 files beside"));
    shelf.change(|lying| lying.left_out = 0);
    assert_eq!(look(&mut device, now), (Vec::new(), None));
}

/// What an earlier process kept of a device's files, as the next one finds it.
#[derive(Default)]
struct Kept {
    about: Option<DropRow>,
    files: BTreeMap<Box<str>, FileRow>,
}

impl Kept {
    /// Writes down what has changed; returns whether anything has.
    fn take(&mut self, device: &mut DropDevice) -> bool {
        let Some(changes) = device.unwritten() else { return false };
        device.written();
        if changes.is_anew {
            self.files.clear();
        }
        for (name, file) in changes.files {
            match file {
                Some(file) => drop(self.files.insert(name, file)),
                None => drop(self.files.remove(&name)),
            }
        }
        self.about = Some(changes.about);
        true
    }

    /// A device of a new process that finds it, and of which all before the minute `no` is proven.
    fn recalled_by(&self, mut device: DropDevice) -> DropDevice {
        let files = self
            .about
            .clone()
            .map(|about| (about, self.files.iter().map(|(name, file)| (name.clone(), *file)).collect()));
        device.recall(Recalled { due_since: Some(minute(0)), files });
        device
    }
}

fn minute(no: i64) -> Timestamp {
    Timestamp(NOW.0 - 86_400_000 + no * 60_000)
}

/// What the first look of a new process brings, after these changes to a drop with two files that was read: `a` with minutes 10 to 20,
/// and `b` with 20 to 30. All before 30 is proven.
fn after_a_restart(change: impl FnOnce(&Shelf)) -> Vec<(i64, f64)> {
    let (shelf, mut kept, now) = (Shelf::default(), Kept::default(), Duration::ZERO);
    shelf.put("a", text(10..20));
    shelf.put("b", text(20..30));
    let mut first = device(&shelf, None);
    first.was_never_read();
    assert_eq!(look(&mut first, now).0, rows(10..30));
    assert!(kept.take(&mut first));
    assert_eq!((look(&mut first, now).0.len(), kept.take(&mut first)), (0, false), "nothing changes");
    change(&shelf);
    let mut second = kept.recalled_by(device(&shelf, None));
    let (brought, _) = look_from(&mut second, minute(30), now);
    assert_eq!(kept.take(&mut second), second.is_anew || !brought.is_empty() || kept.files.len() != 2);
    assert_eq!(look_from(&mut second, minute(30), now).0, [], "once");
    // A third process finds the same.
    let mut third = kept.recalled_by(device(&shelf, None));
    assert_eq!((look_from(&mut third, minute(30), now).0, kept.take(&mut third)), (Vec::new(), false));
    brought
}

/// The file `a` with another value in its minute 12.
fn corrected() -> String {
    text(10..20).replace(&line(12, 0.5), &line(12, 0.7))
}

/// A file with the minutes 0 to 5 that was written long ago.
fn put_down_old(shelf: &Shelf) {
    shelf.change(|lying| drop(lying.files.insert("c", (text(0..5).into(), 0))));
}

#[test]
fn what_became_of_files_while_there_was_no_collector_is_read_as_if_there_had_been_one() {
    type Change = fn(&Shelf);
    type Brought = Vec<(i64, f64)>;
    let with_corrected = |until| rows(10..12).into_iter().chain([(12, 0.7)]).chain(rows(13..until)).collect();
    let rows: [(&str, Change, Brought); 9] = [
        ("nothing", |_| (), Vec::new()),
        ("it was replaced, as long as before", |shelf| shelf.put("a", corrected()), with_corrected(20)),
        (
            "it was replaced, and is longer",
            |shelf| shelf.put("a", corrected() + &line(20, 0.5)),
            with_corrected(21),
        ),
        ("it is shorter", |shelf| shelf.put("a", text(10..13)), rows(10..13)),
        ("it grew", |shelf| shelf.put("b", text(20..33)), rows(30..33)),
        ("the same was written again", |shelf| shelf.put("b", text(20..30)), rows(20..30)),
        ("older rows came", |shelf| shelf.put("c", text(0..5)), rows(0..5)),
        ("a file that is old itself came, as one that the pattern did not mean", put_down_old, rows(0..5)),
        ("it is gone", |shelf| shelf.change(|lying| drop(lying.files.remove("a"))), Vec::new()),
    ];
    for (what, change, expected) in rows {
        assert_eq!(after_a_restart(change), expected, "{what}");
    }
}

#[test]
fn a_file_that_was_not_kept_is_read_again_and_one_that_was_gone_when_it_is_back() {
    let (shelf, mut kept, now) = (Shelf::default(), Kept::default(), Duration::ZERO);
    shelf.put("a", text(0..3));
    let mut first = device(&shelf, None);
    assert_eq!(look(&mut first, now).0, rows(0..3));
    assert!(kept.take(&mut first));
    // Killed before what came then was written down.
    shelf.put("b", text(3..6));
    assert_eq!(look(&mut first, now).0, rows(3..6));
    let mut second = kept.recalled_by(device(&shelf, None));
    assert_eq!(look_from(&mut second, minute(6), now).0, rows(3..6));
    // The database did not take it: it is written down the next time.
    let unwritten = second.unwritten();
    assert!(unwritten.is_some());
    assert_eq!((look_from(&mut second, minute(6), now).0.len(), second.unwritten()), (0, unwritten));
    assert!(kept.take(&mut second));
    shelf.change(|lying| drop(lying.files.remove("b")));
    assert_eq!((look(&mut second, now).0.len(), kept.take(&mut second), kept.files.len()), (0, true, 1));
    shelf.put("b", text(3..6));
    assert_eq!(look(&mut kept.recalled_by(device(&shelf, None)), now).0, rows(3..6));
    // Folders that cannot be listed have forgotten nothing, and a share that is not mounted is none.
    shelf.change(|lying| lying.files.clear());
    let told = kept.recalled_by(device(&shelf, None)).news_at(minute(6), now).unwrap_err().to_string();
    assert!(told.contains("is the share mounted?"), "{told}");
}

#[test]
fn what_an_earlier_program_has_read_is_not_known_and_goes_by_what_is_proven() {
    let (shelf, mut kept, now) = (Shelf::default(), Kept::default(), Duration::ZERO);
    shelf.put("a", text(0..3));
    let mut migrated = kept.recalled_by(device(&shelf, None));
    migrated.missing(vec![(minute(1), minute(2))]);
    assert_eq!(look_from(&mut migrated, minute(2), now).0, rows(1..3));
    assert!(kept.take(&mut migrated));
    shelf.put("b", text(-5..0));
    let mut next = kept.recalled_by(device(&shelf, None));
    assert_eq!(look_from(&mut next, minute(3), now).0, rows(-5..0), "what comes from then on is");
}

#[test]
fn how_far_back_the_first_look_goes_is_known_for_good() {
    let (shelf, mut kept, now) = (Shelf::default(), Kept::default(), Duration::ZERO);
    let device = || device(&shelf, Some(86_400_000 - 2 * 60_000));
    shelf.put("a", text(0..5));
    shelf.put("b", text(0..6));
    shelf.change(|lying| lying.unreadable.push("b"));
    shelf.change(|lying| drop(lying.files.insert("old", (text(0..7).into(), 0))));
    let mut first = device();
    let begin = first.oldest(NOW).unwrap();
    assert_eq!(begin, minute(2));
    assert_eq!(look_from(&mut first, begin, now).0, rows(2..5));
    assert!(kept.take(&mut first));
    shelf.change(|lying| lying.unreadable.clear());
    put_down_old(&shelf);
    let mut second = kept.recalled_by(device());
    let (brought, _) = look_from(&mut second, minute(5), now);
    let (late, tried_again) = brought.split_at(5);
    assert_eq!(late, rows(0..5), "what came later is read whatever its times");
    assert_eq!(tried_again, rows(2..6), "what could not be read then is tried");
    assert!(kept.take(&mut second));
    // Rows are made otherwise from now on.
    let mut third = device();
    third.settings.reads += 1;
    let mut third = kept.recalled_by(third);
    // While its share is not there nothing is said of its rows, and nothing forgotten.
    let mut unmounted = self::device(&Shelf::default(), None);
    unmounted.settings.reads += 1;
    let mut unmounted = kept.recalled_by(unmounted);
    assert!(unmounted.news_at(minute(6), now).is_err());
    let all: Vec<_> = rows(2..5).into_iter().chain(rows(2..6)).collect();
    let with_late: Vec<_> = rows(0..5).into_iter().chain(all.clone()).collect();
    assert_eq!(look_from(&mut third, minute(6), now).0, with_late, "what came later still did");
    assert!(kept.take(&mut third));
    assert_eq!((kept.files.len(), kept.about.as_ref().unwrap().reads), (4, Some(2)));
    let about = kept.about.take().map(|about| DropRow { reads: None, ..about });
    let mut fourth = Kept { about, ..Kept::default() }.recalled_by(device());
    assert_eq!(look_from(&mut fourth, minute(6), now).0, all, "it was tidied away");
}

#[test]
fn half_a_line_and_a_line_that_is_spoilt_are_known_after_a_restart() {
    let (shelf, mut kept, begin) = (Shelf::default(), Kept::default(), Duration::ZERO);
    let device = || device_of(&shelf, None, LastLine::Whole);
    shelf.put("a", text(0..2) + &line(2, 0.5).replace(",0.5", ",1,2") + line(3, 1.0).trim_end());
    let mut first = device();
    assert_eq!(look(&mut first, begin).0, rows(0..2));
    assert!(kept.take(&mut first));
    let mut second = kept.recalled_by(device());
    let mut end = second.news_at(minute(2), begin).unwrap().end.unwrap();
    assert_eq!((end.cause(minute(2)), kept.take(&mut second)), (Cause::Corrupt, false));
    assert_eq!(look_from(&mut second, minute(2), begin + QUIET).0, [(3, 1.0)], "its file rests");
    assert!(kept.take(&mut second));
    let mut third = kept.recalled_by(device());
    end = third.news_at(minute(4), begin + QUIET).unwrap().end.unwrap();
    assert_eq!(
        (end.cause(minute(2)), kept.take(&mut third)),
        (Cause::NotRecorded, false),
        "it is accounted for"
    );
    shelf.put("a", text(0..2) + &line(2, 0.5).replace(",0.5", ",1,2") + &line(3, 1.0) + &line(4, 2.0));
    assert_eq!(look_from(&mut third, minute(4), begin + QUIET).0, [(3, 1.0), (4, 2.0)], "its end has come");
}

#[test]
fn a_share_that_is_mounted_anew_holds_the_same_files() {
    struct Mounted(Shelf, (u64, u64));
    impl Place for Mounted {
        fn list(&mut self, pattern: &str) -> Result<Listing, Trouble> {
            let mut listing = self.0.list(pattern)?;
            listing.files.values_mut().for_each(|stat| stat.identity = self.1);
            Ok(listing)
        }
        fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
            self.0.read(name, offset, len)
        }
    }
    let (shelf, mut kept, now) = (Shelf::default(), Kept::default(), Duration::ZERO);
    shelf.put("a", text(0..3));
    let on = |identity| {
        let mut device = device(&shelf, None);
        device.place = Box::new(Mounted(shelf.clone(), identity));
        device
    };
    // Which file system and which file of it; what is read again.
    for (identity, again) in [((1, 5), 3), ((1, 5), 0), ((1, 6), 3), ((2, 7), 0), ((2, 7), 0), ((2, 8), 3)] {
        let mut device = kept.recalled_by(on(identity));
        assert_eq!(look_from(&mut device, minute(0), now).0.len(), again, "{identity:?}");
        let _ = kept.take(&mut device);
    }
}

/// What a file that goes, or is cut short, right after a look leaves of what was new in it.
#[test]
fn what_goes_between_a_look_and_a_read_was_not_seen() {
    type Change = fn(&mut Lying);
    let renamed: Change = |lying| {
        let file = lying.files.remove("a").unwrap();
        lying.files.insert("old", file);
    };
    let rows: [(&str, Change, Cause); 4] = [
        ("nothing", |_| (), Cause::NotRecorded),
        ("it is called otherwise", renamed, Cause::NotConnected),
        ("it is begun anew", |lying| lying.files.get_mut("a").unwrap().0.truncate(4), Cause::NotConnected),
        ("all is gone", |lying| lying.files.clear(), Cause::NotConnected),
    ];
    for (what, change, cause) in rows {
        let shelf = Shelf::default();
        let mut device = device(&shelf, None);
        shelf.put("a", text(0..3));
        assert_eq!(look(&mut device, Duration::ZERO).0, self::rows(0..3));
        shelf.put("a", text(0..5));
        shelf.change(|lying| lying.after_look = Some(change));
        let end = device.news_at(Timestamp(0), Duration::ZERO).unwrap().end.unwrap();
        assert_eq!(end.cause(minute(4)), cause, "{what}");
        if what == "all is gone" {
            let told = device.news_at(Timestamp(0), Duration::ZERO).unwrap_err().to_string();
            assert!(told.contains("is the share mounted?"), "{told}");
        }
    }
}

#[test]
fn nothing_is_asked_in_vain_of_a_share_that_is_not_mounted_nor_of_a_file_that_goes() {
    let shelf = Shelf::default();
    let mut device = device(&shelf, None);
    shelf.put("a", text(0..3));
    shelf.put("b", text(3..6));
    let goes: fn(&mut Lying) = |lying| drop(lying.files.remove("a"));
    shelf.change(|lying| lying.after_look = Some(goes));
    let told = device.oldest(NOW).unwrap_err().to_string();
    assert!(told.contains("it went before it was read"), "how far back there is anything: {told}");
    shelf.put("a", text(0..3));
    assert_eq!(device.oldest(NOW).unwrap(), minute(0));
    look(&mut device, Duration::ZERO);
    shelf.change(|lying| lying.after_look = Some(goes));
    let parsed = device.fetch(minute(0), minute(9)).unwrap();
    assert!(parsed.rows.len() == 3 && parsed.trouble.unwrap().contains("it went before it was read"));
    shelf.change(|lying| lying.files.clear());
    let told = device.fetch(minute(0), minute(9)).unwrap_err().to_string();
    assert!(told.contains("is the share mounted?"), "{told}");
}
