//! Durations and sizes as people write them in configuration: `10s`, `15m`, `64MiB`.

/// Why a text is not a duration or a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: write a number and a unit, such as {example}")]
pub struct QuantityError {
    text: String,
    what: &'static str,
    example: &'static str,
}

const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

const SIZE_UNITS: [(&str, u64); 7] = [
    ("B", 1),
    ("kB", 1_000),
    ("KiB", 1 << 10),
    ("MB", 1_000_000),
    ("MiB", 1 << 20),
    ("GB", 1_000_000_000),
    ("GiB", 1 << 30),
];

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '_'))?;
    let number: u64 = text[..digits].replace('_', "").parse().ok()?;
    let unit = text[digits..].trim();
    let &(_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(factor)
}

/// Milliseconds of a duration such as `250ms`, `10s`, `15m`, `6h`, `30d`, `2w`.
///
/// # Errors
/// [`QuantityError`] where number or unit is missing, unknown or too large.
pub fn parse_duration_ms(text: &str) -> Result<u64, QuantityError> {
    parse(text, &DURATION_UNITS).ok_or_else(|| QuantityError {
        text: text.to_owned(),
        what: "duration",
        example: "250ms, 10s, 15m, 6h or 30d",
    })
}

/// Bytes of a size such as `512KiB`, `64MiB`, `2GB`.
///
/// # Errors
/// [`QuantityError`] where number or unit is missing, unknown or too large.
pub fn parse_size_bytes(text: &str) -> Result<u64, QuantityError> {
    parse(text, &SIZE_UNITS).ok_or_else(|| QuantityError {
        text: text.to_owned(),
        what: "size",
        example: "512KiB, 64MiB or 2GB",
    })
}

/// The shortest exact way to write a duration: `90_000` is `90s`, `3_600_000` is `1h`.
#[must_use]
pub fn format_duration_ms(ms: u64) -> String {
    let exact = DURATION_UNITS.iter().rev().filter(|(name, _)| *name != "w");
    match exact.into_iter().find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}", ms / factor),
        None => format!("{ms}ms"),
    }
}

/// Bytes in binary units with at most one digit after the point: `1.5 MiB`.
#[must_use]
pub fn format_bytes(bytes: u64) -> String {
    for (unit, size) in [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= size {
            let tenths = bytes.saturating_mul(10) / size;
            return if tenths.is_multiple_of(10) {
                format!("{} {unit}", tenths / 10)
            } else {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            };
        }
    }
    format!("{bytes} B")
}

/// Bytes as text (RFC 4648, section 4): what basic authentication sends.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = (0..3).fold(0_usize, |sum, i| sum << 8 | usize::from(chunk.get(i).copied().unwrap_or(0)));
        for place in 0..4 {
            let digit = char::from(DIGITS[group >> (18 - 6 * place) & 0x3F]);
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        for (text, ms) in [("250ms", 250), ("10s", 10_000), ("15m", 900_000), ("2w", 1_209_600_000)] {
            assert_eq!(parse_duration_ms(text), Ok(ms));
        }
        for bad in
            ["", "10", "s", "-1s", "1.5s", "10 parsecs", "99999999999999999999s", "18446744073709551615w"]
        {
            assert!(parse_duration_ms(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_size_bytes("64MiB"), Ok(64 << 20));
        assert!(parse_size_bytes("64mb").is_err());
        for (ms, text) in [(250, "250ms"), (90_000, "90s"), (3_600_000, "1h"), (0, "0ms")] {
            assert_eq!(format_duration_ms(ms), text);
        }
        assert_eq!(format_bytes(1_572_864), "1.5 MiB");
    }

    /// The vectors of RFC 4648, section 10.
    #[test]
    fn bytes_are_written_in_base_64() {
        let rows = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ];
        for (plain, expected) in rows {
            assert_eq!(base64(plain.as_bytes()), expected, "{plain}");
        }
    }
}
