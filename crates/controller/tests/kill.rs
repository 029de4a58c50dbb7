//! kill -9 of a process that writes to the store: what it was told is on disk is there afterwards (TRAPS T45).

#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use highwater_controller::{MetaKey, MetaOp, MetaStore, SledStore};

const FOLDER: &str = "HIGHWATER_TEST_STORE";
const ROUNDS: u64 = 6;
/// Acknowledgements after which a round's writer is killed; it goes on writing while they are read.
const ACKNOWLEDGED: usize = 150;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().unwrap()
}

/// Not a test of its own: the process that is killed. Says of each write that it is acknowledged.
#[test]
fn writer_process() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let store = Arc::new(SledStore::open(folder.as_ref()).unwrap());
    runtime().block_on(async {
        let first = store.load().await.unwrap().log.last_key_value().map_or(0, |(index, _)| index + 1);
        // Several at once, so that there is always a group in the making.
        let mut index = first;
        loop {
            let group = index..index + 8;
            let writes = group.clone().map(|index| {
                let value = Bytes::from(vec![index as u8; 10 + (index as usize * 7919) % 100_000]);
                let vote = MetaOp::Put(MetaKey::Vote, Bytes::from(index.to_string()));
                store.write(vec![MetaOp::Put(MetaKey::Log(index), value), vote])
            });
            let results = futures::future::join_all(writes).await;
            for (index, result) in group.zip(results) {
                result.unwrap();
                println!("acknowledged {index}");
            }
            index += 8;
            if index % 64 == 0 {
                let purge =
                    vec![MetaOp::PurgeLog(index - 40), MetaOp::Put(MetaKey::Purged, (index - 40).to_string().into())];
                store.write(purge).await.unwrap();
            }
        }
    });
}

#[test]
fn t45_kill_9_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut last_acknowledged = 0;
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let acknowledged = |line: String| line.split("acknowledged ").nth(1).and_then(|n| n.trim().parse::<u64>().ok());
        let mut seen = 0;
        while seen < ACKNOWLEDGED {
            let line = lines.next().expect("the writer goes on").unwrap();
            if let Some(index) = acknowledged(line) {
                last_acknowledged = index;
                seen += 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still said before it died counts.
        for line in lines.map_while(Result::ok) {
            last_acknowledged = acknowledged(line).unwrap_or(last_acknowledged);
        }
        let stored = runtime().block_on(async {
            let store = SledStore::open(folder.path()).unwrap_or_else(|error| panic!("round {round}: {error}"));
            store.load().await.unwrap()
        });
        let purged: u64 = stored.purged.map_or(0, |bytes| std::str::from_utf8(&bytes).unwrap().parse().unwrap());
        let first = if purged == 0 { 0 } else { purged + 1 };
        let last = *stored.log.last_key_value().unwrap().0;
        assert!(
            last >= last_acknowledged,
            "round {round}: {last_acknowledged} was acknowledged, the log ends at {last}"
        );
        assert!(stored.log.keys().copied().eq(first..=last), "round {round}: a hole in {first}..={last}");
        for (index, value) in &stored.log {
            assert_eq!(value.len(), 10 + (*index as usize * 7919) % 100_000, "round {round}: entry {index}");
            assert!(value.iter().all(|byte| *byte == *index as u8));
        }
        let vote: u64 = std::str::from_utf8(&stored.vote.unwrap()).unwrap().parse().unwrap();
        assert_eq!(vote, last, "vote and log were written together");
    }
}
