//! For whoever keeps the collector running: health, readiness, metrics (OpenMetrics 1.0).

use std::sync::atomic::AtomicU64;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Serialize;
use utoipa::ToSchema;

use super::{ApiState, Problem};
use crate::store::model::{AgentRow, Head, Link, Stats};

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

type AgentGauge = Family<[(&'static str, String); 2], Gauge<u64, AtomicU64>>;

fn register(registry: &mut Registry, head: Head, stats: &Stats, agents: &[AgentRow]) {
    let single = [
        ("commit", "Last commit", head.commit.0),
        ("open_gaps", "Gaps open", stats.open_gaps),
        ("parked_frames", "Frames kept but not usable", stats.parked),
        ("parked_bytes", "Bytes of parked frames", stats.parked_bytes),
        ("conflicts", "Values that contradict stored ones", stats.conflicts),
        ("series", "Series, all revisions", stats.series),
        ("database_bytes", "Size of the database file", stats.file_bytes),
    ];
    for (name, help, value) in single {
        let gauge = Gauge::<u64, AtomicU64>::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    }
    type Column = (&'static str, &'static str, fn(&AgentRow) -> u64);
    let columns: [Column; 8] = [
        ("agent_connected", "1 where the agent is connected", |a| u64::from(a.link == Link::Connected)),
        ("agent_frames", "Frames taken", |a| a.counters.frames),
        ("agent_readings", "Readings stored", |a| a.counters.readings),
        ("agent_duplicates", "Readings that were there already", |a| a.counters.duplicates),
        ("agent_damaged_frames", "Frames with a wrong checksum", |a| a.counters.damaged),
        ("agent_refused_frames", "Messages refused: what cannot be, or more than is kept of an agent", |a| {
            a.counters.refused
        }),
        ("agent_missing_records", "Records known to exist that have not arrived", |a| a.missing_records),
        ("agent_last_heard_seconds", "When it was heard from last, seconds since 1970", |a| {
            a.last_heard_at.and_then(|t| u64::try_from(t.0 / 1_000).ok()).unwrap_or(0)
        }),
    ];
    for (name, help, value) in columns {
        let family = AgentGauge::default();
        for agent in agents {
            let labels = [("site", agent.site.to_string()), ("agent", agent.agent.to_string())];
            family.get_or_create(&labels).set(value(agent));
        }
        registry.register(name, help, family);
    }
}

/// What a monitoring system scrapes.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, content_type = "application/openmetrics-text", body = String)))]
pub(super) async fn metrics(State(state): State<ApiState>) -> Result<Response, Problem> {
    let (head, stats, agents) =
        state.ask(|store| Ok((store.head()?, store.stats()?, store.agents(None)?))).await?;
    let mut registry = Registry::with_prefix("gapless");
    register(&mut registry, head, &stats, &agents);
    let mut text = String::new();
    encode(&mut text, &registry).map_err(|e| Problem::Store(e.into()))?;
    let media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media_type)], text).into_response())
}

/// Any other path.
pub(super) async fn not_found(uri: Uri) -> Problem {
    Problem::not_found("page", format!("{} (see /docs)", uri.path()))
}
