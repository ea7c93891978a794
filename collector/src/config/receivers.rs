//! Who is told of alerts, as the configuration names them.

use std::path::PathBuf;

use gapless_common::id::SiteId;
use serde::Deserialize;

use super::words::checked_text;
use crate::store::model::ReceiverName;

impl Receiver {
    /// What it is called, and was called before.
    #[must_use]
    pub fn named(&self) -> ReceiverName {
        let (kind, formerly) = match &self.way {
            Way::Webhook(webhook) => ("webhook", &webhook.formerly),
            Way::Mail(mail) => ("mail", &mail.formerly),
        };
        let formerly = formerly.as_ref().map(|name| format!("{kind}.{}", name.0));
        ReceiverName { name: self.name.clone(), formerly }
    }
}

/// Somebody who is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// `webhook.NAME` or `mail.NAME`.
    pub name: String,
    /// How.
    pub way: Way,
}

/// How somebody is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Over HTTP.
    Webhook(Webhook),
    /// By mail.
    Mail(Mail),
}

/// Who is told over HTTP: by a POST.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to.
    pub url: Url,
    /// How the message is written.
    #[serde(default)]
    pub template: Template,
    /// File with a token on its first line, sent as `Authorization: Bearer`.
    pub token_file: Option<PathBuf>,
    /// Certificate authorities for `https`, where not those of the machine.
    pub ca_file: Option<PathBuf>,
    /// What it was called before: what that webhook is owed is told to this one.
    pub formerly: Option<Name>,
}

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Template {
    /// All that is known, for programs.
    #[default]
    Json,
    /// As Slack, Mattermost, Rocket.Chat and the like take it.
    Slack,
}

/// An address, or, with `@` before it, the file in whose first line it stands: many an address is a secret.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url(pub String);

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_file = text.strip_prefix('@').is_some_and(|file| !file.is_empty());
        if is_file || is_address(&text) {
            return Ok(Self(text));
        }
        Err(format!(
            "`{text}` is no address: write https://host/path, or @FILE for one that stands in a file"
        ))
    }
}

/// Whether it is an address that can be posted to.
pub(crate) fn is_address(text: &str) -> bool {
    let uri = text.parse::<ureq::http::Uri>().ok();
    uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

/// Who is told by mail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawMail")]
pub struct Mail {
    /// Which server takes it.
    pub server: MailServer,
    /// Who sends.
    pub from: Mailbox,
    /// Who gets it.
    pub to: Vec<Mailbox>,
    /// User and the file with the password on its first line, where the server wants to know who sends.
    pub login: Option<(String, PathBuf)>,
    /// Certificate authorities, where not those of the machine.
    pub ca_file: Option<PathBuf>,
    /// What it was called before: what that one is owed is told to this one.
    pub formerly: Option<Name>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawMail {
    server: MailServer,
    from: Mailbox,
    to: Vec<Mailbox>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    formerly: Option<Name>,
}

impl TryFrom<RawMail> for Mail {
    type Error = &'static str;

    fn try_from(raw: RawMail) -> Result<Self, &'static str> {
        let RawMail { server, from, to, user, password_file, ca_file, formerly } = raw;
        if to.is_empty() {
            return Err("`to` names nobody: write the addresses that get the mail");
        }
        let login = match (user, password_file) {
            (Some(user), Some(file)) => Some((user, file)),
            (None, None) => None,
            (Some(_), None) => return Err("`user` without `password_file`: name the file with the password"),
            (None, Some(_)) => return Err("`password_file` without `user`: name the user of the password"),
        };
        Ok(Self { server, from, to, login, ca_file, formerly })
    }
}

/// A server that takes mail.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct MailServer {
    /// Its name.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the way there is kept from others.
    pub guard: Guard,
}

/// How the way to a mail server is kept from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// TLS from the first byte (RFC 8314, section 3.3).
    Tls,
    /// TLS after `STARTTLS`, or nothing is sent (RFC 3207).
    StartTls,
    /// Nobody listens on loopback: TLS only where the server offers it, as some want it before a password.
    Loopback,
}

const SUBMISSION_PORT: u16 = 587;
const SUBMISSIONS_PORT: u16 = 465;

impl TryFrom<String> for MailServer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is no mail server: write smtps://host (TLS from the first byte) or smtp://host (STARTTLS; \
                 without TLS only on loopback), with `:port` where it is not 465 or 587"
            )
        };
        let (is_tls, rest) = match (text.strip_prefix("smtp://"), text.strip_prefix("smtps://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(wrong()),
        };
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port.parse().map_err(|_| wrong())?)),
            _ => (rest, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.contains('/') || host.contains('@') {
            return Err(wrong());
        }
        let is_loopback = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let guard = match (is_tls, is_loopback) {
            (true, _) => Guard::Tls,
            (false, true) => Guard::Loopback,
            (false, false) => Guard::StartTls,
        };
        let port = port.unwrap_or(if is_tls { SUBMISSIONS_PORT } else { SUBMISSION_PORT });
        Ok(Self { host: host.to_owned(), port, guard })
    }
}

checked_text!(
    /// An address of a person, as in `Gapless <gapless@example.org>`.
    Mailbox(String),
    |text| match text.parse::<lettre::message::Mailbox>() {
        Ok(_) => Ok(text),
        Err(error) => Err(format!("`{text}` is no mail address such as `Gapless <gapless@example.org>`: {error}")),
    }
);

checked_text!(
    /// What a receiver is called.
    Name(String),
    |text| match SiteId::new(&text) {
        Ok(_) => Ok(text),
        Err(_) => Err(format!("`{text}` is no name: letters, digits, `_`, `-` and `.`, at most 64")),
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_servers_are_named_by_url_and_plain_only_on_loopback() {
        let rows = [
            ("smtp://mail.example.org", Some((587, Guard::StartTls))),
            ("smtps://mail.example.org:4650", Some((4650, Guard::Tls))),
            ("smtp://127.0.0.1:1025", Some((1025, Guard::Loopback))),
            ("smtp://[::1]:1025", Some((1025, Guard::Loopback))),
            ("smtp://localhost", Some((587, Guard::Loopback))),
            ("mail.example.org", None),
            ("smtp://", None),
            ("smtp://user@host", None),
            ("smtp://host:port", None),
        ];
        for (text, expected) in rows {
            let got = MailServer::try_from(text.to_owned()).ok().map(|server| (server.port, server.guard));
            assert_eq!(got, expected, "{text}");
        }
    }
}
