//! A backup of a database at work: it ends, is whole and marked, and whatever fails leaves nothing that looks
//! like one.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use gapless_collector::backup::{BackupError, backup, restore};
use gapless_collector::store::sqlite;
use rusqlite::Connection;

/// Rows of 4 KiB: some 20 MB, which is more than two steps of the copy.
const ROWS: i64 = 5_000;
/// The copy takes well below a second; without a snapshot it never ends.
const DEADLINE: Duration = Duration::from_secs(30);

fn filled(path: &Path) -> Connection {
    let connection = sqlite::open_writer(path).unwrap();
    let sql = "CREATE TABLE bulk (n INTEGER PRIMARY KEY, bytes BLOB);
        WITH RECURSIVE i (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM i WHERE n < ?1)
        INSERT INTO bulk SELECT n, randomblob(4096) FROM i";
    connection.execute_batch(&sql.replace("?1", &ROWS.to_string())).unwrap();
    connection
}

/// A source, a target, and whether an error is the one expected.
type FailureRow = (&'static str, &'static str, fn(&BackupError) -> bool);

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_backup_ends_while_others_write() {
    let (folder, copies) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = (folder.path().join("db"), copies.path().join("copy"));
    let writer = filled(&from);
    let done = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&done);
    let writing = std::thread::spawn(move || {
        writer.pragma_update(None, "synchronous", "OFF").unwrap();
        while !until.load(Ordering::SeqCst) {
            writer.execute("UPDATE meta SET value = value + 1 WHERE key = 'commit_no'", []).unwrap();
        }
    });
    let (send, outcome) = mpsc::sync_channel(1);
    let target = to.clone();
    std::thread::spawn(move || send.send(backup(&from, &target)));
    let outcome = outcome.recv_timeout(DEADLINE);
    done.store(true, Ordering::SeqCst);
    writing.join().unwrap();
    outcome.expect("the backup never ended").unwrap();
    assert_eq!(names(copies.path()), ["copy"]);
    let copy = Connection::open(&to).unwrap();
    let one = |sql: &str| copy.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
    assert_eq!(one("SELECT count(*) FROM bulk"), ROWS);
    assert_eq!(one("SELECT value FROM meta WHERE key = 'needs_incarnation'"), 1);
    let whole: String = copy.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(whole, "ok");
}

#[test]
fn what_fails_leaves_nothing_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    drop(sqlite::open_writer(&at("db")).unwrap());
    std::fs::write(at("text"), "no database ".repeat(100)).unwrap();
    std::fs::write(at("mine"), "mine").unwrap();
    std::fs::write(at("cut.partial"), "half").unwrap();
    let before = names(folder.path());
    let exists = |e: &BackupError| matches!(e, BackupError::Exists(_));
    let unfinished = |e: &BackupError| matches!(e, BackupError::Unfinished(_));
    let database = |e: &BackupError| matches!(e, BackupError::Database { .. });
    let rows: [FailureRow; 4] = [
        ("db", "mine", exists),
        ("db", "cut", unfinished),
        ("none", "new", database),
        ("text", "new", database),
    ];
    for (from, to, expected) in rows {
        let error = backup(&at(from), &at(to)).unwrap_err();
        assert!(expected(&error), "{from} to {to}: {error}");
        assert_eq!(names(folder.path()), before, "{from} to {to}");
    }
    assert_eq!(std::fs::read(at("mine")).unwrap(), b"mine");
    assert_eq!(std::fs::read(at("cut.partial")).unwrap(), b"half");
}

/// What lies beside a database that was killed belongs to it, and would spoil the backup.
#[test]
fn a_backup_is_put_back_and_what_was_there_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let count = |path: &Path| {
        let connection = sqlite::open_writer(path).unwrap();
        connection.query_row("SELECT count(*) FROM sites", [], |r| r.get::<_, i64>(0)).unwrap()
    };
    let writer = sqlite::open_writer(&at("db")).unwrap();
    writer.execute("INSERT INTO sites VALUES (1, 'farm')", []).unwrap();
    backup(&at("db"), &at("copy")).unwrap();
    writer.execute("INSERT INTO sites VALUES (2, 'mast')", []).unwrap();
    // As a kill leaves it: the second row is in the log alone.
    for suffix in ["", "-wal"] {
        std::fs::copy(at(&format!("db{suffix}")), at(&format!("killed{suffix}"))).unwrap();
    }
    drop(writer);
    assert!(std::fs::metadata(at("killed-wal")).unwrap().len() > 0);
    assert_eq!(restore(&at("copy"), &at("killed")).unwrap(), Some(at("killed.replaced")));
    assert!(!at("killed.replaced-wal").exists(), "all of it is in one file");
    let counts = ["killed", "killed.replaced", "copy"].map(|name| count(&at(name)));
    assert_eq!(counts, [1, 2, 1]);
    // Nothing is overwritten, and nothing damaged is put back.
    assert!(matches!(restore(&at("copy"), &at("killed")).unwrap_err(), BackupError::Kept(_)));
    std::fs::remove_file(at("killed.replaced")).unwrap();
    let mut bytes = std::fs::read(at("copy")).unwrap();
    bytes[8_192..].fill(0x5a);
    std::fs::write(at("spoilt"), bytes).unwrap();
    let refused = restore(&at("spoilt"), &at("killed")).unwrap_err();
    assert!(matches!(refused, BackupError::Damaged(..) | BackupError::Database { .. }), "{refused}");
    assert_eq!(count(&at("killed")), 1);
    assert!(!at("killed.replaced").exists() && !at("killed.restored").exists());
    // Where the database itself is gone or spoilt, its log must not find another one beside it.
    for spoil in [None, Some("no database ".repeat(2_000))] {
        for name in ["lost", "lost-wal", "lost.replaced", "lost.replaced-wal"] {
            drop(std::fs::remove_file(at(name)));
        }
        std::fs::write(at("lost-wal"), vec![0x37; 40_000]).unwrap();
        let is_there = spoil.is_some();
        spoil.into_iter().for_each(|text| std::fs::write(at("lost"), text).unwrap());
        assert_eq!(restore(&at("copy"), &at("lost")).unwrap().is_some(), is_there);
        assert!(!at("lost-wal").exists(), "{is_there}");
        assert_eq!(count(&at("lost")), 1);
    }
}
