//! Records that are deleted on request, from the front of each partition, and readers that look for them all the same.

use highwater_types::Offset;
use tokio::sync::watch;

use super::front::FrontReader;
use super::go_on;
use crate::history::Event;

/// Deletes the older half of one partition after the other, until told to stop. `reader` looks for what was before what is left.
pub async fn trim(reader: FrontReader, mut stopping: watch::Receiver<bool>) {
    let history = &reader.history;
    let mut turn = 0;
    while go_on(&mut stopping, reader.every).await {
        let Some((place, start, end)) = reader.next(&mut turn).await else { continue };
        let before = Offset::new((start.get() + end.get()) / 2);
        history.record(Event::DeleteRecords { place: place.clone(), before });
        match reader.client.admin().delete_records(&place.topic, place.partition, Some(before)).await {
            Ok(start) => history.record(Event::Deleted { place: place.clone(), start }),
            Err(error) => {
                history.record(Event::Failed { what: format!("delete records of {place}"), why: error.to_string() });
                continue;
            }
        }
        reader.look_before(&place, before).await;
    }
}
