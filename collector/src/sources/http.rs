//! A device of a remote API: what its description says is asked for, over HTTP.

use std::sync::Arc;

use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;
use sha2::{Digest as _, Sha256};

use super::call::Caller;
use super::describe::{Asked, Description};
use super::failure::Failure;
use super::fetch::{Fetch, Pace};
use super::rows::{self, Parsed};
use crate::jobs::budget::Urgency;
use crate::jobs::claims::Who;

/// The first call only asks how far back there is anything.
const FIRST_WINDOW_MS: i64 = 86_400_000;

/// A description and what calls it: one for all its devices.
pub(super) struct Api {
    pub(super) description: Description,
    pub(super) caller: Caller,
}

/// One device of it.
pub(super) struct HttpDevice {
    api: Arc<Api>,
    asked: Asked,
    /// Asks for its rows.
    who: Who,
    /// Asks whether there are any: that this is answered says nothing of the other.
    prober: Who,
    urgency: Urgency,
    /// Where the last answer with rows had no values: it is told once.
    absent: Vec<String>,
}

impl HttpDevice {
    /// A device as it is asked for.
    pub(super) fn new(api: &Arc<Api>, asked: Asked) -> Self {
        let (who, prober) = (api.caller.who(), api.caller.who());
        Self { api: Arc::clone(api), asked, who, prober, urgency: Urgency::Score(0.0), absent: Vec::new() }
    }

    /// The answer to a question, which is `template` with the device's words in it.
    fn ask(&self, template: &str, url: &str, asks: (Who, Urgency)) -> Result<String, Failure> {
        let answer = self.api.caller.get(url, asks);
        if self.asked.spec.is_named_in(template) { answer } else { answer.map_err(Failure::of_account) }
    }
}

impl Description {
    /// What whoever looks after it goes by.
    pub(super) fn pace(&self) -> Pace {
        Pace {
            name: self.name.clone(),
            window_ms: self.window.0,
            overlap_ms: self.overlap.0,
            lag_ms: self.lag.0,
            unreachable_every_ms: self.unreachable_every.0,
        }
    }
}

impl Fetch for HttpDevice {
    fn oldest(&mut self, now: Timestamp) -> Result<Timestamp, Failure> {
        let (grid, api) = (self.asked.device.grid, Arc::clone(&self.api));
        let description = &api.description;
        if let Some(first) = description.first {
            return Ok(grid.at(grid.first_from(now.plus_ms(-first.0))));
        }
        let from = now.plus_ms(-FIRST_WINDOW_MS.min(description.window.0));
        let parsed = self.fetch(from, now)?;
        if let Some(path) = description.answer.oldest.as_ref().filter(|_| parsed.oldest.is_none())
            && !parsed.rows.is_empty()
        {
            let why = format!("the answer has no time at `{path}`: mend or leave out `answer.oldest`");
            return Err(Failure::Answer(why));
        }
        let first = parsed.oldest.or_else(|| parsed.rows.first().map(|row| row.at)).unwrap_or(from);
        Ok(grid.at(grid.first_from(first)))
    }

    fn fetch(&mut self, from: Timestamp, to: Timestamp) -> Result<Parsed, Failure> {
        let (description, asked) = (&self.api.description, &self.asked);
        let url = description.url_of(&asked.spec, from, to);
        let body = self.ask(&description.url, &url, (self.who, self.urgency))?;
        let mut parsed = description.answer.parse(&body, &asked.values, from).map_err(Failure::Answer)?;
        parsed.rows.drain(..usize::from(planted::has(Bug::FirstRowDropped) && !parsed.rows.is_empty()));
        let device = &asked.spec.name;
        if let Some(absent) = parsed.absent.as_ref().filter(|absent| **absent != self.absent) {
            let paths = absent.join(", ");
            if !paths.is_empty() {
                tracing::warn!(
                    device,
                    paths,
                    "values are looked for where no row of the answer has anything"
                );
            }
            self.absent.clone_from(absent);
        }
        if parsed.doubled > 0 {
            let count = parsed.doubled;
            tracing::warn!(device, count, "instants came twice with other values: the last one counts");
        }
        Ok(parsed)
    }

    fn probe(&mut self) -> Result<Option<String>, Failure> {
        let Some(probe) = &self.api.description.probe else { return Ok(None) };
        // Whatever it says, the rows could not be asked for.
        self.api.caller.free(self.who)?;
        let url = self.asked.spec.fill(probe.url.clone());
        let body =
            self.ask(&probe.url, &url, (self.prober, Urgency::Spare)).map_err(|failure| match failure {
                // The question alone is too much for the source: what it might save can still be had without it.
                Failure::Rests(until) => Failure::Spent(until),
                other => other,
            })?;
        match &probe.revision {
            // A hash: an answer may be long, and there may be many devices.
            None => Ok(Some(Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect())),
            Some(path) => rows::text_at(&body, path).map(Some).map_err(Failure::Answer),
        }
    }

    fn renew(&mut self, asked: Asked) {
        self.asked = asked;
    }

    fn set_urgency(&mut self, urgency: Urgency) {
        self.urgency = urgency;
    }
}
