//! The control port of a simulator: lines of text from its standard input or from a loopback address, each answered.
//! What the lines mean is the simulator's.

use std::io::{self, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::SyncSender;
use std::thread;

use anyhow::{Context as _, bail};

/// What follows from a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// This is the answer.
    Text(String),
    /// The simulator is to end.
    Quit,
}

/// Takes commands from `stdin`, or from connections to a loopback address, in threads of its own; `quit` hears of the
/// end.
///
/// # Errors
/// Where `control` is neither, or cannot be listened on.
pub fn take_commands(
    control: &str,
    obey: impl Fn(&str) -> Said + Clone + Send + 'static,
    quit: SyncSender<()>,
) -> anyhow::Result<()> {
    if control == "stdin" {
        thread::spawn(move || obey_all(&obey, io::stdin().lock(), io::stdout(), &quit));
        return Ok(());
    }
    let address: SocketAddr = control.parse().with_context(|| {
        format!("--control {control}: write `stdin` or a loopback address such as 127.0.0.1:5021")
    })?;
    if !address.ip().is_loopback() {
        bail!("--control {control}: anybody who reaches it commands the simulator; use a loopback address");
    }
    let listener = TcpListener::bind(address).with_context(|| format!("--control {control}"))?;
    writeln!(io::stdout(), "control at {}", listener.local_addr()?)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (obey, quit) = (obey.clone(), quit.clone());
            thread::spawn(move || obey_stream(&obey, stream, &quit));
        }
    });
    Ok(())
}

fn obey_stream(obey: &impl Fn(&str) -> Said, stream: TcpStream, quit: &SyncSender<()>) {
    if let Ok(answers) = stream.try_clone() {
        obey_all(obey, BufReader::new(stream), answers, quit);
    }
}

fn obey_all(
    obey: &impl Fn(&str) -> Said,
    lines: impl io::BufRead,
    mut answers: impl Write,
    quit: &SyncSender<()>,
) {
    for line in lines.lines().map_while(Result::ok).filter(|line| !line.trim().is_empty()) {
        match obey(&line) {
            Said::Text(text) => {
                // Whoever gave the command may be gone already: it is obeyed nevertheless.
                let _ = writeln!(answers, "{text}");
            }
            Said::Quit => {
                let _ = quit.try_send(());
                return;
            }
        }
    }
}
