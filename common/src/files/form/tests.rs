//! Lines of files, and what they become.

use super::*;

pub(in crate::files) fn toa5() -> Form {
    Form::new(Kind::Toa5, "+01:00".parse().unwrap())
}

pub(in crate::files) fn csv(skip: u32, names: Option<&[&str]>, time: &[&str]) -> Form {
    let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
    Form { kind: Kind::Csv { skip, names: names.map(boxed), time: boxed(time) }, ..toa5() }
}

fn told(form: &Form, text: &[u8]) -> Vec<String> {
    let mut parser = Parser::new(form);
    let lines = text.split_inclusive(|byte| *byte == b'\n').map(|line| match parser.line(form, line) {
        Ok(Line::Nothing) => ".".to_owned(),
        Ok(Line::Head) => {
            let field = |field: &Field| format!("{} {} {}", field.name, field.units, field.process);
            parser.fields().iter().map(field).collect::<Vec<_>>().join("|")
        }
        Ok(Line::Row { at, vals }) => {
            let val = |val: &Val| match val {
                Val::Number(number) => number.to_string(),
                Val::Flag(flag) => flag.to_string(),
                Val::Text(text) => format!("'{text}'"),
                Val::Other(_) => "?".to_owned(),
            };
            format!("{at} {}", vals.iter().map(val).collect::<Vec<_>>().join(" "))
        }
        Err(error) => format!("line {}: {error}", parser.line_number()),
    });
    lines.collect()
}

/// As in the LoggerNet manual; a NAN, an empty cell, an overflow, a line cut short, and another program's header.
const TOA5: &str =
    "\u{FEFF}\"TOA5\",\"Mast\",\"CR1000X\",\"1234\",\"CR1000X.Std.07\",\"CPU:met.CR1X\",\"55\",\"Met\"\r
\"TIMESTAMP\",\"RECORD\",\"WS_Avg\",\"T °C\"\r
\"TS\",\"RN\",\"m/s\",\"Deg C\"\r
\"\",\"\",\"Avg\",\"Smp\"\r
\"2026-01-01 01:00:00\",0,5.25,-1\r
\"2026-01-01 01:10:00\",1,\"NAN\",\r
\"2026-01-01 01:20:00\",2,NAN,\"INF\"\r
\"2026-01-01 01:30:00\",3,5.2\r
\"2026-01-01 1:4\",4,5.2,7\r
\"TOA5\",\"Mast\",\"CR1000X\",\"1234\",\"CR1000X.Std.07\",\"CPU:met2.CR1X\",\"56\",\"Met\"\r
\"TIMESTAMP\",\"RECORD\",\"RH\"\r
\"TS\",\"RN\",\"%\"\r
\"\",\"\",\"Smp\"\r
\"2026-01-01 01:50:00\",0,77\r
";

#[test]
fn toa5_is_read() {
    let expected = [
        ".",
        ".",
        ".",
        "WS_Avg m/s Avg|T °C Deg C Smp",
        "2026-01-01T00:00:00Z 5.25 -1",
        "2026-01-01T00:10:00Z 'NAN' ''",
        "2026-01-01T00:20:00Z 'NAN' inf",
        "line 8: 3 cells, and the header has 4",
        "line 9: `2026-01-01 1:4` is no time",
        ".",
        ".",
        ".",
        "RH % Smp",
        "2026-01-01T00:50:00Z 77",
    ];
    assert_eq!(told(&toa5(), TOA5.as_bytes()), expected);
    let none = told(&toa5(), b"a,b\n1,2\n3,4\n");
    assert_eq!(none[1..], [".", "."]);
    assert!(none[0].contains("begins with \"TOA5\", this one with `ab`"), "{none:?}");
}

#[test]
fn csv_is_read() {
    let plain =
        told(&csv(0, None, &["time"]), b"time,a,b\n2026-01-01 01:00,1,-999\n\n2026-01-01 01:10,x,true\n");
    assert_eq!(plain, ["a  |b  ", "2026-01-01T00:00:00Z 1 -999", ".", "2026-01-01T00:10:00Z 'x' true"]);

    let german = Form {
        separator: ';',
        has_decimal_comma: true,
        encoding: Encoding::Latin1,
        stamp: "%d.%m.%Y %H:%M".parse().unwrap(),
        missing: vec!["-999".into(), "---".into()],
        ..csv(1, None, &["Datum", "Zeit"])
    };
    let text =
        b"Z\xE4hler 7\nDatum;Zeit;Gr\xF6\xDFe;n\n01.01.2026;01:00;2,5;---\n01.01.2026;01:10;-999;1e3\n";
    let expected = [".", "Größe  |n  ", "2026-01-01T00:00:00Z 2.5 'NAN'", "2026-01-01T00:10:00Z 'NAN' 1000"];
    assert_eq!(told(&german, text), expected);

    let names: &[&str] = &["t", "a"];
    let bare = told(&csv(0, Some(names), &["t"]), b"2026-01-01 01:00,1\n");
    assert_eq!(bare, ["2026-01-01T00:00:00Z 1"]);
    let skipped = told(&csv(1, Some(names), &["t"]), b"remark\n2026-01-01 01:00,1\n");
    assert_eq!(skipped, ["a  ", "2026-01-01T00:00:00Z 1"]);
    let wrong = told(&csv(0, None, &["time"]), b"t,a\n1,2\n");
    let head =
        "line 1: no header that can be used, so nothing of the file is read: no column `time` among t, a";
    assert_eq!(wrong, [head, "."]);
}
