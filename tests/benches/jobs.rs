//! 10,000 sources of skewed cost on one collector, for a day of virtual time: how far each is beyond its allowed staleness,
//! beside the naive loop over all sources. `cargo bench -p gapless-tests --bench jobs`. The queue is the real one; workers,
//! sources and time are made up. One source in a hundred takes 30 s, one in a thousand is dead for two hours. The first hours
//! are played behind the real committer, too, with the lag of its queue.

#![expect(
    clippy::print_stdout,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a bench prints its table, and ends where something is not as it should be"
)]

#[path = "jobs/committed.rs"]
mod committed;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use gapless_collector::jobs::budget::Limits;
use gapless_collector::jobs::queue::{End, Queue, Scope, Source, Why, Wish};
use gapless_collector::jobs::shard;
use gapless_common::time::Timestamp;

const SOURCES: i64 = 10_000;
const WORKERS: usize = 16;
const HOURS: i64 = 24;
/// Minutes that are played behind the committer.
const MINUTES_COMMITTED: i64 = 120;
const TICK_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60_000;

/// A source: what a call costs, how stale it may be, and when it is dead.
#[derive(Clone, Copy)]
struct Remote {
    cost_ms: i64,
    allowed_ms: i64,
    dead: (i64, i64),
}

fn remote(scope: i64) -> Remote {
    let draw = |salt: i64, of: u64| shard(scope * 31 + salt, of).cast_signed();
    let cost_ms = match draw(1, 1_000) {
        0..10 => 30_000,
        10..110 => 2_000,
        _ => 100 + draw(2, 300),
    };
    let allowed_ms = match draw(3, 10) {
        0 => 5 * MINUTE_MS,
        1..4 => 30 * MINUTE_MS,
        _ => 120 * MINUTE_MS,
    };
    let dead_from = 6 * 60 * MINUTE_MS;
    let dead = if draw(4, 1_000) == 0 { (dead_from, dead_from + 120 * MINUTE_MS) } else { (0, 0) };
    Remote { cost_ms, allowed_ms, dead }
}

impl Remote {
    fn is_dead(&self, now: i64) -> bool {
        (self.dead.0..self.dead.1).contains(&now)
    }
}

/// Who asks next.
enum Way {
    Jobs(Box<Queue>),
    Loop(i64),
}

/// The 99th percentile and the greatest score of the live ones, and the share that was stale, at their worst in a stretch.
type Worst = (f64, f64, f64);

#[derive(Default)]
struct Outcome {
    calls: u64,
    /// Per hour.
    hours: Vec<Worst>,
}

/// The 99th percentile, the greatest, and the share of those of 1 or more.
fn percentiles(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let beyond = values.iter().filter(|value| **value >= 1.0).count() as f64 / values.len().max(1) as f64;
    let p99 = values.get(values.len() * 99 / 100).copied().unwrap_or_default();
    (p99, values.last().copied().unwrap_or_default(), beyond)
}

fn run(mut way: Way, workers: usize) -> Outcome {
    let remotes: Vec<Remote> = (0..SOURCES).map(remote).collect();
    let of = |scope: i64| remotes[usize::try_from(scope).unwrap_or_default()];
    // All are fresh, and due spread over their first half allowance.
    let mut fresh = vec![0_i64; remotes.len()];
    if let Way::Jobs(queue) = &mut way {
        for scope in 0..SOURCES {
            let half = of(scope).allowed_ms / 2;
            let due = Timestamp(shard(scope, half.unsigned_abs()).cast_signed());
            queue.limit(Source(scope), Limits::at_once(1));
            queue.ask(&wish(scope, Why::Rhythm, due, of(scope).allowed_ms));
        }
    }
    // Ends of calls: when, which, and under which lease.
    let mut busy: BinaryHeap<Reverse<(i64, i64, u64)>> = BinaryHeap::new();
    let (mut outcome, mut worst) = (Outcome::default(), (0.0_f64, 0.0_f64, 0.0_f64));
    for tick in 0..HOURS * 3_600 {
        let now = tick * TICK_MS;
        // Workers are free in between ticks, too: what ends within one is followed at its end.
        while let Some(Reverse((end, scope, lease))) =
            busy.peek().copied().filter(|Reverse((end, ..))| *end <= now)
        {
            busy.pop();
            let is_done = !of(scope).is_dead(end);
            if is_done {
                fresh[usize::try_from(scope).unwrap_or_default()] = end;
            }
            if let Way::Jobs(queue) = &mut way {
                let ended = if is_done { End::Done } else { End::Failed };
                let next = Timestamp(end + of(scope).allowed_ms / 2);
                queue.ended(Scope(scope), lease, ended, Timestamp(end), Some(next));
            }
            begin(&mut way, &of, end, 1, &mut busy, &mut outcome);
        }
        let free = workers - busy.len();
        begin(&mut way, &of, now, free, &mut busy, &mut outcome);
        if tick % 60 == 0 {
            let live = (0..SOURCES).filter(|scope| of(*scope).dead.1 == 0);
            let score = |scope: i64| {
                (now - fresh[usize::try_from(scope).unwrap_or_default()]) as f64 / of(scope).allowed_ms as f64
            };
            let (p99, most, stale) = percentiles(live.map(score).collect());
            worst = (worst.0.max(p99), worst.1.max(most), worst.2.max(stale));
        }
        if (tick + 1) % 3_600 == 0 {
            outcome.hours.push(std::mem::take(&mut worst));
        }
    }
    outcome
}

fn wish(scope: i64, why: Why, due: Timestamp, allowed_ms: i64) -> Wish {
    Wish { scope: Scope(scope), source: Source(scope), why, due, fresh_at: Timestamp(0), allowed_ms }
}

/// Up to `free` workers take what is next.
fn begin(
    way: &mut Way,
    of: &impl Fn(i64) -> Remote,
    now: i64,
    free: usize,
    busy: &mut BinaryHeap<Reverse<(i64, i64, u64)>>,
    outcome: &mut Outcome,
) {
    let mut go = |scope: i64, lease: u64| {
        // A dead source costs its time-out.
        let cost = if of(scope).is_dead(now) { 30_000 } else { of(scope).cost_ms };
        busy.push(Reverse((now + cost, scope, lease)));
        outcome.calls += 1;
    };
    match way {
        Way::Jobs(queue) => {
            for job in queue.lease(Timestamp(now), free, |_| 120_000, |_| true) {
                go(job.scope.0, job.lease.map_or(0, |lease| lease.no));
            }
        }
        Way::Loop(at) => {
            for _ in 0..free {
                go(*at, 0);
                *at = (*at + 1) % SOURCES;
            }
        }
    }
}

fn main() {
    println!(
        "{SOURCES} sources, {WORKERS} workers, {HOURS} h of virtual time; score = staleness / allowed, at its worst in the hour"
    );
    let ways = [
        ("jobs", Way::Jobs(Box::default()), WORKERS),
        ("naive loop", Way::Loop(0), WORKERS),
        ("naive loop, one worker", Way::Loop(0), 1),
    ];
    for (name, way, workers) in ways {
        let began = Instant::now();
        let outcome = run(way, workers);
        println!("\n{name}: {} calls, {:.1} s of real time", outcome.calls, began.elapsed().as_secs_f64());
        println!("hour   p99 score   greatest   stale at once");
        for (hour, (p99, most, stale)) in outcome.hours.iter().enumerate() {
            if [0, 1, 2, 5, 6, 7, 8, 11, 17, 23].contains(&hour) {
                println!("{:>4} {p99:>11.2} {most:>10.2} {:>14.2} %", hour + 1, stale * 100.0);
            }
        }
    }
    let began = Instant::now();
    println!("\nbehind the committer: lag is how long a job waits for a worker");
    println!("quarter of an hour   p99 score   greatest   stale at once   lag p99   greatest");
    let mut quarter = 0;
    let calls = committed::run(MINUTES_COMMITTED, WORKERS, |told| {
        let ((p99, most, stale), (lag, lag_max)) = (told.score, told.lag);
        let stale = stale * 100.0;
        quarter += 1;
        println!("{quarter:>18} {p99:>11.2} {most:>10.2} {stale:>13.2} % {lag:>7.1} s {lag_max:>8.1} s");
    });
    println!("{calls} calls, {:.1} s of real time", began.elapsed().as_secs_f64());
}
