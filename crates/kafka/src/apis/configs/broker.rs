//! A broker's settings under the names that Kafka's tools know. They are in its file, and change by a restart.

use highwater_broker::cluster::TopicDefaults;
use highwater_broker::{BrokerConfig, ListenerConfig};
use highwater_types::{ConfigType, TOPIC_CONFIG_KEYS};

use crate::door::KafkaConfig;

/// One of them, as it is told.
pub(super) struct Setting {
    pub key: &'static str,
    pub value: String,
    pub is_default: bool,
    pub config_type: ConfigType,
    /// The setting's name in Highwater's own file, or what there is to say.
    pub documentation: &'static str,
}

type Get = fn(&BrokerConfig, &KafkaConfig) -> String;

/// What a broker can be told, by Kafka's name.
const SETTINGS: &[(&str, ConfigType, &str, Get)] = {
    use ConfigType::{Boolean, Int, List, Long, String as Text};
    &[
        ("advertised.listeners", List, "kafka.advertised_listeners", |broker, _| {
            listeners(broker, |it| it.advertised.clone().unwrap_or_else(|| (it.host.clone(), it.port)))
        }),
        ("auto.create.topics.enable", Boolean, "kafka.auto_create_topics", |_, kafka| {
            kafka.auto_create_topics.to_string()
        }),
        ("broker.id", Int, "broker.id", |broker, _| broker.id.to_string()),
        ("broker.rack", Text, "broker.rack", |broker, _| broker.rack.clone().unwrap_or_default()),
        ("connections.max.idle.ms", Long, "kafka.idle_ms", |_, kafka| kafka.idle.as_millis().to_string()),
        ("delete.topic.enable", Boolean, "topics can be deleted", |_, _| true.to_string()),
        ("fetch.max.bytes", Int, "limits.fetch_bytes_max", |broker, _| broker.limits.fetch_bytes_max.to_string()),
        ("group.consumer.heartbeat.interval.ms", Int, "broker.group_heartbeat_interval_ms", |broker, _| {
            broker.group_heartbeat_interval_ms.to_string()
        }),
        ("group.consumer.session.timeout.ms", Int, "broker.group_session_timeout_ms", |broker, _| {
            broker.group_session_timeout_ms.to_string()
        }),
        ("group.initial.rebalance.delay.ms", Int, "broker.group_initial_rebalance_delay_ms", |broker, _| {
            broker.group_initial_rebalance_delay_ms.to_string()
        }),
        ("group.max.size", Int, "broker.group_members_max", |broker, _| broker.group_members_max.to_string()),
        ("listeners", List, "kafka.listeners", |broker, _| listeners(broker, |it| (it.host.clone(), it.port))),
        ("log.dirs", List, "broker.data_dirs", |broker, _| {
            let dirs = broker.data_dirs.iter().map(|dir| dir.display().to_string());
            dirs.collect::<Vec<_>>().join(",")
        }),
        ("log.retention.check.interval.ms", Long, "broker.retention_interval_ms", |broker, _| {
            broker.retention_interval_ms.to_string()
        }),
        ("max.connections", Int, "limits.connections_max", |broker, _| broker.limits.connections_max.to_string()),
        ("node.id", Int, "broker.id", |broker, _| broker.id.to_string()),
        ("offsets.retention.minutes", Int, "broker.offsets_retention_ms", |broker, _| {
            (broker.offsets_retention_ms / 60_000).to_string()
        }),
        ("offsets.topic.num.partitions", Int, "broker.offsets_topic_partitions", |broker, _| {
            broker.offsets_topic_partitions.to_string()
        }),
        ("offsets.topic.replication.factor", Int, "broker.internal_topics_replication_factor", |broker, _| {
            broker.internal_topics_replication_factor.to_string()
        }),
        ("replica.lag.time.max.ms", Long, "broker.replica_lag_time_max_ms", |broker, _| {
            broker.replica_lag_time_max_ms.to_string()
        }),
        ("socket.request.max.bytes", Int, "kafka.request_bytes_max", |_, kafka| kafka.request_bytes_max.to_string()),
        ("transaction.max.timeout.ms", Int, "broker.transaction_timeout_max_ms", |broker, _| {
            broker.transaction_timeout_max_ms.to_string()
        }),
        ("transaction.state.log.num.partitions", Int, "broker.transaction_topic_partitions", |broker, _| {
            broker.transaction_topic_partitions.to_string()
        }),
        ("transaction.state.log.replication.factor", Int, "broker.internal_topics_replication_factor", |broker, _| {
            broker.internal_topics_replication_factor.to_string()
        }),
        ("transactional.id.expiration.ms", Int, "broker.transactional_id_expiration_ms", |broker, _| {
            broker.transactional_id_expiration_ms.to_string()
        }),
    ]
};

/// What holds for topics that do not say otherwise: Kafka's name of a broker's setting, and the topic config.
const TOPIC_DEFAULTS: &[(&str, ConfigType, &str)] = &[
    ("log.cleaner.delete.retention.ms", ConfigType::Long, "delete.retention.ms"),
    ("log.cleanup.policy", ConfigType::List, "cleanup.policy"),
    ("log.message.timestamp.type", ConfigType::String, "message.timestamp.type"),
    ("log.retention.bytes", ConfigType::Long, "retention.bytes"),
    ("log.retention.ms", ConfigType::Long, "retention.ms"),
    ("log.roll.ms", ConfigType::Long, "segment.ms"),
    ("log.segment.bytes", ConfigType::Int, "segment.bytes"),
    ("message.max.bytes", ConfigType::Int, "max.message.bytes"),
    ("min.insync.replicas", ConfigType::Int, "min.insync.replicas"),
];

fn listeners(broker: &BrokerConfig, at: fn(&ListenerConfig) -> (String, u16)) -> String {
    let written = broker.listeners.iter().map(|listener| {
        let (host, port) = at(listener);
        format!("{}://{host}:{port}", listener.name)
    });
    written.collect::<Vec<_>>().join(",")
}

/// What the controllers give to topics that are made without saying so, from their own files.
fn of_controllers(defaults: TopicDefaults) -> [Setting; 2] {
    let setting = |key, value: u32, documentation| {
        let (value, config_type) = (value.to_string(), ConfigType::Int);
        Setting { key, value, is_default: false, config_type, documentation }
    };
    [
        setting("default.replication.factor", defaults.replication_factor, "controller.default_replication_factor"),
        setting("num.partitions", defaults.partitions, "controller.default_partitions"),
    ]
}

/// All settings of a broker that Kafka has a name for. `defaults`: of topics, if a controller has told them.
pub(super) fn describe(broker: &BrokerConfig, kafka: &KafkaConfig, defaults: Option<TopicDefaults>) -> Vec<Setting> {
    let (broker_default, kafka_default) = (BrokerConfig::default(), KafkaConfig::default());
    let own = SETTINGS.iter().map(|&(key, config_type, documentation, get)| {
        let value = get(broker, kafka);
        // An id is given, whatever it is.
        let is_default = !key.ends_with(".id") && value == get(&broker_default, &kafka_default);
        Setting { key, value, is_default, config_type, documentation }
    });
    let of_topics = TOPIC_DEFAULTS.iter().filter_map(|&(key, config_type, topic_key)| {
        let info = TOPIC_CONFIG_KEYS.iter().find(|info| info.key == topic_key)?;
        Some(Setting { key, value: info.default.to_owned(), is_default: true, config_type, documentation: info.help })
    });
    let mut all: Vec<_> = own.chain(of_topics).chain(defaults.into_iter().flat_map(of_controllers)).collect();
    all.sort_by_key(|setting| setting.key);
    all
}

#[cfg(test)]
mod tests {
    use highwater_types::BrokerId;

    use super::*;

    #[test]
    fn settings_are_told_under_kafkas_names_with_where_they_come_from() {
        let listener = |name: &str, advertised| ListenerConfig {
            name: name.to_owned(),
            host: "0.0.0.0".to_owned(),
            port: 9094,
            advertised,
        };
        let broker = BrokerConfig {
            id: BrokerId::new(7),
            listeners: vec![listener("A", None), listener("B", Some(("b.example".to_owned(), 1)))],
            ..BrokerConfig::default()
        };
        let defaults = TopicDefaults { partitions: 6, replication_factor: 3 };
        let kafka = KafkaConfig { auto_create_topics: true, ..KafkaConfig::default() };
        let told = describe(&broker, &kafka, Some(defaults));
        let of =
            |key: &str| told.iter().find(|setting| setting.key == key).map(|it| (it.value.as_str(), it.is_default));
        assert_eq!(of("node.id"), Some(("7", false)));
        assert_eq!(of("listeners"), Some(("A://0.0.0.0:9094,B://0.0.0.0:9094", false)));
        assert_eq!(of("advertised.listeners"), Some(("A://0.0.0.0:9094,B://b.example:1", false)));
        assert_eq!(of("auto.create.topics.enable"), Some(("true", false)));
        assert_eq!(of("replica.lag.time.max.ms"), Some(("10000", true)));
        assert_eq!(of("num.partitions"), Some(("6", false)));
        assert_eq!(of("default.replication.factor"), Some(("3", false)));
        assert_eq!(of("connections.max.idle.ms"), Some(("600000", true)));
        assert_eq!(told.len(), SETTINGS.len() + TOPIC_DEFAULTS.len() + 2, "every topic config is there");
        assert!(told.is_sorted_by(|one, next| one.key < next.key));
    }
}
