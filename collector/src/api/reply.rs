//! JSON answers with an entity tag (RFC 9110, section 8.8.3), so that who asks again gets 304 while nothing changed.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use super::Problem;

/// One page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    /// The rows.
    pub(super) items: Vec<T>,
    /// Send it as `cursor` for the page after this one; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

impl<T> Page<T> {
    /// A list that is always answered whole.
    pub(super) const fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }

    /// A page of at most `limit` rows; `id` gives what the next page starts after.
    pub(super) fn of(items: Vec<T>, limit: usize, id: impl Fn(&T) -> i64) -> Self {
        let next = if items.len() < limit { None } else { items.last().map(|row| id(row).to_string()) };
        Self { items, next }
    }
}

/// Whether the caller has what `tag` names already.
pub(super) fn has_already(headers: &HeaderMap, tag: &str) -> bool {
    let given = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok());
    given
        .flat_map(|v| v.split(','))
        .any(|one| one.trim().trim_start_matches("W/") == tag.trim_start_matches("W/"))
}

/// 304 with the tag.
pub(super) fn not_modified(tag: &str) -> Response {
    let mut response = StatusCode::NOT_MODIFIED.into_response();
    set_tag(&mut response, tag);
    response
}

/// Puts the tag on an answer.
pub(super) fn set_tag(response: &mut Response, tag: &str) {
    if let Ok(value) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, value);
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    }
}

/// A JSON body with the tag of its own bytes.
pub(super) fn json<T: Serialize>(headers: &HeaderMap, body: &T) -> Result<Response, Problem> {
    let bytes = serde_json::to_vec(body).map_err(|e| Problem::Store(e.into()))?;
    let digest = Sha256::digest(&bytes);
    let tag = format!("\"{}\"", digest[..8].iter().map(|b| format!("{b:02x}")).collect::<String>());
    if has_already(headers, &tag) {
        return Ok(not_modified(&tag));
    }
    let mut response = Body::from(bytes).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    set_tag(&mut response, &tag);
    Ok(response)
}
