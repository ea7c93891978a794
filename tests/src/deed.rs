//! What was done to a site, and when: what a gap may be explained with. The machine's own trouble counts, too: on a
//! busy one a thread that polls or answers is kept waiting, and that costs slots.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use gapless_common::time::Timestamp;

use crate::mischief::Mischief;
use crate::settle;

/// A thread that sleeps so long is expected to come back so late at most.
const NAP: Duration = Duration::from_millis(20);
const NAP_LATE_MAX: Duration = Duration::from_millis(100);

/// Something that was done, by the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deed {
    /// What.
    pub what: Trouble,
    /// Just before its begin.
    pub from: Timestamp,
    /// Just after its end.
    pub to: Timestamp,
}

/// Trouble of our making, or the machine's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Of the schedule.
    Done(Mischief),
    /// The machine was too busy to let a thread run that had nothing to wait for.
    MachineBusy,
}

/// Looks how long the machine keeps a thread waiting that sleeps only for a moment.
#[derive(Debug)]
pub struct MachineWatch {
    is_over: Arc<AtomicBool>,
    busy: Arc<Mutex<Vec<Deed>>>,
    thread: JoinHandle<()>,
}

impl MachineWatch {
    /// Begins to look.
    #[must_use]
    pub fn start() -> Self {
        let (is_over, busy) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (ended, found) = (Arc::clone(&is_over), Arc::clone(&busy));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                let (from, began) = (settle::now(), Instant::now());
                std::thread::sleep(NAP);
                if began.elapsed() > NAP + NAP_LATE_MAX {
                    let deed = Deed { what: Trouble::MachineBusy, from, to: settle::now() };
                    found.lock().unwrap_or_else(PoisonError::into_inner).push(deed);
                }
            }
        });
        Self { is_over, busy, thread }
    }

    /// What it saw.
    #[must_use]
    pub fn stop(self) -> Vec<Deed> {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        std::mem::take(&mut *self.busy.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
