//! Everything at once, for a short time.

use std::time::Duration;

use highwater_testkit::chaos::{self, FaultKind, Report, RoundConfig, Subject};
use highwater_testkit::{LocalCluster, LocalClusterConfig};
use tokio::sync::watch;

use crate::common::{BINARY, one_at_a_time};

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_run_over_all_kinds_of_faults_breaks_no_promise_and_ends_whole() {
    let _turn = one_at_a_time().await;
    let mut kinds = FaultKind::ALL.iter().copied().collect();
    let (config, left_out) = chaos::cluster_config(LocalClusterConfig::new(BINARY), &mut kinds, 256 << 20);
    left_out.iter().for_each(|text| println!("skipped: {text}"));
    let cluster = LocalCluster::start(config).await.unwrap_or_else(|error| panic!("{error}"));
    let mut subject = Subject::Own(Box::new(cluster));
    let seed = from_env("HIGHWATER_CHAOS_SEED", 20);
    let config = RoundConfig {
        seed,
        length: Duration::from_secs(from_env("HIGHWATER_CHAOS_SECONDS", 25)),
        kinds,
        partitions: 6,
        heals_within: Duration::from_secs(60),
    };
    let (_stop, mut stopping) = watch::channel(false);
    let round = chaos::round(&mut subject, &config, &mut stopping, &mut |text| println!("{text}")).await;
    let round = round.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let report = Report::of(seed, left_out, vec![round]);
    println!("{report}");
    if report.anomalies > 0
        && let Subject::Own(cluster) = &mut subject
    {
        cluster.keep_files();
        println!("the nodes' logs are in {}", cluster.dir().display());
    }
    assert_eq!(report.anomalies, 0, "seed {seed}: see above");
    let struck = report.kinds.iter().map(|it| it.faults).sum::<usize>();
    assert!(struck >= 5 && report.counts.acknowledged > 1_000, "nothing was proved: {report}");
    assert!(report.counts.transactions[0] > 10, "nothing was proved of transactions: {report}");
    subject.end().await.unwrap_or_else(|error| panic!("{error}"));
}
