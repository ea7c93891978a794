//! Text for people: the tables that `gapless-agent status`, `read` and `outbox` print, and errors with their causes.
//! Pure: figures in, text out.

use std::fmt::Write as _;
use std::path::Path;

use gapless_common::text::format_bytes;

use crate::outbox::Summary;
use crate::status::{DeviceStatus, Status, ValueStatus};

/// An error and its sources in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Values of one device, a line each.
#[must_use]
pub fn values(values: &[ValueStatus]) -> String {
    let rows: Vec<[String; 4]> = values
        .iter()
        .map(|v| {
            [
                v.channel.clone(),
                v.value.clone().unwrap_or_else(|| "-".into()),
                v.unit.clone(),
                v.quality.clone(),
            ]
        })
        .collect();
    table(["channel", "value", "unit", "quality"], &rows)
}

/// The whole status.
#[must_use]
pub fn status(status: &Status) -> String {
    let mut out = String::new();
    let clock = if status.clock.set { "set" } else { "NOT SET: readings wait for the true time" };
    line(&mut out, "agent", &format!("{} {}, up {} s", status.agent, status.version, status.uptime_s));
    line(&mut out, "clock", &format!("{} ({clock})", status.clock.now));
    line(&mut out, "outbox", &outbox_line(status));
    line(&mut out, "uplink", &uplink_line(status));
    for bus in &status.buses {
        let state = match (bus.open, &bus.error) {
            (Some(true), _) => "open".to_owned(),
            (_, Some(why)) => format!("NOT OPEN: {why}"),
            _ => "not yet opened".to_owned(),
        };
        let figures =
            format!("{} requests, {} timed out, {} corrupt", bus.requests, bus.timed_out, bus.corrupt);
        line(&mut out, "bus", &format!("{} ({}): {state}; {figures}", bus.id, bus.link));
    }
    out.push('\n');
    let rows: Vec<[String; 5]> = status.devices.iter().map(device_row).collect();
    out += &table(["device", "state", "last reading", "answers", "misses"], &rows);
    for device in &status.devices {
        if let Some(why) = &device.last_error {
            let _ = writeln!(out, "{}: {why}", device.id);
        }
    }
    out
}

fn outbox_line(status: &Status) -> String {
    let outbox = &status.outbox;
    let durable = match &outbox.failure {
        None => String::new(),
        Some(why) => format!("; NOT DURABLE, in memory only: {why}"),
    };
    let said =
        |count: u64, what: &str| if count == 0 { String::new() } else { format!("; {count} records {what}") };
    let of_disk = outbox.dropped_disk_full;
    let dropped = [
        if outbox.disk_full {
            "; the DISK IS FULL, though the budget is not".to_owned()
        } else {
            String::new()
        },
        said(of_disk, "DROPPED, as others had filled the disk"),
        said(outbox.dropped_records.saturating_sub(of_disk), "DROPPED, as the budget was full"),
        said(outbox.quarantined_records, "LOST to damage of its files"),
    ]
    .concat();
    format!(
        "{} of {}, {} records to deliver, {} % full of them{dropped}{durable}",
        format_bytes(outbox.disk_bytes),
        format_bytes(outbox.budget_bytes),
        outbox.owed_records,
        outbox.owed_percent
    )
}

fn uplink_line(status: &Status) -> String {
    let uplink = &status.uplink;
    let acked = match uplink.last_ack_s {
        Some(seconds) => format!("last acknowledgement {seconds} s ago"),
        None => "nothing acknowledged yet".to_owned(),
    };
    let error = match &uplink.last_error {
        Some(why) => format!("; {why}"),
        None => String::new(),
    };
    let today = match uplink.bytes_today_max {
        Some(most) => format!(", {} of {} today", format_bytes(uplink.bytes_today), format_bytes(most)),
        None => String::new(),
    };
    let (broker, state, in_flight) = (&uplink.broker, &uplink.state, uplink.in_flight);
    format!("{broker}: {state}, {in_flight} frames on their way, {acked}{today}{error}")
}

fn device_row(device: &DeviceStatus) -> [String; 5] {
    let misses: Vec<String> = device.misses.iter().map(|(cause, count)| format!("{cause} {count}")).collect();
    let misses = if misses.is_empty() { "-".to_owned() } else { misses.join(", ") };
    [
        device.id.clone(),
        device.state.clone(),
        device.last_reading.clone().unwrap_or_else(|| "never".into()),
        device.answers.to_string(),
        misses,
    ]
}

/// What an outbox holds.
#[must_use]
pub fn outbox(path: &Path, summary: &Summary) -> String {
    let mut out = String::new();
    let bytes: u64 = summary.files.iter().map(|(_, len)| len).sum();
    let owed: u64 = summary.owed.iter().map(|r| r.last.0.saturating_sub(r.first.0) + 1).sum();
    line(&mut out, "outbox", &path.display().to_string());
    let files = format!("{} in {} files", format_bytes(bytes), summary.files.len());
    line(&mut out, "disk", &format!("{files}, {} segments with records", summary.segments.len()));
    line(&mut out, "owed", &format!("{owed} records that the collector has not acknowledged"));
    if let Some(at) = summary.found.last_durable_at {
        let how = if summary.found.clean_stop { "goodbye" } else { "last record" };
        line(&mut out, how, &at.to_string());
    }
    for loss in &summary.losses {
        line(
            &mut out,
            "loss",
            &format!("epoch {} seq {} to {}: {}", loss.epoch, loss.first, loss.last, loss.cause),
        );
    }
    out.push('\n');
    let rows: Vec<[String; 4]> = summary
        .epochs
        .iter()
        .map(|e| {
            let owed = summary.owed.iter().filter(|r| r.epoch == e.epoch);
            let owed: u64 = owed.map(|r| r.last.0.saturating_sub(r.first.0) + 1).sum();
            [e.epoch.to_string(), e.first.to_string(), e.next.to_string(), owed.to_string()]
        })
        .collect();
    out + &table(["epoch", "first seq", "next seq", "owed"], &rows)
}

fn line(out: &mut String, name: &str, text: &str) {
    // Writing to a String does not fail.
    let _ = writeln!(out, "{name:<8} {text}");
}

/// Columns as wide as their widest cell.
#[must_use]
pub fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|text| text.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut out = String::new();
    let head = head.map(str::to_owned);
    for row in std::iter::once(&head).chain(rows) {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        let text = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "{}", text.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::OutboxStatus;

    #[test]
    fn what_is_lost_is_told_with_its_reason() {
        let rows = [
            ((0, 0, false, 0), ""),
            ((0, 0, false, 2), "; 2 records LOST to damage of its files"),
            ((7, 0, false, 0), "; 7 records DROPPED, as the budget was full"),
            (
                (7, 7, true, 0),
                "; the DISK IS FULL, though the budget is not; 7 records DROPPED, as others had filled the disk",
            ),
            (
                (7, 3, false, 0),
                "; 3 records DROPPED, as others had filled the disk; 4 records DROPPED, as the budget was full",
            ),
        ];
        for ((dropped_records, dropped_disk_full, disk_full, quarantined_records), expected) in rows {
            let outbox = OutboxStatus {
                dropped_records,
                dropped_disk_full,
                disk_full,
                quarantined_records,
                ..OutboxStatus::default()
            };
            let told = outbox_line(&Status { outbox, ..Status::default() });
            assert_eq!(told, format!("0 B of 0 B, 0 records to deliver, 0 % full of them{expected}"));
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |channel: &str, value: Option<&str>| ValueStatus {
            channel: channel.into(),
            value: value.map(str::to_owned),
            unit: "V".into(),
            quality: "good".into(),
        };
        let text = values(&[row("voltage_l1", Some("230.1")), row("u", None)]);
        let expected = "channel     value  unit  quality\n\
                        voltage_l1  230.1  V     good\n\
                        u           -      V     good\n";
        assert_eq!(text, expected);
    }
}
