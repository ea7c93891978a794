//! The link's timers, pure: back-off with jitter for connections, probes and acknowledgement time-outs.

/// Doubles from `first_ms` to `max_ms`; each wait is drawn between half of it and all of it.
#[derive(Debug)]
pub(super) struct Backoff {
    first_ms: u64,
    max_ms: u64,
    failures: u32,
}

impl Backoff {
    pub(super) fn new(first_ms: u64, max_ms: u64) -> Self {
        Self { first_ms: first_ms.max(1), max_ms: max_ms.max(first_ms).max(1), failures: 0 }
    }

    /// The bound of the next wait, in ms, before jitter.
    pub(super) fn bound_ms(&self) -> u64 {
        let doubled = self.first_ms.saturating_mul(1 << self.failures.min(32));
        doubled.min(self.max_ms)
    }

    /// One more failure: how long to wait, in ms.
    pub(super) fn fail(&mut self, jitter: &mut Jitter) -> u64 {
        let bound = self.bound_ms();
        self.failures = self.failures.saturating_add(1);
        bound - jitter.below(bound / 2 + 1)
    }

    /// A wait like the first, which counts as no failure.
    pub(super) fn first(&self, jitter: &mut Jitter) -> u64 {
        self.first_ms - jitter.below(self.first_ms / 2 + 1)
    }

    /// Attempts in vain since the last success.
    pub(super) const fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn succeed(&mut self) {
        self.failures = 0;
    }
}

/// Numbers that look random, all following from the seed the shell drew (splitmix64, public domain).
#[derive(Debug)]
pub(super) struct Jitter(u64);

impl Jitter {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_start_anew_after_a_success() {
        let (mut backoff, mut jitter) = (Backoff::new(1_000, 10_000), Jitter::new(1));
        for bound in [1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
            let wait = backoff.fail(&mut jitter);
            assert!((bound / 2..=bound).contains(&wait), "{wait} of {bound}");
        }
        assert_eq!(backoff.failures(), 6);
        backoff.succeed();
        for _ in 0..3 {
            assert!((500..=1_000).contains(&backoff.first(&mut jitter)));
        }
        assert_eq!(backoff.failures(), 0);
        assert!(backoff.fail(&mut jitter) <= 1_000);
    }
}
