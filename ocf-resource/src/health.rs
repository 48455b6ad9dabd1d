//! How well a node is, by attributes that programs on it set, and what follows for what it may run.

use serde::{Deserialize, Serialize};

/// One attribute of a node's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All is well.
    Green,
    /// Something should be looked at.
    Yellow,
    /// Something is broken.
    Red,
}

/// What a node's health means for what it may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthStrategy {
    /// Nothing.
    #[default]
    Ignore,
    /// A node with a red attribute runs nothing.
    MigrateOnRed,
    /// A node with an attribute that is not green runs nothing.
    OnlyGreen,
}

impl HealthStrategy {
    /// True if a node with this attribute may run nothing.
    #[must_use]
    pub fn forbids(self, health: Health) -> bool {
        match self {
            Self::Ignore => false,
            Self::MigrateOnRed => health == Health::Red,
            Self::OnlyGreen => health != Health::Green,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_strategy_forbids_what_its_name_says() {
        let forbidden =
            |s: HealthStrategy| [Health::Green, Health::Yellow, Health::Red].map(|h| s.forbids(h));
        assert_eq!(forbidden(HealthStrategy::Ignore), [false, false, false]);
        assert_eq!(forbidden(HealthStrategy::MigrateOnRed), [false, false, true]);
        assert_eq!(forbidden(HealthStrategy::OnlyGreen), [false, true, true]);
    }
}
