//! The one place that turns errors into HTTP: problem details (RFC 9457) with a status, a title and a detail
//! that says what to do.
//!
//! Handlers only translate into [`Problem`]; they choose no status themselves.

use std::fmt::Display;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Problem details (RFC 9457, section 3), as `application/problem+json`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProblemBody {
    /// Identifies the kind of problem, as a URI reference: `/problems/{kind}`.
    #[schema(example = "/problems/bad-parameter")]
    pub(super) r#type: String,
    /// The kind in words.
    pub(super) title: &'static str,
    /// The HTTP status again.
    pub(super) status: u16,
    /// What is wrong in this request, and what would be right.
    pub(super) detail: String,
}

/// Everything a request can end in besides its answer.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No token, or one that is not known.
    #[error(
        "send a token: `Authorization: Bearer TOKEN` (the admin token lies in the collector's data directory)"
    )]
    Unauthorized,
    /// A query parameter that cannot be read.
    #[error("parameter `{name}`: {why}")]
    BadParameter {
        /// Which parameter.
        name: String,
        /// What is wrong with it, and what would be right.
        why: String,
    },
    /// Nothing by that name.
    #[error("there is no {what} `{name}`")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
        /// The name asked for.
        name: String,
    },
    /// No page is there.
    #[error("there is no page `{0}`; /docs names those that there are")]
    NoPage(String),
    /// The thing is not in a state for that.
    #[error("{0}")]
    Conflict(String),
    /// What writes cannot take an order now.
    #[error("the collector cannot write at this moment; try again, and see /health")]
    Busy,
    /// As many as there may be are open.
    #[error("too many {0} are open: close some, or try again later")]
    TooMany(&'static str),
    /// The database could not answer.
    #[error("the database could not answer; the collector's log says why")]
    Store(#[source] anyhow::Error),
}

impl Problem {
    /// The parameter `name` is wrong because of `why`.
    pub fn parameter(name: impl Into<String>, why: impl Display) -> Self {
        Self::BadParameter { name: name.into(), why: format!("{why}") }
    }

    /// Nothing of the kind `what` has that name.
    pub fn not_found(what: &'static str, name: impl Display) -> Self {
        Self::NotFound { what, name: format!("{name}") }
    }

    const fn kind(&self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A token is needed"),
            Self::BadParameter { .. } => {
                (StatusCode::BAD_REQUEST, "bad-parameter", "A parameter cannot be used")
            }
            Self::NotFound { .. } | Self::NoPage(_) => (StatusCode::NOT_FOUND, "not-found", "Not found"),
            Self::Conflict(_) => (StatusCode::CONFLICT, "conflict", "Not possible as things are"),
            Self::Busy => (StatusCode::SERVICE_UNAVAILABLE, "busy", "Cannot write now"),
            Self::TooMany(_) => (StatusCode::SERVICE_UNAVAILABLE, "too-many", "Too many at once"),
            Self::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "store", "The database failed"),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, slug, title) = self.kind();
        if let Self::Store(source) = &self {
            tracing::error!("a request failed: {source:#}");
        }
        let body = ProblemBody {
            r#type: format!("/problems/{slug}"),
            title,
            status: status.as_u16(),
            detail: self.to_string(),
        };
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
