//! The latest reading of each series, with the freshness of its device.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use gapless_common::time::Timestamp;
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
    /// Whether another device measured it, which stands in: the device's own data is as old as `freshness` says.
    lent: bool,
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

/// The latest reading of each series, of whichever revision.
#[utoipa::path(get, path = "/api/v1/latest", tag = "readings", params(LatestQuery),
    responses((status = 200, body = Page<Latest>), (status = 404, body = super::problem::ProblemBody)))]
pub(super) async fn latest(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<LatestQuery>,
) -> Result<Response, Problem> {
    let selector = query.series.as_deref().map(SeriesSelector::parse).transpose()?;
    let now = (state.now)();
    let look = move |store: &dyn ReadStore| {
        let all = store.series(None, None)?;
        let series = match &selector {
            Some(selector) => selector.pick(all),
            None => Ok(all),
        };
        match series {
            Ok(series) => latest_rows(store, now, series).map(Ok),
            Err(unknown) => Ok(Err(unknown)),
        }
    };
    let rows = state.ask(look).await?.map_err(|unknown| Problem::not_found("series", unknown))?;
    state.orders.looked(rows.iter().map(|(_, _, device)| device), now);
    let items = rows.into_iter().map(|(series, reading, device)| Latest {
        series: path(&series),
        revision: series.revision,
        unit: series.unit,
        at: reading.at.to_string(),
        value: json_value(reading.value.as_ref()),
        quality: reading.quality.label().into_owned(),
        lent: reading.lent,
        freshness: Freshness::of(&device, now),
    });
    reply::json(&headers, &Page::whole(items.collect()))
}

/// The latest reading of each of these series, with its revision and its device. Not of the highest revision: a
/// meaning may come back, and a backlog of an older one may come after the first of the new.
pub(crate) fn latest_rows(
    store: &dyn ReadStore,
    now: Timestamp,
    series: Vec<SeriesRow>,
) -> Result<Vec<(SeriesRow, StoredReading, DeviceRow)>, ReadError> {
    let devices: BTreeMap<_, _> = store.devices(None, now)?.into_iter().map(|row| (row.no, row)).collect();
    let numbers: Vec<_> = series.iter().map(|row| row.no).collect();
    let readings: BTreeMap<_, _> = store.latest(&numbers, now)?.into_iter().map(|r| (r.series, r)).collect();
    let mut newest: BTreeMap<_, (SeriesRow, StoredReading, DeviceRow)> = BTreeMap::new();
    for row in series {
        let Some((reading, device)) = readings.get(&row.no).zip(devices.get(&row.device_no)) else {
            continue;
        };
        let key = (row.device_no, row.channel.clone());
        if newest.get(&key).is_none_or(|(_, before, _)| before.at <= reading.at) {
            newest.insert(key, (row, reading.clone(), device.clone()));
        }
    }
    Ok(newest.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Reader, sqlite};

    #[test]
    fn the_latest_is_of_the_revision_that_spoke_last() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("db");
        let connection = sqlite::open_writer(&file).unwrap();
        let sql = "INSERT INTO sites VALUES (1, 'farm');
            INSERT INTO devices (id, site, name) VALUES (1, 1, 'a');
            INSERT INTO series (id, device, channel, revision, unit, quantity, aggregation, label)
                VALUES (1, 1, 'u', 1, 'V', 'q', 1, 1), (2, 1, 'u', 2, 'kV', 'q', 1, 1), (3, 1, 'i', 1, 'A', 'q', 1, 1);";
        connection.execute_batch(sql).unwrap();
        let put = |series: i64, ts: i64| {
            let sql = "INSERT INTO readings VALUES (?1, ?2, 1.5, 0, 1)";
            connection.execute(sql, [series, ts]).unwrap();
            let reader = Reader::new(&file);
            let rows = latest_rows(&reader, Timestamp(10_000), reader.series(None, None).unwrap()).unwrap();
            rows.into_iter().map(|(row, r, _)| (row.unit, r.at.0)).collect::<Vec<_>>()
        };
        let rows = [
            (2, 3_000, "kV", 3_000),
            (1, 2_000, "kV", 3_000),
            (1, 4_000, "V", 4_000),
            (1, 900_000, "V", 4_000),
        ];
        for (series, ts, unit, at) in rows {
            assert_eq!(put(series, ts), [(unit.to_owned(), at)], "after {ts} of {series}");
        }
    }
}
