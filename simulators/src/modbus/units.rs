//! The units behind one line or endpoint: finds the one that is asked, lets faults strike, writes the log.
//! Knows no framing and no pacing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::adu::Reply;
use super::device::{Device, DeviceKind};
use super::fault::{self, FaultKind, Faults};
use super::image::ImageError;
use super::log::{Answer, AnswerLog};
use super::pdu::{self, exception};
use crate::clock::Now;
use crate::truth::mix;

/// A device with its unit identifier, its faults and its count of requests.
#[derive(Debug)]
struct Unit {
    device: Device,
    faults: Faults,
    requests: AtomicU64,
}

/// All units of one line or endpoint, and the log of what they answered.
#[derive(Debug)]
pub struct Units {
    units: BTreeMap<u8, Unit>,
    seed: u64,
    log: AnswerLog,
}

/// The unit identifier that all units obey and none answers (MODBUS over Serial Line V1.02, section 2.2).
pub const BROADCAST: u8 = 0;

impl Units {
    /// One device of each kind at each unit identifier.
    ///
    /// # Errors
    /// [`ImageError`] where a register map cannot be laid out.
    pub fn new(kinds: &[(u8, DeviceKind)], seed: u64) -> Result<Self, ImageError> {
        let unit = |(id, kind): &(u8, DeviceKind)| {
            let device = Device::new(kind, seed, *id)?;
            Ok((*id, Unit { device, faults: Faults::default(), requests: AtomicU64::new(0) }))
        };
        let units = kinds.iter().map(unit).collect::<Result<_, _>>()?;
        Ok(Self { units, seed, log: AnswerLog::default() })
    }

    /// The identifiers served.
    pub fn ids(&self) -> impl Iterator<Item = u8> + '_ {
        self.units.keys().copied()
    }

    /// The device at `unit`.
    #[must_use]
    pub fn device(&self, unit: u8) -> Option<&Device> {
        self.units.get(&unit).map(|unit| &unit.device)
    }

    /// The faults of `unit`.
    #[must_use]
    pub fn faults(&self, unit: u8) -> Option<&Faults> {
        self.units.get(&unit).map(|unit| &unit.faults)
    }

    /// What has been answered.
    #[must_use]
    pub fn log(&self) -> &AnswerLog {
        &self.log
    }

    /// Serves a request that is complete at `now`. `None`: nobody answers.
    #[must_use]
    pub fn serve(&self, id: u8, pdu: &[u8], now: Now) -> Option<Reply> {
        if id == BROADCAST {
            self.units.values().for_each(|unit| drop(unit.device.answer(pdu, now.wall_ms)));
            return None;
        }
        let unit = self.units.get(&id)?;
        let request = unit.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let seed = mix(&[self.seed, id.into()]);
        let faults = unit.faults.strike(now.mono_ns, seed, request);
        let reply = reply(unit, id, pdu, now, &faults, mix(&[seed, request]));
        self.log.push(entry(request, id, pdu, now, &faults, reply.as_ref()));
        reply
    }

    /// What a gateway says of a unit that it does not have.
    #[must_use]
    pub fn refuse_unknown(id: u8, pdu: &[u8]) -> Reply {
        let function = pdu.first().copied().unwrap_or(0);
        Reply {
            unit: id,
            pdu: pdu::exception_answer(function, exception::GATEWAY_TARGET_FAILED),
            ..Reply::default()
        }
    }
}

fn reply(unit: &Unit, id: u8, pdu: &[u8], now: Now, faults: &[FaultKind], seed: u64) -> Option<Reply> {
    if faults.contains(&FaultKind::Silent) {
        return None;
    }
    let refused = faults.iter().find_map(|fault| match fault {
        FaultKind::Exception { code } => Some(*code),
        _ => None,
    });
    let answer = match refused {
        Some(code) => pdu::exception_answer(pdu.first().copied().unwrap_or(0), code),
        None => unit.device.answer(pdu, now.wall_ms),
    };
    let mut reply = Reply { unit: id, pdu: answer, ..Reply::default() };
    faults.iter().for_each(|kind| fault::spoil(*kind, &mut reply, seed));
    Some(reply)
}

fn entry(
    request: u64,
    unit: u8,
    pdu: &[u8],
    now: Now,
    faults: &[FaultKind],
    reply: Option<&Reply>,
) -> Answer {
    let word = |at: usize| match (pdu.get(at), pdu.get(at + 1)) {
        (Some(high), Some(low)) => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    let exception = match reply.map(|reply| reply.pdu.as_slice()) {
        Some([function, code]) if function & 0x80 != 0 => *code,
        _ => 0,
    };
    Answer {
        request,
        unit,
        function: pdu.first().copied().unwrap_or(0),
        start: word(1),
        count: word(3),
        eval_ms: now.wall_ms,
        exception,
        answered: reply.is_some(),
        faults: faults.iter().map(ToString::to_string).collect(),
    }
}
