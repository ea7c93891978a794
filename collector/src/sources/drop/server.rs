//! A server behind SFTP as a place where files lie. One connection lasts for one look.

use super::place::{Listing, Place, Trouble, listed};
use super::session::{Broken, Session};
use super::ssh::Remote;

/// See the module.
pub(super) struct Server {
    remote: Remote,
    session: Option<Session>,
}

impl Server {
    /// Connects when it is asked for something.
    pub(super) fn new(remote: Remote) -> Self {
        Self { remote, session: None }
    }

    /// Does something within a session, which is over where it breaks.
    fn within<T>(&mut self, act: impl FnOnce(&mut Session, &str) -> Result<T, Broken>) -> Result<T, Trouble> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => Session::start(&self.remote)?,
        };
        match act(&mut session, &self.remote.folder) {
            Ok(done) => {
                self.session = Some(session);
                Ok(done)
            }
            Err(broken @ Broken::Session(_)) => Err(session.trouble(&self.remote, broken)),
            Err(broken) => {
                self.session = Some(session);
                Err(match broken {
                    Broken::Refused(why) => Trouble::Unread(why),
                    _ => Trouble::Gone,
                })
            }
        }
    }
}

impl Place for Server {
    fn list(&mut self, pattern: &str) -> Result<Listing, Trouble> {
        let of_below = |broken| match broken {
            Broken::NoSuchFile => Ok(None),
            Broken::Refused(why) => Ok(Some(format!("it cannot be listed: {why}"))),
            broken @ Broken::Session(_) => Err(broken),
        };
        let found = self.within(|session, root| {
            let entries = |folder: &str, is_wanted: &dyn Fn(&str) -> bool| {
                session.entries(&format!("{root}{folder}"), is_wanted)
            };
            listed(pattern, entries, of_below)
        });
        let place = format!("{}:{}", self.remote.host, self.remote.folder);
        found.map_err(|trouble| match trouble {
            Trouble::Gone => Trouble::Place(format!("there is no folder {place}: is `drop.sftp` right?")),
            Trouble::Unread(why) => Trouble::Place(format!("cannot list {place}: {why}")),
            trouble => trouble,
        })
    }

    fn read(&mut self, name: &str, offset: u64, len: usize) -> Result<Vec<u8>, Trouble> {
        self.within(|session, root| session.read(root, name, offset, len))
    }

    fn rest(&mut self) {
        self.session = None;
    }
}
