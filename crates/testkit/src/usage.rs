//! What a process has used: processor time and memory, as Linux's `/proc` tells.

use std::time::Duration;

/// A process's use of the machine so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time of all its threads, in user and kernel mode.
    pub cpu: Duration,
    /// Resident memory, in bytes.
    pub resident_bytes: u64,
    /// The most that was ever resident, in bytes.
    pub resident_bytes_max: u64,
}

impl Usage {
    /// Of the process `pid`; `None` if it is gone, or this system has no `/proc`.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command's name may hold spaces and parentheses; the fields after the last one are numbers.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let kib = |name: &str| -> Option<u64> {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Some(Self {
            cpu: Duration::from_millis(ticks * 1000 / per_second),
            resident_bytes: kib("VmRSS:")? << 10,
            resident_bytes_max: kib("VmHWM:")? << 10,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_memory_and_a_gone_one_nothing() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.resident_bytes > 100_000 && usage.resident_bytes_max >= usage.resident_bytes);
        assert_eq!(Usage::of(u32::MAX), None);
    }
}
