-- Version 20 of the collector's database. Instants are milliseconds since 1970 UTC; 64-bit unsigned numbers
-- (epochs, hashes, incarnations) are kept as the signed number of the same bits; seqs are plain.
-- Everything that decides anything is here: a collector may be killed at any instant and lose nothing.

-- incarnation, commit_no, needs_incarnation (set in a backup), admin_token_sha256, heard_until (messages could come then)
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE TABLE sites (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);

-- connected: 0 never or gone by its last will, 1 connected, 2 gone with a goodbye
CREATE TABLE agents (
    id INTEGER PRIMARY KEY,
    site INTEGER NOT NULL REFERENCES sites (id),
    name TEXT NOT NULL,
    connected INTEGER NOT NULL DEFAULT 0,
    connection INTEGER,
    version TEXT,
    boot INTEGER,
    epoch INTEGER,               -- being written, as of the last birth
    catalog INTEGER,             -- hash in force, as of the last birth or settled catalog record
    durable INTEGER,
    clock_set INTEGER,
    flush_ms INTEGER NOT NULL DEFAULT 0,
    held BLOB NOT NULL DEFAULT x'',
    last_heard_at INTEGER,
    last_birth_at INTEGER,
    place INTEGER NOT NULL DEFAULT 0,   -- chain place up to which everything is settled
    settled_seq INTEGER NOT NULL DEFAULT 0,
    cloned_at INTEGER,           -- when two live epochs were seen under this id
    -- counters
    frames INTEGER NOT NULL DEFAULT 0,
    readings INTEGER NOT NULL DEFAULT 0,
    duplicates INTEGER NOT NULL DEFAULT 0,
    conflicts INTEGER NOT NULL DEFAULT 0,
    damaged INTEGER NOT NULL DEFAULT 0, -- frames with a wrong CRC: not acknowledged
    refused INTEGER NOT NULL DEFAULT 0, -- messages that cannot be, or beyond a bound: not acknowledged
    received_bytes INTEGER NOT NULL DEFAULT 0, -- on the link, from the agent, as common::cost has it (schema 5)
    sent_bytes INTEGER NOT NULL DEFAULT 0,     -- the same, to it (schema 5)
    left_at INTEGER,             -- when it was seen to go, as of the last time (schema 7)
    -- what it said last of itself: bytes of its outbox not delivered, the most it may take, and how far its clock is
    -- ahead (schema 7)
    outbox_owed INTEGER,
    outbox_budget INTEGER,
    clock_off_ms INTEGER,
    -- what that is reckoned from, see alerts::clock: start of the machine, when that was by its wall clock, the most that a
    -- message proved, when the last one came, and the first one of that start (schema 9)
    clock_boot INTEGER,
    clock_began INTEGER,
    clock_ahead_ms INTEGER,
    clock_at INTEGER,
    clock_since INTEGER,
    UNIQUE (site, name)
);

-- place: position in the chain of Start records; NULL until the epoch before it is known.
-- end_seq: first seq never issued; NULL while unknown. Sets are pairs of first and last seq.
CREATE TABLE epochs (
    agent INTEGER NOT NULL REFERENCES agents (id),
    epoch INTEGER NOT NULL,
    place INTEGER,
    link INTEGER NOT NULL DEFAULT 0,    -- 0 follows its predecessor, else the cause code of the break before it
    started INTEGER NOT NULL DEFAULT 0, -- whether the Start record is known
    previous INTEGER,
    previous_end INTEGER,
    boot INTEGER,
    boot_clock_ms INTEGER,
    started_at INTEGER,
    clock_set INTEGER,
    durable INTEGER,                    -- whether it is on a disk, as its Start or a birth said
    end_seq INTEGER,
    closed INTEGER NOT NULL DEFAULT 0,
    committed BLOB NOT NULL,
    parked BLOB NOT NULL,
    lost BLOB NOT NULL,                 -- triples of first seq, last seq, cause code
    PRIMARY KEY (agent, epoch)
) WITHOUT ROWID;

-- Epochs of which only the number is kept, in the order in which they were forgotten (schema 2).
CREATE TABLE forgotten_epochs (
    agent INTEGER NOT NULL REFERENCES agents (id),
    epoch INTEGER NOT NULL,
    forgotten_no INTEGER NOT NULL,
    PRIMARY KEY (agent, epoch)
) WITHOUT ROWID;

-- Records that wait for everything before them: 1 catalog, 2 downtime, 3 completeness.
CREATE TABLE marks (
    agent INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    catalog INTEGER,
    from_ts INTEGER,
    to_ts INTEGER,
    cause INTEGER,
    through BLOB,
    PRIMARY KEY (agent, epoch, seq)
) WITHOUT ROWID;

CREATE TABLE downtimes (
    agent INTEGER NOT NULL,
    place INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    from_ts INTEGER NOT NULL,
    to_ts INTEGER NOT NULL,
    cause INTEGER NOT NULL,
    PRIMARY KEY (agent, place, seq)
) WITHOUT ROWID;

CREATE TABLE losses (
    agent INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    from_ts INTEGER NOT NULL,
    to_ts INTEGER NOT NULL,
    cause INTEGER NOT NULL,
    PRIMARY KEY (agent, epoch, first_seq, last_seq)
) WITHOUT ROWID;

CREATE TABLE corrections (
    agent INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    boot_began INTEGER NOT NULL,
    PRIMARY KEY (agent, epoch, first_seq)
) WITHOUT ROWID;

CREATE TABLE catalogs (
    agent INTEGER NOT NULL REFERENCES agents (id),
    hash INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    first_seen INTEGER NOT NULL,
    PRIMARY KEY (agent, hash)
) WITHOUT ROWID;

-- agent: the one whose catalog named the device last. attributes: a JSON object of texts. announced_at: when its first
-- catalog came; confirmed_at, confirmed_by: when who said that it is to be collected; resumed_at: when a person last let it
-- go on. stopped: it is asked no more, because 1 nothing came since it was commissioned, 2 its agreement has ended, 3 nobody
-- confirmed it; since when, and why for people. (From announced_at on schema 7.)
CREATE TABLE devices (
    id INTEGER PRIMARY KEY,
    site INTEGER NOT NULL REFERENCES sites (id),
    name TEXT NOT NULL,
    agent INTEGER REFERENCES agents (id),
    attributes TEXT NOT NULL DEFAULT '{}',
    announced_at INTEGER NOT NULL DEFAULT 0,
    confirmed_at INTEGER,
    confirmed_by TEXT,
    resumed_at INTEGER,
    stopped INTEGER,
    stopped_at INTEGER,
    stopped_why TEXT,
    changed_at INTEGER,          -- its description is another one since then, and no reading under it has come (schema 12)
    UNIQUE (site, name)
);
CREATE INDEX devices_of_agent ON devices (agent);

-- Every slot grid a device has had.
CREATE TABLE grids (
    id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL REFERENCES devices (id),
    interval_ms INTEGER NOT NULL,
    phase_ms INTEGER NOT NULL,
    UNIQUE (device, interval_ms, phase_ms)
);

-- A time in which an agent owed the slots of a grid: from first_slot (NULL: not known yet) to last_slot
-- (NULL: still). proven_slot: everything up to it is proven (NULL: nothing yet).
CREATE TABLE spans (
    id INTEGER PRIMARY KEY,
    grid INTEGER NOT NULL REFERENCES grids (id),
    agent INTEGER NOT NULL REFERENCES agents (id),
    first_slot INTEGER,
    last_slot INTEGER,
    proven_slot INTEGER,
    proven_place INTEGER NOT NULL DEFAULT 0,
    proven_seq INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX spans_of_grid ON spans (grid);
CREATE INDEX spans_owed ON spans (agent) WHERE last_slot IS NULL;

-- What is known of slots, as runs. state: 1 received, 2 missed (a miss names it), and, by proof: 3 lost (a loss
-- holds it), 4 inside a downtime, 5 at the end of an epoch, 6 no reason found. cause: common::quality::Cause.
CREATE TABLE coverage (
    grid INTEGER NOT NULL,
    first_slot INTEGER NOT NULL,
    last_slot INTEGER NOT NULL,
    state INTEGER NOT NULL,
    cause INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (grid, first_slot)
) WITHOUT ROWID;

-- Proven gaps with their life. state: 1 open, 2 filled, 3 requested, 4 waiting, 5 abandoned. from_ts, to_ts: half
-- open. next_at: when its source is asked again, or, while it is, when the request ends (NULL: never).
-- request: the command under way. (All of them schema 3.) sourceless: nobody can be asked for it, and next_at is when it is
-- given up; where it is abandoned: that is why. (Schema 17; the device keeps no history, or, since schema 18, is not polled any more.)
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,   -- a number is never given twice
    grid INTEGER NOT NULL REFERENCES grids (id),
    first_slot INTEGER NOT NULL,
    last_slot INTEGER NOT NULL,
    from_ts INTEGER NOT NULL,
    to_ts INTEGER NOT NULL,
    cause INTEGER NOT NULL,
    state INTEGER NOT NULL,
    opened_at INTEGER NOT NULL,
    opened_commit INTEGER NOT NULL,
    changed_commit INTEGER NOT NULL,
    closed_at INTEGER,
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    next_at INTEGER,
    request INTEGER,
    sourceless INTEGER NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX gaps_of_grid ON gaps (grid, first_slot);
-- What is counted per site and device, and asked for most.
CREATE INDEX gaps_unfilled ON gaps (grid) WHERE state <> 2;
CREATE INDEX gaps_changed ON gaps (changed_commit);
CREATE INDEX gaps_due ON gaps (next_at) WHERE next_at IS NOT NULL;
CREATE INDEX gaps_requested ON gaps (request) WHERE request IS NOT NULL;
CREATE INDEX gaps_asked ON gaps (grid) WHERE state = 3;
-- What is asked for once its device has a memory.
CREATE INDEX gaps_sourceless ON gaps (grid) WHERE sourceless = 1;

-- What is counted at every scrape, from the index alone. (Schema 5.)
CREATE INDEX gaps_counted ON gaps (state, cause, first_slot, last_slot) WHERE state <> 2;

-- What became of a gap, in order. event: 1 opened, 2 cause (another one was told), 3 requested, 4 no data, 5 failed,
-- 6 abandoned, 7 retried, 8 reopened, 9 filled, 10 cut (off the gap `parent`), 12 lent
-- (some of its channels: the gap stays), 13 abandoned since nobody could be asked, 14 replaced (what was lent of its slots, by the
-- device's own readings). actor: `collector`, `agent NAME`,
-- `token NAME`, or `device NAME`, whose readings stand in. detail: for people.
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
CREATE INDEX gap_events_of ON gap_events (gap);

-- How often each of it happened, so that nobody counts the lines; 11: a source was asked again. (Schema 5.)
CREATE TABLE gap_tallies (
    event INTEGER PRIMARY KEY,
    happened INTEGER NOT NULL
);

-- A row per revision: a changed unit, quantity, aggregation or label opens a new one. own_ts: time of the latest of its readings
-- that no other device measured; lent_ts: none of its readings that another one measured is later. (Both schema 18, kept on write.)
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL REFERENCES devices (id),
    channel TEXT NOT NULL,
    revision INTEGER NOT NULL,
    unit TEXT NOT NULL,
    quantity TEXT NOT NULL,
    aggregation INTEGER NOT NULL,
    label INTEGER NOT NULL,
    attributes TEXT NOT NULL DEFAULT '{}',
    own_ts INTEGER,
    lent_ts INTEGER,
    UNIQUE (device, channel, revision)
);

-- What a device was from a time on: the series of its channels, as a list of numbers. The first row of a device is from the
-- least time on: nobody knows what it was before. (Schema 15.)
CREATE TABLE descriptions (
    device INTEGER NOT NULL REFERENCES devices (id),
    from_ts INTEGER NOT NULL,
    series BLOB NOT NULL,
    PRIMARY KEY (device, from_ts)
) WITHOUT ROWID;

-- value: REAL; a text as BLOB of its UTF-8; NaN and -0.0, which SQLite does not keep, as BLOB of 0xFF and the
-- 8 bytes (little endian); NULL where the quality has no value. quality: common::quality::Quality, and 65536 more where
-- another device measured it, which stands in (since schema 17, and so in `revisions`; earlier ones were marked by schema 18).
CREATE TABLE readings (
    series INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    value REAL,
    quality INTEGER NOT NULL,
    commit_no INTEGER NOT NULL,
    PRIMARY KEY (series, ts)
) WITHOUT ROWID;

-- Where a commit wrote readings: the rows of that device within the range (inclusive) with that commit_no.
CREATE TABLE changes (
    commit_no INTEGER NOT NULL,
    device INTEGER NOT NULL,
    first_ts INTEGER NOT NULL,
    last_ts INTEGER NOT NULL,
    PRIMARY KEY (commit_no, device, first_ts)
) WITHOUT ROWID;

-- A second, different value for an instant that has one; the first committed stays in `readings` (but see `revisions`).
CREATE TABLE conflicts (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    value REAL,
    quality INTEGER NOT NULL,
    agent INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    commit_no INTEGER NOT NULL,
    UNIQUE (series, ts, agent, epoch, seq)
);

-- What stood in `readings` until that commit, of devices whose source may say something else later, and what stood in for
-- readings that came after all; beside what still stands in, the device's own answer without a value. (Schema 8.)
CREATE TABLE revisions (
    series INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    commit_no INTEGER NOT NULL,
    value REAL,
    quality INTEGER NOT NULL,
    PRIMARY KEY (series, ts, commit_no)
) WITHOUT ROWID;

-- Readings taken before the gateway's clock was set, with what a later correction needs. corrected_ts: the true
-- time, once known. They stand in `readings` as uncertain until then. corrected_commit: the commit that took the row
-- at `ts` out of `readings`, where one did.
CREATE TABLE uncertain (
    agent INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    series INTEGER NOT NULL,
    grid INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    boot_clock_ms INTEGER NOT NULL,
    value REAL,
    quality INTEGER NOT NULL,
    corrected_ts INTEGER,
    corrected_commit INTEGER,
    PRIMARY KEY (agent, epoch, seq, series)
) WITHOUT ROWID;
CREATE INDEX uncertain_corrected ON uncertain (corrected_commit) WHERE corrected_commit IS NOT NULL;

-- Frames that are intact but could not be used (yet). reason: 1 unknown catalog, 2 unknown version or kind,
-- 3 nonsense.
CREATE TABLE parked (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent INTEGER NOT NULL REFERENCES agents (id),
    epoch INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    count INTEGER NOT NULL,
    catalog INTEGER NOT NULL,
    reason INTEGER NOT NULL,
    detail TEXT NOT NULL,
    bytes BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    UNIQUE (agent, epoch, first_seq, count)
);

-- What may be used once its catalog is here, and what is tried again at a start. (Schema 10.)
CREATE INDEX parked_waiting ON parked (agent, catalog) WHERE reason = 1;
CREATE INDEX parked_unreadable ON parked (id) WHERE reason > 1;

-- kind: 1 live (a: until), 2 resend (a: epoch, b: first, c: last), 3 send catalog (a: hash), 4 poll now (device).
-- 5 read history (device, a: from, b: to), 6 pause (device, a: whether, b: epoch of the agent).
-- outcome: NULL while open, 1 done, 2 expired, 3 failed (detail), 4 no data.
CREATE TABLE commands (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    agent INTEGER NOT NULL REFERENCES agents (id),
    kind INTEGER NOT NULL,
    a INTEGER,
    b INTEGER,
    c INTEGER,
    device TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    outcome INTEGER,
    detail TEXT,
    answered_at INTEGER
);
CREATE INDEX commands_open ON commands (agent) WHERE outcome IS NULL;
CREATE INDEX commands_catalogs ON commands (agent, a) WHERE kind = 3;
CREATE INDEX commands_leases ON commands (agent, a) WHERE kind = 1;
CREATE INDEX commands_pauses ON commands (agent, device) WHERE kind = 6;

-- What is refreshed out of turn: one job at most for a device. source: whose budget it uses (an agent). why: 0 its
-- rhythm, 1 stale, 2 viewed, 3 confirm, 4 asked by a person. lease: the worker that has it (NULL: it waits), until when;
-- command: what its agent was told; began_commit: the last commit before. (All of it schema 4.)
CREATE TABLE jobs (
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
-- Whose command an answer is to, and how urgent one is. (Schema 16.)
CREATE INDEX jobs_commands ON jobs (command) WHERE command IS NOT NULL;

-- What became of jobs. outcome: 1 done, 2 failed (and tried again), 3 no data, 4 expired (and tried again).
-- readings: of the device, stored since the job began.
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

-- How long the work of jobs took, all that ever were: how many ended so and took no longer than a bound and longer than
-- the one before it (`jobs::DURATIONS_MS`, by number; the last: longer than all), and how long they took together.
-- (Schema 5.)
CREATE TABLE job_tallies (
    outcome INTEGER NOT NULL,
    duration INTEGER NOT NULL,
    jobs INTEGER NOT NULL,
    ms INTEGER NOT NULL,
    PRIMARY KEY (outcome, duration)
) WITHOUT ROWID;

-- When somebody last looked at a device's data: its source is asked more often while they do. (Schema 4.)
CREATE TABLE looks (
    device INTEGER PRIMARY KEY REFERENCES devices (id),
    at INTEGER NOT NULL
);

-- Bytes on the link of each agent and day (days since 1970, UTC), as in `agents`. (Schema 5.)
CREATE TABLE traffic (
    agent INTEGER NOT NULL REFERENCES agents (id),
    day INTEGER NOT NULL,
    received_bytes INTEGER NOT NULL,
    sent_bytes INTEGER NOT NULL,
    PRIMARY KEY (agent, day)
) WITHOUT ROWID;

-- Sites that somebody watches: their agents send each poll at once until then. (Schema 6.)
CREATE TABLE leases (
    site INTEGER PRIMARY KEY REFERENCES sites (id),
    until INTEGER NOT NULL
);

-- When agents were away: what could not come meanwhile is held against nobody. (Schema 11.)
CREATE TABLE absences (
    agent INTEGER NOT NULL REFERENCES agents (id),
    from_at INTEGER NOT NULL,
    to_at INTEGER NOT NULL,
    PRIMARY KEY (agent, from_at)
) WITHOUT ROWID;

-- When the collector heard nobody: it did not run, or its broker was away. (Schema 19.)
CREATE TABLE unheard (from_at INTEGER PRIMARY KEY, to_at INTEGER NOT NULL);

-- What people are told. kind: alerts::Kind. One of device and agent is there, or, where it is about the collector, neither
-- they nor a site. (Schema 7, the latter 11, and what follows.)
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
    resolved_at INTEGER,
    awaited_by TEXT -- who asked for the device while its source could not reach it, once that is over. (Schema 16.)
);
CREATE UNIQUE INDEX alerts_of_device ON alerts (device, kind) WHERE resolved_at IS NULL AND device IS NOT NULL;
CREATE UNIQUE INDEX alerts_of_collector ON alerts (kind) WHERE resolved_at IS NULL AND site IS NULL;
-- What each page counts, and what is removed by age. (Schema 10.)
CREATE INDEX alerts_open ON alerts (id) WHERE resolved_at IS NULL;
CREATE INDEX alerts_over ON alerts (resolved_at) WHERE resolved_at IS NOT NULL;
CREATE UNIQUE INDEX alerts_of_agent ON alerts (agent, kind) WHERE resolved_at IS NULL AND agent IS NOT NULL;

-- Who asked for a device that its source cannot reach, until they were told that it is back, or were served. (Schema 16.)
CREATE TABLE awaited (
    device INTEGER NOT NULL REFERENCES devices (id),
    actor TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (device, actor)
) WITHOUT ROWID;

-- What became of alerts, in order. event: 1 raised, 2 acknowledged, 3 resolved.
CREATE TABLE alert_events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    alert INTEGER NOT NULL REFERENCES alerts (id),
    at INTEGER NOT NULL,
    event INTEGER NOT NULL,
    actor TEXT NOT NULL
);
CREATE INDEX alert_events_of ON alert_events (alert);

-- Who is told. told: the last event that it has accepted; through: the last event of the message under way (NULL: none is),
-- which keeps its number and what is in it until it is accepted, however often it is tried.
CREATE TABLE receivers (
    name TEXT PRIMARY KEY,
    told INTEGER NOT NULL,
    through INTEGER,
    next_at INTEGER,
    failures INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    accepted INTEGER NOT NULL DEFAULT 0,
    accepted_at INTEGER,
    -- refusals: how often it did not want the message under way; set_aside: messages given up for that reason; gone_at: since
    -- when it has not been in the configuration (schema 10)
    refusals INTEGER NOT NULL DEFAULT 0,
    set_aside INTEGER NOT NULL DEFAULT 0,
    set_aside_at INTEGER,
    gone_at INTEGER
) WITHOUT ROWID;

-- What was tidied away by itself, or is asked no more (device). what: a word; count: rows, or 1 device.
CREATE TABLE removals (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    what TEXT NOT NULL,
    device INTEGER REFERENCES devices (id),
    count INTEGER NOT NULL,
    detail TEXT NOT NULL
);

-- Calls that were made for an account of remote APIs whose calls are counted, as far back as they count. An account may make
-- several within a millisecond (schema 13).
CREATE TABLE calls (
    account TEXT NOT NULL,
    at INTEGER NOT NULL
);
CREATE INDEX calls_of ON calls (account, at);

-- Drops of files, each with the agent of its device. (Schema 20.) reads: how rows are made of its files, as a number; where another
-- description makes other rows, or this is NULL (nothing is known of its files any more), all that is there is read anew. from_ts: of
-- files that were there at the first look of all only rows from here on are of interest. spoilt: instants of lines that cannot be
-- read and may not be accounted for yet, 8 bytes each, little endian.
CREATE TABLE drops (
    agent INTEGER PRIMARY KEY REFERENCES agents (id),
    reads INTEGER,
    from_ts INTEGER NOT NULL,
    spoilt BLOB NOT NULL
);

-- What was read of their files, by the names below the folder: those that the last look has listed. Written once the rows that came of a
-- file are. device_no to modified_ns: what the listing said of it when it was read. state: 0 it is to be read, 1 all of it was, 2 it is
-- older than what is of interest. was_there: at the first look of all. has_half: a line without its end stands behind the place;
-- is_half_told: that was said. offset, head, before: where a plain one was read to, and the CRC-32C of its begin and of what is before
-- that (common::files::tail::Mark). first_ts, last_ts: of its rows. (Schema 20.)
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
) WITHOUT ROWID;

-- API tokens: only the SHA-256 of each is kept.
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    sha256 BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;
