//! What each device was when: the series of its channels, from which time on. Kept in memory beside the writer; the rows are
//! the truth.
//!
//! A reading says by its series what it is; of a reading that is missing only this says what it would have been.

use std::collections::BTreeMap;

use gapless_common::time::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::cell::{list_blob, list_of};
use crate::ledger::DeviceNo;

/// Descriptions that are kept of a device; beyond it nobody knows what it was before the oldest of them.
const KEPT_MAX: usize = 256;
/// The begin of what was first known of a device: nobody knows of a time before it.
const EVER: Timestamp = Timestamp(i64::MIN);

/// See the module's text.
#[derive(Debug, Default)]
pub(crate) struct Descriptions {
    of: BTreeMap<DeviceNo, BTreeMap<Timestamp, Vec<i64>>>,
}

impl Descriptions {
    pub(crate) fn load(connection: &Connection) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare("SELECT device, from_ts, series FROM descriptions")?;
        let mut rows = statement.query([])?;
        let mut all = Self::default();
        while let Some(row) = rows.next()? {
            let series = list_of(&row.get::<_, Vec<u8>>(2)?).into_iter().map(u64::cast_signed);
            let of = all.of.entry(DeviceNo(row.get(0)?)).or_default();
            of.insert(Timestamp(row.get(1)?), series.collect());
        }
        Ok(all)
    }

    /// The series of a device's channels at that time, and until when it is the same; `None` where it has been the same since
    /// before this was written down.
    pub(crate) fn at(&self, device: DeviceNo, at: Timestamp) -> Option<(&[i64], Option<Timestamp>)> {
        let of = self.of.get(&device)?;
        let (_, series) = of.range(..=at).next_back()?;
        let until = of.range(at.plus_ms(1)..).next().map(|(from, _)| *from);
        Some((series, until))
    }

    /// A description comes into force; `before` is the one in whose place it comes. What was said of the time after `since` is
    /// no longer true.
    pub(crate) fn begin(
        &mut self,
        connection: &Connection,
        device: DeviceNo,
        (since, series): (Timestamp, &[i64]),
        before: Option<&[i64]>,
    ) -> rusqlite::Result<()> {
        if !self.of.contains_key(&device) {
            if before.is_none_or(|before| before == series) {
                return self.put(connection, device, EVER, series);
            }
            self.put(connection, device, EVER, before.unwrap_or(series))?;
        }
        let of = self.of.entry(device).or_default();
        let since = since.max(EVER.plus_ms(1));
        if !of.split_off(&since).is_empty() {
            let sql = "DELETE FROM descriptions WHERE device = ?1 AND from_ts >= ?2";
            connection.prepare_cached(sql)?.execute([device.0, since.0])?;
        }
        match of.last_key_value() {
            Some((_, last)) if last == series => return Ok(()),
            _ => self.put(connection, device, since, series)?,
        }
        self.forget(connection, device)
    }

    /// What came second takes the place of the first, as long as there are too many.
    fn forget(&mut self, connection: &Connection, device: DeviceNo) -> rusqlite::Result<()> {
        let of = self.of.entry(device).or_default();
        if of.len() <= KEPT_MAX {
            return Ok(());
        }
        of.pop_first();
        let Some((from, series)) = of.pop_first() else { return Ok(()) };
        let sql = "DELETE FROM descriptions WHERE device = ?1 AND from_ts <= ?2";
        connection.prepare_cached(sql)?.execute([device.0, from.0])?;
        self.put(connection, device, EVER, &series)
    }

    fn put(
        &mut self,
        connection: &Connection,
        device: DeviceNo,
        from: Timestamp,
        series: &[i64],
    ) -> rusqlite::Result<()> {
        let sql = "INSERT OR REPLACE INTO descriptions VALUES (?1, ?2, ?3)";
        let blob = list_blob(series.iter().map(|series| series.cast_unsigned()));
        connection.prepare_cached(sql)?.execute(params![device.0, from.0, blob])?;
        self.of.entry(device).or_default().insert(from, series.to_vec());
        Ok(())
    }
}

/// Whether two descriptions say of one channel that it is another quantity, or comes about in another way, or have none in
/// common. Another unit alone is told with each value.
pub(crate) fn contradict(connection: &Connection, one: &[i64], other: &[i64]) -> rusqlite::Result<bool> {
    let sql = "SELECT channel, quantity, aggregation, label FROM series WHERE id = ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let mut of = |series: &[i64]| {
        let mut channels = BTreeMap::new();
        for series in series {
            let row = |r: &rusqlite::Row<'_>| {
                let what = (r.get::<_, String>(1)?, r.get::<_, i64>(2)?, r.get::<_, i64>(3)?);
                Ok((r.get::<_, String>(0)?, what))
            };
            channels.extend(statement.query_row([series], row).optional()?);
        }
        Ok::<_, rusqlite::Error>(channels)
    };
    let (one, other) = (of(one)?, of(other)?);
    let has_any = one.is_empty() || other.is_empty() || one.keys().any(|channel| other.contains_key(channel));
    Ok(!has_any || one.iter().any(|(channel, what)| other.get(channel).is_some_and(|said| said != what)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    const A: DeviceNo = DeviceNo(1);

    fn database() -> Connection {
        let connection = sqlite::make_writer(Connection::open_in_memory().unwrap(), 7).unwrap();
        let sql =
            "INSERT INTO sites VALUES (1, 'farm'); INSERT INTO devices (id, site, name) VALUES (1, 1, 'a')";
        connection.execute_batch(sql).unwrap();
        connection
    }

    #[test]
    fn a_time_has_the_description_that_came_into_force_before_it() {
        let connection = database();
        let mut all = Descriptions::default();
        let told = |all: &Descriptions| {
            let of = |at: i64| {
                let found = all.at(A, Timestamp(at));
                found.map(|(series, until)| (series.to_vec(), until.map(|until| until.0)))
            };
            [0, 100, 200, 300].map(of).into_iter().flatten().collect::<Vec<_>>()
        };
        assert!(told(&all).is_empty());
        let begin = |all: &mut Descriptions, since: i64, series: &[i64], before: Option<&[i64]>| {
            all.begin(&connection, A, (Timestamp(since), series), before).unwrap();
            let loaded = Descriptions::load(&connection).unwrap();
            assert_eq!(told(&loaded), told(all), "as it is written down");
            told(all)
        };
        let same = |series: &[i64]| (series.to_vec(), None);
        assert_eq!(
            begin(&mut all, 50, &[1, 2], None),
            vec![same(&[1, 2]); 4],
            "of the time before nothing is known"
        );
        let first = (vec![1, 2], Some(100));
        let expected = [first.clone(), same(&[1, 3]), same(&[1, 3]), same(&[1, 3])];
        assert_eq!(begin(&mut all, 100, &[1, 3], Some(&[1, 2])), expected);
        assert_eq!(begin(&mut all, 200, &[1, 3], Some(&[1, 3])), expected, "the same again is nothing new");
        let (second, third) = ((vec![1, 3], Some(250)), same(&[1, 2]));
        assert_eq!(begin(&mut all, 250, &[1, 2], None), [first.clone(), second.clone(), second, third]);
        let expected = [first, same(&[4]), same(&[4]), same(&[4])];
        assert_eq!(begin(&mut all, 100, &[4], None), expected, "what was said of later is no longer true");
    }

    #[test]
    fn of_one_that_becomes_another_again_and_again_the_latest_are_kept() {
        let connection = database();
        let mut all = Descriptions::default();
        for n in 0..1_000 {
            all.begin(&connection, A, (Timestamp(n * 10), &[n]), None).unwrap();
        }
        let loaded = Descriptions::load(&connection).unwrap();
        for kept in [&all, &loaded] {
            assert_eq!(kept.of[&A].len(), KEPT_MAX);
            assert_eq!(kept.at(A, Timestamp(9_995)), Some((&[999][..], None)));
            assert_eq!(kept.at(A, Timestamp(9_985)), Some((&[998][..], Some(Timestamp(9_990)))));
            assert_eq!(
                kept.at(A, Timestamp(5)),
                Some((&[744][..], Some(Timestamp(7_450)))),
                "the oldest that is kept"
            );
        }
    }

    #[test]
    fn what_was_so_before_anything_was_written_down_is_so_until_it_is_another() {
        let connection = database();
        let mut all = Descriptions::default();
        all.begin(&connection, A, (Timestamp(100), &[2]), Some(&[1])).unwrap();
        assert_eq!(all.at(A, Timestamp(99)), Some((&[1][..], Some(Timestamp(100)))));
        assert_eq!(all.at(A, Timestamp(100)), Some((&[2][..], None)));
    }

    #[test]
    fn another_quantity_aggregation_or_label_of_one_channel_contradicts() {
        let connection = database();
        let sql = "INSERT INTO series (id, device, channel, revision, unit, quantity, aggregation, label) VALUES
                (1, 1, 'u', 1, 'V', 'q', 1, 1), (2, 1, 'u', 2, 'kV', 'q', 1, 1), (3, 1, 'u', 3, 'V', 'p', 1, 1),
                (4, 1, 'u', 4, 'V', 'q', 0, 1), (5, 1, 'u', 5, 'V', 'q', 1, 0), (6, 1, 'i', 1, 'A', 'x', 0, 0)";
        connection.execute_batch(sql).unwrap();
        let rows: [(&[i64], &[i64], bool); 8] = [
            (&[1], &[1], false),
            (&[1], &[2], false),
            (&[1, 6], &[1], false),
            (&[1], &[6], true),
            (&[1, 6], &[3, 6], true),
            (&[1], &[4], true),
            (&[1], &[5], true),
            (&[], &[1], false),
        ];
        for (one, other, expected) in rows {
            assert_eq!(contradict(&connection, one, other).unwrap(), expected, "{one:?} {other:?}");
            assert_eq!(contradict(&connection, other, one).unwrap(), expected, "{other:?} {one:?}");
        }
    }
}
