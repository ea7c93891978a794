//! Random numbers of a simulated run: all follow from one seed.

/// splitmix64 (Steele, Lea, Flood, OOPSLA 2014): small, fast, and good enough to decide what goes wrong next.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The sequence of `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Another sequence, for one part of the world: what it draws moves nobody else's numbers.
    #[must_use]
    pub fn fork(&mut self, part: u64) -> Self {
        Self(self.draw() ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    /// Any number.
    pub const fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound.max(1)
    }

    /// A number from `first` to `last`, both included.
    pub fn within(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last.saturating_sub(first) + 1)
    }

    /// `true` in so many of a thousand draws.
    pub fn per_mille(&mut self, share: u32) -> bool {
        self.below(1_000) < u64::from(share)
    }

    /// `true` in one of `n` draws.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of them.
    ///
    /// # Panics
    /// Where there is none.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).expect("below a length")]
    }

    /// The wait for something that happens once per `mean_ms` on average, without memory: mostly shorter, sometimes much
    /// longer. Geometric in sixteenths of the mean, so that no logarithm differs between machines.
    pub fn wait_ms(&mut self, mean_ms: u64) -> u64 {
        let step = (mean_ms / 16).max(1);
        let mut waited = self.below(step);
        while waited < mean_ms.saturating_mul(8) && !self.one_in(16) {
            waited += step;
        }
        waited.max(1)
    }
}
