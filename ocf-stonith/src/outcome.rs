use core::fmt;
use core::time::Duration;
use pils::{Instant, NodeInstance};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// What a device is asked to do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FenceAction {
    /// Take the node's power (or its access) away and leave it so.
    Off,
    /// Take it away, read back that it is gone, and give it back.
    Reboot,
    /// Give it back.
    On,
    /// Read whether the node has it.
    Status,
    /// Ask the device whether it is well. Does nothing to any node.
    Monitor,
    /// Ask the device for its plugs. Does nothing to any node.
    List,
}

impl FenceAction {
    /// True if a success of this action ends the life of the incarnation: `Off` and `Reboot`.
    #[must_use]
    pub const fn is_fencing(self) -> bool {
        matches!(self, Self::Off | Self::Reboot)
    }
}

impl fmt::Display for FenceAction {
    /// The word that fence agents use: `off`, `reboot`, `on`, `status`, `monitor`, `list`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Reboot => "reboot",
            Self::On => "on",
            Self::Status => "status",
            Self::Monitor => "monitor",
            Self::List => "list",
        })
    }
}

/// A demand that one life of one node ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceRequest {
    /// Which life of which node.
    pub target: NodeInstance,
    /// How: [`FenceAction::Off`] or [`FenceAction::Reboot`].
    pub action: FenceAction,
    /// Why.
    pub cause: Cause,
}

/// Why a node is to be fenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// It is missing from the primary partition and nothing proves its death.
    Lost {
        /// What the membership layer says about the loss, for people.
        why: Arc<str>,
    },
    /// Something on it could not be stopped, so it may not run elsewhere.
    StopFailed {
        /// The resource.
        resource: Arc<str>,
    },
    /// A person asked for it. Needs no authority of the partition.
    Operator {
        /// Who.
        who: Arc<str>,
    },
    /// Half of the votes is here and half is there, and whoever is fenced does not go on. Needs no authority, since no side has it;
    /// waits as any other, so that the side that is to go on is earlier.
    EvenSplit,
}

impl Cause {
    /// True if it needs no authority.
    pub(crate) const fn needs_no_authority(&self) -> bool {
        matches!(self, Self::Operator { .. } | Self::EvenSplit)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { why } => write!(f, "lost: {why}"),
            Self::StopFailed { resource } => write!(f, "{resource} could not be stopped"),
            Self::Operator { who } => write!(f, "asked for by {who}"),
            Self::EvenSplit => f.write_str("half of the votes is on the other side"),
        }
    }
}

/// What is known about a fence request. Only [`Outcome::Confirmed`] may unblock recovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The incarnation is dead, and this is how we know.
    Confirmed {
        /// How we know.
        evidence: Evidence,
    },
    /// A device took the order and cannot tell whether it was carried out. **Not** fenced.
    Requested {
        /// Which device took it, and when.
        evidence: Evidence,
    },
    /// Nothing is known. **Not** fenced.
    Unknown {
        /// Why not.
        reason: UnknownReason,
    },
}

impl Outcome {
    /// True only for [`Outcome::Confirmed`].
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        matches!(self, Self::Confirmed { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed { evidence } => write!(f, "confirmed: {evidence}"),
            Self::Requested { evidence } => write!(f, "requested, not confirmed: {evidence}"),
            Self::Unknown { reason } => write!(f, "unknown: {reason}"),
        }
    }
}

/// How an outcome is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The device's name in the configuration, or `operator`.
    pub device: Arc<str>,
    /// What was read back.
    pub read_back: ReadBack,
    /// When it became known here.
    #[serde(serialize_with = "nanos")]
    pub at: Instant,
    /// Time from the request to then.
    pub took: Duration,
    /// What the device said, for people; bounded, without secrets.
    pub detail: Arc<str>,
}

fn nanos<S: serde::Serializer>(at: &Instant, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(at.as_nanos())
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} after {:?}", self.device, self.read_back, self.took)?;
        if self.detail.is_empty() { Ok(()) } else { write!(f, " ({})", self.detail) }
    }
}

/// What was read back after a device carried out an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReadBack {
    /// The device was asked again and says that the node is off.
    Off,
    /// The device was asked again and says that the node is on.
    On,
    /// Not asked again: the operator's configuration says that the success of this device is proof by itself.
    Trusted,
    /// The node was told to end itself, and the time in which its watchdog ends it otherwise is over.
    SelfFenced,
    /// A person says that the node is off.
    Operator {
        /// Who.
        who: Arc<str>,
    },
    /// Nobody looked: the operator's configuration says to assume success (`assume_fenced = true`).
    Assumed,
    /// The device cannot tell.
    NotRead,
}

impl ReadBack {
    /// True if this proves, or by the operator's word stands for, the death of the node.
    #[must_use]
    pub const fn confirms_off(&self) -> bool {
        matches!(self, Self::Off | Self::Trusted | Self::SelfFenced | Self::Operator { .. } | Self::Assumed)
    }
}

impl fmt::Display for ReadBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("read back off"),
            Self::On => f.write_str("read back on"),
            Self::Trusted => f.write_str("reported success and is trusted"),
            Self::SelfFenced => f.write_str("was told to end itself, and its watchdog time is over"),
            Self::Operator { who } => write!(f, "was confirmed off by {who}"),
            Self::Assumed => f.write_str("assumed fenced (assume_fenced = true)"),
            Self::NotRead => f.write_str("took the order and cannot tell"),
        }
    }
}

/// Why nothing is known after a round of attempts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum UnknownReason {
    /// No configured device fences this node. Add one, or confirm by hand.
    NoDevice,
    /// Every attempt failed.
    AllFailed {
        /// Attempts so far, of all rounds.
        attempts: u32,
        /// The device tried last.
        device: Arc<str>,
        /// How it failed.
        failure: Failure,
    },
    /// No attempt was possible in this round: this node's authority to fence is suspended.
    Suspended,
}

impl fmt::Display for UnknownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str("no device is configured for this node"),
            Self::AllFailed { attempts, device, failure } => {
                write!(f, "{attempts} attempts failed, the last on {device}: {failure}")
            }
            Self::Suspended => f.write_str("this node may not fence at the moment"),
        }
    }
}

/// How one attempt failed. A failure never counts as fenced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Failure {
    /// No answer in time. The action may still happen.
    #[error("no answer within {after:?}")]
    TimedOut {
        /// The time it was given.
        after: Duration,
    },
    /// The device answered with a failure.
    #[error("{detail}")]
    Failed {
        /// What it said; bounded, without secrets.
        detail: Arc<str>,
    },
    /// The device took the order, but the node is still on.
    #[error("the node is still on after the device reported success")]
    StillOn,
    /// The device took the order and can read the state back, but did not.
    #[error("not verified: {detail}")]
    NotVerified {
        /// What happened instead.
        detail: Arc<str>,
    },
    /// No device of this name exists here.
    #[error("no device {device:?} on this node")]
    DeviceMissing {
        /// Its name.
        device: Arc<str>,
    },
    /// The fence agent's program cannot be started.
    #[error("agent {agent} is missing{}", hint(.package.as_deref()))]
    AgentMissing {
        /// The program.
        agent: Arc<str>,
        /// The package that has it, if known.
        package: Option<Arc<str>>,
    },
    /// The device does not do this action, or not for this node.
    #[error("refused: {detail}")]
    Refused {
        /// Why.
        detail: Arc<str>,
    },
    /// The agent died of a signal.
    #[error("killed by signal {signal}")]
    Died {
        /// Its number.
        signal: i32,
    },
    /// The attempt was cancelled before it ended. The action may have happened.
    #[error("cancelled")]
    Cancelled,
}

fn hint(package: Option<&str>) -> String {
    package.map(|p| format!(": install the package {p}")).unwrap_or_default()
}
