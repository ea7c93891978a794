//! One call to a source over HTTP: whether its account has one left, its answer, or why there is none, and how long the source
//! is to be left alone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use gapless_common::time::Timestamp;

use super::describe::{Description, Quota};
use super::failure::Failure;
use crate::ingest::Orders;
use crate::jobs::budget::{Limits, Rate, Urgency, Used, Verdict};
use crate::store::{sources, sqlite};
use crate::{authorities, clock};

/// The longest answer.
const BODY_BYTES_MAX: u64 = 32 << 20;
/// A source that says *too many* without saying for how long is left alone for so long.
const HOLD_MS: i64 = 60_000;
/// A source is left alone for so long at least, and at most, whatever it says: its clock may be wrong.
const HOLD_MS_RANGE: (i64, i64) = (5_000, 86_400_000);
/// A number of seconds beyond it is an instant (2001), below it a time to wait.
const SECONDS_MAX: i64 = 1_000_000_000;

/// Who is asked one call at a time: what it allows, and what was used of it.
#[derive(Debug)]
struct Account {
    /// Not before this instant.
    hold: Timestamp,
    limits: Limits,
    /// What was used, once it is known.
    used: Option<Used>,
}

impl Default for Account {
    fn default() -> Self {
        Self { hold: Timestamp::default(), limits: Limits::at_once(1), used: None }
    }
}

/// The accounts of this process by name: sources of one share it.
static ACCOUNTS: LazyLock<Mutex<BTreeMap<String, Arc<Mutex<Account>>>>> = LazyLock::new(Mutex::default);

/// Where calls are counted, so that a restart forgets none.
pub(super) struct Budget {
    pub(super) database: PathBuf,
    pub(super) orders: Orders,
}

/// Calls a source. See the module.
pub(super) struct Caller {
    http: ureq::Agent,
    headers: Vec<(String, String)>,
    name: String,
    account: Arc<Mutex<Account>>,
    budget: Budget,
    timeout_ms: i64,
    quota: Option<Quota>,
    withdrawn: Vec<u16>,
    unreachable: Vec<u16>,
}

impl Caller {
    /// With the headers of each request.
    pub(super) fn new(description: &Description, headers: Vec<(String, String)>, budget: Budget) -> Self {
        let timeout_ms = description.timeout.0;
        let http = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_millis(timeout_ms.unsigned_abs())))
            .tls_config(authorities::tls(&authorities::pem(None).unwrap_or_default()))
            .user_agent(concat!("gapless-collector/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        let own = || format!("{}/{}", description.site, description.name);
        let name = description.account.clone().unwrap_or_else(own);
        let account = {
            let mut accounts = ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(accounts.entry(name.clone()).or_default())
        };
        let rates = description.calls.iter().map(|calls| Rate { calls_max: calls.most, per_ms: calls.per.0 });
        locked(&account).limits.rates.extend(rates);
        Self {
            http,
            headers,
            name,
            account,
            budget,
            timeout_ms,
            quota: description.quota.clone(),
            withdrawn: description.withdrawn.clone(),
            unreachable: description.unreachable.clone(),
        }
    }

    /// The body of the answer to a GET, where what the account allows leaves a call for what is so urgent.
    pub(super) fn get(&self, url: &str, urgency: Urgency) -> Result<String, Failure> {
        let mut account = locked(&self.account);
        let now = clock::now();
        if account.hold > now {
            return Err(Failure::Hold(account.hold));
        }
        self.spend(&mut account, urgency, now)?;
        let answer = self.ask(&mut account.hold, url, now);
        if let Some(used) = &mut account.used {
            used.ended_last(clock::now());
        }
        answer
    }

    /// Writes a call down before it is made.
    fn spend(&self, account: &mut Account, urgency: Urgency, now: Timestamp) -> Result<(), Failure> {
        let Account { limits, used, .. } = account;
        if limits.rates.is_empty() {
            return Ok(());
        }
        let since = now.plus_ms(-limits.per_ms_max() - self.timeout_ms);
        let used = match used {
            Some(used) => used,
            None => {
                let connection = sqlite::open_reader(&self.budget.database)?;
                let calls = sources::calls(&connection, &self.name, since)?;
                // What was made before the start was answered by then, nobody knows when.
                used.insert(Used::of(calls.iter().map(|at| at.plus_ms(self.timeout_ms)).collect()))
            }
        };
        match used.may(limits, urgency, now) {
            Verdict::Go => {}
            Verdict::Wait => return Err(Failure::Spent(now)),
            Verdict::NotBefore(until) => return Err(Failure::Spent(until)),
        }
        match self.budget.orders.called(&self.name, now, since) {
            Some(true) => {}
            Some(false) => return Err(Failure::Uncounted),
            None => return Err(Failure::Ending),
        }
        used.began(limits, now);
        Ok(())
    }

    fn ask(&self, hold: &mut Timestamp, url: &str, now: Timestamp) -> Result<String, Failure> {
        let mut request = self.http.get(url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let mut answer = request.call().map_err(|error| Failure::Transport(error.to_string()))?;
        let status = answer.status().as_u16();
        let header = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let after = header("retry-after").and_then(|text| wait_until(text, now));
        let spent = self.quota.as_ref().filter(|quota| header(&quota.remaining).map(str::trim) == Some("0"));
        let more = spent.map(|quota| header(&quota.reset).and_then(|text| wait_until(text, now)));
        let body = answer.body_mut().with_config().limit(BODY_BYTES_MAX).read_to_string();
        let bounded = |until: Option<Timestamp>| {
            let (least, most) = HOLD_MS_RANGE;
            until.unwrap_or(now.plus_ms(HOLD_MS)).clamp(now.plus_ms(least), now.plus_ms(most))
        };
        if let Some(more) = more {
            *hold = bounded(more);
        }
        // What a refusal says is for people: its status counts even where its words cannot be read.
        let short = || body.as_ref().map_or(String::new(), |body| body.chars().take(200).collect());
        match status {
            200 => body.map_err(|error| Failure::Transport(error.to_string())),
            status if self.withdrawn.contains(&status) => Err(Failure::Withdrawn(short())),
            status if self.unreachable.contains(&status) => Err(Failure::Unreachable(short())),
            429 | 503 if status == 429 || after.is_some() => {
                *hold = bounded(after).max(*hold);
                Err(Failure::Hold(*hold))
            }
            status => Err(Failure::Status(status, short())),
        }
    }
}

fn locked(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `Retry-After` (RFC 9110, section 10.2.3: seconds, or a date), or the seconds since 1970 of a quota's end.
fn wait_until(text: &str, now: Timestamp) -> Option<Timestamp> {
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
