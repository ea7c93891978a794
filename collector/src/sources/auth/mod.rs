//! How a source is told who asks: what a description says of it. When a token is asked for, and what its answer means, is
//! `token`'s. Pure: whoever calls reads the files of secrets, and `login` asks for tokens.

pub mod secret;
pub(super) mod token;

use std::collections::BTreeMap;

use gapless_common::text::base64;
use serde::Deserialize;

use self::secret::Secret;
use super::url::origin;

/// Headers that say nothing of who asks.
const OPEN: [&str; 2] = ["accept", "content-type"];
/// A shorter word of a header is a version or a switch: to take it out would make other texts unreadable.
const WORD_MIN: usize = 6;

/// Who asks, where a source wants to know. An API key in a header stands among the `headers`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthSpec {
    /// User and password (RFC 7617).
    pub basic: Option<Basic>,
    /// A token that stays (RFC 6750).
    pub bearer: Option<Secret>,
    /// Tokens that expire, and are asked for.
    pub oauth2: Option<OauthSpec>,
    /// Fields that each question has in its URL besides, such as an API key.
    #[serde(default)]
    pub query: BTreeMap<String, Secret>,
}

/// User and password.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// How tokens are had (RFC 6749): by the client's own secret (section 4.4), or by a refresh token (section 6).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OauthSpec {
    /// The token endpoint.
    pub token_url: String,
    /// Who the source knows the collector as.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Option<Secret>,
    /// How both are sent.
    #[serde(default)]
    pub auth_method: AuthMethod,
    /// What a person was given when access was granted. A new one that comes with an answer takes its place.
    pub refresh_token: Option<Secret>,
    /// What access is asked for; what the source thinks fit where it is not said.
    pub scope: Option<String>,
    /// What else the token endpoint wants to be told, such as an `audience`.
    #[serde(default)]
    pub more: BTreeMap<String, String>,
}

/// What a refresh token is good for: the token endpoint, the client, and the token as the description has it.
pub(super) type Grant = (String, String, Secret);

/// How a client says who it is, by the names of RFC 7591, section 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// As user and password of the request.
    #[default]
    ClientSecretBasic,
    /// In its body.
    ClientSecretPost,
}

/// What each request of a source says of who asks, with every secret in clear.
#[derive(Clone, Default)]
pub(super) struct Credentials {
    pub(super) headers: Vec<(String, String)>,
    pub(super) query: Vec<(String, String)>,
    /// What must not be shown, wherever a source repeats it.
    pub(super) secrets: Vec<String>,
}

impl AuthSpec {
    /// Whether it can be used beside these headers.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub(super) fn check(&self, headers: &BTreeMap<String, Secret>) -> Result<(), String> {
        let header = headers.keys().find(|name| name.eq_ignore_ascii_case("authorization"));
        let ways = [
            ("auth.basic", self.basic.is_some()),
            ("auth.bearer", self.bearer.is_some()),
            ("auth.oauth2", self.oauth2.is_some()),
            ("headers.authorization", header.is_some()),
        ];
        let mut ways = ways.iter().filter_map(|(name, is_there)| is_there.then_some(*name));
        if let (Some(one), Some(other)) = (ways.next(), ways.next()) {
            return Err(format!("`{one}` and `{other}` both say who asks: keep one of them"));
        }
        if self.basic.as_ref().is_some_and(|basic| basic.username.contains(':')) {
            return Err(
                "`auth.basic.username` holds a colon, which ends a user's name: leave it out".to_owned()
            );
        }
        if self.query.contains_key("") {
            return Err(
                "a field of `auth.query` has no name: write such as { api_key = \"@FILE\" }".to_owned()
            );
        }
        self.oauth2.as_ref().map_or(Ok(()), OauthSpec::check)
    }

    /// Its secrets in clear, as `read` has them by the place that they stand at.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn credentials<E>(
        &self,
        headers: &BTreeMap<String, Secret>,
        mut read: impl FnMut(&str, &Secret) -> Result<String, E>,
    ) -> Result<Credentials, E> {
        let mut all = Credentials::default();
        for (name, secret) in headers {
            let value = read(&format!("headers.{name}"), secret)?;
            // What is not in a file may be any word, such as `application/json`.
            let is_open = OPEN.iter().any(|open| name.eq_ignore_ascii_case(open));
            if secret.file().is_some() || !is_open && value.len() >= WORD_MIN {
                all.secrets.push(value.clone());
            }
            // What it says before that is the way in which it is meant, such as `Bearer`.
            let word = last_word(&value);
            if word != value && !is_open && word.len() >= WORD_MIN {
                all.secrets.push(word.to_owned());
            }
            all.headers.push((name.clone(), value));
        }
        for (name, secret) in &self.query {
            let value = read(&format!("auth.query.{name}"), secret)?;
            all.secrets.push(value.clone());
            all.query.push((name.clone(), value));
        }
        if let Some(secret) = &self.bearer {
            let token = read("auth.bearer", secret)?;
            all.headers.push(("authorization".to_owned(), bearer(&token)));
            all.secrets.push(token);
        }
        if let Some(Basic { username, password }) = &self.basic {
            let password = read("auth.basic.password", password)?;
            let header = basic(username, &password);
            // Whoever has read it from there has the password.
            all.secrets.push(last_word(&header).to_owned());
            all.secrets.push(password);
            all.headers.push(("authorization".to_owned(), header));
        }
        Ok(all)
    }
}

impl OauthSpec {
    /// What its tokens are had by, where that is a refresh token.
    pub(super) fn grant(&self) -> Option<Grant> {
        let refresh = self.refresh_token.clone()?;
        Some((self.token_url.clone(), self.client_id.clone(), refresh))
    }

    fn check(&self) -> Result<(), String> {
        if origin(&self.token_url).is_none() {
            return Err("`auth.oauth2.token_url` is no URL: write https://HOST/PATH".to_owned());
        }
        if self.client_id.is_empty() {
            return Err("`auth.oauth2.client_id` is empty: write what the source calls the client".to_owned());
        }
        if self.client_secret.is_none() && self.refresh_token.is_none() {
            return Err("`auth.oauth2` has nothing to ask for a token with: write `client_secret`, or `refresh_token`, or both"
                .to_owned());
        }
        let own = ["grant_type", "client_id", "client_secret", "refresh_token", "scope"];
        match own.iter().find(|name| self.more.contains_key(**name)) {
            Some(name) => {
                Err(format!("`auth.oauth2.more` names `{name}`, which is sent anyway: leave it out"))
            }
            None => Ok(()),
        }
    }
}

/// What stands last in the value of a header: of one that says who asks, the secret.
pub(super) fn last_word(header: &str) -> &str {
    header.split_whitespace().next_back().unwrap_or_default()
}

/// The value of the header that shows a token (RFC 6750, section 2.1).
pub(super) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// The value of the header that shows user and password (RFC 7617, section 2).
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth(text: &str) -> AuthSpec {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn who_asks_is_said_in_one_way() {
        let oauth = |more: &str| format!("[oauth2]\ntoken_url = \"https://h/t\"\nclient_id = \"c\"\n{more}");
        let rows = [
            ("", "", None),
            ("bearer = \"t\"\nquery = { key = \"k\" }", "", None),
            ("basic = { username = \"u\", password = \"p\" }", "x-key", None),
            (&oauth("client_secret = \"s\""), "accept", None),
            (&oauth("refresh_token = \"r\""), "", None),
            ("bearer = \"t\"", "Authorization", Some("`auth.bearer` and `headers.authorization`")),
            (
                "bearer = \"t\"\nbasic = { username = \"u\", password = \"p\" }",
                "",
                Some("`auth.basic` and `auth.bearer`"),
            ),
            ("basic = { username = \"u:v\", password = \"p\" }", "", Some("colon")),
            ("query = { \"\" = \"k\" }", "", Some("no name")),
            (&oauth(""), "", Some("`client_secret`, or `refresh_token`")),
            (&oauth("refresh_token = \"r\"\nmore = { scope = \"x\" }"), "", Some("`scope`")),
            (&oauth("client_secret = \"s\"").replace("https://h/t", "h/t"), "", Some("token_url")),
            (&oauth("client_secret = \"s\"").replace("\"c\"", "\"\""), "", Some("client_id")),
        ];
        for (text, header, expected) in rows {
            let secret = Secret::try_from("x".to_owned()).unwrap();
            let headers = (!header.is_empty()).then(|| (header.to_owned(), secret));
            let told = auth(text).check(&headers.into_iter().collect());
            let is_it = told.as_ref().err().zip(expected).is_some_and(|(why, part)| why.contains(part));
            assert!(is_it || told.is_ok() && expected.is_none(), "{text}: {told:?}");
        }
    }

    #[test]
    fn secrets_stand_where_the_source_wants_them_and_are_known_as_such() {
        let of = |text: &str, headers: &[(&str, &str)]| {
            let secret = |text: &str| Secret::try_from(text.to_owned()).unwrap();
            let headers = headers.iter().map(|(name, text)| ((*name).to_owned(), secret(text))).collect();
            let read = |_: &str, secret: &Secret| Ok::<_, String>(secret.written().replace('@', "from "));
            auth(text).credentials(&headers, read).unwrap()
        };
        let all = of("bearer = \"@b\"\nquery = { key = \"k\" }", &[("accept", "json"), ("x-key", "@h")]);
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let headers =
            [pair("accept", "json"), pair("x-key", "from h"), pair("authorization", "Bearer from b")];
        assert_eq!((all.headers, all.query), (headers.to_vec(), vec![pair("key", "k")]));
        assert_eq!(all.secrets, ["from h", "k", "from b"]);
        let rows: [(&str, &str, &[&str]); 7] = [
            ("authorization", "Bearer t0ken-1", &["Bearer t0ken-1", "t0ken-1"]),
            ("x-key", "t0ken-1", &["t0ken-1"]),
            ("x-key", "@k", &["from k"]),
            ("authorization", "Token @k-long", &["Token from k-long", "k-long"]),
            ("x-version", "2", &[]),
            ("Accept", "text/csv; version=2.00", &[]),
            ("content-type", "application/json", &[]),
        ];
        for (name, value, secrets) in rows {
            assert_eq!(of("", &[(name, value)]).secrets, secrets, "{name}: {value}");
        }
        // The example of RFC 7617, section 2.
        let all = of("basic = { username = \"Aladdin\", password = \"open sesame\" }", &[]);
        assert_eq!(all.headers, [pair("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")]);
        assert!(all.secrets.contains(&"open sesame".to_owned()));
    }

    #[test]
    fn the_place_of_a_secret_that_cannot_be_read_is_named() {
        let text = "basic = { username = \"u\", password = \"@p\" }";
        let why = auth(text).credentials(&BTreeMap::new(), |place, _| Err(place.to_owned())).err();
        assert_eq!(why.as_deref(), Some("auth.basic.password"));
    }
}
