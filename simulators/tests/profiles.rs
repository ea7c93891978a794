//! Every embedded profile can be served: each channel stands where its map says, with a value in its valid range.

use gapless_common::profile::{ProfileSet, RegisterTable};
use gapless_common::reading::Value;
use gapless_simulators::modbus::{Device, DeviceKind};

const T: i64 = 1_767_225_600_000;

#[test]
fn every_channel_of_every_profile_is_served() {
    let mut channels = 0;
    for profile in ProfileSet::embedded().unwrap().iter() {
        let device = Device::new(&DeviceKind::Profile(Box::new(profile.clone())), 1, 1).unwrap();
        for placed in device.channels() {
            let [high, low] = placed.address.to_be_bytes();
            let count = u8::try_from(placed.spec.registers()).unwrap();
            let function = placed.spec.table.read_function();
            let answer = device.answer(&[function, high, low, 0, count], T);
            assert_eq!(answer[0], function, "{} {}", profile.id, placed.spec.id);
            let Value::Number(value) = device.truth(placed.spec.id.as_str(), T).unwrap() else { continue };
            if let Some((low, high)) = placed.spec.valid {
                assert!((low..=high).contains(&value), "{} {}: {value}", profile.id, placed.spec.id);
            }
            channels += 1;
        }
        if profile.is_sunspec() {
            let base = profile.sunspec.as_ref().unwrap().bases[0].to_be_bytes();
            let marker =
                device.answer(&[RegisterTable::HoldingRegister.read_function(), base[0], base[1], 0, 2], T);
            assert_eq!(&marker[2..], b"SunS", "{}", profile.id);
        }
    }
    assert!(channels > 100, "{channels}");
}
