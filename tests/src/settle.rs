//! Waiting until the collector has proof of everything up to an instant.

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

/// Waits until every device of the site is proven up to the last slot before `until`.
///
/// # Panics
/// When that takes longer than `within`.
pub fn until_proven(site: &Site, until: Timestamp, within: Duration) {
    let api = site.api();
    for spec in &site.spec.devices {
        let wanted = spec.grid().at(spec.grid().slot_at(until).plus(-1));
        wait::until(&format!("{} to be proven until {wanted}", spec.name), within, || {
            let device = api.get(&format!("/api/v1/devices/{SITE}/{}", spec.name))?;
            let proven = instant_ms(&device["proven_until"]).map_err(|_| device.to_string())?;
            if proven >= wanted.0 { Ok(()) } else { Err(device.to_string()) }
        });
    }
}
