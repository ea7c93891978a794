//! A connection to a server behind SFTP: one question, one answer, each within its time. What is done with it is elsewhere.

use std::io::{self, Read as _};
use std::process::{ChildStdin, ChildStdout};
use std::time::{Duration, Instant};

use gapless_common::files::glob::Entry;
use gapless_common::files::tail::Stat;

use super::command::{CommandError, Running, readable, write_until};
use super::place::Trouble;
use super::sftp::{Answer, Attributes, PACKET_BYTES_MAX, READ_BYTES_MAX, Request};
use super::ssh::{Remote, without_keys};

/// Of a folder's names that are meant, so many are held.
const NAMES_MAX: usize = 200_000;
/// How long the connection may take to say why it ended.
const END_WITHIN: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Session {
    running: Running,
    to: ChildStdin,
    from: ChildStdout,
    timeout: Duration,
    next_id: u32,
    /// It was let in, and answered.
    is_greeted: bool,
    /// The file that was read last, and is read on probably.
    open: Option<(Box<str>, Vec<u8>)>,
}

/// What went wrong within a session.
pub(super) enum Broken {
    /// The connection ended, or says what is no answer: why, where that is known.
    Session(String),
    /// The file or folder is not there.
    NoSuchFile,
    /// Why this one file or folder cannot be had.
    Refused(String),
}

impl Session {
    /// Connects.
    pub(super) fn start(remote: &Remote) -> Result<Self, Trouble> {
        remote.check().map_err(Trouble::Place)?;
        let running = Running::start(&mut remote.command()).map_err(|error| {
            Trouble::Place(match error {
                CommandError::Missing(_) => {
                    "there is no program `ssh`: install OpenSSH's client (openssh-client)".to_owned()
                }
                error => error.to_string(),
            })
        })?;
        Self::over(running, remote)
    }

    /// Greets what `running` speaks to.
    fn over(mut running: Running, remote: &Remote) -> Result<Self, Trouble> {
        let (Some(to), Some(from)) = (running.child.stdin.take(), running.child.stdout.take()) else {
            return Err(Trouble::Place("`ssh` was started without a way to it".to_owned()));
        };
        // It says by itself, and better, where it could not connect in time.
        let (timeout, next_id, is_greeted, open) = (remote.timeout * 2, 0, false, None);
        let mut session = Self { running, to, from, timeout, next_id, is_greeted, open };
        match session.ask(Request::Init) {
            Ok(Answer::Version(3..)) => Ok(Self { timeout: remote.timeout, is_greeted: true, ..session }),
            Ok(answer) => {
                Err(Trouble::Place(format!("{} does not speak SFTP of version 3: {answer:?}", remote.host)))
            }
            Err(broken) => Err(session.trouble(remote, broken)),
        }
    }

    /// One question, one answer.
    fn ask(&mut self, request: Request<'_>) -> Result<Answer, Broken> {
        self.next_id = self.next_id.wrapping_add(1);
        let id = self.next_id;
        let until = Instant::now() + self.timeout;
        write_until(&mut self.to, &request.packet(id), until).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut => {
                Broken::Session(format!("it took no question within {} s", self.timeout.as_secs_f64()))
            }
            _ => Broken::Session(format!("it was cut off: {error}")),
        })?;
        let length = self.bytes(4, until)?.try_into().map_or(0, u32::from_be_bytes);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(5..=PACKET_BYTES_MAX).contains(&length) {
            return Err(Broken::Session(
                "it says what is no SFTP: does a login print something there?".to_owned(),
            ));
        }
        let packet = self.bytes(length, until)?;
        match Answer::read(&packet) {
            Some((_, version @ Answer::Version(_))) if request == Request::Init => Ok(version),
            Some((answered, answer)) if answered == id && request != Request::Init => Ok(answer),
            _ => Err(Broken::Session("it gives an answer to what was not asked".to_owned())),
        }
    }

    fn bytes(&mut self, len: usize, until: Instant) -> Result<Vec<u8>, Broken> {
        let (mut bytes, mut got) = (vec![0; len], 0);
        while got < len {
            match readable(&self.from, until) {
                Ok(true) => {}
                Ok(false) => {
                    let seconds = self.timeout.as_secs_f64();
                    return Err(Broken::Session(format!("it gave no answer within {seconds} s")));
                }
                Err(error) => return Err(Broken::Session(error.to_string())),
            }
            match self.from.read(&mut bytes[got..]) {
                Ok(0) => return Err(Broken::Session(String::new())),
                Ok(count) => got += count,
                Err(error) => return Err(Broken::Session(error.to_string())),
            }
        }
        Ok(bytes)
    }

    fn handle(&mut self, request: Request<'_>) -> Result<Vec<u8>, Broken> {
        match self.ask(request)? {
            Answer::Handle(handle) => Ok(handle),
            Answer::NoSuchFile => Err(Broken::NoSuchFile),
            answer => Err(refused(answer)),
        }
    }

    /// What a folder holds under names that are wanted.
    pub(super) fn entries(
        &mut self,
        folder: &str,
        is_wanted: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<Entry>, Broken> {
        let path = if folder.is_empty() { "." } else { folder };
        let handle = self.handle(Request::OpenFolder(path))?;
        let mut found = Vec::new();
        loop {
            match self.ask(Request::ReadFolder(&handle))? {
                // A server that says nothing says it for ever.
                Answer::Names(names) if names.is_empty() => break,
                Answer::Names(_) if found.len() > NAMES_MAX => {
                    self.ask(Request::Close(&handle))?;
                    return Err(Broken::Refused(format!(
                        "it holds more than {NAMES_MAX} names that `files` means: write a narrower pattern, or put away what is read"
                    )));
                }
                Answer::Names(names) => {
                    found
                        .extend(names.into_iter().filter(|(name, _)| is_wanted(name) && !name.contains('/')));
                }
                Answer::End => break,
                answer => {
                    self.ask(Request::Close(&handle))?;
                    return Err(refused(answer));
                }
            }
        }
        self.ask(Request::Close(&handle))?;
        let mut entries = Vec::new();
        for (name, mut about) in found.into_iter().filter(|(name, _)| !matches!(name.as_str(), "." | "..")) {
            // A listing need not say all that is known, nor what a link leads to.
            if about.is_link() || !about.is_complete() {
                match self.ask(Request::Stat(&format!("{folder}{name}")))? {
                    Answer::Attributes(of) => about = of,
                    // It leads nowhere, or is gone.
                    _ => continue,
                }
            }
            if about.is_folder() || about.is_file() {
                let stat = stat(&name, about)?;
                entries.push(Entry { name: name.into(), is_folder: about.is_folder(), stat });
            }
        }
        Ok(entries)
    }

    /// Bytes of a file from `offset` on: `len` of them, fewer where it ends.
    pub(super) fn read(
        &mut self,
        folder: &str,
        name: &str,
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, Broken> {
        let handle = match self.open.take() {
            Some((open, handle)) if &*open == name => handle,
            other => {
                if let Some((_, handle)) = other {
                    self.ask(Request::Close(&handle))?;
                }
                self.handle(Request::Open(&format!("{folder}{name}")))?
            }
        };
        let mut bytes = Vec::new();
        while bytes.len() < len {
            let part = u32::try_from((len - bytes.len()).min(READ_BYTES_MAX)).unwrap_or(0);
            let offset = offset.saturating_add(u64::try_from(bytes.len()).unwrap_or(0));
            match self.ask(Request::Read { handle: &handle, offset, len: part })? {
                Answer::Data(data) if data.is_empty() => break,
                Answer::Data(data) => bytes.extend(data),
                Answer::End => break,
                answer => {
                    self.ask(Request::Close(&handle))?;
                    return Err(refused(answer));
                }
            }
        }
        bytes.truncate(len);
        self.open = Some((name.into(), handle));
        Ok(bytes)
    }

    /// Why a session is over, as the program says.
    pub(super) fn trouble(mut self, remote: &Remote, broken: Broken) -> Trouble {
        match broken {
            Broken::Session(why) => {
                drop(self.to);
                let has_ended = matches!(self.running.ended(END_WITHIN), Ok(Some(_)));
                let said = if has_ended { self.running.said() } else { String::new() };
                let said = if self.is_greeted { without_keys(&said) } else { said };
                let host = &remote.host;
                Trouble::Place(match (said.trim().is_empty(), why.is_empty()) {
                    (false, true) => remote.explain(&said),
                    (false, false) => format!("{} ({why})", remote.explain(&said)),
                    (true, true) => format!("the connection to {host} ended without a word"),
                    (true, false) => format!("the connection to {host}: {why}"),
                })
            }
            Broken::NoSuchFile => Trouble::Gone,
            Broken::Refused(why) => Trouble::Unread(why),
        }
    }
}

fn refused(answer: Answer) -> Broken {
    Broken::Refused(match answer {
        // SSH_FX_PERMISSION_DENIED
        Answer::Status(3, _) => "the server does not let it be read: permission denied".to_owned(),
        Answer::Status(code, words) => format!("the server says: {words} (code {code})"),
        answer => format!("the server gives an answer of another kind: {answer:?}"),
    })
}

/// What a listing needs of a file.
fn stat(name: &str, about: Attributes) -> Result<Stat, Broken> {
    let none = Stat { identity: (0, 0), size: 0, modified_ms: 0, modified_ns: 0 };
    match (about.size, about.modified) {
        _ if about.is_folder() => Ok(none),
        (Some(size), Some(seconds)) => {
            Ok(Stat { size, modified_ms: i64::from(seconds).saturating_mul(1_000), ..none })
        }
        (size, _) => {
            let what = if size.is_some() { "when it was written" } else { "how long it is" };
            Err(Broken::Refused(format!(
                "the server does not say of `{name}` {what}, so that it cannot be seen what is new: mount the folder instead \
                 (sshfs, or its own share), or have it served by OpenSSH"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// With its length, as a server sends it.
    fn packet(parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    /// A session with a server that gives these answers, whatever it is asked.
    fn session(answers: &[Vec<u8>]) -> Result<Session, Trouble> {
        session_that(answers, "exec sleep 600").0
    }

    /// The same of a server that does this then.
    fn session_that(answers: &[Vec<u8>], then: &str) -> (Result<Session, Trouble>, Remote) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), answers.concat()).unwrap();
        let script = format!("cat \"$0\"; rm \"$0\"; {then}");
        let path = file.into_temp_path().keep().unwrap();
        let (host, port, identity, known_hosts) = ("files.example".to_owned(), None, None, None);
        let timeout = Duration::from_secs(60);
        let remote = Remote { host, port, folder: String::new(), identity, known_hosts, timeout };
        let running = Running::start(Command::new("sh").args(["-c", &script]).arg(path)).unwrap();
        (Session::over(running, &remote), remote)
    }

    const VERSION: &[u8] = b"\x02\0\0\0\x03";

    /// What a folder is said to hold of which a file `a` is listed with `listed`, and said to be `stat` when it is asked for.
    fn entry(listed: &[u8], stat: &[u8]) -> Result<Vec<(u64, i64)>, String> {
        let answers = [
            packet(&[VERSION]),
            packet(&[b"\x66\0\0\0\x02\0\0\0\x01h"]),
            packet(&[b"\x68\0\0\0\x03\0\0\0\x01\0\0\0\x01a\0\0\0\x01-", listed]),
            packet(&[b"\x65\0\0\0\x04\0\0\0\x01"]),
            packet(&[b"\x65\0\0\0\x05\0\0\0\0"]),
            packet(&[stat]),
        ];
        let mut session = session(&answers).map_err(|trouble| format!("{trouble:?}"))?;
        match session.entries("", &|_| true) {
            Ok(entries) => Ok(entries.iter().map(|e| (e.stat.size, e.stat.modified_ms)).collect()),
            Err(Broken::Refused(why)) => Err(why),
            Err(_) => Err("it broke".to_owned()),
        }
    }

    #[test]
    fn what_a_listing_does_not_say_of_a_file_is_asked_for_and_what_nobody_says_is_told() {
        let none: &[u8] = b"\0\0\0\0";
        let all: &[u8] = b"\0\0\0\x0D\0\0\0\0\0\0\0\x07\0\0\x81\xA4\0\0\0\x05\0\0\0\x06";
        let link: &[u8] = b"\0\0\0\x0D\0\0\0\0\0\0\0\x01\0\0\xA1\xFF\0\0\0\x05\0\0\0\x05";
        let size: &[u8] = b"\0\0\0\x01\0\0\0\0\0\0\0\x07";
        let times: &[u8] = b"\0\0\0\x08\0\0\0\x05\0\0\0\x06";
        let folder: &[u8] = b"\0\0\0\x04\0\0\x41\xED";
        let of = |attributes: &[u8]| [b"\x69\0\0\0\x06", attributes].concat();
        let gone = b"\x65\0\0\0\x06\0\0\0\x02".to_vec();
        let rows = [
            (all, gone.clone(), Ok(vec![(7, 6_000)])),
            (none, of(all), Ok(vec![(7, 6_000)])),
            (link, of(all), Ok(vec![(7, 6_000)])),
            (link, gone.clone(), Ok(vec![])),
            (none, gone, Ok(vec![])),
            (none, of(folder), Ok(vec![(0, 0)])),
            (none, of(size), Err("the server does not say of `a` when it was written")),
            (times, of(times), Err("the server does not say of `a` how long it is")),
        ];
        for (listed, stat, expected) in rows {
            let told = entry(listed, &stat);
            match (&told, expected) {
                (Err(told), Err(expected)) => assert!(told.starts_with(expected), "{told}"),
                (_, expected) => assert_eq!(told, expected.map_err(str::to_owned), "{listed:?} {stat:?}"),
            }
        }
    }

    #[test]
    fn what_is_open_is_closed_where_it_is_refused() {
        let refused = |id: u8| packet(&[&[0x65, 0, 0, 0, id], b"\0\0\0\x03"]);
        let (handle, closed) =
            (packet(&[b"\x66\0\0\0\x02\0\0\0\x01h"]), packet(&[b"\x65\0\0\0\x04\0\0\0\0"]));
        let answers = [packet(&[VERSION]), handle, refused(3), closed];
        let mut of_file = session(&answers).unwrap();
        assert!(matches!(of_file.read("", "a", 0, 9), Err(Broken::Refused(_))));
        let mut of_folder = session(&answers).unwrap();
        assert!(matches!(of_folder.entries("", &|_| true), Err(Broken::Refused(_))));
        assert_eq!((of_file.next_id, of_folder.next_id), (4, 4), "the fourth question is to close it");
    }

    #[test]
    fn why_a_session_is_over_is_told_beside_what_was_said_and_keys_matter_only_before_it_began() {
        let unloaded = "echo 'Load key \"k\": error in libcrypto' >&2";
        let (greeted, silent, ends) =
            ("head -c 9 > /dev/null", "cat > /dev/null", "echo 'Connection reset' >&2");
        let rows = [
            (
                format!("{unloaded}; {silent}"),
                "the connection to files.example: it gave no answer within 0.2 s",
            ),
            (
                format!("{unloaded}; {greeted}; {ends}"),
                "the connection to files.example ended: Connection reset",
            ),
            (
                format!("{unloaded}; {silent}; {ends}"),
                "the connection to files.example ended: Connection reset (it gave no answer within 0.2 s)",
            ),
        ];
        for (then, expected) in rows {
            let (session, remote) = session_that(&[packet(&[VERSION])], &then);
            let mut session = session.unwrap();
            session.timeout = Duration::from_millis(200);
            // One that is gone can be asked nothing.
            let broken = session.bytes(4, Instant::now() + session.timeout).unwrap_err();
            assert_eq!(session.trouble(&remote, broken), Trouble::Place(expected.to_owned()), "{then}");
        }
    }

    #[test]
    fn a_server_that_takes_no_question_or_gives_no_answer_is_left() {
        let mut silent = session(&[packet(&[VERSION])]).unwrap();
        silent.timeout = Duration::from_millis(100);
        let why = |broken| match broken {
            Broken::Session(why) => why,
            _ => "it is there".to_owned(),
        };
        let told = silent.ask(Request::Open("a")).map_err(why);
        assert_eq!(told, Err("it gave no answer within 0.1 s".to_owned()));
        // More than a pipe holds, to a program that reads nothing of it.
        let told = silent.ask(Request::Open(&"a".repeat(1 << 20))).map_err(why);
        assert_eq!(told, Err("it took no question within 0.1 s".to_owned()));
    }
}
