//! A token endpoint (RFC 6749): `POST /token` with the grants `client_credentials` and `refresh_token` gives tokens that expire,
//! and what asks with any other one is refused. Refresh tokens may be good for once.
//!
//! What can go wrong: tokens that are taken back before their time, a refresh token that is, an endpoint in trouble. Does not
//! simulate: scopes, the grants that need a browser.

use std::collections::BTreeMap;

use gapless_common::text::base64;
use gapless_common::time::Timestamp;
use serde_json::json;

use super::Request;

/// The endpoint, and what it has given.
#[derive(Debug)]
pub struct Issuer {
    /// Who may ask: the client and its secret.
    pub client: (String, String),
    /// The refresh token in force; without one, the client's own secret is enough.
    pub refresh: Option<String>,
    /// Whether a new one comes with each token, and the old one is of no use any more.
    pub rotates: bool,
    /// How long a token lives.
    pub life_ms: i64,
    /// So many questions are answered with 503.
    pub troubles: u32,
    /// Tokens in force, each with the instant at which it expires.
    given: BTreeMap<String, Timestamp>,
    count: u32,
    /// The status of each answer to who asked for a token.
    pub asked: Vec<u16>,
    /// Calls that came with no good token.
    pub refused: u32,
}

impl Issuer {
    /// One that knows this client, and gives tokens that live so long.
    #[must_use]
    pub fn new(client: &str, secret: &str, life_ms: i64) -> Self {
        Self {
            client: (client.to_owned(), secret.to_owned()),
            refresh: None,
            rotates: false,
            life_ms,
            troubles: 0,
            given: BTreeMap::new(),
            count: 0,
            asked: Vec::new(),
            refused: 0,
        }
    }

    /// Takes all tokens back.
    pub fn take_back(&mut self) {
        self.given.clear();
    }

    /// Whether a request comes with a good token.
    pub fn admits(&mut self, request: &Request<'_>, now: Timestamp) -> bool {
        let token = request.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
        let is_good = token.is_some_and(|token| self.given.get(token).is_some_and(|until| now < *until));
        self.refused += u32::from(!is_good);
        is_good
    }

    /// The answer to a request, where it asks for a token.
    pub fn answer(&mut self, request: &Request<'_>, now: Timestamp) -> Option<(u16, String)> {
        let is_it = request.method() == "POST" && request.target.split('?').next() == Some("/token");
        is_it.then(|| {
            let (status, body) = self.grant(request, now);
            self.asked.push(status);
            (status, body.to_string())
        })
    }

    fn grant(&mut self, request: &Request<'_>, now: Timestamp) -> (u16, serde_json::Value) {
        let denied =
            |status, error: &str, more: &str| (status, json!({"error": error, "error_description": more}));
        if self.troubles > 0 {
            self.troubles -= 1;
            return (503, json!({}));
        }
        let field = |name: &str| field(request.body, name);
        let (id, secret) = &self.client;
        let by_header = format!("Basic {}", base64(format!("{id}:{secret}").as_bytes()));
        let is_it = match request.header("authorization") {
            Some(header) => header == by_header,
            None => {
                field("client_id").as_ref() == Some(id) && field("client_secret").as_ref() == Some(secret)
            }
        };
        if !is_it {
            return denied(401, "invalid_client", "no such client");
        }
        match (field("grant_type").as_deref(), &self.refresh) {
            (Some("client_credentials"), None) => {}
            (Some("refresh_token"), Some(refresh)) if field("refresh_token").as_ref() == Some(refresh) => {}
            (Some("refresh_token"), _) => return denied(400, "invalid_grant", "no such refresh token"),
            _ => return denied(400, "unauthorized_client", "not by this grant"),
        }
        self.count += 1;
        let token = format!("access-{}", self.count);
        self.given.insert(token.clone(), now.plus_ms(self.life_ms));
        let mut body =
            json!({"access_token": token, "token_type": "Bearer", "expires_in": self.life_ms / 1_000});
        if self.rotates && self.refresh.is_some() {
            let next = format!("refresh-{}", self.count);
            body["refresh_token"] = json!(next);
            self.refresh = Some(next);
        }
        (200, body)
    }
}

/// A field of a form (`application/x-www-form-urlencoded`).
fn field(form: &str, name: &str) -> Option<String> {
    let text = form.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(issuer: &mut Issuer, form: &str, now: i64) -> (u16, serde_json::Value) {
        let request = Request { target: "/token", head: "POST /token HTTP/1.1\r\n", body: form };
        let (status, body) = issuer.answer(&request, Timestamp(now)).unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }

    fn admits(issuer: &mut Issuer, token: &str, now: i64) -> bool {
        let head = format!("GET /x HTTP/1.1\r\nAuthorization: Bearer {token}");
        issuer.admits(&Request { target: "/x", head: &head, body: "" }, Timestamp(now))
    }

    #[test]
    fn tokens_expire_and_are_taken_back_and_refresh_tokens_are_good_for_once() {
        let mut issuer = Issuer::new("me", "a b", 10_000);
        let by_secret = "grant_type=client_credentials&client_id=me&client_secret=a%20b";
        let (status, body) = ask(&mut issuer, by_secret, 0);
        assert_eq!(
            (status, &body["access_token"], &body["expires_in"]),
            (200, &json!("access-1"), &json!(10))
        );
        for (now, expected) in [(9_999, true), (10_000, false)] {
            assert_eq!(admits(&mut issuer, "access-1", now), expected, "{now}");
        }
        assert_eq!(ask(&mut issuer, &by_secret.replace("%20", ""), 0).1["error"], "invalid_client");
        (issuer.refresh, issuer.rotates) = (Some("r".to_owned()), true);
        assert_eq!(ask(&mut issuer, by_secret, 0).1["error"], "unauthorized_client");
        let by_refresh = by_secret.replace("client_credentials", "refresh_token&refresh_token=r");
        assert_eq!(ask(&mut issuer, &by_refresh, 0).1["refresh_token"], "refresh-2");
        assert_eq!(ask(&mut issuer, &by_refresh, 0).1["error"], "invalid_grant");
        assert!(admits(&mut issuer, "access-2", 0));
        issuer.take_back();
        assert!(!admits(&mut issuer, "access-2", 0));
        issuer.troubles = 1;
        assert_eq!((ask(&mut issuer, by_secret, 0).0, issuer.refused), (503, 2));
    }
}
