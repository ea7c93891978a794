//! Long answers in bounded memory: a blocking thread scans one committed state of the database and fills a channel of
//! [`CHUNKS_QUEUED`] chunks; when the database fails or the client stalls for [`CLIENT_STALL`], the stream is cut without
//! its last chunk, which every HTTP client reports. Knows no rows.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::ApiState;
use crate::store::model::Flow;
use crate::store::{ReadError, ReadStore};

/// Chunks that wait for the client: with [`CHUNK_BYTES`] the memory of one answer.
const CHUNKS_QUEUED: usize = 4;

/// A chunk is sent once it has this size.
const CHUNK_BYTES: usize = 32 * 1024;

/// A client that takes nothing for so long is given up: its scan holds a state of the database.
pub(super) const CLIENT_STALL: Duration = Duration::from_secs(60);

/// Gathers text into chunks and hands them to the client.
pub(super) struct ChunkSender {
    pub(super) buffer: String,
    chunks: mpsc::Sender<Result<Bytes, StreamCut>>,
    runtime: Handle,
}

/// Why a stream ended before its end.
#[derive(Debug, thiserror::Error)]
enum StreamCut {
    #[error("the database failed while the answer was under way")]
    Store(#[source] ReadError),
}

impl ChunkSender {
    /// Sends the buffer once it is full; stops the scan where the client has gone or stalls.
    pub(super) fn flow(&mut self) -> Flow {
        if self.buffer.len() < CHUNK_BYTES || self.send() { Flow::More } else { Flow::Stop }
    }

    fn send(&mut self) -> bool {
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        let sending = self.chunks.send_timeout(Ok(chunk), CLIENT_STALL);
        self.runtime.block_on(sending).is_ok()
    }

    fn end(mut self, outcome: Result<(), ReadError>) {
        match outcome {
            Ok(()) => {
                let _ = self.send();
            }
            Err(source) => {
                tracing::error!("a stream of readings was cut: {source}");
                let _ = self.runtime.block_on(self.chunks.send(Err(StreamCut::Store(source))));
            }
        }
    }
}

/// An answer that `fill` writes on a thread of its own.
pub(super) fn stream(
    state: &ApiState,
    media_type: &'static str,
    fill: impl FnOnce(&dyn ReadStore, &mut ChunkSender) -> Result<(), ReadError> + Send + 'static,
) -> Response {
    let (chunks, queue) = mpsc::channel(CHUNKS_QUEUED);
    let store = std::sync::Arc::clone(&state.store);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut sender = ChunkSender { buffer: String::with_capacity(CHUNK_BYTES * 2), chunks, runtime };
        let outcome = fill(store.as_ref(), &mut sender);
        sender.end(outcome);
    });
    let mut response = Body::from_stream(ReceiverStream::new(queue)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
