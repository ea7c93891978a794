//! Folders of files as sources of the collector, with a real one: a mounted folder whose files grow, are half written, late,
//! replaced, spoilt and gone; packed files; encrypted ones.

use std::io::Write as _;
use std::path::Path;

use gapless_tests::home::{Home, WITHIN};
use gapless_tests::logger_files::{
    DAY, Logger, date, drop_description, piped, put, until_speeds, until_told,
};
use gapless_tests::wait;

fn append(folder: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let mut file = std::fs::File::options().append(true).open(folder.join(name)).expect("it is there");
    file.write_all(bytes.as_ref()).expect("it can be written");
}

fn folder_words(folder: &Path) -> String {
    format!("folder = \"{}\"", folder.display())
}

/// How many values were put in the place of others.
fn revised(home: &Home) -> i64 {
    let database =
        rusqlite::Connection::open(home.folder.path().join("data/gapless.db")).expect("it is there");
    database.query_row("SELECT count(*) FROM revisions", [], |row| row.get(0)).expect("it is whole")
}

#[test]
fn files_of_a_folder_are_read_as_they_come_and_what_comes_late_fills_its_gap() {
    let logger = Logger::of_rows(3 * DAY);
    let share = tempfile::tempdir().expect("a folder");
    let folder = share.path().join("mast-7");
    std::fs::create_dir(&folder).expect("a folder");
    put(&folder, "Met_1234_0.dat", logger.toa5(0..DAY));
    let (last, last_row) = (3 * DAY - 1, logger.row(3 * DAY - 1, Logger::speed(3 * DAY - 1)));
    let (half, rest) = last_row.split_at(last_row.len() - 9);
    put(&folder, "Met_1234_2.dat", logger.toa5(2 * DAY..last) + half);
    put(&folder, "Other_1234.dat", "nothing of this device\n");
    let words = [("folder = \"/mnt/share/mast-7\"", &*folder_words(&folder))];
    let mut home = Home::start(&[drop_description(&words)]);

    // A half line waits, and the day between is missing.
    until_speeds(&home, "mast", &logger.speeds((0..DAY).chain(2 * DAY..last)));
    let gap = wait::until("the gap", WITHIN, || {
        let gaps = home.api.items("/api/v1/gaps?device=mast")?;
        gaps.into_iter().find(|gap| gap["state"] == "waiting").ok_or("no gap that waits".to_owned())
    });
    assert_eq!((&gap["slots"], &gap["cause"]), (&DAY.into(), &"not_recorded".into()), "{gap}");
    append(&folder, "Met_1234_2.dat", rest);
    until_speeds(&home, "mast", &logger.speeds((0..DAY).chain(2 * DAY..=last)));
    assert_eq!(revised(&home), 0);

    // A file that is replaced by another one of the same length is read anew, and what is another value takes its place.
    let (row, other) = (2 * DAY + 7, 9.0);
    let text = logger.toa5(2 * DAY..last + 1);
    let before = logger.row(row, Logger::speed(row));
    let after = logger.row(row, other);
    assert!(text.contains(&before) && before.len() == after.len());
    put(&folder, "Met_1234_2.dat", text.replace(&before, &after));
    let mut wanted = logger.speeds((0..DAY).chain(2 * DAY..=last));
    wanted.insert(logger.at(row).0, (Some(other), "good".to_owned()));
    until_speeds(&home, "mast", &wanted);
    assert_eq!(revised(&home), 1, "nothing else was written again");

    // The missing day comes while there is no collector, and bears the date of its last row.
    home.kill_and(|_| {
        put(&folder, "Met_1234_1.dat", logger.toa5(DAY..2 * DAY));
        date(&folder, "Met_1234_1.dat", logger.at(2 * DAY));
    });
    wanted.extend(logger.speeds(DAY..2 * DAY));
    until_speeds(&home, "mast", &wanted);
    wait::until("the gap to be filled", WITHIN, || {
        let gap = home.api.get(&format!("/api/v1/gaps/{}", gap["id"]))?;
        if gap["state"] == "filled" { Ok(()) } else { Err(gap.to_string()) }
    });

    // What is spoilt is named, and does not stop the others.
    append(&folder, "Met_1234_2.dat", "\"this is no row\"\r\n");
    until_told(&home, "mast", &format!("Met_1234_2.dat line {}: 1 cells, and the header has 5", 4 + DAY + 1));
    put(&folder, "Met_1234_3.dat", "<html>not found</html>\n");
    until_told(&home, "mast", "Met_1234_3.dat line 1: no header that can be used");
    std::fs::remove_file(folder.join("Met_1234_3.dat")).expect("it was there");

    // A share that is not mounted is no empty one.
    let away = share.path().join("away");
    std::fs::rename(&folder, &away).expect("it moves");
    until_told(&home, "mast", "cannot list");
    std::fs::create_dir(&folder).expect("a mount point");
    until_told(&home, "mast", "is the share mounted?");
    std::fs::remove_dir(&folder).expect("it is empty");
    std::fs::rename(&away, &folder).expect("it moves");
    until_speeds(&home, "mast", &wanted);
    let known = home.api.items("/api/v1/gaps?device=mast&state=unfilled").expect("answered");
    assert_eq!(known.len(), 0, "{known:?}");
}

/// Waits until the collector has written down that it has read so many files.
fn until_read(home: &Home, count: i64) {
    let database = home.folder.path().join("data/gapless.db");
    wait::until("the files to be known", WITHIN, || {
        let database = rusqlite::Connection::open(&database).map_err(|error| error.to_string())?;
        let sql = "SELECT count(*) FROM drop_files WHERE state = 1";
        let read: i64 = database.query_row(sql, [], |row| row.get(0)).map_err(|error| error.to_string())?;
        if read == count { Ok(()) } else { Err(format!("{read} of {count}")) }
    });
}

#[test]
fn what_is_put_down_replaced_or_meant_only_now_while_there_is_no_collector_is_read_at_its_start() {
    let logger = Logger::of_rows(3 * DAY);
    let share = tempfile::tempdir().expect("a folder");
    let folder = share.path();
    put(folder, "Met_1234_1.dat", logger.toa5(DAY..2 * DAY));
    date(folder, "Met_1234_1.dat", logger.at(2 * DAY));
    put(folder, "Met_1234_2.dat", logger.toa5(2 * DAY..3 * DAY));
    put(folder, "Late_1234.zip", zipped(&[("a.dat", logger.toa5(0..10).as_bytes())]));
    date(folder, "Late_1234.zip", logger.at(10));
    let words = [("folder = \"/mnt/share/mast-7\"", &*folder_words(folder))];
    let mut home = Home::start(&[drop_description(&words)]);
    until_speeds(&home, "mast", &logger.speeds(DAY..3 * DAY));
    until_read(&home, 2);

    let corrected = |rows: std::ops::Range<i64>, row: i64, speed| {
        let text = logger.toa5(rows);
        let (before, after) = (logger.row(row, Logger::speed(row)), logger.row(row, speed));
        assert!(text.contains(&before) && before.len() == after.len());
        text.replace(&before, &after)
    };
    let (row, unseen) = (2 * DAY + 7, DAY + 5);
    let description = home.folder.path().join("source-0.toml");
    home.kill_and(|_| {
        put(folder, "Met_1234_2.dat", corrected(2 * DAY..3 * DAY, row, 9.0));
        put(folder, "Met_1234_0.dat", logger.toa5(20..30));
        date(folder, "Met_1234_0.dat", logger.at(30));
        // Nothing tells this one from the file that was read: so it shows whether that is read again.
        std::fs::write(folder.join("Met_1234_1.dat"), corrected(DAY..2 * DAY, unseen, 14.0))
            .expect("it can be written");
        date(folder, "Met_1234_1.dat", logger.at(2 * DAY));
        let text = std::fs::read_to_string(&description).expect("it is there");
        let wider = text.replace("files = \"Met_{logger}*.dat\"", "files = \"*_{logger}*\"");
        assert_ne!(wider, text);
        std::fs::write(&description, wider).expect("it can be written");
    });
    let mut wanted = logger.speeds((0..10).chain(20..30).chain(DAY..3 * DAY));
    wanted.insert(logger.at(row).0, (Some(9.0), "good".to_owned()));
    until_speeds(&home, "mast", &wanted);
    until_read(&home, 4);
    assert_eq!(revised(&home), 1, "nothing else was written again");

    // Once its time says that it is another one it is.
    date(folder, "Met_1234_1.dat", logger.at(2 * DAY + 1));
    wanted.insert(logger.at(unseen).0, (Some(14.0), "good".to_owned()));
    until_speeds(&home, "mast", &wanted);
}

/// The last parts of all names below a folder, in order.
fn names_below(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("it can be listed").flatten() {
        names.push(entry.file_name().to_string_lossy().into_owned());
        if entry.path().is_dir() {
            names.extend(names_below(&entry.path()));
        }
    }
    names.sort();
    names
}

/// The most memory that the collector has had, in KiB.
fn memory_peak(home: &Home) -> u64 {
    let config = home.folder.path().join("collector.toml").display().to_string();
    let is_it = |process: &Path| {
        std::fs::read(process.join("cmdline"))
            .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&config))
    };
    let mut processes =
        std::fs::read_dir("/proc").expect("it can be listed").flatten().map(|entry| entry.path());
    let process = processes.find(|process| is_it(process)).expect("it runs");
    let status = std::fs::read_to_string(process.join("status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// An archive, by another program than the one that reads it.
fn zipped(files: &[(&str, &[u8])]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut script =
        "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[1], 'w', zipfile.ZIP_DEFLATED) as z:\n"
            .to_owned();
    for (no, (name, bytes)) in files.iter().enumerate() {
        let from = folder.path().join(no.to_string());
        std::fs::write(&from, bytes).expect("it can be written");
        script.push_str(&format!("    z.writestr('{name}', open('{}', 'rb').read())\n", from.display()));
    }
    let to = folder.path().join("archive");
    let _ = piped("python3", &["-c", &script, &to.display().to_string()], b"");
    std::fs::read(to).expect("it was written")
}

fn gzipped(text: &str) -> Vec<u8> {
    piped(
        "python3",
        &["-c", "import gzip, sys; sys.stdout.buffer.write(gzip.compress(sys.stdin.buffer.read()))"],
        text.as_bytes(),
    )
}

#[test]
fn packed_files_are_read_once_they_are_whole_and_none_of_them_fills_the_memory_or_the_disk() {
    let logger = Logger::of_rows(3 * DAY);
    let share = tempfile::tempdir().expect("a folder");
    let folder = &share.path().join("mast-7/met");
    std::fs::create_dir_all(folder).expect("a folder");
    let archive = zipped(&[
        ("../../escaped.dat", logger.toa5(0..100).as_bytes()),
        ("below/b.dat", logger.toa5(100..DAY).as_bytes()),
        ("readme.txt", b"no rows here"),
    ]);
    put(folder, "Met_1234_0.zip", &archive);
    put(folder, "Met_1234_1.dat.gz", gzipped(&logger.toa5(DAY..200)));
    let words = [
        ("folder = \"/mnt/share/mast-7\"", &*folder_words(folder)),
        ("files = \"Met_{logger}*.dat\"", "files = \"Met_{logger}*\""),
        ("# entries = \"*.dat\"", "entries = \"*.dat\""),
        ("# largest = \"64MiB\"", "largest = \"1MiB\""),
    ];
    let home = Home::start(&[drop_description(&words)]);
    until_speeds(&home, "mast", &logger.speeds(0..200));
    // Nothing of an archive is written anywhere, wherever its names lead.
    assert_eq!(names_below(share.path()), ["Met_1234_0.zip", "Met_1234_1.dat.gz", "mast-7", "met"]);
    let names = names_below(home.folder.path());
    assert!(!names.iter().any(|name| name.ends_with(".dat")), "{names:?}");
    assert!(!Path::new("../../escaped.dat").exists());

    // A second member is more of the same text.
    let rows: String = (200..2 * DAY).map(|row| logger.row(row, Logger::speed(row))).collect();
    append(folder, "Met_1234_1.dat.gz", gzipped(&rows));
    until_speeds(&home, "mast", &logger.speeds(0..2 * DAY));

    // An archive that has no end is named once it is the same for two looks, and is read once it has one.
    let text = logger.toa5(2 * DAY..3 * DAY);
    let archive = zipped(&[("c.dat", text.trim_end().as_bytes())]);
    let (begin, end) = archive.split_at(archive.len() / 2);
    put(folder, "Met_1234_2.zip", begin);
    until_told(&home, "mast", "Met_1234_2.zip: it cannot be unpacked");
    append(folder, "Met_1234_2.zip", end);
    until_speeds(&home, "mast", &logger.speeds(0..3 * DAY));

    // What comes out of a file has a bound, and others are read for all that.
    let before = memory_peak(&home);
    put(folder, "Met_1234_3.dat.gz", gzipped(&"0".repeat(200 << 20)));
    until_told(&home, "mast", "Met_1234_3.dat.gz: more than 1 MiB come out of it: `largest` is the limit");
    let after = memory_peak(&home);
    assert!(after < before + (50 << 10), "{before} KiB became {after} KiB");
    let other = Logger::speed(5).mul_add(0.5, 50.0);
    put(
        folder,
        "Met_1234_4.dat.gz",
        gzipped(&logger.toa5(0..6).replace(&logger.row(5, Logger::speed(5)), &logger.row(5, other))),
    );
    let mut wanted = logger.speeds(0..3 * DAY);
    wanted.insert(logger.at(5).0, (Some(other), "good".to_owned()));
    until_speeds(&home, "mast", &wanted);
}

#[test]
fn encrypted_files_are_read_through_a_configured_program() {
    let logger = Logger::of_rows(2 * DAY);
    let share = tempfile::tempdir().expect("a folder");
    let folder = share.path();
    let key = folder.join("key");
    std::fs::write(&key, "a word that nobody knows\n").expect("it can be written");
    let file = format!("file:{}", key.display());
    let cipher = ["enc", "-aes-256-cbc", "-pbkdf2", "-pass", &file];
    let encrypted = |bytes: &[u8]| piped("openssl", &cipher, bytes);
    let program = |more: &str| {
        format!(
            "decrypt = [\"openssl\", \"enc\", \"-d\", \"-aes-256-cbc\", \"-pbkdf2\", \"-pass\", \"{file}\"]\n{more}"
        )
    };
    let decrypt = "# decrypt = [\"gpg\", \"--batch\", \"--quiet\", \"--decrypt\"]";
    let description = |name: &str, files: &str, more: &str| {
        let (name, device) = (format!("name = \"{name}\""), format!("name = \"{name}-mast\""));
        drop_description(&[
            ("name = \"loggers\"", &name),
            ("name = \"mast\"", &device),
            ("folder = \"/mnt/share/mast-7\"", &*folder_words(folder)),
            ("files = \"Met_{logger}*.dat\"", files),
            (decrypt, &program(more)),
        ])
    };
    put(folder, "Met_0.gz.enc", encrypted(&gzipped(&logger.toa5(0..DAY))));
    put(folder, "Met_1.enc", encrypted(logger.toa5(DAY..2 * DAY).as_bytes()));
    put(folder, "Within_0.zip", zipped(&[("a.enc", &encrypted(logger.toa5(0..DAY).as_bytes()))]));
    let home = Home::start(&[
        description("around", "files = \"Met_*\"", ""),
        description("within", "files = \"Within_*.zip\"", "unpack_first = true"),
    ]);
    until_speeds(&home, "around-mast", &logger.speeds(0..2 * DAY));
    until_speeds(&home, "within-mast", &logger.speeds(0..DAY));

    // What the program refuses is named with its last word.
    put(folder, "Met_2.enc", "not encrypted at all");
    until_told(&home, "around-mast", "Met_2.enc: `openssl` refuses it (exit status: 1)");
    until_told(&home, "around-mast", "bad magic number");
    let other = logger.toa5(0..1).replace(&logger.row(0, Logger::speed(0)), &logger.row(0, 9.5));
    put(folder, "Met_2.enc", encrypted(other.as_bytes()));
    let mut wanted = logger.speeds(0..2 * DAY);
    wanted.insert(logger.at(0).0, (Some(9.5), "good".to_owned()));
    until_speeds(&home, "around-mast", &wanted);
}
