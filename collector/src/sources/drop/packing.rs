//! From a file as it lies in a drop to its texts: decrypted by a configured program, unpacked, each within bounds.

use std::time::Instant;

use gapless_common::text::format_bytes;

use super::command::{CommandError, Program};
use super::place::{Place, Trouble};
use super::unpack::{Text, Unpack, UnpackError, by_head, by_name, unpack};

/// How much of a file is asked for at once, in bytes.
const LOAD_BYTES: usize = 192 << 10;

/// How text is made of files.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Packing {
    /// How they are packed; by their names and first bytes where it is not said.
    pub(super) unpack: Option<Unpack>,
    /// Which files within a packed one, by the last part of their names.
    pub(super) entries: Option<String>,
    /// What decrypts them.
    pub(super) decrypt: Option<Program>,
    /// What was unpacked is decrypted, instead of what was decrypted unpacked.
    pub(super) is_unpacked_first: bool,
    /// The largest packed or encrypted file, and the most that comes of one, in bytes.
    pub(super) bytes_max: u64,
}

/// What is read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Texts {
    /// The file itself, which may grow.
    Plain,
    /// These, each of which is whole: its last line has its end even where the text had none.
    Packed(Vec<Text>),
}

impl Packing {
    /// The texts of a file, which is the same as at the look before where it `is_settled`. How it is packed is looked at each
    /// time: one that was empty when it was seen first may be anything.
    pub(super) fn texts(
        &self,
        place: &mut dyn Place,
        name: &str,
        size: u64,
        is_settled: bool,
    ) -> Result<Texts, Trouble> {
        let kind = match self.unpack.or_else(|| by_name(name)) {
            None if self.decrypt.is_none() => by_head(&place.read(name, 0, 4)?),
            kind => kind,
        };
        if self.decrypt.is_none() && matches!(kind, None | Some(Unpack::None)) {
            return Ok(Texts::Plain);
        }
        let bytes = self.load(place, name, size)?;
        let mut texts = match &self.decrypt {
            Some(program) if self.is_unpacked_first => {
                let texts = self.unpacked(kind.or_else(|| by_head(&bytes)), bytes)?;
                self.decrypted(program, texts)?
            }
            Some(program) => {
                let (is_empty, until) = (bytes.is_empty(), program.until());
                let bytes = self.made_by(program, bytes, self.bytes_max, until)?;
                if bytes.is_empty() && !is_empty {
                    // So `gpg` does with a file that is cut off in its first packet, too, and calls it a success.
                    let program = program.argv.first().map_or("", String::as_str);
                    if !is_settled {
                        return Err(Trouble::Growing(format!(
                            "`{program}` makes nothing of it: is it whole?"
                        )));
                    }
                    tracing::info!(
                        file = name,
                        "`{program}` makes nothing of it: it is taken for an empty one"
                    );
                }
                // The name is that of the encrypted file.
                self.unpacked(self.unpack.or_else(|| by_head(&bytes)), bytes)?
            }
            None => self.unpacked(kind, bytes)?,
        };
        for (_, text) in &mut texts {
            if text.last().is_some_and(|last| *last != b'\n') {
                text.push(b'\n');
            }
        }
        Ok(Texts::Packed(texts))
    }

    /// What a program makes of the texts of an archive: within its time, and within what may come out of a file, all together.
    fn decrypted(&self, program: &Program, texts: Vec<Text>) -> Result<Vec<Text>, Trouble> {
        let (until, mut left) = (program.until(), self.bytes_max);
        let decrypted = texts.into_iter().map(|(name, bytes)| {
            // An archive that can be read has all of each text: of nothing nothing more comes.
            let bytes = self.made_by(program, bytes, left, until)?;
            left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            Ok((name, bytes))
        });
        decrypted.collect()
    }

    /// What a program makes of bytes, `left` at most of what may come out of a file.
    fn made_by(
        &self,
        program: &Program,
        bytes: Vec<u8>,
        left: u64,
        until: Instant,
    ) -> Result<Vec<u8>, Trouble> {
        program.run(bytes, left, until).map_err(|error| match error {
            CommandError::Large { .. } => Trouble::Spoilt(UnpackError::Large(self.bytes_max).to_string()),
            error => of_command(&error),
        })
    }

    fn unpacked(&self, kind: Option<Unpack>, bytes: Vec<u8>) -> Result<Vec<Text>, Trouble> {
        let is_wanted = |name: &str| self.is_wanted(name);
        unpack(kind.unwrap_or(Unpack::None), bytes, self.bytes_max, is_wanted).map_err(|error| match error {
            UnpackError::Damaged(_) => Trouble::Growing(error.to_string()),
            _ => Trouble::Spoilt(error.to_string()),
        })
    }

    fn is_wanted(&self, name: &str) -> bool {
        let last = name.rsplit(['/', '\\']).next().unwrap_or(name);
        self.entries.as_ref().is_none_or(|pattern| gapless_common::files::glob::is_meant(pattern, last))
    }

    /// All of a file.
    fn load(&self, place: &mut dyn Place, name: &str, size: u64) -> Result<Vec<u8>, Trouble> {
        let large = |size| {
            let most = format_bytes(self.bytes_max);
            Trouble::Spoilt(format!("it has {}, and `largest` is {most}", format_bytes(size)))
        };
        if size > self.bytes_max {
            return Err(large(size));
        }
        let mut bytes = Vec::new();
        loop {
            let at = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if at > self.bytes_max {
                return Err(large(at));
            }
            let read = place.read(name, at, LOAD_BYTES)?;
            if read.is_empty() {
                return Ok(bytes);
            }
            bytes.extend(read);
        }
    }
}

fn of_command(error: &CommandError) -> Trouble {
    match error {
        // A file that is not whole yet is refused as well as one that never will be.
        CommandError::Refused { .. } => Trouble::Growing(error.to_string()),
        CommandError::Large { .. }
        | CommandError::Missing(_)
        | CommandError::Start { .. }
        | CommandError::Slow { .. }
        | CommandError::Pipe { .. } => Trouble::Unread(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Cursor, Write as _};
    use std::time::Duration;

    use super::super::place::Listing;
    use super::*;

    /// Files that are there.
    struct Shelf(BTreeMap<&'static str, Vec<u8>>);

    impl Place for Shelf {
        fn list(&mut self, _: &str) -> Result<Listing, Trouble> {
            Ok(Listing::default())
        }

        fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
            let from = usize::try_from(offset).unwrap();
            Ok(self.0[name].iter().skip(from).take(len).copied().collect())
        }
    }

    fn zip(files: &[(&str, &str)]) -> Vec<u8> {
        let mut to = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, text) in files {
            to.start_file(*name, zip::write::SimpleFileOptions::default()).unwrap();
            to.write_all(text.as_bytes()).unwrap();
        }
        to.finish().unwrap().into_inner()
    }

    fn texts(decrypt: Option<&str>, is_unpacked_first: bool, file: Vec<u8>) -> Result<Texts, Trouble> {
        texts_of(decrypt, is_unpacked_first, file, false)
    }

    fn texts_of(
        decrypt: Option<&str>,
        is_unpacked_first: bool,
        file: Vec<u8>,
        is_settled: bool,
    ) -> Result<Texts, Trouble> {
        let program = |script: &str| Program {
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            timeout: Duration::from_secs(2),
        };
        let decrypt = decrypt.map(program);
        let packing = Packing { unpack: None, entries: None, decrypt, is_unpacked_first, bytes_max: 1_000 };
        let size = u64::try_from(file.len()).unwrap();
        packing.texts(&mut Shelf(BTreeMap::from([("a", file)])), "a", size, is_settled)
    }

    fn packed(texts: &[(&str, &str)]) -> Result<Texts, Trouble> {
        let text = |(name, text): &(&str, &str)| (Box::from(*name), text.as_bytes().to_vec());
        Ok(Texts::Packed(texts.iter().map(text).collect()))
    }

    #[test]
    fn what_is_packed_or_encrypted_is_whole_and_so_is_its_last_line() {
        let archive = zip(&[("a", "1\n2"), ("b", "3\n"), ("c", "")]);
        let whole = packed(&[("a", "1\n2\n"), ("b", "3\n"), ("c", "")]);
        assert_eq!(texts(None, false, archive.clone()), whole);
        assert_eq!(texts(Some("cat"), true, archive), whole);
        assert_eq!(texts(Some("cat"), false, b"1\n2".to_vec()), packed(&[("", "1\n2\n")]));
        assert_eq!(texts(None, false, b"1\n2".to_vec()), Ok(Texts::Plain));
        assert_eq!(texts(None, false, Vec::new()), Ok(Texts::Plain), "it may become anything");
    }

    #[test]
    fn a_program_that_makes_nothing_of_something_may_not_have_all_of_it_and_else_it_is_empty() {
        let script = "cat > /dev/null";
        let told = texts(Some(script), false, b"encrypted".to_vec());
        assert_eq!(told, Err(Trouble::Growing("`sh` makes nothing of it: is it whole?".to_owned())));
        let told = texts_of(Some(script), false, b"encrypted".to_vec(), true);
        assert_eq!(told, packed(&[("", "")]), "it is the same as before");
        // An archive is whole where it can be read: one empty text in it is no reason to leave the others.
        let script = "sed 's/^empty$//' | tr -d '\\n'";
        let told = texts(Some(script), true, zip(&[("a", "1\n"), ("b", "empty\n"), ("c", "3\n")]));
        assert_eq!(told, packed(&[("a", "1\n"), ("b", ""), ("c", "3\n")]));
        assert_eq!(texts(Some("cat"), false, Vec::new()), packed(&[("", "")]));
    }

    #[test]
    fn all_of_an_archive_has_the_time_and_the_size_that_a_file_has() {
        let archive = zip(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let told = texts(Some("sleep 0.9; cat"), true, archive.clone()).unwrap_err();
        assert_eq!(told, Trouble::Unread("`sh` took longer than 2s, and was ended".to_owned()));
        let large = "more than 1000 B come out of it: `largest` is the limit".to_owned();
        let script = "cat > /dev/null; head -c 400 /dev/zero";
        assert_eq!(texts(Some(script), true, archive), Err(Trouble::Spoilt(large)));
        assert!(texts(Some(script), true, zip(&[("a", "1"), ("b", "2")])).is_ok());
    }
}
