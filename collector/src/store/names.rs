//! The names of all sites, and of all devices as `site/device`: who is known at the start.

use std::collections::BTreeSet;

use rusqlite::Connection;

/// All of them.
pub(crate) fn all(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let sql = "SELECT name FROM sites UNION ALL \
        SELECT sites.name || '/' || devices.name FROM devices JOIN sites ON sites.id = devices.site";
    connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
}
