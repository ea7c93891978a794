//! Server-sent events: a `commit` whenever there is news, at most one in [`EVENT_EVERY`], so that a busy fleet
//! costs each viewer a bounded rate.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::api::{ApiState, Problem, is_known};

/// Least time between two events to one viewer.
const EVENT_EVERY: Duration = Duration::from_secs(1);

/// Events that wait for a slow viewer; news are states, not steps, so one is enough.
const EVENTS_QUEUED: usize = 1;

/// The stream of commit numbers.
pub(super) async fn events(State(state): State<ApiState>, headers: HeaderMap) -> Result<Response, Problem> {
    if !is_known(&state, &headers).await? {
        return Err(Problem::Unauthorized);
    }
    let (sender, queue) = mpsc::channel::<Result<Event, Infallible>>(EVENTS_QUEUED);
    let mut commits = state.commits;
    commits.mark_changed();
    tokio::spawn(async move {
        while commits.changed().await.is_ok() {
            let commit = commits.borrow_and_update().to_string();
            if sender.send(Ok(Event::default().event("commit").data(commit))).await.is_err() {
                return;
            }
            tokio::time::sleep(EVENT_EVERY).await;
        }
    });
    Ok(Sse::new(ReceiverStream::new(queue)).keep_alive(KeepAlive::default()).into_response())
}
