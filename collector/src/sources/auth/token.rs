//! Access tokens that expire (RFC 6749): when one is asked for, with which words, and what the answer means. Pure.
//!
//! Contract: [`Tokens::standing`] before each call; where it says *ask*, [`Tokens::question`] goes to the token endpoint and what
//! comes of it to [`Tokens::answered`]. Where a call is answered 401, [`Tokens::refused`] says whether another token may help, and
//! [`Tokens::tried_again`] is told what the call with that one came to.

use std::collections::BTreeMap;

use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;
use serde::Deserialize;
use serde_json::Value as Json;

use super::secret::hushed;
use super::{AuthMethod, basic};
use crate::sources::url::escaped;

/// A token is given up so long before it expires, or by the last quarter of its life: a call takes its time.
const MARGIN_MS: i64 = 60_000;
/// No life is longer.
const LIFE_SECONDS_MAX: f64 = 315_576_000.0;
/// First and longest pause after the endpoint could not be reached, or was in trouble.
const TROUBLE_MS: (i64, i64) = (5_000, 300_000);
/// The same after it refused, and after a new token was of no more use than the old one: a person may have to see to it.
const REFUSAL_MS: (i64, i64) = (60_000, 3_600_000);
/// What the endpoint says of how long to wait is believed up to here.
const WAIT_MS_MAX: i64 = 86_400_000;
/// Characters of its words that are kept for people.
const WORDS_MAX: usize = 200;

/// Who asks for tokens, and for what, with secrets in clear.
pub(in crate::sources) struct Client {
    pub(in crate::sources) id: String,
    pub(in crate::sources) secret: Option<String>,
    pub(in crate::sources) auth_method: AuthMethod,
    pub(in crate::sources) scope: Option<String>,
    pub(in crate::sources) more: BTreeMap<String, String>,
}

/// What goes to the token endpoint.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub(in crate::sources) struct Question {
    /// The header that says who asks, where the body does not.
    pub(in crate::sources) authorization: Option<String>,
    /// The fields of its body.
    pub(in crate::sources) form: Vec<(String, String)>,
}

/// What came of a question.
pub(in crate::sources) enum Answer<'a> {
    /// An answer as it came, and when the endpoint may be asked again where it says so.
    Said { status: u16, body: &'a str, after: Option<Timestamp> },
    /// None, and why.
    None(String),
}

/// Where a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sources) enum Standing {
    /// It goes out with this token.
    Token(String),
    /// A token is to be asked for.
    Ask,
    /// None is asked for before this instant, for this reason.
    Rest(Timestamp, String),
}

/// Why no token came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sources) enum Refusal {
    /// The endpoint says that who asks, or what access was granted by, is not known to it any more.
    Ended(String),
    /// What it says is no token, and no word that access has ended: whatever stands between may have answered in its place.
    Lasting(String),
    /// It could not be asked, or not now.
    Passing(String),
}

/// The tokens of one client and one grant.
#[derive(Default)]
pub(in crate::sources) struct Tokens {
    /// By which new ones are had; the client's own secret where there is none.
    refresh: Option<String>,
    /// What is sent besides that must not be shown.
    hidden: Vec<String>,
    /// The one in force, and up to when it is used.
    access: Option<(String, Option<Timestamp>)>,
    rest: Option<(Timestamp, String)>,
    /// Questions in a row that brought none.
    failures: u32,
    /// New ones in a row that were refused as the old ones were; the last of them, and until when no other is asked for in its
    /// place.
    vain: u32,
    vain_token: Option<(String, Timestamp)>,
}

/// RFC 6749, section 5.1.
#[derive(Deserialize)]
struct Granted {
    access_token: String,
    token_type: Option<String>,
    expires_in: Option<Json>,
    refresh_token: Option<String>,
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct Denied {
    error: String,
    error_description: Option<String>,
}

impl Tokens {
    /// With this refresh token, where tokens are had by one.
    pub(in crate::sources) fn new(refresh: Option<String>) -> Self {
        Self { refresh, ..Self::default() }
    }

    /// The same, and these words are not shown either.
    pub(in crate::sources) fn hiding(self, words: Vec<String>) -> Self {
        Self { hidden: words, ..self }
    }

    /// The refresh token in force.
    pub(in crate::sources) fn refresh(&self) -> Option<&str> {
        self.refresh.as_deref()
    }

    /// What must not be shown.
    pub(in crate::sources) fn secrets(&self) -> impl Iterator<Item = &str> {
        let tokens = self.refresh.iter().chain(self.access.as_ref().map(|(token, _)| token));
        tokens.chain(&self.hidden).map(String::as_str)
    }

    /// A text that goes to people, without its secrets.
    pub(in crate::sources) fn hushed(&self, text: &str) -> String {
        hushed(text, self.secrets())
    }

    /// Where a call stands at `now`.
    pub(in crate::sources) fn standing(&mut self, now: Timestamp) -> Standing {
        if let Some((token, until)) = &self.access
            && (until.is_none_or(|until| now < until) || planted::has(Bug::TokenPastItsTime))
        {
            return Standing::Token(token.clone());
        }
        if let Some((until, why)) = &mut self.rest {
            // No longer than that, though the clock was set back.
            *until = (*until).min(now.plus_ms(WAIT_MS_MAX));
            if now < *until {
                return Standing::Rest(*until, why.clone());
            }
        }
        Standing::Ask
    }

    /// What the token endpoint is asked.
    pub(in crate::sources) fn question(&self, client: &Client) -> Question {
        let mut form = match &self.refresh {
            Some(token) => vec![("grant_type", "refresh_token".to_owned()), ("refresh_token", token.clone())],
            None => vec![("grant_type", "client_credentials".to_owned())],
        };
        form.extend(client.scope.clone().map(|scope| ("scope", scope)));
        let (is_basic, id) = (client.auth_method == AuthMethod::ClientSecretBasic, client.id.clone());
        let authorization = match (&client.secret, is_basic) {
            // Both are escaped first (RFC 6749, section 2.3.1).
            (Some(secret), true) => Some(basic(&escaped(&id), &escaped(secret))),
            (secret, _) => {
                form.push(("client_id", id));
                form.extend(secret.clone().map(|secret| ("client_secret", secret)));
                None
            }
        };
        let more = client.more.iter().map(|(name, text)| (name.clone(), text.clone()));
        let form = form.into_iter().map(|(name, text)| (name.to_owned(), text)).chain(more).collect();
        Question { authorization, form }
    }

    /// Takes in what came of a question that was put at `began`. Returns the token, and whether the refresh token is another one
    /// now.
    pub(in crate::sources) fn answered(
        &mut self,
        answer: Answer<'_>,
        began: Timestamp,
        now: Timestamp,
    ) -> Result<(String, bool), Refusal> {
        let (granted, after) = match answer {
            Answer::None(why) => (Err(Refusal::Passing(self.hushed(&why))), None),
            Answer::Said { status, body, after } => (
                understood(status, body, |words| self.hushed(words).chars().take(WORDS_MAX).collect()),
                after,
            ),
        };
        match granted {
            Ok(granted) => {
                let Granted { access_token, expires_in, refresh_token, .. } = granted;
                let until = expires_in.as_ref().and_then(life_ms).map(|ms| {
                    // It was given after the question was put: it lives no shorter than from then on.
                    began.plus_ms(ms - MARGIN_MS.min(ms / 4))
                });
                self.access = Some((access_token.clone(), until));
                (self.rest, self.failures) = (None, 0);
                // Some say by an empty one that there is no other.
                let refresh_token = refresh_token.filter(|token| !token.trim().is_empty());
                let is_other =
                    self.refresh.is_some() && refresh_token.is_some() && refresh_token != self.refresh;
                if is_other {
                    self.refresh = refresh_token;
                }
                Ok((access_token, is_other))
            }
            Err(refusal) => {
                let (pauses, why) = match &refusal {
                    Refusal::Ended(why) | Refusal::Lasting(why) => (REFUSAL_MS, why),
                    Refusal::Passing(why) => (TROUBLE_MS, why),
                };
                let pause = now.plus_ms(doubled(pauses, self.failures));
                let until = pause.max(after.unwrap_or(pause).min(now.plus_ms(WAIT_MS_MAX)));
                self.rest = Some((until, why.clone()));
                self.failures = self.failures.saturating_add(1);
                Err(refusal)
            }
        }
    }

    /// A call with this token was answered 401. Returns whether it is made once more, with another one: not where this one was of no
    /// more use than the one before it, a while ago.
    pub(in crate::sources) fn refused(&mut self, token: &str, now: Timestamp) -> bool {
        if let Some((_, until)) = self.vain_token.as_mut().filter(|(vain, _)| vain == token) {
            *until = (*until).min(now.plus_ms(REFUSAL_MS.1));
            if now < *until && !planted::has(Bug::TokenStorm) {
                return false;
            }
        }
        // Who shares it may have another one by now.
        if self.access.as_ref().is_some_and(|(access, _)| access == token) {
            self.access = None;
        }
        true
    }

    /// The call was made once more with this token; whether it was answered anything but 401.
    pub(in crate::sources) fn tried_again(&mut self, token: &str, is_good: bool, now: Timestamp) {
        if is_good {
            (self.vain, self.vain_token) = (0, None);
        } else {
            self.vain_token = Some((token.to_owned(), now.plus_ms(doubled(REFUSAL_MS, self.vain))));
            self.vain = self.vain.saturating_add(1);
        }
    }
}

fn doubled((first, most): (i64, i64), times: u32) -> i64 {
    first.saturating_mul(1 << times.min(16)).min(most)
}

/// What an answer comes to; `shown` is how words of it may be shown.
fn understood(status: u16, body: &str, shown: impl Fn(&str) -> String) -> Result<Granted, Refusal> {
    if let (200, Ok(granted)) = (status, serde_json::from_str::<Granted>(body)) {
        return match &granted.token_type {
            Some(other) if !other.eq_ignore_ascii_case("bearer") => Err(Refusal::Lasting(format!(
                "it gives tokens of the type `{}`, and only `Bearer` is known",
                shown(other)
            ))),
            _ if granted.access_token.is_empty() => Err(Refusal::Lasting("its token is empty".to_owned())),
            _ => Ok(granted),
        };
    }
    let denied = serde_json::from_str::<Denied>(body).ok();
    let words = match &denied {
        Some(Denied { error, error_description: Some(more) }) => shown(&format!("{error}: {more}")),
        Some(Denied { error, .. }) => shown(error),
        // There may be a token somewhere in it.
        None if status < 300 => {
            "its answer is no token (RFC 6749, section 5.1): is `token_url` the token endpoint?".to_owned()
        }
        None => shown(body),
    };
    let why = format!("HTTP {status}: {words}");
    Err(match (status, denied.as_ref().map(|denied| denied.error.as_str())) {
        // Anything else may be a gateway's page, or a mistake that is put right: only these say that nothing will come of it.
        (400 | 401, Some("invalid_grant" | "invalid_client" | "unauthorized_client")) => Refusal::Ended(why),
        (408 | 425 | 429 | 500.., _) => Refusal::Passing(why),
        _ => Refusal::Lasting(why),
    })
}

/// How long a token lives, where its answer says so. Some say nothing of it by saying none.
fn life_ms(expires_in: &Json) -> Option<i64> {
    let seconds = expires_in.as_f64().or_else(|| expires_in.as_str()?.trim().parse().ok())?;
    let is_some = seconds.is_finite() && seconds > 0.0;
    #[expect(clippy::cast_possible_truncation, reason = "no more than 10 years in ms")]
    let ms = (seconds.min(LIFE_SECONDS_MAX) * 1_000.0) as i64;
    is_some.then_some(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRANTED: &str = r#"{"access_token": "a1", "token_type": "bearer", "expires_in": 3600}"#;

    fn said(status: u16, body: &str) -> Answer<'_> {
        Answer::Said { status, body, after: None }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp(seconds * 1_000)
    }

    #[test]
    fn a_token_is_asked_for_where_there_is_none_and_before_it_expires() {
        let rows = [
            ("3600", Some(3_540_000)),
            ("\"3600\"", Some(3_540_000)),
            ("40", Some(30_000)),
            ("1e300", Some(315_576_000_000 - 60_000)),
            ("0", None),
            ("-1", None),
            ("null", None),
            ("\"soon\"", None),
        ];
        for (expires_in, used_ms) in rows {
            let mut tokens = Tokens::default();
            assert_eq!(tokens.standing(at(0)), Standing::Ask);
            let body = GRANTED.replace("3600", expires_in);
            // The question took a minute: what it was answered counts from its begin on.
            tokens.answered(said(200, &body), at(100), at(160)).unwrap();
            let good = Standing::Token("a1".to_owned());
            let last = Timestamp(100_000 + used_ms.unwrap_or(i64::MAX / 2));
            assert_eq!(tokens.standing(last.plus_ms(-1)), good, "{expires_in}");
            let then = if used_ms.is_some() { Standing::Ask } else { good };
            assert_eq!(tokens.standing(last), then, "{expires_in}");
        }
    }

    #[test]
    fn what_is_asked_is_as_the_grant_and_the_client_want_it() {
        let client = |secret: Option<&str>, auth_method, scope: Option<&str>| Client {
            id: "me".to_owned(),
            secret: secret.map(str::to_owned),
            auth_method,
            scope: scope.map(str::to_owned),
            more: [("audience".to_owned(), "api".to_owned())].into(),
        };
        let (by_header, by_body) = (AuthMethod::ClientSecretBasic, AuthMethod::ClientSecretPost);
        let rows = [
            (
                None,
                client(Some("a b"), by_header, Some("read")),
                "grant_type=client_credentials scope=read audience=api",
                true,
            ),
            (
                Some("r"),
                client(Some("s"), by_header, None),
                "grant_type=refresh_token refresh_token=r audience=api",
                true,
            ),
            (
                None,
                client(Some("s"), by_body, None),
                "grant_type=client_credentials client_id=me client_secret=s audience=api",
                false,
            ),
            (
                Some("r"),
                client(None, by_header, None),
                "grant_type=refresh_token refresh_token=r client_id=me audience=api",
                false,
            ),
        ];
        for (refresh, client, form, has_header) in rows {
            let question = Tokens::new(refresh.map(str::to_owned)).question(&client);
            let text: Vec<_> = question.form.iter().map(|(name, text)| format!("{name}={text}")).collect();
            assert_eq!((text.join(" ").as_str(), question.authorization.is_some()), (form, has_header));
        }
        let question = Tokens::default().question(&client(Some("a b"), by_header, None));
        assert_eq!(question.authorization, Some(basic("me", "a%20b")), "escaped before it is put together");
    }

    #[test]
    fn a_refresh_token_that_comes_with_an_answer_takes_the_place_of_the_old_one() {
        let mut tokens = Tokens::new(Some("r1".to_owned()));
        let with = |refresh: &str| GRANTED.replace("\"expires_in\"", &format!("{refresh} \"expires_in\""));
        let rows = [
            ("", "r1", false),
            ("\"refresh_token\": \"r1\",", "r1", false),
            ("\"refresh_token\": \"r2\",", "r2", true),
            ("\"refresh_token\": \"\",", "r2", false),
            ("\"refresh_token\": \" \",", "r2", false),
        ];
        for (refresh, expected, is_other) in rows {
            let told = tokens.answered(said(200, &with(refresh)), at(0), at(0)).unwrap();
            assert_eq!((told.1, tokens.refresh()), (is_other, Some(expected)), "{refresh}");
        }
        assert!(tokens.secrets().eq(["r2", "a1"]));
        // Who asks by its own secret goes on with that.
        let mut tokens = Tokens::default();
        tokens.answered(said(200, &with("\"refresh_token\": \"r2\",")), at(0), at(0)).unwrap();
        assert_eq!(tokens.refresh(), None);
    }

    #[test]
    fn an_endpoint_that_gives_none_is_left_alone_longer_each_time_and_longest_where_it_refuses() {
        let denied = r#"{"error": "invalid_grant", "error_description": "revoked"}"#;
        type Case = (fn() -> Answer<'static>, [i64; 2]);
        let rows: [Case; 5] = [
            (|| said(400, r#"{"error": "invalid_client"}"#), [60_000, 3_600_000]),
            (|| said(200, "<html>"), [60_000, 3_600_000]),
            (|| said(503, "busy"), [5_000, 300_000]),
            (|| Answer::None("no route".to_owned()), [5_000, 300_000]),
            (|| Answer::Said { status: 429, body: "", after: Some(at(600)) }, [600_000, 600_000]),
        ];
        for (answer, [first, last]) in rows {
            let mut tokens = Tokens::default();
            let mut pauses = Vec::new();
            for _ in 0..12 {
                let refusal = tokens.answered(answer(), at(0), at(0)).unwrap_err();
                let Standing::Rest(until, _) = tokens.standing(at(0)) else { panic!("{refusal:?}: no rest") };
                assert_eq!(tokens.standing(until), Standing::Ask);
                pauses.push(until.0);
            }
            assert_eq!((pauses[0], pauses[11]), (first, last));
        }
        let mut tokens = Tokens::default();
        let refusal = tokens.answered(said(400, denied), at(0), at(0)).unwrap_err();
        assert_eq!(refusal, Refusal::Ended("HTTP 400: invalid_grant: revoked".to_owned()));
        // A clock that is set back keeps nobody waiting for longer than a day.
        let long_ago = at(-400 * 86_400);
        assert!(
            matches!(tokens.standing(long_ago), Standing::Rest(until, _) if until == long_ago.plus_ms(WAIT_MS_MAX))
        );
        // What works ends all of it.
        tokens.answered(said(200, GRANTED), at(0), at(0)).unwrap();
        assert_eq!((tokens.failures, tokens.standing(at(0))), (0, Standing::Token("a1".to_owned())));
    }

    #[test]
    fn only_what_says_that_access_has_ended_is_taken_for_that() {
        let ended = Refusal::Ended as fn(String) -> Refusal;
        let (lasting, passing) =
            (Refusal::Lasting as fn(String) -> Refusal, Refusal::Passing as fn(String) -> Refusal);
        let no_token = "its answer is no token (RFC 6749, section 5.1): is `token_url` the token endpoint?";
        let mac = GRANTED.replace("bearer", "mac");
        let long = GRANTED.replace("bearer", &format!("s3cret{}", "x".repeat(WORDS_MAX)));
        let of_type =
            |name: &str| format!("it gives tokens of the type `{name}`, and only `Bearer` is known");
        let rows = [
            (400, r#"{"error": "invalid_grant"}"#, ended, "HTTP 400: invalid_grant".to_owned()),
            (401, r#"{"error": "invalid_client"}"#, ended, "HTTP 401: invalid_client".to_owned()),
            (400, r#"{"error": "unauthorized_client"}"#, ended, "HTTP 400: unauthorized_client".to_owned()),
            (400, r#"{"error": "invalid_scope"}"#, lasting, "HTTP 400: invalid_scope".to_owned()),
            (403, r#"{"error": "invalid_grant"}"#, lasting, "HTTP 403: invalid_grant".to_owned()),
            (401, "invalid_grant", lasting, "HTTP 401: invalid_grant".to_owned()),
            (302, "moved", lasting, "HTTP 302: moved".to_owned()),
            (404, "no s3cret here", lasting, "HTTP 404: no … here".to_owned()),
            (200, "<html>", lasting, format!("HTTP 200: {no_token}")),
            (201, GRANTED, lasting, format!("HTTP 201: {no_token}")),
            (
                200,
                r#"{"error": "invalid_grant", "error_description": "s3cret is over"}"#,
                lasting,
                "HTTP 200: invalid_grant: … is over".to_owned(),
            ),
            (200, r#"{"access_token": ""}"#, lasting, "its token is empty".to_owned()),
            (200, mac.as_str(), lasting, of_type("mac")),
            (200, long.as_str(), lasting, of_type(&format!("…{}", "x".repeat(WORDS_MAX - 1)))),
            (503, r#"{"error": "invalid_grant"}"#, passing, "HTTP 503: invalid_grant".to_owned()),
        ];
        for (status, body, kind, why) in rows {
            let mut tokens = Tokens::default().hiding(vec!["s3cret".to_owned()]);
            let refusal = tokens.answered(said(status, body), at(0), at(0)).unwrap_err();
            assert_eq!(refusal, kind(why), "{status} {body}");
            assert!(matches!(tokens.standing(at(0)), Standing::Rest(..)), "it is asked again later");
        }
    }

    #[test]
    fn a_call_that_is_refused_is_made_once_more_and_not_each_time_where_that_is_of_no_use() {
        let mut tokens = Tokens::default();
        let grant = |tokens: &mut Tokens, token: &str, now| {
            tokens.answered(said(200, &GRANTED.replace("a1", token)), now, now).unwrap();
        };
        grant(&mut tokens, "a1", at(0));
        assert!(tokens.refused("a1", at(1)));
        assert_eq!(tokens.standing(at(1)), Standing::Ask, "the old one is of no use");
        grant(&mut tokens, "a2", at(1));
        // Another one who was refused with the old one finds the new one.
        assert!(tokens.refused("a1", at(1)));
        assert_eq!(tokens.standing(at(1)), Standing::Token("a2".to_owned()));
        tokens.tried_again("a2", false, at(1));
        assert!(tokens.refused("a1", at(2)), "of another one nobody knows that it is of no use");
        for (now, may) in [(2, false), (60, false), (61, true)] {
            assert_eq!(tokens.refused("a2", at(now)), may, "{now}");
        }
        tokens.tried_again("a2", false, at(61));
        for (now, may) in [(180, false), (181, true), (-9_000, false), (-5_400, true)] {
            assert_eq!(tokens.refused("a2", at(now)), may, "{now}");
        }
        tokens.tried_again("a3", true, at(181));
        assert!(tokens.refused("a2", at(181)));
    }
}
