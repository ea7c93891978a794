//! The API's own description (OpenAPI 3.1), gathered from the handlers.

use axum::Json;
use axum::http::StatusCode;
use utoipa::OpenApi;
use utoipa::openapi::RefOr;
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
    modifiers(&Token, &Phrases)
)]
struct Description;

struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    }
}

/// OpenAPI 3.1 wants a description of every response: the phrase of its status, where there is nothing more to say.
struct Phrases;

impl utoipa::Modify for Phrases {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        for path in document.paths.paths.values_mut() {
            let operations = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete];
            let all =
                operations.into_iter().flatten().flat_map(|operation| &mut operation.responses.responses);
            for (status, response) in all {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    response.description = phrase(status).to_owned();
                }
            }
        }
    }
}

fn phrase(status: &str) -> &'static str {
    let known = StatusCode::from_bytes(status.as_bytes()).ok();
    known.and_then(|status| status.canonical_reason()).unwrap_or("Answer")
}

/// The description as JSON.
pub(super) async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// OpenAPI 3.1, section 4.8.17: required of a response object.
    #[test]
    fn every_response_has_a_description() {
        let document = serde_json::to_value(Description::openapi()).unwrap();
        let mut responses = 0;
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let Some(all) = operation["responses"].as_object() else { continue };
                for (status, response) in all {
                    let words = response["description"].as_str();
                    assert!(words.is_some_and(|words| !words.is_empty()), "{method} {path} {status}");
                    responses += 1;
                }
            }
        }
        assert!(responses > 70, "{responses}");
        let devices = &document["paths"]["/api/v1/devices"]["get"]["responses"];
        assert_eq!(devices["200"]["description"], Value::from("OK"));
    }
}
