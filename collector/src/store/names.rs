//! The names of sites and devices: who is known.

use std::collections::BTreeSet;

use gapless_common::id::{DeviceId, SiteId};
use rusqlite::{Connection, OptionalExtension as _, params};

/// All of them, devices as `site/device`.
pub(crate) fn all(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT name FROM sites UNION ALL \
        SELECT sites.name || '/' || devices.name FROM devices JOIN sites ON sites.id = devices.site";
    connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}

/// What the device is called, `site/device`.
pub(crate) fn of_device(connection: &Connection, device: i64) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT s.name || '/' || d.name FROM devices d JOIN sites s ON s.id = d.site WHERE d.id = ?1";
    connection.prepare_cached(sql)?.query_row([device], |row| row.get(0)).optional()
}

/// Whether there is a site of that name.
pub(crate) fn is_site(connection: &Connection, site: &SiteId) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sites WHERE name = ?1)";
    connection.prepare_cached(sql)?.query_row([site.as_str()], |row| row.get(0))
}

/// Whether there is a device of that name, in this site or in any.
pub(crate) fn is_device(
    connection: &Connection,
    site: Option<&SiteId>,
    device: &DeviceId,
) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM devices d JOIN sites s ON s.id = d.site
        WHERE d.name = ?2 AND (?1 IS NULL OR s.name = ?1))";
    let row = params![site.map(SiteId::as_str), device.as_str()];
    connection.prepare_cached(sql)?.query_row(row, |row| row.get(0))
}
