//! Sources that are folders: files which somebody puts down on a mounted share or a server with SFTP, plain, packed or
//! encrypted, and which then go the way of logger files.
//!
//! `describe` is the description (with `form`, how rows are written), `lines` makes rows of lines, `files` says which files
//! are to be read, `sftp` is the protocol: these are pure. `place` is where files lie (a folder, or over `ssh` a server),
//! `command` runs a program within bounds, `unpack` and `packing` make text of what lies there, and `device` is the source as
//! the thread sees it.
//!
//! # Where reading begins
//! As with logger files nothing is written down about places in files. At a start of the collector the files are read that
//! may hold what is not accounted for yet, or what is missing and still asked for; what is stored already is not written
//! again. In the course of a life a file is read on where it has grown, and anew where it is another one.
//!
//! # What is still being written
//! A line without its end waits. So does a packed or encrypted file that cannot be read: only where it is the same at the
//! next look it is spoilt, which is said with its name, and is read again once it has changed or a gap is asked for.

mod command;
mod describe;
mod device;
mod files;
mod form;
mod lines;
mod packing;
mod place;
mod sftp;
mod ssh;
mod unpack;

pub(super) use describe::{DropDescription, is_drop};
