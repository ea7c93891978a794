//! Opening the SQLite file: pragmas, the schema (what older ones lack is in `migrations`), the incarnation. One connection writes
//! (`synchronous=FULL`, WAL); any number read. Knows no rows.

use std::path::{Path, PathBuf};
use std::time::Duration;

use gapless_common::id::{Commit, Incarnation};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::migrations::LACKS;
use super::model::Head;

/// Version of the schema that this program writes.
const SCHEMA_VERSION: i64 = 21;
const SCHEMA: &str = include_str!("schema.sql");
/// What was asked after a backup was made, and in answer to what, is not known to it: what was being asked for is asked for anew.
const RESTORED: &str = "UPDATE commands SET outcome = 2 WHERE outcome IS NULL AND kind = 5;
UPDATE gaps SET state = 4, request = NULL, next_at = opened_at WHERE state = 3";
/// Numbers that are left out at least: more than were given since any backup.
const COMMANDS_LEFT_OUT: u64 = 1 << 32;
/// One of so many steps is drawn: few enough that sixty thousand lives have room in the column.
const COMMAND_STEPS: u64 = 1 << 47;
/// How long a connection waits for another one; only a backup or a person's shell can make it wait.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Prepared statements kept per connection: each one beyond would push another one out, to be prepared again. `tests/tests/tidy.rs`
/// counts the places in this crate that prepare one, and twice of them: some write several texts.
pub const STATEMENTS_CACHED: usize = 512;

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The database failed.
    #[error("cannot open the database {path}")]
    Database {
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// A later program wrote it.
    #[error("the database {path} has schema version {found}; this program knows up to {SCHEMA_VERSION}")]
    TooNew {
        /// Its file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// No randomness for a new incarnation.
    #[error("no random number for the database's incarnation: {0}")]
    Random(String),
}

/// Opens the file to write, makes or migrates it, and draws an incarnation where it has none or is a restored
/// backup.
///
/// # Errors
/// [`OpenError`].
pub fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let database = |source| OpenError::Database { path: path.to_owned(), source };
    let connection = Connection::open(path).map_err(database)?;
    let fresh = getrandom::u64().map_err(|e| OpenError::Random(e.to_string()))?;
    make_writer(connection, fresh)
}

/// Makes this connection the one that writes: sets it up, makes or migrates the schema, and takes
/// `fresh_incarnation` where the database has none or is a restored backup.
///
/// # Errors
/// [`OpenError`].
pub fn make_writer(mut connection: Connection, fresh_incarnation: u64) -> Result<Connection, OpenError> {
    let path = path_of(&connection);
    let database = |source| OpenError::Database { path: path.clone(), source };
    prepare(&connection).map_err(database)?;
    let found: i64 = connection.query_row("PRAGMA user_version", [], |r| r.get(0)).map_err(database)?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::TooNew { path, found });
    }
    migrate(&mut connection, found, fresh_incarnation).map_err(database)?;
    Ok(connection)
}

/// The file of a connection; empty for one in memory.
pub(crate) fn path_of(connection: &Connection) -> PathBuf {
    connection.path().unwrap_or_default().into()
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    keep_statements(connection)?;
    connection.pragma_update(None, "page_size", 8192)?;
    let _: String = connection.query_row("PRAGMA journal_mode = WAL", [], |r| r.get(0))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "wal_autocheckpoint", 4000)?;
    connection.pragma_update(None, "cache_size", -65_536)
}

fn migrate(connection: &mut Connection, found: i64, fresh: u64) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    if found == 0 {
        transaction.execute_batch(SCHEMA)?;
        transaction.execute("INSERT INTO meta VALUES ('commit_no', 0), ('needs_incarnation', 1)", [])?;
    }
    for (from, lacks) in LACKS {
        if (1..=from).contains(&found) {
            transaction.execute_batch(lacks)?;
        }
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    let wanted: Option<i64> = meta(&transaction, "needs_incarnation")?;
    if wanted.is_some() && found > 0 {
        transaction.execute_batch(RESTORED)?;
    }
    if wanted.is_some() {
        move_commands_on(&transaction, fresh)?;
        let sql = "INSERT INTO meta VALUES ('incarnation', ?1) ON CONFLICT DO UPDATE SET value = ?1";
        transaction.execute(sql, [fresh.cast_signed()])?;
        transaction.execute("DELETE FROM meta WHERE key = 'needs_incarnation'", [])?;
    }
    transaction.commit()
}

/// An agent remembers numbers of commands from other lives of this database, and of one before it. So each life moves on by a step
/// of its own, drawn, for one backup may be put back more than once: that two lives of a million commands each share a number is
/// one chance in a hundred million.
fn move_commands_on(connection: &Connection, fresh: u64) -> rusqlite::Result<()> {
    let step = COMMANDS_LEFT_OUT + fresh % COMMAND_STEPS;
    let sql = "INSERT INTO sqlite_sequence (name, seq)
        SELECT 'commands', 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'commands')";
    connection.execute(sql, [])?;
    let sql = "UPDATE sqlite_sequence SET seq = seq + ?1 WHERE name = 'commands'";
    connection.execute(sql, [step.cast_signed()]).map(drop)
}

pub(super) fn meta(connection: &Connection, key: &str) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection.prepare_cached("SELECT value FROM meta WHERE key = ?1")?;
    statement.query_row([key], |r| r.get(0)).optional()
}

/// Opens the file to read.
///
/// # Errors
/// [`rusqlite::Error`] where it is not there or no database.
pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    keep_statements(&connection)?;
    Ok(connection)
}

/// What writer and readers share. Statements stay as they were prepared: without the planner's promise SQLite, as it is
/// built here (`SQLITE_ENABLE_STAT4`), would look into what is bound to a range, and prepare the statement anew for each
/// other value: a tenth of the collector's time.
fn keep_statements(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

/// Incarnation and last commit.
///
/// # Errors
/// The database failed.
pub fn head(connection: &Connection) -> rusqlite::Result<Head> {
    let incarnation = meta(connection, "incarnation")?.unwrap_or_default();
    let commit = meta(connection, "commit_no")?.unwrap_or_default();
    Ok(Head { incarnation: Incarnation(incarnation.cast_unsigned()), commit: Commit(commit.cast_unsigned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What there is in a database, without its spelling.
    fn made(connection: &Connection) -> Vec<String> {
        let sql = "SELECT name, type FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'
            UNION ALL SELECT m.name, group_concat(c.name || ' ' || c.type || c.\"notnull\" || c.pk)
                FROM sqlite_schema m JOIN pragma_table_info(m.name) c GROUP BY m.name ORDER BY 1, 2";
        let mut statement = connection.prepare(sql).unwrap();
        let row =
            |r: &rusqlite::Row<'_>| Ok(format!("{}: {}", r.get::<_, String>(0)?, r.get::<_, String>(1)?));
        statement.query_map([], row).unwrap().map(Result::unwrap).collect()
    }

    /// What the versions after each one brought, taken away again.
    const FROM_21: &str = "DROP INDEX commands_pauses; PRAGMA user_version = 20;";
    const FROM_20: &str = "DROP TABLE drop_files; DROP TABLE drops; PRAGMA user_version = 19;";
    const FROM_19: &str = "DROP TABLE unheard; PRAGMA user_version = 18;";
    const FROM_18: &str = "ALTER TABLE series DROP COLUMN own_ts; ALTER TABLE series DROP COLUMN lent_ts;
        DROP INDEX devices_of_agent; PRAGMA user_version = 17;";
    const FROM_17: &str =
        "DROP INDEX gaps_sourceless; ALTER TABLE gaps DROP COLUMN sourceless; PRAGMA user_version = 16;";
    const FROM_16: &str = "DROP INDEX jobs_commands; DROP TABLE awaited; ALTER TABLE alerts DROP COLUMN awaited_by; PRAGMA user_version = 15;";
    const FROM_15: &str = "DROP TABLE descriptions; PRAGMA user_version = 14;";
    const FROM_14: &str = "DROP INDEX commands_leases; PRAGMA user_version = 13;";
    const FROM_13: &str = "DROP INDEX commands_catalogs; DROP TABLE calls; PRAGMA user_version = 12;";
    const FROM_12: &str = "ALTER TABLE devices DROP COLUMN changed_at; PRAGMA user_version = 11;";
    const FROM_11: &str = "DROP TABLE absences; DROP TABLE alert_events; DROP TABLE alerts;
        CREATE TABLE alerts (id INTEGER PRIMARY KEY AUTOINCREMENT, kind INTEGER NOT NULL,
            site INTEGER NOT NULL REFERENCES sites (id), device INTEGER REFERENCES devices (id),
            agent INTEGER REFERENCES agents (id), detail TEXT NOT NULL, raised_at INTEGER NOT NULL,
            acknowledged_at INTEGER, acknowledged_by TEXT, resolved_at INTEGER);
        CREATE TABLE alert_events (id INTEGER PRIMARY KEY AUTOINCREMENT, alert INTEGER NOT NULL REFERENCES alerts (id),
            at INTEGER NOT NULL, event INTEGER NOT NULL, actor TEXT NOT NULL);
        CREATE UNIQUE INDEX alerts_of_device ON alerts (device, kind) WHERE resolved_at IS NULL AND device IS NOT NULL;
        CREATE UNIQUE INDEX alerts_of_agent ON alerts (agent, kind) WHERE resolved_at IS NULL AND agent IS NOT NULL;
        CREATE INDEX alerts_open ON alerts (id) WHERE resolved_at IS NULL;
        CREATE INDEX alerts_over ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;
        CREATE INDEX alert_events_of ON alert_events (alert); PRAGMA user_version = 10;";
    const FROM_10: &str = "ALTER TABLE receivers DROP COLUMN refusals; ALTER TABLE receivers DROP COLUMN set_aside;
        ALTER TABLE receivers DROP COLUMN set_aside_at; ALTER TABLE receivers DROP COLUMN gone_at;
        DROP INDEX alerts_open; DROP INDEX alerts_over; DROP INDEX parked_waiting; DROP INDEX parked_unreadable;
        PRAGMA user_version = 9;";
    const FROM_9: &str =
        "ALTER TABLE agents DROP COLUMN clock_boot; ALTER TABLE agents DROP COLUMN clock_began;
        ALTER TABLE agents DROP COLUMN clock_ahead_ms; ALTER TABLE agents DROP COLUMN clock_at;
        ALTER TABLE agents DROP COLUMN clock_since; PRAGMA user_version = 8;";
    const FROM_8: &str = "DROP TABLE revisions; PRAGMA user_version = 7;";
    const FROM_7: &str = "DROP TABLE removals; DROP TABLE receivers; DROP TABLE alert_events; DROP TABLE alerts;
        DROP INDEX spans_owed; ALTER TABLE agents DROP COLUMN left_at; ALTER TABLE agents DROP COLUMN outbox_owed;
        ALTER TABLE agents DROP COLUMN outbox_budget; ALTER TABLE agents DROP COLUMN clock_off_ms;
        ALTER TABLE devices DROP COLUMN announced_at; ALTER TABLE devices DROP COLUMN confirmed_at;
        ALTER TABLE devices DROP COLUMN confirmed_by; ALTER TABLE devices DROP COLUMN resumed_at;
        ALTER TABLE devices DROP COLUMN stopped; ALTER TABLE devices DROP COLUMN stopped_at;
        ALTER TABLE devices DROP COLUMN stopped_why; PRAGMA user_version = 6;";
    const FROM_6: &str = "DROP TABLE leases; PRAGMA user_version = 5;";
    const FROM_5: &str =
        "DROP TABLE traffic; DROP TABLE job_tallies; DROP TABLE gap_tallies; DROP INDEX gaps_counted;
        ALTER TABLE agents DROP COLUMN received_bytes; ALTER TABLE agents DROP COLUMN sent_bytes;
        PRAGMA user_version = 4;";
    const FROM_4: &str =
        "DROP TABLE looks; DROP TABLE job_history; DROP TABLE jobs; PRAGMA user_version = 3;";
    const FROM_3: &str = "DROP TABLE gap_events; DROP INDEX gaps_unfilled; DROP INDEX gaps_due;
        DROP INDEX gaps_requested; DROP INDEX gaps_asked; CREATE INDEX gaps_open ON gaps (grid) WHERE state = 1;
        ALTER TABLE gaps DROP COLUMN attempts; ALTER TABLE gaps DROP COLUMN failures;
        ALTER TABLE gaps DROP COLUMN next_at; ALTER TABLE gaps DROP COLUMN request;
        PRAGMA user_version = 2;";
    const FROM_2: &str = "DROP TABLE forgotten_epochs; PRAGMA user_version = 1;";

    /// What was told stays told: alerts keep their numbers, and none of those is given again.
    #[test]
    fn alerts_of_an_older_database_are_taken_along() {
        let connection = make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        connection
            .execute_batch(
                &[
                    FROM_21, FROM_20, FROM_19, FROM_18, FROM_17, FROM_16, FROM_15, FROM_14, FROM_13, FROM_12,
                    FROM_11,
                ]
                .concat(),
            )
            .unwrap();
        let put = "INSERT INTO sites (name) VALUES ('farm');
            INSERT INTO alerts (kind, site, detail, raised_at) VALUES (1, 1, 'a', 5), (2, 1, 'b', 6), (3, 1, 'c', 7);
            INSERT INTO alert_events (alert, at, event, actor) VALUES (1, 5, 1, 'x'), (2, 6, 1, 'x'), (3, 7, 1, 'x');
            DELETE FROM alert_events WHERE id = 3; DELETE FROM alerts WHERE id = 3";
        connection.execute_batch(put).unwrap();
        let connection = make_writer(connection, 8).unwrap();
        let broken: i64 =
            connection.query_row("SELECT count(*) FROM pragma_foreign_key_check", [], |r| r.get(0)).unwrap();
        assert_eq!(broken, 0);
        let all = "SELECT group_concat(e.id || a.detail || a.raised_at) FROM alert_events e JOIN alerts a ON a.id = e.alert";
        assert_eq!(connection.query_row(all, [], |r| r.get::<_, String>(0)).unwrap(), "1a5,2b6");
        let new = |sql: &str| connection.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap();
        assert_eq!(new("INSERT INTO alerts (kind, detail, raised_at) VALUES (11, 'd', 8) RETURNING id"), 4);
        let event = "INSERT INTO alert_events (alert, at, event, actor) VALUES (4, 8, 1, 'x') RETURNING id";
        assert_eq!(new(event), 4);
    }

    /// What nobody could be asked for had no end before; everything else stays where it was.
    #[test]
    fn gaps_of_an_older_database_that_nobody_can_be_asked_for_are_due() {
        let connection = make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        connection.execute_batch(&[FROM_21, FROM_20, FROM_19, FROM_18, FROM_17].concat()).unwrap();
        let put = "INSERT INTO sites (name) VALUES ('farm'); INSERT INTO devices (site, name) VALUES (1, 'a');
            INSERT INTO grids VALUES (1, 1, 1000, 0);
            INSERT INTO gaps (grid, first_slot, last_slot, from_ts, to_ts, cause, state, opened_at, opened_commit,
                changed_commit, next_at) VALUES (1, 1, 1, 1000, 2000, 1, 1, 70, 1, 1, NULL), (1, 3, 3, 3000, 4000, 1, 1, 71, 1, 1, 90),
                (1, 5, 5, 5000, 6000, 1, 5, 72, 1, 1, NULL), (1, 7, 7, 7000, 8000, 1, 2, 73, 1, 1, NULL)";
        connection.execute_batch(put).unwrap();
        let connection = make_writer(connection, 8).unwrap();
        let sql = "SELECT group_concat(coalesce(next_at, '-')), sum(sourceless) FROM gaps";
        let told: (String, i64) = connection.query_row(sql, [], |r| Ok((r.get(0)?, r.get(1)?))).unwrap();
        assert_eq!(told, ("70,90,-,-".to_owned(), 0));
    }

    /// Who lent what before it was marked is known from the history of the gaps.
    #[test]
    fn readings_of_an_older_database_that_were_lent_are_marked() {
        let connection = make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        connection.execute_batch(&[FROM_21, FROM_20, FROM_19, FROM_18].concat()).unwrap();
        let put = "INSERT INTO sites (name) VALUES ('farm'); INSERT INTO devices (site, name) VALUES (1, 'a'), (1, 'b'), (1, 'c');
            INSERT INTO series (device, channel, revision, unit, quantity, aggregation, label) VALUES
                (1, 'u', 1, 'V', 'q', 0, 1), (1, 'i', 1, 'A', 'q', 0, 1), (2, 'u', 1, 'V', 'q', 0, 1), (3, 'u', 1, 'V', 'q', 0, 1);
            INSERT INTO readings VALUES (1, 100, 1.5, 0, 5), (3, 200, 1.5, 0, 6), (1, 200, 1.5, 0, 7), (1, 300, 1.5, 64, 7),
                (2, 200, 1.5, 0, 7), (1, 250, 1.5, 0, 8), (1, 400, 1.5, 0, 9), (1, 500, 1.5, 65536, 10), (1, 210, 1.5, 0, 11),
                (4, 700, 1.5, 65536, 12);
            INSERT INTO grids VALUES (1, 3, 100, 0), (2, 1, 100, 0);
            INSERT INTO gaps (grid, first_slot, last_slot, from_ts, to_ts, cause, state, opened_at, opened_commit, changed_commit,
                closed_at) VALUES (1, 6, 7, 600, 800, 1, 2, 9, 1, 12, 9), (2, 1, 2, 100, 300, 1, 2, 9, 1, 9, 9);
            INSERT INTO changes VALUES (5, 1, 100, 100), (6, 2, 200, 200), (7, 1, 200, 300), (8, 1, 250, 250), (9, 1, 400, 400),
                (10, 1, 500, 500), (11, 1, 210, 210), (12, 3, 700, 700);
            INSERT INTO gap_events (gap, commit_no, at, event, actor) VALUES (1, 7, 1, 9, 'device b'), (2, 8, 1, 9, 'collector'),
                (2, 8, 1, 1, 'device b'), (3, 9, 1, 12, 'device b'), (4, 10, 1, 9, 'device b')";
        connection.execute_batch(put).unwrap();
        let connection = make_writer(connection, 8).unwrap();
        let told = |sql: &str| connection.query_row(sql, [], |r| r.get::<_, String>(0)).unwrap();
        let marked = "SELECT group_concat(series || ':' || ts || ':' || quality, ' ') FROM (SELECT * FROM readings WHERE quality >= 65536
            ORDER BY series, ts)";
        assert_eq!(told(marked), "1:200:65536 1:300:65600 1:400:65536 1:500:65536 2:200:65536 4:700:65536");
        let reach =
            "SELECT group_concat(coalesce(own_ts, '-') || ':' || coalesce(lent_ts, '-'), ' ') FROM series";
        // The last one joined a part that was filled before: nobody was told, and it is no later than that gap's end.
        assert_eq!(told(reach), "250:500 -:500 200:- -:800");
    }

    /// An older database gets what it lacks, keeps its incarnation, and is not made anew at the next opening.
    #[test]
    fn an_older_database_is_migrated() {
        let steps = [
            FROM_21, FROM_20, FROM_19, FROM_18, FROM_17, FROM_16, FROM_15, FROM_14, FROM_13, FROM_12,
            FROM_11, FROM_10, FROM_9, FROM_8, FROM_7, FROM_6, FROM_5, FROM_4, FROM_3, FROM_2,
        ];
        for back in (1..=steps.len()).map(|n| steps[..n].join(" ")) {
            let connection = make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
            let new = made(&connection);
            connection.execute_batch(&back).unwrap();
            assert_ne!(made(&connection), new);
            let connection = make_writer(connection, 8).unwrap();
            assert_eq!(made(&connection), new, "as a new database has it");
            assert_eq!(head(&connection).unwrap().incarnation, Incarnation(7));
            let connection = make_writer(connection, 9).unwrap();
            connection.execute_batch(&format!("PRAGMA user_version = {}", SCHEMA_VERSION + 1)).unwrap();
            assert!(matches!(make_writer(connection, 9), Err(OpenError::TooNew { .. })));
        }
    }

    /// Two lives that begin with one backup, and a new database in the place of a lost one, give no number of a command twice.
    #[test]
    fn each_life_of_a_database_numbers_its_commands_apart() {
        let life = |copies: &str, fresh| {
            let connection = make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
            connection.execute_batch(copies).unwrap();
            let connection = make_writer(connection, fresh).unwrap();
            let sql = "SELECT seq FROM sqlite_sequence WHERE name = 'commands'";
            connection.query_row(sql, [], |r| r.get::<_, i64>(0)).unwrap()
        };
        let is_copy = "INSERT INTO meta VALUES ('needs_incarnation', 1)";
        let first = life("", 1 << 40);
        assert_eq!(first, life("", 1 << 41), "the same life goes on");
        let lives = [first, life(is_copy, 1 << 40), life(is_copy, 1 << 41), life(is_copy, u64::MAX)];
        for (at, life) in lives.iter().enumerate() {
            let mut others = lives[..at].iter().map(|other| life.abs_diff(*other));
            assert!(others.all(|apart| apart >= COMMANDS_LEFT_OUT), "{lives:?}");
        }
        assert!(lives.iter().all(|life| *life > 0 && *life < i64::MAX / 10_000), "{lives:?}");
    }
}
