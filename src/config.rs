use crate::stack::StackConfig;
use core::fmt;
use core::time::Duration;
use ocf_comm::{Cipher, PathId, PathPolicy, Preset, Protection};
use ocf_membership::partitionable::PartitionConfig;
use ocf_membership::{BlankRecord, Durability, NodeVotes, OutsidePolicy};
use ocf_resource::PartitionPolicy;
use ocf_stonith::FenceAction;
use pils::codec::{LiXml, Limits};
use pils::value::from_value;
use pils::{ConfigErrors, NodeId, ValueCodec as _};
use serde::Deserialize;
use std::net::SocketAddr;
use std::path::PathBuf;

mod api;
mod check;
mod keys;
mod media;
mod outside;
mod ping;
mod self_fencing;
mod tie;

pub use api::{ApiAccess, ApiConfig, ApiUser, GroupUsers, LockUsers};
pub use media::{DiscoveryEntry, MediumEntry};
pub use outside::{HeartbeatEntry, MailEntry, OutsideConfig};
pub use ping::PingEntry;
pub use self_fencing::SelfFencingEntry;
pub use tie::TieBreakerEntry;

/// Shortest key of a cluster, in bytes.
const KEY_MIN: usize = 32;

/// One node of a cluster, as an operator writes it down: a TOML file, the same on every node but for `node`.
///
/// ```
/// let config = ocf::NodeConfig::from_toml(r#"
///     cluster = "demo"
///     node = 1
///     key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
///     [[nodes]]
///     id = 1
///     address = "192.0.2.1:5405"
///     [[nodes]]
///     id = 2
///     address = "192.0.2.2:5405"
/// "#)?;
/// assert_eq!(config.nodes.len(), 2);
/// # Ok::<(), pils::ConfigErrors>(())
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Name of the cluster. Nodes of clusters with other names are refused.
    pub cluster: String,
    /// Which of `nodes` this is.
    pub node: NodeId,
    /// The cluster's key: at least 32 bytes in hexadecimal. Whoever has it is a member. Or give `key_file`.
    #[serde(default)]
    pub key: Option<Key>,
    /// A file with the key in hexadecimal, so that the configuration itself is no secret.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// Several keys, in place of `key` or `key_file`: all are accepted, one is sent with. To change the cluster's key
    /// without a pause, see `docs/security.md`.
    #[serde(default)]
    pub keys: Vec<KeyEntry>,
    /// What nobody but the nodes may do to packets: `encrypt` (the default), `integrity` (everybody may read them), `plain`
    /// (**everybody may read and forge them**). Equal at all nodes, or they refuse each other.
    #[serde(default)]
    pub protection: ProtectionName,
    /// Which cipher does that: `auto` (the default: AES-256-GCM, or ChaCha20-Poly1305 where a processor has no instructions
    /// for AES), `aes-256-gcm`, `chacha20-poly1305`.
    #[serde(default)]
    pub cipher: CipherName,
    /// How bulk messages, such as state transfer, are compressed: `none` (the default), `lz4`. Used between nodes that both
    /// ask for it. Not for secrets.
    #[serde(default = "none")]
    pub compression: String,
    /// Every node of the cluster, this one included.
    pub nodes: Vec<NodeEntry>,
    /// How fast the death of a node is noticed: `rt` (100 ms), `lan` (500 ms, the default), `cloud` (2 s).
    #[serde(default)]
    pub detection: Detection,
    /// How the paths to a peer share its messages, if nodes have several addresses: `failover` (the default), `balance` or
    /// `redundant`.
    #[serde(default)]
    pub paths: Paths,
    /// What carries the datagrams: a path for each, the same kinds in the same order at every node. Default: UDP at each address
    /// of this node.
    #[serde(default)]
    pub media: Vec<MediumEntry>,
    /// How nodes find each other, if the list does not say where all of them are. Default: not at all.
    #[serde(default)]
    pub discovery: Option<DiscoveryEntry>,
    /// Have a second small process tell the others within milliseconds when this one is killed, instead of after the
    /// detection time. Default no. The program must call [`run_sentinel_if_asked`](crate::run_sentinel_if_asked).
    #[serde(default)]
    pub sentinel: bool,
    /// Keep the memory of this program in RAM ([`pils::memory::lock`]), so that it answers while its machine is short of memory. What
    /// it starts is not locked. Default no. Needs the right to lock as much: the node does not start without.
    #[serde(default)]
    pub lock_memory: bool,
    /// Votes that a primary needs: `majority` (the default), `unanimous`, `threshold:N`, `auto-tie-breaker:lowest`, `:highest` or
    /// `:<node>`, `two-node` (fences first), `majority+tie-breaker` (asks `tie_breaker`), `sites:1,2/3,4/5` (counts sites); each also with `+wait-for-all` behind it.
    /// `docs/quorum.md` helps to choose.
    #[serde(default = "majority")]
    pub quorum: String,
    /// Counts more than votes that were changed while the cluster ran if it is higher than their revision: the number of the view
    /// that brought them. The same in every node's file. Default 0.
    #[serde(default)]
    pub votes_revision: u64,
    /// Members that have stayed the same for so many milliseconds take the votes from those who are away, and give them back when
    /// they are back, so that a cluster can shrink to two nodes. Needs `record` and a `quorum` that counts votes as they are, such as
    /// `majority`. Default: none.
    #[serde(default)]
    pub last_man_standing_ms: Option<u64>,
    /// What decides if a side has exactly half of the votes: an arbiter, or a shared disk. Only for a `quorum` that asks.
    #[serde(default)]
    pub tie_breaker: Option<TieBreakerEntry>,
    /// The file in which this node remembers the views it agreed to. Without it the node has no vote after a restart
    /// until a living primary admits it, or until all nodes are there.
    #[serde(default)]
    pub record: Option<PathBuf>,
    /// May a node whose `record` does not exist vote at once? Only if no node ever loses its record: default no, and then
    /// the first start of the cluster waits for all nodes.
    #[serde(default)]
    pub trust_blank_record: bool,
    /// Hosts outside the cluster that are watched by ICMP echo, so that a node knows how much of the world it reaches. None by
    /// default.
    #[serde(default)]
    pub ping: Vec<PingEntry>,
    /// What is done to a node that must be fenced: `reboot` (the default) or `off`.
    #[serde(default = "reboot")]
    pub fence_action: FenceAction,
    /// Fence devices. Without any, what ran on a lost node stays down until an operator confirms that it is off.
    #[serde(default)]
    pub fencing: ocf_stonith::Config,
    /// How this node ends by itself when nobody else can end it. Not at all by default.
    #[serde(default)]
    pub self_fencing: Option<SelfFencingEntry>,
    /// What to keep running.
    #[serde(default)]
    pub resources: ocf_resource::Config,
    /// Groups that go on in any partition, beside those of the primary ([`Node::partition`](crate::Node::partition)). Default no. A node without
    /// them is in nobody's partition, as far as these groups go; it costs the others nothing.
    #[serde(default)]
    pub partition_groups: bool,
    /// How other programs reach the node. Nothing by default.
    #[serde(default)]
    pub api: ApiConfig,
    /// What is told outside the cluster: programs, mail; and heartbeats of applications. Nothing by default.
    #[serde(default)]
    pub outside: OutsideConfig,
    /// Folders of plug-ins, absolute paths: a class of fence devices that is not built in is the program `fence-class/NAME` of
    /// one of them, or the module `fence-class/NAME.so`; a class of agents is `agent-class/NAME`. What is there runs as this
    /// program does, once something is configured that needs it. Modules need the feature `modules`. None by default.
    #[serde(default)]
    pub plugins: Vec<PathBuf>,
}

/// One of several keys of the cluster.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyEntry {
    /// Its id, 0 to 255, the same at every node and never used for another secret.
    pub id: u8,
    /// The key: at least 32 bytes in hexadecimal. Or give `file`.
    #[serde(default)]
    pub key: Option<Key>,
    /// A file with the key in hexadecimal.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// True for the key that this node sends with. One of them must be, if there are several.
    #[serde(default)]
    pub send: bool,
}

/// Names of the kinds of protection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProtectionName {
    /// Nobody else can read or forge packets.
    #[default]
    Encrypt,
    /// Nobody else can forge packets.
    Integrity,
    /// No protection, for measurements only.
    Plain,
}

/// Names of the ciphers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum CipherName {
    /// The one that suits the processors of both ends.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// AES-256-GCM.
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
    /// ChaCha20-Poly1305.
    #[serde(rename = "chacha20-poly1305")]
    ChaCha20Poly1305,
}

/// A node in the list of nodes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeEntry {
    /// Its id, unique.
    pub id: NodeId,
    /// What people call it. Default: `n` and the id.
    #[serde(default)]
    pub name: Option<String>,
    /// Where the others reach it. May be left out (or be `0.0.0.0:0`) if `discovery` finds it, or no medium is of UDP.
    #[serde(default = "media::nowhere")]
    pub address: SocketAddr,
    /// Its addresses on further networks, in the same order on every node, at most 7. A path joins the addresses of two nodes
    /// that have the same place; the first, `address`, is preferred.
    #[serde(default)]
    pub more_addresses: Vec<SocketAddr>,
    /// Where it listens, if that differs (a translated address). Default: `address`.
    #[serde(default)]
    pub bind: Option<SocketAddr>,
    /// Its votes. Default 1; 0 makes a member that never decides.
    #[serde(default = "one")]
    pub votes: u32,
}

/// Names of the detection presets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Detection {
    /// 100 ms; needs real-time priority and locked memory.
    Rt,
    /// 500 ms.
    #[default]
    Lan,
    /// 2 s.
    Cloud,
}

impl Detection {
    /// The preset of node communication.
    #[must_use]
    pub const fn preset(self) -> Preset {
        match self {
            Self::Rt => Preset::Rt,
            Self::Lan => Preset::Lan,
            Self::Cloud => Preset::Cloud,
        }
    }
}

/// Names of the path policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Paths {
    /// The first path that is up carries everything, small urgent messages go on all.
    #[default]
    Failover,
    /// Every path that is up carries its part.
    Balance,
    /// Every path that is up carries everything.
    Redundant,
}

impl Paths {
    /// The policy of node communication.
    #[must_use]
    pub const fn policy(self) -> PathPolicy {
        match self {
            Self::Failover => PathPolicy::Failover,
            Self::Balance => PathPolicy::Balance,
            Self::Redundant => PathPolicy::Redundant,
        }
    }
}

impl NodeEntry {
    /// Its addresses with the numbers of their paths.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = (PathId, SocketAddr)> {
        let all = core::iter::once(&self.address).chain(&self.more_addresses);
        (0..=u8::MAX).map(PathId).zip(all.copied())
    }
}

/// A key. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key of these bytes.
    #[must_use]
    pub const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// A fresh random key of 32 bytes.
    #[must_use]
    pub fn random() -> Self {
        Self(ocf_comm::driver::entropy::bytes::<32>().to_vec())
    }

    /// The key that `text` gives in hexadecimal; white space around it is ignored.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let text = text.trim().as_bytes();
        let digit = |c: &u8| char::from(*c).to_digit(16).and_then(|d| u8::try_from(d).ok());
        if !text.len().is_multiple_of(2) {
            return None;
        }
        text.chunks(2)
            .map(|pair| Some(digit(&pair[0])? << 4 | digit(&pair[1])?))
            .collect::<Option<_>>()
            .map(Self)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::from_hex(&text)
            .ok_or_else(|| serde::de::Error::custom("a key is an even number of hexadecimal digits"))
    }
}

fn none() -> String {
    "none".to_owned()
}

fn majority() -> String {
    "majority".to_owned()
}

const fn reboot() -> FenceAction {
    FenceAction::Reboot
}

const fn one() -> u32 {
    1
}

fn read_toml(text: &str) -> Result<NodeConfig, ConfigErrors> {
    toml::from_str(text).map_err(|e| ill_formed(&e))
}

fn ill_formed(error: &impl fmt::Display) -> ConfigErrors {
    let mut errors = ConfigErrors::default();
    let problem = error.to_string();
    errors.push("(file)", "", problem.trim_end(), "correct this line; the README has a whole example");
    errors
}

impl NodeConfig {
    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// One error with line and column if the text is not of the right form, otherwise every mistake in its content.
    pub fn from_toml(text: &str) -> Result<Self, ConfigErrors> {
        let config = read_toml(text)?;
        config.check()?;
        Ok(config)
    }

    /// Reads and checks a configuration in TOML, or, if it begins with `<`, in XML: a `<hash>` of [`LiXml`], with the same
    /// names, and `type="int"` or `type="boolean"` at what is no text.
    ///
    /// ```
    /// let config = ocf::NodeConfig::from_text(r#"<hash>
    ///   <LI key="cluster">demo</LI>
    ///   <LI key="node" type="int">1</LI>
    ///   <LI key="key">00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff</LI>
    ///   <LI key="nodes"><list>
    ///     <LI><hash><LI key="id" type="int">1</LI><LI key="address">192.0.2.1:5405</LI></hash></LI>
    ///   </list></LI>
    /// </hash>"#)?;
    /// assert_eq!(config.cluster, "demo");
    /// # Ok::<(), pils::ConfigErrors>(())
    /// ```
    ///
    /// # Errors
    /// One error with its place if the text is not of the right form, otherwise every mistake in its content.
    pub fn from_text(text: &str) -> Result<Self, ConfigErrors> {
        let config = Self::read(text)?;
        config.check()?;
        Ok(config)
    }

    /// Reads a configuration as [`from_text`](Self::from_text) does, without checking what it says: for a program that changes it
    /// first. [`NodeBuilder::start`](crate::NodeBuilder::start) checks it in any case.
    ///
    /// # Errors
    /// One error with its place if the text is not of the right form.
    pub fn read(text: &str) -> Result<Self, ConfigErrors> {
        if !text.trim_start().starts_with('<') {
            return read_toml(text);
        }
        let value = LiXml.decode(text.as_bytes(), &Limits::default()).map_err(|e| ill_formed(&e))?;
        from_value(value).map_err(|e| ill_formed(&e))
    }

    /// The entry of this node.
    #[must_use]
    pub fn entry(&self) -> Option<&NodeEntry> {
        self.nodes.iter().find(|n| n.id == self.node)
    }

    /// What people call a node.
    #[must_use]
    pub fn name_of(&self, node: NodeId) -> String {
        let entry = self.nodes.iter().find(|n| n.id == node);
        entry.and_then(|e| e.name.clone()).unwrap_or_else(|| node.to_string())
    }

    /// What the layers need to know.
    ///
    /// # Errors
    /// As [`NodeConfig::check`], and mistakes that only a layer sees.
    pub fn stack(&self) -> Result<StackConfig, ConfigErrors> {
        self.check()?;
        let mut comm = ocf_comm::Config::new(&self.cluster, self.detection.preset());
        comm.policy = self.paths.policy();
        comm.protection = match self.protection {
            ProtectionName::Encrypt => Protection::Encrypt,
            ProtectionName::Integrity => Protection::Integrity,
            ProtectionName::Plain => Protection::Plain,
        };
        comm.cipher = match self.cipher {
            CipherName::Auto => Cipher::Auto,
            CipherName::Aes256Gcm => Cipher::Aes256Gcm,
            CipherName::ChaCha20Poly1305 => Cipher::ChaCha20Poly1305,
        };
        comm.codec.clone_from(&self.compression);
        comm.peers = self.peer_configs();
        let votes = self.nodes.iter().map(|n| NodeVotes::new(n.id, n.votes));
        let mut membership = ocf_membership::Config::new(votes);
        if let Some(policy) = ocf_membership::policy_by_name(&self.quorum) {
            membership.policy = policy;
        }
        membership.outside = self.when_outside();
        membership.votes_revision = self.votes_revision;
        membership.last_man_standing = self.last_man_standing_ms.map(Duration::from_millis);
        if let Some(entry) = &self.tie_breaker {
            (membership.tie_timeout, membership.tie_delay) = (entry.timeout(), entry.delay());
        }
        membership.durability =
            if self.record.is_some() { Durability::Durable } else { Durability::Volatile };
        membership.blank_record =
            if self.trust_blank_record { BlankRecord::Trusted } else { BlankRecord::WaitForAll };
        membership.detection = comm.timers.detection;
        membership.lease = comm.timers.detection;
        membership.flap_hold = comm.timers.detection * 2;
        Ok(StackConfig {
            comm,
            membership,
            groups: ocf_groups::Config::default(),
            partitions: self.partition_groups.then(PartitionConfig::default),
            executor: ocf_resource::executor::Config::default(),
            resources: ocf_resource::Config { access: self.access_need(), ..self.resources.clone() },
            calls: ocf_comm::rpc::CallLimits::default(),
            fencing: self.fencing.clone(),
            fence_action: self.fence_action,
            locks: None,
        })
    }

    /// What becomes of this node outside the primary partition, as its events say.
    const fn when_outside(&self) -> OutsidePolicy {
        match (&self.self_fencing, self.resources.on_partition) {
            // With disks, orders on them decide.
            (Some(entry), _) if entry.disks.is_empty() => OutsidePolicy::SelfFence,
            (_, PartitionPolicy::Freeze) => OutsidePolicy::Freeze,
            (_, PartitionPolicy::Stop) => OutsidePolicy::Stop,
        }
    }

    /// The detection time of the preset.
    #[must_use]
    pub const fn detection_time(&self) -> Duration {
        self.detection.preset().timers().detection
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_NETWORKS: &str = r#"
        cluster = "demo"
        node = 1
        key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
        paths = "balance"
        [[nodes]]
        id = 1
        address = "192.0.2.1:5405"
        more_addresses = ["198.51.100.1:5405"]
        [[nodes]]
        id = 2
        address = "192.0.2.2:5405"
        more_addresses = ["198.51.100.2:5405", "203.0.113.2:5405"]
    "#;

    #[test]
    fn a_path_joins_the_addresses_that_have_the_same_place() {
        let comm = NodeConfig::from_toml(TWO_NETWORKS).unwrap().stack().unwrap().comm;
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let paths = [(PathId(0), at("192.0.2.2:5405")), (PathId(1), at("198.51.100.2:5405"))];
        assert_eq!((comm.policy, &comm.peers[0].addresses[..]), (PathPolicy::Balance, &paths[..]));
    }

    #[test]
    fn watched_hosts_are_read_with_their_defaults_and_every_mistake_is_named() {
        let with = |ping: &str| NodeConfig::from_toml(&format!("{TWO_NETWORKS}\n{ping}"));
        let good = with("[[ping]]\nname = 'router'\nhosts = ['192.0.2.254', '2001:db8::1']\ndown_after = 5")
            .unwrap();
        let read = &PingEntry::configs(&good.ping)[0];
        let (second, hosts) = (Duration::from_secs(1), read.hosts.len());
        assert_eq!(
            (read.interval, read.timeout, read.down_after, read.up_after, hosts),
            (second, second, 5, 2, 2)
        );
        let wrong =
            with("[[ping]]\nname = ''\nhosts = ['224.0.0.1']\ninterval_ms = 5\ntimeout_ms = 0\nup_after = 0");
        let errors = wrong.unwrap_err();
        let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
        let expected = [
            "ping[0].name",
            "ping[0].hosts[0]",
            "ping[0].interval_ms",
            "ping[0].timeout_ms",
            "ping[0].up_after",
        ];
        assert_eq!(paths, expected);
    }

    #[test]
    fn wrong_further_addresses_are_all_named() {
        let wrong = TWO_NETWORKS
            .replace("198.51.100.2:5405", "198.51.100.1:5405")
            .replace("203.0.113.2:5405", "0.0.0.0:0");
        let errors = NodeConfig::from_toml(&wrong).unwrap_err().to_string();
        assert!(errors.contains("nodes[1].more_addresses[0]"), "{errors}");
        assert!(errors.contains("nodes[1].more_addresses[1]"), "{errors}");
    }

    #[test]
    fn who_needs_access_follows_from_the_devices_and_delays_have_to_fit_the_race_of_two_nodes() {
        let with = |more: &str| NodeConfig::from_toml(&format!("{more}\n{TWO_NETWORKS}"));
        let device = |nodes: &str| {
            format!(
                "[[fencing.devices]]\nname = 'fabric'\nclass = 'simulated'\nnodes = {nodes}\nunfence = true"
            )
        };
        let need = |nodes: &str| {
            let config = NodeConfig::from_toml(&format!("{TWO_NETWORKS}\n{}", device(nodes))).unwrap();
            config.stack().unwrap().resources.access
        };
        assert_eq!(need("'all'"), ocf_resource::AccessNeed::Everybody);
        assert_eq!(need("[{ node = 2 }]"), ocf_resource::AccessNeed::Nodes([NodeId::new(2)].into()));
        let wrong = with(
            "quorum = 'two-node'\nfencing = { priority_delay_ms = 9000, delay_random_ms_max = 2000 }\n\
             tie_breaker = { timeout_ms = 10000 }",
        );
        let errors = wrong.unwrap_err();
        let paths: Vec<&str> = errors.0.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["fencing.priority_delay_ms", "tie_breaker.timeout_ms"], "{errors}");
    }

    #[test]
    fn what_a_node_outside_is_told_is_what_becomes_of_it() {
        let told = |more: &str| {
            let config = NodeConfig::from_toml(&format!("{TWO_NETWORKS}\n{more}")).unwrap();
            config.stack().unwrap().membership.outside
        };
        let watchdog = "[self_fencing]\nwatchdog = '/dev/watchdog0'";
        assert_eq!(told(""), OutsidePolicy::Stop);
        assert_eq!(told("[resources]\non_partition = 'freeze'"), OutsidePolicy::Freeze);
        assert_eq!(told(watchdog), OutsidePolicy::SelfFence);
        assert_eq!(told(&format!("{watchdog}\ndisks = ['/dev/a']")), OutsidePolicy::Stop);
    }
}
