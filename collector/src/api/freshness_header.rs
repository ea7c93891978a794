//! Freshness where an answer's body has no place for it: a header with JSON in it.
//!
//! A header has a bound: what is most out of date is named, the rest is counted.

use std::collections::BTreeMap;

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::fleet::Freshness;

/// Its name.
pub(super) const NAME: HeaderName = HeaderName::from_static("gapless-freshness");
/// Its longest text: clients and proxies take heads of 8 KiB in all.
const BYTES_MAX: usize = 4_096;
/// What stands around the devices at most.
const FRAME_BYTES: usize = 48;

/// Says in a header of the answer how fresh each device's data is.
pub(super) fn set(response: &mut Response, freshness: &BTreeMap<String, Freshness>) {
    if let Ok(value) = HeaderValue::from_str(&text(freshness)) {
        response.headers_mut().insert(NAME, value);
    }
}

/// `{"devices": {"site/device": {...}}, "more": 0}`: as many as there is room for, the most out of date first.
fn text(freshness: &BTreeMap<String, Freshness>) -> String {
    let mut all: Vec<_> = freshness.iter().collect();
    let score = |of: &Freshness| of.score.unwrap_or(f64::INFINITY);
    all.sort_by(|(_, a), (_, b)| score(b).total_cmp(&score(a)));
    let (mut devices, mut room) = (Map::new(), BYTES_MAX - FRAME_BYTES);
    for (name, of) in &all {
        let value = json!(of);
        // Quotes, colon and comma.
        let length = ascii(&value.to_string()).len() + ascii(name).len() + 4;
        let Some(left) = room.checked_sub(length) else { break };
        room = left;
        devices.insert((*name).clone(), value);
    }
    let more = all.len() - devices.len();
    ascii(&json!({ "devices": Value::Object(devices), "more": more }).to_string())
}

/// JSON in what a header may hold (RFC 9110, section 5.5): what is beyond ASCII is escaped.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if (' '..='~').contains(&c) {
            text.push(c);
        } else {
            let mut units = [0; 2];
            text.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::fleet::{FreshnessState, Reason};
    use super::*;

    fn fresh(score: f64, detail: &str) -> Freshness {
        let reason = Reason { word: "unreachable", since: String::new(), detail: detail.to_owned() };
        Freshness {
            state: FreshnessState::Stale,
            last_reading_at: None,
            score: Some(score),
            reason: Some(reason),
            unconfirmed_since: None,
            refresh: None,
        }
    }

    #[test]
    fn a_header_is_ascii_and_says_the_same() {
        let all = BTreeMap::from([("farm/a".to_owned(), fresh(1.5, "kein Z\u{e4}hler \u{1f50c}\n\u{7f}"))]);
        let text = text(&all);
        assert!(HeaderValue::from_str(&text).is_ok(), "{text}");
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, json!({ "devices": all, "more": 0 }));
    }

    #[test]
    fn of_many_the_most_out_of_date_are_named_and_the_rest_is_counted() {
        let all: BTreeMap<_, _> =
            (0..10_000).map(|n| (format!("farm/meter-{n}"), fresh(f64::from(n), "gone"))).collect();
        let text = text(&all);
        assert!(text.len() <= BYTES_MAX, "{}", text.len());
        let read: Value = serde_json::from_str(&text).unwrap();
        let named = read["devices"].as_object().unwrap().len();
        assert!(named > 20 && read["devices"]["farm/meter-9999"]["score"] == 9999.0, "{text}");
        assert_eq!(read["more"], 10_000 - named);
    }
}
