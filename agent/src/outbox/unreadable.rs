//! Reading what a device will not give: page by page where a read fails, the refused pages left zero, so that whoever
//! reads finds damage there, and no more than that. Does not know what the bytes mean.

use std::io;

use rustix::io::Errno;

use super::disk::Disk;
use super::to_u64;

/// What is read, given up and written over at a time: the unit of the page cache, which reads a page from the device
/// before it writes a part of it.
pub(super) const PAGE_BYTES: usize = 4096;
/// What is written over a page; begins nothing of ours.
const GIVEN_UP: u8 = 0xFF;

/// Whether the device could not give the bytes, as against a file that is gone or not ours to read. Linux says `EIO`,
/// for a medium error `ENODATA`, for a failed protection check `EILSEQ`, for a target's error `EREMOTEIO`, and file
/// systems with checksums say `EBADMSG` or `EUCLEAN`.
pub(super) fn is_unreadable(e: &io::Error) -> bool {
    let causes = [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::REMOTEIO, Errno::BADMSG, Errno::UCLEAN];
    Errno::from_io_error(e).is_some_and(|errno| causes.contains(&errno))
}

/// Fills `into` from `offset` on; returns the offsets of the pages that the device refused.
///
/// # Errors
/// Any but those of [`is_unreadable`].
pub(super) fn read(disk: &mut dyn Disk, name: &str, offset: u64, into: &mut [u8]) -> io::Result<Vec<u64>> {
    match disk.read_at(name, offset, into) {
        Err(e) if is_unreadable(&e) => read_by_page(disk, name, offset, into),
        done => done.map(|()| Vec::new()),
    }
}

fn read_by_page(disk: &mut dyn Disk, name: &str, offset: u64, into: &mut [u8]) -> io::Result<Vec<u64>> {
    let page = to_u64(PAGE_BYTES);
    let (mut at, mut rest) = (offset, into);
    let mut refused = Vec::new();
    while !rest.is_empty() {
        let in_page = super::to_usize(page - at % page).min(rest.len());
        let (piece, after) = rest.split_at_mut(in_page);
        match disk.read_at(name, at, piece) {
            Err(e) if is_unreadable(&e) => {
                piece.fill(0);
                refused.push(at - at % page);
            }
            done => done?,
        }
        at += to_u64(in_page);
        rest = after;
    }
    Ok(refused)
}

/// Writes over refused pages, whole ones, which makes a device map other sectors there; durable when it returns.
/// Without it an append that begins within such a page fails, and what was given up may come back. Not with zeros: a
/// file that begins with those is a spare one.
///
/// # Errors
/// Of the file system.
pub(super) fn mend(disk: &mut dyn Disk, name: &str, pages: &[u64]) -> io::Result<()> {
    for &page in pages {
        disk.write_at(name, page, &[GIVEN_UP; PAGE_BYTES])?;
    }
    if pages.is_empty() { Ok(()) } else { disk.sync(name) }
}
