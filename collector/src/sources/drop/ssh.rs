//! How a server is reached: over the operator's own `ssh` (OpenSSH), so that keys, known hosts, proxies and ciphers are its
//! business, as they are everywhere else on the machine; and what its words mean when it is not reached.
//!
//! `ssh` is told never to ask anybody, to take no host key that it does not know, and to say what is wrong and nothing else.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::command::last_line;

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

impl Remote {
    /// The program that connects.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        let seconds = self.timeout.as_secs().max(1);
        for option in [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("ConnectTimeout={seconds}"),
            "ClearAllForwardings=yes".to_owned(),
            "ControlPath=none".to_owned(),
            // What a server greets with is no reason, and one that is configured to be silent gives none.
            "LogLevel=ERROR".to_owned(),
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

    /// Whether what `ssh` is given can be read; it says of such a key only that the server refuses all others.
    ///
    /// # Errors
    /// Which file, and what to do.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(identity) = &self.identity else { return Ok(()) };
        File::open(identity).map(|_| ()).map_err(|error| {
            format!(
                "{}, for {}, cannot be read: {error}; is `drop.identity` right, and does the file belong to the collector's user?",
                self.key(),
                self.host
            )
        })
    }

    /// What `ssh` said, and what to do about it.
    pub(super) fn explain(&self, said: &str) -> String {
        let (host, line) = (&self.host, last_line(said));
        let has = |words: &str| said.contains(words);
        // A key that cannot be used matters only where no other one lets in.
        let is_refused = has("Permission denied (");
        if has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
            format!(
                "{host} shows another host key than the one that is known: ask its owner whether it was changed, and put the new \
                 one into {}",
                self.known()
            )
        } else if has("REVOKED HOST KEY") {
            format!("{host} shows a host key that is revoked: ask its owner for the new one")
        } else if has("Host key verification failed") {
            self.explain_unknown()
        } else if is_refused && has("UNPROTECTED PRIVATE KEY FILE") {
            format!("`ssh` does not use {} for {host}, since others may read it: chmod 600", self.key())
        } else if let Some(why) = unloaded(said).filter(|_| is_refused) {
            format!(
                "`ssh` cannot use {} for {host} ({why}): it has to be a private key that the collector's user may read",
                self.key()
            )
        } else if is_refused {
            format!(
                "{host} refuses {}: its public half belongs into `authorized_keys` there, and the key needs to be one without a \
                 passphrase ({line})",
                self.key()
            )
        } else if has("subsystem request failed") {
            format!("{host} lets in, but has no SFTP: its sshd needs a line `Subsystem sftp internal-sftp`")
        } else if has("Could not resolve hostname") {
            format!("{host} is not found: is `drop.sftp` right? ({line})")
        } else {
            format!("the connection to {host} ended: {line}")
        }
    }

    fn explain_unknown(&self) -> String {
        let (host, known) = (&self.host, self.known());
        if let Some(error) = self.known_hosts.as_ref().and_then(|path| File::open(path).err())
            && error.kind() != io::ErrorKind::NotFound
        {
            return format!("the host key of {host} cannot be looked up: {known} cannot be read: {error}");
        }
        let port = self.port.map_or_else(String::new, |port| format!("-p {port} "));
        let name = host.rsplit('@').next().unwrap_or(host);
        format!(
            "the host key of {host} is not known: write it into {known} (`ssh-keyscan {port}{name}` shows it; compare it with its \
             owner's word)"
        )
    }

    fn known(&self) -> String {
        self.known_hosts.as_ref().map_or("`known_hosts`".to_owned(), |path| path.display().to_string())
    }

    fn key(&self) -> String {
        let own = || "the keys that `ssh` takes for it".to_owned();
        self.identity.as_ref().map_or_else(own, |path| format!("the key {}", path.display()))
    }
}

/// What is left of what `ssh` said once it has let in: what it said of keys is of no account then.
pub(super) fn without_keys(said: &str) -> String {
    const OF_KEYS: [&str; 5] = [
        "Load key \"",
        "@",
        "Permissions 0",
        "It is required that your private key",
        "This private key will be",
    ];
    let of_keys = |line: &&str| OF_KEYS.iter().any(|words| line.trim_start().starts_with(words));
    said.lines().filter(|line| !of_keys(line)).fold(String::new(), |text, line| text + line + "\n")
}

/// Why a key could not be loaded, as `ssh` says: `Load key "PATH": WHY`.
fn unloaded(said: &str) -> Option<&str> {
    let line = said.lines().find(|line| line.trim_start().starts_with("Load key \""))?;
    line.rsplit_once("\": ").map(|(_, why)| why.trim())
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
                "`ssh` does not use the key /etc/gapless/drop.key for gapless@files.example, since others may read it: chmod 600",
            ),
            (
                "Load key \"/etc/gapless/drop.key\": Permission denied\r\n\
                 gapless@files.example: Permission denied (publickey).\r\n",
                "`ssh` cannot use the key /etc/gapless/drop.key for gapless@files.example (Permission denied): it has to be a \
                 private key that the collector's user may read",
            ),
            (
                "Load key \"/etc/gapless/drop.key\": error in libcrypto\r\n\
                 gapless@files.example: Permission denied (publickey).\r\n",
                "`ssh` cannot use the key /etc/gapless/drop.key for gapless@files.example (error in libcrypto): it has to be a \
                 private key that the collector's user may read",
            ),
            (
                "Load key \"/etc/gapless/drop.key\": error in libcrypto\r\nConnection closed by 192.0.2.1 port 2222\r\n",
                "the connection to gapless@files.example ended: Connection closed by 192.0.2.1 port 2222",
            ),
            (
                "subsystem request failed on channel 0\r\n",
                "gapless@files.example lets in, but has no SFTP: its sshd needs a line `Subsystem sftp internal-sftp`",
            ),
            (
                "ssh: Could not resolve hostname files.example: Name or service not known\r\n",
                "gapless@files.example is not found: is `drop.sftp` right? (ssh: Could not resolve hostname files.example: Name \
                 or service not known)",
            ),
            (
                "bind: Permission denied\r\nConnection closed by 192.0.2.1 port 2222\r\n",
                "the connection to gapless@files.example ended: Connection closed by 192.0.2.1 port 2222",
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
        assert!(text.contains(" -o LogLevel=ERROR "), "{text}");
        assert!(text.ends_with(" -s -- files.example sftp"), "{text}");
        assert!(!text.contains("-i") && !text.contains("UserKnownHostsFile"), "{text}");
    }

    #[test]
    fn a_key_that_cannot_be_read_is_named_before_anybody_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (none, key) = (folder.path().join("none"), folder.path().join("key"));
        std::fs::write(&key, "a key").unwrap();
        let check = |identity| {
            let (port, known_hosts, timeout) = (None, None, Duration::from_secs(1));
            let host = "files.example".to_owned();
            Remote { host, port, folder: String::new(), identity, known_hosts, timeout }.check()
        };
        let told = check(Some(none.clone())).unwrap_err();
        let expected = format!("the key {}, for files.example, cannot be read: No such file", none.display());
        assert!(told.starts_with(&expected), "{told}");
        assert_eq!((check(Some(key)), check(None)), (Ok(()), Ok(())));
    }
}
