//! `gapless-collector`: the program around the library.

mod cli;
mod log;

use clap::Parser as _;

fn main() -> anyhow::Result<()> {
    log::start();
    cli::Cli::parse().execute()
}
