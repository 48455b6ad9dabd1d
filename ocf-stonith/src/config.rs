use core::fmt;
use core::time::Duration;
use pils::NodeId;
use serde::Deserialize;
use std::collections::BTreeMap;

/// The class of devices that are the watchdogs of the nodes themselves: see [`Fencer::silent`](crate::Fencer::silent).
pub const WATCHDOG: &str = "watchdog";

/// How a node fences others. Times are milliseconds; every field has a default except what names a device.
///
/// ```
/// let config: ocf_stonith::Config = toml::from_str(r#"
///     round_budget_ms = 60000
///     [[devices]]
///     name = "bmc-2"
///     class = "fence_agent"
///     timeout_ms = 20000
///     nodes = [{ node = 2 }]
///     parameters = { agent = "fence_ipmilan", ip = "192.0.2.2", username = "admin", password = "secret" }
/// "#).expect("well-formed");
/// assert_eq!(config.devices[0].name, "bmc-2");
/// assert!(!format!("{config:?}").contains("secret\""), "passwords are not printed");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The devices, in the order in which they are tried for a node that several of them can fence.
    pub devices: Vec<DeviceConfig>,
    /// Time for one round of attempts, at least one pass through all devices of a node. Default 120 000. Too low is
    /// refused by `check`; too high only delays the report that nothing works.
    pub round_budget_ms: u64,
    /// Passes through the devices of a node in one round, at least 1. Default 3.
    pub passes_max: u32,
    /// Pause before the second pass of a round; doubles with each further one. Default 1000, at least 1.
    pub retry_pause_ms: u64,
    /// Pause after the first round that brought nothing; doubles with each further one. Default 5000, at least 1.
    pub round_pause_ms: u64,
    /// The longest pause between rounds. Default 60 000, at least `round_pause_ms`.
    pub round_pause_ms_max: u64,
    /// How much longer than a device's timeout the core waits for its answer, so that the device's own word comes
    /// first. Default 2000.
    pub answer_grace_ms: u64,
    /// The first attempt waits a random time up to this. Two nodes that lost each other and may both fence then do not
    /// shoot at the same instant. Default 0: with a majority quorum only one side may fence.
    pub delay_random_ms_max: u64,
    /// The first attempt waits so long if the target has a higher priority than this node (`Fencer::set_priority`), so
    /// that of two nodes which fence each other the more important one survives. Default 0; otherwise at least twice all
    /// other delays together.
    pub priority_delay_ms: u64,
    /// Which devices have to succeed together. A node that no level names has each of its devices as a level of its own.
    pub levels: Vec<LevelConfig>,
    /// How often each device is asked whether it is well (`monitor`, or `list` with `hosts = "list"`), a tenth more or
    /// less. Default 0: never.
    pub health_every_ms: u64,
    /// Requests that may stand at once, at least 1. Default 64.
    pub requests_max: usize,
    /// Past requests that are remembered, at least 1. Default 256. A confirmed incarnation that was forgotten would be
    /// fenced again if it were requested again.
    pub history_max: usize,
    /// Attempts of one request that were given up but whose late success still counts. Default 16.
    pub late_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            devices: Vec::new(),
            round_budget_ms: 120_000,
            passes_max: 3,
            retry_pause_ms: 1000,
            round_pause_ms: 5000,
            round_pause_ms_max: 60_000,
            answer_grace_ms: 2000,
            delay_random_ms_max: 0,
            priority_delay_ms: 0,
            levels: Vec::new(),
            health_every_ms: 0,
            requests_max: 64,
            history_max: 256,
            late_max: 16,
        }
    }
}

impl Config {
    /// The longest that the first attempt on a node may wait, in milliseconds: fixed, random and priority delay together.
    #[must_use]
    pub fn longest_delay_ms(&self) -> u64 {
        let fixed = self.devices.iter().flat_map(DeviceConfig::listed).map(|t| t.delay_ms).max().unwrap_or(0);
        fixed.saturating_add(self.delay_random_ms_max).saturating_add(self.priority_delay_ms)
    }

    /// The devices that fence `node`, in order.
    pub fn devices_of(&self, node: NodeId) -> impl Iterator<Item = &DeviceConfig> {
        self.devices.iter().filter(move |d| d.target(node).is_some())
    }

    /// The levels of `node` in the order in which they are tried, each as places in [`Config::devices`].
    ///
    /// All devices of a level have to succeed. Devices that do not exist or do not fence the node make their level void.
    #[must_use]
    pub fn plan(&self, node: NodeId) -> Vec<Vec<usize>> {
        let mut levels: Vec<_> = self.levels.iter().filter(|l| l.nodes.has(node)).collect();
        levels.sort_by_key(|l| l.index);
        if levels.is_empty() {
            let able = self.devices.iter().enumerate().filter(|(_, d)| d.target(node).is_some());
            return able.map(|(i, _)| vec![i]).collect();
        }
        let place =
            |name: &String| self.devices.iter().position(|d| d.name == *name && d.target(node).is_some());
        let places =
            levels.into_iter().filter_map(|l| l.devices.iter().map(place).collect::<Option<Vec<_>>>());
        places.filter(|places| !places.is_empty()).collect()
    }
}

/// Devices that have to succeed together, such as the two power supplies of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LevelConfig {
    /// For which nodes: a list of numbers, or the text `all`.
    pub nodes: LevelNodes,
    /// 1 to 9; levels of a node are tried in ascending order.
    pub index: u8,
    /// Names of devices. All are switched off, one after the other; then all are read again; only then is the node fenced.
    pub devices: Vec<String>,
}

/// The nodes of a level.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum LevelNodes {
    /// All of them: the text `all`.
    Every(Every),
    /// These.
    List(Vec<NodeId>),
}

impl LevelNodes {
    /// True if `node` is among them.
    #[must_use]
    pub fn has(&self, node: NodeId) -> bool {
        match self {
            Self::Every(_) => true,
            Self::List(list) => list.contains(&node),
        }
    }
}

/// Where it is known from which nodes a device can fence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hosts {
    /// From the configuration alone.
    #[default]
    Static,
    /// The device is asked for its plugs (`list`) with each health check. One that does not have the plug of the node
    /// is asked only in the second pass. Needs `health_every_ms`.
    List,
}

/// One fence device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceConfig {
    /// Its name in events and evidence; unique.
    pub name: String,
    /// Which class drives it: `fence_agent`, `simulated`, `manual`, `watchdog`, `none`, or one that was added.
    pub class: String,
    /// The nodes it can fence.
    pub nodes: Targets,
    /// What its class needs to know.
    #[serde(default)]
    pub parameters: Parameters,
    /// Time for one attempt. Default 30 000, at least 1. Too low: the attempt is given up while the device still works.
    #[serde(default = "timeout_ms")]
    pub timeout_ms: u64,
    /// Where it is known from which nodes it can fence. Default `static`.
    #[serde(default)]
    pub hosts: Hosts,
    /// True if a node needs its `on` before it may run anything (`Fencer::unfence`): a device that takes access to storage
    /// or a network instead of power. Default false.
    #[serde(default)]
    pub unfence: bool,
}

const fn timeout_ms() -> u64 {
    30_000
}

impl DeviceConfig {
    /// How it fences `node`, if it does.
    #[must_use]
    pub fn target(&self, node: NodeId) -> Option<TargetConfig> {
        match &self.nodes {
            Targets::Every(_) => Some(TargetConfig { node, plug: None, delay_ms: 0 }),
            Targets::List(list) => list.iter().find(|t| t.node == node).cloned(),
        }
    }

    /// True if no device is asked, but the node's own watchdog is waited for.
    pub(crate) fn is_watchdog(&self) -> bool {
        self.class == WATCHDOG
    }

    pub(crate) const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The nodes that a device can fence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    /// All of them: the text `all`.
    Every(Every),
    /// These.
    List(Vec<TargetConfig>),
}

/// The text `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Every {
    /// `all`
    #[serde(rename = "all")]
    All,
}

/// One node that a device can fence.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// Which.
    pub node: NodeId,
    /// What the device calls it: an outlet, a port, a machine name.
    #[serde(default)]
    pub plug: Option<String>,
    /// The first attempt on this node waits so long. Give it to the node that is to survive a tie. Default 0.
    #[serde(default)]
    pub delay_ms: u64,
}

/// What a device's class needs to know: names and values. Numbers and truth values are read as their text.
///
/// Values whose name sounds like a secret are never printed.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Parameters(BTreeMap<String, Text>);

impl Parameters {
    /// The value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|t| t.0.as_str())
    }

    /// Sets `name`.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), Text(value.into()));
    }

    /// Names and values, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (k.as_str(), v.0.as_str()))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(k, v)| (k.into(), Text(v.into()))).collect())
    }
}

impl fmt::Debug for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.iter().map(|(k, v)| (k, if is_secret(k) { "***" } else { v }));
        f.debug_map().entries(shown).finish()
    }
}

/// True if the value of a parameter of this name must not be printed.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let sounds = ["passw", "secret", "token", "key", "credential", "community"];
    sounds.iter().any(|s| name.contains(s)) && !name.ends_with("script") && !name.ends_with("file")
}

#[derive(Clone, PartialEq, Eq)]
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Scalar;
        impl serde::de::Visitor<'_> for Scalar {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a number, true or false")
            }
            fn visit_str<E>(self, v: &str) -> Result<Text, E> {
                Ok(Text(v.to_owned()))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Text, E> {
                Ok(Text(v.to_string()))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Text, E> {
                Ok(Text(v.to_string()))
            }
            fn visit_bool<E>(self, v: bool) -> Result<Text, E> {
                Ok(Text(v.to_string()))
            }
        }
        from.deserialize_any(Scalar)
    }
}
