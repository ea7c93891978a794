//! For whoever keeps the collector running: health and readiness. Metrics are in `metrics`.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiState, Problem};

/// Whether the collector works.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HealthBody {
    /// `ok` or `failing`.
    status: &'static str,
    /// Whether the last commit worked.
    writing: bool,
    /// Whether the broker is connected.
    receiving: bool,
    /// The database's life; another one after a restore.
    incarnation: Option<String>,
    /// The last commit.
    commit: Option<u64>,
}

async fn look(state: &ApiState) -> HealthBody {
    let head = state.ask(|store| store.head()).await.ok();
    let (writing, receiving) = (state.health.writing(), state.health.receiving());
    HealthBody {
        status: if writing && head.is_some() { "ok" } else { "failing" },
        writing,
        receiving,
        incarnation: head.map(|h| h.incarnation.to_string()),
        commit: head.map(|h| h.commit.0),
    }
}

/// Whether commits work and the database answers: 200 or 503. Needs no token.
#[utoipa::path(get, path = "/health", tag = "operations", security(()),
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody)))]
pub(super) async fn health(State(state): State<ApiState>) -> Response {
    let body = look(&state).await;
    let status = if body.status == "ok" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body)).into_response()
}

/// Whether it works and receives: 200 or 503. Needs no token.
#[utoipa::path(get, path = "/ready", tag = "operations", security(()),
    responses((status = 200, body = HealthBody), (status = 503, body = HealthBody)))]
pub(super) async fn ready(State(state): State<ApiState>) -> Response {
    let body = look(&state).await;
    let ready = body.status == "ok" && body.receiving;
    (if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, Json(body)).into_response()
}

/// Any other path.
pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::NoPage(uri.path().to_owned())
}
