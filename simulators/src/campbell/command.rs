//! The words that steer a running logger, one line each, for the command line and the control port. Reads text; does
//! nothing.

use gapless_common::text::parse_duration_ms;

use super::fault::{Fault, FaultKind};

/// What can be said, for people.
pub const HELP: &str = "\
slow ms=N | silent | error-body | html | cut-off | truncated   a fault, with any of: count=N  after=N (requests)
clear                 ends faults
unplug | replug       nobody listens, connections are reset; the logger goes on recording
program               another program: other fields, another signature, no records, numbers from 0
clock +1h | clock -1h somebody sets the clock; nothing is recorded for what lies between
pass 1d               so much of the logger's own time passes at once, and is recorded
speed N               its clock runs N times as fast as the world's
records               which records each table holds
faults | answers | help | quit";

/// One line, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Something goes wrong.
    Fault(Fault),
    /// Ends all faults.
    Clear,
    /// Pulls the cable.
    Unplug,
    /// Puts it back.
    Replug,
    /// Changes the program.
    Program,
    /// Sets the clock by so many ms.
    Clock(i64),
    /// Lets so many ms pass.
    Pass(u64),
    /// Sets the speed of its clock, in times.
    Speed(u32),
    /// Shows what is held.
    Records,
    /// Shows the faults there are.
    Faults,
    /// Shows how many answers there were, and the last of them.
    Answers,
    /// Shows [`HELP`].
    Help,
    /// Ends the simulator.
    Quit,
}

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not understood; `help` lists what is")]
pub struct CommandError(String);

/// Understands one line.
///
/// # Errors
/// [`CommandError`].
pub fn parse(line: &str) -> Result<Command, CommandError> {
    let unknown = || CommandError(line.trim().to_owned());
    let words: Vec<&str> = line.split_whitespace().collect();
    let simple = match words[..] {
        ["clear"] => Some(Command::Clear),
        ["unplug"] => Some(Command::Unplug),
        ["replug"] => Some(Command::Replug),
        ["program"] => Some(Command::Program),
        ["clock", by] => Some(Command::Clock(signed_ms(by).ok_or_else(unknown)?)),
        ["pass", span] => Some(Command::Pass(parse_duration_ms(span).map_err(|_| unknown())?)),
        ["speed", times] => Some(Command::Speed(times.parse().map_err(|_| unknown())?)),
        ["records"] => Some(Command::Records),
        ["faults"] => Some(Command::Faults),
        ["answers"] => Some(Command::Answers),
        ["help"] => Some(Command::Help),
        ["quit"] => Some(Command::Quit),
        _ => None,
    };
    simple.or_else(|| fault(&words).map(Command::Fault)).ok_or_else(unknown)
}

fn signed_ms(text: &str) -> Option<i64> {
    let (sign, rest) = match text.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    i64::try_from(parse_duration_ms(rest).ok()?).ok().map(|ms| sign * ms)
}

fn fault(words: &[&str]) -> Option<Fault> {
    let (name, options) = words.split_first()?;
    let option = |key: &str| options.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let known = |word: &&str| ["ms=", "count=", "after="].iter().any(|key| word.starts_with(key));
    if !options.iter().all(known) {
        return None;
    }
    let kind = match *name {
        "slow" => FaultKind::Slow { ms: option("ms")?.parse().ok()? },
        "silent" => FaultKind::Silent,
        "error-body" => FaultKind::ErrorBody,
        "html" => FaultKind::Html,
        "cut-off" => FaultKind::CutOff,
        "truncated" => FaultKind::Truncated,
        _ => return None,
    };
    let number = |key, absent| option(key).map_or(Some(absent), |digits| digits.parse().ok());
    Some(Fault { kind, passes: number("after", 0)?, remaining: number("count", u32::MAX)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        let rows = [
            ("slow ms=300 count=2", Command::Fault(Fault::new(FaultKind::Slow { ms: 300 }).times(2))),
            ("html after=3", Command::Fault(Fault::new(FaultKind::Html).after(3))),
            ("clock -1h", Command::Clock(-3_600_000)),
            ("pass 1d", Command::Pass(86_400_000)),
            (" speed 100 ", Command::Speed(100)),
        ];
        for (line, expected) in rows {
            assert_eq!(parse(line), Ok(expected), "{line}");
        }
        for bad in ["", "slow", "html cuont=3", "clock 1h", "pass", "unplug now", "clock é"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
