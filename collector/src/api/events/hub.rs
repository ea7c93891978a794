//! What all streams of events share: the task that watches how fresh devices are while somebody wants to know, and the bound
//! on the number of streams.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::transitions::{Mark, Name, Standing, Transition, Transitions};
use crate::api::{ApiState, Freshness, Problem};

/// Streams at once; each is a task that asks the database a few questions at each commit.
const STREAMS_MAX: usize = 256;
/// How often freshness is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A look may cost a tenth of a core.
const LOOK_SHARE: u32 = 10;
/// How long it is looked at after the last one who wanted to know has gone: who comes back soon is told what it missed.
const LINGER: Duration = Duration::from_secs(300);

/// Shared by all streams.
#[derive(Debug, Clone)]
pub(in crate::api) struct Hub {
    streams: Arc<Semaphore>,
    freshness: Arc<Watched>,
}

#[derive(Debug)]
struct Watched {
    /// `None` where nobody watches.
    seen: Mutex<Option<Transitions>>,
    /// Whether the task runs.
    runs: Mutex<bool>,
    changed: watch::Sender<Option<Mark>>,
}

/// What a stream is told of freshness.
pub(super) enum Told {
    /// These changes.
    Changes(Vec<Transition>),
    /// What changed since is not remembered: how everything stands now, up to this mark.
    Anew(Vec<(Name, Standing)>, Mark),
}

impl Default for Hub {
    fn default() -> Self {
        let (changed, _) = watch::channel(None);
        let watched = Watched { seen: Mutex::default(), runs: Mutex::default(), changed };
        Self { streams: Arc::new(Semaphore::new(STREAMS_MAX)), freshness: Arc::new(watched) }
    }
}

impl Hub {
    /// A place for one more stream.
    pub(super) fn stream(&self) -> Result<OwnedSemaphorePermit, Problem> {
        Arc::clone(&self.streams).try_acquire_owned().map_err(|_| Problem::TooMany("streams of events"))
    }

    /// Is told of every change of freshness from now on.
    pub(super) fn watch_freshness(&self, state: &ApiState) -> watch::Receiver<Option<Mark>> {
        let receiver = self.freshness.changed.subscribe();
        let mut runs = self.freshness.runs.lock().unwrap_or_else(PoisonError::into_inner);
        if !*runs {
            *runs = true;
            tokio::spawn(watch_fleet(Arc::clone(&self.freshness), state.clone()));
        }
        receiver
    }

    /// What changed since `mark`; `None` where nothing has been seen yet.
    pub(super) fn freshness_since(&self, mark: Option<Mark>) -> Option<Told> {
        let seen = self.freshness.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.as_ref()?;
        Some(match mark.and_then(|mark| seen.since(mark)) {
            Some(changes) => Told::Changes(changes),
            None => {
                let states = seen.states().map(|(name, standing)| (name.clone(), *standing)).collect();
                Told::Anew(states, seen.mark())
            }
        })
    }
}

/// Looks at the fleet until nobody has wanted to know for [`LINGER`].
async fn watch_fleet(watched: Arc<Watched>, state: ApiState) {
    // A number that no earlier life had, or hardly.
    let life = getrandom::u64().unwrap_or_default();
    let mut wanted = Instant::now();
    loop {
        let (began, now) = (Instant::now(), (state.now)());
        if let Ok(devices) = state.ask(move |store| store.devices(None, now)).await {
            let fleet = devices.iter().map(|device| {
                let verdict = Freshness::of(device, now);
                let (state, score) = (verdict.state, verdict.score);
                let standing = Standing { state, score, last_reading_at: device.last_reading_at };
                ((device.site.to_string(), device.device.to_string()), standing)
            });
            let mut seen = watched.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let is_first = seen.is_none();
            let here = seen.get_or_insert_with(|| Transitions::new(life));
            if here.see(fleet, now) || is_first {
                watched.changed.send_replace(Some(here.mark()));
            }
        }
        if watched.changed.receiver_count() > 0 {
            wanted = Instant::now();
        }
        {
            // Whoever comes now finds the task running, or starts it anew.
            let mut runs = watched.runs.lock().unwrap_or_else(PoisonError::into_inner);
            if wanted.elapsed() > LINGER && watched.changed.receiver_count() == 0 {
                *watched.seen.lock().unwrap_or_else(PoisonError::into_inner) = None;
                *runs = false;
                return;
            }
        }
        tokio::time::sleep((began.elapsed() * LOOK_SHARE).max(LOOK_EVERY)).await;
    }
}
