//! The SSH File Transfer Protocol, version 3 (draft-ietf-secsh-filexfer-02), as far as listing and reading need it. Pure:
//! bytes in, bytes out.
//!
//! ```text
//! packet:  u32 length of what follows | u8 type | u32 id (but INIT and VERSION: u32 version) | fields
//! string:  u32 length | bytes
//! attrs:   u32 flags | u64 size if 1 | u32 uid, u32 gid if 2 | u32 permissions if 4 | u32 atime, u32 mtime if 8
//!          | u32 count, (string, string) × count if 0x80000000
//! ```

/// The version that is spoken.
const VERSION: u32 = 3;
/// The longest packet that is taken, in bytes; OpenSSH sends no longer ones.
pub(super) const PACKET_BYTES_MAX: usize = 256 << 10;
/// The longest stretch that is asked for at once: a server that gives less of it (32 KiB are what each has to give, section
/// 3) is asked for the rest.
pub(super) const READ_BYTES_MAX: usize = 192 << 10;

/// Of a handle (draft-ietf-secsh-filexfer-02, section 6.2).
const HANDLE_BYTES_MAX: usize = 256;

const FLAG_READ: u32 = 1;

const ATTR_SIZE: u32 = 1;
const ATTR_OWNER: u32 = 2;
const ATTR_PERMISSIONS: u32 = 4;
const ATTR_TIMES: u32 = 8;
const ATTR_EXTENDED: u32 = 0x8000_0000;

/// The kind of a file, within its permissions (`sys/stat.h`).
const KIND: u32 = 0o170_000;
const FOLDER: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request<'a> {
    /// The first word: which version is spoken.
    Init,
    /// A file, to be read.
    Open(&'a str),
    /// Bytes of an open file.
    Read { handle: &'a [u8], offset: u64, len: u32 },
    /// A folder, to be listed.
    OpenFolder(&'a str),
    /// Some more of its names; an end once there are none.
    ReadFolder(&'a [u8]),
    /// What is open is not needed any more.
    Close(&'a [u8]),
    /// What is known of a file, that of a link's being what it leads to.
    Stat(&'a str),
}

impl Request<'_> {
    /// As a packet.
    pub(super) fn packet(self, id: u32) -> Vec<u8> {
        let (kind, number) = match self {
            Self::Init => (1, VERSION),
            Self::Open(_) => (3, id),
            Self::Close(_) => (4, id),
            Self::Read { .. } => (5, id),
            Self::OpenFolder(_) => (11, id),
            Self::ReadFolder(_) => (12, id),
            Self::Stat(_) => (17, id),
        };
        let mut body = vec![kind];
        body.extend(number.to_be_bytes());
        let mut string = |bytes: &[u8]| {
            body.extend(length(bytes).to_be_bytes());
            body.extend(bytes);
        };
        match self {
            Self::Init => {}
            Self::Open(path) => {
                string(path.as_bytes());
                // No attributes.
                body.extend([FLAG_READ.to_be_bytes(), 0_u32.to_be_bytes()].concat());
            }
            Self::Read { handle, offset, len } => {
                string(handle);
                body.extend(offset.to_be_bytes());
                body.extend(len.to_be_bytes());
            }
            Self::OpenFolder(path) | Self::Stat(path) => string(path.as_bytes()),
            Self::ReadFolder(handle) | Self::Close(handle) => string(handle),
        }
        let mut packet = length(&body).to_be_bytes().to_vec();
        packet.extend(body);
        packet
    }
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

/// What is known of a file: a server says what it wants of it (section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Attributes {
    pub(super) size: Option<u64>,
    permissions: Option<u32>,
    /// Seconds since 1970.
    pub(super) modified: Option<u32>,
}

impl Attributes {
    fn is(self, kind: u32) -> bool {
        self.permissions.is_some_and(|permissions| permissions & KIND == kind)
    }

    /// Whether all is said that a listing needs.
    pub(super) fn is_complete(self) -> bool {
        self.size.is_some() && self.permissions.is_some() && self.modified.is_some()
    }

    pub(super) fn is_folder(self) -> bool {
        self.is(FOLDER)
    }

    /// One that holds something; a server that does not say what it is is believed.
    pub(super) fn is_file(self) -> bool {
        self.permissions.is_none() || self.is(REGULAR)
    }

    pub(super) fn is_link(self) -> bool {
        self.is(LINK)
    }
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The server's version.
    Version(u32),
    /// No more of it: the end of a file or of a folder.
    End,
    /// There is no such file.
    NoSuchFile,
    /// Anything else that went well without an answer, or wrong: the code and the server's words.
    Status(u32, String),
    /// What is open from now on.
    Handle(Vec<u8>),
    /// Bytes of a file.
    Data(Vec<u8>),
    /// Names in a folder; those that are no text are left out.
    Names(Vec<(String, Attributes)>),
    /// What is known of a file.
    Attributes(Attributes),
}

impl Answer {
    /// Reads a packet without its length; gives the id of what it answers, too. `None` where it is none.
    pub(super) fn read(packet: &[u8]) -> Option<(u32, Self)> {
        let mut fields = Fields(packet);
        let (kind, number) = (fields.u8()?, fields.u32()?);
        let answer = match kind {
            2 => Self::Version(number),
            101 => match fields.u32()? {
                1 => Self::End,
                2 => Self::NoSuchFile,
                // Servers of earlier versions say no words.
                code => Self::Status(code, fields.string().map(lossy).unwrap_or_default()),
            },
            102 => Self::Handle(fields.string().filter(|handle| handle.len() <= HANDLE_BYTES_MAX)?.to_vec()),
            103 => Self::Data(fields.string()?.to_vec()),
            104 => {
                let mut names = Vec::new();
                for _ in 0..fields.u32()? {
                    let (name, _, attributes) = (fields.string()?, fields.string()?, fields.attributes()?);
                    names.extend(std::str::from_utf8(name).ok().map(|name| (name.to_owned(), attributes)));
                }
                Self::Names(names)
            }
            105 => Self::Attributes(fields.attributes()?),
            _ => return None,
        };
        Some((number, answer))
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What is left of a packet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn u64(&mut self) -> Option<u64> {
        Some(u64::from_be_bytes(self.take(8)?.try_into().ok()?))
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.u32()?).ok()?;
        self.take(len)
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let flags = self.u32()?;
        let mut read = Attributes::default();
        if flags & ATTR_SIZE != 0 {
            read.size = Some(self.u64()?);
        }
        if flags & ATTR_OWNER != 0 {
            self.take(8)?;
        }
        if flags & ATTR_PERMISSIONS != 0 {
            read.permissions = Some(self.u32()?);
        }
        if flags & ATTR_TIMES != 0 {
            self.u32()?;
            read.modified = Some(self.u32()?);
        }
        if flags & ATTR_EXTENDED != 0 {
            for _ in 0..self.u32()? {
                self.string()?;
                self.string()?;
            }
        }
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// And what it says.
    type Packet<'a> = (&'a [u8], Option<(u32, Answer)>);

    #[test]
    fn requests_are_written_as_the_draft_says() {
        let rows: [(Request<'_>, &[u8]); 4] = [
            (Request::Init, b"\0\0\0\x05\x01\0\0\0\x03"),
            (Request::Open("a"), b"\0\0\0\x12\x03\0\0\0\x07\0\0\0\x01a\0\0\0\x01\0\0\0\0"),
            (
                Request::Read { handle: b"h", offset: 258, len: 16 },
                b"\0\0\0\x16\x05\0\0\0\x07\0\0\0\x01h\0\0\0\0\0\0\x01\x02\0\0\0\x10",
            ),
            (Request::Close(b"h"), b"\0\0\0\x0A\x04\0\0\0\x07\0\0\0\x01h"),
        ];
        for (request, expected) in rows {
            assert_eq!(request.packet(7), expected, "{request:?}");
        }
    }

    #[test]
    fn answers_are_read_as_the_draft_says() {
        let names = b"\x68\0\0\0\x09\0\0\0\x02\
            \0\0\0\x05a.dat\0\0\0\x01-\x80\0\0\x0F\0\0\0\0\0\0\x01\0\0\0\0\x01\0\0\0\x02\0\0\x81\xA4\0\0\0\x05\0\0\0\x06\
            \0\0\0\x01\0\0\0\x01x\0\0\0\0\
            \0\0\0\x01\xFF\0\0\0\0\0\0\0\0";
        let file = Attributes { size: Some(256), permissions: Some(0o100_644), modified: Some(6) };
        let rows: [Packet<'_>; 7] = [
            (b"\x02\0\0\0\x03\0\0\0\x01x\0\0\0\0", Some((3, Answer::Version(3)))),
            (names, Some((9, Answer::Names(vec![("a.dat".to_owned(), file)])))),
            (b"\x65\0\0\0\x09\0\0\0\x01\0\0\0\0\0\0\0\0", Some((9, Answer::End))),
            (b"\x65\0\0\0\x09\0\0\0\x03\0\0\0\x02no\0\0\0\0", Some((9, Answer::Status(3, "no".to_owned())))),
            (b"\x67\0\0\0\x09\0\0\0\x02ab", Some((9, Answer::Data(b"ab".to_vec())))),
            (b"\x67\0\0\0\x09\0\0\0\x03ab", None),
            (b"\xC8\0\0\0\x09", None),
        ];
        for (packet, expected) in rows {
            assert_eq!(Answer::read(packet), expected, "{packet:?}");
        }
        assert!(file.is_file() && !file.is_folder() && !file.is_link() && file.is_complete());
        let silent = Answer::read(b"\x69\0\0\0\x09\0\0\0\0");
        assert_eq!(silent, Some((9, Answer::Attributes(Attributes::default()))));
        assert!(!Attributes::default().is_complete());
        assert!(Attributes { permissions: Some(0o040_755), ..file }.is_folder());
    }

    proptest! {
        #[test]
        fn no_packet_is_too_odd_to_be_read_or_refused(packet in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Answer::read(&packet);
            for kind in 100..106 {
                let _ = Answer::read(&[&[kind], &packet[..]].concat());
            }
        }
    }
}
