//! A topic that is deleted under load and made again under its name, over and over; and one that grows under load.

use std::sync::Arc;
use std::time::Duration;

use highwater_client::{Client, ErrorCode, NewTopic, StartAt, TopicAlteration};
use tokio::sync::watch;

use super::appends::{Writers, WritersConfig};
use super::readers::{Reader, seen};
use super::{Running, create, go_on, insist};
use crate::history::{Event, History, life_of};

/// Makes the topic that `config` writes to, writes, deletes it, and so on; each life has writers and readers of its own, numbered
/// on from those given. Ends with the topic there; returns in which life. Records of one life must not show up in the next
/// (T21): the history has a name for each.
///
/// # Errors
/// If the cluster does not make or delete it for as long as patience lasts.
pub async fn live_and_die(
    client: Client,
    history: History,
    topic: NewTopic,
    config: WritersConfig,
    first_reader: u32,
    patience: Duration,
    mut stopping: watch::Receiver<bool>,
) -> super::Fallible<u32> {
    for life in 1.. {
        create(&client, topic.clone(), patience).await?;
        let name = life_of(&config.topic, life);
        let config = WritersConfig {
            first_writer: config.first_writer + (life - 1) * config.writers,
            name: Some(Arc::clone(&name)),
            ..config.clone()
        };
        let writers = Writers::start(&client, &history, &config);
        let reader = Running::start(|stopping| {
            follow(client.clone(), history.clone(), first_reader + life, config.topic.clone(), name, stopping)
        });
        let goes_on = go_on(&mut stopping, Duration::from_secs(4)).await;
        if goes_on {
            history.fault(format!("topic {} is deleted", config.topic));
            let admin = client.admin();
            let delete = || async {
                match admin.delete_topic(&config.topic).await {
                    // An earlier attempt did it, and its answer was lost.
                    Err(error) if error.code == ErrorCode::UnknownTopic => Ok(()),
                    answer => answer,
                }
            };
            insist(patience, delete).await?;
        }
        writers.stop().await;
        reader.stop().await;
        if !goes_on {
            return Ok(life);
        }
    }
    Ok(0)
}

/// Reads one life of the topic, to its end.
async fn follow(
    client: Client,
    history: History,
    reader: u32,
    topic: String,
    name: Arc<str>,
    mut stopping: watch::Receiver<bool>,
) {
    let mut consumer = Reader::of_all(reader).consumer(&client, &history);
    let mut assigned = false;
    while !*stopping.borrow_and_update() {
        let result = if assigned {
            tokio::select! {
                biased;
                _ = stopping.wait_for(|stop| *stop) => return,
                polled = consumer.poll(Duration::from_millis(200)) => polled,
            }
        } else {
            consumer.assign_topic(&topic, StartAt::Beginning).await.map(|()| Vec::new())
        };
        match result {
            Ok(records) => {
                assigned = true;
                records.iter().for_each(|record| history.record(seen(reader, &name, record)));
            }
            Err(error) if error.is_retriable() => {}
            // It is gone, as it should be.
            Err(error) => {
                history.record(Event::Failed { what: format!("reader {reader} of {name}"), why: error.to_string() });
                return;
            }
        }
    }
}

/// Gives the topic one partition more, again and again, up to so many, until told to stop.
pub async fn grow(
    client: Client,
    history: History,
    topic: String,
    partitions_max: u32,
    every: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    while go_on(&mut stopping, every).await {
        let admin = client.admin();
        let Ok(found) = admin.describe_topic(&topic).await else { continue };
        let more = found.partitions.len() as u32 + 1;
        if more > partitions_max {
            return;
        }
        if let Err(error) = admin.alter_topic(&topic, TopicAlteration::new().partitions(more)).await {
            history.record(Event::Failed { what: format!("give {topic} {more} partitions"), why: error.to_string() });
        }
    }
}
