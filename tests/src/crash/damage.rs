//! A small outbox whose bytes are changed: each byte of each file, some bits at once, each file cut at each length. It
//! opens, keeps what was not hit, names what was, and gives back nothing altered.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context as _, Result, bail, ensure};
use gapless_agent::outbox::memory_disk::MemoryDisk;
use gapless_agent::outbox::{Found, Journal, Opening, Options, Outbox, disk::Disk};
use gapless_common::id::{BootId, CatalogHash, Epoch, Seq};
use gapless_common::quality::Cause;

use super::random::Random;
use super::twin::{Made, catalog_bytes, read_all, time};
use super::{Chooser, Extent, Model, Tally};

/// Bytes of a file that are looked at beyond those in use.
const BEYOND: usize = 64;
/// Times that some bits are flipped at once.
const MULTIPLE: u64 = 4000;
const CATALOG: u64 = 1;
/// Bytes of the frame in which an epoch begins, and of a goodbye.
const OPENED_FRAME_BYTES: usize = 48 + 24;
const GOODBYE_FRAME_BYTES: usize = 48;
const SEGMENT: &str = "0000.seg";

/// What was stored, by epoch and seq, in the order of writing.
type Stored = BTreeMap<(u64, u64), Made>;

struct Small {
    disk: MemoryDisk,
    stored: Stored,
    /// Named as lost before anything is hurt.
    lost: (u64, u64),
    /// What it was, and the byte of the segment that hid it, as it was before.
    lost_made: Made,
    hidden_by: (usize, u8),
    /// The last record of each epoch, and where in the segment the one frame lies that says that it was: that in which
    /// the next epoch begins, or the goodbye.
    last: [((u64, u64), Range<usize>); 2],
    /// Where each record ends in the segment.
    ends: BTreeMap<(u64, u64), usize>,
    /// Files with the number of bytes in use.
    files: Vec<(String, usize)>,
}

fn open(disk: &MemoryDisk, epoch: u64) -> Result<(Journal, Found)> {
    let options = Options { budget_bytes: 1 << 20, ..Options::default() };
    let opening = Opening { epoch: Epoch(epoch), boot: BootId(7) };
    Ok(Journal::open(Box::new(disk.clone()), &options, opening)?)
}

impl Small {
    /// Two epochs, a catalog, an acknowledgement, a record lost to damage whose bytes are in quarantine, a goodbye.
    fn new() -> Result<Self> {
        let disk = MemoryDisk::new();
        let mut stored = Stored::new();
        let (mut outbox, _) = open(&disk, 1)?;
        outbox.catalogs().put(CatalogHash(CATALOG), &catalog_bytes(CATALOG))?;
        append(&mut outbox, &[40, 40, 12, 70], &mut stored)?;
        append(&mut outbox, &[90, 30], &mut stored)?;
        drop(outbox);
        let lost = (1, 4);
        let bytes = stored[&lost].bytes();
        let Some(mut segment) = disk.contents(SEGMENT) else { bail!("there is no segment") };
        let Some(at) = segment.windows(bytes.len()).position(|w| w == bytes) else {
            bail!("no record {lost:?}")
        };
        let hidden_by = (at + 9, segment[at + 9]);
        segment[at + 9] ^= 1;
        disk.set_contents(SEGMENT, &segment);
        let Some(lost_made) = stored.remove(&lost) else { bail!("{lost:?} was not made") };
        let (mut outbox, _) = open(&disk, 2)?;
        append(&mut outbox, &[30, 30, 30, 30], &mut stored)?;
        outbox.acknowledge(Epoch(1), Seq(1), &[]);
        append(&mut outbox, &[10], &mut stored)?;
        outbox.close(time(99))?;
        drop(outbox);
        let (ends, files) = (BTreeMap::new(), Vec::new());
        let mut small = Self {
            disk,
            stored,
            lost,
            lost_made,
            hidden_by,
            last: [((1, 6), 0..0), ((2, 5), 0..0)],
            ends,
            files,
        };
        small.measure()?;
        Ok(small)
    }

    fn measure(&mut self) -> Result<()> {
        for (name, len) in self.disk.clone().list()? {
            let bytes = self.disk.contents(&name).unwrap_or_default();
            let used = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            ensure!(bytes.len() as u64 == len, "{name} has another length");
            self.files.push((name, (used + BEYOND).min(bytes.len())));
        }
        let segment = self.disk.contents(SEGMENT).unwrap_or_default();
        for (&place, made) in &self.stored {
            let bytes = made.bytes();
            let at = segment.windows(bytes.len()).position(|w| w == bytes).unwrap_or(0);
            self.ends.insert(place, at + bytes.len());
        }
        for ((place, told), len) in self.last.iter_mut().zip([OPENED_FRAME_BYTES, GOODBYE_FRAME_BYTES]) {
            let end = self.ends.get(place).copied().unwrap_or_default();
            *told = end..end + len;
        }
        Ok(())
    }

    /// Opens a hurt copy: at most `lost_max` records are gone, each of them named.
    fn check(&self, hurt: &MemoryDisk, hit: &[(&str, usize)]) -> Result<u64> {
        let in_segment = || hit.iter().filter(|(file, _)| *file == SEGMENT).map(|&(_, at)| at);
        let lost_max = in_segment().count();
        let is_told = |place: &(u64, u64)| {
            let told = self.last.iter().find(|(last, _)| last == place);
            told.is_none_or(|(_, told)| !in_segment().any(|at| told.contains(&at)))
        };
        let (mut outbox, found) = open(hurt, 3)?;
        let is_undone = self.is_undone(hurt);
        let held = self.held(&mut outbox, is_undone)?;
        let gone: Vec<_> = self.stored.keys().filter(|place| !held.contains(place)).collect();
        ensure!(gone.len() <= lost_max, "{gone:?} are gone");
        let losses = outbox.pending_losses();
        let names = |&(epoch, seq): &(u64, u64)| {
            losses.iter().any(|l| {
                l.epoch == Epoch(epoch)
                    && (l.first.0..=l.last.0).contains(&seq)
                    && l.cause == Cause::Quarantined
            })
        };
        ensure!(names(&self.lost), "{:?} was lost before and is not named any more", self.lost);
        for place in &gone {
            // The first one is acknowledged. That an epoch's last one was there only the frame behind it says.
            let is_excused = **place == (1, 1) || (lost_max > 1 && !is_told(place));
            ensure!(is_excused || names(place), "{place:?} is gone, and nothing says so");
            let says = found.report.quarantined_bytes + found.report.torn_bytes > 0;
            ensure!(says, "{place:?} is gone, and the report is {:?}", found.report);
        }
        ensure!(
            losses.iter().all(|l| !held
                .iter()
                .filter(|place| !(is_undone && **place == self.lost))
                .any(|&(e, s)| l.epoch.0 == e && l.first.0 <= s && s <= l.last.0)),
            "what is held is named as lost: {losses:?}"
        );
        check_catalog(&mut outbox, &hit.iter().map(|&(file, _)| file).collect::<Vec<_>>())?;
        drop(outbox);
        let (mut again, found) = open(hurt, 4)?;
        ensure!(found.report.quarantined_bytes == 0, "reported twice");
        ensure!(
            self.held(&mut again, is_undone)? == held && again.pending_losses() == losses,
            "another account the next time"
        );
        goes_on(&mut again)?;
        Ok(gone.len() as u64)
    }

    fn held(&self, outbox: &mut Journal, is_undone: bool) -> Result<Vec<(u64, u64)>> {
        let mut held = Vec::new();
        for record in read_all(outbox)? {
            let place = (record.epoch.0, record.seq.0);
            let made =
                if place == self.lost && is_undone { Some(&self.lost_made) } else { self.stored.get(&place) };
            let Some(made) = made else { bail!("{place:?} was never stored") };
            ensure!(made.is(&record), "{place:?} is altered");
            held.push(place);
        }
        Ok(held)
    }

    /// Whether the bit that hid the lost record is flipped back: then it is there again, as it was, though it is named.
    fn is_undone(&self, hurt: &MemoryDisk) -> bool {
        let (at, byte) = self.hidden_by;
        hurt.contents(SEGMENT).is_some_and(|segment| segment.get(at) == Some(&byte))
    }

    /// Opens a copy with a file cut at `len`.
    fn check_cut(&self, hurt: &MemoryDisk, file: &str, len: usize) -> Result<u64> {
        let (mut outbox, _) = open(hurt, 3)?;
        let held = self.held(&mut outbox, false)?;
        for (place, &end) in &self.ends {
            let is_before = file != SEGMENT || end <= len;
            ensure!(held.contains(place) || !is_before, "{place:?} lies before the cut and is gone");
        }
        check_catalog(&mut outbox, &[file])?;
        goes_on(&mut outbox)?;
        drop(outbox);
        open(hurt, 4)?;
        Ok((self.stored.len() - held.len()) as u64)
    }
}

/// It is as it was, or says that it is damaged and can be put again.
fn check_catalog(outbox: &mut Journal, hit: &[&str]) -> Result<()> {
    let (hash, bytes) = (CatalogHash(CATALOG), catalog_bytes(CATALOG));
    match outbox.catalogs().get(hash) {
        Ok(Some(there)) => ensure!(there == bytes, "the catalog is altered"),
        Ok(None) => bail!("the catalog is gone"),
        Err(e) => {
            ensure!(hit.iter().any(|file| file.starts_with("catalogs/")), "{e}");
            outbox.catalogs().put(hash, &bytes)?;
            ensure!(outbox.catalogs().get(hash)? == Some(bytes), "the catalog cannot be put again");
        }
    }
    Ok(())
}

fn goes_on(outbox: &mut Journal) -> Result<()> {
    let last = append(outbox, &[100], &mut Stored::new())?;
    ensure!(last == Seq(1), "a new epoch begins at {last}");
    Ok(())
}

fn append(outbox: &mut Journal, lengths: &[usize], stored: &mut Stored) -> Result<Seq> {
    let (epoch, first) = (outbox.epoch().0, outbox.next_seq().0);
    let made: Vec<Made> = (first..)
        .zip(lengths)
        .map(|(n, &len)| Made {
            number: epoch * 100 + n,
            len,
            kind: 3,
            catalog: CATALOG,
            is_essential: false,
        })
        .collect();
    let bytes: Vec<_> = made.iter().map(Made::bytes).collect();
    let batch: Vec<_> = made.iter().zip(&bytes).map(|(made, bytes)| made.record(bytes)).collect();
    stored.extend((first..).zip(made).map(|(seq, made)| ((epoch, seq), made)));
    Ok(outbox.append(&batch)?)
}

/// Hurts it everywhere, or at a sample of places.
///
/// # Errors
/// The small outbox could not be made; what is found is in the tally.
pub fn hurt(seed: u64, extent: Extent) -> Result<Tally> {
    let small = Small::new()?;
    let places: usize = small.files.iter().map(|(_, used)| used).sum();
    let possible = 3 * places as u64 + MULTIPLE;
    let mut hurter = Hurter {
        small,
        seed,
        chooser: Chooser::new(seed, extent, possible),
        tally: Tally { operations: 1, ..Tally::default() },
    };
    for (file, used) in hurter.small.files.clone() {
        for at in 0..used {
            hurter.flip_byte(&file, at, 1 << (at % 8));
            hurter.flip_byte(&file, at, 0xFF);
            hurter.truncate(&file, at);
        }
    }
    for n in 0..MULTIPLE {
        hurter.flip_bits(n);
    }
    Ok(hurter.tally)
}

struct Hurter {
    small: Small,
    seed: u64,
    chooser: Chooser,
    tally: Tally,
}

impl Hurter {
    fn flip_byte(&mut self, file: &str, at: usize, mask: u8) {
        self.hurt(&format!("{file}, byte {at} ^ {mask}"), "records lost to one byte", |small, disk| {
            change(disk, file, |bytes| bytes[at] ^= mask);
            small.check(disk, &[(file, at)])
        });
    }

    fn truncate(&mut self, file: &str, len: usize) {
        self.hurt(&format!("{file} cut at {len}"), "records lost to a cut file", |small, disk| {
            change(disk, file, |bytes| bytes.truncate(len));
            small.check_cut(disk, file, len)
        });
    }

    /// Two to six bits anywhere in use.
    fn flip_bits(&mut self, n: u64) {
        let mut random = Random::of(self.seed, n);
        let count = random.within(2, 6);
        self.hurt(&format!("{count} bits, {n}"), "records lost to two to six bits", |small, disk| {
            let mut hit = Vec::new();
            for _ in 0..count {
                let index = usize::try_from(random.below(small.files.len() as u64))?;
                let (file, used) = &small.files[index];
                let at = usize::try_from(random.below(*used as u64))?;
                change(disk, file, |bytes| bytes[at] ^= 1 << random.below(8));
                hit.push((file.as_str(), at));
            }
            small.check(disk, &hit).with_context(|| format!("{hit:?}"))
        });
    }

    fn hurt(
        &mut self,
        context: &str,
        figure: &'static str,
        check: impl FnOnce(&Small, &MemoryDisk) -> Result<u64>,
    ) {
        self.tally.cut_points += 1;
        if !self.chooser.takes(self.tally.cut_points) {
            return;
        }
        let disk = self.small.disk.copy();
        let result = catch_unwind(AssertUnwindSafe(|| check(&self.small, &disk)));
        *self.tally.images.entry(Model::Nothing).or_default() += 1;
        if let Ok(Ok(lost)) = result {
            self.tally.count(figure, lost);
        }
        self.tally.end(&format!("damage, seed {}, {context}", self.seed), result.map(|done| done.map(drop)));
    }
}

fn change(disk: &MemoryDisk, file: &str, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.contents(file).unwrap_or_default();
    change(&mut bytes);
    disk.set_contents(file, &bytes);
}
