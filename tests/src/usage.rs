//! What a process costs, as the kernel counts it (proc(5)): CPU, memory, bytes written to the block layer.

use std::fs;

/// One look at a process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// User and system time, in seconds.
    pub cpu_s: f64,
    /// Most memory resident so far, in bytes (VmHWM).
    pub rss_peak_bytes: u64,
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
    Usage {
        cpu_s: ticks / TICKS_PER_S,
        rss_peak_bytes: field(&read("status"), "VmHWM:") * 1024,
        disk_bytes: field(&read("io"), "write_bytes:"),
    }
}
