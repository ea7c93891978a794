//! The queue by examples, and by what must hold whatever happens in whichever order.

use proptest::prelude::*;

use super::*;
use crate::jobs::budget::Rate;

const SOURCE: Source = Source(1);

fn wish(scope: i64, why: Why, now: i64, fresh_at: i64) -> Wish {
    let (due, fresh_at) = (Timestamp(now), Timestamp(fresh_at));
    Wish { scope: Scope(scope), source: SOURCE, why, due, fresh_at, allowed_ms: 1_000 }
}

fn lease(queue: &mut Queue, now: i64, most: usize) -> Vec<Job> {
    queue.lease(Timestamp(now), most, |_| 60_000, |_| true)
}

fn scopes(jobs: &[Job]) -> Vec<i64> {
    jobs.iter().map(|job| job.scope.0).collect()
}

#[test]
fn however_many_ask_there_is_one_job() {
    let mut queue = Queue::default();
    let first = queue.ask(&wish(1, Why::Viewed, 10, 0));
    for _ in 0..999 {
        assert_eq!(queue.ask(&wish(1, Why::Viewed, 20, 0)).no, first.no);
    }
    assert_eq!((queue.len(), lease(&mut queue, 20, 9).len()), (1, 1));
    assert_eq!(queue.ask(&wish(1, Why::Asked, 30, 0)).no, first.no, "it is under way");
    assert_eq!(lease(&mut queue, 30, 9), []);
}

#[test]
fn the_stalest_comes_first_and_a_person_before_it() {
    let mut queue = Queue::default();
    queue.limit(SOURCE, Limits::at_once(9));
    queue.ask(&wish(1, Why::Stale, 0, -1_000));
    queue.ask(&wish(2, Why::Stale, 0, -3_000));
    queue.ask(&wish(3, Why::Viewed, 0, -2_000));
    queue.ask(&wish(4, Why::Asked, 0, 0));
    assert_eq!(scopes(&lease(&mut queue, 0, 2)), [4, 2]);
    assert_eq!(scopes(&lease(&mut queue, 0, 9)), [3, 1]);
}

#[test]
fn a_passing_failure_backs_off_to_five_minutes_at_most() {
    let (mut queue, mut now, mut pauses) = (Queue::default(), 0, Vec::new());
    queue.ask(&wish(1, Why::Stale, 0, 0));
    for _ in 0..9 {
        let job = lease(&mut queue, now, 1)[0];
        let no = job.lease.unwrap().no;
        queue.ended(job.scope, no, End::Failed, Timestamp(now), None).unwrap();
        assert_eq!(queue.ended(job.scope, no, End::Done, Timestamp(now), None), None, "ended already");
        queue.ask(&wish(1, Why::Viewed, now, 0));
        let due = queue.get(job.scope).unwrap().due.0;
        pauses.push((due - now) / 1_000);
        now = due;
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    let person = queue.ask(&wish(1, Why::Asked, now - 1, 0));
    assert_eq!(person.due.0, now - 1, "a person does not wait for the pause");
}

#[test]
fn the_work_of_a_dead_worker_is_done_by_another() {
    let mut queue = Queue::default();
    queue.ask(&wish(1, Why::Stale, 0, 0));
    let dead = lease(&mut queue, 0, 1)[0].lease.unwrap();
    assert_eq!(queue.expire(Timestamp(dead.until.0 - 1)), []);
    assert_eq!(queue.expire(dead.until).len(), 1);
    let again = lease(&mut queue, dead.until.0 + BACK_OFF_FIRST_MS, 1)[0];
    assert_ne!(again.lease.unwrap().no, dead.no);
    let late = queue.ended(Scope(1), dead.no, End::Done, Timestamp(99_999), None);
    assert_eq!(late, None, "who comes back late has no say");
    assert_eq!(queue.get(Scope(1)), Some(&again));
}

#[test]
fn a_rhythm_goes_on_and_a_budget_puts_the_less_urgent_off() {
    let mut queue = Queue::default();
    queue.limit(SOURCE, Limits { rates: vec![Rate { calls_max: 2, per_ms: 1_000 }], at_once_max: 1 });
    queue.ask(&wish(1, Why::Rhythm, 0, -100));
    queue.ask(&wish(2, Why::Stale, 0, -5_000));
    let job = lease(&mut queue, 0, 9);
    assert_eq!(scopes(&job), [2], "one at once");
    queue.ended(Scope(2), job[0].lease.unwrap().no, End::Done, Timestamp(5), Some(Timestamp(700))).unwrap();
    assert_eq!(queue.get(Scope(2)).unwrap().due, Timestamp(700));
    assert_eq!(lease(&mut queue, 6, 9), [], "the rest of the budget is kept for what is urgent");
    assert_eq!(queue.get(Scope(1)).unwrap().due, Timestamp(1_000));
    assert_eq!(scopes(&lease(&mut queue, 1_000, 9)), [1]);
}

#[derive(Debug, Clone)]
enum Step {
    Ask(i64, u8),
    Lease(usize),
    End(usize, u8),
    Cancel(i64),
    Pass(i64),
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_i64..6, 0_u8..5).prop_map(|(scope, why)| Step::Ask(scope, why)),
        (1_usize..4).prop_map(Step::Lease),
        (0_usize..8, 0_u8..4).prop_map(|(which, end)| Step::End(which, end)),
        (0_i64..6).prop_map(Step::Cancel),
        (1_i64..90_000).prop_map(Step::Pass),
        Just(Step::Restart),
    ]
}

proptest! {
    #[test]
    fn no_scope_runs_twice_at_once_and_nothing_is_lost(steps in prop::collection::vec(step(), 1..120)) {
        let (mut queue, mut now) = (Queue::default(), 0);
        let limits = Limits { rates: vec![Rate { calls_max: 5, per_ms: 60_000 }], at_once_max: 3 };
        queue.limit(SOURCE, limits.clone());
        let mut running: Vec<Job> = Vec::new();
        let mut numbers = BTreeSet::new();
        let whys = [Why::Rhythm, Why::Stale, Why::Viewed, Why::Confirm, Why::Asked];
        for step in steps {
            match step {
                Step::Ask(scope, why) => {
                    let before = queue.get(Scope(scope)).copied();
                    let job = queue.ask(&wish(scope, whys[usize::from(why)], now, now - 2_000));
                    prop_assert_eq!(before.map_or(job.no, |before| before.no), job.no);
                }
                Step::Lease(most) => {
                    let taken = lease(&mut queue, now, most);
                    prop_assert!(taken.len() <= most);
                    for job in taken {
                        prop_assert!(running.iter().all(|other| other.scope != job.scope));
                        prop_assert!(numbers.insert(job.lease.unwrap().no), "a lease's number is given once");
                        running.push(job);
                    }
                    prop_assert!(running.len() <= 3);
                }
                Step::End(which, end) if which < running.len() => {
                    let job = running.remove(which);
                    let (end, next) = match end {
                        0 => (End::Done, None),
                        1 => (End::Done, Some(Timestamp(now + 1_000))),
                        2 => (End::Refused, None),
                        _ => (End::Failed, None),
                    };
                    prop_assert!(queue.ended(job.scope, job.lease.unwrap().no, end, Timestamp(now), next).is_some());
                    let stays = end == End::Failed || next.is_some();
                    prop_assert_eq!(queue.get(job.scope).is_some(), stays);
                }
                Step::End(..) => {}
                Step::Cancel(scope) => {
                    queue.cancel(Scope(scope));
                    if let Some(at) = running.iter().position(|job| job.scope.0 == scope) {
                        let (job, end) = (running.remove(at), End::Done);
                        let late = queue.ended(job.scope, job.lease.unwrap().no, end, Timestamp(now), None);
                        prop_assert_eq!(late, None, "what comes of it ends no job");
                    }
                    prop_assert!(queue.get(Scope(scope)).is_none());
                }
                Step::Pass(ms) => {
                    now += ms;
                    queue.expire(Timestamp(now));
                    running.retain(|job| job.lease.unwrap().until.0 > now);
                }
                Step::Restart => {
                    let (_, last_no) = queue.take_changes();
                    let jobs: Vec<Job> = queue.jobs.values().copied().collect();
                    queue = Queue::load(jobs, last_no);
                    queue.limit(SOURCE, limits.clone());
                }
            }
            for job in queue.jobs.values() {
                let waits = queue.waiting.contains(&(job.due, job.scope));
                let held = job.lease.is_some_and(|l| queue.leased.contains(&(l.until, job.scope)));
                prop_assert!(waits != held && held == job.lease.is_some());
                prop_assert!(job.lease.is_some() || job.failures == 0 || job.due.0 <= now + BACK_OFF_MAX_MS);
            }
            prop_assert_eq!(queue.jobs.len(), queue.waiting.len() + queue.leased.len());
            prop_assert_eq!(queue.leased.len(), running.len());
        }
    }
}
