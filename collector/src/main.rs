//! `gapless-collector`: the program around the library.

mod cli;

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    cli::Cli::parse().execute()
}
