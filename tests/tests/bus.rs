//! The agent's bus on a paced line, in counts: nobody is passed over, silent intervals are kept, a dead unit costs
//! its neighbours nothing. How fast it is, is the bench `bus`'s business.

use std::time::Duration;

use gapless_agent::config::Parity;
use gapless_agent::event::BusEvent;
use gapless_common::quality::Quality;
use gapless_tests::line::Setup;

const PARITY: Parity = Parity::None;

#[test]
fn at_saturation_all_units_get_their_turn_and_every_gap_is_kept() {
    let setup =
        Setup { baud: 115_200, parity: PARITY, units: 10, interval_ms: 10, timeout_ms: 1_000, dead: None };
    let outcome = setup.run(Duration::from_secs(3)).unwrap();
    let counts: Vec<usize> = (0..10).map(|device| outcome.answers(device).count()).collect();
    let (fewest, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*fewest >= 2 && most - fewest <= 1, "{counts:?}");
    assert_eq!((outcome.line.violations, outcome.line.broken_frames), (0, 0), "{:?}", outcome.line);
    let all_good = outcome.log.iter().all(|(_, event)| match event {
        BusEvent::Answered { samples, .. } => {
            samples.len() == 19 && samples.iter().all(|sample| sample.quality == Quality::Good)
        }
        _ => true,
    });
    assert!(all_good);
    let totals = outcome.totals();
    assert_eq!(totals.answered, u64::try_from(counts.iter().sum::<usize>()).unwrap());
    assert!(totals.wire_us <= totals.busy_us, "{totals:?}");
}

#[test]
fn a_dead_unit_of_ten_leaves_the_other_nine_their_slots() {
    let setup = Setup {
        baud: 115_200,
        parity: PARITY,
        units: 10,
        interval_ms: 1_000,
        timeout_ms: 200,
        dead: Some(10),
    };
    let outcome = setup.run(Duration::from_secs(8)).unwrap();
    for device in 0..9 {
        assert_eq!(outcome.missed(device), 0, "device {device}");
        assert!(outcome.answers(device).count() >= 7, "device {device}");
    }
    assert_eq!(outcome.answers(9).count(), 0);
    assert!(outcome.missed(9) >= 7);
    assert_eq!(outcome.line.violations, 0, "{:?}", outcome.line);
}
