use core::time::Duration;
use ocf_comm::ping::PingConfig;
use pils::ConfigErrors;
use serde::Deserialize;
use std::net::IpAddr;

/// A host outside the cluster that tells "I am cut off" from "they are": a router, or several hosts that stand for one thing.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PingEntry {
    /// What people call it, unique.
    pub name: String,
    /// Its addresses, 1 to 16: it is up while any of them answers.
    pub hosts: Vec<IpAddr>,
    /// Milliseconds between two requests: 10 to 3,600,000. Default 1000.
    #[serde(default = "second")]
    pub interval_ms: u64,
    /// Milliseconds that an answer is waited for: 1 to 16 intervals. Default 1000.
    #[serde(default = "second")]
    pub timeout_ms: u64,
    /// Requests in a row without an answer that make a host down: 1 to 1000. Default 3.
    #[serde(default = "three")]
    pub down_after: u32,
    /// Answers in a row that bring it back: 1 to 1000. Default 2.
    #[serde(default = "two")]
    pub up_after: u32,
}

const fn second() -> u64 {
    1000
}

const fn three() -> u32 {
    3
}

const fn two() -> u32 {
    2
}

impl PingEntry {
    fn config(&self) -> PingConfig {
        let mut config = PingConfig::new(&self.name, self.hosts.iter().copied());
        config.interval = Duration::from_millis(self.interval_ms);
        config.timeout = Duration::from_millis(self.timeout_ms);
        (config.down_after, config.up_after) = (self.down_after, self.up_after);
        config
    }

    /// What node communication needs to know of these.
    pub(crate) fn configs(entries: &[Self]) -> Vec<PingConfig> {
        entries.iter().map(Self::config).collect()
    }

    /// How long a node may take to notice that a host does not answer any more.
    fn notice(&self) -> Duration {
        let (interval, timeout) =
            (Duration::from_millis(self.interval_ms), Duration::from_millis(self.timeout_ms));
        interval.saturating_mul(self.down_after).saturating_add(timeout)
    }

    /// Groups that go where more is reached need something to reach, and the time that nodes take to notice the same.
    pub(super) fn check_settling(
        entries: &[Self],
        resources: &ocf_resource::Config,
        errors: &mut ConfigErrors,
    ) {
        let Some(at) = resources.groups.iter().position(|group| group.reach.is_some()) else { return };
        let Some(longest) = entries.iter().map(Self::notice).max() else {
            let fix = "name hosts outside the cluster under ping, or remove it";
            errors.push(
                format!("resources.groups[{at}].reach"),
                "",
                "counts hosts, and none is watched",
                fix,
            );
            return;
        };
        let settle = resources.reach_settle;
        if settle < longest {
            let problem = format!("is shorter than the {longest:?} that a node may take to miss a host");
            let fix = "choose more, or watch more often: a host that fails would move groups";
            errors.push("resources.reach_settle", format!("{settle:?}"), problem, fix);
        }
    }

    pub(super) fn check(entries: &[Self], errors: &mut ConfigErrors) {
        if let Err(mut wrong) = PingConfig::check_all(&Self::configs(entries)) {
            for error in &mut wrong.0 {
                if error.path.ends_with(".interval") || error.path.ends_with(".timeout") {
                    error.path.push_str("_ms");
                }
            }
            errors.nest("ping", wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocf_resource::{Config, GroupConfig, ReachConfig};

    #[test]
    fn groups_that_count_hosts_need_some_and_the_time_in_which_every_node_misses_one() {
        let router = "name = 'router'\nhosts = ['192.0.2.1']";
        let wrong = |hosts: &[&str], settle: Duration| {
            let entry = |text: &&str| toml::from_str::<PingEntry>(text).expect("well-formed");
            let entries: Vec<PingEntry> = hosts.iter().map(entry).collect();
            let mut group = GroupConfig::new("web", Vec::new());
            group.reach = Some(ReachConfig::default());
            let config = Config { groups: vec![group], reach_settle: settle, ..Config::default() };
            let mut errors = ConfigErrors::default();
            PingEntry::check_settling(&entries, &config, &mut errors);
            errors.0.into_iter().map(|error| error.path).collect::<Vec<_>>()
        };
        assert_eq!(wrong(&[], Config::REACH_SETTLE), ["resources.groups[0].reach"]);
        assert_eq!(
            wrong(&[router], Config::REACH_SETTLE),
            [""; 0],
            "3 requests, one a second, and its answer"
        );
        assert_eq!(wrong(&[router], Duration::from_secs(3)), ["resources.reach_settle"]);
    }
}
