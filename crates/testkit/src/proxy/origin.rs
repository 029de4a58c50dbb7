//! Which process made a connection, as Linux's `/proc` tells: the socket at its other end is in the table of TCP sockets,
//! with a number that is among the open files of its process.

use std::fs;
use std::path::PathBuf;

use crate::local_cluster::NodeId;

const SOCKETS: &str = "/proc/net/tcp";

pub fn is_known_here() -> bool {
    fs::metadata(SOCKETS).is_ok()
}

/// Who has the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Node(NodeId),
    /// A process that is none of the nodes.
    Other,
    /// There is no such connection any more.
    Gone,
}

/// The kernel gives the table in pieces, so that what stays may be left out while others come and go.
const LOOKS: usize = 5;

/// Whose end is the one with port `from` of a connection to port `to`, both of loopback.
pub fn of(from: u16, to: u16, processes: &[(u32, NodeId)]) -> Origin {
    let socket = (0..LOOKS).find_map(|_| inode_of(&fs::read_to_string(SOCKETS).ok()?, from, to).map(str::to_owned));
    let Some(socket) = socket else { return Origin::Gone };
    let link = PathBuf::from(format!("socket:[{socket}]"));
    let has = |pid: u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|to| to == link)).then_some(())
    };
    let found = processes.iter().find(|(pid, _)| has(*pid).is_some());
    found.map_or(Origin::Other, |(_, node)| Origin::Node(*node))
}

/// The number of the socket at that end. One port may be the end of several connections, to different ports, and of
/// some that are over and belong to nobody, which have the number 0.
fn inode_of(table: &str, from: u16, to: u16) -> Option<&str> {
    // Addresses are in the machine's byte order, ports are not.
    let loopback = u32::from_ne_bytes([127, 0, 0, 1]);
    let [local, remote] = [from, to].map(|port| format!("{loopback:08X}:{port:04X}"));
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()? == local && fields.next()? == remote;
        is_it.then(|| fields.nth(6)).flatten().filter(|inode| *inode != "0")
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_s_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap().port();
        let outgoing = TcpStream::connect(("127.0.0.1", to)).unwrap();
        let from = outgoing.local_addr().unwrap().port();
        let me = (std::process::id(), NodeId::broker(7));
        assert_eq!(of(from, to, &[(1, NodeId::broker(1)), me]), Origin::Node(NodeId::broker(7)));
        assert_eq!(of(from, to, &[]), Origin::Other);
        assert_eq!(of(to, from, &[me]), Origin::Gone, "nobody has taken the connection yet");
        assert_eq!(of(from, from, &[me]), Origin::Gone, "there is no such connection");
    }

    #[test]
    fn a_port_with_several_connections_is_told_apart_by_the_other_end() {
        let line = |local: &str, remote: &str, state: &str, inode: &str| {
            format!(
                "0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1 0 20 4 30 10 -1\n"
            )
        };
        let at = |port: u16| format!("{:08X}:{port:04X}", u32::from_ne_bytes([127, 0, 0, 1]));
        let table = "sl local_address rem_address st\n".to_owned()
            + &line(&at(40_000), &at(1), "01", "11")
            + &line(&at(40_000), &at(2), "06", "0")
            + &line(&at(40_000), &at(2), "01", "22");
        assert_eq!(inode_of(&table, 40_000, 1), Some("11"));
        assert_eq!(inode_of(&table, 40_000, 2), Some("22"));
        assert_eq!(inode_of(&table, 40_000, 3), None);
    }
}
