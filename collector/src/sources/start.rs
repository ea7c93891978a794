//! From the files that describe sources to the workers that look after them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gapless_common::document::text_of;
use gapless_common::id::{ConnectionId, Epoch, SiteId};
use gapless_common::topic::AgentPath;
use tokio::sync::{mpsc, watch};

use super::account::Accounts;
use super::auth::secret::Secret;
use super::call::Caller;
use super::derived;
use super::describe::{Asked, Computed, Description};
use super::differ::Differ;
use super::drop::{self, DropDescription};
use super::ground::{Ground, Process};
use super::http::{Api, HttpDevice};
use super::life::Polled;
use super::login::Login;
use super::naming::Names;
use super::pool::{self, Sources};
use super::relist::Lister;
use super::shell::Shell;
use super::voice::Begin;
use crate::config;
use crate::ingest::Orders;

/// Why a source could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its file could not be read.
    #[error("cannot read {path}, which `sources` names")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It is not what it should be.
    #[error("in {path}:\n{message}")]
    Described {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The file of a secret could not be read.
    #[error(
        "in {description}: `{place}` names {path}, which cannot be read: let the collector read it, or name another file"
    )]
    SecretRead {
        /// The file of the description.
        description: PathBuf,
        /// Where it is named there.
        place: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Nothing stands in it.
    #[error("in {description}: `{place}` names {path}, whose first line is empty: write the secret there")]
    Secret {
        /// The file of the description.
        description: PathBuf,
        /// Where it is named there.
        place: String,
        /// The file.
        path: PathBuf,
    },
    /// It cannot be known whether another refresh token has taken the place of the described one.
    #[error(
        "cannot read {path}, where a refresh token is kept that takes the place of the described one: let the collector read it, or \
         remove it and write a new token where the description names it"
    )]
    Kept {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No thread.
    #[error("cannot start the thread of a source")]
    Thread(#[source] std::io::Error),
    /// No random number.
    #[error("no random number for the epoch of a source: {0}")]
    Random(String),
}

/// What a file describes.
enum Source {
    Drop(Box<DropDescription>),
    Http(Box<Description>),
}

/// The devices that descriptions name, with their site, and the sites in which a list may name any.
#[derive(Default)]
struct Devices {
    named: BTreeSet<(SiteId, String)>,
    listing: BTreeSet<SiteId>,
}

/// What all sources of a process share.
#[derive(Default)]
struct Common {
    accounts: Accounts,
    names: Names,
}

/// Starts the sources that `files` describe: `workers` threads for remote APIs, and one for each folder. They end with `shutdown`, or with the writer.
///
/// # Errors
/// [`StartError`].
pub fn start(
    files: &[PathBuf],
    database: &Path,
    orders: &Orders,
    workers: usize,
    shutdown: &watch::Receiver<bool>,
) -> Result<(), StartError> {
    let ground: Arc<dyn Ground> = Arc::new(Process::new(database, orders));
    let Described { folders, remotes, derived } = described(files, (database, &ground))?;
    for computed in derived {
        derived::start(computed, database, Arc::clone(&ground), shutdown.clone())?;
    }
    // A share that hangs holds whoever looks into it, and nobody else: each folder has a worker of its own.
    let own = folders.len();
    pool::start(folders, (database, &ground), own, shutdown).map_err(StartError::Thread)?;
    pool::start(remotes, (database, &ground), workers, shutdown).map_err(StartError::Thread)
}

fn described(files: &[PathBuf], on: (&Path, &Arc<dyn Ground>)) -> Result<Described, StartError> {
    let texts = files.iter().map(|file| Ok((file.clone(), read(file)?))).collect::<Result<Vec<_>, _>>()?;
    Described::read(&texts, on)
}

/// Whether the sources that `files` describe could be started.
///
/// # Errors
/// [`StartError`].
pub fn check(files: &[PathBuf], database: &Path) -> Result<(), StartError> {
    // Nobody is there to take what they would hand in.
    let (inbound, _) = mpsc::channel(1);
    let ground: Arc<dyn Ground> = Arc::new(Process::new(database, &Orders::to(&inbound)));
    described(files, (database, &ground)).map(drop)
}

/// What these descriptions name and nobody has so far, a line each: no mistake, as it may come.
///
/// # Errors
/// [`StartError`].
pub fn notes(files: &[PathBuf]) -> Result<Vec<String>, StartError> {
    let mut sources = Vec::new();
    for file in files {
        let described = |message| StartError::Described { path: file.clone(), message };
        sources.push((file, Source::read(&read(file)?).map_err(described)?));
    }
    let mut known = Devices::default();
    for (file, source) in &sources {
        let described = |message| StartError::Described { path: (*file).clone(), message };
        source.tell_devices(&mut known).map_err(described)?;
    }
    let mut notes = Vec::new();
    for (file, source) in &sources {
        let described = |message| StartError::Described { path: (*file).clone(), message };
        let found = source.notes(&known).map_err(described)?;
        notes.extend(found.into_iter().map(|note| format!("{}: {note}", file.display())));
    }
    Ok(notes)
}

/// The remote APIs and folders that these texts describe, for whoever carries out their turns, each with the name that errors are
/// told by; what computes devices is left out. Refresh tokens are kept beside `database`.
///
/// # Errors
/// [`StartError`].
pub fn without_threads(
    texts: &[(PathBuf, String)],
    database: &Path,
    ground: &Arc<dyn Ground>,
) -> Result<Sources, StartError> {
    let Described { mut remotes, folders, .. } = Described::read(texts, (database, ground))?;
    remotes.extend(folders);
    Ok(Sources::new(remotes, ground))
}

/// What was described, ready to be looked after.
#[derive(Default)]
struct Described {
    folders: Vec<Shell>,
    remotes: Vec<Shell>,
    /// Of each description that computes any, what it computes.
    derived: Vec<Vec<Computed>>,
}

impl Described {
    fn read(texts: &[(PathBuf, String)], on: (&Path, &Arc<dyn Ground>)) -> Result<Self, StartError> {
        let (mut common, mut sources, mut all) = (Common::default(), Vec::new(), Self::default());
        // All limits of an account and all names are known before the first thread goes by them.
        for (file, text) in texts {
            let described = |message| StartError::Described { path: file.to_owned(), message };
            let source = Source::read(text).map_err(described)?;
            source.announce(file, &mut common).map_err(described)?;
            sources.push((file, source));
        }
        for (file, source) in sources {
            all.add((file, source), on, &mut common)?;
        }
        Ok(all)
    }

    fn add(
        &mut self,
        (file, source): (&Path, Source),
        (database, ground): (&Path, &Arc<dyn Ground>),
        common: &mut Common,
    ) -> Result<(), StartError> {
        let described = |message| StartError::Described { path: file.to_owned(), message };
        match source {
            Source::Drop(description) => {
                let site = description.site_id().map_err(described)?;
                let mut devices = Vec::new();
                for asked in description.asked().map_err(described)? {
                    let fetch = Box::new(description.device(&asked, ground).map_err(described)?);
                    let path = AgentPath { site: site.clone(), agent: asked.agent };
                    devices.push(Polled::new(path, asked.device, draw(&**ground)?, fetch));
                }
                let pace = description.pace();
                let own = format!("{site}/{}", pace.name);
                self.folders.push(Shell::new(pace, Arc::clone(ground), own, devices));
            }
            Source::Http(description) => {
                let derived = description.derived().map_err(described)?;
                self.derived.extend((!derived.is_empty()).then_some(derived));
                let site = description.site_id().map_err(described)?;
                let asked = description.asked().map_err(described)?;
                if !asked.is_empty() || description.list.is_some() {
                    let of = (file, *description);
                    self.remotes.push(http(of, (site, asked), (database, ground), common)?);
                }
            }
        }
        Ok(())
    }
}

impl Source {
    fn read(text: &str) -> Result<Self, String> {
        Ok(match drop::is_drop(text) {
            true => Self::Drop(Box::new(DropDescription::read(text)?)),
            false => Self::Http(Box::new(Description::read(text)?)),
        })
    }

    fn tell_devices(&self, known: &mut Devices) -> Result<(), String> {
        let (site, asked, computed) = match self {
            Self::Drop(drop) => (drop.site_id()?, drop.asked()?, Vec::new()),
            Self::Http(http) => {
                let site = http.site_id()?;
                known.listing.extend(http.list.is_some().then(|| site.clone()));
                (site, http.asked()?, http.derived()?)
            }
        };
        let asked = asked.into_iter().map(|asked| asked.device.id);
        let all = asked.chain(computed.into_iter().map(|computed| computed.device.id));
        known.named.extend(all.map(|device| (site.clone(), device.to_string())));
        Ok(())
    }

    /// What it names and nobody has so far.
    fn notes(&self, known: &Devices) -> Result<Vec<String>, String> {
        let mut notes = Vec::new();
        match self {
            Self::Drop(drop) => {
                for folder in drop.folders()?.iter().filter(|folder| !folder.is_dir()) {
                    notes.push(format!("`drop.folder`: {} is no folder, or not there yet", folder.display()));
                }
            }
            Self::Http(http) => {
                for computed in http.derived()? {
                    let site = &computed.path.site;
                    let is_known = |device: &String| {
                        known.listing.contains(site) || known.named.contains(&(site.clone(), device.clone()))
                    };
                    for (device, channel) in computed.inputs.iter().filter(|(device, _)| !is_known(device)) {
                        notes.push(format!(
                            "`product`: no source of site {site} has a device `{device}`, so that `{device}/{channel}` is to come \
                             from an agent"
                        ));
                    }
                }
            }
        }
        Ok(notes)
    }

    /// Tells what other sources have to know of it.
    fn announce(&self, file: &Path, common: &mut Common) -> Result<(), String> {
        let names = |asked: Vec<Asked>| {
            asked.into_iter().map(|asked| (asked.device.id, asked.agent)).collect::<Vec<_>>()
        };
        let (site, source, names) = match self {
            Self::Drop(description) => {
                (description.site_id()?, description.pace().name, names(description.asked()?))
            }
            Self::Http(description) => {
                common.accounts.limit(description);
                common.accounts.grant(description, &file.display().to_string())?;
                let computed = description.derived()?.into_iter();
                let computed = computed.map(|computed| (computed.device.id, computed.path.agent));
                let names = names(description.asked()?).into_iter().chain(computed).collect();
                (description.site_id()?, description.name.clone(), names)
            }
        };
        let file = file.display().to_string();
        common.names.take_source(site.as_str(), &source, &file).map_err(|other| {
            format!(
                "site `{site}` has a source `{source}` in {other}, too: write another `name` in one of them, or leave one out"
            )
        })?;
        names.iter().try_for_each(|(name, agent)| {
            let other = common.names.take(site.as_str(), (name.as_str(), agent.as_str()), &file);
            other.map_err(|other| {
                format!(
                    "site `{site}` has a device `{name}`, or an agent `{agent}`, in {other}, too: each needs a name of its own"
                )
            })
        })
    }
}

/// A remote API, to be looked after, and the file that describes it.
fn http(
    (file, description): (&Path, Description),
    (site, asked): (SiteId, Vec<Asked>),
    (database, ground): (&Path, &Arc<dyn Ground>),
    common: &mut Common,
) -> Result<Shell, StartError> {
    let (pace, account) = (description.pace(), Accounts::name(&description));
    let caller = caller((file, &description), &mut common.accounts, (database, ground))?;
    let api = Arc::new(Api { description, caller });
    let mut devices = Vec::new();
    for asked in asked {
        let path = AgentPath { site: site.clone(), agent: asked.agent.clone() };
        let (device, key, values) = (asked.device.clone(), asked.spec.key().to_owned(), asked.values.clone());
        let fetch = Box::new(HttpDevice::new(&api, asked));
        devices.push(Polled { key, values, ..Polled::new(path, device, draw(&**ground)?, fetch) });
    }
    let mut shell = Shell::new(pace, Arc::clone(ground), account, devices);
    let names = common.names.clone();
    shell.lister = api.description.list.is_some().then(|| Lister::new(Arc::clone(&api), names));
    shell.differ = api.description.delta.is_some().then(|| Differ::new(Arc::clone(&api)));
    Ok(shell)
}

/// What calls a remote API, with the secrets that it takes.
pub(super) fn caller(
    (file, description): (&Path, &Description),
    accounts: &mut Accounts,
    (database, ground): (&Path, &Arc<dyn Ground>),
) -> Result<Caller, StartError> {
    let auth = &description.auth;
    let secret = |place: &str, word: &Secret| secret(file, place, word);
    let credentials = auth.credentials(&description.headers, secret)?;
    let new = |spec| Login::new(spec, database, secret);
    let login = auth.oauth2.as_ref().map(|spec| accounts.login(spec, || new(spec))).transpose()?;
    Ok(Caller::new(description, (credentials, login), accounts.of(description), Arc::clone(ground)))
}

/// A secret that stands at that place of a description.
fn secret(description: &Path, place: &str, secret: &Secret) -> Result<String, StartError> {
    let Some(file) = secret.file() else { return Ok(secret.written().to_owned()) };
    let (description, place, path) = (description.to_owned(), place.to_owned(), PathBuf::from(file));
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) => return Err(StartError::SecretRead { description, place, path, source }),
    };
    match text.lines().next() {
        None | Some("") => Err(StartError::Secret { description, place, path }),
        Some(line) => Ok(line.to_owned()),
    }
}

fn read(path: &Path) -> Result<String, StartError> {
    let bytes = std::fs::read(path).map_err(|source| StartError::Read { path: path.to_owned(), source })?;
    let wrong = |problem| StartError::Described { path: path.to_owned(), message: config::told(&problem) };
    text_of(&bytes).map(str::to_owned).map_err(wrong)
}

/// Who a device is in this process.
pub(super) fn draw(ground: &dyn Ground) -> Result<Begin, StartError> {
    let random = || ground.random().map_err(StartError::Random);
    let connection = ConnectionId((random()? & u64::from(u32::MAX)).try_into().unwrap_or(1));
    Ok(Begin { epoch: Epoch(random()?), connection, previous: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLEET: &str = include_str!("../../sources/thermostat-fleet.toml");
    const CLOUD: &str = include_str!("../../sources/thermostat-cloud.toml");

    #[test]
    fn a_secret_that_cannot_be_read_is_named_with_its_file_its_place_and_its_description() {
        let folder = tempfile::tempdir().unwrap();
        let (missing, empty) = (folder.path().join("missing"), folder.path().join("empty"));
        std::fs::write(&empty, "\n").unwrap();
        for (path, expected) in [(&missing, "cannot be read"), (&empty, "first line is empty")] {
            let word = Secret::try_from(format!("@{}", path.display())).unwrap();
            let why = secret(Path::new("one.toml"), "auth.bearer", &word).unwrap_err().to_string();
            let path = path.display().to_string();
            let parts = ["in one.toml: `auth.bearer` names ", &path, expected];
            assert!(parts.iter().all(|part| why.contains(part)), "{why}");
        }
    }

    #[test]
    fn a_description_that_cannot_be_read_is_named_with_its_path_and_the_key_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let (missing, latin) = (folder.path().join("missing.toml"), folder.path().join("latin.toml"));
        std::fs::write(&latin, b"# a\n# \xFC").unwrap();
        let rows =
            [(&missing, "which `sources` names"), (&latin, "line 2, column 3: the byte 0xFC is not UTF-8")];
        for (path, expected) in rows {
            let why = read(path).unwrap_err().to_string();
            assert!(why.contains(&path.display().to_string()) && why.contains(expected), "{why}");
        }
    }

    #[test]
    fn what_nobody_has_so_far_is_noted() {
        const GRID: &str = include_str!("../../sources/carbon-intensity.toml");
        const DROP: &str = include_str!("../../sources/logger-drop.toml");
        let folder = tempfile::tempdir().unwrap();
        let of_drop = DropDescription::read(DROP).unwrap().folders().unwrap();
        let there = of_drop.iter().fold(DROP.to_owned(), |text, known| {
            text.replace(&known.display().to_string(), &folder.path().display().to_string())
        });
        let own = GRID.replace("\"electricity/energy\"", "\"grid/energy\"");
        let file = folder.path().join("source.toml");
        let rows = [
            (GRID, Some("a device `electricity`")),
            (&own, None),
            (DROP, Some("`drop.folder`")),
            (&there, None),
        ];
        for (text, expected) in rows {
            std::fs::write(&file, text).unwrap();
            let told = notes(std::slice::from_ref(&file)).unwrap();
            match expected {
                Some(part) => assert!(told.iter().any(|note| note.contains(part)), "{told:?}"),
                None => assert!(told.is_empty(), "{told:?}"),
            }
        }
    }

    #[test]
    fn two_sources_of_a_site_with_one_name_and_two_agents_with_one_name_are_refused() {
        let cloud = |name: &str, device: &str| {
            let text = CLOUD.replace("name = \"thermostats\"", &format!("name = \"{name}\""));
            let text = text.replace("name = \"hall\"", &format!("name = \"{device}\""));
            assert_ne!(text, CLOUD);
            text
        };
        let fleet = FLEET.replace("name = \"fleet\"", "name = \"two\"");
        let elsewhere = FLEET.replace("site = \"home-1\"", "site = \"home-2\"");
        let rows = [
            ([FLEET, fleet.as_str()], None),
            ([FLEET, elsewhere.as_str()], None),
            ([FLEET, FLEET], Some("a source `fleet` in one.toml")),
            ([FLEET, &cloud("fleet", "hall")], Some("a source `fleet` in one.toml")),
            ([&cloud("a", "b-hall"), &cloud("b", "hall")], None),
            ([&cloud("a", "hall"), &cloud("b", "hall")], Some("a device `hall`")),
            ([&cloud("a", "b-hall"), &cloud("a-b", "hall")], Some("an agent `a-b-hall`, in one.toml")),
        ];
        for (texts, expected) in rows {
            let mut common = Common::default();
            let [first, second] = texts.map(|text| Source::read(text).unwrap());
            first.announce(Path::new("one.toml"), &mut common).unwrap();
            let why = second.announce(Path::new("two.toml"), &mut common).err();
            let is_it = why.as_deref().zip(expected).is_some_and(|(why, expected)| why.contains(expected));
            assert!(is_it || why.is_none() && expected.is_none(), "{expected:?}: {why:?}");
        }
    }
}
