//! What the kernel says of this process, by Prometheus' customary names. Linux only; elsewhere it is left out.

use highwater_metrics::{Page, families};

pub fn write(page: &mut Page) {
    if let Some(seconds) = cpu_seconds() {
        page.add(&families::PROCESS_CPU, &[], seconds);
    }
    if let Some(bytes) = resident_bytes() {
        page.add(&families::PROCESS_MEMORY, &[], bytes);
    }
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        page.add(&families::PROCESS_FDS, &[], open.count());
    }
}

/// User and system time. Fields 14 and 15 of proc(5)'s `stat`, counted behind the name, which may hold anything.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #[test]
    fn a_process_uses_memory_and_time() {
        assert!(super::resident_bytes().unwrap() > 100_000);
        assert!(super::cpu_seconds().unwrap() < 1e6);
    }
}
