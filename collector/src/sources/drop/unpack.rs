//! Texts out of packed files, in memory and within bounds. Nothing is written anywhere, so names within an archive are only
//! names.

use std::io::{self, Cursor, Read};

use flate2::read::MultiGzDecoder;
use gapless_common::text::format_bytes;
use serde::Deserialize;
use zip::result::ZipError;
use zip::{CompressionMethod, ZipArchive};

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
    /// It is an archive of a kind that is not read.
    #[error(
        "it is an archive of a kind that is not read ({0}): have it written as one .zip file, or unpacked by `decrypt`"
    )]
    Unknown(String),
    /// A file in it is packed in a way that is not known.
    #[error(
        "`{entry}` in it is packed by {method}, and only stored and deflated ones are read: have it packed by Deflate"
    )]
    Method {
        /// Which.
        entry: String,
        /// The method's number and name.
        method: String,
    },
    /// A file in it has a password.
    #[error(
        "`{0}` in it is encrypted with a password: have it written without one, or unpacked by `decrypt`"
    )]
    Password(String),
    /// There are more files in it than are taken.
    #[error("more than {ENTRIES_MAX} files are in it: have it divided")]
    Many,
}

/// Files in an archive at most, those that are not wanted among them: each costs memory before anything is unpacked.
const ENTRIES_MAX: usize = 100_000;

/// A text and its name, which is empty where it is the only one of its file.
pub(super) type Text = (Box<str>, Vec<u8>);

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
        Unpack::None => Ok(vec![("".into(), bytes)]),
        Unpack::Gzip => {
            let text = bounded(&mut MultiGzDecoder::new(&bytes[..]), most, most)?;
            Ok(vec![("".into(), text)])
        }
        Unpack::Zip => archive(bytes, most, is_wanted),
    }
}

fn archive(bytes: Vec<u8>, most: u64, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<Text>, UnpackError> {
    let of_zip = |error| match error {
        ZipError::UnsupportedArchive(why) => UnpackError::Unknown(why.to_owned()),
        error => UnpackError::Damaged(error.to_string()),
    };
    // Each begins so in the list of them, which is read whole (APPNOTE.TXT 6.3, section 4.3.12).
    if bytes.windows(4).filter(|bytes| bytes == b"PK\x01\x02").count() > ENTRIES_MAX {
        return Err(UnpackError::Many);
    }
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(of_zip)?;
    let (mut texts, mut left) = (Vec::new(), most);
    for index in 0..archive.len() {
        // What is not wanted need not be of a kind that can be read.
        let about = archive.by_index_data(index).map_err(of_zip)?;
        // A name in another encoding is still a name.
        let name = String::from_utf8_lossy(about.name_raw()).into_owned();
        if about.is_dir() || !is_wanted(&name) {
            continue;
        }
        if about.encrypted() {
            return Err(UnpackError::Password(name));
        }
        let method = about.compression();
        if !matches!(method, CompressionMethod::Stored | CompressionMethod::Deflated) {
            return Err(UnpackError::Method { entry: name, method: named(method) });
        }
        let mut entry = archive.by_index(index).map_err(of_zip)?;
        let text = bounded(&mut entry, left, most)?;
        left = left.saturating_sub(u64::try_from(text.len()).unwrap_or(u64::MAX));
        texts.push((name.into(), text));
    }
    Ok(texts)
}

/// A method as people know it.
fn named(method: CompressionMethod) -> String {
    #[expect(
        deprecated,
        reason = "the only way to the number of a method that the library was built without"
    )]
    let number = match method {
        CompressionMethod::Unsupported(number) => number,
        other => return other.to_string(),
    };
    format!("method {number} ({})", CompressionMethod::name_from_u16(number))
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
        assert_eq!(unpack(Unpack::Gzip, twice, 7, all).unwrap(), [("".into(), b"one two".to_vec())]);
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

    /// The archive with the method and the flags of its first file changed, in its list and before the file itself.
    fn altered(mut archive: Vec<u8>, method: u8, flags: u8) -> Vec<u8> {
        for (mark, at) in [(b"PK\x03\x04", 6), (b"PK\x01\x02", 8)] {
            let begin = archive.windows(4).position(|bytes| bytes == mark).unwrap();
            archive[begin + at] |= flags;
            archive[begin + at + 2] = method;
        }
        archive
    }

    #[test]
    fn what_is_packed_in_another_way_is_named_and_matters_only_where_it_is_wanted() {
        let archive = zip(&[("a.dat", b"one"), ("b.dat", b"two")]);
        let rows = [
            (
                14,
                0,
                "`a.dat` in it is packed by method 14 (Lzma), and only stored and deflated ones are read",
            ),
            (93, 0, "`a.dat` in it is packed by method 93 (Zstd)"),
            (200, 0, "`a.dat` in it is packed by method 200 (Unknown)"),
            (8, 1, "`a.dat` in it is encrypted with a password: have it written without one"),
            (99, 1, "`a.dat` in it is encrypted with a password"),
        ];
        for (method, flags, expected) in rows {
            let altered = altered(archive.clone(), method, flags);
            let told = unpack(Unpack::Zip, altered.clone(), 100, all).unwrap_err().to_string();
            assert!(told.starts_with(expected), "{told}");
            let others = unpack(Unpack::Zip, altered, 100, |name| name != "a.dat").unwrap();
            assert_eq!(others, [("b.dat".into(), b"two".to_vec())]);
        }
    }

    #[test]
    fn an_archive_of_too_many_files_is_refused_before_its_list_is_read() {
        let list = b"PK\x01\x02".repeat(ENTRIES_MAX + 1);
        assert_eq!(unpack(Unpack::Zip, list, 100, all), Err(UnpackError::Many));
        let list = b"PK\x01\x02".repeat(ENTRIES_MAX);
        assert!(matches!(unpack(Unpack::Zip, list, 100, all), Err(UnpackError::Damaged(_))));
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
