//! Scenarios of the uplink core in virtual time, as rows of text. `model` has what holds under any order of events.

use std::collections::BTreeMap;

use gapless_common::id::{CatalogHash, Commit, DeviceId, Epoch, Incarnation, Seq};
use gapless_common::message::{
    ACK_RANGES_MAX, Ack, Command, CommandBody, EpochAck, HeldEpoch, Outcome, Presence,
};
use gapless_common::time::Timestamp;

use super::*;

/// Records that fit into one frame of the scenarios.
pub(super) const FRAME: u64 = 10;

/// What a frame and any other message of the scenarios cost.
pub(super) const FRAME_BYTES: u64 = 1_000;
const OTHER_BYTES: u64 = 100;

pub(super) fn settings() -> Settings {
    Settings { window: 8, seed: 1, ..Settings::default() }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("`{text}` is not a number"))
}

fn pair<'a>(text: &'a str, between: &str) -> (&'a str, &'a str) {
    text.split_once(between).unwrap_or_else(|| panic!("`{between}` is not in `{text}`"))
}

/// `1-20` of epoch 1, or `2:1-20`.
fn range(text: &str) -> (Epoch, u64, u64) {
    let (epoch, range) = text.split_once(':').unwrap_or(("1", text));
    let (first, last) = pair(range, "-");
    (Epoch(number(epoch)), number(first), number(last))
}

/// One event of a scenario: its name and arguments as in the rows below.
fn event(words: &[&str]) -> Event {
    match *words {
        ["held", ref epochs @ ..] => Event::Held(
            epochs
                .iter()
                .map(|text| {
                    let (epoch, first, last) = range(text);
                    HeldEpoch { epoch, first: Seq(first), next: Seq(last + 1) }
                })
                .collect(),
        ),
        ["recall", text] => {
            let (epoch, first, last) = range(text);
            Event::Acknowledged(epoch, Seq(first), Seq(last))
        }
        ["append", text] => {
            let (epoch, first, last) = range(text);
            Event::Appended { epoch, next: Seq(last + 1), weight: last - first + 1 }
        }
        ["flushed"] => Event::Flushed,
        ["connected"] => Event::Connected,
        ["lost"] => Event::Disconnected,
        ["presence", name, state, ref how @ ..] => Event::Presence {
            collector: name.into(),
            presence: (state != "cleared").then(|| Presence {
                incarnation: Incarnation(how.get(1).map_or(1, |i| number(i))),
                online: state == "on",
            }),
            retained: how.first() == Some(&"retained"),
        },
        // `ack INCARNATION.COMMIT EPOCH:WATERMARK [EPOCH:FIRST-LAST ...]`, above the watermark or parked.
        ["ack", database, ref epochs @ ..] => Event::Ack(ack(database, epochs)),
        ["command", id, ref body @ ..] => Event::Command(
            Command { id: number(id), expires: Timestamp(1_000_000), body: command(body) },
            Some(Timestamp(if body.last() == Some(&"late") { 2_000_000 } else { 0 })),
        ),
        ["ended", id] => Event::CommandEnded(number(id), Outcome::Done),
        ["wall", ms] => Event::WallClock(Timestamp(i64::try_from(number(ms)).unwrap())),
        ["changed"] => Event::StateChanged,
        ["stop"] => Event::Stop,
        ["wait"] => Event::Acknowledged(Epoch(0), Seq(1), Seq(0)),
        _ => panic!("no event {words:?}"),
    }
}

fn ack(database: &str, epochs: &[&str]) -> Ack {
    let (incarnation, commit) = pair(database, ".");
    let mut said: BTreeMap<Epoch, EpochAck> = BTreeMap::new();
    for text in epochs {
        let (epoch, rest) = pair(text, ":");
        let epoch = Epoch(number(epoch));
        let entry = said.entry(epoch).or_insert(EpochAck {
            epoch,
            watermark: Seq(0),
            above: Vec::new(),
            parked: Vec::new(),
        });
        match rest.split_once('-') {
            Some((first, last)) => entry.above.push((Seq(number(first)), Seq(number(last)))),
            None => entry.watermark = Seq(number(rest)),
        }
    }
    Ack {
        incarnation: Incarnation(number(incarnation)),
        commit: Commit(number(commit)),
        epochs: said.into_values().collect(),
    }
}

fn command(body: &[&str]) -> CommandBody {
    match *body {
        ["live", until, ..] => CommandBody::Live { until: Timestamp(i64::try_from(number(until)).unwrap()) },
        ["resend", text, ..] => {
            let (epoch, first, last) = range(text);
            CommandBody::Resend { epoch, first: Seq(first), last: Seq(last) }
        }
        ["catalog", hash, ..] => CommandBody::SendCatalog(CatalogHash(number(hash))),
        ["poll", device, ..] => CommandBody::PollNow(DeviceId::new(device).unwrap()),
        ["history", device, ..] => CommandBody::ReadHistory {
            device: DeviceId::new(device).unwrap(),
            from: Timestamp(10),
            to: Timestamp(20),
        },
        ["pause", device, ..] => CommandBody::Pause { device: DeviceId::new(device).unwrap(), paused: true },
        _ => CommandBody::Unknown,
    }
}

fn text(action: &Action) -> String {
    match action {
        Action::Connect => "connect".into(),
        Action::Disconnect(_) => "disconnect".into(),
        Action::Birth => "birth".into(),
        Action::Send(offer) => format!("send {}:{}-{}", offer.epoch.0, offer.first, offer.last),
        Action::Acknowledge(epoch, first, last) => format!("trim {}:{first}-{last}", epoch.0),
        Action::Unacknowledge(epoch) => format!("forget {}", epoch.0),
        Action::Flush => "flush".into(),
        Action::Reply(reply) => match &reply.outcome {
            Outcome::Failed(_) => format!("reply {} failed", reply.id),
            outcome => format!("reply {} {outcome:?}", reply.id).to_lowercase(),
        },
        Action::SendCatalog(id, hash) => format!("catalog {id} {}", hash.0),
        Action::PollNow(id, device) => format!("poll {id} {device}"),
        Action::ReadHistory(id, device, (from, to)) => format!("history {id} {device} {}-{}", from.0, to.0),
        Action::Pause(id, device, paused) => format!("pause {id} {device} {paused}"),
        Action::Goodbye => "goodbye".into(),
    }
}

/// Takes all actions; frames hold [`FRAME`] records.
fn drain(core: &mut Core, now_ms: u64) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Some(action) = core.poll(now_ms) {
        assert!(actions.len() < 1_000, "the core never comes to rest: {actions:?}");
        if let Action::Send(mut offer) = action {
            offer.last = offer.last.min(Seq(offer.first.0 + FRAME - 1));
            core.handle(Event::Sent(offer.last), now_ms);
            core.handle(Event::Published(FRAME_BYTES), now_ms);
            actions.push(Action::Send(offer));
        } else {
            if matches!(action, Action::Birth | Action::Reply(_)) {
                core.handle(Event::Published(OTHER_BYTES), now_ms);
            }
            actions.push(action);
        }
    }
    let deadline = core.next_deadline();
    assert!(deadline.is_none_or(|at| at > now_ms), "due at {deadline:?}, and nothing to do at {now_ms}");
    actions
}

/// Each row: `TIME EVENT -> ACTIONS`. Between rows time passes without a poll, unless a deadline says otherwise:
/// a row `TIME wait` shows what a deadline at TIME brings.
fn check(name: &str, settings: Settings, rows: &[&str]) {
    let mut core = Core::new(settings);
    for row in rows {
        let (event_text, expected) = pair(row, "->");
        let words: Vec<&str> = event_text.split_whitespace().collect();
        let now_ms = number(words[0]);
        core.handle(event(&words[1..]), now_ms);
        let got: Vec<String> = drain(&mut core, now_ms).iter().map(text).collect();
        let expected: Vec<&str> = expected.split(',').map(str::trim).filter(|e| !e.is_empty()).collect();
        assert_eq!(got, expected, "{name}: `{row}`");
    }
}

#[test]
fn scenarios_of_delivery() {
    let live = settings();
    check(
        "a backlog is delivered and trimmed as it is acknowledged",
        live,
        &[
            "0 held 1-25 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 1:11-20, send 1:21-25",
            "9 ack 1.1 1:10 -> trim 1:1-10",
            "10 ack 1.2 1:10 1:21-25 -> trim 1:21-25",
            "11 ack 1.3 1:25 -> trim 1:11-20",
            "12 ack 1.3 1:25 ->",
        ],
    );
    check(
        "live records go first, and one slot is always free for them",
        live,
        &[
            "0 held 1-200 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 1:11-20, send 1:21-30, send 1:31-40, send 1:41-50, send 1:51-60",
            "7 append 201-202 -> send 1:201-202",
            "8 append 203-203 -> send 1:203-203",
            "9 append 204-205 ->",
            "10 ack 1.1 1:10 -> trim 1:1-10, send 1:204-205",
            "11 ack 1.2 1:20 1:201-205 -> trim 1:11-20, trim 1:201-205, send 1:61-70, send 1:71-80",
        ],
    );
    check(
        "live records that fill the window leave one slot to the backlog",
        live,
        &[
            "0 held 1-5 -> connect",
            "1 recall 1-5 ->",
            "5 connected -> birth",
            "6 presence c on retained ->",
            "7 append 6-6 -> send 1:6-6",
            "8 append 7-7 -> send 1:7-7",
            "9 append 8-8 -> send 1:8-8",
            "10 append 9-9 -> send 1:9-9",
            "11 append 10-10 -> send 1:10-10",
            "12 append 11-11 -> send 1:11-11",
            "13 append 12-12 -> send 1:12-12",
            "14 append 13-13 -> send 1:13-13",
            "15 append 14-14 ->",
            "16 command 1 resend 1-2 -> reply 1 done",
            "17 ack 1.1 1:6 -> forget 1, trim 1:1-6, send 1:1-2",
            "18 append 15-15 ->",
            "19 ack 1.2 1:7 -> trim 1:7-7, send 1:14-15",
        ],
    );
    check(
        "newest first",
        Settings { newest_first: true, ..live },
        &[
            "0 held 1:1-15 2:1-12 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 2:1-10, send 2:11-12, send 1:6-15, send 1:1-5",
        ],
    );
    check(
        "after any error what is unacknowledged is sent again, no more",
        live,
        &[
            "0 held 1-20 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 1:11-20",
            "7 ack 1.1 1:0 1:11-20 -> trim 1:11-20",
            "8 lost ->",
            "500 wait ->",
            "1008 wait -> connect",
            "1009 connected -> birth",
            "1010 presence c on retained -> send 1:1-10",
        ],
    );
    check(
        "no acknowledgement in time: the client is thrown away",
        live,
        &[
            "0 held 1-5 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-5",
            "30005 wait ->",
            "30006 wait -> disconnect",
            "31006 wait -> connect",
            "31007 connected -> birth",
            "31008 presence c on retained -> send 1:1-5",
            "90000 wait ->",
            "91008 wait -> disconnect",
        ],
    );
    check(
        "records that cannot be read are not offered for ever, and dropped ones are not sent",
        live,
        &[
            "0 held 1-20 -> connect",
            "5 connected -> birth",
            "6 held 8-20 ->",
            "7 presence c on retained -> send 1:8-17, send 1:18-20",
            "8 held 18-20 ->",
            "9 ack 1.1 1:20 -> trim 1:1-20",
        ],
    );
}

#[test]
fn scenarios_of_presence() {
    check(
        "without a collector one probe at a time, under back-off; an answer counts as present",
        settings(),
        &[
            "0 held 1-30 -> connect",
            "5 connected -> birth",
            "2000 wait ->",
            "5005 wait -> send 1:1-10",
            "20000 wait ->",
            "35005 wait -> send 1:1-10",
            "35100 wait ->",
            "36000 ack 1.1 1:10 -> trim 1:1-10, send 1:11-20, send 1:21-30",
            "70000 wait ->",
            "75000 wait -> send 1:11-20",
        ],
    );
    check(
        "connections that do not last put off no probe",
        Settings { probe_ms: (5_000, 600_000), ..settings() },
        &[
            "0 held 1-10 -> connect",
            "5 connected -> birth",
            "5005 wait -> send 1:1-10",
            "5006 lost ->",
            "10000 wait -> connect",
            "10001 connected -> birth",
            "15001 wait -> send 1:1-10",
            "15002 lost ->",
            "20000 wait -> connect",
            "20001 connected -> birth",
            "21000 lost ->",
            "30000 wait -> connect",
            "30001 connected -> birth",
            "35001 wait -> send 1:1-10",
        ],
    );
    check(
        "a client that is neither connected nor gone is thrown away",
        settings(),
        &[
            "0 held 1-5 -> connect",
            "59999 wait ->",
            "60000 wait -> disconnect",
            "60001 connected ->",
            "61000 wait -> connect",
            "61001 connected -> birth",
        ],
    );
    check(
        "a presence that nobody stands behind costs one frame each time",
        settings(),
        &[
            "0 held 1-30 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 1:11-20, send 1:21-30",
            "30006 wait -> disconnect",
            "31006 wait -> connect",
            "31007 connected -> birth",
            "31008 presence c on retained -> send 1:1-10",
            "31009 append 31-32 ->",
            "31010 ack 1.1 1:10 -> trim 1:1-10, send 1:31-32, send 1:11-20, send 1:21-30",
        ],
    );
    check(
        "a frame that is never answered holds up nothing but itself",
        settings(),
        &[
            "0 held 1-30 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 1:11-20, send 1:21-30",
            "7 ack 1.1 1:0 1:11-30 -> trim 1:11-30",
            "30006 wait -> disconnect",
            "31006 append 31-32 -> connect",
            "31007 connected -> birth",
            "31008 presence c on retained -> send 1:1-10",
            "91008 wait -> disconnect",
            "121008 wait -> connect",
            "121009 connected -> birth",
            "121010 presence c on retained -> send 1:31-32",
            "121011 ack 1.2 1:0 1:11-32 -> trim 1:31-32, send 1:1-10",
        ],
    );
    check(
        "a collector that comes is told of the birth, and gets at once what may be lost",
        settings(),
        &[
            "0 held 1-5 -> connect",
            "5 connected -> birth",
            "6 presence c off retained ->",
            "5100 wait -> send 1:1-5",
            "6000 presence c on -> birth, send 1:1-5",
            "6001 ack 1.1 1:5 -> trim 1:1-5",
            "6002 presence c off ->",
            "6003 append 6-7 ->",
            "6004 presence c on -> birth, send 1:6-7",
            "6005 presence d on ->",
            "6006 presence d cleared ->",
        ],
    );
    check(
        "acknowledgements out of order, of another life, and of nonsense",
        settings(),
        &[
            "0 held 1:1-10 2:1-10 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 2:1-10",
            "7 ack 1.9 1:10 2:10 -> trim 1:1-10, trim 2:1-10",
            "8 ack 1.8 2:3 ->",
            "9 ack 2.1 2:4 -> forget 1, forget 2, birth, trim 2:1-4, send 1:1-10, send 2:5-10",
            "10 ack 2.2 1:10 2:10 -> trim 1:1-10, trim 2:5-10",
            "11 ack 2.3 1:18446744073709551615 7:5 2:0-18446744073709551615 2:9-3 ->",
            "12 append 2:11-11 -> send 2:11-11",
            "13 lost ->",
            "14 ack 2.4 2:11 -> trim 2:11-11",
            "15 presence c on ->",
            "16 connected ->",
        ],
    );
    check(
        "what a newer commit of one database no longer has is sent again",
        settings(),
        &[
            "0 held 1:1-10 2:1-30 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 2:1-10, send 2:11-20, send 2:21-30",
            "7 ack 1.4 1:10 2:30 -> trim 1:1-10, trim 2:1-30",
            "8 ack 1.5 2:5 2:8-9 2:21-30 -> forget 2, trim 2:1-5, trim 2:8-9, trim 2:21-30, send 2:6-7, send 2:10-19, send 2:20-20",
            "9 ack 1.4 2:30 ->",
            "10 ack 1.6 2:5 2:8-9 2:21-30 ->",
            "11 ack 1.7 2:30 -> trim 2:6-7, trim 2:10-20",
            "12 ack 1.8 1:10 2:30 ->",
        ],
    );
    check(
        "what the outbox remembers holds until a database says otherwise",
        settings(),
        &[
            "0 held 1:1-10 2:1-10 -> connect",
            "1 recall 1:1-10 ->",
            "1 recall 2:1-10 ->",
            "5 connected -> birth",
            "6 presence c on retained ->",
            "7 ack 3.1 1:10 2:5 -> forget 1, forget 2, trim 1:1-10, trim 2:1-5, send 2:6-10",
        ],
    );
}

#[test]
fn scenarios_of_economy_and_commands() {
    let economy = Settings { flush_ms: 900_000, full_frame_weight: 50, ..settings() };
    check(
        "live records wait for the flush, the backlog does not; a full frame ends the wait, a lease suspends it",
        economy,
        &[
            "0 held 1-5 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-5",
            "7 ack 1.1 1:5 -> trim 1:1-5",
            "1000 append 6-8 ->",
            "900000 append 9-9 ->",
            "901000 wait -> flush",
            "901001 append 10-10 ->",
            "901002 flushed -> send 1:6-10",
            "901010 ack 1.2 1:10 -> trim 1:6-10",
            "902000 append 11-60 -> send 1:11-20, send 1:21-30, send 1:31-40, send 1:41-50, send 1:51-60",
            "902001 ack 1.3 1:60 -> trim 1:11-60",
            "903000 append 61-61 ->",
            "904000 command 1 live 60000 -> reply 1 done, send 1:61-61",
            "904001 append 62-62 -> send 1:62-62",
            "904002 ack 1.4 1:62 -> trim 1:61-62",
            "965000 append 63-63 ->",
        ],
    );
    check(
        "a lease is renewed, and ended before its time where nobody looks any more",
        economy,
        &[
            "0 held 1-5 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-5",
            "7 ack 1.1 1:5 -> trim 1:1-5",
            "1000 command 1 live 60000 -> reply 1 done",
            "1001 append 6-6 -> send 1:6-6",
            "1002 ack 1.2 1:6 -> trim 1:6-6",
            "30000 command 2 live 60000 -> reply 2 done",
            "89000 append 7-7 -> send 1:7-7",
            "89001 command 3 live 0 -> reply 3 done",
            "89002 append 8-8 ->",
            "89003 ack 1.3 1:7 -> trim 1:7-7",
            "90000 command 4 live 60000 -> reply 4 done, send 1:8-8",
        ],
    );
    check(
        "commands are carried out once, answered each time, and expire",
        settings(),
        &[
            "0 held 5-9 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:5-9",
            "7 ack 1.1 1:9 -> trim 1:1-9",
            "8 command 1 resend 1-6 -> reply 1 done, send 1:5-6",
            "9 command 1 resend 1-6 -> reply 1 done",
            "10 command 2 resend 2:1-6 -> reply 2 nodata",
            "11 command 3 catalog 77 -> catalog 3 77",
            "12 command 3 catalog 77 ->",
            "13 ended 3 -> reply 3 done",
            "14 command 4 poll meter-1 -> poll 4 meter-1",
            "15 command 5 poll meter-1 late -> reply 5 expired",
            "16 command 6 dance -> reply 6 failed",
            "17 ack 1.1 1:9 ->",
            "18 changed -> birth",
            "19 stop -> goodbye",
            "20 append 10-11 ->",
        ],
    );
    check(
        "what was asked for again and lost on the way is sent again",
        settings(),
        &[
            "0 held 1-9 -> connect",
            "1 recall 1-9 ->",
            "5 connected -> birth",
            "6 presence c on retained ->",
            "7 command 1 resend 2-3 -> reply 1 done, send 1:2-3",
            "8 lost ->",
            "1100 wait -> connect",
            "1101 connected -> birth",
            "1102 presence c on retained -> send 1:2-3",
        ],
    );
}

#[test]
fn scenarios_of_the_daily_budget() {
    // 86,400 bytes a day, which is one a second.
    let metered = Settings { daily_budget: Some(86_400), ..settings() };
    check(
        "live records may spend the day's share, a backlog what the time so far is worth; then nothing goes until the \
         next day begins, and what waited is a backlog",
        metered,
        &[
            "0 wall 86397000000 -> connect",
            "0 held 1-23 ->",
            "1 recall 1-8 ->",
            "5 connected -> birth",
            "6 presence c on retained ->",
            "101005 wait -> send 1:9-18",
            "101006 append 24-24 -> send 1:24-24",
            "101007 append 25-25 -> send 1:25-25, birth",
            "101008 ack 1.1 1:18 1:24-25 -> forget 1, trim 1:1-18, trim 1:24-25",
            "101009 append 26-27 ->",
            "101010 command 1 poll meter-1 -> poll 1 meter-1",
            "101011 ended 1 -> reply 1 done",
            "2999999 wait ->",
            "3000000 wait -> birth",
            "3000001 append 28-28 -> send 1:28-28",
            "3500000 ack 1.2 1:18 1:24-25 1:28-28 -> trim 1:28-28",
            "4101000 wait -> send 1:19-23",
            "4101001 ack 1.3 1:25 1:28-28 -> trim 1:19-23",
            "5101001 wait -> send 1:26-27",
        ],
    );
    check(
        "what an epoch opens with goes before all that is live; the rest of a backlog waits",
        metered,
        &[
            "0 held 1-15 -> connect",
            "5 connected -> birth",
            "6 append 16-16 ->",
            "7 presence c on retained -> send 1:1-8",
            "8 append 17-17 -> send 1:17-17",
            "9 ack 1.1 1:8 1:17-17 -> trim 1:1-8, trim 1:17-17",
            "9999 wait ->",
        ],
    );
    check(
        "a probe goes whatever is spent",
        Settings { probe_ms: (5_000, 600_000), ..metered },
        &[
            "0 wall 86399990000 -> connect",
            "0 held 1-15 ->",
            "5 connected -> birth, birth",
            "900 wait ->",
            "5005 wait -> send 1:1-10",
        ],
    );
    check(
        "what was asked for again waits, its answer does not",
        metered,
        &[
            "0 held 1-15 -> connect",
            "1 recall 1-15 ->",
            "5 connected -> birth",
            "6 presence c on retained ->",
            "7 command 1 resend 1-2 -> reply 1 done",
            "201001 wait -> send 1:1-2",
        ],
    );
}

#[test]
fn the_status_and_the_birth_tell_that_a_day_is_spent() {
    let mut core = Core::new(Settings { daily_budget: Some(86_400), flush_ms: 60_000, ..settings() });
    for row in ["held 1-1", "recall 1-1"] {
        core.handle(event(&row.split(' ').collect::<Vec<_>>()), 0);
    }
    drain(&mut core, 0);
    core.handle(Event::Connected, 0);
    core.handle(event(&["presence", "c", "on"]), 0);
    drain(&mut core, 0);
    assert_eq!((core.status().link, core.flush_ms(0)), (LinkState::Delivering, 60_000));
    assert_eq!((core.status().bytes_today, core.status().bytes_today_max), (OTHER_BYTES, Some(86_400)));
    core.handle(Event::Published(90_000), 1);
    assert_eq!(drain(&mut core, 1), [Action::Birth]);
    assert_eq!((core.status().link, core.next_deadline()), (LinkState::BudgetSpent, Some(86_400_000)));
    assert_eq!(core.flush_ms(1), 60_000 + 86_399_999);
    assert_eq!(drain(&mut core, 86_400_000), [Action::Birth]);
    assert_eq!((core.status().link, core.flush_ms(86_400_001)), (LinkState::Delivering, 60_000));
}

#[test]
fn an_outbox_that_cannot_be_read_is_not_asked_before_its_time_whatever_the_budget_allows() {
    let mut core = Core::new(Settings { daily_budget: Some(86_400), ..settings() });
    core.handle(event(&["held", "1-15"]), 0);
    core.handle(event(&["recall", "1-8"]), 0);
    drain(&mut core, 0);
    core.handle(Event::Connected, 0);
    core.handle(event(&["presence", "c", "on", "retained"]), 0);
    drain(&mut core, 0);
    core.handle(event(&["append", "16-16"]), 99_000);
    assert!(matches!(core.poll(99_000), Some(Action::Send(_))));
    core.handle(Event::NotNow, 99_000);
    for now_ms in [99_000, 101_001, 103_999] {
        assert_eq!(drain(&mut core, now_ms), []);
    }
    assert_eq!(drain(&mut core, 104_000).len(), 1);
}

/// As many ranges as an answer can name: every second record from 12 on, up to 74.
fn full_list() -> String {
    (0..ACK_RANGES_MAX).map(|n| format!(" 1:{0}-{0}", 12 + 2 * n)).collect()
}

#[test]
fn scenarios_of_lists_that_are_cut_off() {
    let holes: String = (0..ACK_RANGES_MAX).map(|n| format!(", trim 1:{0}-{0}", 12 + 2 * n)).collect();
    let holes = holes.replace(", trim 1:74-74", ", trim 1:74-200");
    check(
        "what a full list has no room for stays acknowledged",
        settings(),
        &[
            "0 held 1-200 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 1:11-20, send 1:21-30, send 1:31-40, send 1:41-50, send 1:51-60",
            "7 ack 1.1 1:200 -> trim 1:1-200",
            &format!(
                "8 ack 1.2 1:10{} -> forget 1, trim 1:1-10{holes}, send 1:11-11, send 1:13-13, send 1:15-15, \
                 send 1:17-17, send 1:19-19, send 1:21-21",
                full_list()
            ),
            "9 ack 1.3 1:200 -> trim 1:11-11, trim 1:13-13, trim 1:15-15, trim 1:17-17, trim 1:19-19, trim 1:21-21, \
             trim 1:23-23, trim 1:25-25, trim 1:27-27, trim 1:29-29, trim 1:31-31, trim 1:33-33, trim 1:35-35, \
             trim 1:37-37, trim 1:39-39, trim 1:41-41, trim 1:43-43, trim 1:45-45, trim 1:47-47, trim 1:49-49, \
             trim 1:51-51, trim 1:53-53, trim 1:55-55, trim 1:57-57, trim 1:59-59, trim 1:61-61, trim 1:63-63, \
             trim 1:65-65, trim 1:67-67, trim 1:69-69, trim 1:71-71, trim 1:73-73",
        ],
    );
    check(
        "newest first, but what an answer can acknowledge before what it has no room for",
        Settings { newest_first: true, ..settings() },
        &[
            "0 held 1-200 -> connect",
            "5 connected -> birth",
            "6 presence c on retained -> send 1:1-10, send 1:191-200, send 1:171-180, send 1:181-190, send 1:151-160, send 1:161-170",
            &format!(
                "7 ack 1.1 1:10{} -> trim 1:1-10{}, send 1:73-73",
                full_list(),
                holes.replace("-200", "-74")
            ),
            "30006 wait -> disconnect",
            "31006 wait -> connect",
            "31007 connected -> birth",
            "31008 presence c on retained -> send 1:73-73",
        ],
    );
}

#[test]
fn a_command_that_a_lost_connection_kept_from_being_carried_out_is_carried_out_when_it_is_asked_again() {
    let mut core = Core::new(settings());
    drain(&mut core, 0);
    core.handle(Event::Connected, 1);
    drain(&mut core, 1);
    let asked = [
        ("3", ["catalog", "77"]),
        ("4", ["poll", "meter-1"]),
        ("5", ["history", "mast"]),
        ("6", ["pause", "mast"]),
    ];
    for (id, body) in asked {
        core.handle(event(&[&["command", id], &body[..]].concat()), 2);
    }
    core.handle(Event::Disconnected, 2);
    assert_eq!(drain(&mut core, 2_000), [Action::Connect]);
    core.handle(Event::Connected, 2_001);
    drain(&mut core, 2_001);
    for (id, body, expected) in [
        ("3", ["catalog", "77"], "catalog 3 77"),
        ("4", ["poll", "meter-1"], "poll 4 meter-1"),
        ("5", ["history", "mast"], "history 5 mast 10-20"),
        ("6", ["pause", "mast"], "pause 6 mast true"),
    ] {
        core.handle(event(&[&["command", id], &body[..]].concat()), 2_002);
        assert_eq!(drain(&mut core, 2_002).iter().map(text).collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn collectors_that_are_gone_leave_room_for_one_that_comes() {
    let mut core = Core::new(settings());
    core.handle(event(&["held", "1-5"]), 0);
    drain(&mut core, 0);
    core.handle(Event::Connected, 1);
    for n in 0..COLLECTORS_MAX {
        core.handle(event(&["presence", &format!("gone-{n}"), "off", "retained"]), 2);
    }
    core.handle(event(&["presence", "c", "on", "retained"]), 3);
    drain(&mut core, 3);
    assert_eq!((core.status().link, core.status().in_flight), (LinkState::Delivering, 1));
}
