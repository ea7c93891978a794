//! What was read of the files of drops, as rows. Decides nothing.

use gapless_common::files::tail::{Mark, Stat};
use gapless_common::time::Timestamp;
use gapless_common::topic::AgentPath;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::model::{DropChanges, DropRow, FileRow, FileState, Named};
use super::sources::number;

/// What is known of a drop and its files; nothing of one that nobody has looked into.
pub(crate) fn recall(
    connection: &Connection,
    path: &AgentPath,
) -> rusqlite::Result<Option<(DropRow, Vec<Named<FileRow>>)>> {
    let Some(no) = number(connection, path)? else { return Ok(None) };
    let sql = "SELECT reads, from_ts, spoilt FROM drops WHERE agent = ?1";
    let about = |r: &Row<'_>| {
        Ok(DropRow {
            reads: r.get::<_, Option<i64>>(0)?.map(i64::cast_unsigned),
            from: Timestamp(r.get(1)?),
            spoilt: instants(&r.get::<_, Vec<u8>>(2)?),
        })
    };
    let Some(about) = connection.prepare_cached(sql)?.query_row([no.0], about).optional()? else {
        return Ok(None);
    };
    let sql = "SELECT name, device_no, inode, size, modified_ms, modified_ns, state, was_there, has_half, is_half_told, offset,
            head, before, first_ts, last_ts FROM drop_files WHERE agent = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let files = statement.query_map([no.0], |r| Ok((r.get::<_, String>("name")?.into(), file(r)?)))?;
    Ok(Some((about, files.collect::<rusqlite::Result<_>>()?)))
}

fn file(r: &Row<'_>) -> rusqlite::Result<FileRow> {
    let unsigned = |column| r.get::<_, i64>(column).map(i64::cast_unsigned);
    let crc = |column| r.get::<_, Option<u32>>(column);
    let offset = r.get::<_, Option<i64>>("offset")?.map(i64::cast_unsigned);
    let mark = match (offset, crc("head")?, crc("before")?) {
        (Some(offset), Some(head), Some(check)) => Some(Mark { offset, head, check }),
        _ => None,
    };
    let instant = |column| Ok::<_, rusqlite::Error>(r.get::<_, Option<i64>>(column)?.map(Timestamp));
    Ok(FileRow {
        stat: Stat {
            identity: (unsigned("device_no")?, unsigned("inode")?),
            size: unsigned("size")?,
            modified_ms: r.get("modified_ms")?,
            modified_ns: r.get("modified_ns")?,
        },
        state: match r.get::<_, i64>("state")? {
            1 => FileState::Read,
            2 => FileState::Old,
            // What this program does not know is read.
            _ => FileState::Unread,
        },
        was_there: r.get("was_there")?,
        has_half: r.get("has_half")?,
        is_half_told: r.get("is_half_told")?,
        mark,
        span: instant("first_ts")?.zip(instant("last_ts")?),
    })
}

const fn code(state: FileState) -> i64 {
    match state {
        FileState::Unread => 0,
        FileState::Read => 1,
        FileState::Old => 2,
    }
}

/// Writes down what has changed of a drop.
pub(crate) fn write(
    connection: &Connection,
    path: &AgentPath,
    changes: &DropChanges,
) -> rusqlite::Result<()> {
    let Some(no) = number(connection, path)? else { return Ok(()) };
    let DropChanges { about, is_anew, files } = changes;
    if *is_anew {
        forget_files(connection, no.0)?;
    }
    let sql = "INSERT INTO drops (agent, reads, from_ts, spoilt) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET reads = ?2, from_ts = ?3, spoilt = ?4";
    let spoilt: Vec<u8> = about.spoilt.iter().flat_map(|at| at.0.to_le_bytes()).collect();
    let reads = about.reads.map(u64::cast_signed);
    connection.prepare_cached(sql)?.execute(params![no.0, reads, about.from.0, spoilt])?;
    let mut forget = connection.prepare_cached("DELETE FROM drop_files WHERE agent = ?1 AND name = ?2")?;
    let sql = "INSERT OR REPLACE INTO drop_files (agent, name, device_no, inode, size, modified_ms, modified_ns, state, was_there,
            has_half, is_half_told, offset, head, before, first_ts, last_ts)
        VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
    let mut put = connection.prepare_cached(sql)?;
    for (name, file) in files {
        let Some(FileRow { stat, state, was_there, has_half, is_half_told, mark, span }) = file else {
            forget.execute(params![no.0, name])?;
            continue;
        };
        put.execute(params![
            no.0,
            name,
            stat.identity.0.cast_signed(),
            stat.identity.1.cast_signed(),
            stat.size.cast_signed(),
            stat.modified_ms,
            stat.modified_ns,
            code(*state),
            was_there,
            has_half,
            is_half_told,
            mark.map(|mark| mark.offset.cast_signed()),
            mark.map(|mark| mark.head),
            mark.map(|mark| mark.check),
            span.map(|(first, _)| first.0),
            span.map(|(_, last)| last.0),
        ])?;
    }
    Ok(())
}

/// The drops that were not heard of since then, and of whose files something is known.
pub(crate) fn left(connection: &Connection, before: Timestamp) -> rusqlite::Result<Vec<i64>> {
    let sql = "SELECT d.agent FROM drops d JOIN agents a ON a.id = d.agent
        WHERE d.reads IS NOT NULL AND a.connected <> 1 AND a.last_heard_at < ?1";
    connection.prepare_cached(sql)?.query_map([before.0], |r| r.get(0))?.collect()
}

/// Nothing is known any more of the files of a drop: should it be back, all that is there then is read anew.
pub(crate) fn forget(connection: &Connection, agent: i64) -> rusqlite::Result<()> {
    forget_files(connection, agent)?;
    connection.prepare_cached("UPDATE drops SET reads = NULL WHERE agent = ?1")?.execute([agent]).map(drop)
}

fn forget_files(connection: &Connection, agent: i64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM drop_files WHERE agent = ?1")?.execute([agent]).map(drop)
}

fn instants(bytes: &[u8]) -> Vec<Timestamp> {
    let (instants, _) = bytes.as_chunks();
    instants.iter().map(|bytes| Timestamp(i64::from_le_bytes(*bytes))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::make_writer;

    #[test]
    fn what_is_known_of_files_is_kept_to_the_bit_and_forgotten_where_they_are_gone() {
        let connection = make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        let put = "INSERT INTO sites (name) VALUES ('farm'); INSERT INTO agents (site, name, last_heard_at) VALUES (1, 'a', 50), (1, 'b', 50)";
        connection.execute_batch(put).unwrap();
        let path = |agent: &str| AgentPath { site: "farm".parse().unwrap(), agent: agent.parse().unwrap() };
        let (a, b) = (path("a"), path("b"));
        assert_eq!(recall(&connection, &a).unwrap(), None);
        let stat = Stat { identity: (u64::MAX, 1 << 63), size: 1 << 40, modified_ms: -5, modified_ns: 7 };
        let mark = Mark { offset: u64::MAX, head: u32::MAX, check: 0 };
        let row = FileRow {
            stat,
            state: FileState::Read,
            was_there: true,
            has_half: false,
            is_half_told: true,
            mark: Some(mark),
            span: Some((Timestamp(-1), Timestamp(9))),
        };
        let bare = FileRow { state: FileState::Old, mark: None, span: None, has_half: true, ..row };
        let unread = FileRow { state: FileState::Unread, was_there: false, is_half_told: false, ..bare };
        let rows =
            [("2026/x", row), ("bare", bare), ("unread", unread)].map(|(name, row)| (Box::from(name), row));
        let about = DropRow {
            reads: Some(u64::MAX),
            from: Timestamp(i64::MIN),
            spoilt: vec![Timestamp(-3), Timestamp(4)],
        };
        let changes = |files: Vec<Named<Option<FileRow>>>, is_anew| DropChanges {
            about: about.clone(),
            is_anew,
            files,
        };
        let all = rows.clone().map(|(name, row)| (name, Some(row))).to_vec();
        for path in [&a, &b] {
            write(&connection, path, &changes(all.clone(), true)).unwrap();
        }
        assert_eq!(recall(&connection, &a).unwrap(), Some((about.clone(), rows.to_vec())));
        write(&connection, &a, &changes(vec![("bare".into(), None), ("unread".into(), Some(row))], false))
            .unwrap();
        let names = |path| {
            let (_, files) = recall(&connection, path).unwrap().unwrap();
            files.into_iter().map(|(name, file)| (name.to_string(), file == row)).collect::<Vec<_>>()
        };
        assert_eq!(names(&a), [("2026/x".to_owned(), true), ("unread".to_owned(), true)]);
        write(&connection, &a, &changes(Vec::new(), true)).unwrap();
        assert_eq!((names(&a).len(), names(&b).len()), (0, 3), "of another one nothing is forgotten");
        // What is left alone for long.
        assert_eq!(left(&connection, Timestamp(50)).unwrap(), Vec::<i64>::new());
        connection.execute_batch("UPDATE agents SET connected = 1 WHERE name = 'a'").unwrap();
        assert_eq!(left(&connection, Timestamp(51)).unwrap(), [2]);
        forget(&connection, 2).unwrap();
        let gone = DropRow { reads: None, ..about };
        assert_eq!(recall(&connection, &b).unwrap(), Some((gone, Vec::new())));
        assert_eq!(left(&connection, Timestamp(51)).unwrap(), Vec::<i64>::new(), "once");
    }
}
