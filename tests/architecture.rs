//! Holds the shape that ARCHITECTURE.md states: which crate may depend on which, and that the pure crates stay pure.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Every crate of the workspace and the workspace crates that it may use, outside tests.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("metrics", &[]),
    ("allocations", &[]),
    ("record", &["types"]),
    ("replication", &["types", "record"]),
    ("metadata", &["types", "record"]),
    ("coordination", &["types", "record"]),
    ("seams", &[]),
    ("storage", &["types", "metrics", "record"]),
    ("protocol", &["types", "record"]),
    ("controller", &["types", "metrics", "metadata", "protocol", "seams", "storage"]),
    (
        "broker",
        &["types", "metrics", "record", "replication", "metadata", "coordination", "storage", "protocol", "seams"],
    ),
    ("kafka", &["types", "metrics", "record", "metadata", "protocol", "seams", "broker"]),
    ("client", &["types", "record", "protocol", "seams"]),
    ("gateway", &["types", "protocol", "seams", "client"]),
    ("testkit", &["types", "record", "storage", "protocol", "seams", "client"]),
    (
        "cli",
        &[
            "types",
            "metrics",
            "record",
            "metadata",
            "storage",
            "protocol",
            "seams",
            "controller",
            "broker",
            "client",
            "gateway",
            "kafka",
            "testkit",
        ],
    ),
    (
        "tests",
        &[
            "types",
            "record",
            "metadata",
            "storage",
            "protocol",
            "seams",
            "controller",
            "broker",
            "client",
            "gateway",
            "testkit",
        ],
    ),
];

const PURE: &[&str] = &["types", "metrics", "record", "replication", "metadata", "coordination"];

/// What no pure crate may name in its dependencies: runtimes, networks, disks, clocks, randomness.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio-stream",
    "tokio-util",
    "tonic",
    "openraft",
    "sled",
    "rand",
    "hyper",
    "tower",
    "rustix",
    "futures",
    "highwater-seams",
];

fn packages() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    metadata["packages"].as_array().expect("packages").clone()
}

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let mut of = BTreeMap::new();
    for package in packages() {
        let name = package["name"].as_str().expect("name").trim_start_matches("highwater-").to_owned();
        let normal = package["dependencies"].as_array().expect("dependencies").iter().filter(|d| d["kind"].is_null());
        of.insert(name, normal.map(|d| d["name"].as_str().expect("name").to_owned()).collect());
    }
    of
}

#[test]
fn crates_depend_only_in_the_stated_direction() {
    let may_use: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    for (krate, dependencies) in dependencies() {
        let allowed = may_use.get(krate.as_str()).unwrap_or_else(|| panic!("crate {krate} is not in the list"));
        for dependency in dependencies.iter().filter_map(|d| d.strip_prefix("highwater-")) {
            assert!(allowed.contains(&dependency), "{krate} must not depend on {dependency}");
        }
    }
}

#[test]
fn pure_crates_know_no_runtime_network_disk_clock_or_randomness() {
    let of = dependencies();
    for krate in PURE {
        for dependency in &of[*krate] {
            assert!(!IMPURE.contains(&dependency.as_str()), "{krate} is pure and depends on {dependency}");
        }
        let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").join(krate).join("src");
        for_each_source(&src, &mut |path, text| {
            for word in ["Instant::now", "SystemTime", "std::fs", "std::net", "std::thread", "std::env"] {
                assert!(!text.contains(word), "{} names {word}", path.display());
            }
        });
    }
}

#[test]
fn the_world_is_reached_through_the_seams_only() {
    for krate in ["controller", "broker", "client", "gateway", "kafka"] {
        let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates").join(krate).join("src");
        for_each_source(&src, &mut |path, text| {
            let code = text.split("#[cfg(test)]").next().unwrap_or(text);
            for word in ["SystemTime", "tokio::net", "std::net::Tcp", "Instant::now()", "rand::rng", "OsRng"] {
                // `tokio::time::Instant` is time a simulation controls.
                let allowed = word == "Instant::now()" && code.contains("tokio::time::");
                assert!(allowed || !code.contains(word), "{} names {word}", path.display());
            }
        });
    }
}

/// Deliberate bugs are in no program but one of the tests, and only where that is asked for.
#[test]
fn nothing_but_a_feature_of_the_tests_turns_the_mutations_on() {
    for package in packages() {
        let name = package["name"].as_str().expect("name");
        let features = package["features"].as_object().expect("features");
        let turns_on: Vec<&String> = features
            .iter()
            .filter(|(_, on)| on.to_string().contains("mutations"))
            .map(|(feature, _)| feature)
            .collect();
        assert!(turns_on.is_empty() || (name, turns_on.as_slice()) == ("highwater-tests", &[&"mutations".to_owned()]));
        assert!(
            !features.contains_key("mutations") || ["highwater-types", "highwater-tests"].contains(&name),
            "{name}"
        );
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            assert!(!dependency["features"].to_string().contains("mutations"), "{name}: {dependency}");
        }
    }
}

fn for_each_source(folder: &std::path::Path, check: &mut impl FnMut(&std::path::Path, &str)) {
    for entry in std::fs::read_dir(folder).expect("a source folder") {
        let path = entry.expect("an entry").path();
        // Test modules may name what they stand in for.
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            for_each_source(&path, check);
        } else if path.extension().is_some_and(|e| e == "rs") {
            check(&path, &std::fs::read_to_string(&path).expect("text"));
        }
    }
}
