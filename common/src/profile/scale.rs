//! From raw numbers to engineering units and back, so that decimal results stay decimal.
//!
//! `value = raw × factor + offset`. A factor such as 0.1 has no exact binary form: `3 × 0.1` is
//! 0.30000000000000004. A device that says "tenths" means 0.3, and the wire's scaled-integer columns stay small
//! only for 0.3. So a factor with a short decimal form `m × 10^-d` is applied as `(raw × m) / 10^d`: the
//! product is exact while it stays below 2^53, `10^d` is exact up to d = 22, and the one division is correctly
//! rounded (IEEE 754-2019, section 5.4.1).

/// A factor and an offset.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    factor: f64,
    offset: f64,
    /// The factor as `m × 10^e`, and the offset as a multiple of `10^e`, where both are short decimals.
    decimal: Option<Decimal>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Decimal {
    mantissa: f64,
    exponent: i32,
    offset: f64,
}

/// Mantissas up to here leave room for every 32-bit raw number below 2^53.
const MANTISSA_MAX: f64 = 2_097_152.0;

/// Largest power of ten that is exact in binary64.
const EXACT_POWER_MAX: i32 = 22;

impl Default for Scale {
    fn default() -> Self {
        Self::ONE
    }
}

impl Scale {
    /// The raw number is the value.
    pub const ONE: Self =
        Self { factor: 1.0, offset: 0.0, decimal: Some(Decimal { mantissa: 1.0, exponent: 0, offset: 0.0 }) };

    /// `value = raw × factor + offset`; `None` where the factor is 0 or either is not finite.
    #[must_use]
    pub fn new(factor: f64, offset: f64) -> Option<Self> {
        if factor == 0.0 || !factor.is_finite() || !offset.is_finite() {
            return None;
        }
        Some(Self { factor, offset, decimal: decimal(factor, offset) })
    }

    /// The factor as it was given.
    #[must_use]
    pub const fn factor(&self) -> f64 {
        self.factor
    }

    /// The offset as it was given.
    #[must_use]
    pub const fn offset(&self) -> f64 {
        self.offset
    }

    /// The value of a raw number.
    #[must_use]
    pub fn apply(&self, raw: f64) -> f64 {
        self.apply_with_exponent(raw, 0)
    }

    /// The value of a raw number that the device itself scales by a power of ten (`scale_from`):
    /// `raw × 10^exponent × factor + offset`.
    #[must_use]
    pub fn apply_with_exponent(&self, raw: f64, exponent: i32) -> f64 {
        match self.decimal {
            Some(decimal) if decimal.offset == 0.0 => {
                times_power_of_ten(raw * decimal.mantissa, decimal.exponent.saturating_add(exponent))
            }
            Some(decimal) if exponent == 0 => {
                times_power_of_ten(raw * decimal.mantissa + decimal.offset, decimal.exponent)
            }
            _ => times_power_of_ten(raw, exponent) * self.factor + self.offset,
        }
    }

    /// The raw number (not yet rounded to an integer) of a value: what a simulator puts into its registers.
    #[must_use]
    pub fn invert(&self, value: f64) -> f64 {
        match self.decimal {
            Some(decimal) => {
                (times_power_of_ten(value, -decimal.exponent) - decimal.offset) / decimal.mantissa
            }
            None => (value - self.offset) / self.factor,
        }
    }
}

/// Correctly rounded where `number` is exact and the power of ten is.
fn times_power_of_ten(number: f64, exponent: i32) -> f64 {
    if exponent < 0 { number / 10f64.powi(exponent.saturating_neg()) } else { number * 10f64.powi(exponent) }
}

fn decimal(factor: f64, offset: f64) -> Option<Decimal> {
    let (mantissa, exponent) = short_decimal(factor)?;
    if offset == 0.0 {
        return Some(Decimal { mantissa, exponent, offset: 0.0 });
    }
    // The offset may have more decimals than the factor: widen the factor's mantissa to the finer of the two.
    let (offset_mantissa, offset_exponent) = short_decimal(offset)?;
    let finest = exponent.min(offset_exponent);
    let mantissa = times_power_of_ten(mantissa, exponent - finest);
    let offset = times_power_of_ten(offset_mantissa, offset_exponent - finest);
    let exact = mantissa.abs() <= MANTISSA_MAX && offset.abs() < 2f64.powi(52);
    exact.then_some(Decimal { mantissa, exponent: finest, offset })
}

/// `number` as `mantissa × 10^exponent` with the shortest mantissa; `None` where that is not short.
fn short_decimal(number: f64) -> Option<(f64, i32)> {
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e')?;
    let exponent: i32 = exponent.parse().ok()?;
    let decimals = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let mantissa: f64 = digits.replace('.', "").parse().ok()?;
    let exponent = exponent.checked_sub(i32::try_from(decimals).ok()?)?;
    (mantissa.abs() <= MANTISSA_MAX && exponent.abs() <= EXACT_POWER_MAX).then_some((mantissa, exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_scales_give_the_nearest_decimal() {
        // (factor, offset, raw, exponent, expected)
        let rows = [
            (0.1, 0.0, 3.0, 0, 0.3),
            (0.001, 0.0, 230_123.0, 0, 230.123),
            (0.05, 0.0, 7.0, 0, 0.35),
            (0.1, -40.0, 213.0, 0, -18.7),
            (0.01, -273.15, 29_315.0, 0, 20.0),
            (10.0, 0.0, 7.0, 0, 70.0),
            (1.0, 0.0, 2302.0, -1, 230.2),
            (1.0, 0.0, 23.0, 2, 2300.0),
            (0.001, 0.0, 1_234_567.0, 1, 12_345.67),
            (-0.1, 0.0, 3.0, 0, -0.3),
            (1.0, 0.0, 0.1, 0, 0.1),
            (1.0 / 3.0, 0.0, 3.0, 0, 1.0),
        ];
        for (factor, offset, raw, exponent, expected) in rows {
            let scale = Scale::new(factor, offset).unwrap();
            assert_eq!(
                scale.apply_with_exponent(raw, exponent).to_bits(),
                f64::to_bits(expected),
                "{raw} × {factor} + {offset}, exponent {exponent}"
            );
        }
    }

    #[test]
    fn every_raw_number_comes_back() {
        for (factor, offset) in [(0.1, 0.0), (0.001, -40.0), (0.01, -273.15), (3.0, 0.5), (0.7, 0.0)] {
            let scale = Scale::new(factor, offset).unwrap();
            for raw in (-32_768..=65_535).map(f64::from) {
                assert_eq!(scale.invert(scale.apply(raw)).round(), raw, "{factor}, {offset}");
            }
        }
    }

    #[test]
    fn factors_that_erase_the_value_are_refused() {
        for (factor, offset) in [(0.0, 0.0), (f64::NAN, 0.0), (1.0, f64::INFINITY)] {
            assert_eq!(Scale::new(factor, offset), None);
        }
    }
}
