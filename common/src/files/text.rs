//! Characters and cells of a line. Knows no columns.

use std::borrow::Cow;

/// What a byte of a file means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// UTF-8, with or without a byte order mark.
    #[default]
    Utf8,
    /// ISO 8859-1: each byte is the character of that number.
    Latin1,
}

/// The words of the configuration.
pub const ENCODINGS: [(&str, Encoding); 2] = [("utf-8", Encoding::Utf8), ("latin-1", Encoding::Latin1)];

/// The byte order mark in UTF-8: a file that begins with it is UTF-8, whatever was said of it.
const MARK: &[u8] = b"\xEF\xBB\xBF";

/// Why bytes are no characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not UTF-8.
    #[error("byte {0} of it is not UTF-8: is it encoding = \"latin-1\"?")]
    NotUtf8(usize),
    /// Two bytes a character.
    #[error("it is UTF-16, which is not read: have it written as UTF-8")]
    Utf16,
    /// A zero byte, as a file has that was not written to its end when the power went.
    #[error("it holds zero bytes")]
    Zero,
}

/// The bytes behind a byte order mark, where there is one.
#[must_use]
pub fn without_mark(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(MARK)
}

/// The characters of a line, without what ends it.
///
/// # Errors
/// [`TextError`].
pub fn decode(encoding: Encoding, line: &[u8]) -> Result<Cow<'_, str>, TextError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.starts_with(b"\xFF\xFE") || line.starts_with(b"\xFE\xFF") {
        return Err(TextError::Utf16);
    }
    if line.contains(&0) {
        return Err(TextError::Zero);
    }
    match encoding {
        Encoding::Utf8 => std::str::from_utf8(line)
            .map(Cow::Borrowed)
            .map_err(|error| TextError::NotUtf8(error.valid_up_to() + 1)),
        Encoding::Latin1 if line.is_ascii() => Ok(String::from_utf8_lossy(line)),
        Encoding::Latin1 => Ok(line.iter().map(|byte| char::from(*byte)).collect()),
    }
}

/// The cells of a line (RFC 4180, but a line feed always ends it); `None` where a quotation mark has no other.
#[must_use]
pub fn cells(line: &str, separator: char) -> Option<Vec<Cow<'_, str>>> {
    let mut cells = Vec::new();
    let mut rest = line;
    loop {
        let (cell, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_cell(quoted)?,
            None => {
                let end = rest.find(separator).unwrap_or(rest.len());
                (Cow::Borrowed(&rest[..end]), &rest[end..])
            }
        };
        cells.push(cell);
        match behind.strip_prefix(separator) {
            Some(next) => rest = next,
            None if behind.is_empty() => return Some(cells),
            None => return None,
        }
    }
}

/// What stands up to the quotation mark that ends it, and what follows that.
fn quoted_cell(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let mut cell = Cow::Borrowed("");
    let mut rest = text;
    loop {
        let (before, behind) = rest.split_once('"')?;
        cell += before;
        match behind.strip_prefix('"') {
            Some(next) => {
                cell += "\"";
                rest = next;
            }
            None => return Some((cell, behind)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_become_characters() {
        let rows: [(Encoding, &[u8], Result<&str, TextError>); 7] = [
            (Encoding::Utf8, "Größe\r\n".as_bytes(), Ok("Größe")),
            (Encoding::Latin1, b"Gr\xF6\xDFe\n", Ok("Größe")),
            (Encoding::Latin1, b"plain", Ok("plain")),
            (Encoding::Utf8, b"Gr\xF6\xDFe\n", Err(TextError::NotUtf8(3))),
            (Encoding::Utf8, b"\xFF\xFEG\0", Err(TextError::Utf16)),
            (Encoding::Latin1, b"1,\0\0\n", Err(TextError::Zero)),
            (Encoding::Utf8, b"\r\n", Ok("")),
        ];
        for (encoding, bytes, expected) in rows {
            assert_eq!(decode(encoding, bytes).as_deref(), expected.as_deref(), "{bytes:?}");
        }
        assert_eq!(without_mark(b"\xEF\xBB\xBFx"), Some(&b"x"[..]));
        assert_eq!(without_mark(b"x"), None);
    }

    #[test]
    fn lines_become_cells() {
        let rows: [(&str, char, Option<&[&str]>); 9] = [
            ("a,b,,c", ',', Some(&["a", "b", "", "c"])),
            ("", ',', Some(&[""])),
            ("a;", ';', Some(&["a", ""])),
            (r#""a,b","say ""x""",1"#, ',', Some(&["a,b", "say \"x\"", "1"])),
            ("1\t2", '\t', Some(&["1", "2"])),
            (r#""open,1"#, ',', None),
            (r#""a"b,1"#, ',', None),
            (r#""""#, ',', Some(&[""])),
            (r#"a"b,c"#, ',', Some(&["a\"b", "c"])),
        ];
        for (line, separator, expected) in rows {
            let found = cells(line, separator);
            let found: Option<Vec<&str>> =
                found.as_ref().map(|cells| cells.iter().map(AsRef::as_ref).collect());
            assert_eq!(found.as_deref(), expected, "{line}");
        }
    }
}
