//! Sources that are folders: files which somebody puts down on a mounted share or a server with SFTP, plain, packed or
//! encrypted, and which then go the way of logger files.
//!
//! `describe` is the description (with `form`, how rows are written), `lines` makes rows of lines, `files` says which files
//! are to be read, `sftp` is the protocol: these are pure. `place` is where files lie (a folder of the `ground`, or a `server`, over a
//! `session` of `ssh`), `command` runs a program within bounds, `unpack` and `packing` make text of what lies there, `open` is
//! a file being read, and `device` is the source as the thread sees it.
//!
//! # Where reading begins
//! A plain file is read on where it has grown, begins as it did, and is the same before the place; what was put right in between
//! is not seen. One that is another one, and a packed one that has changed, is read anew.
//!
//! What was read of which file is kept in the database, so that a start goes on as if there had been no end: the writer writes it
//! down once the rows that came of a file are stored. Whoever is killed in between reads that file again; rows that say the same
//! change nothing. Only three things differ. What could not be read is tried again, since it may be the description that was put
//! right. Where a file system is mounted anew its numbers of files say nothing, and length and time count. Where the description
//! makes other rows of the same files all of them are read anew; a pattern that means more of them does not.
//!
//! At the first look of all, and of a database in which nothing was kept yet, those files are read that may hold what is not
//! accounted for, or what is missing and still asked for; what is stored already is not written again.
//!
//! # What is still being written
//! A line without its end may be half a number, and waits; that it does so though its file has been the same for
//! [`QUIET`](files::QUIET) is said once of each file. It is a line by then only where the description says so (`last_line`),
//! since half of one may stay that for good. In what is packed or encrypted, which is whole where it can be read at all, it is a line. A packed or encrypted file
//! that cannot be read waits as well: only where it is the same at the next look it is spoilt, which is said with its name,
//! and is read again once it has changed or a gap is asked for.
//!
//! # What is not read
//! Of more files than can be held those that were written last are read; a folder below that cannot be listed does not stop
//! the others. Both are said in the job and the log at each look.

mod command;
mod describe;
mod device;
mod files;
mod form;
mod lines;
mod open;
mod packing;
mod place;
mod server;
mod session;
mod sftp;
mod ssh;
mod unpack;

pub(super) use describe::{DropDescription, is_drop};
pub(super) use place::Machine;
