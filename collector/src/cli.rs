//! The command line of `gapless-collector`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use gapless_collector::config::Config;
use gapless_collector::{backup, run, store::sqlite, tokens};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Stores each reading once, knows which are missing and why, and serves them.
#[derive(Debug, Parser)]
#[command(name = "gapless-collector", version)]
pub(crate) struct Cli {
    /// The configuration; without it: embedded broker on 127.0.0.1:1883, page on 127.0.0.1:8080.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Collect and serve, until SIGTERM or Ctrl-C.
    Run,
    /// Copy the database to a new file while the collector runs.
    Backup {
        /// The new file.
        file: PathBuf,
    },
    /// See whether all that `run` reads at its start can be used; nothing is started or changed.
    Check,
    /// Put a backup in the place of the database, while the collector does not run.
    Restore {
        /// The backup.
        file: PathBuf,
    },
    /// Tokens for the API.
    #[command(subcommand)]
    Token(Token),
}

#[derive(Debug, Subcommand)]
enum Token {
    /// Draw a token and print it, once. One of the same name is replaced.
    Add {
        /// Its name.
        name: String,
    },
    /// Print the names of the tokens.
    List,
    /// Take a token back.
    Revoke {
        /// Its name.
        name: String,
    },
}

impl Cli {
    /// Does what was asked.
    pub(crate) fn execute(self) -> anyhow::Result<()> {
        let config = self.config.as_deref().map_or_else(|| Ok(Config::default()), Config::read)?;
        match self.command {
            Command::Run => collect(&config),
            Command::Backup { file } => Ok(backup::backup(&config.database(), &file)?),
            Command::Check => check(&config),
            Command::Restore { file } => restore(&config, &file),
            Command::Token(token) => tokens(&config, &token),
        }
    }
}

fn collect(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let (end, shutdown) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).context("no SIGTERM handler")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("no SIGINT handler")?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            end.send_replace(true);
        });
        let announce = |addresses: run::Addresses| {
            tracing::info!(page = %format!("http://{}/", addresses.http), broker = ?addresses.mqtt, "ready");
            // Without systemd there is nobody to tell.
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        };
        anyhow::Ok(run::run(config, shutdown, announce).await?)
    })?;
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer to the person who asked")]
fn check(config: &Config) -> anyhow::Result<()> {
    run::check(config)?;
    for note in run::notes(config)? {
        println!("note: {note}");
    }
    println!(
        "ok: {} files of sources, {} receivers of alerts",
        config.sources.len(),
        config.alerts.receivers().len()
    );
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer to the person who asked")]
fn restore(config: &Config, file: &Path) -> anyhow::Result<()> {
    let before = run::restore(config, file)?;
    println!("restored to {}", config.database().display());
    if let Some(before) = before {
        println!("what was there is {}: remove it once all is well", before.display());
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the answer to the person who asked")]
fn tokens(config: &Config, token: &Token) -> anyhow::Result<()> {
    let database = config.database();
    let folder = config.data_dir.display();
    anyhow::ensure!(
        database.exists(),
        "there is no database in {folder} yet: start the collector once, or see `data_dir`"
    );
    let connection = sqlite::open_writer(&database)?;
    match token {
        Token::Add { name } => println!("{}", tokens::draw(&connection, name)?),
        Token::List => tokens::names(&connection)?.iter().for_each(|name| println!("{name}")),
        Token::Revoke { name } => {
            let gone = tokens::revoke(&connection, name)?;
            anyhow::ensure!(gone, "there is no token `{name}`");
        }
    }
    Ok(())
}
