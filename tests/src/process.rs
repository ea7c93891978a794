//! Real processes of ours and of others, ended by their own id when dropped, their output kept for the failure.

use std::fs::File;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A thread stands still as soon as the system call it is in lets it.
const FREEZE_WITHIN: Duration = Duration::from_secs(60);

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// The path of one of the workspace's own binaries.
///
/// # Panics
/// When it was not built: `./dev test` builds all of them before the tests.
#[must_use]
pub fn own_binary(name: &str) -> PathBuf {
    let exe = std::env::current_exe().expect("a test knows its own path");
    let folder =
        exe.ancestors().find(|p| p.ends_with("debug") || p.ends_with("release")).expect("cargo's layout");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --workspace --bins` first", path.display());
    path
}

/// A TCP port of the loopback that nobody listens on now.
///
/// # Panics
/// When the machine has none left.
#[must_use]
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free loopback port").port()
}

impl Process {
    /// Starts `command` with its output in `log` (appended).
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Self {
        let out = File::options().create(true).append(true).open(log).expect("the log file can be written");
        let err = out.try_clone().expect("a descriptor more");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|e| {
            panic_with(&format!("{name} does not start: {e} (./dev test installs what the tests need)"))
        });
        Self { name: name.to_owned(), child, log: log.to_owned() }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends `signal`; an already ended process is no error.
    pub fn signal(&self, signal: Signal) {
        let _ = kill_process(self.pid(), signal);
    }

    /// SIGSTOP, and waits until each of its threads stands still.
    ///
    /// # Panics
    /// When one goes on.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.id());
        wait::until_true(&format!("{} to stand still", self.name), FREEZE_WITHIN, || {
            let threads = std::fs::read_dir(&tasks).into_iter().flatten().flatten();
            threads.map(|thread| thread.path().join("stat")).all(|stat| {
                // The state stands behind the name (proc(5)); a thread that has just ended is still enough.
                let text = std::fs::read_to_string(stat).unwrap_or_default();
                text.rsplit(") ")
                    .next()
                    .is_none_or(|rest| rest.is_empty() || rest.starts_with(['T', 't', 'Z', 'X']))
            })
        });
    }

    /// SIGCONT: goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends it at once, as a crash would, and waits for it.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end (SIGTERM) and waits at most `within`.
    ///
    /// # Panics
    /// When it has not ended by then.
    pub fn stop(mut self, within: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        let (name, log) = (self.name.clone(), self.log());
        wait::until(&format!("{name} to end; its log:\n{log}"), within, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = String::new();
        let _ = File::open(&self.log).and_then(|mut f| f.read_to_string(&mut text));
        text
    }

    /// Process id, for looking into /proc.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }
}

#[expect(clippy::panic, reason = "a test helper fails its test")]
fn panic_with(message: &str) -> ! {
    panic!("{message}")
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            #[expect(clippy::print_stderr, reason = "what a failed test needs to be understood")]
            {
                eprintln!("--- log of {} ---\n{}", self.name, self.log());
            }
        }
    }
}
