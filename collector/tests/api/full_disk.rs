//! A disk that fills up while frames arrive, and has room again later: a small tmpfs, mounted for the test. Without
//! the right to mount it says so and proves nothing.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gapless_collector::ingest::INBOUND_MAX;
use serde_json::json;

use crate::support::{Filled, U, number};

/// Unmounted with the test, whatever its outcome.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<Self> {
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at);
        command.output().is_ok_and(|o| o.status.success()).then(|| Self(at.to_owned()))
    }

    /// Fills it, but for so many bytes.
    fn fill(&self, spare: u64) {
        let path = self.0.join("filler");
        let mut filler = File::create(&path).unwrap();
        while filler.write_all(&[0; 4_096]).is_ok() {}
        let size = filler.metadata().unwrap().len();
        filler.set_len(size - spare).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: connections may be open still.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !so() {
        assert!(Instant::now() < deadline, "waited for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_full_disk_loses_nothing_and_acknowledges_nothing() {
    // Full for the first frame already, where not even a page can be written while the writer recovers; and full
    // after some frames.
    for spare in [0, 64 << 10] {
        check(spare);
    }
}

fn check(spare: u64) {
    const ROWS_PER_FRAME: i64 = 40;
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path()) else {
        #[expect(clippy::print_stderr, reason = "a test that proves nothing says so")]
        {
            eprintln!("SKIPPED: no right to mount a tmpfs");
        }
        return;
    };
    let mut api = Filled::within(folder);
    disk.fill(spare);
    let mut frames = 0;
    let mut records = || {
        frames += 1;
        (0..ROWS_PER_FRAME).map(|n| number(0, frames * ROWS_PER_FRAME + n, U, 0.5)).collect::<Vec<_>>()
    };
    // Until the writer fails, and then until its bounded queue is full too.
    let mut taken = 0;
    wait_until("the queue to be full", || {
        let full = !api.offer(records());
        taken += i64::from(!full);
        full && !api.served.health.writing()
    });
    assert!(usize::try_from(taken).unwrap() >= INBOUND_MAX);
    let health = api.served.get("/health");
    assert_eq!(health.status, 503);
    let health: serde_json::Value = serde_json::from_str(&health.body).unwrap();
    assert_eq!((&health["status"], &health["writing"]), (&json!("failing"), &json!(false)));
    let stored = |api: &Filled| {
        let url =
            "/api/v1/readings?series=farm/a/u&from=2026-01-01T00:00:00Z&to=2030-01-01T00:00:00Z&format=csv";
        i64::try_from(api.served.get(url).body.lines().count()).unwrap() - 1
    };
    let acknowledged = i64::try_from(api.acknowledged()).unwrap();
    let told = stored(&api);
    // The opening's two records are acknowledged too.
    assert_eq!(acknowledged - 2, told, "acknowledged is what is stored");
    assert!(told < taken * ROWS_PER_FRAME);
    std::fs::remove_file(disk.0.join("filler")).unwrap();
    api.settle();
    assert_eq!(stored(&api), taken * ROWS_PER_FRAME);
    assert_eq!(i64::try_from(api.acknowledged()).unwrap(), taken * ROWS_PER_FRAME + 2);
    assert_eq!(api.served.get("/health").status, 200);
    let agent = &api.served.items("/api/v1/agents")[0];
    let counted = ["readings", "duplicates", "conflicts"].map(|key| agent[key].as_i64().unwrap());
    assert_eq!(counted, [taken * ROWS_PER_FRAME, 0, 0]);
}
