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
