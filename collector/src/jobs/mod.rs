//! Jobs that restore freshness: which device's source is asked next, when, and how soon again.
//!
//! Pure: time is given, and nothing here knows rows, agents or HTTP. `ingest::errands` carries jobs out.

pub mod budget;
pub mod cadence;
pub mod claims;
pub mod queue;
pub mod quota;

/// Which part of a round something comes in, so that not all come at once: the same for the same scope each time, and
/// even over all scopes (the finaliser of SplitMix64).
#[must_use]
pub const fn shard(scope: i64, shards: u64) -> u64 {
    let mut x = scope.cast_unsigned().wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    let x = x ^ (x >> 31);
    if shards == 0 { 0 } else { x % shards }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_even() {
        let mut counts = [0_u32; 60];
        for scope in 0..10_000 {
            counts[usize::try_from(shard(scope, 60)).unwrap()] += 1;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 120 && *most < 220, "{least} to {most} of 167 wanted");
    }
}
