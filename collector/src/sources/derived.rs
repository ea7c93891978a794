//! The thread of a description's computed devices: follows what is written of their inputs, and hands what follows from it to
//! the writer. What a value is, and why there is none, is `derive`'s.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gapless_common::catalog::Catalog;
use gapless_common::message::{CommandBody, Outcome};
use gapless_common::time::Timestamp;
use rusqlite::Connection;
use tokio::sync::watch;

use super::derive::{self, Periods};
use super::describe::Computed;
use super::failure::Failure;
use super::ground::Ground;
use super::shell::hand_in;
use super::start::{StartError, draw};
use super::voice::{Begin, Voice, Window};
use crate::store::inputs::{self, Input};
use crate::store::{sources, sqlite};

/// How often it is seen what was written.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// The longest stretch that is computed at once.
const WINDOW_SLOTS_MAX: i64 = 5_000;

/// One computed device.
struct Derived {
    computed: Computed,
    begin: Begin,
    life: Option<Life>,
    /// Why it cannot be computed, as it was said last.
    trouble: Option<String>,
}

/// What has begun.
struct Life {
    voice: Voice,
    /// The period that begins here is not computed yet.
    next: Timestamp,
    /// What was written of each input up to this commit is seen to.
    seen: [i64; 2],
}

/// Starts the thread. It ends with `shutdown`, or with the writer.
pub(super) fn start(
    all: Vec<Computed>,
    database: &Path,
    ground: Arc<dyn Ground>,
    shutdown: watch::Receiver<bool>,
) -> Result<(), StartError> {
    let new = |computed| Ok(Derived { computed, begin: draw(&*ground)?, life: None, trouble: None });
    let mut all = all.into_iter().map(new).collect::<Result<Vec<_>, StartError>>()?;
    let database = database.to_owned();
    let run = move || {
        let mut connection = None;
        while !*shutdown.borrow() {
            if connection.is_none() {
                connection = sqlite::open_reader(&database).ok();
            }
            for derived in &mut all {
                match connection.as_ref().map(|connection| derived.look(connection, &*ground)) {
                    Some(Err(Failure::Ending)) => return,
                    Some(Err(error)) => derived.say(&error.to_string()),
                    Some(Ok(())) => derived.trouble = None,
                    None => {}
                }
            }
            std::thread::sleep(LOOK_EVERY);
        }
    };
    std::thread::Builder::new().name("derived".into()).spawn(run).map(drop).map_err(StartError::Thread)
}

impl Derived {
    fn periods(&self) -> Periods {
        let device = &self.computed.device;
        let label = device.channels.first().map(|channel| channel.label).unwrap_or_default();
        Periods { grid: device.grid, label }
    }

    /// Says why it cannot be computed, once.
    fn say(&mut self, why: &str) {
        if self.trouble.as_deref() != Some(why) {
            tracing::warn!(device = %self.computed.device.id, "not computed: {why}");
            self.trouble = Some(why.to_owned());
        }
    }

    fn look(&mut self, connection: &Connection, ground: &dyn Ground) -> Result<(), Failure> {
        let inputs = self.inputs(connection)?;
        let ready = inputs.each_ref().map(|input| input.due);
        let [Some(a), Some(b)] = ready else {
            return Err(Failure::Answer("nothing of an input is accounted for yet".to_owned()));
        };
        let begins = |at: fn((Timestamp, Timestamp)) -> Timestamp| {
            [inputs[0].periods.begin(at(a)), inputs[1].periods.begin(at(b))]
        };
        let [first, through] = [begins(|due| due.0), begins(|due| due.1)];
        let (first, through) = (first[0].max(first[1]), through[0].min(through[1]));
        if self.life.is_none() {
            self.begin(connection, ground, &inputs, first)?;
        }
        self.answer(connection, ground)?;
        self.revise(connection, ground, &inputs)?;
        self.advance(connection, ground, &inputs, through)
    }

    fn inputs(&self, connection: &Connection) -> Result<[Input; 2], Failure> {
        let site = self.computed.path.site.as_str();
        let found = |(device, channel): &(String, String)| {
            let found = inputs::input(connection, site, (device, channel))?;
            let found =
                found.ok_or_else(|| Failure::Answer(format!("there is no {site}/{device}/{channel} yet")))?;
            if found.periods.are_those_of(&self.periods()) {
                return Ok(found);
            }
            Err(Failure::Answer(format!(
                "the values of {device}/{channel} are every {}, those of it every {}",
                found.periods.grid.interval,
                self.periods().grid.interval
            )))
        };
        let [a, b] = &self.computed.inputs;
        Ok([found(a)?, found(b)?])
    }

    fn begin(
        &mut self,
        connection: &Connection,
        ground: &dyn Ground,
        inputs: &[Input; 2],
        first: Timestamp,
    ) -> Result<(), Failure> {
        let (now, path, device) = (ground.now(), &self.computed.path, &self.computed.device);
        let known = sources::known(connection, path, device.id.as_str())?.unwrap_or_default();
        let periods = self.periods();
        let next = known.proven_until.map_or(first, |until| periods.begin(until));
        let begin = Begin { previous: known.previous, ..self.begin };
        let mut voice = Voice::new(path.clone(), begin, Catalog { devices: vec![device.clone()] }, 0);
        let opening = voice.opening(begin, periods.instant(next), now)?;
        let seen = sqlite::head(connection)?.commit.0.cast_signed();
        hand_in(ground, opening)?;
        self.life = Some(Life { voice, next, seen: [seen; 2] });
        // What the last process saw to is not known: all of it is computed once more, and what is from before it was due.
        let [a, b] = inputs;
        let earliest = inputs::earliest(connection, a)?.max(inputs::earliest(connection, b)?);
        self.recompute(connection, ground, inputs, (earliest.unwrap_or(first), next))
    }

    /// Commands: whoever wants it now has what there is.
    fn answer(&mut self, connection: &Connection, ground: &dyn Ground) -> Result<(), Failure> {
        let (now, Some(life)) = (ground.now(), &self.life) else { return Ok(()) };
        let (is_there, commands) = sources::told(connection, life.voice.path(), now)?;
        let mut messages = Vec::new();
        if !is_there {
            messages.push(life.voice.birth(now)?);
        }
        for command in commands {
            let outcome = match command.body {
                CommandBody::PollNow(_) => Outcome::NoData,
                _ => Outcome::Failed("a computed device has no use for it".into()),
            };
            messages.push(life.voice.reply(command.id, outcome, now)?);
        }
        hand_in(ground, messages)
    }

    /// Computes anew what an input has changed in the past.
    fn revise(
        &mut self,
        connection: &Connection,
        ground: &dyn Ground,
        inputs: &[Input; 2],
    ) -> Result<(), Failure> {
        let (periods, Some(life)) = (self.periods(), &self.life) else { return Ok(()) };
        let mut seen = life.seen;
        for (input, seen) in inputs.iter().zip(&mut seen) {
            for (commit, from, to) in inputs::changed(connection, input.device, *seen)? {
                *seen = commit;
                let to = input.periods.begin(to).plus_ms(periods.grid.interval.as_ms());
                self.recompute(connection, ground, inputs, (input.periods.begin(from), to))?;
            }
        }
        if let Some(life) = &mut self.life {
            life.seen = seen;
        }
        Ok(())
    }

    /// Computes the periods of a range that were computed before, and hands in what has another value.
    fn recompute(
        &mut self,
        connection: &Connection,
        ground: &dyn Ground,
        inputs: &[Input; 2],
        (from, to): (Timestamp, Timestamp),
    ) -> Result<(), Failure> {
        let (site, device) = (self.computed.path.site.as_str(), &self.computed.device);
        let channel = device.channels.first().map(|channel| channel.id.as_str()).unwrap_or_default();
        let own = inputs::input(connection, site, (device.id.as_str(), channel))?;
        let (periods, Some(life)) = (self.periods(), &mut self.life) else { return Ok(()) };
        for (from, to) in windows(&periods, from, to.min(life.next)) {
            let known = between(connection, inputs, (from, to))?;
            let stored = own.as_ref().map(|own| inputs::between(connection, own, (from, to))).transpose()?;
            let stored = stored.unwrap_or_default().cells;
            let mut rows = derive::product(&periods, &known);
            rows.retain(|row| {
                row.cells.first().copied().flatten() != stored.get(&periods.begin(row.at)).copied()
            });
            let (from, to) = (periods.instant(from), periods.instant(to));
            let window = Window { from, to, accounted: to, settled: from };
            let why = |at| derive::why(&known, periods.begin(at));
            let (messages, _) = life.voice.rows(rows, window, why, ground.now())?;
            hand_in(ground, messages)?;
        }
        Ok(())
    }

    /// Computes what both inputs are accounted for.
    fn advance(
        &mut self,
        connection: &Connection,
        ground: &dyn Ground,
        inputs: &[Input; 2],
        through: Timestamp,
    ) -> Result<(), Failure> {
        let (periods, Some(life)) = (self.periods(), &mut self.life) else { return Ok(()) };
        for (from, to) in windows(&periods, life.next, through) {
            let known = between(connection, inputs, (from, to))?;
            let rows = derive::product(&periods, &known);
            let (begin, end) = (periods.instant(from), periods.instant(to));
            let window = Window { from: begin, to: end, accounted: begin, settled: end };
            let why = |at| derive::why(&known, periods.begin(at));
            let (messages, _) = life.voice.rows(rows, window, why, ground.now())?;
            hand_in(ground, messages)?;
            life.next = to;
        }
        Ok(())
    }
}

fn between(
    connection: &Connection,
    inputs: &[Input; 2],
    range: (Timestamp, Timestamp),
) -> Result<[derive::Input; 2], Failure> {
    let [a, b] = inputs;
    let known = |input| inputs::between(connection, input, range);
    Ok([known(a)?, known(b)?])
}

/// A stretch of periods in parts that are computed at once.
fn windows(
    periods: &Periods,
    from: Timestamp,
    to: Timestamp,
) -> impl Iterator<Item = (Timestamp, Timestamp)> + use<> {
    let step = periods.grid.interval.as_ms().saturating_mul(WINDOW_SLOTS_MAX);
    let begins = std::iter::successors(Some(from), move |at| Some(at.plus_ms(step)));
    begins.take_while(move |at| *at < to).map(move |at| (at, at.plus_ms(step).min(to)))
}
