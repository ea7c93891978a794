//! Sources that the collector polls itself: remote APIs over HTTP and folders of files, each described in a file.
//!
//! To the rest of the collector a device of such a source is one of an agent that lives in this process: its rows, what it
//! has none of, and how far it is complete go the way of every agent's records, so that ledger, gaps and jobs hold for it
//! unchanged. A poll out of turn is its rhythm, and its history is what gaps are filled from.
//!
//! A source may be a folder of files instead, which says by itself what is new: `drop` is all of it, `news` what the thread
//! does with it.
//!
//! A device may also be computed from two others: `derive` says how, `derived` is the thread.
//!
//! A source may list its devices (`list`, `relist`), and say what changed at all of them (`delta`, `differ`). How many calls an
//! account may make is [`jobs::budget`](crate::jobs::budget)'s.
//!
//! `describe`, `parts`, `answer`, `auth`, `rows`, `list`, `roster`, `delta`, `derive`, `url` and `voice` are pure. `shell` is a
//! source whatever its kind, and what is done in its turns, and `pool` the threads that do it; what a kind has to offer is `fetch`, and `http` (with
//! `call`, one call, `account`, whether there may be one, and `login`, which token it goes out with) is such a kind. Clocks, chance,
//! network, folders and writer are handed in: `ground`.

mod account;
pub mod answer;
pub mod auth;
mod beginning;
mod call;
mod carry;
mod delta;
pub(crate) mod derive;
mod derived;
pub mod describe;
mod devices;
mod differ;
mod drop;
mod failure;
mod fetch;
mod ground;
mod http;
mod life;
mod list;
mod login;
mod naming;
mod news;
mod parts;
mod pool;
mod relist;
mod roster;
pub mod rows;
mod shell;
mod standing;
pub mod start;
mod url;
pub(crate) mod voice;

pub use ground::{Folders, Ground, Http, Request, Response};
pub use pool::{Done, Sources, Turn};

#[cfg(test)]
mod call_tests;
#[cfg(test)]
mod tests;
