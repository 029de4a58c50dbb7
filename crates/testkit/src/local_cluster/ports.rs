//! Free ports on loopback, that stay free until a child binds them.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range that Linux takes outgoing connections' ports from (32768 up): a node that was killed and comes back
/// must find its port as it left it.
const FIRST: u16 = 10_240;
const LAST: u16 = 32_000;

/// The next port to try; the start differs between processes, so that test binaries that run side by side seldom meet.
static NEXT: AtomicU16 = AtomicU16::new(0);

/// Whether nobody listens on `port` of loopback.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// A free port that this process has not given out before and that is not in `taken`.
pub fn free_port(taken: &BTreeSet<u16>) -> std::io::Result<u16> {
    let span = LAST - FIRST;
    if NEXT.load(Ordering::Relaxed) == 0 {
        let start = FIRST + u16::try_from(rand::random::<u32>() % u32::from(span)).unwrap_or(0);
        // Another thread may have been first; its start is as good.
        let _ = NEXT.compare_exchange(0, start, Ordering::Relaxed, Ordering::Relaxed);
    }
    for _ in 0..span {
        let port = NEXT
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |port| {
                Some(if port >= LAST { FIRST } else { port + 1 })
            })
            .unwrap_or(FIRST);
        if !taken.contains(&port) && is_free(port) {
            return Ok(port);
        }
    }
    Err(std::io::Error::other(format!("no port from {FIRST} to {LAST} is free on 127.0.0.1")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_given_out_differ_and_are_free() {
        let mut taken = BTreeSet::new();
        for _ in 0..50 {
            let port = free_port(&taken).unwrap();
            assert!(is_free(port));
            assert!(taken.insert(port));
        }
    }
}
