//! A server behind SFTP, over the operator's own `ssh` (OpenSSH): keys, known hosts, proxies and ciphers are its business, as
//! they are everywhere else on the machine. One connection lasts for one look.
//!
//! `ssh` is told never to ask anybody, and to take no host key that it does not know.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, Command};
use std::time::{Duration, Instant};

use gapless_common::files::glob::{self, Entry};
use gapless_common::files::tail::Stat;

use super::command::{CommandError, Running, last_line, readable};
use super::place::{Place, Trouble, bounded};
use super::sftp::{Answer, Attributes, PACKET_BYTES_MAX, READ_BYTES_MAX, Request};

/// Of a folder's names that are meant, so many are held.
const NAMES_MAX: usize = 200_000;
/// How long the connection may take to say why it ended.
const END_WITHIN: Duration = Duration::from_secs(2);

/// Where a server is, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// `USER@HOST` or `HOST`: a name that `ssh` knows, or of the network.
    pub(super) host: String,
    /// Its port, where it is not the one that `ssh` takes for it.
    pub(super) port: Option<u16>,
    /// The folder there, with a slash at its end; one that begins with a slash is seen from the server's root, any other from
    /// where a login begins.
    pub(super) folder: String,
    /// The private key, where it is not one that `ssh` takes for it.
    pub(super) identity: Option<PathBuf>,
    /// The file of host keys, likewise.
    pub(super) known_hosts: Option<PathBuf>,
    /// How long an answer may take.
    pub(super) timeout: Duration,
}

/// See the module.
pub(super) struct Server {
    pub(super) remote: Remote,
    session: Option<Session>,
}

struct Session {
    running: Running,
    to: ChildStdin,
    from: ChildStdout,
    timeout: Duration,
    next_id: u32,
    /// The file that was read last, and is read on probably.
    open: Option<(Box<str>, Vec<u8>)>,
}

/// What went wrong within a session.
enum Broken {
    /// The connection ended, or says what is no answer: why, where that is known.
    Session(String),
    /// The file is not there.
    NoSuchFile,
    /// The server's words about this one file.
    Refused(String),
}

impl Remote {
    fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        let seconds = self.timeout.as_secs().max(1);
        for option in [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("ConnectTimeout={seconds}"),
            "ClearAllForwardings=yes".to_owned(),
            "ControlPath=none".to_owned(),
        ] {
            command.arg("-o").arg(option);
        }
        if let Some(identity) = &self.identity {
            command.arg("-o").arg("IdentitiesOnly=yes").arg("-i").arg(identity);
        }
        if let Some(known_hosts) = &self.known_hosts {
            command.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", known_hosts.display()));
        }
        if let Some(port) = self.port {
            command.arg("-p").arg(port.to_string());
        }
        command.args(["-x", "-a", "-T", "-s", "--", &self.host, "sftp"]);
        command
    }

    /// What `ssh` said, and what to do about it.
    fn explain(&self, said: &str) -> String {
        let (host, line) = (&self.host, last_line(said));
        let has = |words: &str| said.contains(words);
        if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            format!(
                "{host} shows another host key than the one that is known: ask its owner whether it was changed, and put the new \
                 one into {}",
                self.known()
            )
        } else if has("Host key verification failed") {
            let port = self.port.map_or_else(String::new, |port| format!("-p {port} "));
            let name = host.rsplit('@').next().unwrap_or(host);
            format!(
                "the host key of {host} is not known: write it into {} (`ssh-keyscan {port}{name}` shows it; compare it with its \
                 owner's word)",
                self.known()
            )
        } else if has("UNPROTECTED PRIVATE KEY FILE") {
            format!("`ssh` does not use {}, which others may read: chmod 600", self.key())
        } else if has("Permission denied") {
            format!(
                "{host} refuses {}: its public half belongs into `authorized_keys` there, and the key needs to be one without a \
                 passphrase ({line})",
                self.key()
            )
        } else {
            format!("the connection to {host} ended: {line}")
        }
    }

    fn known(&self) -> String {
        self.known_hosts.as_ref().map_or("`known_hosts`".to_owned(), |path| path.display().to_string())
    }

    fn key(&self) -> String {
        let own = || "the keys that `ssh` takes for it".to_owned();
        self.identity.as_ref().map_or_else(own, |path| format!("the key {}", path.display()))
    }
}

impl Session {
    fn start(remote: &Remote) -> Result<Self, Trouble> {
        let mut running = Running::start(&mut remote.command()).map_err(|error| {
            Trouble::Place(match error {
                CommandError::Missing(_) => {
                    "there is no program `ssh`: install OpenSSH's client (openssh-client)".to_owned()
                }
                error => error.to_string(),
            })
        })?;
        let (Some(to), Some(from)) = (running.child.stdin.take(), running.child.stdout.take()) else {
            return Err(Trouble::Place("`ssh` was started without a way to it".to_owned()));
        };
        // It says by itself, and better, where it could not connect in time.
        let mut session = Self { running, to, from, timeout: remote.timeout * 2, next_id: 0, open: None };
        match session.ask(Request::Init) {
            Ok(Answer::Version(3..)) => Ok(Self { timeout: remote.timeout, ..session }),
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
        let ended = |error: std::io::Error| Broken::Session(format!("it was cut off: {error}"));
        self.to.write_all(&request.packet(id)).map_err(ended)?;
        let until = Instant::now() + self.timeout;
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
    fn entries(&mut self, folder: &str, is_wanted: &dyn Fn(&str) -> bool) -> Result<Vec<Entry>, Broken> {
        let path = if folder.is_empty() { "." } else { folder };
        let handle = self.handle(Request::OpenFolder(path))?;
        let mut found = Vec::new();
        loop {
            match self.ask(Request::ReadFolder(&handle))? {
                // A server that says nothing says it for ever.
                Answer::Names(names) if names.is_empty() => break,
                Answer::Names(_) if found.len() > NAMES_MAX => {
                    return Err(Broken::Session(format!(
                        "a folder has more than {NAMES_MAX} files that are meant"
                    )));
                }
                Answer::Names(names) => {
                    found
                        .extend(names.into_iter().filter(|(name, _)| is_wanted(name) && !name.contains('/')));
                }
                Answer::End => break,
                answer => return Err(refused(answer)),
            }
        }
        self.ask(Request::Close(&handle))?;
        let mut entries = Vec::new();
        for (name, mut about) in found.into_iter().filter(|(name, _)| !matches!(name.as_str(), "." | "..")) {
            if about.is_link() {
                match self.ask(Request::Stat(&format!("{folder}{name}")))? {
                    Answer::Attributes(of) => about = of,
                    // It leads nowhere.
                    _ => continue,
                }
            }
            if about.is_folder() || about.is_file() {
                entries.push(Entry { name: name.into(), is_folder: about.is_folder(), stat: stat(about) });
            }
        }
        Ok(entries)
    }

    fn read(&mut self, folder: &str, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Broken> {
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
                answer => return Err(refused(answer)),
            }
        }
        bytes.truncate(len);
        self.open = Some((name.into(), handle));
        Ok(bytes)
    }

    /// Why a session is over, as the program says.
    fn trouble(mut self, remote: &Remote, broken: Broken) -> Trouble {
        match broken {
            Broken::Session(why) => {
                drop(self.to);
                let has_ended = matches!(self.running.ended(END_WITHIN), Ok(Some(_)));
                let said = if has_ended { self.running.said() } else { String::new() };
                let host = &remote.host;
                Trouble::Place(match (said.trim().is_empty(), why.is_empty()) {
                    (false, _) => remote.explain(&said),
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

fn stat(about: Attributes) -> Stat {
    let modified_ms = i64::from(about.modified) * 1_000;
    Stat { identity: (0, 0), size: about.size, modified_ms, modified_ns: 0 }
}

impl Server {
    /// Connects when it is asked for something.
    pub(super) fn new(remote: Remote) -> Self {
        Self { remote, session: None }
    }

    /// Does something within a session, which is over where it breaks.
    fn within<T>(&mut self, act: impl FnOnce(&mut Session, &str) -> Result<T, Broken>) -> Result<T, Trouble> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::start(&self.remote)?,
        };
        match act(&mut session, &self.remote.folder) {
            Ok(done) => {
                self.session = Some(session);
                Ok(done)
            }
            Err(broken @ Broken::Session(_)) => Err(session.trouble(&self.remote, broken)),
            Err(broken) => {
                self.session = Some(session);
                Err(match broken {
                    Broken::Refused(why) => Trouble::Unread(why),
                    _ => Trouble::Gone,
                })
            }
        }
    }
}

impl Place for Server {
    fn list(&mut self, pattern: &str) -> Result<BTreeMap<Box<str>, Stat>, Trouble> {
        let place = format!("{}:{}", self.remote.host, self.remote.folder);
        let found = self.within(|session, root| {
            glob::find(pattern, &mut |folder, is_wanted| {
                session.entries(&format!("{root}{folder}"), is_wanted)
            })
        });
        match found {
            Ok(found) => Ok(bounded(&place, found)),
            Err(Trouble::Gone) => Err(Trouble::Place(format!("there is no folder {place}"))),
            Err(Trouble::Unread(why)) => Err(Trouble::Place(format!("cannot list {place}: {why}"))),
            Err(trouble) => Err(trouble),
        }
    }

    fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
        self.within(|session, root| session.read(root, name, offset, len))
    }

    fn rest(&mut self) {
        self.session = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_says_comes_with_what_to_do_about_it() {
        let remote = Remote {
            host: "gapless@files.example".to_owned(),
            port: Some(2222),
            folder: "/out/".to_owned(),
            identity: Some("/etc/gapless/drop.key".into()),
            known_hosts: Some("/etc/gapless/known_hosts".into()),
            timeout: Duration::from_secs(30),
        };
        let rows = [
            (
                "No ED25519 host key is known for [files.example]:2222 and you have requested strict checking.\r\n\
                 Host key verification failed.\r\n",
                "the host key of gapless@files.example is not known: write it into /etc/gapless/known_hosts \
                 (`ssh-keyscan -p 2222 files.example` shows it; compare it with its owner's word)",
            ),
            (
                "@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @\r\nHost key verification failed.\r\n",
                "gapless@files.example shows another host key than the one that is known: ask its owner whether it was \
                 changed, and put the new one into /etc/gapless/known_hosts",
            ),
            (
                "gapless@files.example: Permission denied (publickey).\r\n",
                "gapless@files.example refuses the key /etc/gapless/drop.key: its public half belongs into \
                 `authorized_keys` there, and the key needs to be one without a passphrase \
                 (gapless@files.example: Permission denied (publickey).)",
            ),
            (
                "@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\r\nPermission denied (publickey).\r\n",
                "`ssh` does not use the key /etc/gapless/drop.key, which others may read: chmod 600",
            ),
            (
                "ssh: connect to host files.example port 2222: Connection refused\r\n",
                "the connection to gapless@files.example ended: ssh: connect to host files.example port 2222: Connection refused",
            ),
        ];
        for (said, expected) in rows {
            assert_eq!(remote.explain(said), expected, "{said}");
        }
    }

    #[test]
    fn ssh_asks_nobody_takes_no_unknown_host_and_gets_a_name_where_it_expects_one() {
        let remote = Remote {
            host: "files.example".to_owned(),
            port: None,
            folder: String::new(),
            identity: None,
            known_hosts: None,
            timeout: Duration::from_millis(1_500),
        };
        let command = remote.command();
        let arguments: Vec<_> = command.get_args().map(|text| text.to_string_lossy()).collect();
        let text = arguments.join(" ");
        assert!(
            text.starts_with("-o BatchMode=yes -o StrictHostKeyChecking=yes -o ConnectTimeout=1 "),
            "{text}"
        );
        assert!(text.ends_with(" -s -- files.example sftp"), "{text}");
        assert!(!text.contains("-i") && !text.contains("UserKnownHostsFile"), "{text}");
    }
}
