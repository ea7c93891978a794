//! Bodies of records other than readings, which have none here: see `row`.

use serde::{Deserialize, Serialize};

use super::super::sequence::at_most;
use super::super::{DecodeError, RecordKind};
use super::{INDICES_MAX, cause, ensure, read, write};
use crate::id::{BootId, CatalogHash, DeviceIndex, Epoch, Seq};
use crate::reading::{
    CatalogRecord, ClockCorrection, Completeness, Downtime, EpochStart, Loss, Misses, Record,
};
use crate::time::{Slot, Timestamp};

#[derive(Serialize, Deserialize)]
struct CatalogBody {
    hash: CatalogHash,
    since: Option<Timestamp>,
    bytes: Box<[u8]>,
}

#[derive(Serialize, Deserialize)]
struct StartBody {
    previous: Option<(Epoch, Seq)>,
    boot: BootId,
    boot_clock_ms: u64,
    at: Timestamp,
    clock_set: bool,
    durable: bool,
    agent_version: Box<str>,
}

#[derive(Serialize, Deserialize)]
struct MissesBody {
    device: DeviceIndex,
    first: Slot,
    count: u32,
    cause: u16,
}

#[derive(Serialize, Deserialize)]
struct DowntimeBody {
    from: Timestamp,
    to: Timestamp,
    cause: u16,
}

#[derive(Serialize, Deserialize)]
struct CompleteBody {
    #[serde(deserialize_with = "at_most::<_, _, INDICES_MAX>")]
    through: Vec<(DeviceIndex, Slot)>,
}

#[derive(Serialize, Deserialize)]
struct LossBody {
    epoch: Epoch,
    first: Seq,
    last: Seq,
    from: Timestamp,
    to: Timestamp,
    cause: u16,
}

#[derive(Serialize, Deserialize)]
struct ClockCorrectionBody {
    boot: BootId,
    epoch: Epoch,
    first: Seq,
    last: Seq,
    boot_began: Timestamp,
}

/// The body of any record but readings (which have none here: see `row`).
pub(in crate::wire) fn record(record: &Record) -> Vec<u8> {
    match record.clone() {
        Record::Readings(_) => Vec::new(),
        Record::Catalog(CatalogRecord { hash, since, bytes }) => write(&CatalogBody { hash, since, bytes }),
        Record::Start(EpochStart {
            previous,
            boot,
            boot_clock_ms,
            at,
            clock_set,
            durable,
            agent_version,
        }) => write(&StartBody { previous, boot, boot_clock_ms, at, clock_set, durable, agent_version }),
        Record::Misses(Misses { device, first, count, cause }) => {
            write(&MissesBody { device, first, count, cause: cause.code() })
        }
        Record::Downtime(Downtime { from, to, cause }) => {
            write(&DowntimeBody { from, to, cause: cause.code() })
        }
        Record::Complete(Completeness { through }) => write(&CompleteBody { through }),
        Record::Loss(Loss { epoch, first, last, from, to, cause }) => {
            write(&LossBody { epoch, first, last, from, to, cause: cause.code() })
        }
        Record::ClockCorrection(ClockCorrection { boot, epoch, first, last, boot_began }) => {
            write(&ClockCorrectionBody { boot, epoch, first, last, boot_began })
        }
    }
}

/// Reads the body of any record but readings.
pub(in crate::wire) fn read_record(kind: RecordKind, bytes: &[u8]) -> Result<Record, DecodeError> {
    let record = match kind {
        RecordKind::Readings => return Err(DecodeError::Malformed("readings without samples")),
        RecordKind::Catalog => {
            let CatalogBody { hash, since, bytes } = read(bytes)?;
            Record::Catalog(CatalogRecord { hash, since, bytes })
        }
        RecordKind::Start => {
            let StartBody { previous, boot, boot_clock_ms, at, clock_set, durable, agent_version } =
                read(bytes)?;
            Record::Start(EpochStart { previous, boot, boot_clock_ms, at, clock_set, durable, agent_version })
        }
        RecordKind::Misses => {
            let MissesBody { device, first, count, cause: code } = read(bytes)?;
            Record::Misses(Misses { device, first, count, cause: cause(code)? })
        }
        RecordKind::Downtime => {
            let DowntimeBody { from, to, cause: code } = read(bytes)?;
            Record::Downtime(Downtime { from, to, cause: cause(code)? })
        }
        RecordKind::Complete => {
            let CompleteBody { through } = read(bytes)?;
            Record::Complete(Completeness { through })
        }
        RecordKind::Loss => {
            let LossBody { epoch, first, last, from, to, cause: code } = read(bytes)?;
            Record::Loss(Loss { epoch, first, last, from, to, cause: cause(code)? })
        }
        RecordKind::ClockCorrection => {
            let ClockCorrectionBody { boot, epoch, first, last, boot_began } = read(bytes)?;
            Record::ClockCorrection(ClockCorrection { boot, epoch, first, last, boot_began })
        }
    };
    ensure(valid(&record), "a record that breaks the rules of its type")?;
    Ok(record)
}

/// Whether a record other than readings keeps the rules of its type. Times may run backwards: clocks do.
pub(in crate::wire) fn valid(record: &Record) -> bool {
    match record {
        Record::Misses(misses) => {
            misses.count > 0 && misses.first.0.checked_add(i64::from(misses.count)).is_some()
        }
        Record::Complete(complete) => complete.through.windows(2).all(|pair| pair[0].0 < pair[1].0),
        Record::Loss(loss) => loss.first <= loss.last,
        Record::ClockCorrection(correction) => correction.first <= correction.last,
        Record::Readings(_) | Record::Catalog(_) | Record::Start(_) | Record::Downtime(_) => true,
    }
}
