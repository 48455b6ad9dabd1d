//! What agents are asked to do, and the codes they answer with.

use core::fmt;
use core::str::FromStr;

/// What an agent is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Action {
    /// Make it fully usable here, unpromoted if it has roles. Success if it is already.
    Start,
    /// Make it fully stopped here. Success if it is already.
    Stop,
    /// Say whether it runs here: [`OcfCode::Success`] or [`OcfCode::NotRunning`], [`OcfCode::RunningPromoted`] if it is
    /// promoted, else it failed.
    Monitor,
    /// Check the parameters.
    ValidateAll,
    /// Describe the agent, on standard output.
    MetaData,
    /// Bring what runs here into the promoted role.
    Promote,
    /// Bring it back into the unpromoted role.
    Demote,
    /// Hear that something is about to be done, or was done, to instances of this resource. Its failure is ignored.
    Notify,
    /// On the node it leaves: hand it over, live.
    #[serde(rename = "migrate_to")]
    MigrateTo,
    /// On the node it goes to: take it over, live.
    #[serde(rename = "migrate_from")]
    MigrateFrom,
    /// OCF 1.0: apply changed parameters; OCF 1.1: have the service read its own configuration again.
    Reload,
    /// Apply changed reloadable parameters, without a restart.
    ReloadAgent,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 12] = [
        Self::Start,
        Self::Stop,
        Self::Monitor,
        Self::ValidateAll,
        Self::MetaData,
        Self::Promote,
        Self::Demote,
        Self::Notify,
        Self::MigrateTo,
        Self::MigrateFrom,
        Self::Reload,
        Self::ReloadAgent,
    ];

    /// The word that an OCF agent is called with.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Monitor => "monitor",
            Self::ValidateAll => "validate-all",
            Self::MetaData => "meta-data",
            Self::Promote => "promote",
            Self::Demote => "demote",
            Self::Notify => "notify",
            Self::MigrateTo => "migrate_to",
            Self::MigrateFrom => "migrate_from",
            Self::Reload => "reload",
            Self::ReloadAgent => "reload-agent",
        }
    }

    /// True if it changes whether, or in which role, the resource runs: monitors that ran before say nothing after it.
    #[must_use]
    pub const fn changes(self) -> bool {
        matches!(
            self,
            Self::Start | Self::Stop | Self::Promote | Self::Demote | Self::MigrateTo | Self::MigrateFrom
        )
    }

    /// True if it must change nothing at all.
    #[must_use]
    pub const fn only_looks(self) -> bool {
        matches!(self, Self::Monitor | Self::ValidateAll | Self::MetaData)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Action {
    type Err = UnknownAction;

    fn from_str(word: &str) -> Result<Self, UnknownAction> {
        Self::ALL
            .into_iter()
            .find(|a| a.word() == word)
            .ok_or_else(|| UnknownAction { word: word.to_owned() })
    }
}

/// A word that is no action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{word:?} is not an action: use {}", Action::ALL.map(Action::word).join(", "))]
pub struct UnknownAction {
    /// The word.
    pub word: String,
}

/// The role of a running resource that has roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs, in the lesser role: the one after a start.
    Unpromoted,
    /// Runs in the greater role.
    Promoted,
}

impl Role {
    /// As OCF writes it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unpromoted => "Unpromoted",
            Self::Promoted => "Promoted",
        }
    }
}

/// Exit code of an agent, as OCF names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[non_exhaustive]
pub enum OcfCode {
    /// 0
    Success,
    /// 1: some failure; worth another attempt.
    Generic,
    /// 2: the parameters do not fit this node.
    Arguments,
    /// 3: the agent does not know this action.
    Unimplemented,
    /// 4: the agent lacks a permission.
    Permission,
    /// 5: software that the agent needs is not installed here.
    NotInstalled,
    /// 6: the parameters are wrong wherever it runs.
    Configured,
    /// 7: cleanly stopped.
    NotRunning,
    /// 8: runs in the promoted role.
    RunningPromoted,
    /// 9: failed in the promoted role.
    FailedPromoted,
    /// 190: runs, in a condition that someone should look at.
    Degraded,
    /// 191: as 190, in the promoted role.
    DegradedPromoted,
    /// Any other code.
    Other(i32),
}

/// What a failure says about where another attempt makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum Severity {
    /// Restart or move.
    Soft,
    /// Not on this node again.
    Hard,
    /// Nowhere.
    Fatal,
}

impl OcfCode {
    /// The code with this number.
    #[must_use]
    pub const fn new(code: i32) -> Self {
        match code {
            0 => Self::Success,
            1 => Self::Generic,
            2 => Self::Arguments,
            3 => Self::Unimplemented,
            4 => Self::Permission,
            5 => Self::NotInstalled,
            6 => Self::Configured,
            7 => Self::NotRunning,
            8 => Self::RunningPromoted,
            9 => Self::FailedPromoted,
            190 => Self::Degraded,
            191 => Self::DegradedPromoted,
            other => Self::Other(other),
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        match self {
            Self::Success => 0,
            Self::Generic => 1,
            Self::Arguments => 2,
            Self::Unimplemented => 3,
            Self::Permission => 4,
            Self::NotInstalled => 5,
            Self::Configured => 6,
            Self::NotRunning => 7,
            Self::RunningPromoted => 8,
            Self::FailedPromoted => 9,
            Self::Degraded => 190,
            Self::DegradedPromoted => 191,
            Self::Other(other) => other,
        }
    }

    /// What a failure with this code says about another attempt.
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Arguments | Self::Unimplemented | Self::Permission | Self::NotInstalled => Severity::Hard,
            Self::Configured => Severity::Fatal,
            Self::Success
            | Self::Generic
            | Self::NotRunning
            | Self::RunningPromoted
            | Self::FailedPromoted
            | Self::Degraded
            | Self::DegradedPromoted
            | Self::Other(_) => Severity::Soft,
        }
    }
}

impl fmt::Display for OcfCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Success => "success",
            Self::Generic => "error",
            Self::Arguments => "parameters do not fit this node",
            Self::Unimplemented => "action not implemented",
            Self::Permission => "insufficient permission",
            Self::NotInstalled => "needed software not installed",
            Self::Configured => "wrong parameters",
            Self::NotRunning => "not running",
            Self::RunningPromoted => "running promoted",
            Self::FailedPromoted => "failed promoted",
            Self::Degraded => "degraded",
            Self::DegradedPromoted => "degraded promoted",
            Self::Other(_) => "unknown code",
        };
        write!(f, "{text} ({})", self.number())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_keep_their_number() {
        for n in -1..300 {
            assert_eq!(OcfCode::new(n).number(), n);
        }
        assert_eq!(OcfCode::new(1).severity(), Severity::Soft);
        assert_eq!(OcfCode::new(5).severity(), Severity::Hard);
        assert_eq!(OcfCode::new(6).severity(), Severity::Fatal);
    }

    #[test]
    fn every_action_is_read_back_from_its_word() {
        for action in Action::ALL {
            assert_eq!(action.word().parse::<Action>(), Ok(action));
        }
        assert!("status".parse::<Action>().unwrap_err().to_string().contains("reload-agent"));
    }
}
