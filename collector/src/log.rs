//! The log: to standard error, one line each, as verbose as `GAPLESS_LOG` says. Writes no file; the service
//! manager keeps the log.

use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts it: `GAPLESS_LOG` is `error`, `warn`, `info` (default) or `debug`.
pub(crate) fn start() {
    let asked = std::env::var("GAPLESS_LOG").unwrap_or_default();
    let level = level(&asked);
    // A broker and its client tell every packet; of them only what goes wrong is wanted.
    let targets = Targets::new().with_target("gapless", level).with_default(level.min(LevelFilter::WARN));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    tracing_subscriber::registry().with(targets).with(lines).init();
}

fn level(asked: &str) -> LevelFilter {
    match asked {
        "error" => LevelFilter::ERROR,
        "warn" => LevelFilter::WARN,
        "debug" => LevelFilter::DEBUG,
        _ => LevelFilter::INFO,
    }
}
