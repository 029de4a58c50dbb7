//! Images as they come, each with what changed since the one taken before.

use std::sync::Arc;

use highwater_metadata::{Changes, ClusterImage};
use highwater_types::MetadataVersion;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Follows the link's image. Steps that were missed are merged, so that a slow follower falls behind in time only.
pub struct ImageWatch {
    images: watch::Receiver<Arc<ClusterImage>>,
    last: Arc<ClusterImage>,
    cancel: CancellationToken,
}

/// One step of an [`ImageWatch`].
#[derive(Debug, Clone)]
pub struct ImageStep {
    pub before: Arc<ClusterImage>,
    pub image: Arc<ClusterImage>,
    pub changes: Changes,
}

impl ImageWatch {
    pub(super) fn new(mut images: watch::Receiver<Arc<ClusterImage>>, cancel: CancellationToken) -> Self {
        images.mark_changed();
        Self { images, last: Arc::default(), cancel }
    }

    /// From now on there is no next image.
    pub fn close(&mut self) {
        self.cancel = CancellationToken::new();
        self.cancel.cancel();
    }

    /// The next image that differs from the last one taken. `None`: the link has been closed. Can be dropped and called
    /// again without missing anything.
    pub async fn next(&mut self) -> Option<ImageStep> {
        loop {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => return None,
                changed = self.images.changed() => changed.ok()?,
            }
            let image = self.images.borrow_and_update().clone();
            if image.version == MetadataVersion::ZERO || image.version == self.last.version {
                continue;
            }
            let changes = Changes::between(&self.last, &image);
            let before = std::mem::replace(&mut self.last, Arc::clone(&image));
            return Some(ImageStep { before, image, changes });
        }
    }
}
