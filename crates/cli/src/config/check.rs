//! What must hold of settings, one by one and together, before a server starts with them.

use std::path::Path;

use super::{Config, HostPort};

/// A setting and what is wrong with it.
pub type Finding = (&'static str, String);

/// Everything that is wrong with `config`; empty if it can be used.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.node.worker_threads > 1024 {
        findings.push(("node.worker_threads", "must be at most 1024".to_owned()));
    }
    check_metrics(config, &mut findings);
    if config.node.roles.controller() {
        check_controller(config, &mut findings);
    }
    if config.node.roles.broker() {
        check_broker(config, &mut findings);
        check_kafka(config, &mut findings);
    }
    findings
}

fn check_metrics(config: &Config, findings: &mut Vec<Finding>) {
    let Some(at) = &config.node.metrics_listen else { return };
    let roles = &config.node.roles;
    let others = [
        ("controller.listen", &config.controller.listen, roles.controller()),
        ("broker.listen", &config.broker.listen, roles.broker()),
    ];
    let kafka = config.kafka.listeners.0.iter().map(|(_, at)| ("kafka.listeners", at, roles.broker()));
    for (setting, other, _) in others.into_iter().chain(kafka).filter(|(.., is_used)| *is_used) {
        if meet(at, other) {
            findings.push(("node.metrics_listen", format!("is {at}, which {setting} takes ({other})")));
        }
    }
}

/// Whether both can't be listened on.
fn meet(one: &HostPort, other: &HostPort) -> bool {
    let same_host = one.host == other.host || one.is_unspecified() || other.is_unspecified();
    one.port != 0 && one.port == other.port && same_host
}

fn check_kafka(config: &Config, findings: &mut Vec<Finding>) {
    let it = &config.kafka;
    let mut wrong = |setting, what: String| findings.push((setting, what));
    let mut taken = vec![("broker.listen".to_owned(), &config.broker.listen)];
    if config.node.roles.controller() {
        taken.push(("controller.listen".to_owned(), &config.controller.listen));
    }
    for (name, at) in &it.listeners.0 {
        if let Some((other, there)) = taken.iter().find(|(_, there)| meet(at, there)) {
            wrong("kafka.listeners", format!("has {name} at {at}, which {other} takes ({there})"));
        }
        taken.push((format!("listener {name}"), at));
        if at.is_unspecified() && it.advertised_listeners.get(name).is_none() {
            let what = format!("must say where clients reach listener {name}, as it listens on {at}");
            wrong("kafka.advertised_listeners", what);
        }
    }
    for (name, at) in &it.advertised_listeners.0 {
        if it.listeners.get(name).is_none() {
            wrong("kafka.advertised_listeners", format!("has {name}, which kafka.listeners has not"));
        }
        if at.is_unspecified() || at.port == 0 {
            wrong("kafka.advertised_listeners", format!("has {name} at {at}, which nobody can connect to"));
        }
    }
    if !(1 << 10..=1 << 30).contains(&it.request_bytes_max.0) {
        wrong("kafka.request_bytes_max", format!("must be 1KiB to 1GiB, not {}", it.request_bytes_max));
    }
    if it.idle_ms < 1000 {
        wrong("kafka.idle_ms", format!("must be 1000 or more, not {}", it.idle_ms));
    }
}

fn check_controller(config: &Config, findings: &mut Vec<Finding>) {
    let it = &config.controller;
    let mut wrong = |setting, what: String| findings.push((setting, what));
    check_endpoint("controller.advertised", &it.listen, it.advertised.as_ref(), &mut wrong);
    if it.id.get() == 0 {
        wrong("controller.id", "must be 1 or more".to_owned());
    }
    let voters = &it.voters.0;
    if it.join && !voters.is_empty() && voters.contains_key(&it.id) {
        wrong("controller.join", format!("is true, yet controller.voters names controller {} as a first one", it.id));
    }
    if !it.join && !voters.is_empty() {
        match voters.get(&it.id) {
            None => wrong(
                "controller.voters",
                format!("does not name this controller ({}); name it, or set controller.join = true", it.id),
            ),
            Some(at) if at != it.endpoint() => wrong(
                "controller.voters",
                format!("has controller {} at {at}, but its own settings say {}", it.id, it.endpoint()),
            ),
            Some(_) => {}
        }
        if voters.len().is_multiple_of(2) {
            wrong(
                "controller.voters",
                format!("names {} controllers; an even number survives no more failures than one less", voters.len()),
            );
        }
    }
    if it.listen.port == 0 && voters.len() > 1 {
        wrong("controller.listen", "can't have port 0 with several voters: they must know it".to_owned());
    }
    positive("controller.heartbeat_ms", it.heartbeat_ms, &mut wrong);
    if it.session_timeout_ms < 100 {
        wrong("controller.session_timeout_ms", format!("must be 100 or more, not {}", it.session_timeout_ms));
    }
    positive("controller.snapshot_interval_entries", it.snapshot_interval_entries, &mut wrong);
    if it.heartbeat_ms.saturating_mul(2) > it.election_timeout_min_ms {
        wrong(
            "controller.heartbeat_ms",
            format!(
                "must be at most half of controller.election_timeout_min_ms ({}), not {}",
                it.election_timeout_min_ms, it.heartbeat_ms
            ),
        );
    }
    if it.election_timeout_min_ms >= it.election_timeout_max_ms {
        wrong(
            "controller.election_timeout_max_ms",
            format!(
                "must be more than controller.election_timeout_min_ms ({}), not {}",
                it.election_timeout_min_ms, it.election_timeout_max_ms
            ),
        );
    }
    positive("controller.default_partitions", u64::from(it.default_partitions), &mut wrong);
    positive("controller.default_replication_factor", u64::from(it.default_replication_factor), &mut wrong);
}

fn check_broker(config: &Config, findings: &mut Vec<Finding>) {
    let it = &config.broker;
    let mut wrong = |setting, what: String| findings.push((setting, what));
    check_endpoint("broker.advertised", &it.listen, it.advertised.as_ref(), &mut wrong);
    if config.controllers_of_broker().is_empty() {
        wrong("broker.controllers", "must name a controller, as in [\"10.0.0.1:9093\"]".to_owned());
    }
    if let Some(at) = it.controllers.iter().find(|at| at.port == 0 || at.is_unspecified()) {
        wrong("broker.controllers", format!("has {at}, which nobody can connect to"));
    }
    if it.data_dirs.is_empty() {
        wrong("broker.data_dirs", "must name a folder".to_owned());
    }
    for (index, dir) in it.data_dirs.iter().enumerate() {
        let mut others: Vec<&Path> = it.data_dirs[..index].iter().map(AsRef::as_ref).collect();
        if config.node.roles.controller() {
            others.push(&config.controller.data_dir);
        }
        if let Some(other) = others.into_iter().find(|other| dir.starts_with(other) || other.starts_with(dir)) {
            wrong("broker.data_dirs", format!("has {}, which overlaps {}", dir.display(), other.display()));
        }
    }
    let limits = &config.limits;
    for (setting, value) in [
        ("broker.replica_lag_time_max_ms", it.replica_lag_time_max_ms),
        ("broker.sync_parallel_max", it.sync_parallel_max as u64),
        ("broker.recovery_parallel_max", it.recovery_parallel_max as u64),
        ("broker.checkpoint_interval_ms", it.checkpoint_interval_ms),
        ("broker.retention_interval_ms", it.retention_interval_ms),
        ("broker.compaction_interval_ms", it.compaction_interval_ms),
        ("broker.compaction_keys_max", it.compaction_keys_max as u64),
        ("broker.shutdown_timeout_ms", it.shutdown_timeout_ms),
        ("broker.internal_topics_replication_factor", it.internal_topics_replication_factor.into()),
        ("broker.offsets_topic_partitions", it.offsets_topic_partitions.into()),
        ("broker.group_session_timeout_ms", it.group_session_timeout_ms),
        ("broker.group_heartbeat_interval_ms", it.group_heartbeat_interval_ms),
        ("broker.group_members_max", it.group_members_max as u64),
        ("broker.offsets_retention_ms", it.offsets_retention_ms),
        ("broker.transaction_topic_partitions", it.transaction_topic_partitions.into()),
        ("broker.transaction_timeout_max_ms", it.transaction_timeout_max_ms.into()),
        ("broker.transactional_id_expiration_ms", it.transactional_id_expiration_ms),
        ("limits.connections_max", limits.connections_max as u64),
        ("limits.streams_per_connection_max", u64::from(limits.streams_per_connection_max)),
        ("limits.produce_stream_bytes_max", limits.produce_stream_bytes_max.0),
        ("limits.produce_bytes_max", limits.produce_bytes_max.0),
        ("limits.fetch_stream_requests_max", limits.fetch_stream_requests_max as u64),
        ("limits.fetch_bytes_max", limits.fetch_bytes_max.0),
        ("limits.partitions_per_request_max", limits.partitions_per_request_max as u64),
        ("limits.wait_ms_max", u64::from(limits.wait_ms_max)),
        ("limits.decompressed_bytes_max", limits.decompressed_bytes_max.0),
        ("limits.keepalive_ms", limits.keepalive_ms),
        ("limits.handshake_ms", limits.handshake_ms),
    ] {
        positive(setting, value, &mut wrong);
    }
    if it.cache_bytes.0 < 1 << 20 {
        wrong("broker.cache_bytes", format!("must be 1MiB or more, not {}", it.cache_bytes));
    }
}

fn positive(setting: &'static str, value: u64, wrong: &mut impl FnMut(&'static str, String)) {
    if value == 0 {
        wrong(setting, "must be 1 or more".to_owned());
    }
}

fn check_endpoint(
    advertised_setting: &'static str,
    listen: &HostPort,
    advertised: Option<&HostPort>,
    wrong: &mut impl FnMut(&'static str, String),
) {
    match advertised {
        Some(at) if at.is_unspecified() || at.port == 0 => {
            wrong(advertised_setting, format!("is {at}, which nobody can connect to"));
        }
        None if listen.is_unspecified() => {
            wrong(advertised_setting, format!("must say where others reach this node, as it listens on {listen}"));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::SettingValue;
    use crate::config::{Listeners, Roles, Voters};

    fn findings(change: impl FnOnce(&mut Config)) -> Vec<&'static str> {
        let mut config = Config::default();
        change(&mut config);
        check(&config).into_iter().map(|(setting, _)| setting).collect()
    }

    #[test]
    fn the_defaults_can_be_used() {
        assert!(check(&Config::default()).is_empty());
    }

    #[test]
    fn a_node_that_listens_everywhere_must_say_where_it_is_reached() {
        assert_eq!(findings(|c| c.broker.listen = HostPort::new("0.0.0.0", 9092)), ["broker.advertised"]);
        assert!(
            findings(|c| {
                c.broker.listen = HostPort::new("0.0.0.0", 9092);
                c.broker.advertised = Some(HostPort::new("b1", 9092));
            })
            .is_empty()
        );
    }

    #[test]
    fn metrics_have_a_port_of_their_own() {
        let at = |text: &str| findings(|c| c.node.metrics_listen = Some(text.parse().unwrap()));
        assert_eq!(at("127.0.0.1:9092"), ["node.metrics_listen"]);
        assert_eq!(at("0.0.0.0:9093"), ["node.metrics_listen"]);
        assert!(at("0.0.0.0:9644").is_empty() && at("127.0.0.1:0").is_empty() && at("10.0.0.1:9092").is_empty());
    }

    #[test]
    fn kafka_listeners_have_ports_of_their_own_and_are_reached_somewhere() {
        let at = |listeners: &str, advertised: &str| {
            findings(|c| {
                c.kafka.listeners = Listeners::from_text(listeners).unwrap();
                c.kafka.advertised_listeners = Listeners::from_text(advertised).unwrap();
            })
        };
        assert!(at("", "").is_empty());
        assert!(at("A://127.0.0.1:9094,B://0.0.0.0:9095", "B://b1:9095").is_empty());
        assert_eq!(at("A://127.0.0.1:9092", ""), ["kafka.listeners"]);
        assert_eq!(at("A://127.0.0.1:9094,B://127.0.0.1:9094", ""), ["kafka.listeners"]);
        assert_eq!(at("A://0.0.0.0:9094", ""), ["kafka.advertised_listeners"]);
        assert_eq!(at("A://127.0.0.1:9094", "B://b1:9094"), ["kafka.advertised_listeners"]);
        assert_eq!(at("A://127.0.0.1:9094", "A://0.0.0.0:9094"), ["kafka.advertised_listeners"]);
    }

    #[test]
    fn voters_name_this_controller_at_its_own_address_and_are_odd_in_number() {
        let with = |voters: &str| findings(|c| c.controller.voters = Voters::from_text(voters).unwrap());
        assert!(with("1@127.0.0.1:9093").is_empty());
        assert!(with("1@127.0.0.1:9093,2@b:1,3@c:1").is_empty());
        assert_eq!(with("2@b:1"), ["controller.voters"]);
        assert_eq!(with("1@elsewhere:9093"), ["controller.voters"]);
        assert_eq!(with("1@127.0.0.1:9093,2@b:1"), ["controller.voters"]);
    }

    #[test]
    fn timeouts_fit_together() {
        assert_eq!(findings(|c| c.controller.heartbeat_ms = 100), ["controller.heartbeat_ms"]);
        assert_eq!(findings(|c| c.controller.election_timeout_max_ms = 150), ["controller.election_timeout_max_ms"]);
    }

    #[test]
    fn folders_do_not_overlap_and_a_lone_broker_knows_a_controller() {
        assert_eq!(findings(|c| c.broker.data_dirs.push("highwater-data/broker/2".into())), ["broker.data_dirs"]);
        assert_eq!(findings(|c| c.broker.data_dirs = vec!["highwater-data".into()]), ["broker.data_dirs"]);
        assert_eq!(findings(|c| c.node.roles = Roles::from_text("broker").unwrap()), ["broker.controllers"]);
    }
}
