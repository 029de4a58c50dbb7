//! The quick start, as a user runs it.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::common::BINARY;

#[test]
fn the_quick_start_keeps_its_promises_on_a_users_own_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("events.jsonl");
    let lines: String = (0..5000).map(|n| format!("{{\"user\":\"u{}\",\"n\":{n}}}\n", n % 97)).collect();
    std::fs::write(&file, lines).expect("the file can be written");
    let mut run = Command::new(BINARY);
    let mut run = run
        .args(["quickstart", "--keep", "--stream-seconds", "3", "--key", "user", "--input"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut said = String::new();
    for line in BufReader::new(run.stdout.take().expect("piped")).lines() {
        said += &format!("{}\n", line.expect("text"));
        if said.ends_with("Ctrl-C ends it and removes its files.\n") {
            let id = rustix::process::Pid::from_child(&run);
            rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
        }
    }
    assert_eq!(run.wait().expect("it ends").code(), Some(0), "{said}");
    // It was kept up, for clients of either kind.
    for (wanted, count) in [("HIGHWATER_BOOTSTRAP=", 3), ("bootstrap.servers=", 3)] {
        let addresses = said.lines().find_map(|line| line.trim().split_once(wanted)).expect(wanted).1;
        assert_eq!(addresses.split(',').filter(|it| it.starts_with("127.0.0.1:")).count(), count, "{addresses}");
    }
    for wanted in ["5,000 records", "kill -9", "stood still for", "every acknowledged record came back", "leads now"] {
        assert!(said.contains(wanted), "{wanted:?} is missing in:\n{said}");
    }
}

#[test]
fn the_quick_start_refuses_an_input_that_it_can_not_read() {
    let output = Command::new(BINARY).args(["quickstart", "--input", "/nowhere"]).output().expect("the binary runs");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: can't read /nowhere"));
}
