//! What will be read of files, and how it reads for people. Looks at no file.

use std::fmt;

use gapless_common::text::format_duration_ms;

use super::traffic::FIELDS_ASSUMED;
use super::{FilesReport, FolderReport};
use crate::config::{FileSettings, Folder, LogFiles};
use crate::files::form::Kind;
use crate::files::text::Encoding;
use crate::records::layout::Channels;

pub(super) fn report(folder: &Folder) -> FolderReport {
    let devices = folder
        .devices
        .iter()
        .map(|LogFiles { id, settings, .. }| FilesReport { id: id.clone(), settings: settings.clone() });
    FolderReport { id: folder.id.clone(), link: folder.to_string(), devices: devices.collect() }
}

impl fmt::Display for FolderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "bus {}: {}", self.id, self.link)?;
        self.devices.iter().try_for_each(|device| write!(f, "{device}"))
    }
}

impl fmt::Display for FilesReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FileSettings { pattern, grid, form, first_ms, late_ms, look_ms, channels, paused, .. } =
            &self.settings;
        write!(f, "  {}: {pattern}, ", self.id)?;
        match channels {
            Channels::All => write!(f, "all columns ({FIELDS_ASSUMED} assumed below)")?,
            Channels::Named(wanted) if wanted.len() == 1 => write!(f, "1 channel")?,
            Channels::Named(wanted) => write!(f, "{} channels", wanted.len())?,
        }
        writeln!(f, ", a row every {}{}", grid.interval, if *paused { ", paused" } else { "" })?;
        let kind = match &form.kind {
            Kind::Toa5 => "TOA5".to_owned(),
            Kind::Csv { time, .. } => {
                format!("CSV, time `{}` in column {}", form.stamp, time.join(" and "))
            }
        };
        let encoding = if form.encoding == Encoding::Latin1 { ", latin-1" } else { "" };
        writeln!(f, "    {kind}{encoding}, zone {}", form.zone)?;
        let span = |ms: i64| format_duration_ms(ms.unsigned_abs());
        let (look, late, first) = (format_duration_ms(*look_ms), span(*late_ms), span(*first_ms));
        writeln!(
            f,
            "    looked at every {look}; a row may be {late} late; at each start the last {first} once more"
        )
    }
}
