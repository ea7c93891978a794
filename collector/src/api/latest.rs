//! The latest reading of each series, with the freshness of its device.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::fleet::{Freshness, json_value, path};
use super::params::{Params, SeriesSelector};
use super::reply::{self, Page};
use super::{ApiState, Problem};
use crate::store::model::{DeviceRow, SeriesRow, StoredReading};
use crate::store::{ReadError, ReadStore};

/// The latest reading of a series.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Latest {
    /// `site/device/channel`.
    series: String,
    /// Its revision.
    revision: u32,
    /// Unit symbol.
    unit: String,
    /// Acquisition time (RFC 3339).
    at: String,
    /// A number, a text, or null where the quality has none.
    #[schema(value_type = Option<f64>)]
    value: serde_json::Value,
    /// How far it can be trusted.
    quality: String,
    /// How old the device's data is.
    freshness: Freshness,
}

/// Which series.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LatestQuery {
    /// `site/device/channel`, each a name or `*`, several with `,` between them; all series without it.
    series: Option<String>,
}

/// The latest reading of each series (its newest revision).
#[utoipa::path(get, path = "/api/v1/latest", tag = "readings", params(LatestQuery), responses((status = 200, body = Page<Latest>)))]
pub(super) async fn latest(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<LatestQuery>,
) -> Result<Response, Problem> {
    let selector = query.series.as_deref().map(SeriesSelector::parse).transpose()?;
    let rows = state
        .ask(move |store| latest_rows(store, |row| selector.as_ref().is_none_or(|s| s.matches(row))))
        .await?;
    let now = (state.now)();
    let items = rows.into_iter().map(|(series, reading, device)| Latest {
        series: path(&series),
        revision: series.revision,
        unit: series.unit,
        at: reading.at.to_string(),
        value: json_value(reading.value.as_ref()),
        quality: reading.quality.label().into_owned(),
        freshness: Freshness::of(&device, now),
    });
    reply::json(&headers, &Page::whole(items.collect()))
}

/// The newest revision of each wanted series with its latest reading and its device.
pub(crate) fn latest_rows(
    store: &dyn ReadStore,
    wanted: impl Fn(&SeriesRow) -> bool,
) -> Result<Vec<(SeriesRow, StoredReading, DeviceRow)>, ReadError> {
    let devices: BTreeMap<_, _> = store.devices(None)?.into_iter().map(|row| (row.no, row)).collect();
    let mut newest: BTreeMap<_, SeriesRow> = BTreeMap::new();
    for row in store.series(None, None)?.into_iter().filter(wanted) {
        newest.insert((row.device_no, row.channel.clone()), row);
    }
    let numbers: Vec<_> = newest.values().map(|row| row.no).collect();
    let readings: BTreeMap<_, _> = store.latest(&numbers)?.into_iter().map(|r| (r.series, r)).collect();
    let join =
        |row: SeriesRow| Some((readings.get(&row.no)?.clone(), devices.get(&row.device_no)?.clone(), row));
    Ok(newest.into_values().filter_map(join).map(|(reading, device, row)| (row, reading, device)).collect())
}
