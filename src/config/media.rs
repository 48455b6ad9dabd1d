//! What carries the datagrams of a node, and how nodes find each other.

use super::{NodeConfig, NodeEntry};
use core::time::Duration;
use ocf_comm::medium::{MediumSpec, media, port_address};
use ocf_comm::{DiscoveryConfig, PathId, PeerConfig};
use pils::{ConfigErrors, NodeId, Value};
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Media of a node: paths to a peer.
const MEDIA_MAX: usize = 8;
/// Kinds that a file can name.
const KINDS: &str = "use udp, multicast, broadcast or serial";
/// Intervals of announcements, in milliseconds.
const INTERVAL_MS: core::ops::RangeInclusive<u64> = 100..=60_000;

/// A medium, and the path that it is: the first is path 0.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediumEntry {
    /// `udp`, `multicast`, `broadcast` or `serial`.
    pub kind: String,
    /// What its kind takes, as `ocf_comm::medium` describes: `{ interface = "eth1", port = 5405 }`. UDP without an address or
    /// interface listens at this node's address that has the place of the medium among those of UDP.
    #[serde(default = "nothing")]
    pub parameters: Value,
    /// The nodes that it joins, for a line that does not reach all. Default: every node.
    #[serde(default)]
    pub nodes: Vec<NodeId>,
}

/// How nodes find each other: by announcing themselves on every medium that reaches many, and to seeds. Only nodes of the list
/// become peers; those without an address there are found so.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoveryEntry {
    /// Addresses of nodes that are likely to be there and introduce the others; on the first medium of UDP.
    #[serde(default)]
    pub seeds: Vec<SocketAddr>,
    /// Where this node is reached, in the order of its media of UDP, if that is not where it listens.
    #[serde(default)]
    pub advertise: Vec<SocketAddr>,
    /// Milliseconds between announcements: 100 to 60,000. Default 1000.
    #[serde(default = "second")]
    pub interval_ms: u64,
}

fn nothing() -> Value {
    Value::from([] as [(&str, Value); 0])
}

const fn second() -> u64 {
    1000
}

/// The address of a node that is not known: it is found.
pub(super) const fn nowhere() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
}

fn is_known(address: SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified()
}

impl MediumEntry {
    fn joins(&self, node: NodeId) -> bool {
        self.nodes.is_empty() || self.nodes.contains(&node)
    }

    /// UDP: each node has an address of its own.
    fn is_addressed(&self) -> bool {
        self.kind == "udp"
    }

    /// The one address of all ends, of a medium whose ends have none of their own.
    fn common_address(&self) -> Option<SocketAddr> {
        let text = |name| self.parameters.get(name).and_then(Value::as_text);
        match self.kind.as_str() {
            "multicast" => text("group")?.parse().ok(),
            "broadcast" => text("address")?.parse().ok(),
            "serial" => {
                let port = self.parameters.get("port").and_then(Value::as_int).unwrap_or(0);
                Some(port_address(u32::try_from(port).ok()?))
            }
            _ => None,
        }
    }

    fn reaches_many(&self) -> bool {
        matches!(self.kind.as_str(), "multicast" | "broadcast")
    }
}

impl NodeConfig {
    /// Each medium with its path, and the place of its address among those of a node if it is of UDP.
    fn paths_of_media(&self) -> impl Iterator<Item = (PathId, &MediumEntry, Option<usize>)> {
        let mut addressed = 0;
        (0..=u8::MAX).map(PathId).zip(&self.media).map(move |(path, medium)| {
            let place = medium.is_addressed().then_some(addressed);
            addressed += usize::from(medium.is_addressed());
            (path, medium, place)
        })
    }

    /// The addresses of a peer with the numbers of the paths, as this node sees them.
    pub(crate) fn addresses_of(&self, peer: &NodeEntry) -> Vec<(PathId, SocketAddr)> {
        if self.media.is_empty() {
            let own = self.entry().map_or(1, |entry| entry.addresses().count());
            return peer.addresses().take(own).filter(|(_, address)| is_known(*address)).collect();
        }
        let address = |(path, medium, place): (PathId, &MediumEntry, Option<usize>)| {
            let address = match place {
                Some(place) => {
                    peer.addresses().nth(place).map(|(_, address)| address).filter(|a| is_known(*a))
                }
                None => medium.common_address(),
            };
            let usable = medium.joins(self.node) && medium.joins(peer.id);
            address.filter(|_| usable).map(|address| (path, address))
        };
        self.paths_of_media().filter_map(address).collect()
    }

    /// The peers that can be reached without being found first.
    pub(super) fn peer_configs(&self) -> Vec<PeerConfig> {
        let others = self.nodes.iter().filter(|entry| entry.id != self.node);
        let peer = |entry: &NodeEntry| PeerConfig { node: entry.id, addresses: self.addresses_of(entry) };
        others.map(peer).filter(|peer| !peer.addresses.is_empty()).collect()
    }

    /// The media to open, in the order of their paths.
    pub(crate) fn specs(&self) -> Vec<MediumSpec> {
        let Some(own) = self.entry() else { return Vec::new() };
        let bound = |(path, at): (PathId, SocketAddr)| own.bind.filter(|_| path == PathId(0)).unwrap_or(at);
        if self.media.is_empty() {
            return own.addresses().map(bound).map(MediumSpec::udp).collect();
        }
        let spec = |(path, medium, place): (PathId, &MediumEntry, Option<usize>)| {
            if !medium.joins(self.node) {
                // Keeps the numbers of the paths alike at every node; nobody has an address on it.
                return MediumSpec::memory(&format!("no part in path {}", path.0), self.node.raw());
            }
            let given = |name| medium.parameters.get(name).is_some();
            match place.and_then(|place| own.addresses().nth(place)) {
                Some((place, at)) if !given("address") && !given("interface") => {
                    MediumSpec::udp(bound((place, at)))
                }
                _ => MediumSpec { kind: medium.kind.clone(), parameters: medium.parameters.clone() },
            }
        };
        self.paths_of_media().map(spec).collect()
    }

    /// How this node, whose media have these addresses, finds the others and is found.
    pub(crate) fn discovery_config(&self, local: &[SocketAddr]) -> Option<DiscoveryConfig> {
        let entry = self.discovery.as_ref()?;
        let addressed: Vec<PathId> = match self.media[..] {
            [] => (0..=u8::MAX).map(PathId).take(local.len()).collect(),
            _ => self
                .paths_of_media()
                .filter(|(_, medium, place)| place.is_some() && medium.joins(self.node))
                .map(|(path, ..)| path)
                .collect(),
        };
        let first = addressed.first().copied().unwrap_or_default();
        let advertise = addressed.iter().enumerate().filter_map(|(place, path)| {
            let said = entry.advertise.get(place).copied();
            said.or_else(|| local.get(usize::from(path.0)).copied()).map(|address| (*path, address))
        });
        let seeds = entry.seeds.iter().map(|seed| (first, *seed));
        let groups = self
            .paths_of_media()
            .filter(|(_, medium, _)| medium.reaches_many() && medium.joins(self.node))
            .filter_map(|(path, medium, _)| Some((path, medium.common_address()?)));
        let mut config = DiscoveryConfig::new(advertise, groups.chain(seeds));
        config.interval = Duration::from_millis(entry.interval_ms);
        config.accept = Some(self.nodes.iter().map(|node| node.id).collect());
        Some(config)
    }

    /// Finds what is wrong with the media and with how nodes find each other.
    pub(super) fn check_media(&self, errors: &mut ConfigErrors) {
        if self.media.len() > MEDIA_MAX {
            let fix = format!("give at most {MEDIA_MAX}: each is a path");
            errors.push("media", self.media.len(), "are too many", fix);
        }
        let kinds = media();
        for (i, medium) in self.media.iter().enumerate() {
            let known = kinds.get(&medium.kind).ok().filter(|_| medium.kind != "memory");
            match known.map(|kind| kind.fields().validate(&medium.parameters)) {
                None => {
                    errors.push(format!("media[{i}].kind"), &medium.kind, "is no medium of a file", KINDS);
                }
                Some(Err(wrong)) => errors.nest(&format!("media[{i}].parameters"), wrong),
                Some(Ok(_)) if !medium.is_addressed() && medium.common_address().is_none() => {
                    let problem = "name no address";
                    let fix = "write an address with its port: 239.192.5.4:5405";
                    errors.push(format!("media[{i}].parameters"), &medium.parameters, problem, fix);
                }
                Some(Ok(_)) => {}
            }
            for (k, node) in medium.nodes.iter().enumerate() {
                if self.nodes.iter().all(|entry| entry.id != *node) {
                    let fix = "name nodes of the list";
                    errors.push(format!("media[{i}].nodes[{k}]"), node.raw(), "is not among nodes", fix);
                }
            }
            let ends = if medium.nodes.is_empty() { self.nodes.len() } else { medium.nodes.len() };
            if medium.kind == "serial" && ends != 2 {
                let fix = "say which two nodes it joins: nodes = [1, 2]";
                errors.push(format!("media[{i}].nodes"), ends, "is not the two ends of a line", fix);
            }
        }
        self.check_discovery(errors);
        self.check_reach(errors);
    }

    fn check_discovery(&self, errors: &mut ConfigErrors) {
        let Some(discovery) = &self.discovery else { return };
        if !INTERVAL_MS.contains(&discovery.interval_ms) {
            let fix = "use 100 to 60000";
            errors.push("discovery.interval_ms", discovery.interval_ms, "is out of range", fix);
        }
        if discovery.seeds.is_empty() && !self.media.iter().any(MediumEntry::reaches_many) {
            let fix = "give seeds, or a medium of the kind multicast or broadcast";
            errors.push("discovery", "", "there is nowhere to announce this node", fix);
        }
        for (i, seed) in discovery.seeds.iter().enumerate().filter(|(_, seed)| !is_known(**seed)) {
            errors.push(format!("discovery.seeds[{i}]"), seed, "is no address to send to", "correct it");
        }
        for (i, address) in discovery.advertise.iter().enumerate().filter(|(_, at)| at.port() == 0) {
            let fix = "give the address and port at which the others reach this node";
            errors.push(format!("discovery.advertise[{i}]"), address, "has no port", fix);
        }
    }

    /// Every other node must be reachable, or be found.
    fn check_reach(&self, errors: &mut ConfigErrors) {
        if self.media.is_empty() || self.discovery.is_some() {
            return;
        }
        for (i, entry) in self.nodes.iter().enumerate().filter(|(_, entry)| entry.id != self.node) {
            if self.addresses_of(entry).is_empty() {
                let fix = "give it an address on a medium that it shares with this node, or add discovery";
                errors.push(format!("nodes[{i}].address"), entry.address, "no medium leads to it", fix);
            }
        }
    }

    /// True if a node's address may be left out of the list.
    pub(super) fn may_be_found(&self) -> bool {
        self.discovery.is_some() || self.media.iter().any(|medium| !medium.is_addressed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"
        cluster = "demo"
        node = 1
        key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
        [[nodes]]
        id = 1
        address = "192.0.2.1:5405"
        more_addresses = ["198.51.100.1:5405"]
        bind = "10.0.0.1:5405"
        [[nodes]]
        id = 2
        address = "192.0.2.2:5405"
        more_addresses = ["198.51.100.2:5405"]
        [[nodes]]
        id = 3
        address = "192.0.2.3:5405"
    "#;
    const MEDIA: &str = r#"
        [[media]]
        kind = "udp"
        [[media]]
        kind = "multicast"
        parameters = { group = "239.192.5.4:5404", interface = "eth0" }
        [[media]]
        kind = "serial"
        parameters = { device = "/dev/ttyS0", port = 7 }
        nodes = [2, 3]
        [[media]]
        kind = "udp"
        parameters = { interface = "eth1", port = 5405 }
        [discovery]
        seeds = ["192.0.2.9:5405"]
        advertise = ["203.0.113.1:5405"]
        interval_ms = 500
    "#;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn read(text: &str) -> NodeConfig {
        NodeConfig::from_toml(text).unwrap()
    }

    #[test]
    fn media_are_paths_and_each_kind_says_where_its_ends_are() {
        let config = read(&format!("{HEAD}{MEDIA}"));
        let kinds: Vec<String> = config.specs().into_iter().map(|spec| spec.kind).collect();
        assert_eq!(kinds, ["udp", "multicast", "memory", "udp"], "the line of others keeps its place");
        assert_eq!(config.specs()[0], MediumSpec::udp(at("10.0.0.1:5405")), "where it listens");
        let group = (PathId(1), at("239.192.5.4:5404"));
        let peers = config.stack().unwrap().comm.peers;
        let two = [(PathId(0), at("192.0.2.2:5405")), group, (PathId(3), at("198.51.100.2:5405"))];
        assert_eq!(peers[0].addresses, two);
        assert_eq!(peers[1].addresses, [(PathId(0), at("192.0.2.3:5405")), group]);
        let mut other = config;
        other.node = NodeId::new(2);
        let peers = other.stack().unwrap().comm.peers;
        assert_eq!(peers[1].addresses[2], (PathId(2), port_address(7)), "their line is their path 2");
    }

    #[test]
    fn who_is_not_in_the_list_is_not_found_and_what_is_advertised_may_differ_from_what_is_bound() {
        let config = read(&format!("{HEAD}{MEDIA}"));
        let local = ["10.0.0.1:5405", "239.192.5.4:5404", "[::1]:1", "198.51.100.1:5405"].map(at);
        let found = config.discovery_config(&local).unwrap();
        let advertised = [(PathId(0), at("203.0.113.1:5405")), (PathId(3), at("198.51.100.1:5405"))];
        assert_eq!(found.advertise, advertised);
        let told = [(PathId(1), at("239.192.5.4:5404")), (PathId(0), at("192.0.2.9:5405"))];
        assert_eq!((&found.announce_to[..], found.interval), (&told[..], Duration::from_millis(500)));
        assert_eq!(found.accept, Some([1, 2, 3].map(NodeId::new).into()));
        assert_eq!(read(HEAD).discovery_config(&local), None);
    }

    #[test]
    fn a_node_without_an_address_is_found_or_it_is_a_mistake() {
        let unknown = HEAD.replace("address = \"192.0.2.3:5405\"", "");
        let wrong = NodeConfig::from_toml(&unknown).unwrap_err().to_string();
        assert!(wrong.contains("nodes[2].address"), "{wrong}");
        let config = read(&format!("{unknown}\n[discovery]\nseeds = ['192.0.2.2:5405']"));
        let peers: Vec<NodeId> = config.stack().unwrap().comm.peers.iter().map(|peer| peer.node).collect();
        assert_eq!(peers, [NodeId::new(2)], "the other is found");
    }

    #[test]
    fn every_mistake_of_media_and_discovery_is_named_at_once() {
        let wrong = r#"
            [[media]]
            kind = "udp"
            parameters = { port = 70000 }
            [[media]]
            kind = "memory"
            [[media]]
            kind = "multicast"
            parameters = { group = "somewhere", interface = "eth0" }
            [[media]]
            kind = "serial"
            parameters = { device = "/dev/ttyS0" }
            nodes = [1, 2, 9]
            [discovery]
            seeds = ["0.0.0.0:5405"]
            advertise = ["203.0.113.1:0"]
            interval_ms = 5
        "#;
        let errors = NodeConfig::from_toml(&format!("{HEAD}{wrong}")).unwrap_err();
        let paths: Vec<&str> = errors.0.iter().map(|error| error.path.as_str()).collect();
        let expected = [
            "media[0].parameters.port",
            "media[1].kind",
            "media[2].parameters",
            "media[3].nodes[2]",
            "media[3].nodes",
            "discovery.interval_ms",
            "discovery.seeds[0]",
            "discovery.advertise[0]",
        ];
        assert_eq!(paths, expected);
        let lonely = format!(
            "{HEAD}[[media]]\nkind = 'serial'\nparameters = {{ device = '/dev/ttyS0' }}\nnodes = [1, 2]"
        );
        let errors = NodeConfig::from_toml(&lonely).unwrap_err().to_string();
        assert!(errors.contains("nodes[2].address") && !errors.contains("nodes[1]"), "{errors}");
    }
}
