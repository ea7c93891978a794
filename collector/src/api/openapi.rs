//! The API's own description (OpenAPI 3.1), gathered from the handlers.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};

use super::{
    alerts, coverage, events, fleet, gaps, housekeeping, jobs, latest, live, metrics, operations, readings,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Gapless collector",
        description = "Times are RFC 3339, ranges are half open, problems follow RFC 9457. Every answer about data is one \
                       committed state of the database; `changes` gives what is new since a commit."
    ),
    paths(
        fleet::sites,
        fleet::agents,
        fleet::devices,
        fleet::device,
        fleet::series,
        alerts::alerts,
        alerts::alert,
        alerts::acknowledge,
        alerts::resume,
        alerts::receivers,
        housekeeping::confirm,
        housekeeping::removals,
        jobs::refresh,
        jobs::jobs,
        events::events,
        live::show,
        live::take,
        live::end,
        live::traffic,
        latest::latest,
        readings::readings,
        readings::changes,
        gaps::gaps,
        gaps::gap,
        gaps::retry,
        gaps::reopen,
        coverage::coverage,
        coverage::conflicts,
        coverage::parked,
        coverage::discard,
        operations::health,
        operations::ready,
        metrics::metrics
    ),
    security(("token" = [])),
    modifiers(&Token)
)]
struct Description;

struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// The description as JSON.
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}
