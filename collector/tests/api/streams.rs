//! Long answers: broken ones are known as such, nobody's absence keeps a scan, and memory stays bounded.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gapless_collector::api::Health;
use gapless_collector::store::model::{
    AgentRow, AlertEventRow, AlertFilter, AlertRow, ChangeRow, ConflictRow, DeviceNo, DeviceRow, EndedJobRow,
    Flow, GapEventRow, GapFilter, GapRow, GridRow, Head, JobRow, LeaseRow, Meters, News, NewsFilter,
    ParkedRow, Place, ReceiverRow, RemovalRow, Scan, SeriesNo, SeriesRow, SiteRow, Stats, StoredReading,
    StripRun, TrafficRow, Unread,
};
use gapless_collector::store::{ReadError, ReadStore, Reader};
use gapless_common::id::{Commit, DeviceId, SiteId};
use gapless_common::quality::Quality;
use gapless_common::reading::Value;
use gapless_common::time::Timestamp;
use tokio::sync::watch;

use crate::support::{Filled, Served, T0, U, number, open};

/// A real database whose scans give `rows` readings, and then fail or end.
struct Long {
    real: Reader,
    rows: u64,
    fails: bool,
    scans: AtomicU64,
}

impl Long {
    fn scan(&self, each: &mut dyn FnMut(StoredReading) -> Flow) -> Result<(), ReadError> {
        self.scans.fetch_add(1, Ordering::SeqCst);
        let outcome = self.rows(each);
        self.scans.fetch_sub(1, Ordering::SeqCst);
        outcome
    }

    fn rows(&self, each: &mut dyn FnMut(StoredReading) -> Flow) -> Result<(), ReadError> {
        for n in 0..self.rows {
            let at = Timestamp(T0.0 + i64::try_from(n).unwrap());
            let value = Some(Value::Number(0.5));
            let (series, quality, commit) = (SeriesNo(1), Quality::Good, Commit(2));
            let row = StoredReading { series, at, value, quality, lent: false, commit };
            if each(row) == Flow::Stop {
                return Ok(());
            }
        }
        let gone = || ReadError::Unknown { what: "page", value: "the disk is gone".to_owned() };
        if self.fails { Err(gone()) } else { Ok(()) }
    }
}

type Read<T> = Result<T, ReadError>;

impl ReadStore for Long {
    fn readings(&self, _: &Scan, each: &mut dyn FnMut(StoredReading) -> Flow) -> Read<()> {
        self.scan(each)
    }
    fn changed_readings(&self, _: &ChangeRow, each: &mut dyn FnMut(StoredReading) -> Flow) -> Read<()> {
        self.scan(each)
    }
    fn complete(&self, _: &Scan, _: Timestamp, each: &mut dyn FnMut(GridRow) -> Flow) -> Read<()> {
        self.scan(&mut |reading| each(GridRow::Reading(reading)))
    }
    fn head(&self) -> Read<Head> {
        self.real.head()
    }
    fn sites(&self) -> Read<Vec<SiteRow>> {
        self.real.sites()
    }
    fn has_site(&self, site: &SiteId) -> Read<bool> {
        self.real.has_site(site)
    }
    fn has_device(&self, site: Option<&SiteId>, device: &DeviceId) -> Read<bool> {
        self.real.has_device(site, device)
    }
    fn agents(&self, site: Option<&SiteId>) -> Read<Vec<AgentRow>> {
        self.real.agents(site)
    }
    fn devices(&self, site: Option<&SiteId>, now: Timestamp) -> Read<Vec<DeviceRow>> {
        self.real.devices(site, now)
    }
    fn series(&self, site: Option<&SiteId>, device: Option<&DeviceId>) -> Read<Vec<SeriesRow>> {
        self.real.series(site, device)
    }
    fn latest(&self, series: &[SeriesNo], now: Timestamp) -> Read<Vec<StoredReading>> {
        self.real.latest(series, now)
    }
    fn changes(&self, after: Commit, limit: usize) -> Read<Vec<ChangeRow>> {
        self.real.changes(after, limit)
    }
    fn withdrawn(&self, change: &ChangeRow, each: &mut dyn FnMut(SeriesNo, Timestamp) -> Flow) -> Read<()> {
        self.real.withdrawn(change, each)
    }
    fn numbers_before(&self, series: &[SeriesNo], at: Timestamp) -> Read<Vec<StoredReading>> {
        self.real.numbers_before(series, at)
    }
    fn gaps(&self, filter: &GapFilter) -> Read<Vec<GapRow>> {
        self.real.gaps(filter)
    }
    fn gap(&self, id: i64) -> Read<Option<GapRow>> {
        self.real.gap(id)
    }
    fn gap_events(&self, id: i64) -> Read<Vec<GapEventRow>> {
        self.real.gap_events(id)
    }
    fn strip(&self, device: DeviceNo, from: Timestamp, to: Timestamp, now: Timestamp) -> Read<Vec<StripRun>> {
        self.real.strip(device, from, to, now)
    }
    fn unread(&self, device: DeviceNo) -> Read<Unread> {
        self.real.unread(device)
    }
    fn jobs(&self) -> Read<Vec<JobRow>> {
        self.real.jobs()
    }
    fn ended_jobs(&self, before: Option<i64>, limit: usize) -> Read<Vec<EndedJobRow>> {
        self.real.ended_jobs(before, limit)
    }
    fn alerts(&self, filter: &AlertFilter) -> Read<Vec<AlertRow>> {
        self.real.alerts(filter)
    }
    fn alert(&self, id: i64) -> Read<Option<AlertRow>> {
        self.real.alert(id)
    }
    fn alert_events(&self, id: i64) -> Read<Vec<AlertEventRow>> {
        self.real.alert_events(id)
    }
    fn open_alerts(&self) -> Read<u64> {
        self.real.open_alerts()
    }
    fn receivers(&self) -> Read<Vec<ReceiverRow>> {
        self.real.receivers()
    }
    fn removals(&self, after: Option<i64>, limit: usize) -> Read<Vec<RemovalRow>> {
        self.real.removals(after, limit)
    }
    fn conflicts(&self, after: Option<i64>, limit: usize) -> Read<Vec<ConflictRow>> {
        self.real.conflicts(after, limit)
    }
    fn parked(&self, after: Option<i64>, limit: usize) -> Read<Vec<ParkedRow>> {
        self.real.parked(after, limit)
    }
    fn stats(&self) -> Read<Stats> {
        self.real.stats()
    }
    fn news_end(&self) -> Read<Place> {
        self.real.news_end()
    }
    fn news(&self, after: Place, filter: &NewsFilter, most: usize) -> Read<News> {
        self.real.news(after, filter, most)
    }
    fn lease(&self, site: &SiteId, now: Timestamp) -> Read<Option<LeaseRow>> {
        self.real.lease(site, now)
    }
    fn leases(&self, now: Timestamp) -> Read<Vec<(SiteId, Timestamp)>> {
        self.real.leases(now)
    }
    fn traffic(&self, site: Option<&SiteId>, from: Timestamp, to: Timestamp) -> Read<Vec<TrafficRow>> {
        self.real.traffic(site, from, to)
    }
    fn meters(&self, now: Timestamp) -> Read<Meters> {
        self.real.meters(now)
    }
    fn token_name(&self, sha256: &[u8; 32]) -> Read<Option<String>> {
        self.real.token_name(sha256)
    }
}

/// A served store whose scans give `rows` readings and then fail, or end.
fn long(rows: u64, fails: bool) -> (Served, Arc<Long>, Filled) {
    let mut filled = Filled::new();
    filled.send(vec![number(0, 0, U, 1.0)]);
    let file = filled.served.folder().join("db");
    let store = Arc::new(Long { real: Reader::new(&file), rows, fails, scans: AtomicU64::new(0) });
    let (_, commits) = watch::channel(Commit(2));
    let folder = tempfile::tempdir().unwrap();
    // The token is asked of the real database.
    std::os::unix::fs::symlink(&file, folder.path().join("db")).unwrap();
    let orders = filled.orders();
    let served = Served::start(folder, store.clone(), commits, Arc::new(Health::default()), orders);
    (served, store, filled)
}

const RAW: &str = "/api/v1/readings?series=farm/a/u&from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z";

#[test]
fn a_broken_answer_is_known_as_broken() {
    // At once, before the first chunk is full, and far behind it.
    for rows in [0, 10, 20_000] {
        let (served, _store, _filled) = long(rows, true);
        let urls = [
            "",
            "&format=ndjson",
            "&format=csv",
            "&resample=1m",
            "&resample=1s&format=csv",
            "&grid=complete",
        ];
        let urls = urls.map(|format| format!("{RAW}{format}"));
        for url in urls.into_iter().chain(["/api/v1/changes?changed_after=0".to_owned()]) {
            let answer = served.get(&url);
            assert!(answer.broken, "{url} after {rows} rows: {} bytes", answer.body.len());
            assert!(!answer.body.contains("complete"), "{url}");
        }
        let (served, _store, _filled) = long(rows, false);
        let whole = served.get(RAW);
        assert_eq!((whole.broken, whole.body.contains("\"complete\":true")), (false, true));
    }
}

/// Looks until it is so; a test's deadline, not a measurement.
fn wait_until(what: &str, so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn who_goes_away_keeps_no_scan() {
    let (served, store, _filled) = long(u64::MAX, false);
    let authorization = served.authorization();
    let answer = open(&format!("{}{RAW}", served.base), &[("authorization", &authorization)]);
    let mut reader = answer.into_body().into_reader();
    let mut some = [0; 1_000];
    reader.read_exact(&mut some).unwrap();
    assert_eq!(store.scans.load(Ordering::SeqCst), 1);
    drop(reader);
    wait_until("the scan to end", || store.scans.load(Ordering::SeqCst) == 0);
}

/// The most memory this process ever had, in KiB (`VmHWM` of /proc/self/status).
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn a_million_readings_need_no_memory() {
    const ROWS: u64 = 1_000_000;
    /// An answer of some 50 MB must fit many times into what it may take.
    const GROWTH_KIB_MAX: u64 = 16 << 10;
    let (served, _store, _filled) = long(ROWS, false);
    let authorization = served.authorization();
    let url = format!("{}{RAW}&format=csv", served.base);
    let before = peak_kib();
    let answer = open(&url, &[("authorization", &authorization)]);
    let mut reader = answer.into_body().into_reader();
    let (mut lines, mut bytes, mut buffer) = (0_u64, 0_u64, vec![0; 64 << 10]);
    loop {
        let n = reader.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        bytes += u64::try_from(n).unwrap();
        lines += u64::try_from(buffer[..n].iter().filter(|b| **b == b'\n').count()).unwrap();
    }
    assert_eq!(lines, ROWS + 1);
    assert!(bytes > 40_000_000, "{bytes}");
    let growth = peak_kib() - before;
    assert!(growth < GROWTH_KIB_MAX, "{growth} KiB more for {bytes} bytes");
}
