//! Groups that go where more hosts outside the cluster are reached.

use crate::{Config, GroupConfig, Score};
use core::time::Duration;
use pils::ConfigErrors;
use serde::{Deserialize, Serialize};

/// What it means for a group how many of the hosts outside the cluster that they watch nodes reach.
///
/// Compared is what members have said, once all of it has stayed as it is for [`Config::reach_settle`]: so a host that nobody
/// reaches any more moves nothing. A node that watches none is no better and no worse than others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReachConfig {
    /// What each host that a node reaches counts for it, beside `preferences`: 0 to 10,000, default 0. `stickiness` holds
    /// against it.
    pub weight: Score,
    /// A node is not taken, and is left, while one that can take the group reaches so many hosts more, whatever `preferences`
    /// and `stickiness` say: 1 to 1000, default 1. 1000: never.
    pub lead: u32,
}

impl Default for ReachConfig {
    fn default() -> Self {
        Self { weight: Score::ZERO, lead: 1 }
    }
}

impl ReachConfig {
    pub(super) fn check(&self) -> ConfigErrors {
        let mut errors = ConfigErrors::default();
        if !(0..=10_000).contains(&self.weight.number()) {
            errors.push("weight", self.weight, "is outside 0 to 10000", "write what one more host is worth");
        }
        if !(1..=1000).contains(&self.lead) {
            let fix = "write 1 to have it go wherever more is reached";
            errors.push("lead", self.lead, "is outside 1 to 1000", fix);
        }
        errors
    }
}

impl GroupConfig {
    pub(super) fn check_reach(&self, errors: &mut ConfigErrors) {
        let Some(reach) = &self.reach else { return };
        errors.nest("reach", reach.check());
        if self.copies != 1 || self.promoted > 0 {
            let fix = "leave it out, or give the group one copy and no roles";
            errors.push("reach", "", "is only for a group that runs once", fix);
        }
    }
}

impl Config {
    /// Default of [`Config::reach_settle`].
    pub const REACH_SETTLE: Duration = Duration::from_secs(5);

    pub(super) fn check_reach(&self, errors: &mut ConfigErrors) {
        if !(Duration::from_millis(100)..=Duration::from_secs(3600)).contains(&self.reach_settle) {
            let fix = "choose more than all nodes take to notice that a host is gone, such as 5 s";
            errors.push("reach_settle", super::check::show(self.reach_settle), "is outside 100ms to 1h", fix);
        }
    }

    /// True if it counts for any group what nodes reach.
    pub(crate) fn uses_reach(&self) -> bool {
        self.groups.iter().any(|group| group.reach.is_some())
    }
}
