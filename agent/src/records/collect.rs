//! How a thread drives what collects records: ask, hand over what came, pass on events. The collectors are pure, so each
//! says what it wants to be asked, and knows nothing of how that is done.

use gapless_common::id::DeviceIndex;
use gapless_common::time::Timestamp;

use crate::clock::Now;
use crate::event::BusEvent;

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step<A> {
    /// This is to be found out.
    Ask(A),
    /// Nothing until this instant of the boot clock, or until a command comes.
    Wait {
        /// CLOCK_BOOTTIME in milliseconds.
        until_boot_ms: u64,
    },
}

/// Contract: call [`next`](Self::next) and do the [`Step`] it names; hand over what came of an ask with
/// [`took`](Self::took) before the next one; after every call pass on what [`drain`](Self::drain) yields, in order; end
/// with [`stop`](Self::stop), which may be called while an answer is awaited.
pub trait Collect {
    /// What is asked.
    type Ask;
    /// What comes of it, failures among it.
    type Answer;

    /// What to do now.
    fn next(&mut self, now: Now) -> Step<Self::Ask>;
    /// What came of the last ask.
    fn took(&mut self, answer: Self::Answer, now: Now);
    /// Somebody wants to see this device now.
    fn poll_now(&mut self, device: DeviceIndex);
    /// The collector wants these instants (half open) from the device's memory.
    fn read_history(&mut self, command: u64, device: DeviceIndex, range: (Timestamp, Timestamp));
    /// The collector's command wants this device read no more, or again: its slots up to now are accounted for.
    fn pause(&mut self, whose: (u64, DeviceIndex), paused: bool, now: Now);
    /// The next event to pass on.
    fn drain(&mut self) -> Option<BusEvent>;
    /// Accounts for every slot up to now.
    fn stop(&mut self, now: Now);
}
