//! Which process made a connection, as Linux's `/proc` tells: the socket at its other end is in the table of TCP sockets,
//! with a number that is among the open files of its process.

use std::fs;
use std::path::PathBuf;

use crate::local_cluster::NodeId;

const SOCKETS: &str = "/proc/net/tcp";

pub fn is_known_here() -> bool {
    fs::metadata(SOCKETS).is_ok()
}

/// The node whose socket has `port` of loopback; `None` if that is no node's, or the process is gone.
pub fn of(port: u16, processes: &[(u32, NodeId)]) -> Option<NodeId> {
    let table = fs::read_to_string(SOCKETS).ok()?;
    let link = PathBuf::from(format!("socket:[{}]", inode_of(&table, port)?));
    let has = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to == link)).then_some(())
    };
    processes.iter().find(|(pid, _)| has(*pid).is_some()).map(|(_, node)| *node)
}

/// The number of the socket with this local port of 127.0.0.1 that is connected.
fn inode_of(table: &str, port: u16) -> Option<&str> {
    // Addresses are in the machine's byte order, ports are not.
    let local = format!("{:08X}:{port:04X}", u32::from_ne_bytes([127, 0, 0, 1]));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let is_it = fields.nth(1)? == local && fields.nth(1)? != "0A";
        is_it.then(|| fields.nth(5)).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_s_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let outgoing = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = outgoing.local_addr().unwrap().port();
        let me = (std::process::id(), NodeId::broker(7));
        assert_eq!(of(port, &[(1, NodeId::broker(1)), me]), Some(NodeId::broker(7)));
        assert_eq!(of(port, &[]), None);
        assert_eq!(of(listener.local_addr().unwrap().port(), &[me]), None, "a listener is no connection");
    }
}
