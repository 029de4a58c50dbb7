//! The administrator of the simulated cluster, on a host of its own: changes the quorum of controllers while other things go wrong,
//! and watches.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use highwater_client::{AdminError, Client, ControllerId, ErrorCode, NodeAddress, PartitionMetadata, TopicMetadata};
use tokio::time::Instant;

use crate::cluster::{PORT, controller_host};
use crate::faults::Fault;
use crate::story::Story;
use crate::workloads::{Fallible, PATIENCE, connect, plain};
use crate::world::World;

pub const HOST: &str = "operator";
/// How often it looks at leaders and controllers.
const LOOK: Duration = Duration::from_millis(250);

/// Clones are the same operator.
#[derive(Clone, Default)]
pub struct Operator {
    changes: Rc<RefCell<VecDeque<Fault>>>,
    is_busy: Rc<Cell<bool>>,
    /// Removed from the quorum: their processes are to be ended.
    removed: Rc<RefCell<Vec<u64>>>,
}

impl Operator {
    /// Registers the host.
    pub fn start(sim: &mut turmoil::Sim<'_>, world: &World, story: &Story) -> Self {
        let operator = Self::default();
        let (it, world, story) = (operator.clone(), world.clone(), story.clone());
        sim.host(HOST, move || {
            let (it, world, story) = (it.clone(), world.clone(), story.clone());
            async move {
                let client = connect(&world, HOST, PATIENCE).await.map_err(plain)?;
                tokio::task::spawn_local(watch(client.clone(), story.clone()));
                it.work(&client, &story).await.map_err(plain)
            }
        });
        operator
    }

    /// Takes on a change of the quorum; they are made one after the other.
    pub fn take(&self, fault: &Fault) {
        if matches!(fault, Fault::AddController { .. } | Fault::RemoveController { .. }) {
            self.changes.borrow_mut().push_back(fault.clone());
        }
    }

    /// A controller that was removed since the last time this was asked.
    pub fn take_removed(&self) -> Option<u64> {
        self.removed.borrow_mut().pop()
    }

    /// Waits until all changes are made.
    pub async fn has_done_all(&self, patience: Duration) -> Fallible<()> {
        let deadline = Instant::now() + patience;
        while self.is_busy.get() || !self.changes.borrow().is_empty() {
            if Instant::now() >= deadline {
                return Err(format!("after {patience:?} the quorum is still to be changed: {:?}", self.changes).into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn work(&self, client: &Client, story: &Story) -> Fallible<()> {
        loop {
            let next = self.changes.borrow().front().cloned();
            self.is_busy.set(next.is_some());
            let Some(change) = next else {
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            match self.make(client, &change).await {
                Ok(()) => {
                    story.tell(format!("done: {change}"));
                    self.changes.borrow_mut().pop_front();
                }
                Err(error) => {
                    story.tell(format!("not yet: {error}"));
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }

    async fn make(&self, client: &Client, change: &Fault) -> Result<(), AdminError> {
        let admin = client.admin();
        match change {
            Fault::AddController { id } => {
                admin
                    .add_controller(ControllerId::new(*id), NodeAddress { host: controller_host(*id), port: PORT })
                    .await
            }
            Fault::RemoveController { id } => {
                match admin.remove_controller(ControllerId::new(*id)).await {
                    // A former attempt, whose answer was lost.
                    Err(error) if error.code != ErrorCode::UnknownController => return Err(error),
                    _ => self.removed.borrow_mut().push(*id),
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Tells of every change of a leader, or of the active controller.
async fn watch(client: Client, story: Story) {
    let mut leaders = BTreeMap::new();
    let mut active = None;
    loop {
        if let Ok(cluster) = client.admin().describe_cluster().await
            && cluster.active_controller != active
        {
            active = cluster.active_controller;
            story.tell(match active {
                Some(id) => format!("controller {id} is active"),
                None => "no controller is active".to_owned(),
            });
        }
        let mut topics = client.admin().list_topics().await.unwrap_or_default();
        // There are too many partitions of the others.
        topics.retain(|topic| !topic.name.as_str().starts_with("__"));
        for topic in topics {
            for partition in topic.partitions {
                let place = (topic.name.clone(), partition.id);
                let leader = (partition.leader, partition.leader_epoch);
                if leaders.insert(place, leader).is_some_and(|before| before != leader) {
                    let (name, id, epoch) = (&topic.name, partition.id, partition.leader_epoch);
                    story.tell(match partition.leader {
                        Some(broker) => format!("broker {broker} leads {name}/{id}, in epoch {epoch}"),
                        None => format!("nobody leads {name}/{id}, in epoch {epoch}"),
                    });
                }
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until every partition has a leader, and all its replicas in sync.
pub async fn is_whole(client: &Client, patience: Duration) -> Fallible<()> {
    let deadline = Instant::now() + patience;
    loop {
        let cluster = client.admin().describe_cluster().await;
        match &cluster {
            Ok(it) if it.offline_partitions + it.under_replicated_partitions == 0 => return Ok(()),
            _ if Instant::now() >= deadline => {
                let wanting: Vec<String> = client.admin().list_topics().await?.iter().flat_map(wanting).collect();
                return Err(format!("after {patience:?} not whole: {}; {cluster:?}", wanting.join(", ")).into());
            }
            _ => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

/// Its partitions that lack a leader or replicas in sync.
fn wanting(topic: &TopicMetadata) -> Vec<String> {
    let lacks = |it: &&PartitionMetadata| it.leader.is_none() || it.isr.len() < it.replicas.len();
    let text = |it: &PartitionMetadata| {
        let (leader, in_sync) = (it.leader, &it.isr);
        format!("{}/{} has leader {leader:?}, and of {:?} in sync {in_sync:?}", topic.name, it.id, it.replicas)
    };
    topic.partitions.iter().filter(lacks).map(text).collect()
}
