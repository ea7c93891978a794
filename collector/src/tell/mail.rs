//! Tells by mail.

use std::path::PathBuf;

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

pub(super) struct Mail {
    config: config::Mail,
    from: Mailbox,
    to: Vec<Mailbox>,
    tls: Tls,
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
            parameters.dangerous_accept_invalid_certs(true).build().map_err(|error| error.to_string())
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
        Ok(Self { from: mailbox(&config.from)?, to, tls, config })
    }

    /// The files that are read for each message.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.config.login.iter().map(|(_, file)| file.clone()).collect()
    }

    pub(super) fn send(&self, notice: &Notice) -> Answer {
        self.try_send(notice).unwrap_or_else(|answer| answer)
    }

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
        match transport.build().send(&message) {
            Ok(_) => Ok(Answer::Accepted),
            Err(error) => Err(refused(&error)),
        }
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
        Some(530 | 534 | 535 | 538) => Answer::Credentials(why),
        Some(500..) => Answer::Refused(why),
        // It does not offer what the configuration says: no other message would fare better.
        _ if error.is_client() => Answer::Address(why),
        _ => Answer::Passing { after_ms: None, why },
    }
}
