//! The accounts of sources: who is asked one call at a time, what an account allows, and what was used of it. All limits of an
//! account are known before its first call, so that none of its sources forgets a call that another one counts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;

use super::auth::{Grant, OauthSpec};
use super::describe::Description;
use super::failure::Failure;
use super::ground::Ground;
use super::login::Login;
use crate::jobs::budget::{Limits, Rate, Urgency, Used, Verdict};
use crate::jobs::claims::{Claims, Who};

/// Who is asked one call at a time: what it allows, and what was used of it.
#[derive(Debug)]
pub(super) struct Account {
    name: String,
    /// Not before this instant.
    pub(super) hold: Timestamp,
    limits: Limits,
    /// The longest that an answer may take.
    timeout_ms: i64,
    /// What was used, once it is known.
    used: Option<Used>,
    /// Those that were refused a call.
    claims: Claims,
    /// Those whose last call was one too many.
    refused: BTreeMap<Who, Refused>,
    last_who: u64,
}

/// How often one was told in a row that there are too many calls, and until when it rests.
#[derive(Debug, Default)]
struct Refused {
    times: u32,
    until: Timestamp,
}

/// One that was refused so often in a row rests by itself.
const REFUSED_MAX: u32 = 3;
/// How long, at first and at most: doubled with each further time.
const REST_MS_FIRST: i64 = 60_000;
const REST_MS_MAX: i64 = 3_600_000;

/// The accounts of this process by name: sources of one share it. And where tokens are had: who names the same has the same, or a
/// refresh token that is good for once would lock the other one out.
#[derive(Default)]
pub(super) struct Accounts {
    accounts: BTreeMap<String, Arc<Mutex<Account>>>,
    logins: BTreeMap<OauthSpec, Arc<Mutex<Login>>>,
    /// How tokens are had by each refresh token, and the file that says so.
    grants: BTreeMap<Grant, (OauthSpec, String)>,
}

impl Accounts {
    /// What the account of a source allows; to be told of all sources before any of them is started.
    pub(super) fn limit(&mut self, description: &Description) {
        let account = self.of(description);
        let mut account = locked(&account);
        let rates = description.calls.iter().map(|calls| Rate { calls_max: calls.most, per_ms: calls.per.0 });
        account.limits.rates.extend(rates);
        account.timeout_ms = account.timeout_ms.max(description.timeout.0);
    }

    /// How the source that `file` describes has its tokens; to be told of all sources, too.
    ///
    /// # Errors
    /// Another one has them by the same refresh token in another way.
    pub(super) fn grant(&mut self, description: &Description, file: &str) -> Result<(), String> {
        let Some(spec) = &description.auth.oauth2 else { return Ok(()) };
        let Some(grant) = spec.grant() else { return Ok(()) };
        let (first, other) = self.grants.entry(grant).or_insert_with(|| (spec.clone(), file.to_owned()));
        if first == spec {
            return Ok(());
        }
        // One of both would use up the token that the other one has.
        Err(format!(
            "`auth.oauth2` has the `token_url`, `client_id` and `refresh_token` of the one in {other}, and differs in something else: \
             write the same in both, or have a refresh token granted for each"
        ))
    }

    /// The name of a source's account.
    pub(super) fn name(description: &Description) -> String {
        let own = || format!("{}/{}", description.site, description.name);
        description.account.clone().unwrap_or_else(own)
    }

    /// The account of a source.
    pub(super) fn of(&mut self, description: &Description) -> Arc<Mutex<Account>> {
        let name = Self::name(description);
        let account = self.accounts.entry(name.clone());
        Arc::clone(account.or_insert_with(|| Arc::new(Mutex::new(Account::new(name)))))
    }

    /// Where the tokens of that description are had; `make` is how it begins.
    pub(super) fn login<E>(
        &mut self,
        spec: &OauthSpec,
        make: impl FnOnce() -> Result<Login, E>,
    ) -> Result<Arc<Mutex<Login>>, E> {
        if let Some(login) = self.logins.get(spec) {
            return Ok(Arc::clone(login));
        }
        let login = Arc::new(Mutex::new(make()?));
        self.logins.insert(spec.clone(), Arc::clone(&login));
        Ok(login)
    }
}

impl Account {
    fn new(name: String) -> Self {
        let (hold, limits, claims) = (Timestamp::default(), Limits::at_once(1), Claims::default());
        Self { name, hold, limits, timeout_ms: 0, used: None, claims, refused: BTreeMap::new(), last_who: 0 }
    }

    /// A number that nobody else of the account has.
    pub(super) fn who(&mut self) -> Who {
        self.last_who += 1;
        Who(self.last_who)
    }

    /// Until when it is left alone, where it is at `now`: no longer than `most_ms`, though the clock was set back.
    pub(super) fn held(&mut self, most_ms: i64, now: Timestamp) -> Option<Timestamp> {
        self.hold = self.hold.min(now.plus_ms(most_ms));
        Some(self.hold).filter(|until| *until > now)
    }

    /// Writes a call down before it is made, so that a restart forgets none.
    pub(super) fn spend(
        &mut self,
        ground: &dyn Ground,
        asks: (Who, Urgency),
        now: Timestamp,
    ) -> Result<(), Failure> {
        let Self { name, limits, timeout_ms, used, claims, .. } = self;
        let since = now.plus_ms(-limits.per_ms_max() - *timeout_ms);
        let used = match used {
            Some(used) => used,
            // Nothing is counted, and the source has not said what is left.
            None if limits.rates.is_empty() => return Ok(()),
            None => {
                let calls = ground.calls(name, since)?;
                used.insert(Used::of(calls.into_iter().map(|at| counted(at, *timeout_ms, now)).collect()))
            }
        };
        match claims.may(used, limits, asks, now) {
            Verdict::Go => {}
            _ if planted::has(Bug::CallsBeyondLimit) => {}
            Verdict::Wait => return Err(Failure::Spent(now)),
            Verdict::NotBefore(until) => return Err(Failure::Spent(until)),
        }
        if !limits.rates.is_empty() {
            match ground.called(name, now, since) {
                Some(true) => {}
                Some(false) => return Err(Failure::Uncounted),
                None => return Err(Failure::Ending),
            }
        }
        used.began(limits, now);
        Ok(())
    }

    /// The source says what is left of its own count.
    pub(super) fn said(&mut self, limit: Option<u32>, left: u32, until: Timestamp) {
        self.used.get_or_insert_default().said(limit, left, until);
    }

    /// Until when one that asks rests at `now`, because it was refused too often.
    pub(super) fn rests(&mut self, who: Who, now: Timestamp) -> Option<Timestamp> {
        let refused = self.refused.get_mut(&who)?;
        // No longer than that, though the clock was set back.
        refused.until = refused.until.min(now.plus_ms(REST_MS_MAX));
        Some(refused.until).filter(|until| *until > now)
    }

    /// What one asks was answered that there were too many calls. Where it always is, it is not the account that has made too
    /// many: returns until when that one rests by itself, in place of all.
    pub(super) fn too_many(&mut self, who: Who, now: Timestamp) -> Option<Timestamp> {
        let refused = self.refused.entry(who).or_default();
        refused.times = refused.times.saturating_add(1);
        let beyond = refused.times.checked_sub(REFUSED_MAX)?;
        refused.until = now.plus_ms(REST_MS_FIRST.saturating_mul(1 << beyond.min(16)).min(REST_MS_MAX));
        Some(refused.until)
    }

    /// It was answered something else.
    pub(super) fn not_too_many(&mut self, who: Who) {
        self.refused.remove(&who);
    }

    /// The call that was made last was answered.
    fn ended(&mut self, now: Timestamp) {
        if let Some(used) = &mut self.used {
            used.ended_last(now);
        }
    }
}

/// A call that was written down and is being made: it has ended once this is dropped, whatever happens meanwhile.
pub(super) struct UnderWay<'a> {
    pub(super) account: &'a mut Account,
    pub(super) ground: &'a dyn Ground,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.account.ended(self.ground.now());
    }
}

/// When a call counts that was made before the start: it was answered by then, nobody knows when; and one of a time that has not
/// come was made before the clock was set back.
fn counted(at: Timestamp, timeout_ms: i64, now: Timestamp) -> Timestamp {
    at.min(now).plus_ms(timeout_ms)
}

pub(super) fn locked(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::sync::mpsc;

    use super::super::ground::Process;
    use super::*;
    use crate::ingest::Orders;

    const FLEET: &str = include_str!("../../sources/thermostat-fleet.toml");

    fn described(words: &[(&str, &str)]) -> Description {
        let text = words.iter().fold(FLEET.to_owned(), |text, (from, to)| {
            assert!(text.contains(from), "{from}");
            text.replace(from, to)
        });
        Description::read(&text).unwrap()
    }

    #[test]
    fn sources_of_one_account_share_all_limits_of_it() {
        let mut accounts = Accounts::default();
        let week =
            [("name = \"fleet\"", "name = \"b\"\ntimeout = \"50s\""), ("per = \"1d\"", "per = \"7d\"")];
        let [a, b, c] = [&[][..], &week, &[("account = \"fleet\"", "consent = \"1\"")]].map(described);
        [&a, &b, &c].into_iter().for_each(|description| accounts.limit(description));
        let [one, other, own] = [&a, &b, &c].map(|description| accounts.of(description));
        assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &own));
        let a = locked(&one).who();
        let b = locked(&other).who();
        assert_ne!(a, b);
        let account = locked(&one);
        let all = (account.limits.rates.len(), account.limits.per_ms_max(), account.timeout_ms);
        assert_eq!(all, (4, 7 * 86_400_000, 50_000));
    }

    #[test]
    fn one_refresh_token_is_used_in_one_way() {
        let oauth = |words: &str| {
            let head =
                "[auth.oauth2]\ntoken_url = \"https://h/t\"\nclient_id = \"c\"\nclient_secret = \"s\"\n";
            let header = "headers = { \"authorization\" = \"@/etc/gapless/thermostats.token\" }";
            described(&[(header, ""), ("[list]", &format!("{head}{words}\n[list]"))])
        };
        let refresh = "refresh_token = \"@r\"\n";
        let (own, read) = (oauth(refresh), oauth(&format!("{refresh}scope = \"read\"")));
        let rows = [
            (&own, &own, false),
            (&own, &read, true),
            (&own, &oauth("refresh_token = \"@other\"\nscope = \"read\""), false),
            // By its own secret a client may have as many as it likes.
            (&oauth(""), &oauth("scope = \"read\""), false),
            (&own, &described(&[]), false),
        ];
        for (first, second, is_wrong) in rows {
            let mut accounts = Accounts::default();
            accounts.grant(first, "one.toml").unwrap();
            let why = accounts.grant(second, "two.toml").err();
            assert_eq!(why.is_some(), is_wrong, "{why:?}");
            assert!(why.is_none_or(|why| why.contains("of the one in one.toml")));
        }
    }

    #[test]
    fn a_call_ends_though_whoever_makes_it_panics() {
        use std::panic::{AssertUnwindSafe, catch_unwind};
        let mut account = Account::new("a".to_owned());
        account.said(None, 9, Timestamp(9_000));
        let may = |account: &mut Account| {
            let Account { used, limits, .. } = account;
            used.as_mut().map(|used| used.may(limits, Urgency::Asked, Timestamp(0)))
        };
        account.used.as_mut().unwrap().began(&Limits::at_once(1), Timestamp(0));
        assert_eq!(may(&mut account), Some(Verdict::Wait), "one at a time");
        let ground = Process::new(Path::new("/nowhere"), &Orders::to(&mpsc::channel(1).0));
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let _under_way = UnderWay { account: &mut account, ground: &ground };
            panic!("a fault")
        }));
        assert!(ended.is_err());
        assert_eq!(may(&mut account), Some(Verdict::Go));
    }

    #[test]
    fn a_clock_that_is_set_back_has_an_account_rest_no_longer_than_it_may() {
        let mut account = Account::new("a".to_owned());
        account.hold = Timestamp(1_000_000);
        for (now, expected) in [(999_500, Some(1_000_000)), (0, Some(900)), (500, Some(900)), (900, None)] {
            assert_eq!(account.held(900, Timestamp(now)), expected.map(Timestamp), "{now}");
        }
    }

    #[test]
    fn one_that_is_refused_time_and_again_rests_longer_each_time_and_no_longer_than_it_may() {
        let mut account = Account::new("a".to_owned());
        let (who, other) = (account.who(), account.who());
        let rests: Vec<_> =
            (0..12).map(|_| account.too_many(who, Timestamp(0)).map(|until| until.0)).collect();
        assert_eq!(rests[..5], [None, None, Some(60_000), Some(120_000), Some(240_000)]);
        assert_eq!(rests[11], Some(REST_MS_MAX));
        assert_eq!(account.rests(other, Timestamp(0)), None);
        // A clock that is set back keeps nothing waiting for longer than that.
        for (now, expected) in [(-9 * REST_MS_MAX, Some(-8 * REST_MS_MAX)), (-8 * REST_MS_MAX, None)] {
            assert_eq!(account.rests(who, Timestamp(now)), expected.map(Timestamp), "{now}");
        }
        account.not_too_many(who);
        assert_eq!((account.rests(who, Timestamp(0)), account.too_many(who, Timestamp(0))), (None, None));
    }

    #[test]
    fn a_call_of_a_time_that_has_not_come_counts_from_now_on() {
        for (at, now, expected) in [(50, 100, 80), (100, 100, 130), (9_000_000, 100, 130)] {
            assert_eq!(counted(Timestamp(at), 30, Timestamp(now)), Timestamp(expected), "{at}");
        }
    }
}
