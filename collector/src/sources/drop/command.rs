//! A program that is run within bounds: of its time, of what it may say, of what it may leave behind.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use gapless_common::text::{format_bytes, format_duration_ms};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::{Pid, Signal, kill_process_group};

/// How much of what a program says on its standard error is kept: the last of it.
const SAID_BYTES_MAX: usize = 4 << 10;
/// How long a program that has said all may take to end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    /// Never empty.
    pub(super) argv: Vec<String>,
    /// How long it may take.
    pub(super) timeout: Duration,
}

/// Why a program gave nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    /// It is not there.
    #[error("there is no program `{0}`: install it, or write its whole path")]
    Missing(String),
    /// The system does not start it.
    #[error("`{program}` cannot be started: {source}")]
    Start {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It says that it could not.
    #[error("`{program}` refuses it ({status}): {said}")]
    Refused {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines that it said.
        said: String,
    },
    /// It takes too long.
    #[error("`{program}` took longer than {}, and was ended", format_duration_ms(u64::try_from(.timeout.as_millis()).unwrap_or(u64::MAX)))]
    Slow {
        /// Which.
        program: String,
        /// How long it was given.
        timeout: Duration,
    },
    /// It gives too much.
    #[error("`{program}` gave more than {}: `largest` is the limit", format_bytes(*.most))]
    Large {
        /// Which.
        program: String,
        /// How much it may give, in bytes.
        most: u64,
    },
    /// What it gives cannot be read.
    #[error("what `{program}` gives cannot be read: {source}")]
    Pipe {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
}

/// A program that runs. It, and what it has started, is ended when this is dropped.
pub(super) struct Running {
    pub(super) child: Child,
    said: Receiver<String>,
    /// Somebody has asked how it ended, so that its number may be another one's by now.
    is_over: bool,
}

impl Running {
    /// Starts it, with all of its streams to be taken from `child`.
    pub(super) fn start(command: &mut Command) -> Result<Self, CommandError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => CommandError::Missing(program.clone()),
            _ => CommandError::Start { program: program.clone(), source },
        })?;
        let (tell, said) = sync_channel(1);
        if let Some(stderr) = child.stderr.take() {
            // It ends with the program, or with whoever has its standard error from it.
            let follow = move || drop(tell.send(last_of(stderr)));
            std::thread::Builder::new()
                .name("said".into())
                .spawn(follow)
                .map_err(|source| CommandError::Start { program, source })?;
        }
        Ok(Self { child, said, is_over: false })
    }

    /// What it said on its standard error, once it has ended.
    pub(super) fn said(&self) -> String {
        self.said.recv_timeout(Duration::from_secs(1)).unwrap_or_default()
    }

    /// How it ended, where it does so in time.
    pub(super) fn ended(&mut self, within: Duration) -> io::Result<Option<ExitStatus>> {
        let until = Instant::now() + within;
        loop {
            let ended = self.child.try_wait()?;
            self.is_over |= ended.is_some();
            if ended.is_some() || Instant::now() >= until {
                return Ok(ended);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            // Its group is its own, so nobody else is met; it may have left others behind when it ended.
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// The last line of what a program said.
pub(super) fn last_line(said: &str) -> &str {
    said.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it does not say why")
}

/// The last two: `gpg` and others say what is wrong, and then what follows from it.
fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.get(lines.len().saturating_sub(2)..) {
        None | Some([]) => last_line(said).to_owned(),
        Some(last) => last.join("; "),
    }
}

fn last_of(mut stderr: ChildStderr) -> String {
    let (mut kept, mut bytes) = (Vec::new(), [0; 1 << 10]);
    while let Ok(count @ 1..) = stderr.read(&mut bytes) {
        kept.extend_from_slice(&bytes[..count]);
        let surplus = kept.len().saturating_sub(SAID_BYTES_MAX);
        kept.drain(..surplus);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

/// Waits until something can be read; `false` where nothing came until then.
pub(super) fn readable(from: impl AsFd, until: Instant) -> io::Result<bool> {
    ready(from, PollFlags::IN, until)
}

/// Writes all of it, where the program takes it until then.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] where it does not.
pub(super) fn write_until(to: &mut ChildStdin, mut bytes: &[u8], until: Instant) -> io::Result<()> {
    // The other end is another file to the system, and waits as it did.
    ioctl_fionbio(&*to, true)?;
    while !bytes.is_empty() {
        match to.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !ready(&*to, PollFlags::OUT, until)? {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn ready(file: impl AsFd, what: PollFlags, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let seconds = i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        let left = Timespec { tv_sec: seconds, tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&file, what)], Some(&left)) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(count) => return Ok(count > 0),
        }
    }
}

impl Program {
    /// When the time is over of what begins now.
    pub(super) fn until(&self) -> Instant {
        Instant::now() + self.timeout
    }

    /// What it makes of `input`, `most` bytes of it, [until](Self::until) then.
    pub(super) fn run(&self, input: Vec<u8>, most: u64, until: Instant) -> Result<Vec<u8>, CommandError> {
        let program = self.argv.first().cloned().unwrap_or_default();
        let pipe = |source| CommandError::Pipe { program: program.clone(), source };
        let slow = || CommandError::Slow { program: program.clone(), timeout: self.timeout };
        let mut running = Running::start(Command::new(&program).args(self.argv.iter().skip(1)))?;
        let Running { child, .. } = &mut running;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        if let Some(mut stdin) = stdin {
            // One that does not read all of it breaks the pipe; how it ends says whether that is as it should be.
            let feed = move || drop(stdin.write_all(&input));
            std::thread::Builder::new().name("feed".into()).spawn(feed).map_err(pipe)?;
        }
        let mut output = Vec::new();
        if let Some(mut stdout) = stdout {
            let mut bytes = [0; 16 << 10];
            loop {
                if !readable(&stdout, until).map_err(pipe)? {
                    return Err(slow());
                }
                let count = stdout.read(&mut bytes).map_err(pipe)?;
                if count == 0 {
                    break;
                }
                output.extend_from_slice(&bytes[..count]);
                if u64::try_from(output.len()).unwrap_or(u64::MAX) > most {
                    return Err(CommandError::Large { program, most });
                }
            }
        }
        match running.ended(END_WITHIN).map_err(pipe)? {
            Some(status) if status.success() => Ok(output),
            Some(status) => {
                let said = last_lines(&running.said());
                Err(CommandError::Refused { program, status, said })
            }
            None => Err(slow()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, input: &[u8], timeout: Duration) -> Result<Vec<u8>, CommandError> {
        let argv = ["sh", "-c", script].map(str::to_owned).to_vec();
        let program = Program { argv, timeout };
        program.run(input.to_vec(), 1 << 20, program.until())
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_goes_in_comes_out_however_large_it_is() {
        let text = b"0123456789".repeat(50_000);
        assert_eq!(run("cat", &text, LONG).unwrap(), text);
        assert_eq!(run("echo read nothing of it", &text, LONG).unwrap(), b"read nothing of it\n");
    }

    #[test]
    fn a_program_that_refuses_is_quoted_by_its_last_lines() {
        let told =
            run("for word in first 'no key' '' 'so nothing'; do echo \"$word\" >&2; done; exit 3", b"", LONG)
                .unwrap_err();
        assert_eq!(told.to_string(), "`sh` refuses it (exit status: 3): no key; so nothing");
        let told = run("exit 1", b"", LONG).unwrap_err();
        assert_eq!(told.to_string(), "`sh` refuses it (exit status: 1): it does not say why");
    }

    #[test]
    fn a_program_is_ended_with_all_that_it_started_when_its_time_or_its_share_is_over() {
        let told = run("sleep 600", b"", Duration::from_millis(50)).unwrap_err();
        assert_eq!(told.to_string(), "`sh` took longer than 50ms, and was ended");
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; cat /dev/zero", pid.display());
        let told = run(&script, b"", LONG).unwrap_err();
        assert_eq!(told.to_string(), "`sh` gave more than 1 MiB: `largest` is the limit");
        let pid = std::fs::read_to_string(pid).unwrap();
        // A killed one may be there until somebody has asked how it ended.
        let stat = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        let until = Instant::now() + LONG;
        while !stat().is_empty() && !stat().contains(") Z ") {
            assert!(Instant::now() < until, "it is still there: {}", stat());
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let program = Program { argv: vec!["gapless-no-such-program".to_owned()], timeout: LONG };
        let told = program.run(Vec::new(), 1, program.until()).unwrap_err().to_string();
        assert_eq!(
            told,
            "there is no program `gapless-no-such-program`: install it, or write its whole path"
        );
    }

    #[test]
    fn a_program_that_takes_nothing_is_not_waited_for_for_ever() {
        let start = |script: &str| Running::start(Command::new("sh").args(["-c", script])).unwrap();
        let bytes = vec![0; 1 << 20];
        let mut running = start("exec sleep 600");
        let mut to = running.child.stdin.take().unwrap();
        let told = write_until(&mut to, &bytes, Instant::now() + Duration::from_millis(50)).unwrap_err();
        assert_eq!(told.kind(), io::ErrorKind::TimedOut);
        let mut running = start("wc -c");
        let mut to = running.child.stdin.take().unwrap();
        write_until(&mut to, &bytes, Instant::now() + LONG).unwrap();
        drop(to);
        let mut said = String::new();
        running.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(said.trim(), "1048576");
    }
}
