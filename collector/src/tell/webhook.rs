//! Tells by a POST.

use std::path::{Path, PathBuf};

use super::{TIMEOUT, first_line, unreadable};
use crate::alerts::delivery::Answer;
use crate::alerts::notice::Notice;
use crate::config::receivers::{self as config, Template};

/// What of an answer is kept for people.
const ANSWER_BYTES_MAX: u64 = 4 << 10;
const ANSWER_CHARS_MAX: usize = 200;

pub(super) struct Webhook {
    config: config::Webhook,
    http: ureq::Agent,
}

impl Webhook {
    pub(super) fn new(config: config::Webhook, authorities: &[u8]) -> Self {
        let http = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .max_redirects(0)
            .tls_config(crate::authorities::tls(authorities))
            .user_agent(concat!("gapless-collector/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self { config, http }
    }

    /// The files that are read for each message.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let url = self.config.url.0.strip_prefix('@').map(PathBuf::from);
        url.into_iter().chain(self.config.token_file.clone()).collect()
    }

    pub(super) fn send(&self, notice: &Notice) -> Answer {
        self.try_send(notice).unwrap_or_else(|answer| answer)
    }

    fn try_send(&self, notice: &Notice) -> Result<Answer, Answer> {
        let read = |path: &Path| first_line(path).map_err(|error| unreadable(path, &error));
        let url = match self.config.url.0.strip_prefix('@') {
            Some(file) => read(Path::new(file))?,
            None => self.config.url.0.clone(),
        };
        if !config::is_address(&url) {
            return Err(Answer::Address("what stands in the file of its url is no address".to_owned()));
        }
        let mut request = self.http.post(&url).header("idempotency-key", &notice.id);
        if let Some(file) = &self.config.token_file {
            request = request.header("authorization", format!("Bearer {}", read(file)?));
        }
        let document = match self.config.template {
            Template::Json => notice.document(),
            Template::Slack => notice.slack(),
        };
        match request.send_json(document) {
            Ok(answer) => Ok(understood(answer)),
            // The address may be a secret, and the message of an error may hold it.
            Err(error) => {
                Err(Answer::Passing { after_ms: None, why: error.to_string().replace(&url, "its url") })
            }
        }
    }
}

fn understood(mut answer: ureq::http::Response<ureq::Body>) -> Answer {
    let status = answer.status().as_u16();
    let after =
        answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse::<i64>().ok());
    let body = answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().unwrap_or_default();
    let short: String = body.chars().take(ANSWER_CHARS_MAX).collect();
    let why =
        if short.trim().is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {short}") };
    match status {
        200..=299 => Answer::Accepted,
        401 | 403 | 407 => Answer::Credentials(why),
        408 | 425 | 429 | 500.. => {
            Answer::Passing { after_ms: after.map(|seconds| seconds.max(0).saturating_mul(1_000)), why }
        }
        // Moved, not here, never again, or not for this kind of request: each message would fare the same.
        300..=399 | 404 | 405 | 410 | 421 => Answer::Address(why),
        _ => Answer::Refused(why),
    }
}
