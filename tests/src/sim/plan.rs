//! What a run is made of, drawn from its seed: sites, agents, devices, how long it lasts, and which kinds of bad luck it
//! has. Each run has a random subset of the kinds (swarm testing: Groce, Zhang, Eide, Chen, Regehr, ISSTA 2012), because
//! with all of them at once the rare combinations drown.

use gapless_agent::config::Config;
use gapless_common::profile::ProfileSet;

use super::agreed::Agreements;
use super::donor::Donation;
use super::line::meter;
use super::logger;
use super::mishap::{self, Mishap};
use super::people::People;
use super::profiled;
use super::rng::Rng;
use super::source::Sourcing;

/// How large runs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// An hour or two, few devices: thousands of seeds.
    Hours,
    /// Weeks, with polls far apart: a handful of seeds.
    Weeks,
}

impl Scale {
    /// How the command line names it.
    #[must_use]
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Hours => "",
            Self::Weeks => " --weeks",
        }
    }
}

/// One kind of bad luck.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mischief {
    /// The machine loses its power; of what was not synced nothing, a prefix, or any sectors are kept.
    PowerCut,
    /// The power goes at a write or a sync that is to come soon.
    PowerCutAtWrite,
    /// SIGKILL of the agent.
    KillAgent,
    /// Many starts, each killed within seconds.
    RestartStorm,
    /// The agent is stopped by a person, and started again.
    StopAgent,
    /// A bit on the disk flips while nothing runs, and now and then while the agent does.
    BitRot,
    /// Others fill the disk for a while.
    DiskFull,
    /// Writes fail with EIO for a while.
    WritesFail,
    /// A sync fails with EIO, once or for a while.
    SyncsFail,
    /// The file system is read-only for a while.
    ReadOnly,
    /// An older image of the disk is put back.
    OldImage,
    /// The card is replaced by an empty one.
    NewCard,
    /// The link of an agent, or of the collector, is cut; for hours or days now and then.
    Outage,
    /// What an agent sends is lost, and it does not know.
    HalfOpen,
    /// Another client takes the agent's name at the broker.
    TakeOver,
    /// The broker restarts, and may have forgotten all.
    BrokerRestart,
    /// Of all packets some are lost.
    Losses,
    /// Of all packets some come twice.
    Repeats,
    /// Of all packets some are overtaken.
    Delays,
    /// The link takes 2 kB a second.
    SlowLink,
    /// The collector is killed between two of its steps.
    KillCenter,
    /// The collector's database is put back to its last backup.
    Rollback,
    /// The collector's clock is wrong.
    CenterClock,
    /// The wall clock steps by seconds, an hour, or years.
    ClockStep,
    /// Machines start in 1970, and learn the time later.
    Boot1970,
    /// Clocks drift.
    Drift,
    /// Answers of devices are late, missing, cut short, corrupt, of another unit, refused.
    BadAnswers,
    /// A port or connection disappears for a while.
    Unplug,
    /// A line babbles for a while.
    StuckLine,
    /// A device answers nothing for a while.
    SilentDevice,
    /// A device restarts; its counters begin anew.
    DeviceRestart,
    /// The disk is slow for a while: each sync, and now and then a write, takes from a tenth of a second to more than a
    /// minute, as cards do that tidy up.
    SlowDisk,
    /// The collector's disk is full for a while: its transactions fail.
    CenterDisk,
    /// SIGKILL of the agent in an operation of its disk that is to come soon: what was written is there, synced or not.
    KillAtWrite,
    /// One operation of a disk fails with EIO, and all others work.
    FailsOnce,
    /// What the broker sends a client is lost, and it takes its time to notice.
    HalfOpenDown,
    /// A logger is not reached for a while; for longer than it remembers now and then.
    LoggerAway,
    /// A logger has no power for a while.
    LoggerOff,
    /// A logger's clock is set.
    LoggerClock,
    /// A logger is given another program: all that it held is gone.
    LoggerProgram,
    /// A logger's answers are late, missing, cut short, or something else.
    LoggerAnswers,
    /// Somebody looks at a device, has it refreshed, or has a gap asked for once more.
    Person,
    /// Somebody who is told of alerts is away for a while.
    ReceiverAway,
    /// Somebody who is told of alerts does not want some messages, or not from this sender.
    ReceiverRefuses,
    /// The collector is killed between a receiver's answer and the note of it.
    KillUntold,
    /// Somebody, or a crowd, watches a site for a while.
    Viewer,
    /// An API that the collector asks gives no answer for a while.
    RemoteAway,
    /// It wants no calls for a while, and says until when.
    RemoteTooMany,
    /// It answers with a fault of its own for a while.
    RemoteFails,
    /// Nobody can read its answers for a while.
    RemoteGarbles,
    /// It answers that it has nothing for a while.
    RemoteEmpty,
    /// It cannot reach a meter for a while.
    RemoteUnreachable,
    /// It has some values hours later than others, or never.
    RemoteLate,
    /// It says of some instants that there is no value.
    RemoteInvalid,
    /// It puts values right that it has told.
    RemoteCorrects,
    /// Consent for a meter is withdrawn, and given anew now and then.
    RemoteWithdraws,
    /// The collector is killed in the midst of a turn of a source, with a call answered.
    KillInTurn,
    /// An API that says what has changed says nothing new for a while.
    RemoteBehind,
    /// It has values without a word of them.
    RemoteUnsaid,
    /// It does not know its cursors any more.
    RemoteForgets,
    /// An API with a list does not name a meter for a while, or never again.
    RemoteUnlists,
    /// It names only some of its meters for a while, or none.
    RemoteListShort,
    /// Of its list only the first part can be had for a while.
    RemoteListCut,
    /// A folder that the collector reads cannot be listed for a while, or seems to be empty.
    DropAway,
    /// A file in it cannot be read for a while.
    DropUnread,
    /// Its logger records nothing for a while.
    DropOff,
    /// Its rows come late, in a file of their own.
    DropLate,
    /// A file is put in place of another one, with values put right.
    DropReplaced,
    /// One is written anew in place, with values put right.
    DropRewritten,
    /// Its logger begins another file, under a new name or the one before, and that ends in the midst of a line now and then.
    DropRotated,
    /// A file is removed.
    DropRemoved,
    /// The folder goes, or a file in it, right after a look.
    DropSlips,
    /// The collector is killed once files were read, before what came of them is stored.
    DropKilled,
    /// An API takes all tokens back before their time.
    RemoteTakesBack,
    /// It gives no tokens for a while.
    RemoteShut,
    /// No token is good for a while, new ones neither.
    RemoteVain,
}

impl Mischief {
    /// Those that befall devices with a memory, and what persons do: they are drawn and strike by themselves.
    pub const OF_MEMORIES: [Self; 6] = [
        Self::LoggerAway,
        Self::LoggerOff,
        Self::LoggerClock,
        Self::LoggerProgram,
        Self::LoggerAnswers,
        Self::Person,
    ];

    /// Those that befall people who are told of alerts, and what people do who watch: they are drawn and strike by themselves, too.
    pub const OF_PEOPLE: [Self; 4] =
        [Self::ReceiverAway, Self::ReceiverRefuses, Self::KillUntold, Self::Viewer];

    /// Those that befall the collector's own sources: drawn and striking by themselves as well.
    pub const OF_SOURCES: [Self; 11] = [
        Self::RemoteAway,
        Self::RemoteTooMany,
        Self::RemoteFails,
        Self::RemoteGarbles,
        Self::RemoteEmpty,
        Self::RemoteUnreachable,
        Self::RemoteLate,
        Self::RemoteInvalid,
        Self::RemoteCorrects,
        Self::RemoteWithdraws,
        Self::KillInTurn,
    ];

    /// Those that befall what an API says of what has changed.
    pub const OF_FEEDS: [Self; 3] = [Self::RemoteBehind, Self::RemoteUnsaid, Self::RemoteForgets];

    /// Those that befall the tokens that an API wants.
    pub const OF_LOGINS: [Self; 3] = [Self::RemoteTakesBack, Self::RemoteShut, Self::RemoteVain];

    /// Those that befall the list of an API.
    pub const OF_LISTS: [Self; 3] = [Self::RemoteUnlists, Self::RemoteListShort, Self::RemoteListCut];

    /// Those that befall a folder: they strike by themselves.
    pub const OF_DROPS: [Self; 10] = [
        Self::DropAway,
        Self::DropUnread,
        Self::DropOff,
        Self::DropLate,
        Self::DropReplaced,
        Self::DropRewritten,
        Self::DropRotated,
        Self::DropRemoved,
        Self::DropSlips,
        Self::DropKilled,
    ];

    /// All others.
    pub const ALL: [Self; 36] = [
        Self::PowerCut,
        Self::PowerCutAtWrite,
        Self::KillAgent,
        Self::RestartStorm,
        Self::StopAgent,
        Self::BitRot,
        Self::DiskFull,
        Self::WritesFail,
        Self::SyncsFail,
        Self::ReadOnly,
        Self::OldImage,
        Self::NewCard,
        Self::Outage,
        Self::HalfOpen,
        Self::TakeOver,
        Self::BrokerRestart,
        Self::Losses,
        Self::Repeats,
        Self::Delays,
        Self::SlowLink,
        Self::KillCenter,
        Self::Rollback,
        Self::CenterClock,
        Self::ClockStep,
        Self::Boot1970,
        Self::Drift,
        Self::BadAnswers,
        Self::Unplug,
        Self::StuckLine,
        Self::SilentDevice,
        Self::DeviceRestart,
        Self::SlowDisk,
        Self::CenterDisk,
        Self::KillAtWrite,
        Self::FailsOnce,
        Self::HalfOpenDown,
    ];

    /// Whether it strikes at an instant; the others are there for the whole of a run.
    #[must_use]
    pub const fn strikes(self) -> bool {
        !matches!(
            self,
            Self::Losses
                | Self::Repeats
                | Self::Delays
                | Self::SlowLink
                | Self::CenterClock
                | Self::Boot1970
                | Self::Drift
                | Self::BadAnswers
        )
    }

    /// Whether it is drawn, and strikes, by numbers of its own: a kind that came after the others leaves the course of the
    /// runs that do not have it as it was.
    #[must_use]
    pub const fn is_apart(self) -> bool {
        matches!(
            self,
            Self::SlowDisk | Self::CenterDisk | Self::KillAtWrite | Self::FailsOnce | Self::HalfOpenDown
        )
    }

    /// Whether it is of lines and devices.
    #[must_use]
    pub const fn is_of_lines(self) -> bool {
        matches!(
            self,
            Self::BadAnswers | Self::Unplug | Self::StuckLine | Self::SilentDevice | Self::DeviceRestart
        )
    }

    /// Of a thousand runs so many have it. What replaces or spoils a disk leaves less to hold the agent to, so it is rarer.
    const fn share(self) -> u32 {
        match self {
            Self::OldImage | Self::NewCard => 80,
            Self::KillCenter | Self::KillAgent | Self::Outage | Self::BadAnswers => 400,
            Self::BitRot | Self::Rollback | Self::Boot1970 => 150,
            _ => 250,
        }
    }
}

/// An agent.
#[derive(Debug, Clone)]
pub struct Planned {
    /// How it is configured.
    pub config: Config,
    /// The loggers that are there, in the order of the configuration.
    pub loggers: Vec<logger::Setup>,
    /// The register maps of its devices.
    pub profiles: ProfileSet,
    /// Whether it has meters that remember.
    pub has_meters: bool,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How large it is.
    pub scale: Scale,
    /// How long things go wrong, in ms; after it all heals.
    pub bad_ms: u64,
    /// How long an agent's flush, longest interval and the rest may take after that, in ms.
    pub patience_ms: u64,
    /// Its agents.
    pub agents: Vec<Planned>,
    /// What goes wrong.
    pub mischief: Vec<Mischief>,
    /// What befalls devices with a memory.
    pub mishap: Mishap,
    /// People, and what befalls them.
    pub people: People,
    /// The collector's own sources, where it has any, and what befalls them.
    pub sourcing: Option<Sourcing>,
    /// Whom another device stands in for, where there is such a one.
    pub donation: Option<Donation>,
    /// Agreements about its devices, where there are any.
    pub agreements: Option<Agreements>,
    /// How often the collector looks after gaps and jobs, in ms.
    pub keep_ms: u64,
    /// How often the collector looks after alerts, in ms.
    pub alert_ms: u64,
    /// How long a collector whose transaction has failed waits, in ms.
    pub again_ms: u64,
    /// How often the collector's database is backed up, in ms.
    pub back_up_ms: u64,
    /// How often anything does, on average, in ms.
    pub mean_ms: u64,
    /// Whether any device has a memory that can be asked: a logger, or a meter with a load profile.
    pub remembers: bool,
    /// Whether its agent polls much, on a disk that others have filled, and is cut off for long: its outbox has to drop.
    pub is_hoarder: bool,
}

/// How often the collector looks after gaps and jobs in runs of weeks, in ms: where it does each second that alone takes
/// longer than all the rest. No divisor of a minute, so that each sixtieth of the devices has its turn.
const KEEP_WEEKS_MS: u64 = 7_000;
/// How often the collector looks after alerts, in ms: less often than its shell does. No divisor of a minute either.
const ALERT_MS: u64 = 7_000;
/// The same in runs of weeks.
const ALERT_WEEKS_MS: u64 = 67_000;
/// How long a collector whose transaction has failed waits, in ms, as its shell does; and in runs of weeks, whose disks are full
/// for days, where each time it takes up all that waits would take longer than all the rest.
const AGAIN_MS: u64 = 5_000;
const AGAIN_WEEKS_MS: u64 = 120_000;
/// One in so many runs is of an outbox that has to drop.
const HOARDERS_ONE_IN: u64 = 20;

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn draw(scale: Scale, rng: &mut Rng) -> Self {
        let mut apart = rng.clone().fork(7);
        let is_hoarder = scale == Scale::Hours && rng.one_in(HOARDERS_ONE_IN);
        let (bad_ms, intervals_ms): (u64, &[u64]) = match scale {
            Scale::Hours if is_hoarder => (1_200_000, &[2_000]),
            Scale::Hours if rng.one_in(4) => (rng.within(900_000, 3_600_000), &[10_000, 30_000]),
            Scale::Hours => (rng.within(900_000, 5_400_000), &[30_000, 60_000, 60_000, 120_000]),
            Scale::Weeks => (rng.within(7, 21) * 86_400_000, &[600_000, 1_800_000]),
        };
        let is_fleet = rng.clone().fork(9).one_in(4);
        let count = match !is_hoarder && rng.one_in(3) {
            true if is_fleet => 4,
            true => 2,
            false => 1,
        };
        // What has to do with memories moves no other draw: a run without any is what it was before there were some.
        let mut own = rng.clone().fork(6);
        let mut meters = rng.clone().fork(8);
        let agents = (0..count).map(|no| draw_agent(no, (intervals_ms, scale), rng, (&mut own, &mut meters)));
        let mut agents: Vec<Planned> = agents.collect();
        let has_loggers = agents.iter().any(|agent| !agent.loggers.is_empty());
        let mishap = Mishap::draw(has_loggers, bad_ms, &mut own);
        let people = People::draw(bad_ms, &mut rng.clone().fork(10));
        let sourcing = Sourcing::draw(scale, bad_ms, &mut rng.clone().fork(11));
        let lending = Donation::draw((scale, bad_ms), &mut agents, &sourcing, &mut rng.clone().fork(14));
        let (donation, sourcing) = lending.map_or((None, sourcing), |(one, all)| (Some(one), Some(all)));
        let agreements = Agreements::draw(bad_ms, &agents, &mut rng.clone().fork(17));
        let mut has = |kind: &Mischief| {
            if kind.is_apart() { apart.per_mille(kind.share()) } else { rng.per_mille(kind.share()) }
        };
        let mischief = Mischief::ALL.into_iter().filter(&mut has).collect();
        let mean_ms = bad_ms / rng.within(4, 24);
        // A command that the link has lost is given up after six hours.
        let remembers = has_loggers || agents.iter().any(|agent| agent.has_meters);
        let patience_ms = if remembers || sourcing.is_some() { 12 * 3_600_000 } else { 3 * 3_600_000 };
        let (keep_ms, alert_ms, again_ms, back_up_ms) = match scale {
            Scale::Hours => (1_000, ALERT_MS, AGAIN_MS, 1_200_000),
            Scale::Weeks => (KEEP_WEEKS_MS, ALERT_WEEKS_MS, AGAIN_WEEKS_MS, 86_400_000),
        };
        Self {
            scale,
            bad_ms,
            patience_ms,
            agents,
            mischief,
            mishap,
            people,
            sourcing,
            donation,
            agreements,
            keep_ms,
            alert_ms,
            again_ms,
            back_up_ms,
            mean_ms,
            remembers,
            is_hoarder,
        }
    }

    /// Whether this kind of bad luck is in it.
    #[must_use]
    pub fn has(&self, kind: Mischief) -> bool {
        self.mischief.contains(&kind)
    }
}

fn draw_agent(
    no: usize,
    (intervals_ms, scale): (&[u64], Scale),
    rng: &mut Rng,
    (own, meters): (&mut Rng, &mut Rng),
) -> Planned {
    let flush = match scale {
        Scale::Hours => *rng.pick(&["0s", "0s", "0s", "1m", "15m"]),
        Scale::Weeks => *rng.pick(&["0s", "15m", "1h"]),
    };
    let backlog = *rng.pick(&["oldest", "oldest", "newest"]);
    let policy = *rng.pick(&["drop-oldest", "drop-oldest", "drop-oldest", "drop-newest"]);
    let durability = *rng.pick(&["1s", "1s", "100ms", "5s"]);
    let mut toml = format!(
        "site = \"s{}\"\nagent = \"gw{no}\"\n[uplink]\nbroker = \"mqtt://broker\"\nflush = \"{flush}\"\n\
         backlog = \"{backlog}\"\n[outbox]\npath = \"/outbox\"\nbudget = \"1MiB\"\npolicy = \"{policy}\"\n\
         durability = \"{durability}\"\n",
        no % 2
    );
    for bus in 0..rng.within(1, 2) {
        draw_bus(no, bus, intervals_ms, &mut toml, rng);
    }
    let mut profiles = ProfileSet::default();
    profiles.insert(meter::profile());
    let has_meters = profiled::draw_meters(no, scale, &mut toml, &mut profiles, meters);
    let loggers = mishap::draw_loggers(no, scale, &mut toml, own);
    let config = Config::parse("simulated.toml", &toml, &profiles).expect("a drawn configuration is valid");
    Planned { config, loggers, profiles, has_meters }
}

fn draw_bus(no: usize, bus: u64, intervals_ms: &[u64], toml: &mut String, rng: &mut Rng) {
    let link = match rng.below(4) {
        0 | 1 => format!("serial = {{ port = \"/dev/line{no}-{bus}\", baud = 19200, parity = \"even\" }}"),
        2 => format!("tcp = {{ address = \"server{no}-{bus}:502\", framing = \"rtu\" }}"),
        _ => format!("tcp = {{ address = \"device{no}-{bus}:502\" }}"),
    };
    toml.push_str(&format!("[[bus]]\nid = \"bus{bus}\"\n{link}\ntimeout = \"200ms\"\n"));
    for unit in 1..=rng.within(1, 3) {
        let interval = rng.pick(intervals_ms);
        // One block of registers, or both: two requests that only their addresses tell apart.
        let channels =
            if rng.one_in(2) { "channels = [\"voltage\", \"energy_in\", \"time_a\"]\n" } else { "" };
        // Of every other one what is missing is given up within the hour: it has no memory.
        let class = if unit % 2 == 1 { "attributes = { class = \"hasty\" }\n" } else { "" };
        toml.push_str(&format!(
            "[[bus.device]]\nid = \"d{no}-{bus}-{unit}\"\nunit = {unit}\ninterval = \"{interval}ms\"\n\
             profile = \"simulated-meter\"\nmax_hole = 4\n{channels}{class}"
        ));
    }
}
