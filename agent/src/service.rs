//! The thread that listens to the machine: signals, and the status socket. Passes on what it hears to the agent's
//! loop, and hands the loop's answer to whoever asked. Decides nothing. Where the socket cannot be had, signals are
//! heard all the same: readings matter more than questions.
//!
//! A client connects to the socket, may write one line (`poll DEVICE`; an empty one or none asks for the
//! status), and reads one JSON document until the end.

use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, oneshot};

/// Clients served at a time; more wait.
const CLIENTS_MAX: usize = 4;

/// Longest question of a client, in bytes.
const QUESTION_MAX: usize = 256;

/// How long a client may take to ask.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a client may take to read its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the loop may take to answer; a poll out of turn takes that long at most.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What the machine tells the loop.
#[derive(Debug)]
pub enum ServiceEvent {
    /// SIGTERM or SIGINT.
    Stop,
    /// Somebody asks; what is sent is written to them as it is.
    Ask(Question, oneshot::Sender<Vec<u8>>),
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// The status document.
    Status,
    /// The status document, once this device was polled again.
    Poll(String),
}

/// Starts the thread. `report` is called there; `false` ends it.
///
/// # Errors
/// Where the signals or the thread cannot be had.
pub fn spawn(socket: &Path, report: impl Fn(ServiceEvent) -> bool + Send + Sync + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (listener, mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (listen_if_possible(socket), signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let report = Arc::new(report);
    let body = move || {
        runtime.block_on(async {
            let heard = Arc::clone(&report);
            let signals = async move {
                loop {
                    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                    if !heard(ServiceEvent::Stop) {
                        return;
                    }
                }
            };
            tokio::select! { () = signals => {}, () = serve(listener, report) => {} }
        });
    };
    std::thread::Builder::new().name("service".into()).spawn(body)?;
    Ok(())
}

fn listen_if_possible(socket: &Path) -> Option<UnixListener> {
    let listener = listen(socket);
    if let Err(e) = &listener {
        tracing::error!(socket = %socket.display(), "nobody can ask this agent for its status: {e}");
    }
    listener.ok()
}

/// Takes the place of a socket that a killed agent left behind; the outbox's lock says that no other one runs.
fn listen(socket: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder)?;
    }
    if std::fs::symlink_metadata(socket).is_ok_and(|meta| meta.file_type().is_socket()) {
        std::fs::remove_file(socket)?;
    }
    UnixListener::bind(socket)
}

async fn serve(
    listener: Option<UnixListener>,
    report: Arc<impl Fn(ServiceEvent) -> bool + Send + Sync + 'static>,
) {
    let Some(listener) = listener else { return std::future::pending().await };
    let room = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let report = Arc::clone(&report);
        tokio::spawn(async move {
            let _permit = permit;
            // A client that goes away harms nobody but itself.
            let _ = answer(stream, report.as_ref()).await;
        });
    }
}

async fn answer(
    mut stream: tokio::net::UnixStream,
    report: &(impl Fn(ServiceEvent) -> bool + Send + Sync),
) -> io::Result<()> {
    let question = tokio::time::timeout(QUESTION_TIMEOUT, question(&mut stream)).await.unwrap_or(Ok(None))?;
    let (sender, reply) = oneshot::channel();
    if !report(ServiceEvent::Ask(question.unwrap_or(Question::Status), sender)) {
        return Ok(());
    }
    if let Ok(Ok(document)) = tokio::time::timeout(ANSWER_TIMEOUT, reply).await {
        tokio::time::timeout(WRITE_TIMEOUT, stream.write_all(&document)).await??;
    }
    stream.shutdown().await
}

async fn question(stream: &mut tokio::net::UnixStream) -> io::Result<Option<Question>> {
    let mut text = Vec::new();
    let mut byte = [0u8];
    while text.len() < QUESTION_MAX && stream.read(&mut byte).await? == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&text);
    Ok(text.trim().strip_prefix("poll ").map(|device| Question::Poll(device.trim().to_owned())))
}

/// Why a running agent cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody listens.
    #[error("no agent is running (nobody answers at {})", socket.display())]
    NotRunning {
        /// Where it was looked for.
        socket: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It did not answer to the end.
    #[error("the running agent does not answer")]
    Silent(#[from] io::Error),
}

/// Asks the agent that listens on `socket`.
///
/// # Errors
/// [`AskError`].
pub fn ask(socket: &Path, question: &Question) -> Result<Vec<u8>, AskError> {
    let connected = UnixStream::connect(socket);
    let mut stream =
        connected.map_err(|source| AskError::NotRunning { socket: socket.to_owned(), source })?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT + QUESTION_TIMEOUT))?;
    match question {
        Question::Status => stream.write_all(b"\n")?,
        Question::Poll(device) => stream.write_all(format!("poll {device}\n").as_bytes())?,
    }
    let mut document = Vec::new();
    stream.read_to_end(&mut document)?;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_cannot_be_had_stops_no_agent() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let rows = [
            (folder.path().join("s"), true),
            (file.join("s"), false),
            // sun_path of unix(7) holds 108 bytes.
            (folder.path().join("s".repeat(120)), false),
        ];
        for (socket, answers) in rows {
            let report = |event| {
                if let ServiceEvent::Ask(_, reply) = event {
                    reply.send(b"{}".to_vec()).unwrap();
                }
                true
            };
            spawn(&socket, report).unwrap();
            assert_eq!(ask(&socket, &Question::Status).is_ok(), answers, "{}", socket.display());
        }
    }
}
