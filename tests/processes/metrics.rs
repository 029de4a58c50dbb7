//! What nodes say at `/metrics`, and that the dashboard, the alerts and the documentation speak of nothing else.

use std::collections::BTreeSet;
use std::path::PathBuf;

use highwater_client::PartitionMetadata;
use highwater_metrics::exposition::Exposition;
use highwater_metrics::families;
use highwater_testkit::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::common::{SOON, Scene, broker, until};
use crate::kafka::{Kafka, batch, produce};

/// Head and body of what the node answers.
async fn ask(scene: &Scene, node: NodeId, what: &str) -> (String, String) {
    let log = scene.cluster.node(node).expect("the node is there").log_path();
    // Port 0 was asked for; the log says which it is.
    let port = || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        let line = log.lines().rev().find(|line| line.contains(" metrics host="))?;
        line.rsplit_once("port=")?.1.trim().parse::<u16>().ok()
    };
    until("a line about the port of the metrics", || port().is_some()).await;
    let answer = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port().expect("it is known"))).await?;
        stream.write_all(format!("{what} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text = timeout(SOON, answer).await.expect("in time").expect("an answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), body.to_owned())
}

async fn scrape(scene: &Scene, node: NodeId) -> Exposition {
    let (head, body) = ask(scene, node, "GET /metrics").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    Exposition::parse(&body).unwrap_or_else(|error| panic!("{node}: {error}"))
}

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// Every word of `text` that looks like a metric of ours.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("highwater_") || word.starts_with("process_"));
    ours.map(str::to_owned).collect()
}

/// The queries of a dashboard, wherever they stand.
fn queries(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match (name.as_str(), value) {
                    ("expr" | "query" | "definition", serde_json::Value::String(text)) => found.push(text.clone()),
                    _ => queries(value, found),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| queries(item, found)),
        _ => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_say_what_happens_and_all_that_the_dashboard_and_the_alerts_ask_for_is_there() {
    let with_metrics =
        |config: highwater_testkit::LocalClusterConfig| config.setting("node.metrics_listen", "\"127.0.0.1:0\"");
    let mut scene = Scene::with(with_metrics, |topic| topic).await;
    scene.all_in_sync().await;
    let writers = scene.write();
    scene.acknowledged(200).await;
    // What is counted by error is there once there was one: a partition that there is not.
    let mut kafka = Kafka::connect(&scene, scene.leader(0)).await;
    let mut beyond = produce(-1, batch(0..1));
    beyond.topic_data[0].partition_data[0].index = 99;
    assert_ne!(kafka.call(9, &beyond).await.responses[0].partition_responses[0].error_code, 0);
    let mut nodes: Vec<NodeId> = scene.cluster.nodes().map(|(id, _)| id).collect();
    let (mut active, mut produced, mut led) = (0.0, 0.0, 0.0);
    let mut names = BTreeSet::new();
    for node in &nodes {
        let found = scrape(&scene, *node).await;
        active += found.sum("highwater_controller_active").unwrap_or(0.0);
        produced += found.value("highwater_topic_records_in_total", &[("topic", "events")]).unwrap_or(0.0);
        led += found.sum("highwater_partitions_led").unwrap_or(0.0);
        assert!(found.value("process_resident_memory_bytes", &[]).is_some_and(|bytes| bytes > 1e6), "{node}");
        names.extend(found.names().map(str::to_owned));
    }
    assert!(active == 1.0 && led >= 3.0 && produced >= 200.0, "{active} {led} {produced}");
    for family in families::ALL {
        assert!(names.iter().any(|name| name.starts_with(family.name)), "{} is nowhere", family.name);
    }

    let dashboard = std::fs::read(repository("deploy/grafana/dashboards/highwater.json")).expect("a dashboard");
    let dashboard: serde_json::Value = serde_json::from_slice(&dashboard).expect("JSON");
    let mut asked = Vec::new();
    queries(&dashboard, &mut asked);
    let alerts = std::fs::read_to_string(repository("deploy/prometheus/alerts.yml")).expect("alerts");
    let alerts = alerts.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).map(str::to_owned);
    let asked: BTreeSet<String> = asked.into_iter().chain(alerts).flat_map(|text| metrics_in(&text)).collect();
    assert!(asked.len() > 30, "{asked:?}");
    let missing: Vec<_> = asked.difference(&names).collect();
    assert!(missing.is_empty(), "asked for, and in no scrape: {missing:?}");

    let dead = scene.partition(0).replicas.into_iter().find(|id| *id != scene.leader(0)).expect("three replicas");
    scene.kill(broker(dead));
    let gone = |it: &PartitionMetadata| !it.isr.contains(&dead);
    scene.partitions_when("a smaller ISR", |partitions| partitions.iter().all(gone)).await;
    scene.acknowledged(100).await;
    writers.stop().await;
    nodes.retain(|node| *node != broker(dead));
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        // What the client knows by now, each node is about to know.
        let (mut under_replicated, mut shrinks, mut fenced) = (0.0, 0.0, 0.0_f64);
        for node in &nodes {
            let found = scrape(&scene, *node).await;
            under_replicated += found.sum("highwater_partitions_under_replicated").unwrap_or(0.0);
            shrinks += found.sum("highwater_isr_shrinks_total").unwrap_or(0.0);
            let here = found.value("highwater_cluster_brokers", &[("state", "fenced")]).unwrap_or(0.0);
            fenced = fenced.max(here);
        }
        if under_replicated == 3.0 && shrinks >= 1.0 && fenced == 1.0 {
            break;
        }
        let is_late = tokio::time::Instant::now() >= deadline;
        assert!(!is_late, "{under_replicated} under-replicated, {shrinks} shrinks, {fenced} fenced");
    }

    for (what, status) in [("GET /healthz", "200"), ("GET /", "404"), ("POST /metrics", "405")] {
        let (head, _) = ask(&scene, nodes[0], what).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {head}");
    }
}

#[test]
fn the_documentation_has_every_family_with_its_type_and_no_other() {
    let text = std::fs::read_to_string(repository("docs/metrics.md")).expect("docs/metrics.md");
    let rows = text.lines().filter(|line| line.starts_with("| `"));
    let documented: BTreeSet<(String, String)> = rows
        .map(|row| {
            let mut cells = row.split('|').skip(1).map(str::trim);
            let name = cells.next().unwrap_or_default().split('`').nth(1).unwrap_or_default();
            let name = name.split('{').next().unwrap_or_default();
            (name.to_owned(), cells.next().unwrap_or_default().to_owned())
        })
        .collect();
    let all: BTreeSet<_> = families::ALL.iter().map(|it| (it.name.to_owned(), it.kind.name().to_owned())).collect();
    let (missing, extra): (Vec<_>, Vec<_>) =
        (all.difference(&documented).collect(), documented.difference(&all).collect());
    assert!(missing.is_empty() && extra.is_empty(), "not documented: {missing:?}; documented only: {extra:?}");
}
