//! What a process costs, as the kernel counts it (proc(5)): CPU, memory, descriptors, bytes written to the block layer;
//! and how many bytes a folder's files take.

use std::fs;
use std::path::Path;

/// One look at a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time, in seconds.
    pub cpu_s: f64,
    /// Memory resident now, in bytes (VmRSS).
    pub rss_bytes: u64,
    /// Most memory resident so far, in bytes (VmHWM).
    pub rss_peak_bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Bytes that it caused to be sent to the storage layer (`write_bytes`).
    pub disk_bytes: u64,
}

/// Clock ticks a second in /proc: fixed at 100 for user space on every Linux architecture (proc(5)).
const TICKS_PER_S: f64 = 100.0;

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Looks at process `pid`; zeros where it has ended.
#[must_use]
pub fn of(pid: u32) -> Usage {
    let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
    let stat = read("stat");
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<f64>().ok()).sum();
    let status = read("status");
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Usage {
        cpu_s: ticks / TICKS_PER_S,
        rss_bytes: field(&status, "VmRSS:") * 1024,
        rss_peak_bytes: field(&status, "VmHWM:") * 1024,
        descriptors: u64::try_from(descriptors).unwrap_or(u64::MAX),
        disk_bytes: field(&read("io"), "write_bytes:"),
    }
}

/// Bytes of all files in and below `folder`; what vanishes meanwhile counts nothing.
#[must_use]
pub fn bytes_below(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_below(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
