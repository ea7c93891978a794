//! The notations of Modbus addresses, normalised to the zero-based address of the protocol.

use super::{AddressBase, Location, RegisterTable};
use crate::document::Item;

/// How an address was written, apart from its digits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Written {
    /// Of the map.
    pub(super) base: AddressBase,
    /// Where the channel names one.
    pub(super) table: Option<RegisterTable>,
    /// Where the address is relative to a SunSpec model.
    pub(super) model: Option<u16>,
}

/// Table and place of an address. A string is always in reference notation (`"40001"`, `"000001"`), whatever the
/// base; a SunSpec offset counts from the model's id register, whatever the base.
pub(super) fn resolve(
    item: Item<'_>,
    written: Written,
    default_table: RegisterTable,
) -> Result<(RegisterTable, Location), String> {
    let table = written.table.unwrap_or(default_table);
    match (item, written.model) {
        (Item::Integer(offset), Some(model)) => sunspec(offset, model, table),
        (_, Some(_)) => Err("with `model`, the address is the offset in the model, such as 2".to_owned()),
        (Item::Integer(number), None) => match written.base {
            AddressBase::Zero => Ok((table, absolute(number, 0)?)),
            AddressBase::One => Ok((table, absolute(number, 1)?)),
            AddressBase::Modicon => reference(&number.to_string(), written.table),
        },
        (Item::Text(digits), None) => reference(digits, written.table),
        _ => Err("an address is a number, or a reference such as \"40001\"".to_owned()),
    }
}

fn sunspec(offset: i128, model: u16, table: RegisterTable) -> Result<(RegisterTable, Location), String> {
    if table.is_bits() {
        return Err(format!("a SunSpec model stands in registers, not in a {table}"));
    }
    let offset = u16::try_from(offset)
        .map_err(|_| format!("offset {offset} is outside a SunSpec model: 0 to 65535"))?;
    Ok((table, Location::SunSpec { model, offset }))
}

fn absolute(number: i128, first: i128) -> Result<Location, String> {
    let address = u16::try_from(number - first);
    address
        .map(Location::Absolute)
        .map_err(|_| format!("address {number} is outside its table: {first} to {}", first + 65_535))
}

/// `4xxxx` or `4xxxxx`: the first digit names the table, the rest is the register's number from 1.
fn reference(digits: &str, named: Option<RegisterTable>) -> Result<(RegisterTable, Location), String> {
    let wrong = || {
        format!(
            "`{digits}` is not a reference of five or six digits such as 40001 (holding), 30001 (input), 10001 \
             (discrete input) or \"00001\" (coil, in quotes)"
        )
    };
    let all_digits = digits.bytes().all(|b| b.is_ascii_digit());
    if !all_digits || !(5..=6).contains(&digits.len()) {
        return Err(wrong());
    }
    let table = match digits.as_bytes()[0] {
        b'0' => RegisterTable::Coil,
        b'1' => RegisterTable::DiscreteInput,
        b'3' => RegisterTable::InputRegister,
        b'4' => RegisterTable::HoldingRegister,
        _ => return Err(wrong()),
    };
    if let Some(named) = named.filter(|named| *named != table) {
        return Err(format!("`{digits}` names a {table}, but `table` says {named}: leave `table` out"));
    }
    let number: u32 = digits[1..].parse().map_err(|_| wrong())?;
    let address = number.checked_sub(1).and_then(|address| u16::try_from(address).ok()).ok_or_else(wrong)?;
    Ok((table, Location::Absolute(address)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_notations_name_the_same_register() {
        use AddressBase::{Modicon, One, Zero};
        use RegisterTable::{Coil, DiscreteInput, HoldingRegister, InputRegister};
        let rows = [
            (Item::Integer(0x5B00), Zero, None, Ok((HoldingRegister, 0x5B00))),
            (Item::Integer(3028), One, None, Ok((HoldingRegister, 3027))),
            (Item::Integer(40_001), Modicon, None, Ok((HoldingRegister, 0))),
            (Item::Integer(465_536), Modicon, None, Ok((HoldingRegister, 65_535))),
            (Item::Integer(30_071), Modicon, None, Ok((InputRegister, 70))),
            (Item::Text("30071"), Zero, None, Ok((InputRegister, 70))),
            (Item::Text("100017"), Zero, None, Ok((DiscreteInput, 16))),
            (Item::Text("00001"), Zero, None, Ok((Coil, 0))),
            (Item::Integer(1), Zero, Some(InputRegister), Ok((InputRegister, 1))),
            (Item::Integer(0), One, None, Err("address 0 is outside its table: 1 to 65536")),
            (Item::Integer(65_536), Zero, None, Err("address 65536 is outside its table: 0 to 65535")),
            (Item::Integer(20_001), Modicon, None, Err("`20001` is not a reference")),
            (Item::Text("40000"), Zero, None, Err("`40000` is not a reference")),
            (Item::Text("0x40"), Zero, None, Err("`0x40` is not a reference")),
            (Item::Text("30001"), Zero, Some(HoldingRegister), Err("`30001` names a input register, but")),
            (Item::Float(1.0), Zero, None, Err("an address is a number")),
        ];
        for (item, base, table, expected) in rows {
            let got = resolve(item, Written { base, table, model: None }, HoldingRegister);
            match (got, expected) {
                (Ok((table, Location::Absolute(address))), Ok(expected)) => {
                    assert_eq!((table, address), expected, "{item:?}");
                }
                (Err(got), Err(expected)) => assert!(got.starts_with(expected), "{item:?}: {got}"),
                (got, expected) => panic!("{item:?}: {got:?} instead of {expected:?}"),
            }
        }
    }
}
