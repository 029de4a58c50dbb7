//! Seeds of the simulated cluster, each in a process of its own; `sim/` is the program that runs them.
//!
//! `HIGHWATER_SIM_SEED=n cargo test -p highwater-tests --test simulation` runs one seed.

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
    match std::env::var("HIGHWATER_SIM_SEED") {
        Ok(seed) => assert_held(&simulate(&["--seed", &seed])),
        Err(_) => assert_held(&simulate(&["--seed", "1", "--seeds", "4"])),
    }
}

/// Or a failure could not be looked at twice.
#[test]
fn the_same_seed_gives_the_same_history_with_every_kind_of_fault() {
    let dir = TempDir::new().expect("a temporary folder");
    let seeds =
        std::env::var("HIGHWATER_SIM_SEED").map_or_else(|_| vec!["11".to_owned(), "12".to_owned()], |s| vec![s]);
    for seed in seeds {
        let twice = ["first", "second"].map(|name| {
            let file = dir.path().join(name);
            std::thread::spawn({
                let (seed, file) = (seed.clone(), file.clone());
                move || {
                    let path = file.to_str().expect("a path in UTF-8");
                    let output = simulate(&["--seed", &seed, "--minutes", "0.3", "--history", path]);
                    assert_held(&output);
                    (output.stdout, std::fs::read_to_string(file).expect("the history"))
                }
            })
        });
        let [(told, first), (told_again, second)] = twice.map(|run| run.join().expect("a run that held"));
        let differs = first.lines().zip(second.lines()).position(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}: the runs part at this line of their histories");
        assert_eq!(first.len(), second.len());
        // All but the last line, which tells how long it took.
        let story = |told: &[u8]| {
            let told = String::from_utf8_lossy(told);
            told.lines().filter(|line| !line.contains("simulated in")).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(story(&told), story(&told_again), "seed {seed}: the stories differ");
    }
}
