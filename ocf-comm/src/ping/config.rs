use core::time::Duration;
use pils::ConfigErrors;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Targets of a node.
const TARGETS_MAX: usize = 32;
/// Hosts of a target.
const HOSTS_MAX: usize = 16;
/// Bytes of a name.
const NAME_MAX: usize = 64;
/// The shortest interval: a router is not a plaything.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// The longest interval and time limit.
const TIME_MAX: Duration = Duration::from_secs(3600);
/// Requests of one host that may wait for their answers.
pub(super) const WAITING_MAX: u32 = 16;
/// Requests in a row that decide.
const ROW_MAX: u32 = 1000;

/// What to watch: one host, or several that stand for one thing.
///
/// The defaults find a dead host in 3 to 4 seconds and one that is back in 1 to 2, at one packet of 44 bytes (64 with IPv6)
/// per second and host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingConfig {
    /// What people call it, 1 to 64 bytes, unique.
    pub name: String,
    /// Its hosts, 1 to 16: it is up while any of them is.
    pub hosts: Vec<IpAddr>,
    /// Time between two requests to a host, varied by a tenth. Default 1 s; 10 ms to 1 hour. Longer finds a dead host later.
    pub interval: Duration,
    /// How long an answer is waited for. Default 1 s; 1 ms to 16 intervals. Too short takes a slow host for a dead one.
    pub timeout: Duration,
    /// Requests in a row without an answer that make a host down. Default 3; 1 to 1000. One makes a lost packet a dead host.
    pub down_after: u32,
    /// Answers in a row that bring it back. Default 2; 1 to 1000. The first time one is enough.
    pub up_after: u32,
}

impl PingConfig {
    /// Defaults for these hosts.
    #[must_use]
    pub fn new(name: &str, hosts: impl IntoIterator<Item = IpAddr>) -> Self {
        Self {
            name: name.to_owned(),
            hosts: hosts.into_iter().collect(),
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            down_after: 3,
            up_after: 2,
        }
    }

    /// Checks one target.
    ///
    /// # Errors
    /// Every mistake at once, each with its path, its value and what to do.
    pub fn check(&self) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        if self.name.is_empty() || self.name.len() > NAME_MAX {
            let fix = format!("give it a name of 1 to {NAME_MAX} bytes");
            errors.push("name", format!("{:?}", self.name), "is not a name", fix);
        }
        if self.hosts.is_empty() || self.hosts.len() > HOSTS_MAX {
            let fix = format!("give 1 to {HOSTS_MAX} addresses");
            errors.push("hosts", self.hosts.len(), "is not a number of hosts that can be watched", fix);
        }
        for (i, host) in self.hosts.iter().enumerate() {
            let link_local = matches!(host, IpAddr::V6(v6) if v6.is_unicast_link_local());
            if host.is_unspecified() || host.is_multicast() || link_local {
                let fix = "give the address of one host, not link-local";
                errors.push(format!("hosts[{i}]"), host, "is not the address of one host", fix);
            } else if self.hosts[..i].contains(host) {
                errors.push(format!("hosts[{i}]"), host, "is there twice", "remove one");
            }
        }
        let interval = INTERVAL_MIN..=TIME_MAX;
        if !interval.contains(&self.interval) {
            errors.push("interval", ms(self.interval), "is out of range", "use 10 ms to 1 hour");
        }
        if self.timeout.is_zero() || self.timeout > (self.interval * WAITING_MAX).min(TIME_MAX) {
            let fix = format!("use 1 ms to {WAITING_MAX} intervals, at most 1 hour");
            errors.push("timeout", ms(self.timeout), "is out of range", fix);
        }
        for (name, value) in [("down_after", self.down_after), ("up_after", self.up_after)] {
            if !(1..=ROW_MAX).contains(&value) {
                errors.push(name, value, "is out of range", format!("use 1 to {ROW_MAX}"));
            }
        }
        errors.into_result()
    }

    /// Checks a list of targets.
    ///
    /// # Errors
    /// Every mistake at once; paths begin with the place in the list: `[0].hosts`.
    pub fn check_all(targets: &[Self]) -> Result<(), ConfigErrors> {
        let mut errors = ConfigErrors::default();
        let mut names = BTreeSet::new();
        if targets.len() > TARGETS_MAX {
            errors.push("", targets.len(), "are too many targets", format!("give at most {TARGETS_MAX}"));
        }
        for (i, target) in targets.iter().enumerate() {
            if let Err(wrong) = target.check() {
                errors.nest(&format!("[{i}]"), wrong);
            }
            if !names.insert(&target.name) {
                let fix = "give each target a name of its own";
                errors.push(format!("[{i}].name"), &target.name, "is used twice", fix);
            }
        }
        errors.into_result()
    }
}

fn ms(time: Duration) -> String {
    format!("{} ms", time.as_millis())
}
