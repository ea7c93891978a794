//! One call to a source over HTTP: its answer, or why there is none, and how long the source is to be left alone. Whether its
//! account has a call left is `account`'s, and which token it goes out with `login`'s.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gapless_common::planted::{self, Bug};
use gapless_common::time::Timestamp;

use super::account::{self, Account, UnderWay};
use super::auth::secret::hushed;
use super::auth::token::{Refusal, Standing};
use super::auth::{Credentials, bearer};
use super::describe::{Description, Quota, Whose};
use super::failure::Failure;
use super::ground::{Ground, Http, Request};
use super::login::{self, Login};
use super::url::{bare, whole, with_fields};
use crate::jobs::budget::Urgency;
use crate::jobs::claims::Who;
use crate::jobs::quota::UNTIL_MS_MAX;

/// The longest answer.
const BODY_BYTES_MAX: u64 = 32 << 20;
/// A source that says *too many* without saying for how long is left alone for so long.
const HOLD_MS: i64 = 60_000;
/// A source is left alone for so long at least, and at most, whatever it says: its clock may be wrong.
const HOLD_MS_RANGE: (i64, i64) = (5_000, UNTIL_MS_MAX);
/// A number of seconds beyond it is an instant (2001), below it a time to wait.
const SECONDS_MAX: i64 = 1_000_000_000;

/// Calls a source. See the module.
pub(super) struct Caller {
    ground: Arc<dyn Ground>,
    http: Arc<dyn Http>,
    credentials: Credentials,
    /// Where its tokens are had, where they expire.
    login: Option<Arc<Mutex<Login>>>,
    account: Arc<Mutex<Account>>,
    quota: Option<Quota>,
    withdrawn: Vec<u16>,
    withdrawn_of: Option<Whose>,
    unreachable: Vec<u16>,
}

/// What came of a call.
struct Reply {
    status: u16,
    /// Where it is to be asked instead.
    points_to: Option<String>,
    /// When it may be asked again.
    after: Option<Timestamp>,
    /// Of the calls of a time: how many there are, how many are left, and when there are more.
    left: Option<(Option<u32>, u32, Option<Timestamp>)>,
    body: Result<String, String>,
    /// When the call was made.
    at: Timestamp,
    /// It is 401, and another token was not tried.
    is_untried: bool,
}

impl Caller {
    /// For an account, with what each request says of who asks.
    pub(super) fn new(
        description: &Description,
        (credentials, login): (Credentials, Option<Arc<Mutex<Login>>>),
        account: Arc<Mutex<Account>>,
        ground: Arc<dyn Ground>,
    ) -> Self {
        let timeout = Duration::from_millis(description.timeout.0.unsigned_abs());
        Self {
            http: Arc::clone(&ground).http(timeout),
            ground,
            credentials,
            login,
            account,
            quota: description.quota.clone(),
            withdrawn: description.withdrawn.clone(),
            withdrawn_of: description.withdrawn_of,
            unreachable: description.unreachable.clone(),
        }
    }

    /// Now, by the wall clock.
    pub(super) fn now(&self) -> Timestamp {
        self.ground.now()
    }

    /// Its account.
    #[cfg(test)]
    pub(super) fn account(&self) -> &Mutex<Account> {
        &self.account
    }

    /// A number for what asks by itself.
    pub(super) fn who(&self) -> Who {
        account::locked(&self.account).who()
    }

    /// Whether one does not rest by itself.
    pub(super) fn free(&self, who: Who) -> Result<(), Failure> {
        account::locked(&self.account)
            .rests(who, self.now())
            .map_or(Ok(()), |until| Err(Failure::Rests(until)))
    }

    /// The body of the answer to a GET, where what the account allows leaves a call for what is so urgent.
    pub(super) fn get(&self, url: &str, asks: (Who, Urgency)) -> Result<String, Failure> {
        let mut account = account::locked(&self.account);
        let now = self.now();
        if let Some(until) = account.held(HOLD_MS_RANGE.1, now) {
            return Err(Failure::Hold(until));
        }
        if let Some(until) = account.rests(asks.0, now) {
            return Err(Failure::Rests(until));
        }
        let token = self.token(&mut account, asks)?;
        let mut reply = self.call(&mut account, url, asks, token.as_deref())?;
        if let (401, Some(login), Some(token)) = (reply.status, &self.login, &token) {
            // It may have been taken back before its time.
            let may_help = login::locked(login).tokens.refused(token, self.now());
            if may_help {
                let token = self.token(&mut account, asks)?;
                reply = self.call(&mut account, url, asks, token.as_deref())?;
                let (token, is_good) = (token.unwrap_or_default(), reply.status != 401);
                login::locked(login).tokens.tried_again(&token, is_good, self.now());
            }
            reply.is_untried = !may_help;
        }
        self.understood(&mut account, url, asks.0, reply)
    }

    /// The token that a call goes out with, where its source wants one that expires.
    fn token(&self, account: &mut Account, asks: (Who, Urgency)) -> Result<Option<String>, Failure> {
        let Some(login) = &self.login else { return Ok(None) };
        let mut login = login::locked(login);
        login.keep();
        let now = self.now();
        match login.tokens.standing(now) {
            Standing::Token(token) => return Ok(Some(token)),
            Standing::Rest(until, why) => return Err(Failure::TokenRests { until, why }),
            Standing::Ask => {}
        }
        // Who counts the calls of an account may well count this one.
        account.spend(&*self.ground, asks, now)?;
        let under_way = UnderWay { account, ground: &*self.ground };
        let asked = login.ask(&*self.ground, &*self.http);
        drop(under_way);
        let why_not = |why: String| Failure::NoToken { url: login.shown_url(), why };
        asked.map(Some).map_err(|refusal| match refusal {
            // For good only where the endpoint says so itself.
            Refusal::Ended(why) if self.withdrawn.contains(&401) => {
                Failure::Withdrawn { whose: Whose::Account, why: why_not(why).to_string() }
            }
            Refusal::Ended(why) | Refusal::Lasting(why) | Refusal::Passing(why) => why_not(why),
        })
    }

    /// Makes a call, where one is left.
    fn call(
        &self,
        account: &mut Account,
        url: &str,
        asks: (Who, Urgency),
        token: Option<&str>,
    ) -> Result<Reply, Failure> {
        let at = self.now();
        account.spend(&*self.ground, asks, at)?;
        let _under_way = UnderWay { account, ground: &*self.ground };
        let (url, bearer) = (with_fields(url, &self.credentials.query), token.map(bearer));
        let headers = self.credentials.headers.iter().map(|(name, text)| (name.as_str(), text.as_str()));
        let headers = headers.chain(bearer.as_deref().map(|text| ("authorization", text)));
        let request = Request {
            url: &url,
            headers: &headers.collect::<Vec<_>>(),
            body: None,
            body_bytes_max: BODY_BYTES_MAX,
        };
        let answer = self.http.exchange(&request);
        let answer = answer.map_err(|error| Failure::Transport(self.hushed(&error)))?;
        // What is said to be so many seconds off counts from when it was said (RFC 9110, section 10.2.3).
        let at = self.now();
        let header = |name: &str| answer.header(name);
        let left = self.quota.as_ref().and_then(|quota| {
            let number = |name: &str| header(name)?.trim().parse::<u32>().ok();
            let more = header(&quota.reset).and_then(|text| wait_until(text, at));
            Some((quota.limit.as_deref().and_then(number), number(&quota.remaining)?, more))
        });
        let (status, points_to) = (answer.status, header("location").map(str::to_owned));
        let after = header("retry-after").and_then(|text| wait_until(text, at));
        Ok(Reply { status, points_to, after, left, body: answer.body, at, is_untried: false })
    }

    /// What a reply means, for who asked and for the account.
    fn understood(
        &self,
        account: &mut Account,
        url: &str,
        who: Who,
        reply: Reply,
    ) -> Result<String, Failure> {
        let Reply { status, points_to, after, left, body, at, is_untried } = reply;
        let bounded = |until: Option<Timestamp>| {
            let (least, most) = HOLD_MS_RANGE;
            until.unwrap_or(at.plus_ms(HOLD_MS)).clamp(at.plus_ms(least), at.plus_ms(most))
        };
        if let Some((limit, left, more)) = left {
            // A period may be shorter than any rest.
            let until = more.unwrap_or(at.plus_ms(HOLD_MS)).min(at.plus_ms(HOLD_MS_RANGE.1));
            account.said(limit, left, until);
            if left == 0 {
                account.hold = bounded(more);
            }
        }
        if status != 429 {
            account.not_too_many(who);
        }
        // What a refusal says is for people: its status counts even where its words cannot be read.
        let short =
            || body.as_ref().map_or(String::new(), |body| self.hushed(body).chars().take(200).collect());
        match status {
            200 => body.map_err(|error| Failure::Transport(self.hushed(&error))),
            // Where another token was not tried, it may only be this one that is of no use.
            status if self.withdrawn.contains(&status) && !is_untried => {
                // Who asks is not known (RFC 9110, section 15.5.2), or may not have what was asked for (15.5.4).
                let usual = if status == 401 { Whose::Account } else { Whose::Device };
                Err(Failure::Withdrawn { whose: self.withdrawn_of.unwrap_or(usual), why: short() })
            }
            status if self.unreachable.contains(&status) => Err(Failure::Unreachable(short())),
            429 | 503 if status == 429 || after.is_some() => {
                let rests = if status == 429 { account.too_many(who, at) } else { None };
                if (rests.is_none() || after.is_some()) && !planted::has(Bug::RetryAfterIgnored) {
                    account.hold = bounded(after).max(account.hold);
                }
                Err(rests.map_or(Failure::Hold(account.hold), Failure::Rests))
            }
            301..=308 if points_to.is_some() => {
                let to = whole(url, &points_to.unwrap_or_default());
                // What is asked may hold a key.
                Err(Failure::Moved { status, url: bare(url).to_owned(), to: bare(&to).to_owned() })
            }
            status => Err(Failure::Status(status, short())),
        }
    }

    /// A text for people: a source may repeat what it was asked with.
    fn hushed(&self, text: &str) -> String {
        let text = hushed(text, self.credentials.secrets.iter().map(String::as_str));
        self.login.as_ref().map_or(text.clone(), |login| login::locked(login).tokens.hushed(&text))
    }
}

/// `Retry-After` (RFC 9110, section 10.2.3: seconds, or a date), or the seconds since 1970 of a quota's end.
pub(super) fn wait_until(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    match text.parse::<i64>() {
        Ok(seconds) if seconds > SECONDS_MAX => Some(Timestamp(seconds.checked_mul(1_000)?)),
        Ok(seconds) => Some(now.plus_ms(seconds.max(0).saturating_mul(1_000))),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?;
            Some(Timestamp(date.timestamp().as_millisecond()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_read_in_seconds_as_a_date_or_as_an_instant() {
        let now: Timestamp = "2026-11-06T08:00:00Z".parse().unwrap();
        let rows = [
            ("120", Some("2026-11-06T08:02:00Z")),
            (" 0 ", Some("2026-11-06T08:00:00Z")),
            ("-5", Some("2026-11-06T08:00:00Z")),
            ("Fri, 06 Nov 2026 08:49:37 GMT", Some("2026-11-06T08:49:37Z")),
            ("1793955600", Some("2026-11-06T09:00:00Z")),
            ("soon", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let expected = expected.map(|text| text.parse().unwrap());
            assert_eq!(wait_until(text, now), expected, "{text:?}");
        }
    }
}
