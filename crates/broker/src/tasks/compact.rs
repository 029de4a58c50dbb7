//! Compacts the logs of compacted topics: one after the other, the dirtiest first, those that are overdue before all.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use highwater_storage::{CompactionError, CompactionNeed};

use super::every;
use crate::core::Core;
use crate::partition::Partition;

pub(super) async fn run(core: Arc<Core>) {
    let mut interval = every(Duration::from_millis(core.config.compaction_interval_ms));
    loop {
        interval.tick().await;
        // A log that could not be cleaned now waits for the next look.
        let mut failed = BTreeSet::new();
        while let Some(partition) = dirtiest(&core, &failed) {
            if !compact(&core, &partition).await {
                failed.insert(partition.tp());
            }
        }
    }
}

fn dirtiest(core: &Core, failed: &BTreeSet<highwater_types::TopicPartition>) -> Option<Arc<Partition>> {
    let now = core.clock.timestamp();
    let partitions = core.partitions.all();
    let candidates = partitions.values().filter(|partition| !failed.contains(&partition.tp()));
    let due = candidates
        .filter_map(|partition| Some((partition, partition.compaction_due(now, core.config.compaction_keys_max)?)));
    let urgency = |need: &CompactionNeed| (need.is_overdue, need.dirty_millionths());
    due.max_by_key(|(_, need)| urgency(need)).map(|(partition, _)| Arc::clone(partition))
}

/// One pass. Whether it went as far as it was to.
async fn compact(core: &Core, partition: &Partition) -> bool {
    let Some(job) = partition.begin_compaction(core.clock.timestamp(), core.config.compaction_keys_max) else {
        return false;
    };
    let result = job.run(|rewritten| partition.swap_compacted(rewritten)).await;
    partition.finish_compaction(&result);
    let (tp, metrics) = (partition.tp(), core.partitions.metrics());
    match result {
        Ok(done) => {
            metrics.compacted(done.bytes_before, done.bytes_after);
            tracing::info!(
                partition = %tp, cleaned_to = %done.cleaned_to, bytes_before = done.bytes_before,
                bytes_after = done.bytes_after, segments_before = done.segments_before,
                segments_after = done.segments_after, "compacted"
            );
            done.is_whole
        }
        Err(error @ CompactionError::Unsettled(_)) => {
            metrics.compactions_failed.inc();
            tracing::error!(partition = %tp, %error, "compaction");
            false
        }
        Err(error) => {
            metrics.compactions_failed.inc();
            tracing::warn!(partition = %tp, %error, "not compacted now");
            false
        }
    }
}
