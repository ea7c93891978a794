//! What the agent owes the collector beside readings, pure: the completeness account, the records that open an
//! epoch, and the correction of readings taken before the wall clock was set. Knows no outbox and no clock.

use std::collections::BTreeMap;

use gapless_common::id::{BootId, DeviceIndex, Epoch, Seq};
use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::reading::{ClockCorrection, Completeness, Downtime};
use gapless_common::time::{Slot, Timestamp};

/// Per device the last slot accounted for, and whether the collector has been told.
#[derive(Debug, Default)]
pub struct Account {
    through: BTreeMap<DeviceIndex, Slot>,
    told: bool,
}

impl Account {
    /// A bus has accounted for every slot of `device` up to `slot`, in events before this one.
    pub fn through(&mut self, device: DeviceIndex, slot: Slot) {
        if self.through.insert(device, slot) != Some(slot) {
            self.told = false;
        }
    }

    /// The last slot of a device that was accounted for.
    #[must_use]
    pub fn accounted(&self, device: DeviceIndex) -> Option<Slot> {
        self.through.get(&device).copied()
    }

    /// What was declared counts no more: it stands in an epoch that proves nothing.
    pub fn tell_again(&mut self) {
        self.told = false;
    }

    /// The declaration, where there is news.
    pub fn declare(&mut self) -> Option<Completeness> {
        if self.told || self.through.is_empty() {
            return None;
        }
        self.told = true;
        let ahead = i64::from(planted::has(Bug::DeclareAhead));
        let through = self.through.iter().map(|(&device, &slot)| (device, slot.plus(ahead)));
        Some(Completeness { through: through.collect() })
    }
}

/// How the agent's last run ended, as the outbox found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastRun {
    /// Time of its last durable record, or of its goodbye.
    pub ended_at: Timestamp,
    /// Whether it said goodbye.
    pub clean: bool,
    /// The start of the machine it ran in.
    pub boot: Option<BootId>,
}

impl LastRun {
    /// Why nothing was polled since.
    #[must_use]
    pub fn cause(&self, boot: BootId) -> Cause {
        if self.clean {
            Cause::Stopped
        } else if self.boot == Some(boot) {
            Cause::Crashed
        } else {
            Cause::PowerOff
        }
    }

    /// The downtime that ended at `start`, once that instant is known. Where the clock of the last run was ahead of it,
    /// nobody knows the begin: the millisecond before `start` carries the cause.
    #[must_use]
    pub fn downtime(&self, boot: BootId, start: Timestamp) -> Downtime {
        Downtime { from: self.ended_at.min(start.plus_ms(-1)), to: start, cause: self.cause(boot) }
    }
}

/// The correction of `epoch`, whose records from `first` up to before `next` may be by a boot clock that began at
/// `boot_began`.
#[must_use]
pub fn correction(
    boot: BootId,
    epoch: Epoch,
    (first, next): (Seq, Seq),
    boot_began: Timestamp,
) -> Option<ClockCorrection> {
    let last = next.0.checked_sub(1).filter(|last| *last >= first.0)?;
    Some(ClockCorrection { boot, epoch, first, last: Seq(last), boot_began })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completeness_is_declared_when_there_is_news() {
        let mut account = Account::default();
        assert_eq!(account.declare(), None);
        account.through(DeviceIndex(1), Slot(5));
        account.through(DeviceIndex(0), Slot(7));
        let both = vec![(DeviceIndex(0), Slot(7)), (DeviceIndex(1), Slot(5))];
        assert_eq!(account.declare(), Some(Completeness { through: both }));
        account.through(DeviceIndex(1), Slot(5));
        assert_eq!(account.declare(), None);
        account.through(DeviceIndex(1), Slot(4));
        assert!(account.declare().is_some(), "a clock that was set back takes slots back");
    }

    #[test]
    fn the_cause_of_a_downtime() {
        let rows = [
            (true, Some(BootId(1)), Cause::Stopped),
            (true, Some(BootId(2)), Cause::Stopped),
            (false, Some(BootId(1)), Cause::Crashed),
            (false, Some(BootId(2)), Cause::PowerOff),
            (false, None, Cause::PowerOff),
        ];
        for (clean, boot, cause) in rows {
            let run = LastRun { ended_at: Timestamp(100), clean, boot };
            assert_eq!(run.cause(BootId(1)), cause, "{run:?}");
        }
        let run = LastRun { ended_at: Timestamp(100), clean: true, boot: None };
        // The last two: the clock of that run was ahead.
        for (start, from) in [(150, 100), (101, 100), (100, 99), (90, 89)] {
            let made = run.downtime(BootId(1), Timestamp(start));
            assert_eq!((made.from, made.to), (Timestamp(from), Timestamp(start)));
        }
    }

    #[test]
    fn a_correction_names_what_was_issued() {
        let began = Timestamp(996_000);
        let made = correction(BootId(3), Epoch(9), (Seq(4), Seq(11)), began).unwrap();
        assert_eq!((made.first, made.last, made.boot_began), (Seq(4), Seq(10), began));
        assert_eq!(correction(BootId(3), Epoch(9), (Seq(1), Seq(1)), began), None);
        assert_eq!(correction(BootId(3), Epoch(9), (Seq(4), Seq(4)), began), None);
    }
}
