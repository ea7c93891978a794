//! A column of integers in the fewest bytes: a prediction, and what is left of it bit-packed or Rice-coded.
//!
//! ```text
//! tag | base varint | step varint (Drift only) | residuals, byte-aligned
//! tag = order × 85 + coder
//! order  0 Level: value = base + residual      coder  0       all residuals are 0, none is written
//!        1 Delta: from the one before                 1..=20  Rice, k = coder - 1, zigzag
//!        2 Drift: from the one before + step          21..=84 packed, width = coder - 20
//! ```
//! Packed residuals are unsigned for Level and Drift (base and step are the least ones), zigzag for Delta.
//! The number of values is known from outside; of no values nothing is written. All sums wrap, so every
//! column of `i64` has a form.

use super::bits::{BitReader, BitWriter, RICE_K_MAX, rice_bits};
use super::bytes::{Bad, Input, put_signed, unzigzag, varint_len, zigzag};

const CODERS: u8 = 85;
const PACKED: u8 = 21;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Level,
    Delta,
    Drift,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coder {
    Zero,
    Rice(u32),
    Packed(u32),
}

impl Coder {
    fn code(self) -> u8 {
        let (first, offset) = match self {
            Self::Zero => (0, 0),
            Self::Rice(k) => (1, k),
            Self::Packed(width) => (PACKED - 1, width),
        };
        first + u8::try_from(offset).expect("widths are at most 64")
    }

    fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Zero,
            1..PACKED => Self::Rice(u32::from(code - 1)),
            _ => Self::Packed(u32::from(code - PACKED + 1)),
        }
    }
}

/// Residuals of one order, their centre, and the cheapest coder for them.
#[derive(Debug, Clone, Copy)]
struct Choice {
    centre: i64,
    coder: Coder,
    bits: u64,
}

/// How a column is written best, and how many bytes that takes.
#[derive(Debug)]
pub(super) struct Plan {
    order: Order,
    choice: Choice,
    pub(super) bytes: usize,
}

const fn width(value: u64) -> u32 {
    64 - value.leading_zeros()
}

/// The Rice parameter that costs least for residuals around `centre`: estimated from how many residuals have
/// how many bits, so that a wild one weighs what it costs, then made exact among its neighbours.
fn rice(series: &[i64], centre: i64) -> (u32, u64) {
    let folded = || series.iter().map(|v| zigzag(v.wrapping_sub(centre)));
    let mut of_width = [0u64; 65];
    folded().for_each(|u| of_width[width(u) as usize] += 1);
    let typical = |width: usize| if width < 2 { width as u64 } else { 3 << (width - 2) };
    let widths = of_width.iter().enumerate().filter(|(_, count)| **count > 0);
    let met: Vec<(u64, u64)> = widths.map(|(width, count)| (typical(width), *count)).collect();
    let estimate =
        |k: &u32| -> u64 { met.iter().map(|(typical, count)| count * rice_bits(*typical, *k)).sum() };
    let best = (0..=RICE_K_MAX).min_by_key(estimate).unwrap_or(0);
    let exact = |k| (k, folded().map(|u| rice_bits(u, k)).sum::<u64>());
    let near = (best.saturating_sub(1)..=(best + 1).min(RICE_K_MAX)).map(exact);
    near.min_by_key(|(_, bits)| *bits).expect("the range holds at least one parameter")
}

/// The better of Rice around the median and packed from the least, or Rice and packed zigzag around 0.
fn choose(series: &[i64], free: bool, scratch: &mut Vec<i64>) -> Choice {
    let count = series.len() as u64;
    let least = series.iter().copied().min().unwrap_or(0);
    let most = series.iter().copied().max().unwrap_or(0);
    if least == most && (free || least == 0) {
        return Choice { centre: least, coder: Coder::Zero, bits: 0 };
    }
    let (centre, packed_centre, span) = if free {
        scratch.clear();
        scratch.extend_from_slice(series);
        let middle = scratch.len() / 2;
        let (_, median, _) = scratch.select_nth_unstable(middle);
        (*median, least, most.wrapping_sub(least).cast_unsigned())
    } else {
        (0, 0, zigzag(least).max(zigzag(most)))
    };
    let packed = Choice {
        centre: packed_centre,
        coder: Coder::Packed(width(span)),
        bits: count * u64::from(width(span)),
    };
    let (k, bits) = rice(series, centre);
    if bits < packed.bits { Choice { centre, coder: Coder::Rice(k), bits } } else { packed }
}

/// Finds the cheapest form of `values`.
pub(super) fn plan(values: &[i64]) -> Plan {
    let Some(&first) = values.first() else {
        let choice = Choice { centre: 0, coder: Coder::Zero, bits: 0 };
        return Plan { order: Order::Level, choice, bytes: 0 };
    };
    let deltas: Vec<i64> = values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    let mut scratch = Vec::with_capacity(values.len());
    let start = varint_len(zigzag(first));
    let plans = [
        (Order::Level, choose(values, true, &mut scratch), 0),
        (Order::Delta, choose(&deltas, false, &mut scratch), start),
        (Order::Drift, choose(&deltas, true, &mut scratch), start),
    ];
    let sized = plans.into_iter().map(|(order, choice, start)| {
        let centre = if order == Order::Delta { 0 } else { varint_len(zigzag(choice.centre)) };
        let residuals = usize::try_from(choice.bits.div_ceil(8)).unwrap_or(usize::MAX);
        Plan { order, choice, bytes: (1 + start + centre).saturating_add(residuals) }
    });
    sized.min_by_key(|plan| plan.bytes).expect("there are three plans")
}

/// Appends `values` in their cheapest form.
pub(super) fn encode(out: &mut Vec<u8>, values: &[i64]) {
    encode_planned(out, values, &plan(values));
}

/// Appends `values` as `plan` says, which must be theirs.
pub(super) fn encode_planned(out: &mut Vec<u8>, values: &[i64], plan: &Plan) {
    let Some(&first) = values.first() else { return };
    let Choice { centre, coder, .. } = plan.choice;
    let (order, base) = match plan.order {
        Order::Level => (0, centre),
        Order::Delta => (1, first),
        Order::Drift => (2, first),
    };
    out.push(order * CODERS + coder.code());
    put_signed(out, base);
    if plan.order == Order::Drift {
        put_signed(out, centre);
    }
    let mut bits = BitWriter::new(out);
    let mut put = |value: i64| {
        let residual = value.wrapping_sub(centre);
        match coder {
            Coder::Zero => {}
            Coder::Rice(k) => bits.put_rice(zigzag(residual), k),
            Coder::Packed(width) if plan.order == Order::Delta => bits.put(zigzag(residual), width),
            Coder::Packed(width) => bits.put(residual.cast_unsigned(), width),
        }
    };
    match plan.order {
        Order::Level => values.iter().copied().for_each(&mut put),
        _ => values.windows(2).for_each(|pair| put(pair[1].wrapping_sub(pair[0]))),
    }
    bits.finish();
}

/// Reads `count` values; the caller bounds `count`.
pub(super) fn decode(input: &mut Input<'_>, count: usize) -> Result<Vec<i64>, Bad> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let tag = input.byte()?;
    let coder = Coder::of_code(tag % CODERS);
    let base = input.signed()?;
    match tag / CODERS {
        0 => residuals(input, coder, count, false).map(|mut values| {
            values.iter_mut().for_each(|v| *v = v.wrapping_add(base));
            values
        }),
        1 => residuals(input, coder, count - 1, true).map(|deltas| summed(base, 0, deltas)),
        2 => {
            let step = input.signed()?;
            residuals(input, coder, count - 1, false).map(|deltas| summed(base, step, deltas))
        }
        _ => Err(Bad("an integer column of an unknown form")),
    }
}

fn summed(base: i64, step: i64, mut deltas: Vec<i64>) -> Vec<i64> {
    let mut value = base;
    for delta in &mut deltas {
        let next = value.wrapping_add(step).wrapping_add(*delta);
        *delta = value;
        value = next;
    }
    deltas.push(value);
    deltas
}

fn residuals(input: &mut Input<'_>, coder: Coder, count: usize, folded: bool) -> Result<Vec<i64>, Bad> {
    let mut values = Vec::with_capacity(count + 1);
    let mut bits = BitReader::new(input.rest());
    match coder {
        Coder::Zero => values.resize(count, 0),
        Coder::Rice(k) => values.extend((0..count).map(|_| unzigzag(bits.get_rice(k)))),
        Coder::Packed(width) if folded => values.extend((0..count).map(|_| unzigzag(bits.get(width)))),
        Coder::Packed(width) => values.extend((0..count).map(|_| bits.get(width).cast_signed())),
    }
    input.take(bits.finish()?)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(values: &[i64]) -> usize {
        let mut out = Vec::new();
        encode(&mut out, values);
        assert_eq!(out.len(), plan(values).bytes, "{values:?}");
        let mut input = Input::new(&out);
        assert_eq!(decode(&mut input, values.len()).as_deref(), Ok(values));
        assert_eq!(input.finish(), Ok(()));
        out.len()
    }

    #[test]
    fn typical_columns_are_small() {
        let rows: [(&str, Vec<i64>, usize); 8] = [
            ("none", vec![], 0),
            ("one", vec![500], 3),
            ("constant", vec![7; 1_000], 2),
            ("regular slots", (1_000..2_000).collect(), 4),
            ("a slot left out", (0..1_000).filter(|n| *n != 500).collect(), 129),
            ("jitter of 8 ms", (0..800).map(|n| 100 + n * 5 % 8).collect(), 303),
            ("one wild value", (0..800).map(|n| if n == 400 { 1 << 40 } else { n % 2 }).collect(), 210),
            ("extremes", vec![i64::MIN, i64::MAX, 0, -1, i64::MIN], 44),
        ];
        for (what, values, at_most) in rows {
            let bytes = check(&values);
            assert!(bytes <= at_most, "{what}: {bytes} bytes");
        }
    }

    proptest! {
        #[test]
        fn every_column_comes_back(values: Vec<i64>, small in prop::collection::vec(-300i64..300, 0..200)) {
            check(&values);
            check(&small);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, count in 0usize..5_000) {
            let _ = decode(&mut Input::new(&bytes), count);
        }
    }
}
