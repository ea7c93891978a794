//! What is missing, why, and what is done about it: gaps with their history, and a person's wishes about them.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use gapless_common::id::Commit;
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Asker;
use super::coverage::Reason;
use super::fleet::is_there;
use super::params::{self, Params};
use super::problem::ProblemBody;
use super::reply::{self, Page};
use super::{ApiState, Problem};
use crate::gaps::life::Phase;
use crate::ingest::{Order, Wish};
use crate::store::model::{Awaited, GapChoice, GapEventRow, GapFilter, GapRow, GapState};

/// A run of slots proven to be missing.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Gap {
    /// Its number.
    id: i64,
    /// Its site.
    site: String,
    /// Its device.
    device: String,
    /// Its first slot (RFC 3339).
    from: String,
    /// One interval after its last slot.
    to: String,
    /// Number of slots.
    slots: u64,
    /// Why.
    #[serde(flatten)]
    reason: Reason,
    /// `open`, `requested` (its source is being asked), `waiting` (the source had nothing, and is asked again),
    /// `abandoned` (it had nothing at any attempt, or nobody could be asked while the schedule lasted) or `filled`.
    state: &'static str,
    /// When it was proven.
    opened_at: String,
    /// When its readings came after all.
    closed_at: Option<String>,
    /// Attempts to fill it that brought nothing.
    attempts: u32,
    /// When its source is asked next; absent while it is asked, and where it never will be.
    next_try_at: Option<String>,
    /// When it is given up, where nobody can be asked for it: its device keeps no history, or is not polled any more, or its agent
    /// has been away for a week. What comes later still fills it, and where somebody can be asked after all they are. A gap that grows is given up later.
    given_up_at: Option<String>,
    /// Who can be asked for it: `device`, where that has a memory of its own and is polled; absent where nobody can, which is seen when
    /// it next falls due, as long as that is so, and where it was given up for that reason.
    source: Option<String>,
    /// Where `next_try_at` is over, what it waits for: `agent` (its agent is away), `reach` (its source cannot reach its device),
    /// `turn` (its device is being asked for something else), `newer` (nothing newer of its device has come: until it answers
    /// again, what is missing may come the usual way, and a request would fare no better). Absent where nothing is waited for.
    waits_for: Option<&'static str>,
    /// The commit that changed it last.
    changed: u64,
}

/// The words of a gap's states.
pub(crate) const STATES: [(&str, GapState); 5] = [
    ("open", GapState::Missing(Phase::Open)),
    ("requested", GapState::Missing(Phase::Requested)),
    ("waiting", GapState::Missing(Phase::Waiting)),
    ("abandoned", GapState::Missing(Phase::Abandoned)),
    ("filled", GapState::Filled),
];

/// The word of a gap's state.
pub(crate) fn gap_state(state: GapState) -> &'static str {
    STATES.iter().find(|(_, known)| *known == state).map_or("open", |(word, _)| word)
}

const fn awaited_word(awaited: Awaited) -> &'static str {
    match awaited {
        Awaited::Agent => "agent",
        Awaited::Reach => "reach",
        Awaited::Turn => "turn",
        Awaited::Newer => "newer",
    }
}

impl Gap {
    fn new(row: GapRow, now: Timestamp) -> Self {
        let is_due = row.next_try_at.is_some_and(|at| at <= now);
        Self {
            waits_for: row.waits_for.filter(|_| is_due).map(awaited_word),
            id: row.id,
            site: row.site.to_string(),
            device: row.device.to_string(),
            from: row.from.to_string(),
            to: row.to.to_string(),
            slots: row.slots,
            reason: row.cause.into(),
            state: gap_state(row.state),
            opened_at: row.opened_at.to_string(),
            closed_at: row.closed_at.map(|t| t.to_string()),
            attempts: row.attempts,
            next_try_at: row.next_try_at.map(|t| t.to_string()),
            given_up_at: row.given_up_at.map(|t| t.to_string()),
            source: row.source,
            changed: row.changed.0,
        }
    }
}

/// Which gaps.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GapsQuery {
    /// Only of this site.
    pub(crate) site: Option<String>,
    /// Only of this device.
    pub(crate) device: Option<String>,
    /// Only those in this state, or `unfilled`: all but those that are filled.
    pub(crate) state: Option<String>,
    /// Only those that end after this instant (RFC 3339).
    pub(crate) from: Option<String>,
    /// Only those that begin before this instant (RFC 3339).
    pub(crate) to: Option<String>,
    /// Only those changed after this commit.
    pub(crate) changed_after: Option<u64>,
    /// At most so many.
    pub(crate) limit: Option<usize>,
    /// `next` of the page before.
    pub(crate) cursor: Option<String>,
}

impl GapsQuery {
    /// As the store is asked.
    pub(crate) fn filter(&self) -> Result<GapFilter, Problem> {
        let state = match self.state.as_deref() {
            None => None,
            Some("unfilled") => Some(GapChoice::Unfilled),
            Some(asked) => match STATES.iter().find(|(word, _)| *word == asked) {
                Some((_, state)) => Some(GapChoice::Only(*state)),
                None => {
                    let words = STATES.map(|(word, _)| word).join(", ");
                    return Err(Problem::parameter("state", format!("{words} or unfilled, got `{asked}`")));
                }
            },
        };
        let (from, to) = params::open_range(self.from.as_deref(), self.to.as_deref())?;
        Ok(GapFilter {
            site: params::site(self.site.as_deref())?,
            device: params::device(self.device.as_deref())?,
            state,
            from,
            to,
            changed_after: self.changed_after.map(Commit),
            after: params::cursor(self.cursor.as_deref())?,
            limit: params::limit(self.limit)?,
        })
    }
}

/// Gaps: slots proven to be missing, with their cause and state.
#[utoipa::path(get, path = "/api/v1/gaps", tag = "gaps", params(GapsQuery),
    responses((status = 200, body = Page<Gap>), (status = 404, body = ProblemBody)))]
pub(super) async fn gaps(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<GapsQuery>,
) -> Result<Response, Problem> {
    let filter = query.filter()?;
    is_there(&state, filter.site.as_ref(), filter.device.as_ref()).await?;
    let limit = filter.limit;
    let now = (state.now)();
    let rows = state.ask(move |store| store.gaps(&filter)).await?;
    reply::json(
        &headers,
        &Page::of(rows.into_iter().map(|row| Gap::new(row, now)).collect(), limit, |gap| gap.id),
    )
}

/// A line of a gap's history.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GapEvent {
    /// When.
    at: String,
    /// By which commit.
    commit: u64,
    /// `opened`, `cause` (another one was told), `requested`, `no_data`, `failed`, `abandoned`, `retried`, `reopened`,
    /// `lent` (another device stands in with some of its channels, and it is missing still for the others), `replaced` (the device's own
    /// readings came after all, of slots that were lent), `filled` or `cut` (off
    /// another gap, whose history before it is this one's, too).
    event: &'static str,
    /// Who: `collector`, `agent NAME`, `token NAME`, or `device NAME`, whose readings stand in.
    actor: String,
    /// The cause that was told then.
    cause: Option<&'static str>,
    /// When something was due next: the next try, or that it is given up, where nobody can be asked.
    next_at: Option<String>,
    /// More, for people.
    detail: Option<String>,
    /// The gap that it happened to.
    gap: i64,
}

impl From<GapEventRow> for GapEvent {
    fn from(row: GapEventRow) -> Self {
        Self {
            at: row.at.to_string(),
            commit: row.commit.0,
            event: row.event,
            actor: row.actor,
            cause: row.cause.map(Cause::slug),
            next_at: row.next_at.map(|t| t.to_string()),
            detail: row.detail,
            gap: row.gap,
        }
    }
}

/// A gap and all that became of it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct GapHistory {
    #[serde(flatten)]
    gap: Gap,
    /// In order of time.
    history: Vec<GapEvent>,
}

fn number(text: &str) -> Result<i64, Problem> {
    text.parse().map_err(|_| Problem::not_found("gap", text))
}

async fn look(state: &ApiState, id: i64) -> Result<GapHistory, Problem> {
    let found = state.ask(move |store| Ok(store.gap(id)?.zip(Some(store.gap_events(id)?)))).await?;
    let (gap, events) = found.ok_or_else(|| Problem::not_found("gap", id))?;
    let gap = Gap::new(gap, (state.now)());
    Ok(GapHistory { gap, history: events.into_iter().map(GapEvent::from).collect() })
}

/// One gap with its history.
#[utoipa::path(get, path = "/api/v1/gaps/{id}", tag = "gaps", params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, body = GapHistory)))]
pub(super) async fn gap(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    reply::json(&headers, &look(&state, number(&id)?).await?)
}

async fn act(state: &ApiState, headers: &HeaderMap, order: Order) -> Result<Response, Problem> {
    let id = order.gap;
    state.orders.carry_out(order).await?;
    reply::json(headers, &look(state, id).await?)
}

/// Asks for a gap now that waits for its next attempt; where its source cannot be asked now, `waits_for` says what has to come
/// first, and it is asked then.
#[utoipa::path(post, path = "/api/v1/gaps/{id}/retry", tag = "gaps",
    params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, body = GapHistory), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 503, body = ProblemBody)))]
pub(super) async fn retry(
    State(state): State<ApiState>,
    Extension(Asker(name)): Extension<Asker>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    act(&state, &headers, Order { gap: number(&id)?, wish: Wish::Retry, actor: format!("token {name}") })
        .await
}

/// Begins the schedule of a gap anew, whether it was abandoned, waits or was never asked for; refused (409) only while it is
/// being asked for.
#[utoipa::path(post, path = "/api/v1/gaps/{id}/reopen", tag = "gaps",
    params(("id" = i64, Path, description = "Its number")),
    responses((status = 200, body = GapHistory), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 503, body = ProblemBody)))]
pub(super) async fn reopen(
    State(state): State<ApiState>,
    Extension(Asker(name)): Extension<Asker>,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    act(&state, &headers, Order { gap: number(&id)?, wish: Wish::Reopen, actor: format!("token {name}") })
        .await
}
