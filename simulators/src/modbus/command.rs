//! The words that steer a running simulator, one line each, for the command line, standard input and the control
//! port alike. Reads text; does nothing.

use gapless_common::text::parse_duration_ms;

use super::fault::{Fault, FaultKind};

/// What can be said, for people.
pub const HELP: &str = "\
silent | delay ms=N | late | truncated [bytes=N] | wrong-crc | wrong-unit | wrong-function | wrong-count |
wrong-transaction | exception code=N | garbage [bytes=N] | trailing-garbage [bytes=N]
    a fault, with any of: unit=N (all units without it)  after=10s  for=30s  p=0.1 (share of requests)
    count=N (at most so many requests).  `late` is a delay of 1500 ms unless ms= says otherwise.
clear [unit=N]              ends faults
unplug [after=10s] [for=30s]   pty gone, or connections reset and nobody listening; returns after `for`
replug                      returns now
restart [unit=N]            device restarts: counters begin at 0, written memory is forgotten
clear-memory [unit=N]       its load profile is empty, and numbers begin anew
set-clock by=[-]1h [unit=N] somebody sets the clock of its load profile
drift ppm=N [unit=N]        that clock runs so much too fast (or, below 0, too slow)
power-cut for=1h [unit=N]   it was without power until now, and recorded nothing
write-slowly ms=N [unit=N]  its newest record is half written for so long
stats | faults | help | quit";

/// One line, understood.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Command {
    /// A fault for one unit or for all.
    Fault {
        /// Which unit; `None`: all.
        unit: Option<u8>,
        /// What goes wrong.
        kind: FaultKind,
        /// When it begins, in milliseconds from now.
        after_ms: u64,
        /// How long it lasts.
        for_ms: Option<u64>,
        /// Share of requests it strikes.
        probability: f64,
        /// How many requests it strikes at most.
        count: u32,
    },
    /// Ends the faults of one unit or of all.
    Clear(Option<u8>),
    /// Pulls the plug.
    Unplug {
        /// When, in milliseconds from now.
        after_ms: u64,
        /// After how long it returns; `None`: when told to.
        for_ms: Option<u64>,
    },
    /// Puts the plug back.
    Replug,
    /// Restarts one device or all.
    Restart(Option<u8>),
    /// Something happens to the load profile of one device or of all that have one.
    Memory(Option<u8>, Mishap),
    /// Shows what was counted.
    Stats,
    /// Shows the faults there are.
    Faults,
    /// Shows [`HELP`].
    Help,
    /// Ends the simulator.
    Quit,
}

/// What happens to a load profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mishap {
    /// It is empty.
    Clear,
    /// Its clock is set by so many ms.
    SetClock(i64),
    /// Its clock runs so many parts of a million too fast.
    Drift(i64),
    /// The meter was without power for so many ms.
    PowerCut(i64),
    /// The newest record is half written for so many ms.
    WriteSlowly(i64),
}

/// Why a line is no command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The first word.
    #[error("`{0}` is no command; `help` lists them")]
    Unknown(String),
    /// A word that is not `key=value` with a key this command has.
    #[error("`{0}` does not belong here; `help` shows what does")]
    Word(String),
    /// A value that cannot be read.
    #[error(
        "`{0}`: a whole number (unit, count, ms, bytes, code), a share from 0 to 1 (p), or a duration such as 30s (after, for, by) was meant"
    )]
    Value(String),
    /// A value that must be there.
    #[error("`{0}` needs {1}")]
    Missing(String, &'static str),
}

#[derive(Debug, Default)]
struct Words {
    unit: Option<u8>,
    after_ms: Option<u64>,
    for_ms: Option<u64>,
    probability: Option<f64>,
    count: Option<u32>,
    ms: Option<u32>,
    bytes: Option<u16>,
    code: Option<u8>,
    by_ms: Option<i64>,
    ppm: Option<i64>,
}

/// Bytes of noise where nobody says how many.
const GARBAGE_BYTES: u16 = 4;
/// A delay that is longer than masters commonly wait.
const LATE_MS: u32 = 1_500;

/// Reads one line.
///
/// # Errors
/// [`CommandError`], which says what was meant to stand there.
pub fn parse(line: &str) -> Result<Command, CommandError> {
    let mut words = line.split_whitespace();
    let verb = words.next().unwrap_or("help");
    let given = read_words(words)?;
    let kind = match verb {
        "clear" => return Ok(Command::Clear(given.unit)),
        "unplug" => {
            return Ok(Command::Unplug { after_ms: given.after_ms.unwrap_or(0), for_ms: given.for_ms });
        }
        "replug" => return Ok(Command::Replug),
        "restart" => return Ok(Command::Restart(given.unit)),
        "clear-memory" | "set-clock" | "drift" | "power-cut" | "write-slowly" => {
            return Ok(Command::Memory(given.unit, mishap(verb, &given)?));
        }
        "stats" => return Ok(Command::Stats),
        "faults" => return Ok(Command::Faults),
        "help" => return Ok(Command::Help),
        "quit" => return Ok(Command::Quit),
        _ => fault_kind(verb, &given)?,
    };
    Ok(Command::Fault {
        unit: given.unit,
        kind,
        after_ms: given.after_ms.unwrap_or(0),
        for_ms: given.for_ms,
        probability: given.probability.unwrap_or(1.0),
        count: given.count.unwrap_or(u32::MAX),
    })
}

fn mishap(verb: &str, given: &Words) -> Result<Mishap, CommandError> {
    let missing = |what| CommandError::Missing(verb.to_owned(), what);
    let ms = |span: u64| i64::try_from(span).unwrap_or(i64::MAX);
    Ok(match verb {
        "set-clock" => Mishap::SetClock(given.by_ms.ok_or_else(|| missing("by=1h or by=-1h"))?),
        "drift" => Mishap::Drift(given.ppm.ok_or_else(|| missing("ppm=N"))?),
        "power-cut" => Mishap::PowerCut(ms(given.for_ms.ok_or_else(|| missing("for=1h"))?)),
        "write-slowly" => Mishap::WriteSlowly(given.ms.ok_or_else(|| missing("ms=N"))?.into()),
        _ => Mishap::Clear,
    })
}

fn fault_kind(verb: &str, given: &Words) -> Result<FaultKind, CommandError> {
    let bytes = given.bytes.unwrap_or(GARBAGE_BYTES);
    Ok(match verb {
        "silent" => FaultKind::Silent,
        "delay" | "slow" => {
            let missing = || CommandError::Missing(verb.to_owned(), "ms=N, such as `delay ms=200`");
            FaultKind::Delay { ms: given.ms.ok_or_else(missing)? }
        }
        "late" => FaultKind::Delay { ms: given.ms.unwrap_or(LATE_MS) },
        "truncated" => FaultKind::Truncated { bytes: given.bytes },
        "wrong-crc" => FaultKind::WrongCrc,
        "wrong-unit" => FaultKind::WrongUnit,
        "wrong-function" => FaultKind::WrongFunction,
        "wrong-count" => FaultKind::WrongCount,
        "wrong-transaction" => FaultKind::WrongTransaction,
        "exception" => {
            let missing = || CommandError::Missing(verb.to_owned(), "code=N, such as `exception code=4`");
            FaultKind::Exception { code: given.code.ok_or_else(missing)? }
        }
        "garbage" => FaultKind::Garbage { bytes },
        "trailing-garbage" => FaultKind::TrailingGarbage { bytes },
        other => return Err(CommandError::Unknown(other.to_owned())),
    })
}

fn read_words<'a>(words: impl Iterator<Item = &'a str>) -> Result<Words, CommandError> {
    let mut given = Words::default();
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| CommandError::Word(word.to_owned()))?;
        let bad = || CommandError::Value(word.to_owned());
        match key {
            "unit" => given.unit = Some(value.parse().map_err(|_| bad())?),
            "count" => given.count = Some(value.parse().map_err(|_| bad())?),
            "ms" => given.ms = Some(value.parse().map_err(|_| bad())?),
            "bytes" => given.bytes = Some(value.parse().map_err(|_| bad())?),
            "code" => given.code = Some(value.parse().map_err(|_| bad())?),
            "ppm" => given.ppm = Some(value.parse().map_err(|_| bad())?),
            "by" => {
                let (sign, span) = value.strip_prefix('-').map_or((1, value), |span| (-1, span));
                let ms = parse_duration_ms(span).ok().and_then(|ms| i64::try_from(ms).ok());
                given.by_ms = Some(sign * ms.ok_or_else(bad)?);
            }
            "after" => given.after_ms = Some(parse_duration_ms(value).map_err(|_| bad())?),
            "for" => given.for_ms = Some(parse_duration_ms(value).map_err(|_| bad())?),
            "p" => {
                let share: Option<f64> = value.parse().ok().filter(|p| (0.0..=1.0).contains(p));
                given.probability = Some(share.ok_or_else(bad)?);
            }
            _ => return Err(CommandError::Word(word.to_owned())),
        }
    }
    Ok(given)
}

/// The fault of a [`Command::Fault`], counted from `now_ns`.
#[must_use]
pub fn fault(kind: FaultKind, times: (u64, Option<u64>), probability: f64, count: u32, now_ns: u64) -> Fault {
    let (after_ms, for_ms) = times;
    let from = now_ns.saturating_add(after_ms.saturating_mul(1_000_000));
    let until = for_ms.map_or(u64::MAX, |ms| from.saturating_add(ms.saturating_mul(1_000_000)));
    Fault::new(kind).within_ns(from, until).with_probability(probability).times(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_or_told_what_was_meant() {
        let silent = Command::Fault {
            unit: Some(3),
            kind: FaultKind::Silent,
            after_ms: 0,
            for_ms: Some(30_000),
            probability: 1.0,
            count: u32::MAX,
        };
        assert_eq!(parse("silent unit=3 for=30s"), Ok(silent));
        assert_eq!(parse("clear"), Ok(Command::Clear(None)));
        assert_eq!(
            parse("unplug after=1m for=5s"),
            Ok(Command::Unplug { after_ms: 60_000, for_ms: Some(5_000) })
        );
        assert_eq!(parse("set-clock by=-1h"), Ok(Command::Memory(None, Mishap::SetClock(-3_600_000))));
        assert_eq!(parse("drift unit=2 ppm=-50"), Ok(Command::Memory(Some(2), Mishap::Drift(-50))));
        assert_eq!(parse("clear-memory"), Ok(Command::Memory(None, Mishap::Clear)));
        for (line, part) in [
            ("set-clock", "needs by=1h or by=-1h"),
            ("set-clock by=1", "duration such as 30s"),
            ("silence", "`silence` is no command"),
            ("silent 3", "`3` does not belong here"),
            ("silent unit=x", "whole number"),
            ("silent p=1.5", "share from 0 to 1"),
            ("silent for=30", "duration such as 30s"),
            ("exception", "needs code=N"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(part), "{line}: {message}");
        }
    }
}
