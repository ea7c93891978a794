//! Reads the section `[load_profile]` of a register map, and refuses what cannot be: a field that ends behind its record,
//! a memory that ends behind its table.

use super::{
    Clock, Flag, Held, LoadProfile, Meaning, Names, Numbering, Register, StampEncoding, TimeStamp, Way,
};
use crate::document::{At, Item, Table};
use crate::profile::channel::{ORDERS, read_address, read_channel, read_label};
use crate::profile::{
    AddressBase, ChannelSpec, Defaults, FILE_DATA_MAX, FILE_RECORD_MAX, Location, REGISTERS_MAX,
    RegisterTable, ValueType,
};
use crate::time::Interval;
use crate::zone::Zone;

const ENCODINGS: [(&str, StampEncoding); 6] = [
    ("seconds-1970", StampEncoding::Seconds1970),
    ("seconds-2000", StampEncoding::Seconds2000),
    ("ms-1970", StampEncoding::Milliseconds1970),
    ("fields", StampEncoding::Fields),
    ("bytes", StampEncoding::Bytes),
    ("bcd", StampEncoding::Bcd),
];

const MEANINGS: [(&str, Meaning); 3] =
    [("invalid", Meaning::Invalid), ("estimated", Meaning::Estimated), ("incomplete", Meaning::Incomplete)];

const NAMES: [(&str, Names); 2] = [("last", Names::Last), ("next", Names::Next)];

const NUMBERS: [(&str, ValueType); 2] = [("u16", ValueType::U16), ("u32", ValueType::U32)];

/// A meter without a time service is off by half a minute within a month.
const CLOCK_LIMIT_DEFAULT_MS: u32 = 60_000;

/// Reads the section; what is wrong with it is reported to the table's document.
pub(in crate::profile) fn read_load_profile(table: &Table<'_>, defaults: &Defaults) -> Option<LoadProfile> {
    table.need("interval", "\"15m\"");
    table.need("capacity", "2880");
    table.need("registers", "8");
    table.need("numbering", "\"ring\"");
    table.need("stamp", "{ at = 0, encoding = \"seconds-1970\" }");
    table.need("field", "[{ id = \"energy\", address = 2, type = \"u32\", unit = \"kWh\" }]");
    let interval = table.duration_ms("interval").and_then(|found| read_interval(table, found));
    let label = read_label(table).unwrap_or_default();
    let zone = table.parsed::<Zone>("zone").map(|found| found.value);
    let capacity = table.u16("capacity", 1..=u16::MAX);
    let registers = table.u16("registers", 1..=REGISTERS_MAX);
    let first = table.u16("first", 0..=u16::MAX).unwrap_or(0);
    let numbering = read_numbering(table, defaults);
    let held = read_held(table, defaults);
    let clock = table.table("clock").and_then(|clock| read_clock(&clock, defaults));
    let limit = table.duration_within("clock_limit", 1_000..=86_400_000).map(|found| found.value);
    let way = read_way(table, defaults, registers);
    let at_once = table.u16("at_once", 1..=REGISTERS_MAX);
    let stamp = table.table("stamp").and_then(|stamp| read_stamp(&stamp, defaults));
    let fields = read_fields(table, defaults, label);
    let flags = table.tables("flag").iter().map(|flag| read_flag(flag, &fields)).collect::<Option<_>>();
    table.finish();
    let read = LoadProfile {
        interval: interval?,
        label,
        zone,
        capacity: capacity?,
        registers: registers?,
        numbering: numbering?.0,
        first,
        names: numbering?.1,
        held: held?,
        clock,
        clock_limit_ms: limit.unwrap_or(CLOCK_LIMIT_DEFAULT_MS),
        way: way?,
        at_once: at_once.unwrap_or(u16::MAX),
        stamp: stamp?,
        flags: flags?,
        fields,
    };
    if let Some((key, problem)) = misfit(&read) {
        table.report(table.place_of(key).unwrap_or(table.place()), problem);
    }
    Some(read)
}

fn read_interval(table: &Table<'_>, found: At<u64>) -> Option<Interval> {
    Interval::from_ms(found.value).map_err(|error| table.report(found.place, error.to_string())).ok()
}

fn read_numbering(table: &Table<'_>, defaults: &Defaults) -> Option<(Numbering, Names)> {
    let is_ring = table.word("numbering", &[("ring", true), ("running", false)]);
    table.need("newest", "{ address = 100, type = \"u16\" }");
    let newest = table.table("newest")?;
    let names = newest.word("names", &NAMES).unwrap_or_default();
    let newest = read_register(&newest, defaults)?;
    Some((if is_ring? { Numbering::Ring { newest } } else { Numbering::Running { newest } }, names))
}

fn read_held(table: &Table<'_>, defaults: &Defaults) -> Option<Held> {
    match (table.table("count"), table.table("oldest")) {
        (Some(_), Some(oldest)) => {
            table.report(oldest.place(), "`count` and `oldest` are both there: keep one of them");
            None
        }
        (Some(count), None) => read_register(&count, defaults).map(Held::Count),
        (None, Some(oldest)) => read_register(&oldest, defaults).map(Held::Oldest),
        (None, None) => Some(Held::Unsaid),
    }
}

fn read_register(table: &Table<'_>, defaults: &Defaults) -> Option<Register> {
    table.need("address", "100");
    table.need("type", "\"u16\"");
    let position = read_address(table, defaults);
    let value_type = table.word("type", &NUMBERS);
    let order = table.word("order", &ORDERS).unwrap_or(defaults.order);
    table.finish();
    let (register_table, address) = in_registers(table, position?)?;
    Some(Register { table: register_table, address, value_type: value_type?, order })
}

fn in_registers(
    table: &Table<'_>,
    (register_table, address): (RegisterTable, u16),
) -> Option<(RegisterTable, u16)> {
    if register_table.is_bits() {
        let at = table.place_of("address").unwrap_or(table.place());
        table.report(at, format!("it stands in registers, not in a {register_table}"));
        return None;
    }
    Some((register_table, address))
}

fn read_clock(table: &Table<'_>, defaults: &Defaults) -> Option<Clock> {
    table.need("address", "200");
    table.need("encoding", "\"seconds-1970\"");
    let position = read_address(table, defaults);
    let encoding = table.word("encoding", &ENCODINGS);
    let order = table.word("order", &ORDERS).unwrap_or(defaults.order);
    table.finish();
    let (register_table, address) = in_registers(table, position?)?;
    Some(Clock { table: register_table, address, encoding: encoding?, order })
}

fn read_stamp(table: &Table<'_>, defaults: &Defaults) -> Option<TimeStamp> {
    table.need("encoding", "\"seconds-1970\"");
    let offset = table.u16("at", 0..=REGISTERS_MAX).unwrap_or(0);
    let encoding = table.word("encoding", &ENCODINGS);
    let order = table.word("order", &ORDERS).unwrap_or(defaults.order);
    table.finish();
    Some(TimeStamp { offset, encoding: encoding?, order })
}

fn read_way(table: &Table<'_>, defaults: &Defaults, registers: Option<u16>) -> Option<Way> {
    match (table.table("window"), table.table("file")) {
        (Some(window), None) => read_window(&window, defaults),
        (None, Some(file)) => read_file(&file, registers),
        (Some(_), Some(file)) => {
            table.report(file.place(), "a record is read from a `window` or from a `file`: keep one of them");
            None
        }
        (None, None) => {
            if table.place_of("window").or(table.place_of("file")).is_none() {
                table.report(
                    table.place(),
                    "say how a record is read: window = { address = 300, select = { address = 299, type = \"u16\" } }, \
                     window = { address = 300 } where all records stand one behind the other, or file = { number = 1 }",
                );
            }
            None
        }
    }
}

fn read_window(table: &Table<'_>, defaults: &Defaults) -> Option<Way> {
    table.need("address", "300");
    let position = read_address(table, defaults);
    let select = table.table("select");
    let pause_ms = table.duration_within("pause", 0..=10_000).map_or(0, |found| found.value);
    table.finish();
    let (register_table, address) = in_registers(table, position?)?;
    let Some(select) = select else {
        return table.place_of("select").is_none().then_some(Way::Mapped { table: register_table, address });
    };
    let function = select.integer("function", 6..=16);
    let of_writes = Defaults { table: RegisterTable::HoldingRegister, ..defaults.clone() };
    let register = read_register(&select, &of_writes)?;
    let writes_many = function.map_or(register.value_type == ValueType::U32, |found| found.value == 16);
    if register.table != RegisterTable::HoldingRegister {
        select.report(select.place(), "a record is selected by writing a holding register");
        return None;
    }
    if let Some(found) = function
        && (![6, 16].contains(&found.value) || (found.value == 6 && register.value_type == ValueType::U32))
    {
        select.report(found.place, "`function` is 6 (one register) or 16");
        return None;
    }
    Some(Way::Window { select: register, writes_many, pause_ms, table: register_table, address })
}

fn read_file(table: &Table<'_>, registers: Option<u16>) -> Option<Way> {
    table.need("number", "1");
    let file = table.u16("number", 1..=u16::MAX);
    let record = table.u16("record", 0..=FILE_RECORD_MAX).unwrap_or(0);
    let stride = table.u16("stride", 1..=FILE_RECORD_MAX).or(registers);
    table.finish();
    Some(Way::File { file: file?, record, stride: stride? })
}

/// Fields are channels whose address counts from the record's first register, and whose label is the record's.
fn read_fields(
    table: &Table<'_>,
    defaults: &Defaults,
    label: crate::catalog::PeriodLabel,
) -> Vec<ChannelSpec> {
    let defaults = Defaults {
        table: RegisterTable::HoldingRegister,
        address_base: AddressBase::Zero,
        ..defaults.clone()
    };
    let mut fields: Vec<ChannelSpec> = Vec::new();
    for field_table in table.tables("field") {
        for key in ["label", "table", "model", "scale_from"] {
            if let Some(at) = field_table.place_of(key) {
                field_table.report(at, format!("`{key}` is not for a field of a load profile"));
            }
        }
        let Some(field) = read_channel(&field_table, &defaults) else { continue };
        let at = field_table.place_of("id").unwrap_or(field_table.place());
        if fields.iter().any(|other| other.id == field.id) {
            field_table
                .report(at, format!("field `{}` is there twice: names are unique in a record", field.id));
        }
        fields.push(ChannelSpec { label, ..field });
    }
    fields
}

fn read_flag(table: &Table<'_>, fields: &[ChannelSpec]) -> Option<Flag> {
    table.need("at", "2");
    table.need("bits", "[0]");
    table.need("means", "\"invalid\"");
    let offset = table.u16("at", 0..=REGISTERS_MAX);
    let bits = table.items("bits");
    let meaning = table.word("means", &MEANINGS);
    let named = table.texts("fields");
    table.finish();
    let mut mask = 0;
    for found in bits.iter().flatten() {
        match found.value {
            Item::Integer(bit @ 0..=15) => mask |= 1 << bit,
            _ => table.report(found.place, "`bits` are numbers from 0 (the least significant) to 15"),
        }
    }
    let place_of = |name: &At<&str>| {
        let place = fields.iter().position(|field| field.id.as_str() == name.value);
        if place.is_none() {
            table.report(name.place, format!("there is no field `{}` in this record", name.value));
        }
        place
    };
    let fields = named.map(|names| names.iter().filter_map(place_of).collect());
    Some(Flag { offset: offset?, mask, meaning: meaning?, fields })
}

/// Why the records cannot be as they are said to be, and the key that says so.
fn misfit(read: &LoadProfile) -> Option<(&'static str, String)> {
    record_misfit(read).or_else(|| register_misfit(read)).or_else(|| way_misfit(read))
}

fn record_misfit(read: &LoadProfile) -> Option<(&'static str, String)> {
    let registers = read.registers;
    let ends_behind = |offset: u16, count: u16| u32::from(offset) + u32::from(count) > u32::from(registers);
    let place = |field: &ChannelSpec| match field.location {
        Location::Absolute(offset) | Location::SunSpec { offset, .. } => offset,
    };
    if let Some(field) = read.fields.iter().find(|field| ends_behind(place(field), field.registers())) {
        let problem = format!("field `{}` ends behind its record of {registers} registers", field.id);
        return Some(("field", problem));
    }
    if ends_behind(read.stamp.offset, read.stamp.encoding.registers()) {
        return Some(("stamp", format!("`stamp` ends behind its record of {registers} registers")));
    }
    let is_behind = read.flags.iter().any(|flag| ends_behind(flag.offset, 1));
    is_behind.then(|| ("flag", format!("a `flag` stands behind its record of {registers} registers")))
}

/// Registers that end behind their table, or cannot hold the number of every record.
fn register_misfit(read: &LoadProfile) -> Option<(&'static str, String)> {
    let newest = read.numbering.newest();
    let held = match read.held {
        Held::Count(register) => Some(("count", register)),
        Held::Oldest(register) => Some(("oldest", register)),
        Held::Unsaid => None,
    };
    let select = match read.way {
        Way::Window { select, .. } => Some(("select", select)),
        Way::Mapped { .. } | Way::File { .. } => None,
    };
    let numbers = [Some(("newest", newest)), held, select].into_iter().flatten();
    let ends = numbers.map(|(key, register)| (key, register.address, register.value_type.registers()));
    let clock = read.clock.map(|clock| ("clock", clock.address, clock.encoding.registers()));
    if let Some((key, ..)) =
        ends.chain(clock).find(|(_, address, count)| ends_above(*address, (*count).into()))
    {
        let at = if key == "select" { "window" } else { key };
        return Some((at, format!("`{key}` ends above address 65535")));
    }
    let last = match read.numbering {
        Numbering::Ring { .. } => u32::from(read.first) + u32::from(read.capacity) - 1,
        Numbering::Running { .. } => newest.max(),
    };
    let named = [Some(("newest", newest)), select].into_iter().flatten();
    let (key, _) = named.into_iter().find(|(_, register)| register.max() < last)?;
    let at = if key == "select" { "window" } else { key };
    Some((
        at,
        format!("`{key}` cannot name every record: the last one has number {last}, give it `type` u32"),
    ))
}

const fn ends_above(address: u16, registers: u32) -> bool {
    address as u32 + registers > 65_536
}

fn way_misfit(read: &LoadProfile) -> Option<(&'static str, String)> {
    let LoadProfile { registers, capacity, .. } = *read;
    match read.way {
        Way::Mapped { address, .. } => {
            ends_above(address, u32::from(registers) * u32::from(capacity)).then(|| {
                ("window", format!("{capacity} records of {registers} registers end above address 65535"))
            })
        }
        Way::Window { address, .. } => ends_above(address, registers.into())
            .then(|| ("window", "the window ends above address 65535".to_owned())),
        Way::File { file, record, stride } => {
            if 2 + 2 * usize::from(registers) > FILE_DATA_MAX || record + registers - 1 > FILE_RECORD_MAX {
                return Some((
                    "file",
                    "a request of function 20 brings 121 registers at most, from records up to 9999"
                        .to_owned(),
                ));
            }
            // A record of the load profile never stands in two files.
            let per_file = (FILE_RECORD_MAX + 1 - record - registers) / stride + 1;
            let last = u32::from(file) + u32::from((capacity - 1) / per_file);
            (last > 65_535).then(|| {
                (
                    "file",
                    format!(
                        "{capacity} records, {per_file} to a file, need files up to {last}: they end at 65535"
                    ),
                )
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;

    const WINDOW: &str = "interval = \"15m\"\ncapacity = 100\nregisters = 6\nnumbering = \"ring\"\n\
        newest = { address = 10, type = \"u16\" }\nstamp = { encoding = \"seconds-1970\" }\n\
        window = { address = 30, select = { address = 29, type = \"u16\" } }\n\
        field = [{ id = \"energy\", address = 2, type = \"u32\" }, { id = \"power\", address = 4, type = \"f32\" }]\n";

    fn read(text: &str) -> Result<LoadProfile, String> {
        let document = Document::parse(text);
        let read = read_load_profile(&document.root(), &Defaults::default());
        document.finish("f", read).map_err(|problems| problems.to_string())
    }

    #[test]
    fn ways_and_numberings_are_read() {
        let register = |address| Register {
            table: RegisterTable::HoldingRegister,
            address,
            value_type: ValueType::U16,
            order: Defaults::default().order,
        };
        let profile = read(WINDOW).unwrap();
        assert_eq!(profile.numbering, Numbering::Ring { newest: register(10) });
        let table = RegisterTable::HoldingRegister;
        let window =
            Way::Window { select: register(29), writes_many: false, pause_ms: 0, table, address: 30 };
        assert_eq!((profile.way, profile.held, profile.fields.len()), (window, Held::Unsaid, 2));
        let mapped = WINDOW.replace(", select = { address = 29, type = \"u16\" }", "");
        assert_eq!(read(&mapped).unwrap().way, Way::Mapped { table, address: 30 });
        let file = WINDOW.lines().filter(|line| !line.starts_with("window")).collect::<Vec<_>>().join("\n");
        let file = format!("{file}\nfile = {{ number = 4 }}\ncount = {{ address = 12, type = \"u16\" }}\n");
        let profile = read(&file).unwrap();
        assert_eq!(profile.way, Way::File { file: 4, record: 0, stride: 6 });
        assert_eq!((profile.held, profile.names), (Held::Count(register(12)), Names::Last));
        let next = WINDOW.replace("type = \"u16\" }\nstamp", "type = \"u16\", names = \"next\" }\nstamp");
        assert_eq!(read(&next).unwrap().names, Names::Next);
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_place() {
        let rows = [
            ("registers = 6", "registers = 5", "f:8:9: field `power` ends behind its record of 5 registers"),
            ("registers = 6", "registers = 126", "f:3:13: `registers` must be 1 to 125, got 126"),
            ("\"ring\"", "\"rings\"", "f:4:13: `numbering` must be \"ring\" or \"running\""),
            ("newest = { address = 10, type = \"u16\" }", "", "`newest` is missing"),
            ("\"seconds-1970\"", "\"unix\"", "`encoding` must be \"seconds-1970\", \"seconds-2000\""),
            ("{ encoding", "{ at = 5, encoding", "`stamp` ends behind its record of 6 registers"),
            ("window = ", "file = { number = 1 }\nwindow = ", "from a `window` or from a `file`"),
            ("window = ", "windows = ", "say how a record is read"),
            ("\"energy\"", "\"power\"", "field `power` is there twice"),
            (", select = { address = 29, type = \"u16\" }", "", ""),
            ("capacity = 100", "capacity = 60000", ""),
            ("address = 29, type", "address = 29, function = 5, type", "`function` must be 6 to 16, got 5"),
            (
                "address = 29, type",
                "address = 29, function = 7, type",
                "`function` is 6 (one register) or 16",
            ),
            ("address = 30", "address = 65531", "f:7:10: the window ends above address 65535"),
            (
                "address = 29, type = \"u16\"",
                "address = 65535, type = \"u32\"",
                "f:7:10: `select` ends above",
            ),
            (
                "address = 10, type = \"u16\"",
                "address = 65535, type = \"u32\"",
                "f:5:10: `newest` ends above",
            ),
            (
                "field = ",
                "oldest = { address = 65535, type = \"u32\" }\nfield = ",
                "f:8:10: `oldest` ends above",
            ),
            (
                "field = ",
                "clock = { address = 65533, encoding = \"ms-1970\" }\nfield = ",
                "f:8:9: `clock` ends above address 65535",
            ),
            (
                "capacity = 100",
                "capacity = 100\nfirst = 65437",
                "`newest` cannot name every record: the last one has number 65536",
            ),
            (
                "\"ring\"\nnewest = { address = 10, type = \"u16\" }",
                "\"running\"\nnewest = { address = 10, type = \"u32\" }",
                "f:7:10: `select` cannot name every record",
            ),
            (
                "type = \"u16\" }\nstamp",
                "type = \"u16\", names = \"both\" }\nstamp",
                "`names` must be \"last\" or \"next\"",
            ),
            (
                "window = { address = 30, select = { address = 29, type = \"u16\" } }",
                "file = { number = 65535, record = 9990, stride = 5 }",
                "f:7:8: 100 records, 1 to a file, need files up to 65634: they end at 65535",
            ),
            (
                "field = ",
                "flag = [{ at = 6, bits = [0], means = \"invalid\" }]\nfield = ",
                "stands behind its record",
            ),
            (
                "field = ",
                "flag = [{ at = 1, bits = [16], means = \"invalid\" }]\nfield = ",
                "from 0 (the least",
            ),
            (
                "field = ",
                "flag = [{ at = 1, bits = [1], means = \"estimated\", fields = [\"x\"] }]\nfield = ",
                "there is no field `x`",
            ),
            ("type = \"f32\"", "type = \"f32\", scale_from = 3", "`scale_from` is not for a field"),
            ("interval", "intervall", "unknown key `intervall`: did you mean `interval`?"),
        ];
        for (from, to, expected) in rows {
            match (read(&WINDOW.replacen(from, to, 1)), expected) {
                (Ok(_), "") => {}
                (Err(got), expected) if !expected.is_empty() => {
                    assert!(got.contains(expected), "{to}: {got}");
                }
                (got, _) => panic!("{to}: {got:?}"),
            }
        }
        let mapped = WINDOW.replace(", select = { address = 29, type = \"u16\" }", "");
        let too_many = read(&mapped.replace("capacity = 100", "capacity = 60000")).unwrap_err();
        assert!(too_many.contains("60000 records of 6 registers end above address 65535"), "{too_many}");
    }
}
