//! Numbers as integers: the decimal or binary form in which a column or a row of `f64` becomes small integers
//! that give back the identical bits.

use super::bytes::Bad;

/// Digits after the point that are tried.
pub(super) const DIGITS_MAX: u8 = 9;

/// The three ways in which a decimal of a few digits becomes an `f64`; which one depends on the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flavour {
    /// `k / 10^d`: the `f64` nearest to the decimal, as parsers give it.
    Quotient,
    /// The `f32` nearest to the decimal: float registers and loggers.
    Single,
    /// `k × 10^-d`: a register multiplied by its scale.
    Product,
}

const FLAVOURS: [Flavour; 3] = [Flavour::Quotient, Flavour::Single, Flavour::Product];

/// A flavour and its number of digits; 30 of them, coded 0 to 29.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    flavour: Flavour,
    digits: u8,
}

const POWERS: [f64; 10] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9];
const INVERSE: [f64; 10] = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9];

/// Integers above 2^53 have neighbours that `f64` cannot tell apart.
const EXACT_MAX: i64 = 1 << 53;

#[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest f32 is what is asked for")]
pub(super) const fn nearest_f32(value: f64) -> f32 {
    value as f32
}

/// `value` as `f32`, where that loses nothing, not even the payload of a NaN.
pub(super) fn exact_f32(value: f64) -> Option<f32> {
    let narrow = nearest_f32(value);
    (f64::from(narrow).to_bits() == value.to_bits()).then_some(narrow)
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be an integer below 2^53")]
fn integer(value: f64) -> Option<i64> {
    (value.abs() < EXACT_MAX as f64).then_some(value as i64)
}

impl Decimal {
    pub(super) const CODES: u8 = 30;

    pub(super) const fn code(self) -> u8 {
        let flavour = match self.flavour {
            Flavour::Quotient => 0,
            Flavour::Single => 1,
            Flavour::Product => 2,
        };
        flavour * 10 + self.digits
    }

    pub(super) fn of_code(code: u8) -> Option<Self> {
        let flavour = *FLAVOURS.get(usize::from(code / 10))?;
        Some(Self { flavour, digits: code % 10 })
    }

    fn value(self, k: i64) -> f64 {
        let digits = usize::from(self.digits);
        match self.flavour {
            Flavour::Quotient => k as f64 / POWERS[digits],
            Flavour::Single => f64::from(nearest_f32(k as f64 / POWERS[digits])),
            Flavour::Product => k as f64 * INVERSE[digits],
        }
    }

    /// The number of `k`; an error for a `k` that no encoder writes.
    pub(super) fn decode(self, k: i64) -> Result<f64, Bad> {
        if k.unsigned_abs() < EXACT_MAX.unsigned_abs() {
            Ok(self.value(k))
        } else {
            Err(Bad("a decimal above 2^53"))
        }
    }

    /// The integer that gives back `value` bit for bit, if there is one.
    fn encode(self, value: f64) -> Option<i64> {
        let k = integer((value * POWERS[usize::from(self.digits)]).round())?;
        (self.value(k).to_bits() == value.to_bits()).then_some(k)
    }

    /// The fewest digits of this flavour that all of `values` need. More digits never hurt a quotient, so one
    /// pass finds them; a product may fit with fewer and not with more, so each number is tried.
    fn fit(flavour: Flavour, values: &[f64]) -> Option<(Self, Vec<i64>)> {
        let least = if flavour == Flavour::Product { 1 } else { 0 };
        let mut form = Self { flavour, digits: least };
        for value in values {
            while form.encode(*value).is_none() {
                form.digits += 1;
                if form.digits > DIGITS_MAX {
                    return None;
                }
            }
        }
        let all = |form: Self| values.iter().map(|v| form.encode(*v)).collect::<Option<Vec<i64>>>();
        let most = if flavour == Flavour::Product { DIGITS_MAX } else { form.digits };
        (form.digits..=most).find_map(|digits| {
            let form = Self { flavour, digits };
            all(form).map(|ks| (form, ks))
        })
    }

    /// The form with the fewest digits that gives back all of `values`, and their integers.
    pub(super) fn find(values: &[f64]) -> Option<(Self, Vec<i64>)> {
        let forms = FLAVOURS.iter().filter_map(|flavour| Self::fit(*flavour, values));
        forms.min_by_key(|(form, _)| form.digits)
    }
}

/// `f64` as integers in the order of their size, without the low bits that are 0 in all of them (29 where all
/// are exact as `f32`). The sign folds to the complement, so that -0.0 stays apart from 0.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binary {
    shift: u8,
}

const SIGN: u64 = 1 << 63;

impl Binary {
    pub(super) const CODES: u8 = 64;

    pub(super) const fn code(self) -> u8 {
        self.shift
    }

    pub(super) const fn of_code(code: u8) -> Option<Self> {
        if code < Self::CODES { Some(Self { shift: code }) } else { None }
    }

    /// The form of `values`, and their integers. Every `f64` has one.
    pub(super) fn find(values: &[f64]) -> (Self, Vec<i64>) {
        let used = values.iter().fold(0, |bits, v| bits | v.to_bits() & !SIGN);
        let shift = u8::try_from(used.trailing_zeros().min(63)).expect("at most 63");
        let form = Self { shift };
        (form, values.iter().map(|v| form.encode(*v)).collect())
    }

    const fn encode(self, value: f64) -> i64 {
        let magnitude = ((value.to_bits() & !SIGN) >> self.shift).cast_signed();
        if value.is_sign_negative() { !magnitude } else { magnitude }
    }

    /// The number of `k`; an error for a `k` that no encoder writes.
    pub(super) fn decode(self, k: i64) -> Result<f64, Bad> {
        let magnitude = (k ^ (k >> 63)).cast_unsigned();
        if magnitude > !SIGN >> self.shift {
            return Err(Bad("a binary number above 64 bits"));
        }
        let sign = if k < 0 { SIGN } else { 0 };
        Ok(f64::from_bits(magnitude << self.shift | sign))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(values: &[f64], code: Option<u8>) {
        let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        let decimal = Decimal::find(values);
        assert_eq!(decimal.as_ref().map(|(form, _)| form.code()), code, "{values:?}");
        if let Some((form, ks)) = decimal {
            assert_eq!(Decimal::of_code(form.code()), Some(form));
            let back: Result<Vec<f64>, Bad> = ks.iter().map(|k| form.decode(*k)).collect();
            assert_eq!(bits(&back.unwrap()), bits(values));
        }
        let (form, ks) = Binary::find(values);
        let back: Result<Vec<f64>, Bad> = ks.iter().map(|k| form.decode(*k)).collect();
        assert_eq!(bits(&back.unwrap()), bits(values));
    }

    #[test]
    fn forms_of_numbers() {
        check(&[230.1, 229.95, 0.0, -3.5], Some(2));
        check(&[1.0, 9_007_199_254_740_991.0], Some(0));
        check(&[f64::from(230.1f32), f64::from(0.25f32)], Some(12));
        check(&[2301.0 * 0.1, 2302.0 * 0.1, 2303.0 * 0.1], Some(21));
        check(&[9_007_199_254_740_992.0], None);
        check(&[9_007_199_254_740_991.0, 0.5], None);
        for odd in [-0.0, f64::NAN, f64::INFINITY, f64::MIN_POSITIVE, std::f64::consts::PI] {
            check(&[1.5, odd], None);
        }
        check(&[f64::from_bits(0x7FF8_0000_0000_1234), f64::from_bits(u64::MAX)], None);
        assert_eq!(exact_f32(230.1), None);
        assert_eq!(exact_f32(-0.0).map(f32::to_bits), Some(0x8000_0000));
        assert!(Decimal::of_code(Decimal::CODES).is_none() && Binary::of_code(Binary::CODES).is_none());
    }

    proptest! {
        #[test]
        fn the_identical_bits_come_back(bits: Vec<u64>, k in -(1i64 << 40)..1 << 40, digits in 0u8..10) {
            let values: Vec<f64> = bits.into_iter().map(f64::from_bits).collect();
            let (form, ks) = Binary::find(&values);
            for (k, value) in ks.into_iter().zip(values) {
                prop_assert_eq!(form.decode(k).unwrap().to_bits(), value.to_bits());
            }
            for flavour in FLAVOURS {
                let value = Decimal { flavour, digits }.value(k);
                let (form, ks) = Decimal::find(&[value]).expect("it was made of a decimal");
                prop_assert_eq!(form.decode(ks[0]).unwrap().to_bits(), value.to_bits());
            }
        }
    }
}
