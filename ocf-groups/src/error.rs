use crate::{Guarantee, Position};
use std::sync::Arc;

/// Longest name of a group, in bytes of UTF-8.
pub const GROUP_NAME_MAX: usize = 128;

/// Why a join was not accepted. Nothing was queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// The name is empty or longer than [`GROUP_NAME_MAX`].
    #[error("a group name has 1 to {GROUP_NAME_MAX} bytes, not {0}")]
    Name(usize),
    /// The local member is in the group, or on its way into or out of it.
    #[error("member {local} of this node is already known in group {group:?}")]
    AlreadyMember {
        /// The group.
        group: Arc<str>,
        /// The local member.
        local: u32,
    },
    /// A [`Replicated`](crate::Replicated) is configured for a guarantee that the provider does not offer: see
    /// [`GroupPromises::strongest`](crate::GroupPromises::strongest). Lower [`Config::guarantee`](crate::replicated::Config::guarantee)
    /// at every member, if that is enough.
    #[error("this provider does not offer {0:?} delivery, which the member is configured for")]
    NotOffered(Guarantee),
    /// Members with this number, and all above, are those to which the node gives numbers itself.
    #[error("the numbers of members from {0} on are given by the node")]
    Reserved(u32),
    /// Programs beside this node are members of the group, and a machine of the node would take what they are told.
    #[error(
        "programs beside this node are in group {0:?}: give the machine a group of its own, or have them leave"
    )]
    HasPrograms(Arc<str>),
    /// This node has as many members as a whole group may have.
    #[error("this node has {0} members in groups, the most it may have")]
    TooManyMembers(usize),
}

/// Why a leave was not accepted. Nothing was queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LeaveError {
    /// The local member has not joined the group, or is leaving already.
    #[error("not a member of group {0:?}")]
    NotMember(Arc<str>),
}

/// Why a state was not accepted. Nothing was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OfferError {
    /// Nobody waits for this state from this node: the joiner is gone, has it, or is to get a later one.
    #[error("no state of group {group:?} as of {position} is wanted from this node")]
    NotWanted {
        /// The group.
        group: Arc<str>,
        /// The point of the state that was offered.
        position: Position,
    },
    /// The state is larger than the configured maximum.
    #[error("state of {size} bytes is larger than the maximum of {limit}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
}
