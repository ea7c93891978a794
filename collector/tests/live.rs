//! Leases in made-up time, through the committer: who is told what and when, and that an agent that starts anew is told
//! again.

#![expect(clippy::unwrap_used, reason = "a test panics where something is not as it should be")]

use gapless_collector::ingest::committer::Committer;
use gapless_collector::ingest::{Inbound, Outbound, Refused, Viewing};
use gapless_collector::store::ReadStore as _;
use gapless_collector::store::model::LeaseState;
use gapless_common::id::{AgentId, BootId, CatalogHash, ConnectionId, Epoch, Seq, SiteId};
use gapless_common::message::{AgentState, Command, CommandBody, HeldEpoch, Outcome, Reply};
use gapless_common::time::Timestamp;
use gapless_common::topic::{AgentPath, Up};
use gapless_common::wire::{self, Message};
use rusqlite::Connection;

/// 2026-01-01T00:00:00Z.
const T0: Timestamp = Timestamp(1_767_225_600_000);
const DAY_MS: i64 = 86_400_000;

fn site() -> SiteId {
    SiteId::new("farm").unwrap()
}

struct World {
    committer: Committer,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let connection = Connection::open_in_memory().unwrap();
        Self { committer: Committer::from_connection(connection, 7).unwrap(), now: T0 }
    }

    fn take(&mut self, agent: &str, kind: Up, message: &Message) -> Vec<(String, Command)> {
        let path = AgentPath { site: site(), agent: AgentId::new(agent).unwrap() };
        let payload = wire::encode(message).unwrap();
        let message = Inbound { topic: path.up(kind), payload, at: self.now, token: 1 };
        commands(&self.committer.attempt(&[message], self.now).unwrap().0)
    }

    /// An agent is born on a connection, and gathers readings for so long.
    fn be_born(&mut self, agent: &str, connection: u32, flush_ms: u32) -> Vec<(String, Command)> {
        let epoch = Epoch(u64::from(connection));
        let state = AgentState::Birth {
            path: AgentPath { site: site(), agent: AgentId::new(agent).unwrap() },
            connection: ConnectionId(connection),
            agent_version: "1".into(),
            boot: BootId(5),
            epoch,
            catalog: CatalogHash(1),
            held: vec![HeldEpoch { epoch, first: Seq(1), next: Seq(2) }],
            durable: true,
            clock_set: true,
            flush_ms,
        };
        self.take(agent, Up::State, &Message::State(state))
    }

    fn watch(&mut self, minutes: Option<u32>) -> Vec<(String, Command)> {
        commands(&self.committer.watch(&Viewing { site: site(), minutes }, self.now).unwrap().1)
    }

    fn answer(&mut self, agent: &str, command: &Command, outcome: Outcome) {
        self.take(agent, Up::Reply, &Message::Reply(Reply { id: command.id, outcome }));
    }

    fn after(&mut self, seconds: i64) -> &mut Self {
        self.now = T0.plus_ms(seconds * 1_000);
        self
    }

    fn states(&self) -> Vec<LeaseState> {
        let lease = self.committer.store().lease(&site(), self.now).unwrap().unwrap();
        lease.agents.iter().map(|agent| agent.state).collect()
    }
}

/// Whom they are for, and what they say.
fn commands(answers: &[Outbound]) -> Vec<(String, Command)> {
    let command = |answer: &Outbound| match answer {
        Outbound::Publish { payload, topic } => match wire::decode(payload) {
            Ok(Message::Command(command)) => Some((topic.split('/').nth(3)?.to_owned(), command)),
            _ => None,
        },
        Outbound::Release(_) => None,
    };
    answers.iter().filter_map(command).collect()
}

/// Whom they are for, and until when in seconds after T0.
fn live(commands: &[(String, Command)]) -> Vec<(&str, i64)> {
    let until = |body: &CommandBody| match body {
        CommandBody::Live { until } => until.since_ms(T0) / 1_000,
        other => unreachable!("{other:?}"),
    };
    commands.iter().map(|(agent, command)| (agent.as_str(), until(&command.body))).collect()
}

#[test]
fn agents_are_told_when_a_lease_begins_when_it_would_run_out_and_when_it_ends() {
    let mut world = World::new();
    let nobody = world.committer.watch(&Viewing { site: site(), minutes: Some(5) }, T0);
    assert_eq!(nobody.map(drop), Err(Refused::NoSite(site())));
    for (agent, flush_ms) in [("a", 900_000), ("b", 60_000), ("quick", 0)] {
        world.be_born(agent, 1, flush_ms);
    }
    let told = world.watch(Some(5));
    assert_eq!(live(&told), [("a", 300), ("b", 300)]);
    assert_eq!(world.states(), [LeaseState::Told, LeaseState::Told, LeaseState::AlwaysLive]);
    for seconds in [0, 1, 100, 149] {
        assert_eq!(world.after(seconds).watch(Some(5)), [], "enough of it is left");
    }
    world.answer("a", &told[0].1, Outcome::Done);
    world.answer("b", &told[1].1, Outcome::Failed("the gateway's clock is not set".into()));
    assert_eq!(world.states(), [LeaseState::Live, LeaseState::Failed, LeaseState::AlwaysLive]);
    let renewed = world.after(150).watch(Some(5));
    assert_eq!(live(&renewed), [("a", 450), ("b", 450)]);
    // It has run out: nobody watches, and nobody needs to be told.
    assert_eq!(world.after(450).states()[0], LeaseState::Gathering);
    assert_eq!(world.watch(None), []);
    // Ended before its time.
    world.after(500).watch(Some(60));
    let ended = world.after(510).watch(None);
    let past = -T0.0 / 1_000;
    assert_eq!(live(&ended), [("a", past), ("b", past)], "an instant that is past by every clock");
    assert_eq!(world.states()[0], LeaseState::Gathering);
    assert_eq!(world.watch(None), [], "once");
}

/// Agents take an hour of a lease that was granted while the collector's clock was two ahead. Once that is right it says nothing of
/// who watches, now or when its time comes.
#[test]
fn a_lease_that_was_granted_while_the_clock_was_ahead_ends_once_it_is_right() {
    let ahead = || {
        let mut world = World::new();
        world.be_born("a", 1, 900_000);
        world.be_born("b", 1, 900_000);
        let told = world.after(7_200).watch(Some(5));
        assert_eq!(live(&told), [("a", 7_500), ("b", 7_500)]);
        // The other one's answer is lost.
        world.answer("a", &told[0].1, Outcome::Done);
        world.after(0);
        world
    };
    let past = -T0.0 / 1_000;
    // Whoever left is gone, and whoever stays is granted another one.
    assert_eq!(live(&ahead().watch(None)), [("a", past), ("b", past)]);
    assert_eq!(live(&ahead().watch(Some(5))), [("a", 300), ("b", 300)]);
    // Nobody has said anything.
    let mut world = ahead();
    let told = commands(&world.committer.look_after_gaps(world.now).unwrap());
    assert_eq!(live(&told), [("a", past), ("b", past)]);
    assert_eq!(world.states(), [LeaseState::Gathering; 2]);
    assert_eq!(world.committer.store().leases(world.now).unwrap(), []);
    assert_eq!(live(&world.after(4_000).watch(Some(5))), [("a", 4_300), ("b", 4_300)]);
}

#[test]
fn an_agent_that_was_away_is_told_the_latest_and_one_that_starts_anew_is_told_again() {
    let mut world = World::new();
    world.be_born("a", 1, 900_000);
    let gone = AgentState::Gone { connection: ConnectionId(1), clean: false };
    world.take("a", Up::State, &Message::State(gone));
    world.watch(Some(5));
    world.after(200).watch(Some(5));
    world.after(400).watch(Some(5));
    assert_eq!(world.states(), [LeaseState::Away]);
    let told = world.after(410).be_born("a", 2, 900_000);
    assert_eq!(live(&told), [("a", 700)], "one of the three");
    world.answer("a", &told[0].1, Outcome::Done);
    assert_eq!(world.be_born("a", 2, 900_000), [], "born again on the same connection it knows");
    let again = world.after(420).be_born("a", 3, 900_000);
    assert_eq!(live(&again), [("a", 700)], "on another one it may be another process");
    assert_ne!(again[0].1.id, told[0].1.id, "under a number that it has not answered yet");
    // One that comes new to a site that is watched.
    assert_eq!(live(&world.be_born("b", 9, 900_000)), [("b", 700)]);
    assert_eq!(world.after(701).be_born("a", 4, 900_000), [], "nobody watches any more");
}

#[test]
fn an_agent_that_does_not_answer_is_told_again() {
    let mut world = World::new();
    world.be_born("economy", 1, 60_000);
    let told = world.watch(Some(30));
    assert_eq!(told.len(), 1);
    let mut reminded = |seconds, answer: bool| {
        world.after(seconds);
        if answer {
            world.answer("economy", &told[0].1, Outcome::Done);
        }
        commands(&world.committer.look_after_gaps(world.now).unwrap())
    };
    // It was lost on its way, and other viewers share the lease.
    assert_eq!((reminded(0, false), reminded(59, false)), (vec![], vec![]));
    assert_eq!((reminded(60, false), reminded(100, false)), (told.clone(), vec![]));
    assert_eq!(reminded(-1_800, false), told, "the clock was set back");
    assert_eq!((reminded(120, false), reminded(180, true)), (told.clone(), vec![]));
}

#[test]
fn bytes_are_counted_by_day_and_kept_for_a_year() {
    let mut world = World::new();
    world.be_born("a", 1, 0);
    world.be_born("b", 1, 0);
    world.now = T0.plus_ms(DAY_MS);
    world.be_born("a", 2, 0);
    let days = world.committer.store().traffic(Some(&site()), T0, T0.plus_ms(400 * DAY_MS)).unwrap();
    let days: Vec<_> =
        days.iter().map(|row| (row.day.since_ms(T0) / DAY_MS, row.received_bytes, row.sent_bytes)).collect();
    assert_eq!(days.iter().map(|day| day.0).collect::<Vec<_>>(), [0, 1]);
    assert!(days[0].1 > days[1].1 && days[1].1 > 47, "two births and one: {days:?}");
    assert!(days[0].2 > 47 && days[1].2 > 47, "answers are counted with what comes next: {days:?}");
    world.now = T0.plus_ms(402 * DAY_MS);
    world.be_born("a", 3, 0);
    let kept = world.committer.store().traffic(None, T0, world.now).unwrap();
    assert_eq!(
        kept[0].received_bytes,
        days[0].1 / 2,
        "of the two that were born that day, one spoke since: {kept:?}"
    );
    assert_eq!(kept.last().map(|day| day.day.since_ms(T0) / DAY_MS), Some(402));
}
