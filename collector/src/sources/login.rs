//! Asks a token endpoint for access tokens, and keeps the refresh tokens that it hands out. When, and with which words, is
//! `auth::token`'s.

use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest as _, Sha256};

use super::auth::secret::Secret;
use super::auth::token::{Answer, Client, Refusal, Tokens};
use super::auth::{OauthSpec, last_word};
use super::call::wait_until;
use super::ground::{Ground, Http, Request};
use super::start::StartError;
use super::url::{bare, escaped};

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
    /// The refresh token in force could not be written down yet.
    is_unkept: bool,
    /// People were told so.
    is_told: bool,
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
    fn read(&self) -> std::io::Result<Option<String>> {
        let text = match std::fs::read_to_string(&self.file) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        // It takes the place of the one before at once, and is whole.
        match text.split_once('\n').map(|(first, token)| (first, token.trim())) {
            None | Some((_, "")) => Err(std::io::Error::new(ErrorKind::InvalidData, "it holds no token")),
            Some((first, token)) => Ok((first == self.first).then(|| token.to_owned())),
        }
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
    ///
    /// # Errors
    /// Those of `read`, and that it cannot be known whether another one is kept.
    pub(super) fn new(
        spec: &OauthSpec,
        database: &Path,
        mut read: impl FnMut(&str, &Secret) -> Result<String, StartError>,
    ) -> Result<Self, StartError> {
        let secret = spec.client_secret.as_ref().map(|secret| read("auth.oauth2.client_secret", secret));
        let secret = secret.transpose()?;
        let (mut refresh, mut kept) = (None, None);
        if let Some(written) = &spec.refresh_token {
            let first = read("auth.oauth2.refresh_token", written)?;
            let name = hex(&format!("{}\n{}\n{}", spec.token_url, spec.client_id, written.written()));
            let file = database.parent().unwrap_or(Path::new(".")).join(FOLDER).join(&name[..16]);
            let there = Kept { file, first: hex(&first) };
            let other = there.read();
            let other = other.map_err(|source| StartError::Kept { path: there.file.clone(), source })?;
            refresh = Some(other.unwrap_or(first));
            kept = Some(there);
        }
        let OauthSpec { client_id: id, auth_method, scope, more, .. } = spec.clone();
        let client = Client { id, secret, auth_method, scope, more };
        let tokens = Tokens::new(refresh);
        // Whoever has read it from the header has the secret.
        let header = tokens.question(&client).authorization;
        let hidden = client.secret.iter().cloned().chain(header.map(|header| last_word(&header).to_owned()));
        let tokens = tokens.hiding(hidden.collect());
        Ok(Self { url: spec.token_url.clone(), client, tokens, kept, is_unkept: false, is_told: false })
    }

    /// Where tokens are asked for, as it may be shown.
    pub(super) fn shown_url(&self) -> String {
        bare(&self.url).to_owned()
    }

    /// Asks for a token.
    pub(super) fn ask(&mut self, ground: &dyn Ground, http: &dyn Http) -> Result<String, Refusal> {
        let (began, question) = (ground.now(), self.tokens.question(&self.client));
        // As other words that are sent: what is repeated of them is known by that.
        let fields = question.form.iter().map(|(name, text)| format!("{}={}", escaped(name), escaped(text)));
        let form = fields.collect::<Vec<_>>().join("&");
        let mut headers =
            vec![("accept", "application/json"), ("content-type", "application/x-www-form-urlencoded")];
        headers.extend(question.authorization.as_deref().map(|text| ("authorization", text)));
        let request =
            Request { url: &self.url, headers: &headers, body: Some(&form), body_bytes_max: BODY_BYTES_MAX };
        let said = http.exchange(&request).and_then(|answer| {
            let after = answer.header("retry-after").and_then(|text| wait_until(text, began));
            Ok((answer.status, answer.body?, after))
        });
        let answer = match &said {
            Ok((status, body, after)) => Answer::Said { status: *status, body, after: *after },
            Err(error) => Answer::None(error.clone()),
        };
        let (token, is_other) = self.tokens.answered(answer, began, ground.now())?;
        self.is_unkept |= is_other;
        self.keep();
        Ok(token)
    }

    /// Writes the refresh token down where that is still to be done: to be called before each call that goes by it. What is in
    /// the way of it may pass, and is said once.
    pub(super) fn keep(&mut self) {
        let (true, Some(kept), Some(refresh)) = (self.is_unkept, &self.kept, self.tokens.refresh()) else {
            return;
        };
        let file = kept.file.display();
        match kept.write(refresh) {
            Ok(()) if self.is_told => tracing::info!(%file, "the refresh token is kept now"),
            Ok(()) => {}
            Err(error) if self.is_told => return tracing::debug!(%file, %error, "it still cannot be kept"),
            Err(error) => {
                tracing::error!(
                    %file,
                    %error,
                    "a refresh token that took the place of the one before cannot be kept, which is tried again with each call: after a \
                     restart before that a new one has to be written where the source's description names it"
                );
                self.is_told = true;
                return;
            }
        }
        (self.is_unkept, self.is_told) = (false, false);
    }
}

pub(super) fn locked(login: &Mutex<Login>) -> MutexGuard<'_, Login> {
    login.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::Duration;

    use gapless_common::time::Timestamp;
    use tokio::sync::mpsc;

    use super::super::call_tests::request;
    use super::super::ground::Process;
    use super::*;
    use crate::ingest::Orders;

    fn begun(folder: &Path, first: &str, url: &str) -> Result<Login, StartError> {
        let text = format!("token_url = \"{url}\"\nclient_id = \"c\"\nrefresh_token = \"@/r\"");
        let spec: OauthSpec = toml::from_str(&text).unwrap();
        Login::new(&spec, &folder.join("gapless.db"), |_, _| Ok(first.to_owned()))
    }

    fn login(folder: &Path, first: &str) -> Login {
        begun(folder, first, "http://127.0.0.1:1/t?key=1").unwrap()
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
    fn what_is_kept_and_cannot_be_read_is_no_reason_to_begin_with_the_first_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = login(folder.path(), "r1").kept.unwrap().file;
        std::fs::create_dir_all(&file).unwrap();
        let why = begun(folder.path(), "r1", "http://127.0.0.1:1/t?key=1").err().unwrap().to_string();
        assert!(why.contains(&file.display().to_string()), "{why}");
        std::fs::remove_dir(&file).unwrap();
        std::fs::write(&file, "").unwrap();
        let why = begun(folder.path(), "r1", "http://127.0.0.1:1/t?key=1").err();
        assert!(matches!(why, Some(StartError::Kept { .. })), "{why:?}");
    }

    #[test]
    fn a_refresh_token_that_could_not_be_kept_is_kept_with_the_next_call() {
        let folder = tempfile::tempdir().unwrap();
        let mut one = login(folder.path(), "r1");
        let in_the_way = folder.path().join(FOLDER);
        std::fs::write(&in_the_way, "").unwrap();
        let granted = r#"{"access_token": "a", "refresh_token": "r2"}"#;
        let answer = Answer::Said { status: 200, body: granted, after: None };
        one.is_unkept = one.tokens.answered(answer, Timestamp(0), Timestamp(0)).unwrap().1;
        one.keep();
        assert!(one.is_unkept && one.is_told);
        std::fs::remove_file(&in_the_way).unwrap();
        one.keep();
        assert!(!one.is_unkept && !one.is_told);
        assert_eq!(login(folder.path(), "r1").tokens.refresh(), Some("r2"));
    }

    #[test]
    fn an_endpoint_that_cannot_be_reached_or_repeats_what_it_was_told_shows_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let ground = Arc::new(Process::new(folder.path(), &Orders::to(&mpsc::channel(1).0)));
        let http = Arc::clone(&ground).http(Duration::from_secs(30));
        let mut nobody = login(folder.path(), "r/1");
        assert!(matches!(nobody.ask(&*ground, &*http), Err(Refusal::Passing(_))));
        assert_eq!(nobody.shown_url(), "http://127.0.0.1:1/t");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let repeating = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = request(&mut stream);
            let form = asked.split_once("\r\n\r\n").unwrap().1;
            let (status, length) = ("HTTP/1.1 403 X\r\nConnection: close", form.len());
            write!(stream, "{status}\r\nContent-Length: {length}\r\n\r\n{form}").unwrap();
            form.to_owned()
        });
        let mut login = begun(folder.path(), "r/1", &format!("http://{address}/t")).unwrap();
        let refusal = login.ask(&*ground, &*http).unwrap_err();
        assert_eq!(
            repeating.join().unwrap(),
            "grant_type=refresh_token&refresh_token=r%2F1&client_id=c",
            "what is not shown was sent"
        );
        let shown = "HTTP 403: grant_type=refresh_token&refresh_token=…&client_id=c";
        assert_eq!(refusal, Refusal::Lasting(shown.to_owned()));
    }
}
