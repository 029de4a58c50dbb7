//! docs/kafka-compatibility.md lists what ApiVersions answers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use highwater_kafka::SUPPORTED;

#[test]
fn the_documented_apis_and_versions_are_those_that_are_answered() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/kafka-compatibility.md");
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| -> Option<(i16, i16, i16)> {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let key = cells.get(2)?.parse().ok()?;
        let versions = cells.get(3)?;
        let (first, last) = versions.split_once('-').unwrap_or((versions, versions));
        Some((key, first.parse().ok()?, last.parse().ok()?))
    };
    let documented: Vec<_> = text.lines().filter_map(row).collect();
    let answered: Vec<_> = SUPPORTED.iter().map(|api| (api.key, api.first, api.last)).collect();
    assert_eq!(documented, answered);
}
