//! Server-sent events (HTML standard, section 9.2): what was stored, what became of gaps and alerts, which jobs have ended, how
//! fresh devices are. What each event says is here; how a stream is kept is in `viewer`, what streams share in `hub`.
//!
//! Tables are the memory: a client that comes back with `Last-Event-ID` is told all that they have since. Freshness changes
//! by the clock and is in no table: `transitions` remembers its last changes. What neither has is said by an event `lost`.

mod hub;
mod position;
mod transitions;
mod viewer;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::Sse;
use axum::response::{IntoResponse as _, Response};
use gapless_common::quality::Cause;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use super::alerts::Alert;
use super::auth::Pass;
use super::fleet::{FreshnessState, is_there, json_value};
use super::jobs::EndedJob;
use super::params::{self, Params};
use super::problem::ProblemBody;
use super::{ApiState, Problem};
use crate::store::model::{AlertEventRow, AlertNews, GapNews, NewsFilter, ReadingNews};

pub(super) use hub::Hub;
use position::Position;
use transitions::{Standing, Transition};
use viewer::Viewer;

/// Events that wait for a slow client; what comes after them waits in the tables.
const EVENTS_QUEUED: usize = 16;

/// What an event is about. The list only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Reading,
    Gap,
    Job,
    Freshness,
    Commit,
    Alert,
}

const KINDS: [(&str, Kind); 6] = [
    ("reading", Kind::Reading),
    ("gap", Kind::Gap),
    ("job", Kind::Job),
    ("alert", Kind::Alert),
    ("freshness", Kind::Freshness),
    ("commit", Kind::Commit),
];

impl Kind {
    /// Its word: the name of its events.
    fn word(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsQuery {
    /// `reading`, `gap`, `job`, `alert`, `freshness` or `commit`, several with `,` between them; all but `commit` without it.
    kind: Option<String>,
    /// Only of this site.
    site: Option<String>,
    /// Only of this device.
    device: Option<String>,
}

/// What a client wants to be told.
#[derive(Debug, Clone)]
struct Wanted {
    tables: NewsFilter,
    freshness: bool,
    commits: bool,
}

impl EventsQuery {
    fn wanted(&self) -> Result<Wanted, Problem> {
        let word = |asked: &str| {
            let known = KINDS.iter().find(|(word, _)| *word == asked).map(|(_, kind)| *kind);
            let words = KINDS.map(|(word, _)| word).join(", ");
            known.ok_or_else(|| Problem::parameter("kind", format!("of {words}; got `{asked}`")))
        };
        let usual = || vec![Kind::Reading, Kind::Gap, Kind::Job, Kind::Alert, Kind::Freshness];
        let asked = self.kind.as_deref().map(|text| text.split(',').map(word).collect()).transpose()?;
        let kinds: Vec<Kind> = asked.unwrap_or_else(usual);
        let has = |kind| kinds.contains(&kind);
        let site = params::site(self.site.as_deref())?;
        let device = params::device(self.device.as_deref())?;
        let (readings, gaps) = (has(Kind::Reading), has(Kind::Gap));
        let (jobs, alerts) = (has(Kind::Job), has(Kind::Alert));
        let tables = NewsFilter { readings, gaps, jobs, alerts, site, device };
        Ok(Wanted { tables, freshness: has(Kind::Freshness), commits: has(Kind::Commit) })
    }
}

/// What happens, as it happens (server-sent events). Each event's `id` is sent back as `Last-Event-ID` by a client that comes
/// back, and all that happened meanwhile follows, as far as it is kept; what is not is said by an event `lost`. The latest
/// freshness of every device comes first, unless what changed since is remembered. A client that reads slowly is told
/// later; one that takes nothing for a minute is let go, and so is one whose token is revoked.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(EventsQuery,
        ("Last-Event-ID" = Option<String>, Header, description = "`id` of the last event that came")),
    responses((status = 200, content_type = "text/event-stream", body = EventData, description = "Events, and every 15 \
        seconds a comment with the `id` of how far everything is told"),
        (status = 400, body = ProblemBody), (status = 404, body = ProblemBody), (status = 503, body = ProblemBody, description = "Too many streams")))]
pub(super) async fn events(
    State(state): State<ApiState>,
    Extension(hub): Extension<Hub>,
    Extension(pass): Extension<Pass>,
    headers: HeaderMap,
    Params(query): Params<EventsQuery>,
) -> Result<Response, Problem> {
    let (wanted, last) = (query.wanted()?, last_event_id(&headers)?);
    is_there(&state, wanted.tables.site.as_ref(), wanted.tables.device.as_ref()).await?;
    let place = hub.stream()?;
    let (head, end) = state.ask(|store| Ok((store.head()?, store.news_end()?))).await?;
    let (sender, queue) = mpsc::channel(EVENTS_QUEUED);
    let viewer = Viewer::new(state, (hub, pass), wanted, sender, (last, head.incarnation, end));
    tokio::spawn(async move {
        viewer.run().await;
        drop(place);
    });
    Ok(Sse::new(ReceiverStream::new(queue)).into_response())
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Position>, Problem> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    text.parse().map(Some).map_err(|e| Problem::parameter("Last-Event-ID", e))
}

/// `data` of an event, by its name.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum EventData {
    /// `reading`
    Reading(ReadingEvent),
    /// `gap`
    Gap(GapEvent),
    /// `job`
    Job(EndedJob),
    /// `alert`
    Alert(AlertChange),
    /// `freshness`
    Freshness(FreshnessEvent),
    /// `commit`: its number. Something has changed; at most one in a second.
    Commit(u64),
    /// `lost`
    Lost(LostEvent),
}

/// A commit wrote readings of a device.
#[derive(Debug, Serialize, ToSchema)]
struct ReadingEvent {
    site: String,
    device: String,
    /// The commit; `changes?changed_after=` the one before it gives all that it wrote.
    commit: u64,
    /// Time of the earliest reading that it wrote or took away (RFC 3339).
    from: String,
    /// Time of the latest, inclusive.
    to: String,
    /// The latest reading of each series that it wrote.
    readings: Vec<EventReading>,
    /// Whether it wrote more than these.
    has_more: bool,
}

/// A reading in an event.
#[derive(Debug, Serialize, ToSchema)]
struct EventReading {
    /// `site/device/channel`.
    series: String,
    revision: u32,
    /// Unit symbol.
    unit: String,
    /// Acquisition time (RFC 3339).
    at: String,
    /// A number, a text, or null where the quality has none.
    #[schema(value_type = Option<f64>)]
    value: serde_json::Value,
    quality: String,
    /// Whether another device measured it, which stands in.
    lent: bool,
}

impl From<ReadingNews> for ReadingEvent {
    fn from(news: ReadingNews) -> Self {
        let ReadingNews { site, device, change, latest, has_more } = news;
        let readings = latest.into_iter().map(|latest| EventReading {
            series: format!("{site}/{device}/{}", latest.channel),
            revision: latest.revision,
            unit: latest.unit,
            at: latest.reading.at.to_string(),
            value: json_value(latest.reading.value.as_ref()),
            quality: latest.reading.quality.label().into_owned(),
            lent: latest.reading.lent,
        });
        let readings = readings.collect();
        let (commit, from, to) = (change.commit.0, change.first.to_string(), change.last.to_string());
        Self { site, device, commit, from, to, readings, has_more }
    }
}

/// Something became of a gap.
#[derive(Debug, Serialize, ToSchema)]
struct GapEvent {
    /// Its number.
    gap: i64,
    /// Its site and the rest up to `to` are null where it has become a part of another gap since.
    site: Option<String>,
    device: Option<String>,
    /// Its first slot, as it is now (RFC 3339).
    from: Option<String>,
    /// One interval after its last slot.
    to: Option<String>,
    /// As in the gap's history.
    event: &'static str,
    /// When.
    at: String,
    /// By which commit.
    commit: u64,
    /// Who: `collector`, `agent NAME` or `token NAME`.
    actor: String,
    /// The cause that was told then.
    cause: Option<&'static str>,
    /// When something is due next.
    next_at: Option<String>,
    /// More, for people.
    detail: Option<String>,
}

impl From<GapNews> for GapEvent {
    fn from(news: GapNews) -> Self {
        let GapNews { site, device, from, to, event, .. } = news;
        Self {
            gap: event.gap,
            site,
            device,
            from: from.map(|at| at.to_string()),
            to: to.map(|at| at.to_string()),
            event: event.event,
            at: event.at.to_string(),
            commit: event.commit.0,
            actor: event.actor,
            cause: event.cause.map(Cause::slug),
            next_at: event.next_at.map(|at| at.to_string()),
            detail: event.detail,
        }
    }
}

/// An alert was raised, acknowledged or resolved.
#[derive(Debug, Serialize, ToSchema)]
struct AlertChange {
    /// `raised`, `acknowledged` or `resolved`.
    event: &'static str,
    /// When (RFC 3339).
    at: String,
    /// Who: `collector` or `token NAME`.
    actor: String,
    /// The alert as it is now.
    alert: Alert,
}

impl From<AlertNews> for AlertChange {
    fn from(news: AlertNews) -> Self {
        let AlertEventRow { at, event, actor } = news.event;
        Self { event, at: at.to_string(), actor, alert: news.alert.into() }
    }
}

/// How fresh a device's data is, where that has changed, or was not told before.
#[derive(Debug, Serialize, ToSchema)]
struct FreshnessEvent {
    site: String,
    device: String,
    state: FreshnessState,
    /// The state before; null where that is not known.
    was: Option<FreshnessState>,
    /// When it was seen (RFC 3339); null where only the state is known, not since when.
    at: Option<String>,
    /// Time of the latest reading.
    last_reading_at: Option<String>,
    /// Staleness ÷ allowed staleness.
    score: Option<f64>,
}

impl FreshnessEvent {
    fn of((site, device): (String, String), now: &Standing) -> Self {
        let (state, score) = (now.state, now.score);
        let last_reading_at = now.last_reading_at.map(|at| at.to_string());
        Self { site, device, state, was: None, at: None, last_reading_at, score }
    }
}

impl From<Transition> for FreshnessEvent {
    fn from(transition: Transition) -> Self {
        let Transition { name, was, now, at, .. } = transition;
        Self { was, at: Some(at.to_string()), ..Self::of(name, &now) }
    }
}

/// What happened in a range that is not kept, or of another database.
#[derive(Debug, Serialize, ToSchema)]
struct LostEvent {
    /// The kind of the events that are lost.
    kind: &'static str,
    /// Number of the first one that may be: a commit for readings, a line of the histories for gaps, jobs and alerts, a
    /// change for freshness.
    from: u64,
    /// Number of the last one.
    to: u64,
    /// How many of the range are lost, where that is known.
    count: Option<u64>,
    /// Why, and what to do.
    why: &'static str,
}
