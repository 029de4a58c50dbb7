//! The command line, as scripts use it.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::common::{BINARY, SOON, Scene, TOPIC, until};

/// Runs `highwater` with what stands in `args` between spaces, and then `more`.
fn highwater(bootstrap: &str, args: &str, input: &str) -> Output {
    let mut child = Command::new(BINARY)
        .args(args.split_whitespace())
        .env("HIGHWATER_BOOTSTRAP", bootstrap)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // It may end without reading, which its exit code tells.
    let _ = child.stdin.take().expect("it is piped").write_all(input.as_bytes());
    child.wait_with_output().expect("the binary ends")
}

fn succeeds(bootstrap: &str, args: &str, input: &str) -> String {
    let output = highwater(bootstrap, args, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "highwater {args}: {said}");
    String::from_utf8(output.stdout).expect("text")
}

fn fails(bootstrap: &str, args: &str, input: &str, code: i32) -> String {
    let output = highwater(bootstrap, args, input);
    let said = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(code), "highwater {args}: {said}");
    assert!(said.starts_with("error: "), "highwater {args}: {said}");
    said
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_does_what_it_says_and_exits_as_documented() {
    let scene = Scene::new().await;
    let at = scene.cluster.bootstrap();

    // Topics.
    succeeds(&at, "topic create orders -p 4 -r 3 --config retention.ms=3600000", "");
    assert!(fails(&at, "topic create orders -p 4 -r 3", "", 1).contains("orders"));
    succeeds(&at, "topic create orders -p 4 -r 3 --if-not-exists", "");
    assert!(fails(&at, "topic create many -p 1 -r 9", "", 1).contains('9'));
    assert!(fails(&at, "topic create bad/name -p 1 -r 3", "", 1).contains("bad/name"));
    assert!(fails(&at, "topic create x -p 1 -r 3 --config nonsense=1", "", 1).contains("nonsense"));
    fails(&at, "topic create x -p 0", "", 2);
    let topics = json(&succeeds(&at, "topic list -o json", ""));
    assert!(topics.as_array().is_some_and(|all| all.iter().any(|it| it["name"] == "orders")), "{topics}");
    assert!(succeeds(&at, "topic list", "").contains("retention.ms=3600000"));

    // Records in and out.
    let lines: String = (0..100).map(|n| format!("k{}:v{n}\n", n % 10)).collect();
    assert!(succeeds(&at, "produce orders -k : -H source=test -z lz4", &lines).contains("100 record(s)"));
    let all = succeeds(&at, "consume orders --until-end --format json", "");
    let all: Vec<Value> = all.lines().map(json).collect();
    assert_eq!(all.len(), 100);
    assert!(all.iter().all(|it| it["headers"][0] == serde_json::json!({"name": "source", "value": "test"})));
    let report = succeeds(&at, "produce orders --partition 2 --report", "a\nb\n");
    let offsets: Vec<i64> =
        report.lines().map(|line| line.split('\t').nth(1).expect("an offset").parse().unwrap()).collect();
    assert!(report.lines().all(|line| line.starts_with("2\t")) && offsets[1] == offsets[0] + 1, "{report}");
    let from = format!("consume orders --partition 2 --from offset:{} --max 2", offsets[0]);
    assert_eq!(succeeds(&at, &from, ""), "a\nb\n");
    assert!(succeeds(&at, "consume orders --from timestamp:2013-01-01T00:00:00Z --max 1", "").starts_with(['a', 'v']));
    assert!(fails(&at, "produce orders --partition 99", "x\n", 1).contains("99"));
    assert!(fails(&at, "produce nowhere", "x\n", 1).contains("topic list"));
    assert!(fails(&at, "consume nowhere --max 1", "", 1).contains("nowhere"));
    assert!(fails(&at, "produce orders -k :", "no key here\n", 1).contains("line 1"));
    assert!(fails(&at, "consume orders --partition 2 --from offset:99999 --max 1", "", 1).contains("99999"));

    // What there is, and its changes.
    let described = json(&succeeds(&at, "topic describe orders -o json", ""));
    let ends: i64 =
        described["partitions"].as_array().unwrap().iter().map(|it| it["high_watermark"].as_i64().unwrap()).sum();
    assert_eq!(ends, 102, "{described}");
    assert!(succeeds(&at, "topic describe orders", "").contains("min.insync.replicas"));
    succeeds(&at, "topic alter orders --set retention.ms=60000 --partitions 5", "");
    let described = json(&succeeds(&at, "topic describe orders -o json", ""));
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(5));
    succeeds(&at, "topic alter orders --unset retention.ms", "");
    let start = succeeds(&at, &format!("topic delete-records orders --partition 2 --before {}", offsets[1]), "");
    assert!(start.contains(&offsets[1].to_string()), "{start}");
    assert_eq!(succeeds(&at, "consume orders --partition 2 --until-end", "").lines().next(), Some("b"));
    let cluster = json(&succeeds(&at, "cluster describe -o json", ""));
    assert_eq!(cluster["brokers"].as_array().map(Vec::len), Some(3), "{cluster}");
    assert_eq!(cluster["controllers"].as_array().map(Vec::len), Some(3), "{cluster}");
    assert!(succeeds(&at, "cluster describe", "").contains("in service"));

    // The files.
    let leader = scene.leader(0);
    let writers = scene.write();
    scene.acknowledged(50).await;
    writers.stop().await;
    let node = scene.cluster.node(crate::common::broker(leader)).expect("it is there");
    let data = node.data_dir().display().to_string();
    let dumped = succeeds(&at, &format!("log dump {data} -o json --records"), "");
    let kinds: Vec<String> =
        dumped.lines().map(|line| json(line)["kind"].as_str().unwrap_or_default().to_owned()).collect();
    for kind in ["partition", "segment", "batch", "record"] {
        assert!(kinds.iter().any(|it| it == kind), "no {kind} in {dumped}");
    }
    assert!(succeeds(&at, &format!("log dump {data}"), "").contains("offsets 0 to"));
    assert!(fails(&at, "log dump /nowhere", "", 1).contains("/nowhere"));

    succeeds(&at, "topic delete orders", "");
    assert!(fails(&at, "topic delete orders", "", 1).contains("orders"));
    succeeds(&at, "topic delete orders --if-exists", "");
    assert!(!succeeds(&at, "topic list", "").contains("orders"));
    assert!(succeeds(&at, "topic list", "").contains(TOPIC));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_reads_on_is_told_when_no_broker_can_be_reached_and_when_one_is_again() {
    let mut scene = Scene::new().await;
    let at = scene.cluster.bootstrap();
    let nodes: Vec<_> = scene.cluster.nodes().map(|(id, _)| id).collect();
    let (heard, said) = std::sync::mpsc::channel();
    let mut readers = Vec::new();
    for args in [vec!["--group", "g"], vec![]] {
        let mut command = Command::new(BINARY);
        command.args(["consume", TOPIC]).args(args).env("HIGHWATER_BOOTSTRAP", &at);
        let mut reader = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary runs");
        let (out, err) = (reader.stdout.take().expect("piped"), reader.stderr.take().expect("piped"));
        for from in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let heard = heard.clone();
            std::thread::spawn(move || {
                BufReader::new(from).lines().map_while(Result::ok).for_each(|line| _ = heard.send(line));
            });
        }
        readers.push(reader);
    }
    // From both of them, and each once.
    let both_say = |what: &str| {
        let mut both = 0;
        while both < 2 {
            let line = said.recv_timeout(SOON).unwrap_or_else(|_| panic!("nobody said {what:?} any more"));
            both += u32::from(line.starts_with(what));
            assert!(
                line.starts_with(what) || ["assigned", "lost", "revoked"].iter().any(|it| line.starts_with(it)),
                "{line}"
            );
        }
    };
    succeeds(&at, &format!("produce {TOPIC}"), "before\n");
    both_say("before");
    nodes.iter().for_each(|node| scene.kill(*node));
    both_say("no broker can be reached, trying on: 127.0.0.1:");
    nodes.iter().for_each(|node| scene.start(*node));
    both_say("a broker is reached again");
    succeeds(&at, &format!("produce {TOPIC} --timeout 30"), "after\n");
    both_say("after");
    for mut reader in readers {
        reader.kill().expect("it runs");
        reader.wait().expect("it ends");
    }
}

#[test]
fn without_a_cluster_one_line_says_so_and_the_exit_code_is_3() {
    for args in ["topic list", "cluster describe", "produce x", "consume x", "bench produce"] {
        let said = fails("127.0.0.1:1", &format!("{args} --timeout 0.3"), "", 3);
        assert!(said.contains("127.0.0.1:1") && said.lines().count() == 1, "{said}");
    }
    let said = fails("nonsense", "topic list", "", 2);
    assert!(said.contains("nonsense") && said.contains("host:port"), "{said}");
}

#[test]
fn a_configuration_is_checked_with_line_numbers_and_the_default_is_good() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let file = dir.path().join("h.toml");
    let path = file.display().to_string();
    std::fs::write(&file, succeeds("", "config print-default", "")).expect("it can be written");
    succeeds("", &format!("config check --config {path}"), "");
    std::fs::write(&file, "[broker]\nid = 1\nlisten = \"nowhere\"\n").expect("it can be written");
    let said = fails("", &format!("config check --config {path}"), "", 2);
    assert!(said.contains("h.toml:3: broker.listen must be HOST:PORT"), "{said}");
    let said = fails("", &format!("server --config {path}"), "", 2);
    assert!(said.contains("h.toml:3"), "{said}");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it has an address").port();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().display();
    let args = format!(
        "server --controller-listen 127.0.0.1:{port} --controller-data-dir {data}/c --broker-data-dirs {data}/b"
    );
    let output = highwater("", &args, "");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains(&port.to_string()), "{said}");
}

/// The nodes of a runner that is killed -9 must not live on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_of_a_local_cluster_end_with_their_runner() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let data = dir.path().join("cluster");
    let mut up = Command::new(BINARY)
        .args(["cluster", "up", "--controllers", "1", "--brokers", "1", "--port", "21000", "--data-dir"])
        .arg(&data)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(up.stdout.take().expect("it is piped")));
    let mut pids = Vec::new();
    for line in lines {
        let line = line.expect("text");
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [kind, _, _, pid, ..] = words[..]
            && matches!(kind, "controller" | "broker")
        {
            pids.push(pid.parse::<u32>().expect("a process id"));
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    assert_eq!(pids.len(), 2);
    let alive = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // A zombie that nobody has reaped yet is dead enough.
        stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
    };
    assert!(pids.iter().all(alive));
    up.kill().expect("it runs");
    up.wait().expect("it ends");
    until("the end of the nodes", || !pids.iter().any(alive)).await;

    // And the cluster goes on where it was, on its old ports; a signal ends it in good order.
    let mut up = Command::new(BINARY)
        .args(["cluster", "up", "--controllers", "1", "--brokers", "1", "--data-dir"])
        .arg(&data)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(up.stdout.take().expect("it is piped")));
    assert!(lines.map(|line| line.expect("text")).any(|line| line.contains("Ctrl-C")), "it did not come up again");
    let id = rustix::process::Pid::from_raw(up.id().cast_signed()).expect("a process id");
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("it runs");
    let ended = tokio::time::timeout(Duration::from_secs(30), tokio::task::spawn_blocking(move || up.wait())).await;
    let status = ended.expect("it ends soon").expect("no panic").expect("it was not reaped");
    assert_eq!(status.code(), Some(0));
}
