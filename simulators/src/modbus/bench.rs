//! Everything one `gapless-sim modbus` serves, and how a command changes it.

use std::thread;
use std::time::Duration;

use super::command::{self, Command, HELP, Mishap};
use super::memory::Memory;
use super::pty::{PtyLine, StartError};
use super::tcp::TcpServer;
use super::units::Units;
use crate::clock;
use crate::control::Said;

/// A line or an endpoint.
#[derive(Debug, Clone)]
pub enum Endpoint {
    /// On a pty.
    Pty(PtyLine),
    /// On a TCP port.
    Tcp(TcpServer),
}

impl Endpoint {
    /// Its units.
    #[must_use]
    pub fn units(&self) -> &Units {
        match self {
            Self::Pty(line) => line.units(),
            Self::Tcp(server) => server.units(),
        }
    }

    /// Where a master finds it.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Pty(line) => line.path().display().to_string(),
            Self::Tcp(server) => server.address().to_string(),
        }
    }

    /// Pulls the plug; links are removed, connections reset.
    pub fn unplug(&self) {
        match self {
            Self::Pty(line) => line.unplug(),
            Self::Tcp(server) => server.unplug(),
        }
    }

    fn replug(&self) -> Result<(), StartError> {
        match self {
            Self::Pty(line) => line.replug(),
            Self::Tcp(server) => server.replug(),
        }
    }

    fn stats(&self) -> String {
        let stats = match self {
            Self::Pty(line) => line.stats(),
            Self::Tcp(server) => server.stats(),
        };
        serde_json::to_string(&stats).expect("plain numbers")
    }
}

/// What is served.
#[derive(Debug, Clone, Default)]
pub struct Bench {
    endpoints: Vec<Endpoint>,
}

impl Bench {
    /// Serves these.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints }
    }

    /// The lines and endpoints.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// Does what one line says.
    #[must_use]
    pub fn obey(&self, line: &str) -> Said {
        match command::parse(line) {
            Ok(command) => self.execute(command),
            Err(error) => Said::Text(format!("error: {error}")),
        }
    }

    fn execute(&self, command: Command) -> Said {
        let text = match command {
            Command::Fault { unit, kind, after_ms, for_ms, probability, count } => {
                let fault = command::fault(kind, (after_ms, for_ms), probability, count, clock::mono_ns());
                self.each(unit, |units, id| {
                    units.faults(id).into_iter().for_each(|faults| faults.add(fault.clone()));
                })
            }
            Command::Clear(unit) => self.each(unit, |units, id| {
                units.faults(id).into_iter().for_each(super::fault::Faults::clear);
            }),
            Command::Restart(unit) => {
                let now = clock::now().wall_ms;
                self.each(unit, |units, id| units.device(id).into_iter().for_each(|d| d.restart(now)))
            }
            Command::Memory(unit, mishap) => {
                let now = clock::now().wall_ms;
                self.each(unit, |units, id| {
                    units.device(id).into_iter().for_each(|device| {
                        device.with_memory(|memory| strike(memory, mishap, now));
                    });
                })
            }
            Command::Unplug { after_ms, for_ms } => self.unplug(after_ms, for_ms),
            Command::Replug => self.replug(),
            Command::Stats => self.lines(|endpoint| format!("{} {}", endpoint.place(), endpoint.stats())),
            Command::Faults => self.lines(list_faults),
            Command::Help => HELP.to_owned(),
            Command::Quit => return Said::Quit,
        };
        Said::Text(text)
    }

    fn each(&self, unit: Option<u8>, act: impl Fn(&Units, u8)) -> String {
        let mut hit = 0;
        for units in self.endpoints.iter().map(Endpoint::units) {
            for id in units.ids().filter(|id| unit.is_none_or(|wanted| wanted == *id)) {
                act(units, id);
                hit += 1;
            }
        }
        if hit > 0 { "ok".to_owned() } else { "error: there is no such unit here".to_owned() }
    }

    fn lines(&self, show: impl Fn(&Endpoint) -> String) -> String {
        self.endpoints.iter().map(show).collect::<Vec<_>>().join("\n")
    }

    fn replug(&self) -> String {
        let failed = self.endpoints.iter().find_map(|endpoint| endpoint.replug().err());
        failed.map_or_else(|| "ok".to_owned(), |error| format!("error: {error}"))
    }

    fn unplug(&self, after_ms: u64, for_ms: Option<u64>) -> String {
        let bench = self.clone();
        let act = move || {
            thread::sleep(Duration::from_millis(after_ms));
            bench.endpoints.iter().for_each(Endpoint::unplug);
            if let Some(ms) = for_ms {
                thread::sleep(Duration::from_millis(ms));
                bench.replug();
            }
        };
        if after_ms == 0 && for_ms.is_none() {
            act();
        } else {
            thread::spawn(act);
        }
        "ok".to_owned()
    }
}

fn strike(memory: &mut Memory, mishap: Mishap, t_ms: i64) {
    match mishap {
        Mishap::Clear => memory.clear(t_ms),
        Mishap::SetClock(by_ms) => memory.step_clock(by_ms, t_ms),
        Mishap::Drift(ppm) => memory.drift(ppm, t_ms),
        Mishap::PowerCut(span_ms) => memory.power_failed(span_ms, t_ms),
        Mishap::WriteSlowly(ms) => memory.write_slowly(ms),
    }
}

fn list_faults(endpoint: &Endpoint) -> String {
    let units = endpoint.units();
    let of = |id: u8| {
        let faults = units.faults(id).map(super::fault::Faults::list).unwrap_or_default();
        faults.into_iter().map(move |fault| format!("unit {id}: {}", fault.kind)).collect::<Vec<_>>()
    };
    units.ids().flat_map(of).collect::<Vec<_>>().join("\n")
}
