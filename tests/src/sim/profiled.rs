//! Meters that remember in a plan: devices on a line of their own whose load profile is collected, beside one that is
//! polled. They are drawn from a stream of their own. What befalls them is what befalls their line.
//!
//! # Not simulated
//! A meter's clock that is wrong, a memory that is cleared, half-written records: `tests/tests/load_profile.rs` has those.

use std::fmt::Write as _;

use gapless_common::profile::{Profile, ProfileSet};

use super::plan::Scale;
use super::rng::Rng;

/// One in so many agents has such meters.
const METERS_ONE_IN: u64 = 4;

/// How records are numbered, with the registers that say which there are.
const NUMBERINGS: [&str; 4] = [
    "numbering = \"ring\"\nnewest = { address = 100, type = \"u16\" }\ncount = { address = 101, type = \"u16\" }\n\
     stamp = { encoding = \"seconds-2000\" }",
    "numbering = \"ring\"\nfirst = 1\nnewest = { address = 100, type = \"u32\" }\nstamp = { encoding = \"bcd\" }",
    "numbering = \"running\"\nfirst = 1\nnewest = { address = 100, type = \"u32\" }\n\
     count = { address = 102, type = \"u16\" }\nstamp = { encoding = \"seconds-1970\", order = \"CDAB\" }",
    "numbering = \"running\"\nnewest = { address = 100, type = \"u32\" }\noldest = { address = 102, type = \"u32\" }\n\
     stamp = { encoding = \"bcd\" }\nlabel = \"start\"",
];
/// How one of them is read: behind a window, at a place of its own, or from a file.
const WAYS: [&str; 3] = [
    "window = { address = 300, select = { address = 299, type = \"u32\" }, pause = \"20ms\" }",
    "window = { table = \"input\", address = 1000 }",
    "file = { number = 3 }",
];
const ZONES: [&str; 2] = ["-07:00", "+00:00"];

/// Adds the meters of an agent to its configuration, and their register maps to `profiles`. Says whether there are any.
pub fn draw_meters(
    no: usize,
    scale: Scale,
    toml: &mut String,
    profiles: &mut ProfileSet,
    rng: &mut Rng,
) -> bool {
    if !rng.one_in(METERS_ONE_IN) {
        return false;
    }
    let link = match rng.below(3) {
        0 => format!("serial = {{ port = \"/dev/meters{no}\", baud = 19200, parity = \"even\" }}"),
        1 => format!("tcp = {{ address = \"meters{no}:502\", framing = \"rtu\" }}"),
        _ => format!("tcp = {{ address = \"meters{no}:502\" }}"),
    };
    let _ = write!(toml, "[[bus]]\nid = \"meters\"\n{link}\ntimeout = \"200ms\"\n");
    let count = rng.within(1, 2);
    for unit in 1..=count {
        draw_meter((no, unit), scale, toml, profiles, rng);
    }
    if rng.one_in(2) {
        let interval_ms = if scale == Scale::Hours { 10_000 } else { 600_000 };
        let _ = write!(
            toml,
            "[[bus.device]]\nid = \"beside{no}\"\nunit = {}\ninterval = \"{interval_ms}ms\"\nprofile = \"simulated-meter\"\n",
            count + 1
        );
    }
    true
}

fn draw_meter(
    (no, unit): (usize, u64),
    scale: Scale,
    toml: &mut String,
    profiles: &mut ProfileSet,
    rng: &mut Rng,
) {
    let (intervals_ms, capacity) = match scale {
        Scale::Hours => (&[10_000, 30_000, 60_000], rng.within(10, 200)),
        Scale::Weeks => (&[600_000, 900_000, 1_800_000], rng.within(20, 1_000)),
    };
    let (interval_ms, first) = (*rng.pick(intervals_ms), *rng.pick(&["0s", "5m", "1h", "24h"]));
    let (numbering, way, zone) = (*rng.pick(&NUMBERINGS), *rng.pick(&WAYS), *rng.pick(&ZONES));
    let id = format!("records-{no}-{unit}");
    let map = format!(
        "id = \"{id}\"\nmake = \"Gapless\"\nmodel = \"Recording\"\nkind = \"meter\"\nsource = \"profiled.rs\"\n\
         channel = [{{ id = \"voltage\", address = 0, type = \"f32\", unit = \"V\" }}]\n[load_profile]\n\
         interval = \"{interval_ms}ms\"\nregisters = 8\nzone = \"{zone}\"\ncapacity = {capacity}\n{numbering}\n{way}\n\
         field = [{{ id = \"energy\", address = 3, type = \"u32\", scale = 0.01, unit = \"kWh\", aggregation = \"counter\" }},\n\
         {{ id = \"power\", address = 5, type = \"f32\", unit = \"W\", aggregation = \"mean\" }}]\n"
    );
    profiles.insert(Profile::parse("profiled.rs", &map).expect("a drawn register map is good"));
    let class = if rng.one_in(2) { "attributes = { class = \"hasty\" }\n" } else { "" };
    let _ = write!(
        toml,
        "[[bus.device]]\nid = \"{id}\"\nunit = {unit}\nprofile = \"{id}\"\ncollect = \"load-profile\"\n\
         first = \"{first}\"\n{class}"
    );
}
