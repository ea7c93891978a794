//! What the schema of each version lacks beside the next one's, as statements. What is there is taken along; nothing here is ever
//! changed once a database may have gone through it.

/// From which version on, and what. To be carried out in order.
pub(super) const LACKS: [(i64, &str); 20] = [
    (1, TO_2),
    (2, TO_3),
    (3, TO_4),
    (4, TO_5),
    (5, TO_6),
    (6, TO_7),
    (7, TO_8),
    (8, TO_9),
    (9, TO_10),
    (10, TO_11),
    (11, TO_12),
    (12, TO_13),
    (13, TO_14),
    (14, TO_15),
    (15, TO_16),
    (16, TO_17),
    (17, TO_18),
    (18, TO_19),
    (19, TO_20),
    (20, TO_21),
];

/// What a database of version 1 lacks.
const TO_2: &str = "CREATE TABLE forgotten_epochs (
    agent INTEGER NOT NULL REFERENCES agents (id),
    epoch INTEGER NOT NULL,
    forgotten_no INTEGER NOT NULL,
    PRIMARY KEY (agent, epoch)
) WITHOUT ROWID";
/// What a database of version 2 lacks.
const TO_3: &str = "ALTER TABLE gaps ADD COLUMN attempts INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gaps ADD COLUMN failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE gaps ADD COLUMN next_at INTEGER;
ALTER TABLE gaps ADD COLUMN request INTEGER;
DROP INDEX gaps_open;
CREATE INDEX gaps_unfilled ON gaps (grid) WHERE state <> 2;
CREATE INDEX gaps_due ON gaps (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX gaps_requested ON gaps (request) WHERE request IS NOT NULL;
CREATE INDEX gaps_asked ON gaps (grid) WHERE state = 3;
CREATE TABLE gap_events (
    id INTEGER PRIMARY KEY,
    gap INTEGER NOT NULL,
    commit_no INTEGER NOT NULL,
    at INTEGER NOT NULL,
    event INTEGER NOT NULL,
    actor TEXT NOT NULL,
    cause INTEGER,
    next_at INTEGER,
    parent INTEGER,
    detail TEXT
);
CREATE INDEX gap_events_of ON gap_events (gap)";
/// What a database of version 3 lacks.
const TO_4: &str = "CREATE TABLE jobs (
    device INTEGER PRIMARY KEY REFERENCES devices (id),
    no INTEGER NOT NULL,
    source INTEGER NOT NULL,
    why INTEGER NOT NULL,
    asked_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL,
    fresh_at INTEGER NOT NULL,
    allowed_ms INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    lease INTEGER,
    lease_until INTEGER,
    began_at INTEGER,
    command INTEGER,
    began_commit INTEGER
);
CREATE TABLE job_history (
    id INTEGER PRIMARY KEY,
    no INTEGER NOT NULL,
    device INTEGER NOT NULL,
    why INTEGER NOT NULL,
    asked_at INTEGER NOT NULL,
    began_at INTEGER NOT NULL,
    ended_at INTEGER NOT NULL,
    outcome INTEGER NOT NULL,
    readings INTEGER NOT NULL,
    detail TEXT
);
CREATE INDEX job_history_of ON job_history (device);
CREATE TABLE looks (
    device INTEGER PRIMARY KEY REFERENCES devices (id),
    at INTEGER NOT NULL
)";
/// What a database of version 4 lacks. What became of gaps before is counted once; jobs and bytes are
/// counted from then on.
const TO_5: &str = "ALTER TABLE agents ADD COLUMN received_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE agents ADD COLUMN sent_bytes INTEGER NOT NULL DEFAULT 0;
CREATE INDEX gaps_counted ON gaps (state, cause, first_slot, last_slot) WHERE state <> 2;
CREATE TABLE gap_tallies (
    event INTEGER PRIMARY KEY,
    happened INTEGER NOT NULL
);
INSERT INTO gap_tallies SELECT event, count(*) FROM gap_events GROUP BY event;
CREATE TABLE job_tallies (
    outcome INTEGER NOT NULL,
    duration INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    ms INTEGER NOT NULL,
    PRIMARY KEY (outcome, duration)
) WITHOUT ROWID;
CREATE TABLE traffic (
    agent INTEGER NOT NULL REFERENCES agents (id),
    day INTEGER NOT NULL,
    received_bytes INTEGER NOT NULL,
    sent_bytes INTEGER NOT NULL,
    PRIMARY KEY (agent, day)
) WITHOUT ROWID";
/// What a database of version 5 lacks.
const TO_6: &str = "CREATE TABLE leases (
    site INTEGER PRIMARY KEY REFERENCES sites (id),
    until INTEGER NOT NULL
)";
/// What a database of version 6 lacks. Devices that were there before anybody could confirm them are confirmed.
const TO_7: &str = "ALTER TABLE agents ADD COLUMN left_at INTEGER;
ALTER TABLE agents ADD COLUMN outbox_owed INTEGER;
ALTER TABLE agents ADD COLUMN outbox_budget INTEGER;
ALTER TABLE agents ADD COLUMN clock_off_ms INTEGER;
ALTER TABLE devices ADD COLUMN announced_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE devices ADD COLUMN confirmed_at INTEGER;
ALTER TABLE devices ADD COLUMN confirmed_by TEXT;
ALTER TABLE devices ADD COLUMN resumed_at INTEGER;
ALTER TABLE devices ADD COLUMN stopped INTEGER;
ALTER TABLE devices ADD COLUMN stopped_at INTEGER;
ALTER TABLE devices ADD COLUMN stopped_why TEXT;
UPDATE devices SET announced_at = coalesce((SELECT min(first_seen) FROM catalogs c WHERE c.agent = devices.agent), 0);
UPDATE devices SET confirmed_at = announced_at, confirmed_by = 'collector',
    resumed_at = CAST(unixepoch('subsec') * 1000 AS INTEGER);
CREATE INDEX spans_owed ON spans (agent) WHERE last_slot IS NULL;
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind INTEGER NOT NULL,
    site INTEGER NOT NULL REFERENCES sites (id),
    device INTEGER REFERENCES devices (id),
    agent INTEGER REFERENCES agents (id),
    detail TEXT NOT NULL,
    raised_at INTEGER NOT NULL,
    acknowledged_at INTEGER,
    acknowledged_by TEXT,
    resolved_at INTEGER
);
CREATE UNIQUE INDEX alerts_of_device ON alerts (device, kind) WHERE resolved_at IS NULL AND device IS NOT NULL;
CREATE UNIQUE INDEX alerts_of_agent ON alerts (agent, kind) WHERE resolved_at IS NULL AND agent IS NOT NULL;
CREATE TABLE alert_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert INTEGER NOT NULL REFERENCES alerts (id),
    at INTEGER NOT NULL,
    event INTEGER NOT NULL,
    actor TEXT NOT NULL
);
CREATE INDEX alert_events_of ON alert_events (alert);
CREATE TABLE receivers (
    name TEXT PRIMARY KEY,
    told INTEGER NOT NULL,
    through INTEGER,
    next_at INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    accepted INTEGER NOT NULL DEFAULT 0,
    accepted_at INTEGER
) WITHOUT ROWID;
CREATE TABLE removals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    what TEXT NOT NULL,
    device INTEGER REFERENCES devices (id),
    count INTEGER NOT NULL,
    detail TEXT NOT NULL
)";
/// What a database of version 7 lacks.
const TO_8: &str = "CREATE TABLE revisions (
    series INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    commit_no INTEGER NOT NULL,
    value REAL,
    quality INTEGER NOT NULL,
    PRIMARY KEY (series, ts, commit_no)
) WITHOUT ROWID";
/// What a database of version 8 lacks.
const TO_9: &str = "ALTER TABLE agents ADD COLUMN clock_boot INTEGER;
ALTER TABLE agents ADD COLUMN clock_began INTEGER;
ALTER TABLE agents ADD COLUMN clock_ahead_ms INTEGER;
ALTER TABLE agents ADD COLUMN clock_at INTEGER;
ALTER TABLE agents ADD COLUMN clock_since INTEGER";
/// What a database of version 9 lacks.
const TO_10: &str = "ALTER TABLE receivers ADD COLUMN refusals INTEGER NOT NULL DEFAULT 0;
ALTER TABLE receivers ADD COLUMN set_aside INTEGER NOT NULL DEFAULT 0;
ALTER TABLE receivers ADD COLUMN set_aside_at INTEGER;
ALTER TABLE receivers ADD COLUMN gone_at INTEGER;
CREATE INDEX alerts_open ON alerts (id) WHERE resolved_at IS NULL;
CREATE INDEX alerts_over ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;
CREATE INDEX parked_waiting ON parked (agent, catalog) WHERE reason = 1;
CREATE INDEX parked_unreadable ON parked (id) WHERE reason > 1";
/// What a database of version 10 lacks. A column cannot be made to take nothing: alerts are written anew, with their numbers.
const TO_11: &str = "CREATE TABLE absences (
    agent INTEGER NOT NULL REFERENCES agents (id),
    from_at INTEGER NOT NULL,
    to_at INTEGER NOT NULL,
    PRIMARY KEY (agent, from_at)
) WITHOUT ROWID;
ALTER TABLE alert_events RENAME TO alert_events_10;
ALTER TABLE alerts RENAME TO alerts_10;
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind INTEGER NOT NULL,
    site INTEGER REFERENCES sites (id),
    device INTEGER REFERENCES devices (id),
    agent INTEGER REFERENCES agents (id),
    detail TEXT NOT NULL,
    raised_at INTEGER NOT NULL,
    acknowledged_at INTEGER,
    acknowledged_by TEXT,
    resolved_at INTEGER
);
CREATE TABLE alert_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert INTEGER NOT NULL REFERENCES alerts (id),
    at INTEGER NOT NULL,
    event INTEGER NOT NULL,
    actor TEXT NOT NULL
);
INSERT INTO alerts SELECT * FROM alerts_10;
INSERT INTO alert_events SELECT * FROM alert_events_10;
DELETE FROM sqlite_sequence WHERE name IN ('alerts', 'alert_events');
INSERT INTO sqlite_sequence (name, seq) SELECT substr(name, 1, length(name) - 3), seq FROM sqlite_sequence
    WHERE name IN ('alerts_10', 'alert_events_10');
DROP TABLE alert_events_10;
DROP TABLE alerts_10;
CREATE UNIQUE INDEX alerts_of_device ON alerts (device, kind) WHERE resolved_at IS NULL AND device IS NOT NULL;
CREATE UNIQUE INDEX alerts_of_agent ON alerts (agent, kind) WHERE resolved_at IS NULL AND agent IS NOT NULL;
CREATE UNIQUE INDEX alerts_of_collector ON alerts (kind) WHERE resolved_at IS NULL AND site IS NULL;
CREATE INDEX alerts_open ON alerts (id) WHERE resolved_at IS NULL;
CREATE INDEX alerts_over ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;
CREATE INDEX alert_events_of ON alert_events (alert)";
/// What a database of version 11 lacks.
const TO_12: &str = "ALTER TABLE devices ADD COLUMN changed_at INTEGER";
/// What a database of version 12 lacks.
const TO_13: &str = "CREATE TABLE calls (
    account TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX calls_of ON calls (account, at);
CREATE INDEX commands_catalogs ON commands (agent, a) WHERE kind = 3";
/// What a database of version 13 lacks.
const TO_14: &str = "CREATE INDEX commands_leases ON commands (agent, a) WHERE kind = 1";
/// What a database of version 14 lacks. What devices were is written down once they are described in other words.
const TO_15: &str = "CREATE TABLE descriptions (
    device INTEGER NOT NULL REFERENCES devices (id),
    from_ts INTEGER NOT NULL,
    series BLOB NOT NULL,
    PRIMARY KEY (device, from_ts)
) WITHOUT ROWID";
/// What a database of version 15 lacks.
const TO_16: &str = "ALTER TABLE alerts ADD COLUMN awaited_by TEXT;
CREATE TABLE awaited (
    device INTEGER NOT NULL REFERENCES devices (id),
    actor TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (device, actor)
) WITHOUT ROWID;
CREATE INDEX jobs_commands ON jobs (command) WHERE command IS NOT NULL";
/// What a database of version 16 lacks. What nobody could be asked for was never due; it is given up as long after it was proven
/// as its schedule says, which the first look finds out.
const TO_17: &str = "ALTER TABLE gaps ADD COLUMN sourceless INTEGER NOT NULL DEFAULT 0;
UPDATE gaps SET next_at = opened_at WHERE state IN (1, 4) AND next_at IS NULL;
CREATE INDEX gaps_sourceless ON gaps (grid) WHERE sourceless = 1";
/// What a database of version 17 lacks. Of readings that were lent before they were marked the history of gaps tells the commit:
/// what is lent is committed alone. They are marked now, so that the device's own ones can be told from them. Where a part that was
/// filled joined one that was filled before no history tells of it: nothing that was lent is later than what was ever missing.
const TO_18: &str = "ALTER TABLE series ADD COLUMN own_ts INTEGER;
ALTER TABLE series ADD COLUMN lent_ts INTEGER;
CREATE TEMP TABLE loans AS SELECT DISTINCT c.commit_no, c.device, c.first_ts, c.last_ts FROM changes c
    WHERE c.commit_no IN (SELECT commit_no FROM gap_events WHERE event IN (9, 12) AND actor LIKE 'device %');
UPDATE readings SET quality = quality + 65536 WHERE (series, ts) IN (SELECT r.series, r.ts
    FROM temp.loans l CROSS JOIN series x ON x.device = l.device CROSS JOIN readings r ON r.series = x.id
        AND r.ts BETWEEN l.first_ts AND l.last_ts WHERE r.commit_no = l.commit_no AND r.quality < 65536);
UPDATE series SET lent_ts = (SELECT max(t) FROM (SELECT max(l.last_ts) AS t FROM temp.loans l WHERE l.device = series.device
    UNION ALL SELECT max(p.to_ts) FROM grids g JOIN gaps p ON p.grid = g.id WHERE g.device = series.device));
UPDATE series SET own_ts = (SELECT r.ts FROM readings r WHERE r.series = series.id AND r.quality < 65536
    ORDER BY r.ts DESC LIMIT 1);
DROP TABLE temp.loans;
CREATE INDEX devices_of_agent ON devices (agent)";

/// What a database of version 18 lacks.
const TO_19: &str = "CREATE TABLE unheard (from_at INTEGER PRIMARY KEY, to_at INTEGER NOT NULL);";
/// What a database of version 19 lacks. What was read of which file is not known to it: the first look goes by what is proven.
const TO_20: &str = "CREATE TABLE drops (
    agent INTEGER PRIMARY KEY REFERENCES agents (id),
    reads INTEGER,
    from_ts INTEGER NOT NULL,
    spoilt BLOB NOT NULL
);
CREATE TABLE drop_files (
    agent INTEGER NOT NULL REFERENCES agents (id),
    name TEXT NOT NULL,
    device_no INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    modified_ms INTEGER NOT NULL,
    modified_ns INTEGER NOT NULL,
    state INTEGER NOT NULL,
    was_there INTEGER NOT NULL,
    has_half INTEGER NOT NULL,
    is_half_told INTEGER NOT NULL,
    offset INTEGER,
    head INTEGER,
    before INTEGER,
    first_ts INTEGER,
    last_ts INTEGER,
    PRIMARY KEY (agent, name)
) WITHOUT ROWID";
/// What a database of version 20 lacks.
const TO_21: &str = "CREATE INDEX commands_pauses ON commands (agent, device) WHERE kind = 6";
