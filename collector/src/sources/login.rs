//! Asks a token endpoint for access tokens, and keeps the refresh tokens that it hands out. When, and with which words, is
//! `auth::token`'s.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use super::auth::secret::Secret;
use super::auth::token::{Answer, Client, Refusal, Tokens};
use super::auth::{OauthSpec, last_word};
use super::call::wait_until;
use super::url::{bare, escaped};
use crate::clock;

/// The longest answer.
const BODY_BYTES_MAX: u64 = 1 << 20;
/// Where refresh tokens are kept, beside the database.
const FOLDER: &str = "refresh-tokens";

/// Where tokens are had, and those that are there. All sources that name the same share it.
pub(super) struct Login {
    url: String,
    client: Client,
    pub(super) tokens: Tokens,
    kept: Option<Kept>,
}

/// The file of a refresh token that took the place of another one: without it nobody could go on after a restart.
struct Kept {
    file: PathBuf,
    /// The hash of the one in the description: another one was written there since, and counts.
    first: String,
}

fn hex(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Kept {
    /// What was kept, where it came of the one in the description.
    fn read(&self) -> Option<String> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        let (first, token) = text.split_once('\n')?;
        (first == self.first && !token.trim().is_empty()).then(|| token.trim().to_owned())
    }

    /// Takes the place of what was kept at once, readable for its owner alone.
    #[expect(
        clippy::disallowed_methods,
        reason = "it is no reading, and has no place in a database that is backed up"
    )]
    fn write(&self, token: &str) -> std::io::Result<()> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let new = self.file.with_extension("new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        writeln!(file, "{}\n{token}", self.first)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.file)?;
        std::fs::File::open(folder)?.sync_all()
    }
}

impl Login {
    /// As it is described; `read` has secrets in clear by the place that they stand at, and the database's folder is where
    /// others are kept.
    pub(super) fn new<E>(
        spec: &OauthSpec,
        database: &Path,
        mut read: impl FnMut(&str, &Secret) -> Result<String, E>,
    ) -> Result<Self, E> {
        let secret = spec.client_secret.as_ref().map(|secret| read("auth.oauth2.client_secret", secret));
        let secret = secret.transpose()?;
        let (mut refresh, mut kept) = (None, None);
        if let Some(written) = &spec.refresh_token {
            let first = read("auth.oauth2.refresh_token", written)?;
            let name = hex(&format!("{}\n{}\n{}", spec.token_url, spec.client_id, written.written()));
            let file = database.parent().unwrap_or(Path::new(".")).join(FOLDER).join(&name[..16]);
            let there = Kept { file, first: hex(&first) };
            refresh = Some(there.read().unwrap_or(first));
            kept = Some(there);
        }
        let OauthSpec { client_id: id, auth_method, scope, more, .. } = spec.clone();
        let client = Client { id, secret, auth_method, scope, more };
        let tokens = Tokens::new(refresh);
        // Whoever has read it from the header has the secret.
        let header = tokens.question(&client).authorization;
        let hidden = client.secret.iter().cloned().chain(header.map(|header| last_word(&header).to_owned()));
        let tokens = tokens.hiding(hidden.collect());
        Ok(Self { url: spec.token_url.clone(), client, tokens, kept })
    }

    /// Where tokens are asked for, as it may be shown.
    pub(super) fn shown_url(&self) -> String {
        bare(&self.url).to_owned()
    }

    /// Asks for a token.
    pub(super) fn ask(&mut self, http: &ureq::Agent) -> Result<String, Refusal> {
        let (began, question) = (clock::now(), self.tokens.question(&self.client));
        let mut request = http.post(&self.url).header("accept", "application/json");
        if let Some(authorization) = &question.authorization {
            request = request.header("authorization", authorization);
        }
        // As other words that are sent: what is repeated of them is known by that.
        let fields = question.form.iter().map(|(name, text)| format!("{}={}", escaped(name), escaped(text)));
        let form = fields.collect::<Vec<_>>().join("&");
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let said = request.send(form).and_then(|mut answer| {
            let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
            let after = after.and_then(|text| wait_until(text, began));
            let body = answer.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string()?;
            Ok((answer.status().as_u16(), body, after))
        });
        let answer = match &said {
            Ok((status, body, after)) => Answer::Said { status: *status, body, after: *after },
            Err(error) => Answer::None(error.to_string()),
        };
        let (token, is_other) = self.tokens.answered(answer, began, clock::now())?;
        if let (true, Some(kept), Some(refresh)) = (is_other, &self.kept, self.tokens.refresh())
            && let Err(error) = kept.write(refresh)
        {
            tracing::error!(
                file = %kept.file.display(),
                %error,
                "a refresh token that took the place of the one before cannot be kept: after a restart a new one has to be written \
                 where the source's description names it"
            );
        }
        Ok(token)
    }
}

pub(super) fn locked(login: &Mutex<Login>) -> MutexGuard<'_, Login> {
    login.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(folder: &Path, first: &str) -> Login {
        let text = "token_url = \"http://127.0.0.1:1/t?key=1\"\nclient_id = \"c\"\nrefresh_token = \"@/r\"";
        let spec: OauthSpec = toml::from_str(text).unwrap();
        Login::new(&spec, &folder.join("gapless.db"), |_, _| Ok::<_, String>(first.to_owned())).unwrap()
    }

    #[test]
    fn a_refresh_token_that_took_the_place_of_another_one_is_there_after_a_restart_until_a_person_writes_one()
    {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let one = login(folder.path(), "r1");
        assert_eq!(one.tokens.refresh(), Some("r1"));
        let kept = one.kept.unwrap();
        kept.write("r2").unwrap();
        kept.write("r3").unwrap();
        let mode = std::fs::metadata(&kept.file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        for (first, expected) in [("r1", "r3"), ("r9", "r9"), ("r1", "r3")] {
            assert_eq!(login(folder.path(), first).tokens.refresh(), Some(expected), "{first}");
        }
        let inside = std::fs::read_dir(folder.path().join(FOLDER)).unwrap().count();
        assert_eq!(inside, 1, "nothing else is left there");
        assert!(!std::fs::read_to_string(&kept.file).unwrap().contains("r1"));
    }

    #[test]
    fn an_endpoint_that_cannot_be_reached_is_a_failure_that_passes_and_shows_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let mut login = login(folder.path(), "r1");
        let http = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        assert!(matches!(login.ask(&http), Err(Refusal::Passing(why)) if !why.contains("r1")));
        assert_eq!(login.shown_url(), "http://127.0.0.1:1/t");
    }
}
