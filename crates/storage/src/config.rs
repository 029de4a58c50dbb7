//! What a log needs to know of its topic and its process.

use std::sync::Arc;

use highwater_types::TopicConfig;

use crate::cache::CacheBudget;
use crate::status::DirStatus;

/// The configuration of one [`crate::Log`]; can change while it is open.
#[derive(Clone)]
pub struct LogConfig {
    pub segment_bytes: u64,
    pub segment_ms: u64,
    pub index_interval_bytes: u32,
    /// `None`: nothing goes for its age.
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
    /// `None`: it is not compacted.
    pub compaction: Option<CompactionConfig>,
    /// Most bytes of recent appends that this log keeps in memory.
    pub cache_bytes: usize,
    /// Shared by all logs of a process: bounds the memory of all their caches together.
    pub cache_budget: Arc<CacheBudget>,
    /// Shared by all logs of a data dir; [`crate::DataDir::open_log`] sets it.
    pub status: Arc<DirStatus>,
}

/// Of a compacted topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionConfig {
    /// How long tombstones and markers stay once they are clean.
    pub delete_retention_ms: u64,
    /// Records younger than this are not cleaned.
    pub lag_min_ms: u64,
    /// Records older than this are cleaned whatever the ratio; `None`: no bound.
    pub lag_max_ms: Option<u64>,
    /// So many dirty bytes in a million make a pass worth while.
    pub dirty_millionths_min: u32,
}

impl LogConfig {
    /// Takes the topic's part from `topic`, and keeps the process's.
    #[must_use]
    pub fn with_topic(mut self, topic: &TopicConfig) -> Self {
        self.segment_bytes = topic.segment_bytes;
        self.segment_ms = topic.segment_ms_effective();
        self.index_interval_bytes = topic.index_interval_bytes;
        let deletes = topic.cleanup_policy.deletes();
        self.retention_ms = topic.retention_ms.filter(|_| deletes);
        self.retention_bytes = topic.retention_bytes.filter(|_| deletes);
        self.compaction = topic.cleanup_policy.compacts().then_some(CompactionConfig {
            delete_retention_ms: topic.delete_retention_ms,
            lag_min_ms: topic.compaction_lag_ms_min,
            lag_max_ms: topic.compaction_lag_ms_max,
            dirty_millionths_min: topic.dirty_millionths_min,
        });
        self
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        let base = Self {
            segment_bytes: 0,
            segment_ms: 0,
            index_interval_bytes: 0,
            retention_ms: None,
            retention_bytes: None,
            compaction: None,
            cache_bytes: 8 << 20,
            cache_budget: Arc::new(CacheBudget::new(128 << 20)),
            status: Arc::new(DirStatus::default()),
        };
        base.with_topic(&TopicConfig::default())
    }
}
