//! Who may ask: a bearer token (RFC 6750, section 2.1), or the same token in the page's cookie. Only its
//! SHA-256 is ever compared or kept.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

use super::{ApiState, Problem};

/// The cookie in which the page keeps the token.
pub(crate) const TOKEN_COOKIE: &str = "gapless_token";

/// What the database keeps of a token.
pub(crate) fn hash_token(token: &str) -> [u8; 32] {
    Sha256::digest(token.trim().as_bytes()).into()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs =
        headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(';'));
    pairs
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(name, _)| *name == TOKEN_COOKIE)
        .map(|(_, token)| token)
}

/// Who asks: the name of the token.
#[derive(Debug, Clone)]
pub(super) struct Asker(pub(super) String);

/// What a request was let through with, for answers that go on for long: a token may be revoked meanwhile.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pass([u8; 32]);

impl Pass {
    /// Whether its token is still known.
    pub(super) async fn is_good(self, state: &ApiState) -> Result<bool, Problem> {
        Ok(state.ask(move |store| store.token_name(&self.0)).await?.is_some())
    }
}

async fn asker(state: &ApiState, headers: &HeaderMap) -> Result<Option<(Asker, Pass)>, Problem> {
    let Some(token) = bearer(headers).or_else(|| cookie(headers)) else { return Ok(None) };
    let hash = hash_token(token);
    let name = state.ask(move |store| store.token_name(&hash)).await?;
    Ok(name.map(|name| (Asker(name), Pass(hash))))
}

/// The name of the token that the request carries, where it is a known one.
pub(crate) async fn who(state: &ApiState, headers: &HeaderMap) -> Result<Option<String>, Problem> {
    Ok(asker(state, headers).await?.map(|(Asker(name), _)| name))
}

/// Whether the request carries a known token.
pub(crate) async fn is_known(state: &ApiState, headers: &HeaderMap) -> Result<bool, Problem> {
    Ok(asker(state, headers).await?.is_some())
}

/// Lets a request through only with a known token.
pub(crate) async fn require_token(
    State(state): State<ApiState>,
    mut request: Request,
    next: Next,
) -> Response {
    match asker(&state, request.headers()).await {
        Ok(Some((asker, pass))) => {
            request.extensions_mut().insert(asker);
            request.extensions_mut().insert(pass);
            next.run(request).await
        }
        Ok(None) => Problem::Unauthorized.into_response(),
        Err(problem) => problem.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_found_in_header_or_cookie() {
        let rows: [(&str, &str, Option<&str>, Option<&str>); 5] = [
            ("authorization", "Bearer abc", Some("abc"), None),
            ("authorization", "bearer abc", Some("abc"), None),
            ("authorization", "Basic abc", None, None),
            ("cookie", "a=b; gapless_token=abc; c=d", None, Some("abc")),
            ("cookie", "not_gapless_token=abc", None, None),
        ];
        for (name, value, in_header, in_cookie) in rows {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert_eq!((bearer(&headers), cookie(&headers)), (in_header, in_cookie), "{name}: {value}");
        }
    }
}
