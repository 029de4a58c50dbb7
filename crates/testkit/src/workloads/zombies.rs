//! Producers that share one transactional id: each is fenced by the next in the middle of a transaction, and goes on as if it were
//! not.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{Client, TransactionalProducer};
use tokio::sync::watch;

use super::transactors::{Work, config};
use super::{PAUSE, go_on};
use crate::history::{Event, History};

/// One instance after the other, until told to stop. Each is a writer of its own, numbered from `first_writer` on.
pub async fn follow_one_another(
    client: Client,
    history: History,
    producer: Arc<str>,
    first_writer: u32,
    topic: Arc<str>,
    partitions: u32,
    mut stopping: watch::Receiver<bool>,
) {
    let mut before: Option<(Work, TransactionalProducer)> = None;
    let mut instance = 0;
    while go_on(&mut stopping, Duration::from_millis(300)).await {
        let work = Work {
            history: history.clone(),
            writer: first_writer + instance,
            producer: Arc::clone(&producer),
            topic: Arc::clone(&topic),
            partitions,
            held: None,
        };
        // The one before has a transaction open while its successor is let in.
        let mut zombie = before.take();
        let open = match &mut zombie {
            Some((work, producer)) => work.open(producer, instance, 1).await.ok(),
            None => None,
        };
        let let_in = loop {
            match client.transactional_producer(config(&producer)).await {
                Ok(new) => break Some(new),
                // A coordinator that is gone for a while.
                Err(error) if !error.is_fatal() && !*stopping.borrow() => tokio::time::sleep(PAUSE).await,
                Err(_) => break None,
            }
        };
        if let_in.is_some() {
            instance += 1;
            history.record(Event::LetIn { producer: Arc::clone(&producer), instance });
        }
        if let Some(open) = open {
            // It asks for a commit all the same.
            let _ = open.end(true).await;
        }
        let Some(mut new) = let_in else { return };
        let _ = work.transact(&mut new, instance, 0, true).await;
        before = Some((work, new));
    }
}
