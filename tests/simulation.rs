//! Seeds of the simulated cluster, each in a process of its own; `sim/` is the program that runs them.
//!
//! `HIGHWATER_SIM_SEED=n cargo test -p highwater-tests --test simulation` runs one seed and prints its faults.

use std::process::{Command, Output};

use tempfile::TempDir;

fn simulate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_highwater-sim")).args(args).output().expect("highwater-sim starts")
}

fn assert_held(output: &Output) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    println!("{out}");
    assert!(output.status.success(), "{err}");
}

#[test]
fn p1_p2_p3_p4_nothing_acknowledged_is_lost_changed_reordered_or_torn_whatever_fails() {
    if let Ok(seed) = std::env::var("HIGHWATER_SIM_SEED") {
        return assert_held(&simulate(&["--seed", &seed, "--faults"]));
    }
    // On two cores, side by side.
    let halves =
        ["1", "4"].map(|first| std::thread::spawn(move || simulate(&["--seed", first, "--seeds", "3", "--faults"])));
    halves.into_iter().for_each(|half| assert_held(&half.join().expect("a thread")));
}

/// Or a failure could not be looked at twice.
#[test]
fn the_same_seed_gives_the_same_history() {
    let seed = std::env::var("HIGHWATER_SIM_SEED").unwrap_or_else(|_| "1".to_owned());
    let dir = TempDir::new().expect("a temporary folder");
    let [first, second] = ["first", "second"].map(|name| {
        let file = dir.path().join(name);
        assert_held(&simulate(&["--seed", &seed, "--history", file.to_str().expect("a path in UTF-8")]));
        std::fs::read_to_string(file).expect("the history")
    });
    let differs = first.lines().zip(second.lines()).position(|(a, b)| a != b);
    assert_eq!(differs, None, "seed {seed}: the runs part at this line of their histories");
    assert_eq!(first.len(), second.len());
}
