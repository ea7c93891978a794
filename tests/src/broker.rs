//! A real Mosquitto on a loopback port of its own.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::process::{Process, free_port};
use crate::wait;

/// How long it may take to listen on a busy machine.
const LISTEN_WITHIN: Duration = Duration::from_secs(60);

/// A Mosquitto that can be stopped and started again on the same port.
#[derive(Debug)]
pub struct Broker {
    port: u16,
    config: PathBuf,
    log: PathBuf,
    process: Option<Process>,
}

impl Broker {
    /// Starts Mosquitto with anonymous access on a free port, its files in `folder`.
    ///
    /// # Panics
    /// When Mosquitto is not installed or does not listen in time.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        let port = free_port();
        let config = folder.join("mosquitto.conf");
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nmax_inflight_messages 0\n"
        );
        std::fs::write(&config, text).expect("the folder can be written");
        let mut broker = Self { port, config, log: folder.join("mosquitto.log"), process: None };
        broker.resume();
        broker
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Its port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Kills it; sessions and queued messages are gone, as after a power cut.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// When it does not listen in time.
    pub fn resume(&mut self) {
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(&self.config).env("PATH", path_with_sbin());
        self.process = Some(Process::start("mosquitto", &mut command, &self.log));
        wait::until_true("mosquitto to listen", LISTEN_WITHIN, || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// The process, for signals (a stopped broker keeps its connections half open).
    #[must_use]
    pub const fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }
}

/// Debian keeps servers in sbin, which a user's PATH may lack.
fn path_with_sbin() -> String {
    format!("{}:/usr/sbin:/usr/local/sbin", std::env::var("PATH").unwrap_or_default())
}
