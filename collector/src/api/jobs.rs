//! What is refreshed, why and when, what became of it; and a person's wish to have it done now.

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::auth::Asker;
use super::fleet::find_device;
use super::params::{self, Params};
use super::problem::ProblemBody;
use super::reply;
use super::{ApiState, Problem};
use crate::jobs::queue::Why;
use crate::store::model::{EndedJobRow, JobRow, PendingJob};

/// A job that refreshes a device.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Refresh {
    /// Number of the job.
    pub job: u64,
    /// `queued`, `running`, or `retrying` (it failed, and is tried again).
    pub state: &'static str,
    /// Why it was made: `rhythm`, `stale`, `viewed`, `confirm` or `asked`.
    pub why: &'static str,
    /// When it was made (RFC 3339).
    pub asked_at: String,
    /// Not before this instant; while the device's agent is away, once it is back.
    pub due_at: String,
    /// When the work began, where it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began_at: Option<String>,
}

const fn why_word(why: Why) -> &'static str {
    match why {
        Why::Rhythm => "rhythm",
        Why::Stale => "stale",
        Why::Viewed => "viewed",
        Why::Confirm => "confirm",
        Why::Asked => "asked",
    }
}

impl Refresh {
    pub(super) fn of(job: &PendingJob) -> Self {
        let state = match (job.began, job.failures) {
            (Some(_), _) => "running",
            (None, 0) => "queued",
            _ => "retrying",
        };
        Self {
            job: job.no,
            state,
            why: why_word(job.why),
            asked_at: job.asked_at.to_string(),
            due_at: job.due.to_string(),
            began_at: job.began.map(|at| at.to_string()),
        }
    }
}

/// A job that waits or is under way.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Job {
    /// The site of its device.
    site: String,
    /// The device that it refreshes.
    device: String,
    #[serde(flatten)]
    refresh: Refresh,
}

/// A job that has ended, or a try of one that goes on.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EndedJob {
    /// Number of this line.
    id: i64,
    /// Number of the job.
    job: u64,
    /// The site of its device.
    site: String,
    /// The device.
    device: String,
    /// Why it was made.
    why: &'static str,
    /// When it was made (RFC 3339).
    asked_at: String,
    /// When the work began.
    began_at: String,
    /// When it ended.
    ended_at: String,
    /// How long the work took.
    duration_ms: i64,
    /// `done`, `no_data` (the source has nothing, or nothing new can be there yet), `failed` or `expired` (no answer in time); the last two are tried again.
    outcome: &'static str,
    /// Readings of the device that were stored meanwhile.
    readings: u64,
    /// More, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl From<JobRow> for Job {
    fn from(row: JobRow) -> Self {
        let refresh = Refresh::of(&row.job);
        Self { site: row.site.to_string(), device: row.device.to_string(), refresh }
    }
}

impl From<EndedJobRow> for EndedJob {
    fn from(row: EndedJobRow) -> Self {
        Self {
            id: row.id,
            job: row.no,
            site: row.site.to_string(),
            device: row.device.to_string(),
            why: why_word(row.why),
            asked_at: row.asked_at.to_string(),
            began_at: row.began_at.to_string(),
            ended_at: row.ended_at.to_string(),
            duration_ms: row.ended_at.since_ms(row.began_at),
            outcome: row.outcome,
            readings: row.readings,
            detail: row.detail,
        }
    }
}

/// Jobs, and what became of those before.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Jobs {
    /// Those that wait or are under way, the next due first.
    jobs: Vec<Job>,
    /// Those that have ended, the last one first.
    history: Vec<EndedJob>,
    /// Send it as `cursor` for the history before; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// Which page of the history.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct JobsQuery {
    /// At most so many lines of history.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Every job: why it was made, when, how long it took, what it fetched, how it ended.
#[utoipa::path(get, path = "/api/v1/jobs", tag = "jobs", params(JobsQuery), responses((status = 200, body = Jobs)))]
pub(super) async fn jobs(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Params(query): Params<JobsQuery>,
) -> Result<Response, Problem> {
    let (before, limit) = (params::cursor(query.cursor.as_deref())?, params::limit(query.limit)?);
    let (jobs, ended) = state.ask(move |store| Ok((store.jobs()?, store.ended_jobs(before, limit)?))).await?;
    let next = (ended.len() == limit).then(|| ended.last().map(|row| row.id.to_string())).flatten();
    let jobs = jobs.into_iter().map(Job::from).collect();
    reply::json(&headers, &Jobs { jobs, history: ended.into_iter().map(EndedJob::from).collect(), next })
}

/// Has a device's source read now, as far as there can be something new: of a remote API whose next period has not ended nothing
/// is asked, and the job ends as `no_data`. However many ask while a job waits or is under way, there is that one; who asks after it
/// has ended makes another one. The answer does not wait for it.
#[utoipa::path(post, path = "/api/v1/devices/{site}/{device}/refresh", tag = "jobs",
    params(("site" = String, Path, description = "Site"), ("device" = String, Path, description = "Device")),
    responses((status = 200, body = Refresh), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody),
        (status = 503, body = ProblemBody)))]
pub(super) async fn refresh(
    State(state): State<ApiState>,
    headers: HeaderMap,
    Extension(Asker(name)): Extension<Asker>,
    Path((site, device)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let row = find_device(&state, &site, &device, (state.now)()).await?;
    let job = state.orders.refresh(row.no, format!("token {name}")).await?;
    reply::json(&headers, &Refresh::of(&job))
}
