//! From a file as it lies in a drop to its texts: decrypted by a configured program, unpacked, each within bounds.

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

/// A text and its name within its file; without bytes, and without a name, where it is the file itself.
pub(super) type Named = (Box<str>, Option<Vec<u8>>);

impl Packing {
    /// The texts of a file. `is_plain`: it was one when it was read last.
    pub(super) fn texts(
        &self,
        place: &mut dyn Place,
        name: &str,
        size: u64,
        is_plain: bool,
    ) -> Result<Vec<Named>, Trouble> {
        let kind = match self.unpack.or_else(|| by_name(name)) {
            None if self.decrypt.is_none() && !is_plain => by_head(&place.read(name, 0, 4)?),
            kind => kind,
        };
        if self.decrypt.is_none() && matches!(kind, None | Some(Unpack::None)) {
            return Ok(vec![("".into(), None)]);
        }
        let bytes = self.load(place, name, size)?;
        let is_wanted = |name: &str| self.is_wanted(name);
        match &self.decrypt {
            Some(program) if self.is_unpacked_first => {
                let texts = self.unpacked(kind.or_else(|| by_head(&bytes)), bytes, is_wanted)?;
                let decrypted = texts.into_iter().map(|(name, bytes)| {
                    let bytes = program.run(bytes, self.bytes_max).map_err(|error| of_command(&error))?;
                    Ok((name, Some(bytes)))
                });
                decrypted.collect()
            }
            Some(program) => {
                let bytes = program.run(bytes, self.bytes_max).map_err(|error| of_command(&error))?;
                // The name is that of the encrypted file.
                self.texts_of(self.unpack.or_else(|| by_head(&bytes)), bytes, is_wanted)
            }
            None => self.texts_of(kind, bytes, is_wanted),
        }
    }

    fn texts_of(
        &self,
        kind: Option<Unpack>,
        bytes: Vec<u8>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Named>, Trouble> {
        let texts = self.unpacked(kind, bytes, is_wanted)?;
        Ok(texts.into_iter().map(|(name, bytes)| (name, Some(bytes))).collect())
    }

    fn unpacked(
        &self,
        kind: Option<Unpack>,
        bytes: Vec<u8>,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Text>, Trouble> {
        unpack(kind.unwrap_or(Unpack::None), bytes, self.bytes_max, is_wanted).map_err(|error| match error {
            UnpackError::Damaged(_) => Trouble::Growing(error.to_string()),
            UnpackError::Large(_) | UnpackError::Unknown(_) => Trouble::Spoilt(error.to_string()),
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
        CommandError::Large { .. } => Trouble::Spoilt(error.to_string()),
        CommandError::Missing(_)
        | CommandError::Start { .. }
        | CommandError::Slow { .. }
        | CommandError::Pipe { .. } => Trouble::Unread(error.to_string()),
    }
}
