//! The binary `gapless-agent`: hands the command line to `cli`, and turns an error into a message and an exit code.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            cli::fail(&error);
            ExitCode::FAILURE
        }
    }
}
