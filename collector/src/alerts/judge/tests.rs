//! Rows of facts, and what people are told of them.

use super::*;
use std::collections::BTreeSet;

const NOW: Timestamp = Timestamp(1_767_225_600_000);
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;

fn ago(ms: i64) -> Timestamp {
    NOW.plus_ms(-ms)
}

/// A device in good health: every minute a reading, three are allowed.
fn well() -> DeviceFacts {
    DeviceFacts {
        is_collected: true,
        agent_is_there: true,
        listening_since: ago(DAY_MS),
        away: Vec::new(),
        commissioned_at: ago(30 * DAY_MS),
        last_reading_at: Some(ago(1_000)),
        allowed_ms: 3 * MINUTE_MS,
        missed: None,
        failing: None,
        gap_slots: 0,
        unauthorised: None,
        unreachable: None,
        suspended: None,
        channels: Vec::new(),
    }
}

fn of(facts: &DeviceFacts, limits: &Limits, kind: Kind) -> Stand {
    let stands = device(facts, limits, NOW);
    stands.into_iter().find(|(of, _)| *of == kind).map(|(_, stand)| stand).unwrap()
}

/// `!` beyond, `~` between, `.` within.
fn sign(stand: &Stand) -> char {
    match stand {
        Stand::Beyond(_) => '!',
        Stand::Between | Stand::Still(_) => '~',
        Stand::Within => '.',
    }
}

fn signs(facts: &DeviceFacts, limits: &Limits, kinds: &[Kind]) -> String {
    kinds.iter().map(|kind| sign(&of(facts, limits, *kind))).collect()
}

#[test]
fn data_is_told_of_five_minutes_after_it_is_stale_and_by_its_reason() {
    let old = |ms| DeviceFacts { last_reading_at: Some(ago(ms)), ..well() };
    let away = |ms, from, to| DeviceFacts { away: vec![(ago(from), ago(to))], ..old(ms) };
    let rows = [
        ("fresh", well(), ".."),
        ("stale", old(3 * MINUTE_MS), "~~"),
        ("a moment before", old(8 * MINUTE_MS - 1), "~~"),
        ("five minutes", old(8 * MINUTE_MS), "!~"),
        ("no answer", DeviceFacts { missed: Some(Cause::NoAnswer), ..old(8 * MINUTE_MS) }, "~!"),
        ("its agent is gone", DeviceFacts { agent_is_there: false, ..old(DAY_MS) }, "~~"),
        ("just begun to listen", DeviceFacts { listening_since: ago(MINUTE_MS), ..old(DAY_MS) }, "~~"),
        ("its agent was away all the time", away(8 * MINUTE_MS, 5 * MINUTE_MS, 0), "~~"),
        ("its agent is just back", away(20 * MINUTE_MS, 17 * MINUTE_MS, 6 * MINUTE_MS - 1), "~~"),
        ("its agent has been back", away(20 * MINUTE_MS, 17 * MINUTE_MS, 6 * MINUTE_MS), "!~"),
        ("never anything", DeviceFacts { last_reading_at: None, ..well() }, ".."),
        ("not collected", DeviceFacts { is_collected: false, ..old(DAY_MS) }, ".."),
    ];
    for (what, facts, expected) in rows {
        assert_eq!(signs(&facts, &Limits::default(), &[Kind::Stale, Kind::Silent]), expected, "{what}");
    }
    let facts = DeviceFacts { missed: Some(Cause::NoAnswer), ..old(9 * MINUTE_MS) };
    let words = Stand::Beyond(format!("it has not answered for 9m: {}", Cause::NoAnswer));
    assert_eq!(of(&facts, &Limits::default(), Kind::Silent), words);
    // What stands between the collector and its source says more than that there was no row.
    let failing = DeviceFacts { failing: Some("no such host".to_owned()), ..facts };
    let words = format!("it has not answered for 9m: {}; the last try failed: no such host", Cause::NoAnswer);
    let words = Stand::Beyond(words);
    assert_eq!(of(&failing, &Limits::default(), Kind::Silent), words);
    let words = Stand::Beyond(
        "its latest reading is 9m old; 3m is allowed; the last try failed: no such host".to_owned(),
    );
    assert_eq!(of(&DeviceFacts { missed: None, ..failing }, &Limits::default(), Kind::Stale), words);
}

#[test]
fn gaps_are_told_by_their_size_and_are_over_at_half_of_it() {
    for (slots, expected) in [(0, '.'), (5, '.'), (6, '~'), (10, '~'), (11, '!'), (i64::MAX, '!')] {
        let facts = DeviceFacts { gap_slots: slots, ..well() };
        assert_eq!(sign(&of(&facts, &Limits::default(), Kind::Gap)), expected, "{slots}");
    }
}

#[test]
fn nothing_since_commissioning_is_told_after_two_days_and_ends_after_seven() {
    let rows =
        [(0, None, ".", false), (2, None, "!", false), (7, None, "!", true), (30, Some(ago(9)), ".", false)];
    for (days, last_reading_at, expected, ends) in rows {
        let facts = DeviceFacts { commissioned_at: ago(days * DAY_MS), last_reading_at, ..well() };
        assert_eq!(signs(&facts, &Limits::default(), &[Kind::NoData]), expected, "{days}");
        assert_eq!(is_to_suspend(&facts, &Limits::default(), NOW), ends, "{days}");
        let off = Limits { off: [Kind::Suspended].into(), ..Limits::default() };
        assert!(!is_to_suspend(&facts, &off, NOW), "{days}");
    }
    // Six of the days its agent was away.
    let away = vec![(ago(8 * DAY_MS), ago(2 * DAY_MS))];
    let facts = DeviceFacts { commissioned_at: ago(9 * DAY_MS), last_reading_at: None, away, ..well() };
    assert!(!is_to_suspend(&facts, &Limits::default(), NOW));
    let facts = DeviceFacts { is_collected: false, suspended: Some("nothing came".to_owned()), ..well() };
    assert_eq!(signs(&facts, &Limits::default(), &[Kind::NoData, Kind::Suspended]), "~!");
}

#[test]
fn withdrawn_consent_is_told_though_nothing_is_collected() {
    let unauthorised = Some(("2026-01-01".to_owned(), "moved out".to_owned()));
    let facts = DeviceFacts { is_collected: false, unauthorised, ..well() };
    let words = "its source does not let it be read since 2026-01-01: moved out";
    assert_eq!(of(&facts, &Limits::default(), Kind::Unauthorised), Stand::Beyond(words.to_owned()));
}

#[test]
fn a_device_that_its_source_cannot_reach_is_told_as_that_and_not_as_silent_too() {
    let unreachable = Some(("2026-01-01".to_owned(), "no radio".to_owned()));
    let facts = DeviceFacts {
        unreachable,
        missed: Some(Cause::NotConnected),
        last_reading_at: Some(ago(DAY_MS)),
        ..well()
    };
    let kinds = [Kind::Unreachable, Kind::Silent, Kind::Stale];
    assert_eq!(signs(&facts, &Limits::default(), &kinds), "!~~");
    let words = "its source has not reached it since 2026-01-01: no radio";
    assert_eq!(of(&facts, &Limits::default(), Kind::Unreachable), Stand::Beyond(words.to_owned()));
    let off = Limits { off: BTreeSet::from([Kind::Unreachable]), ..Limits::default() };
    assert_eq!(signs(&facts, &off, &kinds), ".!~");
    let back = DeviceFacts { unreachable: None, ..well() };
    assert_eq!(signs(&back, &Limits::default(), &kinds), "...");
}

fn channel(name: &str, newest: &[(Option<f64>, Quality)]) -> ChannelFacts {
    ChannelFacts { channel: name.to_owned(), valid: Some((0.0, 100.0)), newest: newest.to_vec() }
}

#[test]
fn values_out_of_range_are_told_after_three_polls() {
    let (good, high) = ((Some(5.0), Quality::Good), (Some(500.0), Quality::Good));
    let bad = (None, Quality::BadOutOfRange);
    let rows: [(&[_], char); 7] = [
        (&[], '.'),
        (&[good, good, good], '.'),
        (&[high, good, good], '~'),
        (&[high, bad, high], '!'),
        (&[good, bad, high], '~'),
        (&[high, high], '~'),
        (&[(None, Quality::BadNoAnswer); 3], '.'),
    ];
    for (newest, expected) in rows {
        let facts = DeviceFacts { channels: vec![channel("u", newest), channel("v", &[good; 3])], ..well() };
        assert_eq!(sign(&of(&facts, &Limits::default(), Kind::Implausible)), expected, "{newest:?}");
        let never = Limits { implausible_polls: 0, ..Limits::default() };
        assert_eq!(sign(&of(&facts, &never, Kind::Implausible)), '.', "{newest:?}");
    }
    let unbounded = ChannelFacts { valid: None, ..channel("u", &[high; 3]) };
    let facts = DeviceFacts { channels: vec![unbounded], ..well() };
    assert_eq!(sign(&of(&facts, &Limits::default(), Kind::Implausible)), '.');
}

#[test]
fn what_moves_by_nature_is_told_where_it_does_not() {
    let flat = Limits { flat_polls: 3, moves: BTreeSet::from(["wind".to_owned()]), ..Limits::default() };
    let value = |x| (Some(x), Quality::Good);
    let rows: [(&str, &[_], char); 6] = [
        ("wind", &[value(1.0); 3], '!'),
        ("wind", &[value(1.0); 2], '~'),
        ("wind", &[value(1.0), value(1.0), value(1.1)], '.'),
        ("wind", &[(None, Quality::BadNoAnswer); 3], '~'),
        ("wind", &[], '~'),
        ("serial", &[value(1.0); 3], '.'),
    ];
    for (name, newest, expected) in rows {
        let facts = DeviceFacts { channels: vec![channel(name, newest)], ..well() };
        assert_eq!(sign(&of(&facts, &flat, Kind::Flat)), expected, "{name} {newest:?}");
        assert_eq!(sign(&of(&facts, &Limits::default(), Kind::Flat)), '.', "off unless something moves");
    }
}

#[test]
fn a_broker_that_is_away_is_told_of_after_its_time() {
    let limits = Limits::default();
    let signs = |since: Option<i64>, limits: &Limits| -> String {
        collector(since.map(ago), limits, NOW).iter().map(|(_, stand)| sign(stand)).collect()
    };
    for (since, expected) in [(None, "."), (Some(5 * MINUTE_MS - 1), "~"), (Some(5 * MINUTE_MS), "!")] {
        assert_eq!(signs(since, &limits), expected, "{since:?}");
    }
    let off = Limits { off: [Kind::Broker].into(), ..limits };
    assert_eq!(signs(Some(DAY_MS), &off), ".");
}

#[test]
fn agents_are_told_of_where_they_are_gone_full_or_off() {
    let here = AgentFacts {
        owes: true,
        gone_since: None,
        unheard: Vec::new(),
        outbox: None,
        clock_off_ms: None,
        clock_set: Some(true),
    };
    let unheard = |from, to| AgentFacts {
        gone_since: Some(ago(10 * MINUTE_MS)),
        unheard: vec![(ago(from), ago(to))],
        ..here.clone()
    };
    let fill = |owed_bytes, most_bytes| AgentFacts {
        outbox: Some(OutboxFill { owed_bytes, most_bytes }),
        ..here.clone()
    };
    let full = |used| fill(used, 1_000);
    let off = |ms| AgentFacts { clock_off_ms: Some(ms), ..here.clone() };
    let rows = [
        ("here", here.clone(), "..."),
        ("gone", AgentFacts { gone_since: Some(ago(5 * MINUTE_MS)), ..here.clone() }, "!.."),
        ("just gone", AgentFacts { gone_since: Some(ago(MINUTE_MS)), ..here.clone() }, "~.."),
        ("nobody is heard", unheard(9 * MINUTE_MS, 0), "~.."),
        ("somebody is heard again, but not it", unheard(10 * MINUTE_MS, 6 * MINUTE_MS), "!.."),
        ("replaced", AgentFacts { owes: false, gone_since: Some(ago(DAY_MS)), ..here.clone() }, "..."),
        ("full", full(800), ".!."),
        ("nearly", full(799), ".~."),
        ("room again", full(700), "..."),
        ("nothing said of its size", fill(1, 0), ".!."),
        ("more than there can be", fill(u64::MAX, u64::MAX), ".!."),
        ("ahead", off(60_000), "..!"),
        ("behind", off(-60_000), "..!"),
        ("a little", off(-30_000), "..~"),
        ("well", off(29_999), "..."),
        ("not set", AgentFacts { clock_set: Some(false), ..here }, "..!"),
    ];
    for (what, facts, expected) in rows {
        let got: String =
            agent(&facts, &Limits::default(), NOW).iter().map(|(_, stand)| sign(stand)).collect();
        assert_eq!(got, expected, "{what}");
        let off = Limits { off: Kind::ALL.into(), ..Limits::default() };
        assert!(agent(&facts, &off, NOW).iter().all(|(_, stand)| *stand == Stand::Within), "{what}");
    }
}
