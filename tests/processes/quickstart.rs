//! The quick start, as a user runs it.

use std::process::Command;

use crate::common::BINARY;

#[test]
fn the_quick_start_keeps_its_promises_on_a_users_own_file() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("events.jsonl");
    let lines: String = (0..5000).map(|n| format!("{{\"user\":\"u{}\",\"n\":{n}}}\n", n % 97)).collect();
    std::fs::write(&file, lines).expect("the file can be written");
    let mut run = Command::new(BINARY);
    let output = run.args(["quickstart", "--stream-seconds", "3", "--key", "user", "--input"]).arg(&file).output();
    let output = output.expect("the binary runs");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{said}");
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
