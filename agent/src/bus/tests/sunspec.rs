//! SunSpec devices through the shell: their models are found, and found again when they have moved.

use gapless_common::profile::{SUNSPEC_BASES, SunSpec};

use super::*;
use crate::event::DeviceCondition;

/// The registers of a device with these models, as (id, length); those of a model hold its id.
fn image(base: u16, models: &[(u16, u16)]) -> BTreeMap<u16, u16> {
    let mut words = vec![0x5375, 0x6E53];
    for &(id, length) in models {
        words.extend([id, length]);
        words.extend(std::iter::repeat_n(id, usize::from(length)));
    }
    words.extend([0xFFFF, 0]);
    (base..).zip(words).collect()
}

/// A device with a channel in each of these models.
fn in_models(interval_ms: u64, models: &[u16]) -> Device {
    let mut device = device(0, 7, interval_ms, models);
    device.sunspec = Some(SunSpec { bases: SUNSPEC_BASES.to_vec() });
    for (channel, model) in device.channels.iter_mut().zip(models) {
        channel.location = Location::SunSpec { model: *model, offset: 3 };
    }
    device
}

#[test]
fn models_are_found_wherever_they_are() {
    type Read = Result<Vec<Result<f64, Quality>>, &'static str>;
    let rows: [(BTreeMap<u16, u16>, Read); 7] = [
        (image(40_000, &[(1, 66), (103, 50)]), Ok(vec![Ok(1.0), Ok(103.0)])),
        (image(50_000, &[(103, 50), (1, 66)]), Ok(vec![Ok(1.0), Ok(103.0)])),
        (image(0, &[(1, 66), (120, 4), (103, 50)]), Ok(vec![Ok(1.0), Ok(103.0)])),
        // The model of the channel is too short for it; what says who made the device is there all the same.
        (image(40_000, &[(1, 66), (103, 1)]), Ok(vec![Ok(1.0), Err(Quality::NoData)])),
        // Who made the device is no measurement: the device is of another kind.
        (
            image(40_000, &[(1, 66), (101, 50)]),
            Err("device d7 has SunSpec models 1, 101, not 103: choose the profile of one of these"),
        ),
        (
            image(40_000, &[(101, 50)]),
            Err("device d7 has SunSpec models 101, not 103: choose the profile of one of these"),
        ),
        (BTreeMap::from([(0, 7), (1, 7)]), Err("device d7 has no SunSpec models")),
    ];
    for (registers, expected) in rows {
        for open in [End::serial, End::tcp, End::rtu_over_tcp] {
            let script = Script::new(&[Do::Answer]);
            script.serve(registers.clone());
            let end = open(&script);
            let bus = end.bus(vec![in_models(1_000, &[1, 103])]);
            let read = read_once(&bus, &bus.devices[0]);
            let read = read.map(|samples| values(&samples)).map_err(|error| error.to_string());
            assert_eq!(read, expected.clone().map_err(str::to_owned), "on {}", bus.link);
        }
    }
}

#[test]
fn models_that_move_are_found_again_within_the_poll() {
    let script = Script::new(&[Do::Answer]);
    script.serve(image(40_000, &[(1, 66), (103, 50)]));
    let end = End::serial(&script);
    let mut running = Running::start(end.bus(vec![in_models(100, &[103])]), ClockTrust::Always);
    running.until("an answer", answered);
    // Where model 103 was, there is another one; and then nothing at all.
    for moved in [image(40_000, &[(1, 66), (120, 50), (103, 50)]), image(50_000, &[(103, 50)])] {
        script.serve(moved);
        for _ in 0..3 {
            running.until("an answer", answered);
        }
    }
    let events = running.stop();
    check_account(&events);
    let read: Vec<Result<f64, Quality>> = events
        .iter()
        .filter_map(|event| match event {
            BusEvent::Answered { samples, .. } => Some(values(samples)),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(read.iter().all(|value| *value == Ok(103.0)), "{read:?}");
}

#[test]
fn a_device_without_the_models_is_alive() {
    let script = Script::new(&[Do::Answer]);
    script.serve(image(40_000, &[(101, 50)]));
    let end = End::tcp(&script);
    let mut running = Running::start(end.bus(vec![in_models(100, &[103])]), ClockTrust::Always);
    let why = "device d7 has SunSpec models 101, not 103: choose the profile of one of these";
    running.until(
        "what is wrong",
        |e| matches!(e, BusEvent::Complaint { why: Some(told), .. } if **told == *why),
    );
    let refused = Cause::Refused(ExceptionCode(2));
    running.until(
        "the cause",
        |e| matches!(e, BusEvent::Device { last_error: Some(cause), .. } if *cause == refused),
    );
    // A firmware update brings the model.
    script.serve(image(40_000, &[(101, 50), (103, 50)]));
    running.until("an answer", answered);
    running.until("that it is well again", |e| matches!(e, BusEvent::Complaint { why: None, .. }));
    let events = running.stop();
    check_account(&events);
    let aside = |e: &BusEvent| matches!(e, BusEvent::Device { condition, .. } if *condition != DeviceCondition::Online);
    assert!(!events.iter().any(aside), "{events:?}");
}
