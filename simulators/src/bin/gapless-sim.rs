//! `gapless-sim`: simulated devices on the bench. Waits for the signals; everything else is the library's.

use std::process::ExitCode;
use std::sync::mpsc::Receiver;

use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    match gapless_simulators::cli::run(wait_for_end) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            use std::io::Write as _;
            let _ = writeln!(std::io::stderr(), "gapless-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns at Ctrl-C, SIGTERM, SIGHUP or `quit`.
fn wait_for_end(quits: Receiver<()>) {
    let (quit, mut quit_asked) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        // An error means that nobody can say `quit` any more; signals remain.
        if quits.recv().is_ok() {
            let _ = quit.blocking_send(());
        } else {
            std::mem::forget(quit);
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let Ok(runtime) = runtime else { return };
    runtime.block_on(async {
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            return;
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit_asked.recv() => {}
        }
    });
}
