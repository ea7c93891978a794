//! One logger: its program, its tables, and the answers to queries. Everything is a function of what it was told and of
//! the instant of the world's clock that comes with each call. Opens no socket and reads no clock.

use std::collections::VecDeque;
use std::fmt::Write as _;

use gapless_common::text::base64;
use gapless_common::time::Timestamp;
use serde::Serialize;

use super::clock::{OwnClock, REAL_TIME_PPM};
use super::fault::{self, Fault, FaultKind};
use super::fields::{self, Cell, Field};
use super::query::{Mode, Query, parse};
use super::ring::{Ring, Stored};
use crate::truth::{mix, name_seed};

/// Answers that are remembered; the oldest go first.
pub const ANSWERS_KEPT_MAX: usize = 65_536;

/// One table of final storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableConfig {
    /// Its name.
    pub name: String,
    /// Distance of two records.
    pub interval_ms: i64,
    /// Records it holds before the oldest are overwritten.
    pub capacity: u64,
    /// Number of fields.
    pub fields: usize,
}

/// What a logger is like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggerConfig {
    /// Its tables.
    pub tables: Vec<TableConfig>,
    /// Its clock minus UTC, as its owner believes it to be, in ms.
    pub zone_ms: i64,
    /// How wrong its clock is at the start, in ms.
    pub wrong_by_ms: i64,
    /// How fast its clock runs, in parts of a million: 1,000,000 keeps time.
    pub speed_ppm: i64,
    /// For how long it has been recording already, in ms.
    pub history_ms: i64,
    /// Most records of one answer; `more` says that there are others.
    pub records_max: usize,
    /// Whether `since-record` gives the named record, too.
    pub since_record_inclusive: bool,
    /// User and password of basic authentication.
    pub login: Option<(String, String)>,
    /// Seed of all values.
    pub seed: u64,
}

impl Default for LoggerConfig {
    fn default() -> Self {
        Self {
            tables: vec![TableConfig {
                name: "Met".to_owned(),
                interval_ms: 10_000,
                capacity: 10_000,
                fields: 6,
            }],
            zone_ms: 0,
            wrong_by_ms: 0,
            speed_ppm: REAL_TIME_PPM,
            history_ms: 0,
            records_max: 500,
            since_record_inclusive: true,
            login: None,
            seed: 1,
        }
    }
}

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// What stood behind the `?`.
    pub query: String,
    /// First and last record given.
    pub records: Option<(u64, u64)>,
    /// How many.
    pub count: usize,
    /// The faults that struck it, in words.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<String>,
}

#[derive(Debug)]
struct Table {
    config: TableConfig,
    ring: Ring,
    fields: Vec<Field>,
}

/// A logger. See the module.
#[derive(Debug)]
pub struct Logger {
    config: LoggerConfig,
    clock: OwnClock,
    program: u32,
    tables: Vec<Table>,
    faults: Vec<Fault>,
    answers: VecDeque<Answer>,
}

/// What goes back over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Whether it is JSON; a page otherwise.
    pub is_json: bool,
    /// The text.
    pub body: String,
    /// What spoils it on the way.
    pub faults: Vec<FaultKind>,
}

impl Logger {
    /// A logger that was switched on at `wall_ms`, or its history earlier.
    #[must_use]
    pub fn new(config: LoggerConfig, wall_ms: i64) -> Self {
        let own = wall_ms.saturating_add(config.zone_ms).saturating_add(config.wrong_by_ms);
        let clock = OwnClock::new(wall_ms, own, config.speed_ppm);
        let begun = own.saturating_sub(config.history_ms);
        let tables = config.tables.iter().map(|table| table_of(table, 0, config.seed, begun)).collect();
        Self { clock, config, program: 0, tables, faults: Vec::new(), answers: VecDeque::new() }
    }

    /// Its own clock as UTC, if its zone is right, in ms.
    #[must_use]
    pub fn own_utc_ms(&self, wall_ms: i64) -> i64 {
        self.clock.at(wall_ms).saturating_sub(self.config.zone_ms)
    }

    /// From now on its clock runs at another speed.
    pub fn set_speed(&mut self, speed_ppm: i64, wall_ms: i64) {
        self.clock = self.clock.with_speed(wall_ms, speed_ppm);
    }

    /// Lets its own time pass in one instant of the world's: records are written on the way.
    pub fn pass(&mut self, own_ms: u64, wall_ms: i64) {
        self.clock = self.clock.stepped(wall_ms, i64::try_from(own_ms).unwrap_or(i64::MAX));
    }

    /// Somebody sets its clock forward, or back: nothing is recorded for what lies between.
    pub fn step_clock(&mut self, by_ms: i64, wall_ms: i64) {
        let before = self.clock.at(wall_ms);
        self.clock = self.clock.stepped(wall_ms, by_ms);
        let after = self.clock.at(wall_ms);
        self.tables.iter_mut().for_each(|table| table.ring.clock_set(before, after));
    }

    /// It had no power between two instants: its clock went on, nothing was recorded, and its numbers go on from where
    /// they were.
    pub fn was_off(&mut self, from_wall_ms: i64, to_wall_ms: i64) {
        let (before, after) = (self.clock.at(from_wall_ms), self.clock.at(to_wall_ms));
        self.tables.iter_mut().for_each(|table| table.ring.clock_set(before, after));
    }

    /// Another program: other fields, another signature, all records gone, numbers from 0.
    pub fn change_program(&mut self, wall_ms: i64) {
        self.program += 1;
        let (own, program, seed) = (self.clock.at(wall_ms), self.program, self.config.seed);
        self.tables = self.config.tables.iter().map(|table| table_of(table, program, seed, own)).collect();
    }

    /// Something goes wrong from now on.
    pub fn add_fault(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    /// The faults there are, for people.
    #[must_use]
    pub fn faults_text(&self) -> String {
        let all: Vec<String> = self.faults.iter().map(|fault| fault.kind.to_string()).collect();
        if all.is_empty() { "no faults".to_owned() } else { all.join("\n") }
    }

    /// Its tables.
    #[must_use]
    pub fn table_names(&self) -> Vec<String> {
        self.config.tables.iter().map(|table| table.name.clone()).collect()
    }

    /// Ends all faults.
    pub fn clear_faults(&mut self) {
        self.faults.clear();
    }

    /// The fields of a table under the program that runs now.
    #[must_use]
    pub fn fields(&self, table: &str) -> &[Field] {
        self.table(table).map_or(&[], |table| &table.fields)
    }

    /// What `field` of `table` holds in the record of `utc_ms`, whichever program stored it.
    #[must_use]
    pub fn truth(&self, table: &str, field: &str, utc_ms: i64) -> Option<Cell> {
        let config = &self.table(table)?.config;
        let of = |program| fields::of_program(&config.name, config.fields, program, self.config.seed);
        let found =
            (0..=self.program).find_map(|program| of(program).into_iter().find(|known| known.name == field));
        found.map(|field| field.cell(utc_ms))
    }

    /// The records of `table` that are still held: number, and time as UTC in ms.
    #[must_use]
    pub fn held(&self, table: &str, wall_ms: i64) -> Vec<(u64, i64)> {
        let own = self.clock.at(wall_ms);
        let held = self.table(table).into_iter().flat_map(|table| table.ring.held(own));
        held.map(|stored| (stored.no, stored.own_ms - self.config.zone_ms)).collect()
    }

    /// What it answered, oldest first.
    #[must_use]
    pub fn answers(&self) -> Vec<Answer> {
        self.answers.iter().cloned().collect()
    }

    /// The answer to a GET of `target` with this content of the `Authorization` header.
    pub fn answer(&mut self, target: &str, authorization: Option<&str>, wall_ms: i64) -> Reply {
        let faults = fault::strike(&mut self.faults);
        let text = target.split_once('?').map_or("", |(_, query)| query);
        let mut answer = Answer { query: text.to_owned(), records: None, count: 0, faults: words(&faults) };
        let reply = if self.may_enter(authorization) {
            let told = parse(text).and_then(|query| self.told(&query, wall_ms, &mut answer));
            let (is_json, body) = match (told, faults.iter().find_map(|kind| instead(*kind))) {
                (_, Some(page)) => (false, page.to_owned()),
                (Ok(body), None) => (true, body),
                (Err(why), None) => (false, format!("<html><body>Error: {why}</body></html>")),
            };
            Reply { status: 200, is_json, body, faults }
        } else {
            Reply { status: 401, is_json: false, body: "<html><body>401</body></html>".to_owned(), faults }
        };
        if self.answers.len() == ANSWERS_KEPT_MAX {
            self.answers.pop_front();
        }
        self.answers.push_back(answer);
        reply
    }

    fn may_enter(&self, authorization: Option<&str>) -> bool {
        let Some((user, password)) = &self.config.login else { return true };
        authorization == Some(format!("Basic {}", base64(format!("{user}:{password}").as_bytes())).as_str())
    }

    fn table(&self, name: &str) -> Option<&Table> {
        self.tables.iter().find(|table| table.config.name == name)
    }

    fn told(&self, query: &Query, wall_ms: i64, answer: &mut Answer) -> Result<String, String> {
        match query {
            Query::Symbols(None) => {
                let tables = self.tables.iter().map(|table| (table.config.name.clone(), String::new(), 6));
                Ok(symbols(tables))
            }
            Query::Symbols(Some(name)) => {
                let table = self.table(name).ok_or_else(|| format!("no table {name}"))?;
                Ok(symbols(table.fields.iter().map(|field| (field.name.clone(), format!("{name}."), 8))))
            }
            Query::Data { table: name, mode } => {
                let table = self.table(name).ok_or_else(|| format!("no table {name}"))?;
                let (records, more) = self.records(table, *mode, wall_ms);
                answer.count = records.len();
                answer.records = records.first().zip(records.last()).map(|(first, last)| (first.no, last.no));
                Ok(self.csijson(table, &records, more))
            }
        }
    }

    /// What `mode` asks for, oldest first, and whether there is more than one answer takes.
    fn records(&self, table: &Table, mode: Mode, wall_ms: i64) -> (Vec<Stored>, bool) {
        let own = self.clock.at(wall_ms);
        let held: Vec<Stored> = table.ring.held(own).collect();
        let inclusive = self.config.since_record_inclusive;
        let mut chosen: Vec<Stored> = match mode {
            Mode::MostRecent(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.config.records_max);
                held[held.len().saturating_sub(count)..].to_vec()
            }
            Mode::SinceRecord(no) if held.iter().any(|stored| stored.no == no) => {
                held.into_iter().filter(|stored| stored.no > no || (inclusive && stored.no == no)).collect()
            }
            Mode::SinceRecord(_) => held,
            Mode::SinceTime(from) => held.into_iter().filter(|stored| stored.own_ms >= from).collect(),
            Mode::DateRange(from, to) => {
                held.into_iter().filter(|stored| (from..to).contains(&stored.own_ms)).collect()
            }
            Mode::Backfill(seconds) => {
                let from = own.saturating_sub(seconds.saturating_mul(1_000));
                held.into_iter().filter(|stored| stored.own_ms >= from).collect()
            }
        };
        let more = chosen.len() > self.config.records_max;
        chosen.truncate(self.config.records_max);
        (chosen, more)
    }

    fn csijson(&self, table: &Table, records: &[Stored], more: bool) -> String {
        let mut text = String::from("{\"head\": {\"transaction\": 0,");
        let (name, program) = (&table.config.name, self.program);
        let _ = write!(text, "\"signature\": {},", signature(table));
        let _ = write!(
            text,
            "\"environment\": {{\"station_name\": \"Sim\",\"table_name\": {},\"model\": \"CR1000X\",\
             \"serial_no\": \"{}\",\"os_version\": \"CR1000X.Std.08.05\",\"prog_name\": \"CPU:sim{program}.CR1X\"}},",
            quoted(name),
            1_000 + self.config.seed
        );
        let each = table.fields.iter().map(|field| {
            format!(
                "{{\"name\": {},\"type\": \"xsd:float\",\"units\": {},\"process\": \"{}\",\"settable\": false}}",
                quoted(&field.name),
                quoted(&field.unit),
                field.process
            )
        });
        let _ = write!(text, "\"fields\": [{}]}},\n\"data\": [", each.collect::<Vec<_>>().join(","));
        for (place, stored) in records.iter().enumerate() {
            let utc_ms = stored.own_ms - self.config.zone_ms;
            let cells: Vec<String> =
                table.fields.iter().map(|field| field.cell(utc_ms).to_string()).collect();
            let (comma, time) = (if place > 0 { "," } else { "" }, local_text(stored.own_ms));
            let _ = writeln!(
                text,
                "{comma}{{\"no\": {},\"time\": \"{time}\",\"vals\": [{}]}}",
                stored.no,
                cells.join(",")
            );
        }
        let _ = write!(text, "],\"more\": {more}}}");
        text
    }
}

fn table_of(config: &TableConfig, program: u32, seed: u64, own_ms: i64) -> Table {
    Table {
        ring: Ring::new(config.interval_ms, config.capacity, own_ms),
        fields: fields::of_program(&config.name, config.fields, program, seed),
        config: config.clone(),
    }
}

/// A number of 16 bits that follows from the table's definition, as a logger's signature does.
fn signature(table: &Table) -> u64 {
    let names = table.fields.iter().map(|field| name_seed(&field.name));
    mix(&names.chain([name_seed(&table.config.name)]).collect::<Vec<_>>()) & 0xFFFF
}

fn symbols(all: impl Iterator<Item = (String, String, u8)>) -> String {
    let each = all.map(|(name, within, kind)| {
        let (uri, expands) = (quoted(&format!("dl:{within}{name}")), kind == 6);
        let name = quoted(&name);
        format!(
            "{{\"name\": {name},\"uri\": {uri},\"type\": {kind},\"is_enabled\": true,\"is_read_only\": true,\
             \"can_expand\": {expands}}}"
        )
    });
    format!("{{\"symbols\": [{}]}}", each.collect::<Vec<_>>().join(","))
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

/// Local time without zone, with a fraction only where there is one.
fn local_text(own_ms: i64) -> String {
    Timestamp(own_ms).to_string().trim_end_matches('Z').to_owned()
}

fn words(faults: &[FaultKind]) -> Vec<String> {
    faults.iter().map(FaultKind::to_string).collect()
}

/// What comes in the place of an answer, with status 200 as well.
const fn instead(kind: FaultKind) -> Option<&'static str> {
    match kind {
        FaultKind::ErrorBody => Some("Error: the command could not be carried out"),
        FaultKind::Html => Some("<!DOCTYPE html><html><body>Please log in</body></html>"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_767_225_600_000;

    fn logger() -> Logger {
        let table = TableConfig { name: "Met".to_owned(), interval_ms: 1_000, capacity: 100, fields: 3 };
        let tables = vec![table];
        Logger::new(
            LoggerConfig { tables, zone_ms: 3_600_000, records_max: 10, ..LoggerConfig::default() },
            T,
        )
    }

    fn ask(logger: &mut Logger, rest: &str, wall_ms: i64) -> serde_json::Value {
        let target = format!("/?command=DataQuery&uri=dl:Met&format=json&{rest}");
        let reply = logger.answer(&target, None, wall_ms);
        assert_eq!((reply.status, reply.is_json), (200, true), "{}", reply.body);
        serde_json::from_str(&reply.body).unwrap()
    }

    fn numbers(answer: &serde_json::Value) -> (Vec<u64>, bool) {
        let rows = answer["data"].as_array().unwrap();
        (rows.iter().map(|row| row["no"].as_u64().unwrap()).collect(), answer["more"].as_bool().unwrap())
    }

    #[test]
    fn every_mode_gives_its_records() {
        let mut logger = logger();
        let now = T + 20_500;
        let rows: [(&str, Vec<u64>, bool); 7] = [
            ("mode=most-recent&p1=2", vec![18, 19], false),
            ("mode=since-record&p1=17", vec![17, 18, 19], false),
            ("mode=since-record&p1=5000", (0..10).collect(), true),
            ("mode=since-time&p1=2026-01-01T01:00:19", vec![18, 19], false),
            ("mode=date-range&p1=2026-01-01T01:00:03&p2=2026-01-01T01:00:05", vec![2, 3], false),
            ("mode=date-range&p1=2026-01-01&p2=2026-01-01T00:59:59", vec![], false),
            ("mode=backfill&p1=3", vec![17, 18, 19], false),
        ];
        for (rest, expected, more) in rows {
            assert_eq!(numbers(&ask(&mut logger, rest, now)), (expected, more), "{rest}");
        }
        logger.config.since_record_inclusive = false;
        assert_eq!(numbers(&ask(&mut logger, "mode=since-record&p1=17", now)).0, [18, 19]);
    }

    #[test]
    fn a_record_says_its_local_time_and_the_truth_of_its_instant() {
        let mut logger = logger();
        let answer = ask(&mut logger, "mode=most-recent&p1=1", T + 5_000);
        assert_eq!(answer["data"][0]["time"], "2026-01-01T01:00:05");
        let told = &answer["data"][0]["vals"][2];
        let truth = logger.truth("Met", "WS_ms_Avg", T + 5_000).unwrap();
        assert_eq!(told.to_string(), truth.to_string());
        assert_eq!(answer["head"]["fields"][2]["name"], "WS_ms_Avg");
    }

    #[test]
    fn another_program_begins_anew() {
        let mut logger = logger();
        let before = ask(&mut logger, "mode=most-recent&p1=1", T + 5_000);
        logger.change_program(T + 5_000);
        logger.pass(3_600_000, T + 5_000);
        let after = ask(&mut logger, "mode=most-recent&p1=1", T + 5_000);
        assert_ne!(before["head"]["signature"], after["head"]["signature"]);
        assert_eq!(after["data"][0]["no"], 3_599);
        assert_eq!(after["head"]["fields"][2]["name"], "Added_1_Avg");
        assert_eq!(logger.held("Met", T + 5_000).len(), 100);
    }

    #[test]
    fn nothing_is_recorded_without_power() {
        let mut logger = logger();
        logger.was_off(T + 3_500, T + 8_500);
        let held: Vec<(u64, i64)> =
            logger.held("Met", T + 10_000).into_iter().map(|(no, at)| (no, at - T)).collect();
        assert_eq!(held, [(0, 1_000), (1, 2_000), (2, 3_000), (3, 9_000), (4, 10_000)]);
    }

    #[test]
    fn a_failure_has_status_200_and_a_wrong_login_401() {
        let mut logger = logger();
        let reply = logger.answer("/?command=DataQuery&uri=dl:None&format=json&mode=backfill&p1=1", None, T);
        assert_eq!((reply.status, reply.is_json), (200, false));
        logger.config.login = Some(("user".to_owned(), "pass".to_owned()));
        let target = "/?command=BrowseSymbols&uri=dl:&format=json";
        assert_eq!(logger.answer(target, None, T).status, 401);
        assert_eq!(logger.answer(target, Some("Basic dXNlcjpwYXNz"), T).status, 200);
        assert_eq!(logger.answers().len(), 3);
    }
}
