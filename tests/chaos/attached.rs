//! `highwater chaos` on a cluster that `highwater cluster up` runs, and what it says.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use highwater_testkit::chaos::Subject;
use tokio::time::{Instant, sleep};

use crate::common::{BINARY, SOON, one_at_a_time};

/// Ended with the test.
struct Runner(Child);

impl Drop for Runner {
    fn drop(&mut self) {
        // It ends its nodes with itself: they end when their standard input closes.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_breaks_a_running_cluster_which_knows_that_this_is_meant() {
    let _turn = one_at_a_time().await;
    let dir = tempfile::tempdir().expect("a folder");
    let data = dir.path().join("data");
    let up = ["cluster", "up", "--controllers", "1", "--brokers", "2", "--port", "23092", "--data-dir"];
    let mut runner = Runner(
        Command::new(BINARY)
            .args(up)
            .arg(&data)
            .args(["--set", "broker.internal_topics_replication_factor=2"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts"),
    );
    let deadline = Instant::now() + SOON;
    while Subject::in_folder(&data).await.is_err() {
        assert!(Instant::now() < deadline, "no cluster came up in {}", data.display());
        sleep(Duration::from_millis(50)).await;
    }
    let run = ["chaos", "--minutes", "0.15", "--seed", "3", "--faults=all", "--partitions", "2", "--output", "json"];
    let chaos = Command::new(BINARY).args(run).arg("--running").arg(&data).output().expect("the binary starts");
    let said = String::from_utf8_lossy(&chaos.stderr);
    let report: serde_json::Value =
        serde_json::from_slice(&chaos.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    assert!(chaos.status.success(), "{report:#}\n{said}");
    assert!(said.contains("left out"), "{said}");
    let faults: u64 = report["kinds"].as_array().expect("kinds").iter().filter_map(|it| it["faults"].as_u64()).sum();
    assert!(faults > 0 && report["counts"]["acknowledged"].as_u64() > Some(100), "{report:#}");
    // The runner has not taken the dead for an accident.
    let ended = runner.0.try_wait().expect("it is our child");
    if ended.is_some() {
        let mut said = String::new();
        runner.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
        panic!("the cluster ended: {said}");
    }
}

#[test]
fn without_a_cluster_it_says_so_and_ends_with_3_and_with_a_wrong_kind_with_2() {
    let dir = tempfile::tempdir().expect("a folder");
    let chaos = |args: &[&str]| Command::new(BINARY).arg("chaos").args(args).output().expect("the binary starts");
    let none = chaos(&["--running", dir.path().to_str().expect("text")]);
    let said = String::from_utf8_lossy(&none.stderr);
    assert_eq!(none.status.code(), Some(3), "{said}");
    assert!(said.contains("no cluster runs in") && said.contains("cluster up --data-dir"), "{said}");
    let wrong = chaos(&["--faults", "meteor"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("kill-controllers"));
}
