//! Logs that could not be opened because their disk was full: opened once there is space again (T46).

use std::sync::Arc;

use highwater_types::{TopicPartition, is_internal_topic};

use super::{Partitions, ignore_poison, view_of};
use crate::partition::Assignment;

impl Partitions {
    pub(super) fn note_wants_space(&self, tp: TopicPartition) {
        ignore_poison(self.want_space.lock()).insert(tp);
    }

    /// Whether [`reopen`](Self::reopen) has something to do.
    pub fn may_reopen(&self) -> bool {
        let waiting = ignore_poison(self.want_space.lock()).clone();
        let map = self.all();
        waiting.iter().filter_map(|tp| map.get(tp)).any(|partition| !partition.dir().status().is_full())
    }

    /// Opens what there is space for by now. Not while an image is applied.
    pub(crate) async fn reopen(&self) {
        let waiting = ignore_poison(self.want_space.lock()).clone();
        let image = self.image();
        for tp in waiting {
            let Some(before) = self.all().get(&tp).cloned() else {
                ignore_poison(self.want_space.lock()).remove(&tp);
                continue;
            };
            let dir = self.dirs.iter().find(|dir| Arc::ptr_eq(&dir.data_dir, before.dir()));
            let (Some(dir), Some(topic)) = (dir, image.topic(tp.topic)) else { continue };
            let Some(state) = topic.partition(tp.partition).filter(|_| !dir.data_dir.status().is_full()) else {
                continue;
            };
            ignore_poison(self.want_space.lock()).remove(&tp);
            let config = Arc::new(topic.config());
            let partition = self.open_log(tp, dir, &config).await;
            before.retire(false);
            partition.assign(&Assignment {
                view: view_of(state),
                config,
                internal: is_internal_topic(topic.name.as_str()),
                alive: Arc::new(image.active_brokers()),
            });
            tracing::info!(partition = %tp, usable = partition.unusable_because().is_none(), "opened again");
            self.change_map(|map| _ = map.insert(tp, partition));
        }
    }
}
