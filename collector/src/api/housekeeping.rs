//! What is tidied away by itself, and a person's word that a device is to be collected.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Asker;
use super::fleet::{Device, find_device};
use super::params::{self, Params};
use super::problem::ProblemBody;
use super::reply::{self, Page};
use super::{ApiState, Problem};
use crate::ingest::Act;
use crate::store::model::RemovalRow;

/// Says that a device is to be collected; one that was dropped because nobody had said so comes back.
#[utoipa::path(post, path = "/api/v1/devices/{site}/{device}/confirm", tag = "fleet",
    params(("site" = String, Path, description = "Site"), ("device" = String, Path, description = "Device")),
    responses((status = 200, body = Device), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody)))]
pub(super) async fn confirm(
    State(state): State<ApiState>,
    Extension(Asker(name)): Extension<Asker>,
    headers: HeaderMap,
    Path((site, device)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let now = (state.now)();
    let row = find_device(&state, &site, &device, now).await?;
    state.orders.act(Act::Confirm { device: row.no, actor: format!("token {name}") }).await?;
    reply::json(&headers, &Device::new(find_device(&state, &site, &device, now).await?, now))
}

/// Something that was tidied away by itself, or is asked no more.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Removal {
    /// Its number.
    id: i64,
    /// When (RFC 3339).
    at: String,
    /// `device_suspended`, `device_not_confirmed`, `agreement_ended` (such a device is asked no more; its readings are kept),
    /// `job_history`, `quarantine` (a frame that could not be used, discarded by a person) or `alerts` (that were over).
    what: String,
    /// The site of the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<String>,
    /// The device.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    /// How many.
    count: u64,
    /// Why, for people.
    detail: String,
}

impl From<RemovalRow> for Removal {
    fn from(row: RemovalRow) -> Self {
        let (site, device) = row.device.unzip();
        Self {
            id: row.id,
            at: row.at.to_string(),
            what: row.what,
            site: site.map(|site| site.to_string()),
            device: device.map(|device| device.to_string()),
            count: row.count,
            detail: row.detail,
        }
    }
}

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemovalsQuery {
    /// At most so many.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Everything that was ever tidied away by itself, and each device that is asked no more.
#[utoipa::path(get, path = "/api/v1/removals", tag = "operations", params(RemovalsQuery),
    responses((status = 200, body = Page<Removal>)))]
pub(super) async fn removals(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<RemovalsQuery>,
) -> Result<Response, Problem> {
    let (after, limit) = (params::cursor(query.cursor.as_deref())?, params::limit(query.limit)?);
    let rows = state.ask(move |store| store.removals(after, limit)).await?;
    reply::json(&headers, &Page::of(rows.into_iter().map(Removal::from).collect(), limit, |row| row.id))
}
