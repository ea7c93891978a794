//! Sources that remember, as they are configured: loggers with their tables, and folders with their files. Reads no text.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use gapless_common::catalog;
use gapless_common::id::{BusId, DeviceId, DeviceIndex};
use gapless_common::time::SlotGrid;

use super::Password;
use crate::campbell::table::Settings;
use crate::files::set::Settings as FileSettings;
use crate::records::layout::Channels;
use crate::records::zone::Zone;

/// A logger with a memory, and the tables of it that are collected.
#[derive(Debug, Clone, PartialEq)]
pub struct Logger {
    /// Its name as a bus, unique in the file.
    pub id: BusId,
    /// Its web server.
    pub web: Web,
    /// Time for an answer to be complete.
    pub timeout_ms: u32,
    /// At least one.
    pub tables: Vec<LogTable>,
}

/// `Campbell logger at http://10.0.0.9`
impl fmt::Display for Logger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Campbell logger at {}", self.web.url)
    }
}

/// The web server of a logger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web {
    /// `http://host[:port]`, without a slash at its end.
    pub url: String,
    /// User of basic authentication.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<Password>,
}

/// A table of a logger's memory: a device.
#[derive(Debug, Clone, PartialEq)]
pub struct LogTable {
    /// Its name, unique in the site.
    pub id: DeviceId,
    /// Its place in the catalog.
    pub index: DeviceIndex,
    /// Its name in the logger.
    pub table: Box<str>,
    /// When a record is due.
    pub grid: SlotGrid,
    /// The logger's local time.
    pub zone: Zone,
    /// How far back records are read at each start, in ms.
    pub first_ms: i64,
    /// What is read of a record.
    pub channels: Channels,
    /// Make, model, serial number and what else was written down.
    pub attributes: BTreeMap<String, String>,
    /// Not read for now; its slots are recorded as misses with that cause.
    pub paused: bool,
}

impl LogTable {
    /// What the collector is told of it; of a table whose fields are all channels, before the logger has named them.
    pub(super) fn to_catalog(&self, logger: &Logger) -> catalog::Device {
        let mut attributes = self.attributes.clone();
        attributes.insert("bus".to_owned(), logger.id.to_string());
        attributes.insert("table".to_owned(), self.table.to_string());
        attributes.insert("zone".to_owned(), self.zone.to_string());
        let channels = self.channels.named();
        catalog::Device { id: self.id.clone(), grid: self.grid, paused: self.paused, channels, attributes }
    }

    /// What the collection of it is told.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            device: self.index,
            table: self.table.clone(),
            grid: self.grid,
            zone: self.zone,
            first_ms: self.first_ms,
            channels: self.channels.clone(),
            paused: self.paused,
        }
    }
}

/// A folder that loggers write files to.
#[derive(Debug, Clone, PartialEq)]
pub struct Folder {
    /// Its name as a bus, unique in the file.
    pub id: BusId,
    /// Where it is.
    pub path: PathBuf,
    /// At least one.
    pub devices: Vec<LogFiles>,
}

/// `files in /mnt/logger`
impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "files in {}", self.path.display())
    }
}

/// Files that are one device.
#[derive(Debug, Clone, PartialEq)]
pub struct LogFiles {
    /// Its name, unique in the site.
    pub id: DeviceId,
    /// What is read, and how.
    pub settings: FileSettings,
    /// Make, model, serial number and what else was written down.
    pub attributes: BTreeMap<String, String>,
}

impl LogFiles {
    /// What the collector is told of it; of files whose columns are all channels, before one was read.
    pub(super) fn to_catalog(&self, folder: &Folder) -> catalog::Device {
        let FileSettings { pattern, form, grid, paused, channels, .. } = &self.settings;
        let mut attributes = self.attributes.clone();
        attributes.insert("bus".to_owned(), folder.id.to_string());
        attributes.insert("files".to_owned(), pattern.to_string());
        attributes.insert("zone".to_owned(), form.zone.to_string());
        let channels = channels.named();
        catalog::Device { id: self.id.clone(), grid: *grid, paused: *paused, channels, attributes }
    }
}
