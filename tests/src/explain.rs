//! Whether the cause that a gap is told with is true: something that was done, or the machine's own trouble, must
//! explain each of its slots. Pure.
//!
//! A deed explains a cause within a window around it. The time after it in which its effect may last is time that the
//! agent runs: while it stands still it finds nothing back. What was known only to a process that was killed goes with
//! it: a *crashed* gap reaches back over the troubles that were just being written down.

use gapless_common::time::Timestamp;

use crate::audit::{Account, Gap};
use crate::deed::{Deed, Trouble};
use crate::mischief::Mischief;
use crate::site::{DeviceSpec, Place};

/// Between a trouble and the slot that it cost: the slot's own length, the durability window, the time-outs of a
/// poll, and a thread that is scheduled late. Added at both ends.
const NEAR_MS: i64 = 4_000;
/// A process is started and polls within this time after the deed, with other work on the machine.
const START_MS: i64 = 8_000;
/// A bus that is back is found within this time: its longest wait between two attempts.
const RECONNECT_MS: i64 = 12_000;
/// A disk that is back is tried within this time: waits of 5, 10, 20, 40 s follow one another.
const DISK_RETRY_MS: i64 = 50_000;
/// Two troubles that follow so closely belong together: a run of misses may wait a minute to be written down.
const CHAIN_MS: i64 = 60_000;

/// A stretch of time, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    from: i64,
    to: i64,
}

impl Window {
    const fn of(deed: &Deed) -> Self {
        Self { from: deed.from.0, to: deed.to.0 }
    }

    const fn padded(self, before_ms: i64, after_ms: i64) -> Self {
        Self { from: self.from - before_ms, to: self.to + after_ms }
    }

    const fn meets(&self, other: &Self) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// Fails where a slot is missing for a cause that nothing in `deeds` explains. The accounts are of all devices, in
/// their order.
///
/// # Panics
/// With those slots, and all that was done.
pub fn check(devices: &[DeviceSpec], accounts: &[Account], deeds: &[Deed]) {
    let of_device = |(index, account): (usize, &Account)| {
        let case = Case { devices, index, deeds, stopped: account.stopped };
        account.gaps.iter().flat_map(|gap| case.unexplained(gap)).collect::<Vec<_>>()
    };
    let bare: Vec<_> = accounts.iter().enumerate().flat_map(of_device).collect();
    assert!(bare.is_empty(), "nothing that was done explains:\n{}\ndone: {deeds:#?}", bare.join("\n"));
}

/// A device, what else is there, and what was done.
#[derive(Debug, Clone, Copy)]
struct Case<'a> {
    /// All devices of the site.
    devices: &'a [DeviceSpec],
    /// Which of them.
    index: usize,
    /// All that was done.
    deeds: &'a [Deed],
    /// When the agent was told to stop: the slots that come before it has are no others' fault.
    stopped: Timestamp,
}

impl Case<'_> {
    /// The slots of `gap` that nothing explains, as text; empty where all are explained.
    fn unexplained(&self, gap: &Gap) -> Vec<String> {
        let (windows, spec) = (self.windows(&gap.cause), self.spec());
        let mut slot = spec.grid().slot_at(gap.from);
        let mut bare = Vec::new();
        while spec.grid().at(slot) < gap.to {
            let at = spec.grid().at(slot);
            if !windows.iter().any(|w| (w.from..=w.to).contains(&at.0)) {
                bare.push(format!("{} at {at}: {}", spec.name, gap.cause));
            }
            slot = slot.plus(1);
        }
        bare
    }

    fn spec(&self) -> &DeviceSpec {
        &self.devices[self.index]
    }

    /// Where `cause` is the truth.
    fn windows(&self, cause: &str) -> Vec<Window> {
        let near = |explains: &dyn Fn(&Deed) -> bool, after_ms: i64| -> Vec<Window> {
            let found = self.deeds.iter().filter(|deed| explains(deed));
            found.map(|deed| self.around(deed, after_ms)).collect()
        };
        match cause {
            "crashed" => {
                self.deeds.iter().filter(|d| kills_agent(d)).map(|d| self.since_written(d)).collect()
            }
            "overrun" => near(&|d| stands_still(d) || is_disk(d) || self.is_on_bus(d), NEAR_MS),
            "no_answer" => near(&|d| stands_still(d) || self.is_own(d), NEAR_MS),
            "corrupt" => near(&|d| self.garbles(d), NEAR_MS),
            "not_connected" => near(&|d| self.unplugs(d), RECONNECT_MS),
            "back_off" => self.set_aside(),
            "stopped" => vec![Window { from: self.stopped.0 - NEAR_MS, to: i64::MAX }],
            "disk_failed" => near(&is_disk, DISK_RETRY_MS),
            "budget_full" => near(&|d| is_disk(d) || keeps_from_delivering(d), DISK_RETRY_MS),
            _ => Vec::new(),
        }
    }

    /// From just before `deed` until the agent has run for `after_ms` since its end.
    fn around(&self, deed: &Deed, after_ms: i64) -> Window {
        let mut window = Window::of(deed).padded(NEAR_MS, after_ms);
        let mut still: Vec<_> = self.deeds.iter().filter(|deed| stands_still(deed)).map(Window::of).collect();
        still.sort_by_key(|still| still.from);
        let mut counted_to = deed.to.0;
        for pause in still {
            if pause.from <= window.to && pause.to > counted_to {
                window.to += pause.to - pause.from.max(counted_to);
                counted_to = pause.to;
            }
        }
        window
    }

    /// From the last instant of which a durable record may speak until the agent polls again: back over every
    /// trouble in which records were not durable, or misses not yet written.
    fn since_written(&self, kill: &Deed) -> Window {
        let mut window = self.around(kill, START_MS);
        loop {
            let reaches = |deed: &&Deed| {
                let lasting = if is_disk(deed) { DISK_RETRY_MS } else { CHAIN_MS };
                let silent = is_disk(deed) || stands_still(deed) || self.is_on_bus(deed);
                silent
                    && deed.from.0 - NEAR_MS < window.from
                    && Window::of(deed).padded(0, lasting).meets(&window)
            };
            match self.deeds.iter().find(reaches) {
                Some(deed) => window.from = deed.from.0 - NEAR_MS,
                None => return window,
            }
        }
    }

    /// A device that is set aside is probed at distances that double: it may take as long again as it was silent.
    fn set_aside(&self) -> Vec<Window> {
        let silent = self.deeds.iter().filter(|deed| self.is_own(deed) || stands_still(deed));
        let aside = |deed: &Deed| {
            let lasted = deed.to.0 - deed.from.0;
            self.around(deed, 2 * lasted + RECONNECT_MS)
        };
        silent.map(aside).collect()
    }

    /// What was done to some device, by its number.
    fn device_of(deed: &Deed) -> Option<usize> {
        match done(deed) {
            Some(Mischief::Silence(n) | Mischief::RestartDevice(n) | Mischief::Garble(n)) => Some(n),
            _ => None,
        }
    }

    fn unplugs(&self, deed: &Deed) -> bool {
        match (done(deed), self.spec().place) {
            (Some(Mischief::UnplugLine), Place::Line) => true,
            (Some(Mischief::UnplugTcp(n)), Place::Tcp(place)) => n == place,
            _ => false,
        }
    }

    /// The device itself, or its port.
    fn is_own(&self, deed: &Deed) -> bool {
        self.unplugs(deed) || Self::device_of(deed) == Some(self.index)
    }

    fn garbles(&self, deed: &Deed) -> bool {
        done(deed) == Some(Mischief::Garble(self.index))
    }

    /// The device, its port, or a neighbour on the bus whose time-outs it has to wait for.
    fn is_on_bus(&self, deed: &Deed) -> bool {
        let place = Self::device_of(deed).and_then(|n| self.devices.get(n)).map(|spec| spec.place);
        self.unplugs(deed) || place == Some(self.spec().place)
    }
}

const fn done(deed: &Deed) -> Option<Mischief> {
    match deed.what {
        Trouble::Done(what) => Some(what),
        Trouble::MachineBusy => None,
    }
}

fn kills_agent(deed: &Deed) -> bool {
    use Mischief::{FillOutboxAndRestart, KillAgent, RestartReadOnly};
    matches!(done(deed), Some(KillAgent | FillOutboxAndRestart | RestartReadOnly))
}

fn is_disk(deed: &Deed) -> bool {
    use Mischief::{FailOutbox, FillOutbox, FillOutboxAndRestart, RestartReadOnly};
    matches!(done(deed), Some(FillOutbox | FillOutboxAndRestart | RestartReadOnly | FailOutbox))
}

/// The agent, or all of the machine, does not run.
fn stands_still(deed: &Deed) -> bool {
    deed.what == Trouble::MachineBusy || done(deed) == Some(Mischief::FreezeAgent)
}

fn keeps_from_delivering(deed: &Deed) -> bool {
    use Mischief::{
        AgentLink, CollectorLink, FillCollector, FreezeBroker, FreezeCollector, KillBroker, KillCollector,
    };
    matches!(
        done(deed),
        Some(
            AgentLink(_)
                | CollectorLink(_)
                | FillCollector
                | FreezeBroker
                | FreezeCollector
                | KillBroker
                | KillCollector
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::SiteSpec;

    fn deed(what: Mischief, from_s: i64, to_s: i64) -> Deed {
        Deed { what: Trouble::Done(what), from: Timestamp(from_s * 1_000), to: Timestamp(to_s * 1_000) }
    }

    fn busy(from_s: i64, to_s: i64) -> Deed {
        Deed { what: Trouble::MachineBusy, ..deed(Mischief::KillAgent, from_s, to_s) }
    }

    /// Device 2 of the usual site, on the line every two seconds: (what was done, cause, the gap's begin and end in
    /// seconds, slots left unexplained).
    #[test]
    fn a_cause_is_explained_only_by_what_can_bring_it_about_and_only_near_it() {
        type Row<'a> = (&'a [Deed], &'a str, i64, i64, usize);
        let silent = deed(Mischief::Silence(2), 1_000, 1_010);
        let neighbour = deed(Mischief::Silence(3), 1_000, 1_010);
        let kill = deed(Mischief::KillAgent, 1_020, 1_024);
        let full = deed(Mischief::FillOutbox, 1_000, 1_010);
        let plug = deed(Mischief::UnplugLine, 1_000, 1_005);
        let rows: [Row<'_>; 22] = [
            (&[], "crashed", 1_000, 1_002, 1),
            (&[kill], "crashed", 1_018, 1_028, 0),
            (&[kill], "crashed", 1_000, 1_028, 8),
            (&[kill, silent], "crashed", 1_000, 1_028, 0),
            (&[kill, full], "crashed", 1_000, 1_028, 0),
            (&[kill, busy(1_000, 1_001)], "crashed", 1_000, 1_028, 0),
            (&[kill], "no_answer", 1_020, 1_024, 2),
            (&[silent], "no_answer", 998, 1_012, 0),
            (&[silent], "no_answer", 1_016, 1_020, 2),
            (&[neighbour], "no_answer", 1_000, 1_010, 5),
            (&[neighbour], "overrun", 1_000, 1_010, 0),
            (&[silent], "back_off", 1_000, 1_030, 0),
            (&[silent], "not_connected", 1_000, 1_002, 1),
            (&[plug], "not_connected", 1_000, 1_010, 0),
            (&[plug], "not_connected", 1_000, 1_030, 6),
            (&[plug, deed(Mischief::FreezeAgent, 1_006, 1_021)], "not_connected", 1_000, 1_030, 0),
            (
                &[plug, deed(Mischief::FreezeAgent, 1_003, 1_006), busy(1_004, 1_007)],
                "not_connected",
                1_000,
                1_026,
                3,
            ),
            (&[deed(Mischief::UnplugTcp(0), 1_000, 1_005)], "not_connected", 1_000, 1_010, 5),
            (&[full], "disk_failed", 1_000, 1_050, 0),
            (&[kill], "stopped", 1_020, 1_024, 2),
            (&[], "stopped", 1_998, 2_004, 0),
            (&[kill, silent, full, busy(1_000, 1_001)], "unexplained", 1_000, 1_002, 1),
        ];
        let devices = SiteSpec::default().devices;
        for (deeds, cause, from, to, left) in rows {
            let case = Case { devices: &devices, index: 2, deeds, stopped: Timestamp(2_000_000) };
            let gap = Gap {
                from: Timestamp(from * 1_000),
                to: Timestamp(to * 1_000),
                cause: cause.to_owned(),
                slots: 1,
            };
            assert_eq!(case.unexplained(&gap).len(), left, "{cause} from {from} to {to} after {deeds:?}");
        }
    }
}
