//! The list of a source: devices that it names for the first time are asked from then on, those that it names no more are
//! asked no more, and those that it names again go on. What a listing means is `list`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gapless_common::planted::{self, Bug};
use gapless_common::quality::Cause;
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use rusqlite::Connection;

use super::describe::{Description, Whose};
use super::failure::{Failure, guarded};
use super::http::{Api, HttpDevice};
use super::life::{Known, Life, Polled};
use super::list::{Entry, Listing};
use super::naming::{self, Names};
use super::roster::{self, Changes, Listed};
use super::shell::{RETRY_FIRST_MS, RETRY_MAX_MS, SPENT_MS, Shell};
use super::standing::{WITHDRAWN_MS, said, unsaid};
use super::start::draw;
use crate::jobs::budget::Urgency;
use crate::jobs::claims::Who;
use crate::obstacle;
use crate::store::sources;

/// A listing that took longer may have missed a device between two of its pages: it takes none away.
const LISTING_MS_MAX: i64 = 3_600_000;

/// Where a source says of a device that is not listed that it changed, the list is read no more often.
const UNLISTED_MS: i64 = 60_000;
/// What was read so much later than now was read before the clock was set back.
const AHEAD_MS_MAX: i64 = 60_000;
/// Such devices that are known by their identity; for more the list is not read before it is due.
const UNLISTED_MAX: usize = 10_000;

/// Reads the list of a source, and keeps when.
pub(super) struct Lister {
    api: Arc<Api>,
    who: Who,
    names: Names,
    pub(super) due: Timestamp,
    /// Since when a listing is wanted; one that failed is wanted again when it is tried again.
    pub(super) wanted: Timestamp,
    read_at: Timestamp,
    failures: u32,
    /// What waits for leave to ask for its next page.
    under_way: Option<Listing>,
    /// What the last listing lacked.
    absent: BTreeSet<String>,
    /// Devices for which it was read out of turn.
    unlisted: BTreeSet<String>,
    /// Whether what was listed before this process is known.
    is_loaded: bool,
}

impl Lister {
    /// Of a source whose description has a list.
    pub(super) fn new(api: Arc<Api>, names: Names) -> Self {
        Self {
            who: api.caller.who(),
            wanted: api.caller.now(),
            api,
            names,
            due: Timestamp(0),
            read_at: Timestamp(0),
            failures: 0,
            under_way: None,
            absent: BTreeSet::new(),
            unlisted: BTreeSet::new(),
            is_loaded: false,
        }
    }

    /// A listing as the source gives it; without leave to go on, what there is of it is kept.
    fn read(&mut self, now: Timestamp) -> Result<Listing, Failure> {
        let Some(spec) = &self.api.description.list else {
            return Err(Failure::Answer("it has no list".into()));
        };
        // It can wait, though not for ever.
        let asks = (self.who, Urgency::waiting(now.since_ms(self.wanted), spec.every.0));
        let mut listing = self.under_way.take().unwrap_or_else(|| Listing::begin(spec, now));
        loop {
            match self.api.caller.get(listing.url(), asks) {
                Ok(body) if listing.take(spec, &body).map_err(Failure::Answer)? => return Ok(listing),
                Ok(_) => {}
                Err(_)
                    if planted::has(Bug::ListUnfinished)
                        && listing.url() != Listing::begin(spec, now).url() =>
                {
                    return Ok(listing);
                }
                Err(failure) => {
                    if failure.until().is_some() {
                        self.under_way = Some(listing);
                    }
                    return Err(failure);
                }
            }
        }
    }

    /// Nobody may ask for the list for as long as a source is left alone that refuses its consent.
    pub(super) fn rest(&mut self, now: Timestamp) {
        (self.read_at, self.due) = (now, now.plus_ms(WITHDRAWN_MS));
    }

    /// What was read in a time that has not come was read before the clock was set back: it is due, and not that much later.
    pub(super) fn look(&mut self, now: Timestamp) {
        if self.read_at.since_ms(now) > AHEAD_MS_MAX {
            (self.read_at, self.due, self.wanted) = (now, now, now);
        }
    }

    /// Whether there is anything to do: what was listed before is not known yet, or the list is to be read.
    pub(super) fn is_due(&self, now: Timestamp) -> bool {
        !self.is_loaded || self.due <= now || self.read_at.since_ms(now) > AHEAD_MS_MAX
    }

    /// It is to be read as soon as may be.
    pub(super) fn hurry(&mut self, now: Timestamp) {
        self.due = self.due.min(now);
    }

    /// The list may say another thing of these devices than is known: it is read soon, once for each of them. One that it goes
    /// on not to name is no reason to read it out of turn again.
    pub(super) fn unknown<'a>(&mut self, ids: impl IntoIterator<Item = &'a String>, now: Timestamp) {
        let mut is_new = false;
        for id in ids {
            is_new |= self.unlisted.len() < UNLISTED_MAX && self.unlisted.insert(id.clone());
        }
        if is_new {
            self.due = self.due.min(now.max(self.read_at.plus_ms(UNLISTED_MS)));
        }
    }

    /// When it is read again.
    pub(super) fn put_off(&mut self, failure: Option<&Failure>, now: Timestamp) {
        self.read_at = now;
        if let Some(until) = failure.and_then(Failure::until) {
            // It is the more urgent the longer it waits: there may be a call for it before.
            self.due = until.min(now.plus_ms(SPENT_MS));
            return;
        }
        self.failures = if failure.is_some() { self.failures.saturating_add(1) } else { 0 };
        let doubled = RETRY_FIRST_MS.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
        let every_ms = self.api.description.list.as_ref().map_or(RETRY_MAX_MS, |spec| spec.every.0);
        self.due = match failure {
            None => now.plus_ms(every_ms),
            Some(Failure::Withdrawn { .. }) => now.plus_ms(WITHDRAWN_MS),
            Some(_) => now.plus_ms(doubled.min(RETRY_MAX_MS)),
        };
        // Only for want of a call it has waited: one that failed would take those of all that works.
        self.wanted = self.due;
    }
}

impl Shell {
    /// The devices that were listed before this process began.
    pub(super) fn load_listed(&mut self, connection: &Connection) -> Result<(), Failure> {
        let Some(lister) = self.lister.as_mut().filter(|lister| !lister.is_loaded) else { return Ok(()) };
        let api = Arc::clone(&lister.api);
        let (site, source) = (&api.description.site, &api.description.name);
        for (name, attributes) in sources::listed(connection, site, source)? {
            let Some(entry) = Entry::of(&name, &attributes) else { continue };
            self.add(&api, entry, &name)?;
        }
        self.lister.iter_mut().for_each(|lister| lister.is_loaded = true);
        Ok(())
    }

    /// Reads the list where it is due, and goes by it.
    pub(super) fn relist(&mut self, connection: &Connection) -> Result<(), Failure> {
        let now = self.now();
        let is_over = |polled: &Polled| matches!(polled.life, Life::Withdrawn(_, Whose::Account));
        let is_over = self.devices.iter().any(is_over);
        self.lister.iter_mut().for_each(|lister| lister.look(now));
        let Some(lister) = self.lister.as_mut().filter(|lister| lister.due <= now && !is_over) else {
            return Ok(());
        };
        let read = guarded(|| lister.read(now));
        lister.put_off(read.as_ref().err(), now);
        let listing = match read {
            Ok(listing) => listing,
            Err(Failure::Withdrawn { why, .. }) => return self.withdraw_all(&why),
            Err(failure) => return Err(failure),
        };
        let is_quick = self.now().since_ms(listing.began()) <= LISTING_MS_MAX;
        let (found, known) = (listing.found(), self.known_of_list());
        let Some(lister) = &mut self.lister else { return Ok(()) };
        let changes = roster::compare(&known, &found, &lister.absent);
        lister.absent.clone_from(&changes.absent);
        let api = Arc::clone(&lister.api);
        if changes.absent.len() > changes.gone.len() {
            tracing::warn!(
                source = self.pace.name,
                devices = changes.absent.len() - changes.gone.len(),
                "the list does not name them any more: not believed before it says so again"
            );
        }
        self.go_by(connection, &api, changes, is_quick)
    }

    /// The devices of the list, by their identity there.
    fn known_of_list(&self) -> BTreeMap<String, Listed> {
        let listed = self.devices.iter().filter_map(|polled| {
            let (entry, is_removed) = (polled.listed.clone()?, matches!(polled.life, Life::Removed(_)));
            Some((entry.id.clone(), Listed { entry, is_removed }))
        });
        listed.collect()
    }

    pub(super) fn go_by(
        &mut self,
        connection: &Connection,
        api: &Arc<Api>,
        changes: Changes,
        is_quick: bool,
    ) -> Result<(), Failure> {
        let Description { site, name: source, .. } = &api.description;
        let (mut taken, mut before) = (BTreeSet::new(), BTreeMap::new());
        if !changes.new.is_empty() {
            taken.extend(sources::device_names(connection, site)?);
            let listed = sources::listed(connection, site, source)?;
            before.extend(
                listed.into_iter().filter_map(|(name, mut of)| Some((of.remove("listed_id")?, name))),
            );
        }
        for entry in changes.new {
            // One that this process does not know may have been known before it.
            let name = match before.remove(&entry.id) {
                Some(name) => Some(name),
                None => self.lister.as_ref().and_then(|Lister { names, .. }| {
                    let owner = owner(source, &entry);
                    let take = |name: &str| {
                        let agent = format!("{source}-{name}");
                        !taken.contains(name) && names.take(site, (name, &agent), &owner).is_ok()
                    };
                    naming::name_of(&entry, source, take)
                }),
            };
            let Some(name) = name else {
                tracing::error!(
                    source,
                    id = entry.id,
                    name = entry.name,
                    "not asked: no name can be made of either"
                );
                continue;
            };
            tracing::info!(source, id = entry.id, device = name, "listed for the first time");
            self.add(api, entry, &name)?;
        }
        for entry in changes.back.into_iter().chain(changes.other) {
            self.renew(api, entry)?;
        }
        match is_quick {
            true => changes.gone.iter().try_for_each(|id| self.remove(id)),
            false if changes.gone.is_empty() => Ok(()),
            false => {
                tracing::warn!(
                    source = self.pace.name,
                    devices = changes.gone.len(),
                    "the listing took too long to take devices away"
                );
                Ok(())
            }
        }
    }

    /// A device of the list is asked from now on, under this name.
    fn add(&mut self, api: &Arc<Api>, entry: Entry, name: &str) -> Result<(), Failure> {
        let asked = match api.description.listed(&entry, name) {
            Ok(asked) => asked,
            Err(why) => {
                tracing::error!(
                    source = self.pace.name,
                    id = entry.id,
                    why,
                    "a device of the list is not asked"
                );
                return Ok(());
            }
        };
        let Ok(site) = api.description.site_id() else { return Ok(()) };
        let source = &api.description.name;
        let same = self.devices.iter().find(|polled| polled.key == entry.id);
        if let Some(Polled { device, .. }) = same.filter(|_| self.differ.is_some()) {
            // What changes at one would be taken for what changes at the other.
            let (other, id) = (device.id.as_str(), entry.id);
            tracing::error!(
                source,
                id,
                device = name,
                other,
                "not asked: the other device has this `id`, too"
            );
            return Ok(());
        }
        let taken = self.lister.as_ref().map(|lister| {
            lister.names.take(site.as_str(), (name, asked.agent.as_str()), &owner(source, &entry))
        });
        if let Some(Err(other)) = taken {
            tracing::error!(
                source,
                id = entry.id,
                device = name,
                other,
                "not asked: another one has this name, or that of its agent"
            );
            return Ok(());
        }
        let path = AgentPath { site, agent: asked.agent.clone() };
        let begin = draw(&*self.ground).map_err(|e| Failure::Answer(e.to_string()))?;
        let (device, key, values) = (asked.device.clone(), entry.id.clone(), asked.values.clone());
        let fetch = Box::new(HttpDevice::new(api, asked));
        let polled = Polled::new(path, device, begin, fetch);
        self.devices.push(Polled { listed: Some(entry), key, values, ..polled });
        Ok(())
    }

    /// A device that was removed is listed again, or is asked for in another way.
    fn renew(&mut self, api: &Arc<Api>, entry: Entry) -> Result<(), Failure> {
        let now = self.now();
        let is_it = |polled: &&mut Polled| polled.listed.as_ref().is_some_and(|listed| listed.id == entry.id);
        let Some(polled) = self.devices.iter_mut().find(is_it) else { return Ok(()) };
        let asked = api.description.listed(&entry, polled.device.id.as_str()).map_err(Failure::Answer)?;
        let mut words = asked.device.attributes.clone();
        polled.device = asked.device.clone();
        // By the same who: a claim of its own is none of another's.
        polled.fetch.renew(asked);
        polled.listed = Some(entry);
        let messages = match std::mem::replace(&mut polled.life, Life::NEW) {
            Life::Removed(mut voice) => {
                tracing::info!(agent = voice.path().agent.as_str(), "listed again: asked again");
                // What was not asked for meanwhile was not due.
                words.extend(unsaid(&[obstacle::Kind::Removed, obstacle::Kind::Unreachable]));
                let messages = voice.resume(&words, now)?;
                polled.life = Life::Known(Box::new(Known::new(*voice, now, None)));
                messages
            }
            Life::Known(mut known) => {
                // What was read of it the other way says nothing of what there is this way.
                (known.revision, known.reread) = (None, None);
                let messages = known.voice.attribute(&words, now)?;
                polled.life = Life::Known(known);
                messages
            }
            other => {
                polled.life = other;
                Vec::new()
            }
        };
        self.hand_in(messages)
    }

    /// A device is listed no more: it keeps what it has, is asked no more, and says since when and why.
    fn remove(&mut self, id: &str) -> Result<(), Failure> {
        let is_it = |polled: &Polled| polled.listed.as_ref().is_some_and(|listed| listed.id == id);
        let Some(at) = self.devices.iter().position(is_it) else { return Ok(()) };
        let now = self.now();
        if self.known(at).is_none() {
            // Nobody has heard of it yet.
            if self.devices.get(at).is_some_and(|polled| matches!(polled.life, Life::New { .. })) {
                self.devices.remove(at);
            }
            return Ok(());
        }
        // What it owes ends here: what has not come by now does not come any more.
        self.account(at, Cause::NotRecorded, now)?;
        let Some(polled) = self.devices.get_mut(at) else { return Ok(()) };
        let Life::Known(known) = std::mem::replace(&mut polled.life, Life::NEW) else { return Ok(()) };
        let mut voice = known.voice;
        tracing::warn!(agent = voice.path().agent.as_str(), "listed no more: not asked any more");
        let why = "its source does not list it any more";
        let words = said(obstacle::Kind::Removed, now, why);
        let messages = voice.pause(&words, now)?;
        polled.life = Life::Removed(Box::new(voice));
        self.hand_in(messages)
    }
}

/// Whose the name of a listed device is: no other source of its site has the name of this one.
fn owner(source: &str, entry: &Entry) -> String {
    format!("source {source}, listed as {}", entry.id)
}
