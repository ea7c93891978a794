//! The HTTP API v1: sites, agents, devices, series, readings, changes, latest, gaps, coverage, alerts, events, health,
//! metrics,
//! and its own description. Asks [`ReadStore`], hands orders to the writer; decides nothing and writes nothing.

mod alerts;
mod auth;
mod coverage;
mod events;
mod exposition;
mod fleet;
mod freshness_header;
mod gaps;
mod housekeeping;
mod jobs;
mod latest;
mod live;
mod metrics;
mod openapi;
mod operations;
mod params;
mod periods;
mod problem;
mod readings;
mod reply;
mod resample;
mod stream;
mod table;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use axum::{Extension, Router};
use gapless_common::id::Commit;
use gapless_common::time::Timestamp;
use tokio::sync::watch;

use crate::ingest::Orders;
use crate::store::{ReadError, ReadStore};
use crate::web;

pub(crate) use alerts::{AlertsQuery, STATES as ALERT_STATES, alert_state};
pub(crate) use auth::{TOKEN_COOKIE, hash_token, is_known, who};
pub(crate) use coverage::slot_state;
pub use fleet::{Freshness, FreshnessState};
pub(crate) use fleet::{find_device, is_there, link_word};
pub(crate) use gaps::{GapsQuery, STATES as GAP_STATES, gap_state};
pub(crate) use latest::latest_rows;
pub(crate) use params::Params;
pub use problem::Problem;

/// What the writer tells the API beside the database: whether it can commit.
#[derive(Debug)]
pub struct Health {
    writing: AtomicBool,
    receiving: AtomicBool,
}

impl Default for Health {
    /// Until something fails, commits work; until a broker is there, nothing is received.
    fn default() -> Self {
        Self { writing: AtomicBool::new(true), receiving: AtomicBool::new(false) }
    }
}

impl Health {
    /// Says whether the last commit worked.
    pub fn set_writing(&self, works: bool) {
        self.writing.store(works, Ordering::Relaxed);
    }

    /// Says whether the broker is connected.
    pub fn set_receiving(&self, works: bool) {
        self.receiving.store(works, Ordering::Relaxed);
    }

    /// Whether the last commit worked.
    #[must_use]
    pub fn writing(&self) -> bool {
        self.writing.load(Ordering::Relaxed)
    }

    /// Whether the broker is connected.
    #[must_use]
    pub fn receiving(&self) -> bool {
        self.receiving.load(Ordering::Relaxed)
    }
}

/// What every handler works with.
#[derive(Clone)]
pub struct ApiState {
    /// Answers the questions.
    pub store: Arc<dyn ReadStore + Send + Sync>,
    /// The last commit; moves when there is news.
    pub commits: watch::Receiver<Commit>,
    /// Whether commits work.
    pub health: Arc<Health>,
    /// Carries out what a person wishes.
    pub orders: Orders,
    /// The wall clock.
    pub now: fn() -> Timestamp,
}

impl std::fmt::Debug for ApiState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiState").field("commit", &*self.commits.borrow()).finish_non_exhaustive()
    }
}

impl ApiState {
    /// Asks the store on a thread that may block.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn ReadStore) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Problem> {
        let store = Arc::clone(&self.store);
        match tokio::task::spawn_blocking(move || question(store.as_ref())).await {
            Ok(answer) => answer.map_err(|e| Problem::Store(e.into())),
            Err(panicked) => Err(Problem::Store(panicked.into())),
        }
    }
}

/// Every route, the page included.
pub fn router(state: ApiState) -> Router {
    let guarded = Router::new()
        .route("/api/v1/sites", get(fleet::sites))
        .route("/api/v1/sites/{site}/live", get(live::show).post(live::take).delete(live::end))
        .route("/api/v1/traffic", get(live::traffic))
        .route("/api/v1/agents", get(fleet::agents))
        .route("/api/v1/devices", get(fleet::devices))
        .route("/api/v1/devices/{site}/{device}", get(fleet::device))
        .route("/api/v1/devices/{site}/{device}/refresh", post(jobs::refresh))
        .route("/api/v1/devices/{site}/{device}/resume", post(alerts::resume))
        .route("/api/v1/devices/{site}/{device}/confirm", post(housekeeping::confirm))
        .route("/api/v1/removals", get(housekeeping::removals))
        .route("/api/v1/alerts", get(alerts::alerts))
        .route("/api/v1/alerts/{id}", get(alerts::alert))
        .route("/api/v1/alerts/{id}/acknowledge", post(alerts::acknowledge))
        .route("/api/v1/receivers", get(alerts::receivers))
        .route("/api/v1/jobs", get(jobs::jobs))
        .route("/api/v1/series", get(fleet::series))
        .route("/api/v1/events", get(events::events).layer(Extension(events::Hub::default())))
        .route("/api/v1/latest", get(latest::latest))
        .route("/api/v1/readings", get(readings::readings))
        .route("/api/v1/changes", get(readings::changes))
        .route("/api/v1/gaps", get(gaps::gaps))
        .route("/api/v1/gaps/{id}", get(gaps::gap))
        .route("/api/v1/gaps/{id}/retry", post(gaps::retry))
        .route("/api/v1/gaps/{id}/reopen", post(gaps::reopen))
        .route("/api/v1/coverage", get(coverage::coverage))
        .route("/api/v1/conflicts", get(coverage::conflicts))
        .route("/api/v1/parked", get(coverage::parked))
        .route("/api/v1/parked/{id}", delete(coverage::discard))
        .route("/metrics", get(metrics::metrics).layer(Extension(metrics::Scrapes::default())))
        .layer(from_fn_with_state(state.clone(), auth::require_token));
    Router::new()
        .route("/health", get(operations::health))
        .route("/ready", get(operations::ready))
        .route("/openapi.json", get(openapi::document))
        .merge(guarded)
        .merge(web::router())
        .fallback(operations::not_found)
        .with_state(state)
}

/// Serves the API on `listen` until `shutdown` resolves; answers under way are finished.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(
    state: ApiState,
    listener: tokio::net::TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(state)).with_graceful_shutdown(shutdown).await
}

/// Binds the API's address.
///
/// # Errors
/// When it is in use or not of this machine.
pub async fn bind(listen: SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::bind(listen).await
}
