//! A serial line on a pty: opens the pair, names its slave by a symbolic link that outlives unplugging, and runs
//! the line's thread. Pacing is `line`'s business.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{Mode, OFlags};
use rustix::pty::OpenptFlags;
use rustix::termios::OptionalActions;

use super::device::DeviceKind;
use super::fault::Faults;
use super::image::ImageError;
use super::line::{Line, LineStats, Timing};
use super::serve::{self, Stop};
use super::units::Units;

/// What a line is like.
#[derive(Debug, Clone)]
pub struct LineConfig {
    /// Bits per second.
    pub baud: u32,
    /// 10 for 8N1, 11 for 8E1, 8O1 and 8N2.
    pub bits_per_char: u32,
    /// From a request's last character to its answer's first, in milliseconds; never less than t3.5.
    pub turnaround_ms: u32,
    /// The devices by unit identifier.
    pub units: Vec<(u8, DeviceKind)>,
    /// Where to put the symbolic link to the pty; `None`: a new name in the directory for temporary files.
    pub link: Option<PathBuf>,
    /// Seed of all values and dice.
    pub seed: u64,
}

impl Default for LineConfig {
    fn default() -> Self {
        Self { baud: 9_600, bits_per_char: 10, turnaround_ms: 5, units: Vec::new(), link: None, seed: 1 }
    }
}

/// Why a line or endpoint could not be started or plugged in again.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pty or its thread could not be made.
    #[error("cannot make the pty")]
    Pty(#[source] io::Error),
    /// The link is in the way, or its directory cannot be written.
    #[error("cannot put the link {path} to the pty; remove what is there, or choose another path")]
    Link {
        /// Where it was to be.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// The address cannot be listened at.
    #[error("cannot listen at {address}; is it in use, or not an address of this machine?")]
    Listen {
        /// Where.
        address: std::net::SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A register map cannot be served.
    #[error("cannot lay out the registers")]
    Image(#[from] ImageError),
}

/// A line that is served. Clones are handles of the same line, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct PtyLine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    units: Arc<Units>,
    timing: Timing,
    link: PathBuf,
    stats: Arc<Mutex<LineStats>>,
    session: Mutex<Option<Session>>,
}

#[derive(Debug)]
struct Session {
    stop: Arc<Stop>,
    thread: JoinHandle<()>,
}

static LINKS_MADE: AtomicU32 = AtomicU32::new(0);

impl PtyLine {
    /// Opens the pty and begins to serve.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(config: &LineConfig) -> Result<Self, StartError> {
        let units = Arc::new(Units::new(&config.units, config.seed)?);
        let turnaround_ns = u64::from(config.turnaround_ms) * 1_000_000;
        let timing = Timing::serial(config.baud, config.bits_per_char, turnaround_ns);
        let link = config.link.clone().unwrap_or_else(temporary_link);
        let inner = Inner { units, timing, link, stats: Arc::default(), session: Mutex::new(None) };
        let line = Self { inner: Arc::new(inner) };
        line.replug()?;
        Ok(line)
    }

    /// The path that a master opens; stays the same when the line is unplugged and plugged in again.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.link
    }

    /// The units, their truth and the answer log.
    #[must_use]
    pub fn units(&self) -> &Arc<Units> {
        &self.inner.units
    }

    /// The faults of `unit`; `None` where there is no such unit.
    #[must_use]
    pub fn faults(&self, unit: u8) -> Option<&Faults> {
        self.inner.units.faults(unit)
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> LineStats {
        *self.inner.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long things take on this line.
    #[must_use]
    pub fn timing(&self) -> Timing {
        self.inner.timing
    }

    /// Pulls the adapter: the pty is gone, whoever has it open sees a hang-up, the link is removed.
    pub fn unplug(&self) {
        self.inner.unplug();
    }

    /// Plugs the adapter in again: a new pty under the same link. Does nothing where it is plugged in.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn replug(&self) -> Result<(), StartError> {
        let mut session = self.inner.session();
        if session.is_none() {
            *session = Some(self.inner.plug()?);
        }
        Ok(())
    }
}

fn temporary_link() -> PathBuf {
    let n = LINKS_MADE.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("gapless-sim-{}-{n}", std::process::id()))
}

impl Inner {
    fn session(&self) -> MutexGuard<'_, Option<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn plug(&self) -> Result<Session, StartError> {
        let (master, slave, name) = open_pair().map_err(|e| StartError::Pty(e.into()))?;
        link(&name, &self.link).map_err(|source| StartError::Link { path: self.link.clone(), source })?;
        let stop = Arc::new(Stop::new().map_err(|e| StartError::Pty(e.into()))?);
        let mut line = Line::new(self.timing, Arc::clone(&self.units));
        let (asked, stats) = (Arc::clone(&stop), Arc::clone(&self.stats));
        let serving = move || {
            // The slave stays open here, so that the pair survives a master that closes its end.
            let _slave = slave;
            serve::serve(master.as_fd(), &asked, &mut line, &stats);
        };
        let thread =
            std::thread::Builder::new().name("sim-pty".into()).spawn(serving).map_err(StartError::Pty)?;
        Ok(Session { stop, thread })
    }

    fn unplug(&self) {
        if let Some(session) = self.session().take() {
            // A link that somebody else has removed is as gone as it should be.
            let _ = fs::remove_file(&self.link);
            session.stop.ask();
            let _ = session.thread.join();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.unplug();
    }
}

/// Points `path` at `target`. A link left behind by a simulator that was killed is replaced, anything else is not.
fn link(target: &Path, path: &Path) -> io::Result<()> {
    let stale = fs::read_link(path).is_ok_and(|old| old.starts_with("/dev/pts"));
    if stale {
        fs::remove_file(path)?;
    }
    std::os::unix::fs::symlink(target, path)
}

fn open_pair() -> rustix::io::Result<(OwnedFd, OwnedFd, PathBuf)> {
    let master = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let name = rustix::pty::ptsname(&master, Vec::new())?;
    let slave =
        rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    let mut settings = rustix::termios::tcgetattr(&slave)?;
    settings.make_raw();
    rustix::termios::tcsetattr(&slave, OptionalActions::Now, &settings)?;
    let flags = rustix::fs::fcntl_getfl(&master)?;
    rustix::fs::fcntl_setfl(&master, flags | OFlags::NONBLOCK)?;
    Ok((master, slave, PathBuf::from(String::from_utf8_lossy(name.as_bytes()).into_owned())))
}
