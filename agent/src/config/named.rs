//! Which files and folders a configuration names, and where it names them. Opens none of them, and reports nothing: what is
//! wrong with a value is said by the reader of the whole.

use gapless_common::document::{At, Document, Table};
use gapless_common::profile::ProfileSet;

/// A file or folder that a configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Under which key: `uplink.ca_file`.
    pub key: &'static str,
    /// What it is called there.
    pub path: Box<str>,
    /// Line of the value, from 1.
    pub line: usize,
    /// Column of the value, from 1.
    pub column: usize,
    /// What should be there.
    pub kind: Kind,
}

/// What should be where a configuration says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A profile, which is read with the configuration.
    Profile,
    /// A file that is read once it is needed.
    File,
    /// A folder that is read.
    Folder,
    /// The folder of the outbox, which is made where it is missing.
    Outbox,
}

/// All of them, in the order of the tables.
#[must_use]
pub fn named(toml: &str) -> Vec<Named> {
    let document = Document::parse(toml);
    let mut all = Vec::new();
    let mut add = |key: &'static str, kind, found: Option<At<&str>>| {
        let Some(found) = found else { return };
        let (line, column) = document.line_column(found.place);
        all.push(Named { key, path: found.value.into(), line, column, kind });
    };
    let root = document.root();
    if let Some(uplink) = root.table("uplink") {
        add("uplink.password_file", Kind::File, uplink.filled_text("password_file"));
        add("uplink.ca_file", Kind::File, uplink.filled_text("ca_file"));
        add("uplink.client_certificate_file", Kind::File, uplink.filled_text("client_certificate_file"));
        add("uplink.client_key_file", Kind::File, uplink.filled_text("client_key_file"));
    }
    if let Some(outbox) = root.table("outbox") {
        add("outbox.path", Kind::Outbox, outbox.filled_text("path"));
    }
    for bus in root.tables("bus") {
        add("folder", Kind::Folder, bus.filled_text("folder"));
        if let Some(logger) = bus.table("campbell") {
            add("campbell.password_file", Kind::File, logger.filled_text("password_file"));
        }
        for device in bus.tables("device") {
            add("profile", Kind::Profile, profile_file(&device));
        }
    }
    all
}

fn profile_file<'d>(device: &Table<'d>) -> Option<At<&'d str>> {
    device.filled_text("profile").filter(|found| ProfileSet::is_file(found.value))
}
