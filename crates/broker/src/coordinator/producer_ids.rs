//! Producer ids: taken out of a block that the controller gave to this broker, the next block asked for ahead of time.
//!
//! **Invariant**: no id is given twice, by this broker or any other: blocks are committed by the controllers before they are used, and
//! an id leaves its block when it is given. What is left of a block when the broker ends is lost.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use highwater_metadata::{Command, CommandResponse};
use highwater_protocol::{code_of, v1};
use highwater_types::{ErrorCode, ProducerId};
use tokio::sync::Mutex as AsyncMutex;

use crate::cluster::ClusterLink;

/// With so few left in the present block the next one is asked for.
const LEFT_MIN: i64 = 200;

/// Ids from `next` up to, not including, `end`.
#[derive(Debug, Clone, Copy, Default)]
struct Block {
    next: i64,
    end: i64,
}

impl Block {
    fn left(&self) -> i64 {
        self.end - self.next
    }
}

#[derive(Default)]
struct Blocks {
    present: Block,
    ahead: Option<Block>,
}

impl Blocks {
    /// An id, and whether another block should be asked for.
    fn take(&mut self) -> (Option<ProducerId>, bool) {
        if self.present.left() == 0
            && let Some(ahead) = self.ahead.take()
        {
            self.present = ahead;
        }
        let id = (self.present.left() > 0).then(|| {
            let id = self.present.next;
            self.present.next += 1;
            ProducerId::new(id)
        });
        (id, self.ahead.is_none() && self.present.left() < LEFT_MIN)
    }
}

type Fetch = Box<dyn Fn() -> BoxFuture<'static, Result<CommandResponse, v1::Error>> + Send + Sync>;

/// See the module. One for each broker.
pub struct ProducerIds {
    fetch: Fetch,
    blocks: Mutex<Blocks>,
    /// Held by the one who asks for a block.
    fetching: AsyncMutex<()>,
}

impl ProducerIds {
    pub(crate) fn new(link: ClusterLink) -> Arc<Self> {
        Self::with(Box::new(move || {
            let link = link.clone();
            Box::pin(async move {
                let (broker, broker_epoch) = (link.broker(), link.broker_epoch());
                let command = Command::AllocateProducerIds { broker, broker_epoch };
                link.execute(&command).await.map(|(response, _)| response)
            })
        }))
    }

    fn with(fetch: Fetch) -> Arc<Self> {
        Arc::new(Self { fetch, blocks: Mutex::default(), fetching: AsyncMutex::default() })
    }

    fn take(&self) -> (Option<ProducerId>, bool) {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// An id that nobody was given before. Waits only where no block is at hand; fails as the controllers do.
    pub async fn next(self: &Arc<Self>) -> Result<ProducerId, v1::Error> {
        loop {
            let (id, wants_more) = self.take();
            if let Some(id) = id {
                if wants_more {
                    self.fetch_ahead();
                }
                return Ok(id);
            }
            let fetching = self.fetching.lock().await;
            // Another one may have brought it while this one waited.
            if let (Some(id), _) = self.take() {
                return Ok(id);
            }
            self.fetch_block().await?;
            drop(fetching);
        }
    }

    fn fetch_ahead(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let Ok(_fetching) = this.fetching.try_lock() else { return };
            if let Err(error) = this.fetch_block().await {
                // There are some left; who finds none is told.
                tracing::debug!(message = error.message, "no block of producer ids ahead of time");
            }
        });
    }

    async fn fetch_block(&self) -> Result<(), v1::Error> {
        let answer = (self.fetch)().await.map_err(|error| match code_of(&error) {
            // Of this broker, which registers anew: nothing is wrong with what was asked of it, and soon it can be done.
            ErrorCode::StaleBrokerEpoch => v1::Error::new(ErrorCode::ControllerNotAvailable, error.message),
            _ => error,
        });
        match answer? {
            CommandResponse::ProducerIdsAllocated { first, count } => {
                let block = Block { next: first.get(), end: first.get() + i64::from(count) };
                self.blocks.lock().unwrap_or_else(PoisonError::into_inner).ahead = Some(block);
                Ok(())
            }
            other => Err(v1::Error::new(ErrorCode::Internal, format!("not a block of producer ids: {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

    use futures::FutureExt;

    use super::*;
    use crate::tests::harness::eventually;

    fn ids(refusals: usize) -> (Arc<ProducerIds>, Arc<AtomicI64>) {
        let given = Arc::new(AtomicI64::new(0));
        let (counter, refusals) = (Arc::clone(&given), AtomicUsize::new(refusals));
        let fetch = move || {
            let refuses = refusals.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
            let first = ProducerId::new(if refuses { 0 } else { counter.fetch_add(1000, Ordering::Relaxed) });
            let refused = || v1::Error::new(ErrorCode::ControllerNotAvailable, "none");
            let result = Ok(CommandResponse::ProducerIdsAllocated { first, count: 1000 });
            async move { if refuses { Err(refused()) } else { result } }.boxed()
        };
        (ProducerIds::with(Box::new(fetch)), given)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ids_are_never_given_twice() {
        let (ids, _) = ids(0);
        let take = |_| {
            let ids = Arc::clone(&ids);
            tokio::spawn(async move {
                let mut mine = Vec::new();
                for _ in 0..700 {
                    mine.push(ids.next().await.unwrap());
                }
                mine
            })
        };
        let all = futures::future::join_all((0..8).map(take)).await;
        let all: BTreeSet<ProducerId> = all.into_iter().flat_map(Result::unwrap).collect();
        assert_eq!(all.len(), 8 * 700);
    }

    #[tokio::test]
    async fn p6_a_broker_that_is_not_registered_yet_refuses_nobody_for_good() {
        let fetch = || async { Err(v1::Error::new(ErrorCode::StaleBrokerEpoch, "epoch -1")) }.boxed();
        let error = ProducerIds::with(Box::new(fetch)).next().await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ControllerNotAvailable.number());
        assert!(error.retriable);
    }

    #[tokio::test]
    async fn the_next_block_is_asked_for_ahead_and_a_refusal_is_told() {
        let (ids, given) = ids(1);
        assert_eq!(ids.next().await.unwrap_err().code, ErrorCode::ControllerNotAvailable.number());
        for n in 0..801 {
            assert_eq!(ids.next().await.unwrap().get(), n);
        }
        eventually(|| given.load(Ordering::Relaxed) == 2000).await;
    }
}
