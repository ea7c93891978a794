//! The frozen serde types of wire v1, and their way from and to the domain's types. Never change one: postcard
//! has no room for it. What comes later is a new kind or a new version.

mod catalog;
mod message;
mod record;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::DecodeError;
use crate::quality::Cause;

pub(super) use self::catalog::{catalog, read_catalog};
pub(super) use self::message::{
    ack, command, presence, read_ack, read_command, read_presence, read_reply, read_state, reply, state,
};
pub(super) use self::record::{read_record, record, valid};

/// Most devices of a catalog, channels of a device and devices of a completeness record.
const INDICES_MAX: usize = 1 << 16;

fn write(value: &impl Serialize) -> Vec<u8> {
    postcard::to_stdvec(value).expect("a Vec grows, and every sequence knows its length")
}

/// Postcard leaves what it does not need; here nothing may be left.
fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    match postcard::take_from_bytes(bytes)? {
        (value, []) => Ok(value),
        _ => Err(DecodeError::Malformed("bytes left over")),
    }
}

fn ensure(holds: bool, why: &'static str) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Malformed(why)) }
}

fn cause(code: u16) -> Result<Cause, DecodeError> {
    Cause::from_code(code).ok_or(DecodeError::Malformed("an unknown cause"))
}
