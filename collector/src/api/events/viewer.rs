//! One stream of events: waits for news, asks the tables what they are, and hands them on as fast as the client takes them.

use std::time::Duration;

use axum::response::sse::Event;
use gapless_common::id::{Commit, Incarnation};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::hub::{Hub, Told};
use super::position::Position;
use super::transitions::{Mark, Name};
use super::{EventData, FreshnessEvent, Kind, LostEvent, Wanted};
use crate::api::auth::Pass;
use crate::api::stream::CLIENT_STALL;
use crate::api::{ApiState, Problem};
use crate::store::model::{NotKept, Place};

/// Lines of each table that are read at once: with the events queued the memory of one stream.
const LINES_MAX: usize = 64;
/// Least time between two looks at the tables.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The same where only commits are told: each costs a page one rendering.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How often it is said that the stream lives, and how far everything is told.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

const REPLACED: &str =
    "the database is another one than the id is of (a backup was restored): ask anew for what you hold";
const NOT_KEPT: &str = "the history does not go back that far: what is old is removed";
const FORGOTTEN: &str =
    "so many changes of freshness are not remembered: the latest state of each device follows";

pub(super) struct Viewer {
    state: ApiState,
    hub: Hub,
    pass: Pass,
    wanted: Wanted,
    sender: mpsc::Sender<Result<Event, std::convert::Infallible>>,
    commits: watch::Receiver<Commit>,
    freshness: Option<watch::Receiver<Option<Mark>>>,
    position: Position,
    told_commit: Option<Commit>,
    /// What is to be said first.
    lost: Vec<LostEvent>,
}

/// Why a stream ends.
enum Ended {
    /// The client has gone, or takes nothing.
    Gone,
    /// Its token is no longer known.
    Revoked,
    /// The database failed; the client comes back.
    Failed(Problem),
}

type Step<T> = Result<T, Ended>;

impl Viewer {
    /// For a client that stands at `last`, in a database whose tables end at `end`.
    pub(super) fn new(
        state: ApiState,
        (hub, pass): (Hub, Pass),
        wanted: Wanted,
        sender: mpsc::Sender<Result<Event, std::convert::Infallible>>,
        (last, incarnation, end): (Option<Position>, Incarnation, Place),
    ) -> Self {
        let freshness = wanted.freshness.then(|| hub.watch_freshness(&state));
        let (position, lost) = begin(last, incarnation, end, &wanted);
        let commits = state.commits.clone();
        Self { state, hub, pass, wanted, sender, commits, freshness, position, told_commit: None, lost }
    }

    /// Until the client goes.
    pub(super) async fn run(mut self) {
        if let Err(Ended::Failed(problem)) = self.stream().await {
            match problem {
                Problem::Store(source) => tracing::error!("a stream of events was cut: {source:#}"),
                problem => tracing::error!("a stream of events was cut: {problem}"),
            }
        }
    }

    async fn stream(&mut self) -> Step<()> {
        let mut beat_at = Instant::now() + HEARTBEAT_EVERY;
        for lost in std::mem::take(&mut self.lost) {
            self.send("lost", &EventData::Lost(lost)).await?;
        }
        self.beat().await?;
        loop {
            self.commits.borrow_and_update();
            while !self.tell_tables().await? {}
            self.tell_freshness().await?;
            self.tell_commit().await?;
            if Instant::now() >= beat_at {
                self.beat().await?;
                beat_at = Instant::now() + HEARTBEAT_EVERY;
            }
            let is_quick = self.wanted.freshness || self.wants_tables();
            tokio::time::sleep(if is_quick { LOOK_EVERY } else { COMMIT_EVERY }).await;
            let fresh = async {
                match &mut self.freshness {
                    Some(freshness) => freshness.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                is_there = async { self.commits.changed().await.is_ok() } => if !is_there { return Ok(()) },
                _ = fresh => {}
                () = tokio::time::sleep_until(beat_at) => {}
                () = self.sender.closed() => return Err(Ended::Gone),
            }
        }
    }

    const fn wants_tables(&self) -> bool {
        let tables = &self.wanted.tables;
        tables.readings || tables.gaps || tables.jobs || tables.alerts
    }

    /// Tells what the tables have since, to who is still let in; returns whether that is all.
    async fn tell_tables(&mut self) -> Step<bool> {
        if !self.pass.is_good(&self.state).await.map_err(Ended::Failed)? {
            return Err(Ended::Revoked);
        }
        if !self.wants_tables() {
            return Ok(true);
        }
        let (after, filter) = (self.position.place, self.wanted.tables.clone());
        let news = self.state.ask(move |store| store.news(after, &filter, LINES_MAX)).await;
        let news = news.map_err(Ended::Failed)?;
        for reading in news.readings {
            let change = reading.change;
            (self.position.place.commit, self.position.place.within) =
                (change.commit, Some((change.device.0, change.first)));
            self.send_at(Kind::Reading, &EventData::Reading(reading.into())).await?;
        }
        for gap in news.gaps {
            self.position.place.gap_event = gap.id;
            self.send_at(Kind::Gap, &EventData::Gap(gap.into())).await?;
        }
        self.tell_not_kept(Kind::Job, news.jobs_lost).await?;
        for job in news.jobs {
            self.position.place.job = job.id;
            self.send_at(Kind::Job, &EventData::Job(job.into())).await?;
        }
        self.tell_not_kept(Kind::Alert, news.alerts_lost).await?;
        for alert in news.alerts {
            self.position.place.alert_event = alert.id;
            self.send_at(Kind::Alert, &EventData::Alert(alert.into())).await?;
        }
        self.position.place = news.reached;
        Ok(news.is_all)
    }

    async fn tell_not_kept(&self, kind: Kind, lost: Option<NotKept>) -> Step<()> {
        let Some(NotKept { from, to, count }) = lost else { return Ok(()) };
        let (from, to, count) = (number(from), number(to), Some(number(count)));
        let lost = LostEvent { kind: kind.word(), from, to, count, why: NOT_KEPT };
        self.send("lost", &EventData::Lost(lost)).await
    }

    fn is_of_interest(&self, (site, device): &Name) -> bool {
        let tables = &self.wanted.tables;
        tables.site.as_ref().is_none_or(|wanted| wanted.as_str() == site)
            && tables.device.as_ref().is_none_or(|wanted| wanted.as_str() == device)
    }

    async fn tell_freshness(&mut self) -> Step<()> {
        if !self.wanted.freshness {
            return Ok(());
        }
        match self.hub.freshness_since(self.position.freshness) {
            None => {}
            Some(Told::Changes(changes)) => {
                for change in changes {
                    if let Some(mark) = &mut self.position.freshness {
                        mark.number = change.number;
                    }
                    if self.is_of_interest(&change.name) {
                        self.send_at(Kind::Freshness, &EventData::Freshness(change.into())).await?;
                    }
                }
            }
            Some(Told::Anew(states, mark)) => {
                if let Some(before) = self.position.freshness {
                    let from = before.number.saturating_add(1);
                    let to = if before.life == mark.life { mark.number } else { from };
                    let kind = Kind::Freshness.word();
                    let lost = LostEvent { kind, from, to, count: None, why: FORGOTTEN };
                    self.send("lost", &EventData::Lost(lost)).await?;
                }
                // Who goes in the midst of it begins anew.
                self.position.freshness = None;
                for (name, standing) in states.into_iter().filter(|(name, _)| self.is_of_interest(name)) {
                    let event = FreshnessEvent::of(name, &standing);
                    self.send_at(Kind::Freshness, &EventData::Freshness(event)).await?;
                }
                self.position.freshness = Some(mark);
            }
        }
        Ok(())
    }

    async fn tell_commit(&mut self) -> Step<()> {
        let commit = *self.commits.borrow();
        if !self.wanted.commits || self.told_commit == Some(commit) {
            return Ok(());
        }
        self.told_commit = Some(commit);
        self.send_at(Kind::Commit, &EventData::Commit(commit.0)).await
    }

    async fn send_at(&self, kind: Kind, data: &EventData) -> Step<()> {
        self.send(kind.word(), data).await
    }

    async fn send(&self, name: &str, data: &EventData) -> Step<()> {
        let event = Event::default().event(name).id(self.position.to_string()).json_data(data);
        let event = event.map_err(|e| Ended::Failed(Problem::Store(e.into())))?;
        self.hand_over(event).await
    }

    /// A comment; the `id` without data is noted by the client and makes no event.
    async fn beat(&self) -> Step<()> {
        self.hand_over(Event::default().comment("alive").id(self.position.to_string())).await
    }

    async fn hand_over(&self, event: Event) -> Step<()> {
        self.sender.send_timeout(Ok(event), CLIENT_STALL).await.map_err(|_| Ended::Gone)
    }
}

/// The number of a line.
fn number(n: i64) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

/// Where a client begins that stands at `last`, and what it has lost.
fn begin(
    last: Option<Position>,
    incarnation: Incarnation,
    end: Place,
    wanted: &Wanted,
) -> (Position, Vec<LostEvent>) {
    let now = Position { incarnation, place: end, freshness: None };
    let Some(last) = last else { return (now, Vec::new()) };
    let (was, tables) = (last.place, &wanted.tables);
    let is_before =
        was.commit <= end.commit && was.gap_event <= end.gap_event && was.alert_event <= end.alert_event;
    if last.incarnation == incarnation && is_before {
        // The numbers of jobs begin anew where their whole history was removed.
        let job = if was.job <= end.job { was.job } else { 0 };
        return (Position { place: Place { job, ..was }, ..last }, Vec::new());
    }
    let ranges = [
        (tables.readings, Kind::Reading, was.commit.0, end.commit.0),
        (tables.gaps, Kind::Gap, number(was.gap_event), number(end.gap_event)),
        (tables.jobs, Kind::Job, number(was.job), number(end.job)),
        (tables.alerts, Kind::Alert, number(was.alert_event), number(end.alert_event)),
    ];
    let lost = ranges.into_iter().filter(|(is_wanted, ..)| *is_wanted).map(|(_, kind, from, to)| LostEvent {
        kind: kind.word(),
        // Of another life of the database nothing was told, from its first number on.
        from: if last.incarnation == incarnation { from.saturating_add(1).min(to) } else { 0 },
        to,
        count: None,
        why: REPLACED,
    });
    (Position { freshness: last.freshness, ..now }, lost.collect())
}
