//! Texts out of packed files, in memory and within bounds. Nothing is written anywhere, so names within an archive are only
//! names.

use std::io::{self, Cursor, Read};

use flate2::read::MultiGzDecoder;
use gapless_common::text::format_bytes;
use serde::Deserialize;
use zip::ZipArchive;
use zip::result::ZipError;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::sources) enum Unpack {
    /// An archive of files (APPNOTE.TXT 6.3), stored or deflated.
    Zip,
    /// One text (RFC 1952), in one member or several.
    Gzip,
    /// Not at all.
    None,
}

/// Why nothing came out of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum UnpackError {
    /// It is damaged, or not whole.
    #[error("it cannot be unpacked: {0}")]
    Damaged(String),
    /// More comes out of it than is taken.
    #[error("more than {} come out of it: `largest` is the limit", format_bytes(*.0))]
    Large(u64),
    /// It is packed or encrypted in a way that is not known.
    #[error("it is packed in a way that is not known ({0}): have it deflated, or unpacked by `decrypt`")]
    Unknown(String),
}

/// A text and its name.
pub(super) type Text = (Box<str>, Vec<u8>);

/// The name of the text of a file that has one without a name.
const ONLY: &str = "text";

/// What a file's name says.
pub(super) fn by_name(name: &str) -> Option<Unpack> {
    let ends = |suffix: &str| {
        name.len() >= suffix.len()
            && name.is_char_boundary(name.len() - suffix.len())
            && name[name.len() - suffix.len()..].eq_ignore_ascii_case(suffix)
    };
    if ends(".zip") { Some(Unpack::Zip) } else { ends(".gz").then_some(Unpack::Gzip) }
}

/// What its first bytes say.
pub(super) fn by_head(bytes: &[u8]) -> Option<Unpack> {
    match bytes {
        [b'P', b'K', 3, 4, ..] | [b'P', b'K', 5, 6, ..] => Some(Unpack::Zip),
        [0x1F, 0x8B, ..] => Some(Unpack::Gzip),
        _ => None,
    }
}

/// The texts in a file by their names, those of an archive in its order; `most` bytes of them together.
pub(super) fn unpack(
    kind: Unpack,
    bytes: Vec<u8>,
    most: u64,
    is_wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Text>, UnpackError> {
    match kind {
        Unpack::None => Ok(vec![(ONLY.into(), bytes)]),
        Unpack::Gzip => {
            let text = bounded(&mut MultiGzDecoder::new(&bytes[..]), most, most)?;
            Ok(vec![(ONLY.into(), text)])
        }
        Unpack::Zip => archive(bytes, most, is_wanted),
    }
}

fn archive(bytes: Vec<u8>, most: u64, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Text>, UnpackError> {
    let of_zip = |error| match error {
        ZipError::UnsupportedArchive(why) => UnpackError::Unknown(why.to_string()),
        error => UnpackError::Damaged(error.to_string()),
    };
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(of_zip)?;
    let (mut texts, mut left) = (Vec::new(), most);
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(of_zip)?;
        // A name in another encoding is still a name.
        let name: Box<str> = String::from_utf8_lossy(entry.name_raw()).into();
        if entry.is_dir() || !is_wanted(&name) {
            continue;
        }
        let text = bounded(&mut entry, left, most)?;
        left = left.saturating_sub(u64::try_from(text.len()).unwrap_or(u64::MAX));
        texts.push((name, text));
    }
    Ok(texts)
}

/// All that can be read, `left` bytes at most of the `most` that are allowed.
fn bounded(from: &mut impl Read, left: u64, most: u64) -> Result<Vec<u8>, UnpackError> {
    let mut text = Vec::new();
    let read = from.take(left.saturating_add(1)).read_to_end(&mut text);
    read.map_err(|error: io::Error| UnpackError::Damaged(error.to_string()))?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > left {
        Err(UnpackError::Large(most))
    } else {
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut to = GzEncoder::new(Vec::new(), Compression::default());
        to.write_all(text).unwrap();
        to.finish().unwrap()
    }

    fn zip(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut to = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in files {
            to.start_file(*name, SimpleFileOptions::default()).unwrap();
            to.write_all(text).unwrap();
        }
        to.finish().unwrap().into_inner()
    }

    fn all(_: &str) -> bool {
        true
    }

    #[test]
    fn texts_come_out_as_they_went_in() {
        let twice = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(unpack(Unpack::Gzip, twice, 7, all).unwrap(), [("text".into(), b"one two".to_vec())]);
        let archive = zip(&[("a/b.dat", b"one"), ("../../etc/passwd", b"two"), ("readme.txt", b"")]);
        assert_eq!(by_head(&archive), Some(Unpack::Zip));
        let texts = unpack(Unpack::Zip, archive.clone(), 6, all).unwrap();
        let expected: [(Box<str>, &[u8]); 3] =
            [("a/b.dat".into(), b"one"), ("../../etc/passwd".into(), b"two"), ("readme.txt".into(), b"")];
        assert!(texts.iter().map(|(name, text)| (name.clone(), &text[..])).eq(expected), "{texts:?}");
        let texts = unpack(Unpack::Zip, archive, 6, |name| name.ends_with(".dat")).unwrap();
        assert_eq!(texts.len(), 1);
    }

    #[test]
    fn what_is_larger_than_allowed_is_refused_by_what_comes_out_and_not_by_what_it_says_of_itself() {
        let bomb = vec![b'0'; 10 << 20];
        let large = Err(UnpackError::Large(1 << 20));
        let (packed, archive) = (gzip(&bomb), zip(&[("a", &bomb[..1_000]), ("b", &bomb)]));
        assert!(packed.len() < 1 << 16 && archive.len() < 1 << 16);
        assert_eq!(unpack(Unpack::Gzip, packed, 1 << 20, all), large);
        assert_eq!(unpack(Unpack::Zip, archive, 1 << 20, all), large);
        let together = zip(&[("a", b"1234"), ("b", b"5678")]);
        assert_eq!(unpack(Unpack::Zip, together, 7, all), Err(UnpackError::Large(7)));
    }

    #[test]
    fn every_file_that_is_cut_short_or_has_a_wrong_byte_is_damaged_or_gives_another_text() {
        let text = b"2026-01-01 00:00:00,1\n2026-01-01 00:10:00,2\n";
        for (kind, whole) in [(Unpack::Gzip, gzip(text)), (Unpack::Zip, zip(&[("a", text)]))] {
            for cut in 1..whole.len() {
                let told = unpack(kind, whole[..cut].to_vec(), 1_000, all);
                assert!(matches!(told, Err(UnpackError::Damaged(_))), "{kind:?} cut at {cut}: {told:?}");
            }
            for at in 0..whole.len() {
                let mut spoilt = whole.clone();
                spoilt[at] ^= 0x55;
                // What is in no checksum (a time, a name) may be wrong; the text may not.
                let told = unpack(kind, spoilt, 1_000, all).unwrap_or_default();
                assert!(told.iter().all(|(_, told)| told == text), "{kind:?} wrong at {at}: {told:?}");
            }
        }
    }

    #[test]
    fn names_and_heads_say_how_a_file_is_packed() {
        let rows = [("a.zip", Some(Unpack::Zip)), ("A.GZ", Some(Unpack::Gzip)), ("gz", None), ("é", None)];
        for (name, expected) in rows {
            assert_eq!(by_name(name), expected, "{name}");
        }
        assert_eq!(by_head(b"\x1F\x8B\x08"), Some(Unpack::Gzip));
        assert_eq!(by_head(b"TOA5"), None);
        assert_eq!(by_head(b""), None);
    }
}
