//! Waiting until the collector has proof of everything up to now.

use std::time::Duration;

use gapless_common::time::Timestamp;

use crate::api::instant_ms;
use crate::site::{SITE, Site};
use crate::wait;

/// The wall clock, as the processes under test read it.
///
/// # Panics
/// Before 1970.
#[must_use]
#[expect(clippy::disallowed_types, reason = "the one place of the tests that reads the wall clock")]
pub fn now() -> Timestamp {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    Timestamp(i64::try_from(since.as_millis()).expect("before the year 292 million"))
}

/// Waits until every device of the site is proven up to the instant of the call, which it gives back.
///
/// # Panics
/// When that takes longer than `within`.
#[must_use]
pub fn until_proven(site: &Site, within: Duration) -> Timestamp {
    let (until, api) = (now(), site.api());
    for spec in &site.spec.devices {
        // `proven_until` names the last slot that is proven, which may lie an interval before now.
        let wanted = until.plus_ms(-spec.interval.as_ms());
        wait::until(&format!("{} to be proven until {wanted}", spec.name), within, || {
            let device = api.get(&format!("/api/v1/devices/{SITE}/{}", spec.name))?;
            let proven = instant_ms(&device["proven_until"]).map_err(|_| device.to_string())?;
            if proven >= wanted.0 { Ok(()) } else { Err(device.to_string()) }
        });
    }
    until.plus_ms(-site.spec.devices.iter().map(|d| d.interval.as_ms()).max().unwrap_or(0))
}
