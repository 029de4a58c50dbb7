//! A controller without Raft: decides and replays at once.

use std::collections::BTreeMap;

use highwater_metadata::*;
use highwater_types::*;

pub fn b(id: u32) -> BrokerId {
    BrokerId::new(id)
}

pub fn ids(ids: &[u32]) -> Vec<BrokerId> {
    ids.iter().copied().map(b).collect()
}

pub struct Cluster {
    pub image: ClusterImage,
    pub incarnations: u128,
    pub seed: u64,
}

pub fn strings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

impl Cluster {
    /// `brokers` registered and unfenced, ids from 1.
    pub fn new(brokers: u32) -> Self {
        let mut cluster = Self { image: ClusterImage::default(), incarnations: 0, seed: 7 };
        cluster.run(&Command::CreateCluster { cluster_id: Some("c".into()) }).unwrap();
        for id in 1..=brokers {
            cluster.register(id, None, false).unwrap();
            cluster.unfence(id);
        }
        cluster
    }

    /// With a topic "t" of one partition on brokers 1..=n, led by 1.
    pub fn with_topic(brokers: u32, configs: &[(&str, &str)]) -> Self {
        let mut cluster = Self::new(brokers);
        cluster.create("t", vec![(1..=brokers).map(b).collect()], configs).unwrap();
        cluster
    }

    pub fn run(&mut self, command: &Command) -> Result<CommandResponse, CommandError> {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let decision = decide(&self.image, command, self.seed)?;
        self.image.replay_all(&decision.records).unwrap();
        Ok(decision.response)
    }

    pub fn create(
        &mut self,
        name: &str,
        assignments: Vec<Vec<BrokerId>>,
        configs: &[(&str, &str)],
    ) -> Result<CommandResponse, CommandError> {
        self.run(&Command::CreateTopic {
            name: name.into(),
            partitions: 0,
            replication_factor: 0,
            configs: strings(configs),
            assignments,
            validate_only: false,
        })
    }

    pub fn place(&mut self, name: &str, partitions: u32, rf: u32) -> Result<CommandResponse, CommandError> {
        self.run(&Command::CreateTopic {
            name: name.into(),
            partitions,
            replication_factor: rf,
            configs: BTreeMap::new(),
            assignments: vec![],
            validate_only: false,
        })
    }

    pub fn registration(&mut self, id: u32, clean: Option<BrokerEpoch>, had_storage: bool) -> Registration {
        self.incarnations += 1;
        Registration {
            broker: b(id),
            incarnation: IncarnationId::from_u128(self.incarnations),
            cluster_id: had_storage.then(|| "c".to_owned()),
            client_endpoint: Endpoint::new("host", 9092),
            internal_endpoint: Endpoint::new("host", 9092),
            listeners: Vec::new(),
            rack: None,
            clean_shutdown: clean.is_some(),
            previous_broker_epoch: clean.unwrap_or(BrokerEpoch::NONE),
        }
    }

    pub fn register(
        &mut self,
        id: u32,
        clean: Option<BrokerEpoch>,
        had_storage: bool,
    ) -> Result<CommandResponse, CommandError> {
        let registration = self.registration(id, clean, had_storage);
        self.run(&Command::RegisterBroker(registration))
    }

    pub fn epoch(&self, id: u32) -> BrokerEpoch {
        self.image.broker(b(id)).map_or(BrokerEpoch::NONE, |s| s.broker_epoch)
    }

    pub fn fence(&mut self, id: u32) {
        let broker_epoch = self.epoch(id);
        self.run(&Command::FenceBroker { broker: b(id), broker_epoch }).unwrap();
    }

    pub fn unfence(&mut self, id: u32) {
        let broker_epoch = self.epoch(id);
        self.run(&Command::UnfenceBroker { broker: b(id), broker_epoch }).unwrap();
    }

    pub fn shut_down(&mut self, id: u32) {
        let broker_epoch = self.epoch(id);
        self.run(&Command::BeginControlledShutdown { broker: b(id), broker_epoch }).unwrap();
    }

    /// Comes back after a kill: no marker, same disks.
    pub fn restart_unclean(&mut self, id: u32) {
        self.register(id, None, true).unwrap();
        self.unfence(id);
    }

    /// Comes back with the marker of its last epoch.
    pub fn restart_clean(&mut self, id: u32) {
        let epoch = self.epoch(id);
        self.register(id, Some(epoch), true).unwrap();
        self.unfence(id);
    }

    pub fn tp(&self) -> TopicPartition {
        TopicPartition::new(self.image.topic_by_name("t").unwrap().id, PartitionId::new(0))
    }

    pub fn p(&self) -> &PartitionState {
        self.image.partition(self.tp()).unwrap()
    }

    pub fn leader(&self) -> Option<u32> {
        self.p().leader.map(BrokerId::get)
    }

    pub fn proposal(&self, isr: &[u32]) -> AlterPartition {
        AlterPartition {
            partition: self.tp(),
            leader_epoch: self.p().leader_epoch,
            partition_epoch: self.p().partition_epoch,
            new_isr: isr.iter().map(|id| IsrMember { broker: b(*id), broker_epoch: self.epoch(*id) }).collect(),
            recovered: true,
        }
    }

    pub fn propose(&mut self, proposal: AlterPartition) -> Result<AlteredPartition, CommandError> {
        let broker = self.p().leader.unwrap();
        self.propose_as(broker.get(), proposal)
    }

    pub fn propose_as(&mut self, broker: u32, proposal: AlterPartition) -> Result<AlteredPartition, CommandError> {
        let broker_epoch = self.epoch(broker);
        let command = Command::AlterPartitions { broker: b(broker), broker_epoch, partitions: vec![proposal] };
        match self.run(&command)? {
            CommandResponse::PartitionsAltered { mut partitions } => partitions.remove(0).1,
            other => panic!("{other:?}"),
        }
    }

    pub fn set_isr(&mut self, isr: &[u32]) {
        let proposal = self.proposal(isr);
        self.propose(proposal).unwrap();
    }

    pub fn alter(&mut self, set: &[(&str, &str)], partitions: u32) -> Result<CommandResponse, CommandError> {
        self.run(&Command::AlterTopic {
            name: "t".into(),
            set_configs: strings(set),
            unset_configs: Default::default(),
            list_changes: Vec::new(),
            partitions,
            must_grow: false,
            assignments: Vec::new(),
            validate_only: false,
        })
    }

    pub fn report_end(&mut self, id: u32, epoch: i32, end: i64) {
        let (last_epoch, log_end_offset) = (LeaderEpoch::new(epoch), Offset::new(end));
        let ends = vec![PartitionLogEnd { partition: self.tp(), last_epoch, log_end_offset }];
        let broker_epoch = self.epoch(id);
        self.run(&Command::ReportLogEnds { broker: b(id), broker_epoch, ends }).unwrap();
    }

    pub fn report_unusable(&mut self, id: u32, unusable: bool, lost: bool) {
        self.report_copy(id, unusable, lost, false);
    }

    pub fn report_copy(&mut self, id: u32, unusable: bool, lost: bool, doubtful: bool) {
        let broker_epoch = self.epoch(id);
        let set = |yes: bool| yes.then(|| self.tp()).into_iter().collect();
        let (unusable, lost, doubtful) = (set(unusable), set(lost), set(doubtful));
        self.run(&Command::ReportUnusable { broker: b(id), broker_epoch, unusable, lost, doubtful }).unwrap();
    }

    /// It has stopped uncleanly, and recovery has cut its log where synced records may have been.
    pub fn restart_in_doubt(&mut self, id: u32) {
        self.register(id, None, true).unwrap();
        self.report_copy(id, false, false, true);
        self.unfence(id);
    }
}
