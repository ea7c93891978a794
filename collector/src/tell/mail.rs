//! Tells by mail.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lettre::address::Envelope;
use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls, TlsParameters};
use lettre::{SmtpTransport, Transport as _};

use super::{TIMEOUT, first_line, unreadable};
use crate::alerts::delivery::Answer;
use crate::alerts::notice::Notice;
use crate::config::receivers::{self as config, Guard};

/// The longest subject; the rest stands in the text.
const SUBJECT_CHARS_MAX: usize = 200;

/// A mail that some have is not held up for longer by an address that does not take it, so that they have what comes after it.
const HELD_MAX: Duration = Duration::from_secs(3_600);

pub(super) struct Mail {
    config: config::Mail,
    from: Mailbox,
    to: Vec<Mailbox>,
    tls: Tls,
    taken: RefCell<Taken>,
}

/// Who has a mail that not all have.
#[derive(Default)]
struct Taken {
    /// Which one.
    id: String,
    /// The places of their addresses.
    by: BTreeSet<usize>,
    /// When the first of them took it.
    since: Option<Instant>,
}

/// Nobody is to answer by a machine (RFC 3834, section 5).
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

impl Mail {
    pub(super) fn new(config: config::Mail, authorities: &[u8]) -> Result<Self, String> {
        let mailbox =
            |address: &config::Mailbox| address.0.parse::<Mailbox>().map_err(|error| error.to_string());
        // Nobody stands between, and who serves on loopback seldom has a certificate for it.
        let loopback = || {
            let parameters = TlsParameters::builder(config.server.host.clone());
            let parameters = parameters.dangerous_accept_invalid_certs(true);
            parameters.dangerous_accept_invalid_hostnames(true).build().map_err(|error| error.to_string())
        };
        let parameters = || {
            let trusted = Certificate::from_pem(authorities).map_err(|error| error.to_string())?;
            TlsParameters::builder(config.server.host.clone())
                .certificate_store(CertificateStore::None)
                .add_root_certificate(trusted)
                .build()
                .map_err(|error| error.to_string())
        };
        let tls = match config.server.guard {
            Guard::Loopback => Tls::Opportunistic(loopback()?),
            Guard::Tls => Tls::Wrapper(parameters()?),
            Guard::StartTls => Tls::Required(parameters()?),
        };
        let to = config.to.iter().map(mailbox).collect::<Result<_, _>>()?;
        let taken = RefCell::default();
        Ok(Self { from: mailbox(&config.from)?, to, tls, config, taken })
    }

    /// The files that are read for each message.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.config.login.iter().map(|(_, file)| file.clone()).collect()
    }

    pub(super) fn send(&self, notice: &Notice) -> Answer {
        self.try_send(notice).unwrap_or_else(|answer| answer)
    }

    /// To each address by itself, so that one that is refused keeps nothing from the others.
    fn try_send(&self, notice: &Notice) -> Result<Answer, Answer> {
        let message = self.message(notice).map_err(|error| Answer::Refused(error.to_string()))?;
        let server = &self.config.server;
        let mut transport = SmtpTransport::builder_dangerous(&server.host)
            .port(server.port)
            .tls(self.tls.clone())
            .timeout(Some(TIMEOUT));
        if let Some((user, file)) = &self.config.login {
            let password = first_line(file).map_err(|error| unreadable(file, &error))?;
            transport = transport.credentials(Credentials::new(user.clone(), password));
        }
        let (transport, bytes) = (transport.build(), message.formatted());
        let mut taken = self.taken.borrow_mut();
        if taken.id != notice.id {
            *taken = Taken { id: notice.id.clone(), ..Taken::default() };
        }
        let mut left = Vec::new();
        for (place, to) in self.to.iter().enumerate() {
            if taken.by.contains(&place) {
                continue;
            }
            let envelope = Envelope::new(Some(self.from.email.clone()), vec![to.email.clone()]);
            let envelope = envelope.map_err(|error| Answer::Refused(error.to_string()))?;
            match transport.send_raw(&envelope, &bytes) {
                Ok(_) => {
                    taken.by.insert(place);
                    taken.since.get_or_insert_with(Instant::now);
                }
                Err(error) => match (refused(&error), error.status().is_some() || error.is_client()) {
                    // So it would be with each of them: it is away, or locks who knocks again and again.
                    (all @ Answer::Credentials(_), _) | (all, false) => return Err(all),
                    (one, true) => left.push((to.email.to_string(), one)),
                },
            }
        }
        let had = taken.since.map(|since| since.elapsed());
        let (answer, without) = of_all(&left, had);
        for (address, why) in without {
            tracing::error!(
                address,
                why,
                id = notice.id,
                "this address does not take it; the others have it"
            );
        }
        Ok(answer)
    }

    fn message(&self, notice: &Notice) -> Result<Message, lettre::error::Error> {
        let subject = format!("[{}] {}", notice.collector, notice.summary());
        let short: String = subject.chars().take(SUBJECT_CHARS_MAX).collect();
        let message = Message::builder()
            .from(self.from.clone())
            .subject(short)
            // The same at each try: a mail that comes twice is known by it (RFC 5322, section 3.6.4).
            .message_id(Some(format!("<{}@gapless>", notice.id)))
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN);
        self.to.iter().fold(message, |message, to| message.to(to.clone())).body(notice.text())
    }
}

/// What addresses that have not taken a mail come to, where others have had it for so long; and who is left without it.
fn of_all(left: &[(String, Answer)], had: Option<Duration>) -> (Answer, Vec<(String, String)>) {
    let why = |answer: &Answer| match answer {
        Answer::Accepted => String::new(),
        Answer::Passing { why, .. } | Answer::Refused(why) => why.clone(),
        Answer::Address(why) | Answer::Credentials(why) | Answer::Unfit(why) => why.clone(),
    };
    let told: Vec<_> = left.iter().map(|(address, answer)| (address.clone(), why(answer))).collect();
    let words =
        || told.iter().map(|(address, why)| format!("{address}: {why}")).collect::<Vec<_>>().join("; ");
    let passes = left.iter().any(|(_, answer)| matches!(answer, Answer::Passing { .. }));
    let is_unfit = left.iter().all(|(_, answer)| matches!(answer, Answer::Unfit(_)));
    match had {
        _ if told.is_empty() => (Answer::Accepted, told),
        _ if passes && had.is_none_or(|had| had < HELD_MAX) => {
            (Answer::Passing { after_ms: None, why: words() }, Vec::new())
        }
        Some(_) => (Answer::Accepted, told),
        None if is_unfit => (Answer::Unfit(words()), Vec::new()),
        None => (Answer::Refused(words()), Vec::new()),
    }
}

/// An error with what it came of, none of it twice.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text
}

/// What a failure means (RFC 5321, section 4.2.1; RFC 4954, section 6).
fn refused(error: &lettre::transport::smtp::Error) -> Answer {
    let why = chain(error);
    let code = error.status().map(u16::from);
    match code {
        Some(534 | 535 | 538) => Answer::Credentials(why),
        // It wants a login, or TLS, of which the configuration knows nothing; for some addresses it may not.
        Some(530) => Answer::Unfit(why),
        Some(500..) => Answer::Refused(why),
        _ if error.is_client() => Answer::Unfit(why),
        _ => Answer::Passing { after_ms: None, why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_takes_nothing_keeps_a_mail_from_nobody_and_others_waiting_for_an_hour_at_most() {
        let passing = || Answer::Passing { after_ms: None, why: "full".to_owned() };
        let refusing = || Answer::Refused("unknown".to_owned());
        let unfit = || Answer::Unfit("no such thing".to_owned());
        let (soon, late) = (Some(Duration::ZERO), Some(HELD_MAX));
        let rows = [
            (vec![], soon, "Accepted", 0),
            (vec![refusing()], soon, "Accepted", 1),
            (vec![unfit()], soon, "Accepted", 1),
            (vec![refusing()], None, "Refused(\"a0: unknown\")", 0),
            (vec![unfit(), unfit()], None, "Unfit", 0),
            (vec![refusing(), passing()], soon, "Passing", 0),
            (vec![refusing(), passing()], late, "Accepted", 2),
            // Nobody has it: it is tried for as long as that takes.
            (vec![refusing(), passing()], None, "Passing", 0),
        ];
        for (answers, had, expected, without) in rows {
            let left: Vec<_> =
                answers.into_iter().enumerate().map(|(n, answer)| (format!("a{n}"), answer)).collect();
            let (answer, alone) = of_all(&left, had);
            assert!(format!("{answer:?}").starts_with(expected), "{answer:?}, {expected}");
            assert_eq!(alone.len(), without, "{expected}");
        }
    }
}
