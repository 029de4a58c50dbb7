//! What a member's handles and its task share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use highwater_types::ErrorCode;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use crate::client::ClientInner;
use crate::consumer::group::GroupConfig;
use crate::consumer::group::membership::{Identity, Membership};
use crate::consumer::group::offsets::{self, CommittedOffset, Committing, OffsetToCommit};
use crate::coordinator::Coordinator;
use crate::{AdminError, CommitError};

pub(crate) struct GroupShared {
    pub client: Arc<ClientInner>,
    pub config: GroupConfig,
    pub coordinator: Coordinator,
    membership: Mutex<Membership>,
    /// When the application last polled; `None` while it does.
    silent_since: Mutex<Option<Instant>>,
    /// Fires when a poll may have something to do about its partitions.
    pub news: Notify,
    /// The same, to look at.
    pub has_news: AtomicBool,
    /// Fires when the task may have something to send.
    pub wake: Notify,
    /// The member epoch, as of the last answer.
    pub epoch: watch::Sender<i32>,
    /// How often the member lost its partitions.
    losses: watch::Sender<u64>,
    /// True once the consumer is gone: the task leaves the group and ends.
    pub done: watch::Sender<bool>,
}

impl GroupShared {
    pub fn new(client: Arc<ClientInner>, config: GroupConfig) -> Self {
        let identity = Identity {
            group: config.group_id.clone(),
            member: uuid(client.seams.entropy.next_u128()),
            instance: config.instance_id.clone(),
            rack: config.consumer.rack.clone(),
            assignor: config.assignor.name().to_owned(),
            client: config.client_id.clone(),
            max_poll_interval: config.max_poll_interval,
        };
        let now = Instant::now();
        Self {
            coordinator: Coordinator::of_group(&client, &config.group_id),
            membership: Mutex::new(Membership::new(identity, now)),
            silent_since: Mutex::new(Some(now)),
            news: Notify::new(),
            has_news: AtomicBool::new(false),
            wake: Notify::new(),
            epoch: watch::Sender::new(0),
            losses: watch::Sender::new(0),
            done: watch::Sender::new(false),
            client,
            config,
        }
    }

    pub fn lock(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn silent_since(&self) -> Option<Instant> {
        *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The application polls, until what is returned is dropped.
    pub fn polling(self: &Arc<Self>) -> Polling {
        *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if self.lock().polled(Instant::now()) {
            self.wake.notify_one();
        }
        Polling(Arc::clone(self))
    }

    /// The application polled just now.
    pub fn touch(&self) {
        *self.silent_since.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Tells the application's polls if there is something to do about its partitions.
    pub fn tell_news(&self) {
        let membership = self.lock();
        self.losses.send_if_modified(|losses| std::mem::replace(losses, membership.losses()) != membership.losses());
        if !membership.plan().is_empty() || membership.failure().is_some() {
            self.has_news.store(true, Ordering::Release);
            self.news.notify_one();
        }
    }

    pub fn committing(&self) -> Committing {
        let membership = self.lock();
        let identity = &membership.identity;
        Committing {
            group: identity.group.clone(),
            member: identity.member.clone(),
            epoch: membership.epoch().get(),
            instance: identity.instance.clone().unwrap_or_default(),
        }
    }

    /// Commits as this member. Ends, whatever the coordinator does, once the member has lost its partitions: it is to hear of
    /// that before another has them.
    pub async fn commit(&self, offsets: &[OffsetToCommit], deadline: Instant) -> Result<(), CommitError> {
        let committed = self.losses().or(self.commit_as_member(offsets, deadline)).await;
        committed.unwrap_or_else(|| Err(CommitError::lost(&self.config.group_id)))
    }

    /// From now on.
    pub fn losses(&self) -> Losses {
        Losses(self.losses.subscribe())
    }

    /// An epoch that the coordinator has left behind is asked for with a heartbeat (KIP-1251, T40).
    async fn commit_as_member(&self, offsets: &[OffsetToCommit], deadline: Instant) -> Result<(), CommitError> {
        if offsets.is_empty() {
            return Ok(());
        }
        let wire = offsets::to_wire(&self.client, &self.config.group_id, offsets)?;
        loop {
            let mut epoch = self.epoch.subscribe();
            let who = self.committing();
            if !self.lock().is_member() {
                return Err(CommitError::not_a_member(&self.config.group_id));
            }
            let stale = who.epoch;
            let error = match offsets::commit(&self.coordinator, who, wire.clone(), deadline).await {
                Err(error) if error.code == ErrorCode::StaleMemberEpoch => error,
                result => return result,
            };
            self.lock().heartbeat_now(Instant::now());
            self.wake.notify_one();
            if timeout_at(deadline, epoch.wait_for(|epoch| *epoch != stale)).await.is_err() {
                return Err(error);
            }
        }
    }

    pub async fn fetch(
        &self,
        partitions: &[highwater_types::TopicPartition],
        deadline: Instant,
    ) -> Result<Vec<CommittedOffset>, AdminError> {
        let who = Committing { group: self.config.group_id.clone(), ..Committing::default() };
        let found = offsets::fetch(&self.coordinator, who, partitions, true, deadline).await?;
        Ok(found.into_iter().filter_map(|(id, offset)| offsets::from_wire(&self.client, id, offset)).collect())
    }

    pub fn request_deadline(&self) -> Instant {
        Instant::now() + self.client.request_timeout
    }

    /// The bound of what must be done before a partition is given up.
    pub fn revocation_deadline(&self) -> Instant {
        Instant::now() + (self.config.max_poll_interval / 2).min(Duration::from_secs(30))
    }
}

/// Tells that the member has lost its partitions.
pub(crate) struct Losses(watch::Receiver<u64>);

impl Losses {
    /// What comes of `work`; `None` if they are lost first.
    pub async fn or<T>(mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = self.0.changed() => None,
        }
    }
}

/// While this lives, the application polls.
pub(crate) struct Polling(Arc<GroupShared>);

impl Drop for Polling {
    fn drop(&mut self) {
        self.0.touch();
    }
}

/// A random (version 4) UUID of these bits.
fn uuid(bits: u128) -> String {
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (0x4 << 76) | (0x2 << 62);
    let text = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}
