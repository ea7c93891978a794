//! A serial line or a TCP endpoint with its devices, in virtual time: the port of a bus's driver, byte by byte.
//! No thread, no real clock, no sleep: time passes where the driver waits, and where the world says so.
//!
//! # What it keeps to
//! - On a serial line each byte is due at the end of its character. A device answers what was asked once the request's
//!   last character has left: that is the instant its values are of ([`Served::eval_ms`]), and the answer begins after
//!   the turnaround, which is never below t3.5.
//! - Frames that overlap interleave, as they would garble each other (see `heard`); a request does not hide what is
//!   received meanwhile.
//! - An adapter that is not prompt hands over what it has every [`Wire::Serial::chunk_ms`].
//! - A TCP answer comes in one piece or in two, on the connection that asked. A serial server ([`Wire::SerialServer`])
//!   knows nothing of frames: a late answer goes to whoever is connected then.
//! - Everything follows from the seed and the calls made.
//!
//! # Not simulated
//! Parity and framing errors, echo, a full send buffer, addresses that cannot be resolved.

pub mod fault;
pub mod ground;
mod heard;
pub mod meter;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;

use gapless_agent::bus::{OpenError, Opened, Port};
use gapless_agent::clock::Mono;
use gapless_common::reading::Value;
use gapless_simulators::modbus::adu::Reply;
use gapless_simulators::modbus::image::ImageError;
use gapless_simulators::modbus::pdu::exception_answer;
use gapless_simulators::modbus::{Device, DeviceKind, Timing, crc};

use fault::{Chances, Dice, Fault, FaultCounts};
use heard::Heard;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;
/// What a gateway says of a unit that it does not have (Modbus Application Protocol V1.1b3, section 7).
const GATEWAY_TARGET_FAILED: u8 = 0x0B;
/// Makes of a unit one that is not on the line: one that is could not be told from it by anybody, as its frame is intact.
const STRANGER: u8 = 0x80;
/// Header of Modbus TCP.
const MBAP_LEN: usize = 7;

/// What the devices hang on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// RTU on a serial port.
    Serial {
        /// Bits per second.
        baud: u32,
        /// Bits of a character, start and stop bits included.
        character_bits: u32,
        /// Every so many milliseconds the adapter hands over what it has; `None`: each character at once.
        chunk_ms: Option<u32>,
    },
    /// Modbus TCP.
    Mbap,
    /// RTU over TCP, by a server that passes on bytes.
    SerialServer,
}

/// A line before it is there.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What the devices hang on.
    pub wire: Wire,
    /// The devices, by unit.
    pub units: Vec<(u8, DeviceKind)>,
    /// From the end of a request to the begin of its answer: at least and at most.
    pub turnaround_us: (u64, u64),
    /// From one end of a TCP connection to the other.
    pub latency_us: u64,
    /// The instant at which the world begins, UTC milliseconds.
    pub began_ms: i64,
    /// Of the devices' values and of the dice.
    pub seed: u64,
    /// What goes wrong by itself.
    pub chances: Chances,
}

/// One request and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// Who was asked.
    pub unit: u8,
    /// Function, first address and number of addresses asked for.
    pub asked: (u8, u16, u16),
    /// When the request was complete, in the world's nanoseconds.
    pub at_ns: u64,
    /// The same instant in UTC milliseconds: the one that every value of the answer is of.
    pub eval_ms: i64,
    /// When the last byte of the answer was due; `None` where none was sent.
    pub last_byte_ns: Option<u64>,
    /// What went wrong.
    pub fault: Option<Fault>,
}

#[derive(Debug)]
struct Station {
    device: Device,
    /// Faults that strike the next requests, whatever the dice say.
    ahead: VecDeque<Fault>,
}

/// What is on its way to the master.
#[derive(Debug)]
enum Piece {
    Bytes {
        bytes: Vec<u8>,
        /// When its last character ended, on a serial line.
        ended_ns: u64,
        /// The connection it belongs to; `None`: any.
        connection: Option<u64>,
        /// Which frame they are of.
        frame: u64,
    },
    Noise(u8),
}

/// A line and its devices.
#[derive(Debug)]
pub struct SimLine {
    wire: Wire,
    timing: Timing,
    turnaround_us: (u64, u64),
    latency_ns: u64,
    began_ms: i64,
    chances: Chances,
    stations: BTreeMap<u8, Station>,
    dice: Dice,
    now_ns: u64,
    /// Which connection or opening this is; 0 where there is none.
    open: u64,
    openings: u64,
    /// From when until when there is no port.
    absent: Option<(u64, u64)>,
    /// By the instant it is handed over, and in the order it was sent.
    air: BTreeMap<(u64, u64), Piece>,
    sent: u64,
    /// Between the two pieces of the last answer that came in two nothing else comes: TCP keeps what is sent in one.
    whole: (u64, u64),
    received: VecDeque<u8>,
    heard: Heard,
    frames: u64,
    /// When the last character ended on the line, of whomever.
    quiet_from_ns: u64,
    served: Vec<Served>,
    faults: FaultCounts,
    /// From when until when something was wrong with the line or a device on it, in order.
    troubles: Vec<(u64, u64)>,
    gap_violations: u64,
}

impl SimLine {
    /// A line at the world's begin.
    ///
    /// # Errors
    /// [`ImageError`] where a register map cannot be laid out.
    pub fn new(setup: &Setup) -> Result<Self, ImageError> {
        let station = |(unit, kind): &(u8, DeviceKind)| {
            let device = Device::new(kind, setup.seed, *unit)?;
            Ok((*unit, Station { device, ahead: VecDeque::new() }))
        };
        let timing = match setup.wire {
            Wire::Serial { baud, character_bits, .. } => Timing::serial(baud, character_bits, 0),
            Wire::Mbap | Wire::SerialServer => Timing { char_ns: 0, gap_ns: 0, turnaround_ns: 0 },
        };
        Ok(Self {
            wire: setup.wire,
            timing,
            turnaround_us: setup.turnaround_us,
            latency_ns: setup.latency_us * 1_000,
            began_ms: setup.began_ms,
            chances: setup.chances.clone(),
            stations: setup.units.iter().map(station).collect::<Result<_, _>>()?,
            dice: Dice::new(setup.seed),
            now_ns: 0,
            open: 0,
            openings: 0,
            absent: None,
            troubles: Vec::new(),
            air: BTreeMap::new(),
            sent: 0,
            whole: (0, 0),
            received: VecDeque::new(),
            heard: Heard::default(),
            frames: 0,
            quiet_from_ns: 0,
            served: Vec::new(),
            faults: FaultCounts::new(),
            gap_violations: 0,
        })
    }

    /// Its own time.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// Lets time pass.
    pub fn advance(&mut self, ns: u64) {
        self.now_ns = self.now_ns.max(ns);
        while let Some(entry) = self.air.first_entry().filter(|entry| entry.key().0 <= self.now_ns) {
            let ((due_ns, _), piece) = entry.remove_entry();
            self.deliver(due_ns, piece);
        }
        self.lose_if_absent(self.now_ns);
    }

    /// What a reader must have stored of `channel` at `eval_ms`; `None` where there is no such device or channel.
    #[must_use]
    pub fn truth(&self, unit: u8, channel: &str, eval_ms: i64) -> Option<Value> {
        self.stations.get(&unit)?.device.truth(channel, eval_ms)
    }

    /// The instants of the records that a meter with a load profile holds at `at_ns`, oldest first.
    #[must_use]
    pub fn held(&self, unit: u8, at_ns: u64) -> Vec<i64> {
        let at_ms = self.utc_ms(at_ns);
        let held = self.stations.get(&unit).and_then(|s| s.device.with_memory(|memory| memory.held(at_ms)));
        held.unwrap_or_default()
    }

    /// What a field of the load profile's record of this instant holds.
    #[must_use]
    pub fn recorded(&self, unit: u8, field: &str, at: i64) -> Option<Value> {
        self.stations.get(&unit)?.device.with_memory(|memory| memory.truth(field, at)).flatten()
    }

    /// The requests served, in order; those of [`Self::forget`] are gone.
    #[must_use]
    pub fn served(&self) -> &[Served] {
        &self.served
    }

    /// Lets go of what was served before `ns`.
    pub fn forget(&mut self, ns: u64) {
        self.served.retain(|served| served.at_ns >= ns);
    }

    /// How often which fault struck.
    #[must_use]
    pub fn faults(&self) -> &FaultCounts {
        &self.faults
    }

    /// Requests that began less than t3.5 after the last character on a serial line.
    #[must_use]
    pub fn gap_violations(&self) -> u64 {
        self.gap_violations
    }

    /// From now on these faults strike by themselves.
    pub fn set_chances(&mut self, chances: Chances) {
        self.chances = chances;
    }

    /// `fault` strikes the next `count` requests of `unit`, behind those announced before.
    pub fn strike(&mut self, unit: u8, fault: Fault, count: usize) {
        if let Some(station) = self.stations.get_mut(&unit) {
            station.ahead.extend(std::iter::repeat_n(fault, count));
        }
    }

    /// Faults announced for `unit` that have not struck yet.
    #[must_use]
    pub fn announced(&self, unit: u8) -> usize {
        self.stations.get(&unit).map_or(0, |station| station.ahead.len())
    }

    /// A device restarts now: its counters begin again.
    pub fn restart(&mut self, unit: u8) {
        let now_ms = self.utc_ms(self.now_ns);
        if let Some(station) = self.stations.get(&unit) {
            station.device.restart(now_ms);
            *self.faults.entry(Fault::Restart.slug()).or_default() += 1;
        }
    }

    /// The port or connection goes now, and cannot be opened before `until_ns`.
    pub fn unplug(&mut self, until_ns: u64) {
        *self.faults.entry("unplugged").or_default() += 1;
        self.absent = Some((self.now_ns, until_ns));
        self.note_trouble(self.now_ns, until_ns);
        self.lose_if_absent(self.now_ns);
    }

    /// It can be opened again now.
    pub fn replug(&mut self) {
        self.absent = None;
    }

    /// Nothing strikes any more, and it can be opened.
    pub fn make_good(&mut self) {
        self.replug();
        self.set_chances(Chances::none());
        self.stations.values_mut().for_each(|station| station.ahead.clear());
        if let Some((_, until_ns)) = self.troubles.last_mut() {
            *until_ns = (*until_ns).min(self.now_ns);
        }
    }

    /// Noise without a pause, from now until `until_ns`.
    pub fn babble(&mut self, until_ns: u64) {
        *self.faults.entry("babble").or_default() += 1;
        self.note_trouble(self.now_ns, until_ns);
        self.babble_from(self.now_ns, until_ns);
    }

    /// Whether anything was wrong with the line, or with a device on it, between these instants.
    #[must_use]
    pub fn had_trouble(&self, from_ns: u64, to_ns: u64) -> bool {
        let began = self.troubles.partition_point(|(from, _)| *from <= to_ns);
        self.troubles[..began].iter().rev().any(|(_, until)| *until >= from_ns)
    }

    fn note_trouble(&mut self, from_ns: u64, until_ns: u64) {
        self.troubles.push((from_ns, until_ns));
    }

    /// Whoever had opened it is gone.
    pub fn close(&mut self) {
        self.open = 0;
        self.received.clear();
    }

    fn utc_ms(&self, ns: u64) -> i64 {
        self.began_ms.saturating_add(i64::try_from(ns / MS).unwrap_or(i64::MAX))
    }

    fn is_absent(&self, ns: u64) -> bool {
        self.absent.is_some_and(|(from, until)| (from..until).contains(&ns))
    }

    fn lose_if_absent(&mut self, ns: u64) {
        if self.absent.is_some_and(|(from, _)| from <= ns) {
            self.close();
        }
    }

    fn deliver(&mut self, due_ns: u64, piece: Piece) {
        self.lose_if_absent(due_ns);
        let (mut bytes, connection, frame) = match piece {
            Piece::Bytes { bytes, ended_ns, connection, frame } => {
                self.quiet_from_ns = self.quiet_from_ns.max(ended_ns);
                (bytes, connection, Some(frame))
            }
            Piece::Noise(byte) => {
                self.quiet_from_ns = self.quiet_from_ns.max(due_ns);
                (vec![byte], None, None)
            }
        };
        if self.wire != Wire::Mbap {
            let stations = &self.stations;
            let is_unit = |unit: u8| stations.contains_key(&unit);
            bytes.iter_mut().for_each(|byte| *byte = self.heard.take(frame, *byte, is_unit));
        }
        if self.open != 0 && connection.is_none_or(|wanted| wanted == self.open) {
            self.received.extend(bytes);
        }
    }

    fn send(&mut self, due_ns: u64, piece: Piece) {
        let (first_ns, last_ns) = self.whole;
        let due_ns = if (first_ns..last_ns).contains(&due_ns) { last_ns + 1 } else { due_ns };
        self.sent += 1;
        self.air.insert((due_ns, self.sent), piece);
    }

    /// Puts a frame on the wire; says when its last byte is due.
    fn transmit(&mut self, begin_ns: u64, bytes: Vec<u8>) -> u64 {
        self.frames += 1;
        match self.wire {
            Wire::Serial { chunk_ms, .. } => self.transmit_characters(begin_ns, &bytes, chunk_ms),
            Wire::Mbap => self.transmit_pieces(begin_ns, bytes, Some(self.open)),
            Wire::SerialServer => self.transmit_pieces(begin_ns, bytes, None),
        }
    }

    fn transmit_characters(&mut self, begin_ns: u64, bytes: &[u8], chunk_ms: Option<u32>) -> u64 {
        let mut ended_ns = begin_ns;
        for byte in bytes {
            ended_ns += self.timing.char_ns;
            let due_ns = match chunk_ms {
                Some(chunk_ms) => ended_ns.next_multiple_of(u64::from(chunk_ms) * MS),
                None => ended_ns,
            };
            let (bytes, frame) = (vec![*byte], self.frames);
            self.send(due_ns, Piece::Bytes { bytes, ended_ns, connection: None, frame });
        }
        ended_ns
    }

    fn transmit_pieces(&mut self, begin_ns: u64, mut bytes: Vec<u8>, connection: Option<u64>) -> u64 {
        let (due_ns, frame) = (begin_ns + self.latency_ns, self.frames);
        let is_alone = self.air.range((due_ns, 0)..=(due_ns + self.latency_ns, u64::MAX)).next().is_none();
        if bytes.len() > 1 && self.dice.below(4) == 0 && is_alone {
            let cut = usize::try_from(self.dice.within(1, bytes.len() as u64 - 1)).unwrap_or(1);
            let rest = bytes.split_off(cut);
            self.send(due_ns, Piece::Bytes { bytes, ended_ns: due_ns, connection, frame });
            let last_ns = due_ns + self.latency_ns;
            self.send(last_ns, Piece::Bytes { bytes: rest, ended_ns: last_ns, connection, frame });
            self.whole = (due_ns, last_ns);
            return last_ns;
        }
        self.send(due_ns, Piece::Bytes { bytes, ended_ns: due_ns, connection, frame });
        due_ns
    }

    fn babble_from(&mut self, begin_ns: u64, until_ns: u64) {
        let step = self.timing.char_ns.max(MS);
        let mut due_ns = begin_ns + step;
        while due_ns < until_ns {
            let byte = self.dice.draw().to_le_bytes()[0];
            self.send(due_ns, Piece::Noise(byte));
            due_ns += step;
        }
    }

    /// A request is complete at `at_ns`: serves it.
    fn serve(&mut self, unit: u8, pdu: &[u8], at_ns: u64, transaction: u16) {
        let eval_ms = self.utc_ms(at_ns);
        let Some(station) = self.stations.get_mut(&unit) else {
            return self.refuse_unknown(unit, pdu, at_ns, transaction);
        };
        let fault = station.ahead.pop_front().or_else(|| self.chances.draw(&mut self.dice));
        if let Some(fault) = fault {
            *self.faults.entry(fault.slug()).or_default() += 1;
        }
        let last_byte_ns = self.answer(unit, pdu, at_ns, transaction, fault);
        if fault.is_some() {
            self.note_trouble(at_ns, last_byte_ns.unwrap_or(at_ns));
        }
        let word = |at: usize| pdu.get(at..at + 2).map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]));
        let asked = (pdu.first().copied().unwrap_or(0), word(1), word(3));
        tracing::trace!(at_ms = at_ns / MS, unit, ?asked, last_ms = ?last_byte_ns.map(|ns| ns / MS), ?fault, "served");
        self.served.push(Served { unit, asked, at_ns, eval_ms, last_byte_ns, fault });
    }

    fn answer(
        &mut self,
        unit: u8,
        pdu: &[u8],
        at_ns: u64,
        transaction: u16,
        fault: Option<Fault>,
    ) -> Option<u64> {
        let eval_ms = self.utc_ms(at_ns);
        let device = &self.stations.get(&unit)?.device;
        let function = pdu.first().copied().unwrap_or(0);
        let mut reply = Reply { unit, pdu: device.answer(pdu, eval_ms), ..Reply::default() };
        let (least, most) = self.turnaround_us;
        let mut begin_ns = at_ns + (self.dice.within(least, most) * 1_000).max(self.timing.gap_ns);
        let mut noise_after = None;
        match fault {
            None | Some(Fault::WrongTransaction) => reply.transaction_before = fault.is_some(),
            Some(Fault::Silent) => return None,
            Some(Fault::Restart) => {
                device.restart(eval_ms);
                return None;
            }
            Some(Fault::Late { from_ms, to_ms }) => {
                begin_ns = begin_ns.max(at_ns + self.within_ms(from_ms, to_ms));
            }
            Some(Fault::Truncated) => {
                let frame = reply.pdu.len() as u64 + 3;
                reply.truncate = Some(usize::try_from(self.dice.within(1, frame - 1)).ok());
                if self.wire == Wire::Mbap {
                    // No check sum tells what follows from the rest of this answer: a server that dies within one says
                    // no more on this connection.
                    self.air.clear();
                }
            }
            Some(Fault::WrongCheck) => reply.break_check = true,
            Some(Fault::WrongUnit) => reply.unit = unit ^ STRANGER,
            Some(Fault::WrongFunction) => reply.pdu[0] = if function == 3 { 4 } else { 3 },
            Some(Fault::WrongCount) => shorten(&mut reply.pdu),
            Some(Fault::Exception { code }) => reply.pdu = exception_answer(function, code),
            Some(Fault::NoiseBefore { bytes }) => reply.before = self.dice.noise(bytes.into()),
            Some(Fault::NoiseAfter { bytes }) => reply.after = self.dice.noise(bytes.into()),
            Some(Fault::NoiseBetween { bytes, from_ms, to_ms }) => {
                noise_after = Some((self.dice.noise(bytes.into()), self.within_ms(from_ms, to_ms)));
            }
            Some(Fault::NoiseThenLate { bytes, from_ms, to_ms }) => {
                let noise = self.dice.noise(bytes.into());
                self.transmit(at_ns, noise);
                begin_ns = begin_ns.max(at_ns + self.within_ms(from_ms, to_ms));
            }
            Some(Fault::Babble { from_ms, to_ms }) => {
                let span = self.within_ms(from_ms, to_ms);
                self.note_trouble(at_ns, at_ns + span);
                self.babble_from(at_ns, at_ns + span);
            }
            Some(Fault::Unplugged { from_ms, to_ms }) => {
                let span = self.within_ms(from_ms, to_ms);
                self.absent = Some((at_ns, at_ns + span));
                self.note_trouble(at_ns, at_ns + span);
            }
        }
        let frame = self.frame(&reply, transaction);
        let end_ns = self.transmit(begin_ns, frame);
        if let Some((noise, pause_ns)) = noise_after {
            self.transmit(end_ns + pause_ns, noise);
        }
        Some(end_ns)
    }

    fn frame(&self, reply: &Reply, transaction: u16) -> Vec<u8> {
        match self.wire {
            Wire::Mbap => reply.mbap(transaction),
            Wire::Serial { .. } | Wire::SerialServer => reply.rtu(),
        }
    }

    /// On a serial line nobody answers for a unit that is not there.
    fn refuse_unknown(&mut self, unit: u8, pdu: &[u8], at_ns: u64, transaction: u16) {
        if self.wire == Wire::Mbap {
            let function = pdu.first().copied().unwrap_or(0);
            let pdu = exception_answer(function, GATEWAY_TARGET_FAILED);
            let frame = Reply { unit, pdu, ..Reply::default() }.mbap(transaction);
            self.transmit(at_ns, frame);
        }
    }

    fn within_ms(&mut self, from_ms: u32, to_ms: u32) -> u64 {
        self.dice.within(u64::from(from_ms) * MS, u64::from(to_ms) * MS)
    }

    /// A request goes out now: nothing is heard of it before its last character has left.
    fn ask(&mut self, bytes: &[u8]) {
        if self.air.is_empty() {
            self.heard.begin();
        }
        if self.timing.char_ns == 0 {
            return self.serve_bytes(bytes, self.now_ns + self.latency_ns);
        }
        let begin_ns = self.now_ns.max(self.quiet_from_ns);
        if self.openings > 0
            && self.quiet_from_ns > 0
            && self.now_ns < self.quiet_from_ns + self.timing.gap_ns
        {
            self.gap_violations += 1;
        }
        let end_ns = begin_ns + self.timing.char_ns * bytes.len() as u64;
        self.quiet_from_ns = self.quiet_from_ns.max(end_ns);
        self.serve_bytes(bytes, end_ns);
    }

    fn serve_bytes(&mut self, bytes: &[u8], at_ns: u64) {
        match self.wire {
            Wire::Mbap => {
                if let Some(([t0, t1, _, _, _, _, unit], pdu)) = bytes.split_first_chunk::<MBAP_LEN>() {
                    self.serve(*unit, pdu, at_ns, u16::from_be_bytes([*t0, *t1]));
                }
            }
            Wire::Serial { .. } | Wire::SerialServer => {
                if crc::is_sealed(bytes) && bytes.len() > 3 {
                    self.serve(bytes[0], &bytes[1..bytes.len() - 2], at_ns, 0);
                }
            }
        }
    }

    fn lost(&self) -> Option<io::Error> {
        (self.open == 0).then(|| io::Error::new(io::ErrorKind::NotConnected, "the line has gone"))
    }

    fn not_there(&self) -> OpenError {
        match self.wire {
            Wire::Serial { .. } => {
                OpenError::Open { port: PathBuf::from("simulated"), source: io::ErrorKind::NotFound.into() }
            }
            Wire::Mbap | Wire::SerialServer => OpenError::Connect {
                endpoint: "simulated".into(),
                source: io::ErrorKind::ConnectionRefused.into(),
            },
        }
    }
}

impl Port for SimLine {
    fn mono(&mut self) -> Mono {
        Mono(self.now_ns)
    }

    fn sleep_until(&mut self, instant: Mono) {
        self.advance(instant.0);
    }

    fn open(&mut self) -> Result<Opened, OpenError> {
        self.close();
        self.advance(self.now_ns + 2 * self.latency_ns * u64::from(self.timing.char_ns == 0));
        if self.is_absent(self.now_ns) {
            return Err(self.not_there());
        }
        self.absent = None;
        self.openings += 1;
        self.open = self.openings;
        Ok(Opened { prompt: !matches!(self.wire, Wire::Serial { chunk_ms: Some(_), .. }) })
    }

    fn close(&mut self) {
        self.close();
    }

    fn write_all(&mut self, bytes: &[u8], _: Mono) -> io::Result<()> {
        if let Some(error) = self.lost() {
            return Err(error);
        }
        self.ask(bytes);
        Ok(())
    }

    fn readable(&mut self, until: Mono) -> io::Result<bool> {
        loop {
            if let Some(error) = self.lost() {
                return Err(error);
            }
            if !self.received.is_empty() {
                return Ok(true);
            }
            if self.now_ns >= until.0 {
                return Ok(false);
            }
            let next_ns = self.air.first_key_value().map_or(u64::MAX, |((due_ns, _), _)| *due_ns);
            let lost_ns = self.absent.map_or(u64::MAX, |(from_ns, _)| from_ns);
            self.advance(next_ns.min(lost_ns.max(self.now_ns + 1)).min(until.0));
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(error) = self.lost() {
            return Err(error);
        }
        let count = self.received.len().min(buffer.len());
        for (slot, byte) in buffer.iter_mut().zip(self.received.drain(..count)) {
            *slot = byte;
        }
        Ok(count)
    }
}

fn shorten(pdu: &mut Vec<u8>) {
    if pdu.len() >= 4 {
        pdu[1] = pdu[1].saturating_sub(2);
        pdu.truncate(pdu.len() - 2);
    }
}

#[cfg(test)]
mod tests;
