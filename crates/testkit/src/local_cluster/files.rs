//! The files of a local cluster: which nodes it has and at which ports (`cluster.json`), and each node's configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::node::{Node, NodeId};
use super::{ClusterError, LocalClusterConfig, ports};

/// Ports by node id, as in `cluster.json`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Layout {
    controllers: BTreeMap<u64, u16>,
    brokers: BTreeMap<u32, u16>,
    /// The ports for Kafka clients, by broker.
    #[serde(default)]
    kafka: BTreeMap<u32, u16>,
    /// Controllers that were added to the running cluster, rather than being there at its start.
    #[serde(default)]
    joined: BTreeSet<u64>,
    /// The ports of the proxies through which nodes are reached, by the node's own port. Empty: without proxies.
    #[serde(default)]
    proxies: BTreeMap<u16, u16>,
}

const FILE: &str = "cluster.json";

impl Layout {
    /// The layout of the cluster in `dir` if there is one, with new brokers as needed; else a new one.
    pub fn of(dir: &Path, config: &LocalClusterConfig) -> Result<Self, ClusterError> {
        let mut layout = match Self::read(dir)? {
            None => Self::default(),
            Some(layout) => {
                let other = |asked: String| ClusterError::OtherCluster {
                    folder: dir.to_owned(),
                    controllers: layout.controllers.len(),
                    brokers: layout.brokers.len(),
                    asked,
                };
                if layout.controllers.len() != config.controllers as usize {
                    return Err(other(format!("it can't be started with {} controllers", config.controllers)));
                }
                if layout.brokers.len() > config.brokers as usize {
                    return Err(other(format!("it can't be started with only {} brokers", config.brokers)));
                }
                layout
            }
        };
        let first = config.first_port;
        for id in 1..=config.brokers {
            if !layout.brokers.contains_key(&id) {
                let wanted = first.and_then(|port| port.checked_add(u16::try_from(id - 1).ok()?));
                let port = layout.port(wanted)?;
                layout.brokers.insert(id, port);
            }
        }
        for id in 1..=config.brokers {
            if !layout.kafka.contains_key(&id) {
                // Two hundred up from the brokers' own.
                let wanted = first.and_then(|port| port.checked_add(u16::try_from(id + 199).ok()?));
                let port = layout.port(wanted)?;
                layout.kafka.insert(id, port);
            }
        }
        for id in 1..=u64::from(config.controllers) {
            if !layout.controllers.contains_key(&id) {
                // A hundred up from the brokers.
                let wanted = first.and_then(|port| port.checked_add(u16::try_from(id + 99).ok()?));
                let port = layout.port(wanted)?;
                layout.controllers.insert(id, port);
            }
        }
        if config.proxied || layout.is_proxied() {
            for port in layout.nodes().map(|(_, port)| port).collect::<Vec<_>>() {
                layout.add_proxy(port)?;
            }
        }
        Ok(layout)
    }

    fn add_proxy(&mut self, port: u16) -> Result<(), ClusterError> {
        if !self.proxies.contains_key(&port) {
            let proxy = self.port(None)?;
            self.proxies.insert(port, proxy);
        }
        Ok(())
    }

    /// Whether the nodes are reached through proxies. Once a cluster is, it stays so: its controllers have each other's addresses
    /// in their logs.
    pub fn is_proxied(&self) -> bool {
        !self.proxies.is_empty()
    }

    /// Where others reach the node that listens at `port`.
    fn advertised(&self, port: u16) -> u16 {
        self.proxies.get(&port).copied().unwrap_or(port)
    }

    /// The node `id`, which listens at `port`, not started.
    pub fn node(&self, id: NodeId, port: u16, dir: &Path, config: &LocalClusterConfig) -> Node {
        let has_small_disk = config.small_disks.contains_key(&id);
        let mut node = Node::new(id, port, self.advertised(port), dir);
        node.has_small_disk = has_small_disk;
        node.kafka_port = self.kafka_port(id);
        node
    }

    /// The layout in `dir`, if there is one.
    pub fn read(dir: &Path) -> Result<Option<Self>, ClusterError> {
        let path = dir.join(FILE);
        let file = |source| ClusterError::File { what: "read", path: path.clone(), source };
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(file(error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| file(error.into())),
        }
    }

    fn port(&self, wanted: Option<u16>) -> Result<u16, ClusterError> {
        let others = self.proxies.values().chain(self.kafka.values()).copied();
        let taken: BTreeSet<u16> = self.nodes().map(|(_, port)| port).chain(others).collect();
        match wanted {
            Some(port) if !taken.contains(&port) && ports::is_free(port) => Ok(port),
            _ => ports::free_port(&taken).map_err(ClusterError::Ports),
        }
    }

    /// Room for one more controller, which joins later.
    pub fn add_controller(&mut self, config: &LocalClusterConfig) -> Result<NodeId, ClusterError> {
        let id = self.controllers.keys().last().map_or(1, |last| last + 1);
        let wanted = config.first_port.and_then(|port| port.checked_add(u16::try_from(id + 99).ok()?));
        let port = self.port(wanted)?;
        self.controllers.insert(id, port);
        self.joined.insert(id);
        if self.is_proxied() {
            self.add_proxy(port)?;
        }
        Ok(NodeId::controller(id))
    }

    /// Every node with its port: controllers first.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, u16)> {
        let controllers = self.controllers.iter().map(|(id, port)| (NodeId::controller(*id), *port));
        controllers.chain(self.brokers.iter().map(|(id, port)| (NodeId::broker(*id), *port)))
    }

    /// Where a broker listens for Kafka clients.
    pub fn kafka_port(&self, id: NodeId) -> Option<u16> {
        match id {
            NodeId::Broker(id) => self.kafka.get(&id.get()).copied(),
            NodeId::Controller(_) => None,
        }
    }

    /// Writes `cluster.json` and the nodes' folders and configurations.
    pub fn write(&self, dir: &Path, config: &LocalClusterConfig) -> Result<(), ClusterError> {
        let put = |path: &Path, text: &str| {
            let file = |source| ClusterError::File { what: "write", path: path.to_owned(), source };
            std::fs::write(path, text).map_err(file)
        };
        for (id, port) in self.nodes() {
            let node = self.node(id, port, dir, config);
            std::fs::create_dir_all(&node.dir).map_err(|source| ClusterError::File {
                what: "create",
                path: node.dir.clone(),
                source,
            })?;
            put(&node.config_path(), &self.config_text(&node, config))?;
        }
        let json = serde_json::to_string_pretty(self).expect("maps of numbers are valid JSON");
        put(&dir.join(FILE), &json)
    }

    /// The configuration file of one node.
    fn config_text(&self, node: &Node, config: &LocalClusterConfig) -> String {
        let data_dir = toml_text(&node.data_dir().display().to_string());
        let listen = toml_text(&format!("127.0.0.1:{}", node.port));
        let advertised = (node.advertised != node.port).then(|| toml_text(&format!("127.0.0.1:{}", node.advertised)));
        let reached = |port: &u16| self.advertised(*port);
        let mut settings: BTreeMap<(String, String), String> = BTreeMap::new();
        let mut set = |section: &str, key: &str, toml: String| {
            settings.insert((section.to_owned(), key.to_owned()), toml);
        };
        let founders = self.controllers.iter().filter(|(id, _)| !self.joined.contains(id));
        match node.id {
            NodeId::Controller(id) => {
                set("node", "roles", "[\"controller\"]".to_owned());
                set("controller", "id", id.to_string());
                set("controller", "listen", listen);
                if let Some(advertised) = advertised {
                    set("controller", "advertised", advertised);
                }
                set("controller", "data_dir", data_dir);
                if self.joined.contains(&id.get()) {
                    set("controller", "join", "true".to_owned());
                } else {
                    let voters = founders.map(|(id, port)| format!("{id}@127.0.0.1:{}", reached(port)));
                    set("controller", "voters", toml_list(voters));
                }
            }
            NodeId::Broker(id) => {
                set("node", "roles", "[\"broker\"]".to_owned());
                set("broker", "id", id.to_string());
                set("broker", "listen", listen);
                if let Some(advertised) = advertised {
                    set("broker", "advertised", advertised);
                }
                if let Some(port) = node.kafka_port {
                    set("kafka", "listeners", toml_list([format!("PLAINTEXT://127.0.0.1:{port}")].into_iter()));
                }
                set("broker", "data_dirs", format!("[{data_dir}]"));
                let all = self.controllers.values().map(|port| format!("127.0.0.1:{}", reached(port)));
                set("broker", "controllers", toml_list(all));
                set("broker", "internal_topics_replication_factor", self.brokers.len().clamp(1, 3).to_string());
                if !config.racks.is_empty() {
                    let rack = &config.racks[(id.get() as usize - 1) % config.racks.len()];
                    set("broker", "rack", toml_text(rack));
                }
            }
        }
        for (name, toml) in &config.settings {
            if let Some((section, key)) = name.split_once('.') {
                set(section, key, toml.clone());
            }
        }
        let mut text = format!("# {}, of a local cluster\n", node.id);
        let mut open = String::new();
        for ((section, key), toml) in settings {
            if section != open {
                // Writing to a String can't fail.
                let _ = writeln!(text, "\n[{section}]");
                open = section;
            }
            let _ = writeln!(text, "{key} = {toml}");
        }
        text
    }
}

fn toml_text(text: &str) -> String {
    // JSON's escapes of quotes, backslashes and control characters are TOML's too.
    serde_json::Value::from(text).to_string()
}

fn toml_list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.map(|item| toml_text(&item)).collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(controllers: u32, brokers: u32) -> LocalClusterConfig {
        LocalClusterConfig { controllers, brokers, ..LocalClusterConfig::new("highwater") }
    }

    #[test]
    fn a_cluster_in_its_old_folder_keeps_its_ports_and_may_grow_brokers() {
        let dir = tempfile::tempdir().unwrap();
        let first = Layout::of(dir.path(), &config(3, 2)).unwrap();
        first.write(dir.path(), &config(3, 2)).unwrap();
        let again = Layout::of(dir.path(), &config(3, 3)).unwrap();
        assert_eq!(again.controllers, first.controllers);
        assert_eq!(again.brokers[&1], first.brokers[&1]);
        assert_eq!(again.brokers.len(), 3);
        for (controllers, brokers) in [(1, 3), (3, 1)] {
            let refused = Layout::of(dir.path(), &config(controllers, brokers));
            assert!(matches!(refused, Err(ClusterError::OtherCluster { .. })));
        }
    }

    #[test]
    fn settings_of_the_caller_go_over_the_runners() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(1, 1).setting("broker.replica_lag_time_max_ms", 500).setting("log.level", "\"debug\"");
        let layout = Layout::of(dir.path(), &config).unwrap();
        layout.write(dir.path(), &config).unwrap();
        let text = std::fs::read_to_string(dir.path().join("broker-1/highwater.toml")).unwrap();
        assert!(text.contains("replica_lag_time_max_ms = 500") && text.contains("[log]\nlevel = \"debug\""), "{text}");
    }

    #[test]
    fn a_controller_added_later_is_told_to_join_and_not_named_as_a_founder() {
        let dir = tempfile::tempdir().unwrap();
        let mut layout = Layout::of(dir.path(), &config(3, 1)).unwrap();
        assert_eq!(layout.add_controller(&config(3, 1)).unwrap(), NodeId::controller(4));
        layout.write(dir.path(), &config(3, 1)).unwrap();
        let of = |node: &str| std::fs::read_to_string(dir.path().join(node).join("highwater.toml")).unwrap();
        assert!(of("controller-4").contains("join = true"));
        assert!(!of("controller-1").contains("4@"));
        assert!(of("broker-1").contains(&layout.controllers[&4].to_string()));
    }
}
