//! Readings, raw, with the slots that lack one, or resampled, and what changed since a commit: streamed in bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use gapless_common::catalog::Aggregation;
use gapless_common::id::Commit;
use gapless_common::reading::Value;
use gapless_common::text;
use gapless_common::time::{Interval, SlotGrid, Timestamp};
use serde::Deserialize;
use utoipa::IntoParams;

use super::fleet::{Freshness, FreshnessState};
use super::freshness_header;
use super::params::{self, Params, SeriesSelector, TimeRange};
use super::periods::CompletePeriods;
use super::reply;
use super::resample::Resampler;
use super::stream::{ChunkSender, stream};
use super::table::{Format, Row, Shape, TableWriter};
use super::{ApiState, Problem};
use crate::store::model::{ChangeRow, DeviceRow, Flow, GridRow, Scan, SeriesNo, SeriesRow, StoredReading};
use crate::store::{ReadError, ReadStore};

/// Which readings, and how.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ReadingsQuery {
    /// `site/device/channel`, each a name or `*`, several with `,` between them.
    series: String,
    /// From this instant on (RFC 3339); a day before `to` without it.
    from: Option<String>,
    /// Before this instant (RFC 3339); now without it.
    to: Option<String>,
    /// `json` (default), `csv` or `ndjson`.
    format: Option<String>,
    /// Length of the periods to resample to, such as `10m` or `1h`; raw readings without it. The range is made longer so that it begins
    /// and ends with a period; the one that is not over is told up to now. Of the `count` values of a period
    /// `lent` were measured by another device, which stands in: 0 where all are the device's own. `sum` is there of series whose
    /// aggregation is `sum`.
    resample: Option<String>,
    /// `complete`: each slot of the devices' schedules from the first one that was due up to now that has no reading is a row, too, at the instant at which
    /// it was due, with value and quality null, and `state`: `received` (of a reading), `lent` (of one that another device measured), `pending` (it may be on its way,
    /// or its source will be or is being asked), `no_data` (its source was asked and has nothing), `missing` (nobody can
    /// be asked for it) or `unknown` (its agent has not been heard from, or its source not been read). What was before the first slot that was due, a history that
    /// was collected from before the device was announced, is readings only: nothing says what was due between them.
    /// `cause` and, once it is proven, `gap` say why.
    /// With `resample` each period in which a slot was due is a row: one without a value has a `count` of 0, all numbers null, and
    /// the `state`, `cause` and `gap` of its slots (of several that which may still come; `received`, and a `quality`, where all
    /// readings came without a value); one with values is `received`, or `partial` where slots of it have no reading.
    grid: Option<String>,
    /// At most so many raw rows; all without it (the answer is streamed).
    limit: Option<u64>,
    /// `next` of the answer before, to go on after its limit.
    cursor: Option<String>,
}

fn format(text: Option<&str>) -> Result<Format, Problem> {
    match text {
        None | Some("json") => Ok(Format::Json),
        Some("csv") => Ok(Format::Csv),
        Some("ndjson") => Ok(Format::Ndjson),
        Some(other) => Err(Problem::parameter("format", format!("json, csv or ndjson, got `{other}`"))),
    }
}

fn resample(text: Option<&str>) -> Result<Option<Interval>, Problem> {
    let parse = |text: &str| {
        let ms = text::parse_duration_ms(text).map_err(|e| Problem::parameter("resample", e))?;
        Interval::from_ms(ms).map_err(|e| Problem::parameter("resample", e))
    };
    text.map(parse).transpose()
}

/// Whether the complete grid is asked for.
fn complete_grid(text: Option<&str>) -> Result<bool, Problem> {
    match text {
        None => Ok(false),
        Some("complete") => Ok(true),
        Some(other) => Err(Problem::parameter("grid", format!("`complete`, or leave it out; got `{other}`"))),
    }
}

fn row_limit(asked: Option<u64>) -> Result<Option<u64>, Problem> {
    if asked == Some(0) { Err(Problem::parameter("limit", "at least 1")) } else { Ok(asked) }
}

/// A place within a scan: series and time of the last row sent.
fn position(text: Option<&str>) -> Result<Option<(SeriesNo, Timestamp)>, Problem> {
    let bad = || Problem::parameter("cursor", "take `next` of the answer before, unchanged");
    let parse = |text: &str| {
        let (series, at) = text.split_once('_').ok_or_else(bad)?;
        Ok((SeriesNo(series.parse().map_err(|_| bad())?), Timestamp(at.parse().map_err(|_| bad())?)))
    };
    text.map(parse).transpose()
}

/// A series that was asked for, with the schedule of its device.
#[derive(Debug)]
struct Wanted {
    row: SeriesRow,
    due: Option<SlotGrid>,
}

/// What was asked for, and the devices that it is of.
type Found = (BTreeMap<SeriesNo, Wanted>, Vec<DeviceRow>);

/// Or the part of the selector of which there is no series.
fn wanted(
    store: &dyn ReadStore,
    selector: &SeriesSelector,
    now: Timestamp,
) -> Result<Result<Found, String>, ReadError> {
    let rows = match selector.pick(store.series(None, None)?) {
        Ok(rows) => rows.into_iter(),
        Err(unknown) => return Ok(Err(unknown)),
    };
    let mut devices = store.devices(None, now)?;
    let grids: BTreeMap<_, _> = devices.iter().map(|d| (d.no, d.grid)).collect();
    let series: BTreeMap<_, _> =
        rows.map(|row| (row.no, Wanted { due: grids.get(&row.device_no).copied().flatten(), row })).collect();
    devices.retain(|device| series.values().any(|series| series.row.device_no == device.no));
    Ok(Ok((series, devices)))
}

/// How rows are made of readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Raw,
    Complete,
    Periods(Interval),
    CompletePeriods(Interval),
}

#[derive(Debug)]
struct Plan {
    scan: Scan,
    series: BTreeMap<SeriesNo, Wanted>,
    shape: Wish,
    format: Format,
    now: Timestamp,
    limit: Option<u64>,
    /// By `site/device`.
    freshness: BTreeMap<String, Freshness>,
}

/// Readings of some series in a range of time, raw (`lent` where another device measured it, which stands in for one that was not there), raw with the slots that have none, or resampled; JSON, CSV or NDJSON. Every series revision
/// is answered apart: no period mixes units.
#[utoipa::path(get, path = "/api/v1/readings", tag = "readings", params(ReadingsQuery),
    responses((status = 200, description = "The readings, in the order (series, time). JSON and NDJSON end in \
        `complete: true` and the `freshness` of each device; a broken answer of any format is cut without its last HTTP chunk. CSV has no place for freshness: the header `Gapless-Freshness` \
            has it as JSON, `{devices: {SITE/DEVICE: …}, more: …}`, of as many devices as there is room for."),
        (status = 304, description = "Nothing changed since the given ETag"),
        (status = 400, body = super::problem::ProblemBody), (status = 404, body = super::problem::ProblemBody)))]
pub(super) async fn readings(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<ReadingsQuery>,
) -> Result<Response, Problem> {
    let selector = SeriesSelector::parse(&query.series)?;
    let now = (state.now)();
    let TimeRange { from, to } = params::time_range(query.from.as_deref(), query.to.as_deref(), now)?;
    let (format, every) = (format(query.format.as_deref())?, resample(query.resample.as_deref())?);
    let asked = TimeRange { from, to };
    let TimeRange { from, to } = every.map_or(asked, |every| asked.of_whole_periods(every, now));
    let (after, limit) = (position(query.cursor.as_deref())?, row_limit(query.limit)?);
    let is_complete = complete_grid(query.grid.as_deref())?;
    if every.is_some() {
        // Periods are made from all of a range's readings.
        let given = [("limit", limit.is_some()), ("cursor", after.is_some())];
        if let Some((name, _)) = given.into_iter().find(|(_, is_given)| *is_given) {
            return Err(Problem::parameter(name, "goes with raw readings, not with `resample`"));
        }
    }
    let shape = match (every, is_complete) {
        (None, false) => Wish::Raw,
        (None, true) => Wish::Complete,
        (Some(every), false) => Wish::Periods(every),
        (Some(every), true) => Wish::CompletePeriods(every),
    };
    let (head, found) = state.ask(move |store| Ok((store.head()?, wanted(store, &selector, now)?))).await?;
    let (series, devices) = found.map_err(|unknown| Problem::not_found("series", unknown))?;
    state.orders.looked(devices.iter(), now);
    let freshness: BTreeMap<_, _> =
        devices.iter().map(|d| (format!("{}/{}", d.site, d.device), Freshness::of(d, now))).collect();
    // Between two commits data only grows older, so the number in each state says whether any is in another one.
    let count = |state| freshness.values().filter(|f| f.state == state).count();
    let (ageing, stale) = (count(FreshnessState::Ageing), count(FreshnessState::Stale));
    let tag = format!("W/\"{}-{}-{ageing}-{stale}\"", head.incarnation, head.commit);
    // A slot without a reading changes its state by the clock alone.
    let is_over = every.is_none() || to < now;
    let fixed = query.from.is_some() && query.to.is_some() && !is_complete && is_over;
    if fixed && reply::has_already(&headers, &tag) {
        return Ok(reply::not_modified(&tag));
    }
    let scan = Scan { series: series.keys().copied().collect(), from, to, after };
    let in_head = (format == Format::Csv).then(|| freshness.clone());
    let plan = Plan { scan, series, shape, format, now, limit, freshness };
    let mut response = stream(&state, format.media_type(), move |store, out| plan.run(store, out));
    if let Some(freshness) = in_head {
        freshness_header::set(&mut response, &freshness);
    }
    if fixed {
        reply::set_tag(&mut response, &tag);
    }
    Ok(response)
}

impl Plan {
    fn run(&self, store: &dyn ReadStore, out: &mut ChunkSender) -> Result<(), ReadError> {
        match self.shape {
            Wish::Raw => self.raw(store, out),
            Wish::Complete => self.complete(store, out),
            Wish::Periods(every) => self.periods(store, out, every),
            Wish::CompletePeriods(every) => self.complete_periods(store, out, every),
        }
    }

    fn raw(&self, store: &dyn ReadStore, out: &mut ChunkSender) -> Result<(), ReadError> {
        let mut table = TableWriter::new(self.format, Shape::Raw);
        let mut page = Page::of(self.limit);
        table.begin(&mut out.buffer);
        store.readings(&self.scan, &mut |reading| {
            if !page.has_room_for((reading.series, reading.at)) {
                return Flow::Stop;
            }
            if let Some(series) = self.series.get(&reading.series) {
                table.row(&mut out.buffer, &series.row, &Row::Raw(&reading));
            }
            out.flow()
        })?;
        table.end(&mut out.buffer, page.next.as_deref(), &self.freshness);
        Ok(())
    }

    fn complete(&self, store: &dyn ReadStore, out: &mut ChunkSender) -> Result<(), ReadError> {
        let mut table = TableWriter::new(self.format, Shape::Complete);
        let mut page = Page::of(self.limit);
        table.begin(&mut out.buffer);
        store.complete(&self.scan, self.now, &mut |row| {
            let position = match &row {
                GridRow::Reading(reading) => (reading.series, reading.at),
                GridRow::Absent(slot) => (slot.series, slot.at),
            };
            if !page.has_room_for(position) {
                return Flow::Stop;
            }
            if let Some(series) = self.series.get(&position.0) {
                table.row(&mut out.buffer, &series.row, &Row::Grid(&row));
            }
            out.flow()
        })?;
        table.end(&mut out.buffer, page.next.as_deref(), &self.freshness);
        Ok(())
    }

    fn periods(
        &self,
        store: &dyn ReadStore,
        out: &mut ChunkSender,
        every: Interval,
    ) -> Result<(), ReadError> {
        let mut table = TableWriter::new(self.format, Shape::Periods);
        let mut current: Option<(&Wanted, Resampler)> = None;
        let before = self.counters_before(store)?;
        table.begin(&mut out.buffer);
        store.readings(&self.scan, &mut |reading| {
            if current.as_ref().is_none_or(|(series, _)| series.row.no != reading.series) {
                finish(&mut current, &mut table, out);
                current = self.series.get(&reading.series).map(|series| {
                    let before = before.get(&reading.series).copied();
                    (series, series.resampler(every, (self.scan.from, self.scan.to), before))
                });
            }
            if let (Some((series, resampler)), Some(Value::Number(value))) = (&mut current, &reading.value)
                && let Some(period) = resampler.push(reading.at, *value, reading.lent)
            {
                table.row(&mut out.buffer, &series.row, &Row::Period(&period));
            }
            out.flow()
        })?;
        finish(&mut current, &mut table, out);
        table.end(&mut out.buffer, None, &self.freshness);
        Ok(())
    }
}

impl Plan {
    fn complete_periods(
        &self,
        store: &dyn ReadStore,
        out: &mut ChunkSender,
        every: Interval,
    ) -> Result<(), ReadError> {
        let mut table = TableWriter::new(self.format, Shape::CompletePeriods);
        let mut current: Option<(&Wanted, CompletePeriods)> = None;
        let before = self.counters_before(store)?;
        let finish = |current: &mut Option<(&Wanted, CompletePeriods)>,
                      table: &mut TableWriter,
                      out: &mut ChunkSender| {
            if let Some((series, mut periods)) = current.take()
                && let Some(marked) = periods.finish()
            {
                table.row(&mut out.buffer, &series.row, &Row::Marked(&marked));
            }
        };
        table.begin(&mut out.buffer);
        store.complete(&self.scan, self.now, &mut |row| {
            let no = match &row {
                GridRow::Reading(reading) => reading.series,
                GridRow::Absent(slot) => slot.series,
            };
            if current.as_ref().is_none_or(|(series, _)| series.row.no != no) {
                finish(&mut current, &mut table, out);
                current = self.series.get(&no).map(|series| {
                    let range = (self.scan.from, self.scan.to);
                    (series, CompletePeriods::new(series.resampler(every, range, before.get(&no).copied())))
                });
            }
            if let Some((series, periods)) = &mut current
                && let Some(marked) = periods.push(&row)
            {
                table.row(&mut out.buffer, &series.row, &Row::Marked(&marked));
            }
            out.flow()
        })?;
        finish(&mut current, &mut table, out);
        table.end(&mut out.buffer, None, &self.freshness);
        Ok(())
    }

    /// What each counter stood at when the range began.
    fn counters_before(&self, store: &dyn ReadStore) -> Result<BTreeMap<SeriesNo, f64>, ReadError> {
        let counters = self.series.values().filter(|s| s.row.aggregation == Aggregation::Counter);
        let numbers: Vec<_> = counters.map(|series| series.row.no).collect();
        let before = store.numbers_before(&numbers, self.scan.from)?.into_iter();
        Ok(before
            .filter_map(|r| match r.value {
                Some(Value::Number(x)) => Some((r.series, x)),
                _ => None,
            })
            .collect())
    }
}

/// Where an answer with a limit ends.
struct Page {
    left: u64,
    last: Option<(SeriesNo, Timestamp)>,
    next: Option<String>,
}

impl Page {
    fn of(limit: Option<u64>) -> Self {
        Self { left: limit.unwrap_or(u64::MAX), last: None, next: None }
    }

    /// Whether one more row may be written; a cursor names an instant, so rows of the same one are never cut apart.
    fn has_room_for(&mut self, position: (SeriesNo, Timestamp)) -> bool {
        if self.left == 0 && self.last != Some(position) {
            self.next = self.last.map(|(series, at)| format!("{}_{}", series.0, at.0));
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.last = Some(position);
        true
    }
}

fn finish(current: &mut Option<(&Wanted, Resampler)>, table: &mut TableWriter, out: &mut ChunkSender) {
    if let Some((series, mut resampler)) = current.take()
        && let Some(period) = resampler.finish()
    {
        table.row(&mut out.buffer, &series.row, &Row::Period(&period));
    }
}

impl Wanted {
    const fn resampler(
        &self,
        every: Interval,
        range: (Timestamp, Timestamp),
        before: Option<f64>,
    ) -> Resampler {
        Resampler::new(every, self.due, self.row.aggregation, range, before)
    }
}

/// Since which commit.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ChangesQuery {
    /// Commits after this one; 0 for all there are.
    changed_after: u64,
    /// At most so many changes (one is what a commit wrote of one device); whole commits only.
    limit: Option<usize>,
}

/// Everything that was new, late, filled or corrected after a commit, as NDJSON: readings as they are now, each
/// with its commit, and `{series, at, withdrawn: true, commit}` for each reading that was taken away from an instant
/// because its clock was wrong, or because it was lent and the device's own reading of that slot has come; then `{complete, count, next, head, freshness}`, the last with the devices that the changes are
/// of; ask again with `changed_after = next`.
#[utoipa::path(get, path = "/api/v1/changes", tag = "readings", params(ChangesQuery),
    responses((status = 200, content_type = "application/x-ndjson", description = "Readings, then the mark")))]
pub(super) async fn changes(
    State(state): State<ApiState>,
    Params(query): Params<ChangesQuery>,
) -> Result<Response, Problem> {
    let now = (state.now)();
    let (after, limit) = (Commit(query.changed_after), params::limit(query.limit)?);
    let (head, (rows, more)) =
        state.ask(move |store| Ok((store.head()?, whole_commits(store, after, limit)?))).await?;
    let next = if more { rows.last().map_or(after, |row| row.commit) } else { head.commit.max(after) };
    let fill = move |store: &dyn ReadStore, out: &mut ChunkSender| {
        let series: BTreeMap<_, _> = store.series(None, None)?.into_iter().map(|row| (row.no, row)).collect();
        let mut count = 0_u64;
        for change in &rows {
            // Before the readings: an instant may have been taken by another one since.
            store.withdrawn(change, &mut |series_no, at| {
                if let Some(row) = series.get(&series_no) {
                    count += 1;
                    withdrawn_line(&mut out.buffer, row, at, change.commit);
                }
                out.flow()
            })?;
            store.changed_readings(change, &mut |reading| {
                if let Some(row) = series.get(&reading.series) {
                    count += 1;
                    change_line(&mut out.buffer, row, &reading);
                }
                out.flow()
            })?;
        }
        let mark = serde_json::json!({
            "complete": true, "count": count, "next": next.0, "head": head.commit.0,
            "freshness": freshness_of(store, &rows, now)?,
        });
        out.buffer.push_str(&format!("{mark}\n"));
        Ok(())
    };
    Ok(stream(&state, Format::Ndjson.media_type(), fill))
}

/// How fresh the data is of the devices that these changes are of.
fn freshness_of(
    store: &dyn ReadStore,
    rows: &[ChangeRow],
    now: Timestamp,
) -> Result<BTreeMap<String, Freshness>, ReadError> {
    if rows.is_empty() {
        return Ok(BTreeMap::new());
    }
    let changed: BTreeSet<_> = rows.iter().map(|row| row.device).collect();
    let devices = store.devices(None, now)?;
    let devices = devices.iter().filter(|device| changed.contains(&device.no));
    Ok(devices.map(|d| (format!("{}/{}", d.site, d.device), Freshness::of(d, now))).collect())
}

/// At most `limit` changes, but never a part of a commit: a commit larger than `limit` is given whole. Also
/// whether there are more.
fn whole_commits(
    store: &dyn ReadStore,
    after: Commit,
    limit: usize,
) -> Result<(Vec<ChangeRow>, bool), ReadError> {
    let mut ask = limit;
    loop {
        let mut rows = store.changes(after, ask.saturating_add(1))?;
        if rows.len() <= ask {
            return Ok((rows, false));
        }
        let cut = rows[ask].commit;
        rows.retain(|row| row.commit < cut);
        if !rows.is_empty() {
            return Ok((rows, true));
        }
        ask = ask.saturating_mul(2);
    }
}

fn withdrawn_line(out: &mut String, series: &SeriesRow, at: Timestamp, commit: Commit) {
    let line = serde_json::json!({
        "series": super::fleet::path(series), "revision": series.revision, "at": at.to_string(),
        "withdrawn": true, "commit": commit.0,
    });
    out.push_str(&format!("{line}\n"));
}

fn change_line(out: &mut String, series: &SeriesRow, reading: &StoredReading) {
    let line = serde_json::json!({
        "series": super::fleet::path(series), "revision": series.revision, "unit": series.unit,
        "at": reading.at.to_string(), "value": super::fleet::json_value(reading.value.as_ref()),
        "quality": reading.quality.label(), "lent": reading.lent, "commit": reading.commit.0,
    });
    out.push_str(&format!("{line}\n"));
}
