//! The workers of all sources: so many threads, however many sources there are. Who has something to do is seen for all at
//! once; the most urgent source goes first, one at a time of each account.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::watch;

use super::failure::{Failure, guarded};
use super::ground::Ground;
use super::shell::{RETRY_FIRST_MS, RETRY_MAX_MS, Shell};
use crate::jobs::budget::Urgency;
use crate::store::sources::Scan;
use crate::store::sqlite;

/// How often it is seen what commands there are.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A worker with nothing to do sees so often whether that has changed.
const PAUSE: Duration = Duration::from_millis(50);
/// A source that has waited for a worker for so long is as one with stale data, and more urgent the longer it goes on.
const WAIT_MS: i64 = 300_000;

/// See the module's text.
struct Pool {
    sources: Mutex<Sources>,
    database: PathBuf,
}

/// The sources of a process, and whose turn it is. Has no thread: whoever holds it says when a worker is free, has the
/// [`next`](Self::next) turn carried out, and [`end`](Self::end)s it.
pub struct Sources {
    ground: Arc<dyn Ground>,
    resting: Vec<Resting>,
    /// Accounts of the sources that a worker has.
    busy: BTreeSet<String>,
    scan: Arc<Scan>,
    scanned_at: Option<Instant>,
    /// There is no writer any more.
    is_over: bool,
}

/// A source that no worker has.
struct Resting {
    shell: Shell,
    /// How urgent it is, and since when it has waited, where there is something to do.
    wants: Option<(f64, Instant)>,
    /// So many looks in a row were ended by a fault of this program.
    faults: u32,
    /// It is left alone until then because of that.
    rests_until: Option<Instant>,
}

/// The turn of a source, to be [carried out](Self::carry_out) by a worker.
#[must_use = "nobody else looks after the source until its turn has ended"]
pub struct Turn {
    resting: Resting,
    scan: Arc<Scan>,
}

/// A turn that was carried out, and is to be [ended](Sources::end).
#[must_use = "nobody else looks after the source until its turn has ended"]
pub struct Done {
    resting: Resting,
    looked: Result<bool, Failure>,
}

impl Turn {
    /// Does what there is to do of the source.
    pub fn carry_out(self, connection: &Connection) -> Done {
        let Self { mut resting, scan } = self;
        let looked = guarded(|| resting.shell.look(connection, &scan));
        let source = resting.shell.pace.name.as_str();
        match &looked {
            Err(Failure::Ending) => {}
            Err(error @ Failure::Fault(_)) => tracing::error!(source, %error, "tried again"),
            Err(error) if error.until().is_some() => tracing::debug!(source, %error, "it waits"),
            Err(error) => tracing::warn!(source, %error, "tried again"),
            Ok(_) => {}
        }
        Done { resting, looked }
    }
}

impl Resting {
    fn new(shell: Shell) -> Self {
        Self { shell, wants: None, faults: 0, rests_until: None }
    }
}

/// Starts so many workers for these sources, fewer where there are fewer accounts. They end with `shutdown`, or with the writer.
pub(super) fn start(
    shells: Vec<Shell>,
    (database, ground): (&Path, &Arc<dyn Ground>),
    workers: usize,
    shutdown: &watch::Receiver<bool>,
) -> std::io::Result<()> {
    let accounts: BTreeSet<_> = shells.iter().map(|shell| shell.account.clone()).collect();
    let sources = Mutex::new(Sources::new(shells, ground));
    let pool = Arc::new(Pool { sources, database: database.to_owned() });
    for _ in 0..workers.max(1).min(accounts.len()) {
        let (pool, shutdown) = (Arc::clone(&pool), shutdown.clone());
        std::thread::Builder::new().name("source".into()).spawn(move || pool.work(&shutdown))?;
    }
    Ok(())
}

impl Pool {
    fn sources(&self) -> MutexGuard<'_, Sources> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker does.
    fn work(&self, shutdown: &watch::Receiver<bool>) {
        let mut connection = None;
        while !*shutdown.borrow() && !self.sources().is_over {
            match self.turn(&mut connection) {
                Ok(true) => {}
                Ok(false) => std::thread::sleep(PAUSE),
                Err(error) => {
                    tracing::warn!(%error, "sources are looked after as soon as the database can be read");
                    std::thread::sleep(LOOK_EVERY);
                }
            }
        }
    }

    /// Looks after the most urgent source. Returns whether there was one.
    fn turn(&self, connection: &mut Option<Connection>) -> rusqlite::Result<bool> {
        let connection = match connection {
            Some(connection) => connection,
            None => connection.insert(sqlite::open_reader(&self.database)?),
        };
        let next = self.sources().next(connection)?;
        let Some(turn) = next else { return Ok(false) };
        let done = turn.carry_out(connection);
        self.sources().end(done);
        Ok(true)
    }
}

impl Sources {
    /// These, which stand on that ground.
    pub(super) fn new(shells: Vec<Shell>, ground: &Arc<dyn Ground>) -> Self {
        let resting = shells.into_iter().map(Resting::new).collect();
        let (ground, busy, scan) = (Arc::clone(ground), BTreeSet::new(), Arc::default());
        Self { ground, resting, busy, scan, scanned_at: None, is_over: false }
    }

    /// The turn of the most urgent source that has something to do, where there is one, and a writer to tell of it. A worker that
    /// finds none asks again soon.
    ///
    /// # Errors
    /// The database could not be read.
    pub fn next(&mut self, connection: &Connection) -> rusqlite::Result<Option<Turn>> {
        if self.is_over {
            return Ok(None);
        }
        self.see(connection)?;
        let taken = self.take(self.ground.instant());
        Ok(taken.map(|(resting, scan)| Turn { resting, scan }))
    }

    /// A worker is through with a turn.
    pub fn end(&mut self, done: Done) {
        self.put_back(done.resting, &done.looked);
    }

    /// Sees who has something to do, where that has not been seen lately.
    fn see(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let now = self.ground.instant();
        if self.scanned_at.is_some_and(|at| now.duration_since(at) < LOOK_EVERY) {
            return Ok(());
        }
        let at = self.ground.now();
        self.scan = Arc::new(Scan::read(connection, at)?);
        self.scanned_at = Some(now);
        for Resting { shell, wants, .. } in &mut self.resting {
            let since = wants.map_or(now, |(_, since)| since);
            *wants = shell.wants(&self.scan, at).map(|rank| (rank, since));
        }
        Ok(())
    }

    /// The most urgent source that has something to do and whose account nobody is asking.
    fn take(&mut self, now: Instant) -> Option<(Resting, Arc<Scan>)> {
        let rank = |resting: &Resting| {
            let is_free = !self.busy.contains(&resting.shell.account)
                && resting.rests_until.is_none_or(|until| until <= now);
            let (rank, since) = resting.wants.filter(|_| is_free)?;
            let waited_ms = i64::try_from(now.duration_since(since).as_millis()).unwrap_or(i64::MAX);
            Some(rank.max(Urgency::waiting(waited_ms, WAIT_MS).rank()))
        };
        let ranks = self.resting.iter().enumerate().filter_map(|(at, resting)| Some((rank(resting)?, at)));
        // Of those that are alike the one goes first that has not been looked after for longest: it stands before the others.
        let (_, at) = ranks.max_by(|(a, at), (b, other)| a.total_cmp(b).then(other.cmp(at)))?;
        let taken = self.resting.remove(at);
        self.busy.insert(taken.shell.account.clone());
        Some((taken, Arc::clone(&self.scan)))
    }

    /// A worker is through with a source for now.
    fn put_back(&mut self, resting: Resting, look: &Result<bool, Failure>) {
        let (Resting { shell, faults, .. }, now) = (resting, self.ground.instant());
        self.busy.remove(&shell.account);
        self.is_over |= matches!(look, Err(Failure::Ending));
        let has_more = matches!(look, Ok(true));
        let rank = shell.wants(&self.scan, self.ground.now()).filter(|_| has_more);
        let wants = rank.map(|rank| (rank, now));
        // A fault may come again at once, each time: it backs off as any failure does.
        let (faults, rests_until) = match look {
            Err(Failure::Fault(_)) => (faults.saturating_add(1), Some(now + rest(faults))),
            _ => (0, None),
        };
        self.resting.push(Resting { shell, wants, faults, rests_until });
    }
}

/// How long a source is left alone after so many faults before this one.
fn rest(faults: u32) -> Duration {
    let ms = RETRY_FIRST_MS.saturating_mul(1 << faults.min(10)).min(RETRY_MAX_MS);
    Duration::from_millis(ms.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::super::fetch::Pace;
    use super::super::ground::Process;
    use super::*;
    use crate::ingest::Orders;

    fn ground() -> Arc<dyn Ground> {
        Arc::new(Process::new(Path::new("/nowhere"), &Orders::to(&mpsc::channel(1).0)))
    }

    /// A source of an account, as urgent as that, that has waited since then.
    fn resting(name: &str, account: &str, rank: Option<f64>, since: Instant) -> Resting {
        let name = name.to_owned();
        let pace = Pace { name, window_ms: 1, overlap_ms: 0, lag_ms: 0, unreachable_every_ms: 1 };
        let shell = Shell::new(pace, ground(), account.to_owned(), Vec::new());
        Resting { wants: rank.map(|rank| (rank, since)), ..Resting::new(shell) }
    }

    #[test]
    fn a_source_with_a_fault_gives_its_account_back_and_is_left_alone_longer_each_time() {
        let now = Instant::now();
        let all = [resting("faulty", "a", Some(9.0), now), resting("sound", "a", Some(1.0), now)];
        let mut sources = Sources { resting: all.into(), ..Sources::new(Vec::new(), &ground()) };
        let want = |sources: &mut Sources| {
            sources.resting.iter_mut().for_each(|resting| resting.wants = Some((9.0, now)));
        };
        for (no, seconds) in [5, 10, 20].into_iter().enumerate() {
            let later = now + Duration::from_secs(1_000 * u64::try_from(no).unwrap());
            let (faulty, _) = sources.take(later).unwrap();
            assert_eq!(faulty.shell.pace.name, "faulty");
            let before = Instant::now();
            sources.put_back(faulty, &Err(Failure::Fault("index".to_owned())));
            want(&mut sources);
            let (sound, _) = sources.take(before).unwrap();
            assert_eq!(sound.shell.pace.name, "sound", "its account is free, and it waits");
            sources.put_back(sound, &Ok(false));
            let until = sources.resting.iter().find_map(|resting| resting.rests_until).unwrap();
            let rest = until.duration_since(before);
            assert!(
                rest >= Duration::from_secs(seconds) && rest < Duration::from_secs(seconds + 4),
                "{rest:?}"
            );
            // Only the faulty one has anything to do the next time.
            want(&mut sources);
            sources.resting.retain_mut(|resting| {
                resting.wants = resting.wants.filter(|_| resting.shell.pace.name == "faulty");
                true
            });
        }
        let (faulty, _) = sources.take(now + Duration::from_secs(9_000)).unwrap();
        sources.put_back(faulty, &Ok(false));
        assert!(sources.resting.iter().all(|resting| resting.faults == 0 && resting.rests_until.is_none()));
        assert_eq!(rest(40), Duration::from_secs(300));
    }

    #[test]
    fn the_most_urgent_goes_first_one_of_each_account_and_nobody_waits_for_ever() {
        let early = Instant::now();
        let now = early + Duration::from_secs(20 * 60);
        let all = [
            ("idle", "z", None, now),
            ("calm", "a", Some(1.0), now),
            ("stale", "a", Some(5.0), now),
            ("first", "b", Some(2.0), now),
            ("second", "c", Some(2.0), now),
            ("patient", "d", Some(-1.0), early),
        ];
        let resting = all.map(|(name, account, rank, since)| resting(name, account, rank, since));
        let mut sources = Sources { resting: resting.into(), ..Sources::new(Vec::new(), &ground()) };
        let mut taken = Vec::new();
        while let Some((resting, _)) = sources.take(now) {
            taken.push(resting);
        }
        let names: Vec<_> = taken.iter().map(|resting| resting.shell.pace.name.as_str()).collect();
        assert_eq!(names, ["stale", "patient", "first", "second"], "another one of its account is asked");
        sources.put_back(taken.remove(0), &Ok(false));
        let (resting, _) = sources.take(now).unwrap();
        assert_eq!(resting.shell.pace.name, "calm");
        assert!(
            sources.take(now).is_none(),
            "what was just looked after waits until there is something to do"
        );
        sources.put_back(resting, &Err(Failure::Ending));
        assert!(sources.is_over);
    }
}
