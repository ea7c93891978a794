//! How a source of the collector is described in a run: the shipped description in other words, with figures drawn for a run, and
//! what its API is like. Nothing happens here.

use gapless_common::time::Timestamp;
use gapless_simulators::remote::quota::Quota;

use super::api::{Api, UTILITIES};
use super::clock::{BEGAN_MS, signed};
use super::donor::Says;
use super::door::LogIn;
use super::listing::{LISTED, List, Listing};
use super::plan::Scale;
use super::rng::Rng;
use super::way::Way;

/// The description that is shipped, of which each run has another version.
const SHIPPED: &str = include_str!("../../../collector/sources/half-hourly-meter.toml");
/// The site of all of them but those that lend.
pub const SITE: &str = "h";
const MINUTE_MS: i64 = 60_000;

/// A source, as its description has it, and what its API is like.
#[derive(Debug, Clone)]
pub struct Described {
    /// Its number, and that of its API.
    pub no: usize,
    /// The site of its devices.
    pub site: String,
    /// What the values of its meters say, where that is not what the shipped description has.
    pub says: Says,
    /// The distance of its values.
    pub interval_ms: i64,
    /// How often it is asked.
    pub every_ms: i64,
    /// What is not there after so long is missing.
    pub lag_ms: i64,
    /// So much is read again.
    pub overlap_ms: i64,
    /// The longest window.
    pub window_ms: i64,
    /// So many calls in that time.
    pub rate: (u32, i64),
    /// How often a meter is asked that cannot be reached.
    pub unreachable_ms: i64,
    /// Whose calls are counted together.
    pub account: &'static str,
    /// Which consent is in force.
    pub consent: u32,
    /// Its API says how many calls are left.
    pub has_quota: bool,
    /// What it is asked besides windows.
    pub way: Way,
    /// How it comes by tokens, where its API wants any.
    pub log_in: Option<LogIn>,
    /// How it is asked for its devices, where its description does not have them.
    pub listing: Option<Listing>,
    class: &'static str,
    /// The first value of its API, and how long each takes to be there.
    oldest: Timestamp,
    delay_ms: i64,
}

impl Described {
    pub(super) fn draw(no: usize, scale: Scale, rng: &mut Rng) -> Self {
        let minutes: &[i64] = if scale == Scale::Hours { &[1, 1, 2, 5] } else { &[30, 60] };
        let interval_ms = *rng.pick(minutes) * MINUTE_MS;
        Self::every(no, interval_ms, scale, rng)
    }

    /// One whose values have this distance.
    pub(super) fn every(no: usize, interval_ms: i64, scale: Scale, rng: &mut Rng) -> Self {
        let (per_ms, class) = match scale {
            Scale::Hours => (10 * MINUTE_MS, "remote"),
            Scale::Weeks => (24 * 60 * MINUTE_MS, "http"),
        };
        let times = |rng: &mut Rng, first, last| signed(rng.within(first, last)) * interval_ms;
        let (overlap_ms, window_ms) = (times(rng, 0, 10), *rng.pick(&[10, 30, 120]) * interval_ms);
        // Of each of two devices as many each time as hold what is new and what is read again, and as many again twice for what is
        // missing: that has half of all calls.
        let each = 2 * (1 + (overlap_ms + interval_ms) / window_ms);
        let usual = u32::try_from(each * per_ms / interval_ms).expect("some dozens");
        let most = 3 * usual + u32::try_from(rng.within(6, 20)).expect("few");
        Self {
            no,
            site: SITE.to_owned(),
            says: Says::default(),
            interval_ms,
            every_ms: interval_ms,
            lag_ms: times(rng, 3, 15),
            overlap_ms,
            window_ms,
            rate: (most, per_ms),
            unreachable_ms: times(rng, 2, 10),
            account: "",
            consent: 0,
            has_quota: false,
            way: Way::Windows,
            log_in: None,
            listing: None,
            class,
            oldest: Timestamp(BEGAN_MS).plus_ms(-times(rng, 5, 300)),
            delay_ms: signed(rng.below(interval_ms.unsigned_abs() / 2)),
        }
    }

    /// The meters of its API.
    #[must_use]
    pub fn utilities(&self) -> &'static [&'static str] {
        if self.listing.is_some() { &LISTED } else { &UTILITIES }
    }

    /// The name of one of its devices.
    #[must_use]
    pub fn device(&self, utility: &str) -> String {
        format!("{utility}{}", self.no)
    }

    /// The name of the agent that counts for it.
    #[must_use]
    pub fn agent(&self, utility: &str) -> String {
        format!("m{}-{}", self.no, self.device(utility))
    }

    /// The shipped description in other words.
    pub(super) fn text(&self) -> String {
        let Self { no, site, rate: (most, per_ms), account, consent, class, .. } = self;
        let ms = |name: &str, ms: i64| format!("{name} = \"{ms}ms\"");
        let own = if account.is_empty() { String::new() } else { format!("account = \"{account}\"\n") };
        let more = format!(
            "{own}class = \"{class}\"\n{}\ncalls = [{{ most = {most}, per = \"{per_ms}ms\" }}]\n{}",
            ms("overlap", self.overlap_ms),
            ms("every", self.every_ms)
        );
        let words = [
            ("site = \"home-1\"", format!("site = \"{site}\"")),
            ("name = \"meters\"", format!("name = \"m{no}\"")),
            ("http://127.0.0.1:9400", format!("http://api{no}")),
            ("window = \"90d\"", ms("window", self.window_ms)),
            ("lag = \"2d\"", ms("lag", self.lag_ms)),
            ("every = \"30m\"", more),
            ("every_least = \"10m\"", ms("every_least", self.every_ms)),
            ("unreachable_every = \"7d\"", ms("unreachable_every", self.unreachable_ms)),
            ("consent = \"2026\"", format!("consent = \"{consent}\"")),
            ("name = \"electricity\"", format!("name = \"electricity{no}\"")),
            ("name = \"gas\"", format!("name = \"gas{no}\"")),
            ("interval = \"30m\"", ms("interval", self.interval_ms)),
        ];
        let words = words.into_iter().map(|(from, to)| (from.to_owned(), to)).chain(self.says.words());
        let text = words.fold(SHIPPED.to_owned(), |text, (from, to)| {
            assert!(text.contains(&from), "the shipped description has no `{from}`");
            text.replace(&from, &to)
        });
        let text = self.listing.iter().fold(text, |text, listing| listing.describe(self, &text));
        let text = self.way.describe(*no, text);
        self.log_in.iter().fold(text, |text, log_in| text + &log_in.describe())
    }

    /// The first instant of which its API has a value.
    #[must_use]
    pub fn oldest(&self) -> Timestamp {
        self.oldest
    }

    /// The class of its devices.
    #[must_use]
    pub fn class(&self) -> &'static str {
        self.class
    }

    pub(super) fn api(&self) -> Api {
        let quota = self.has_quota.then(|| Quota::new(self.rate.0, self.rate.1));
        let mut api = Api::new(self.oldest, self.interval_ms, self.delay_ms, quota);
        (api.feed.most, api.feed.utilities) = (self.way.changes_most(), self.utilities());
        api.list = List::new(self);
        api
    }
}
