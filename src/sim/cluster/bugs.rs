use crate::stack::Stack;
use ocf_comm::Sabotage as Paths;
use ocf_groups::Sabotage as Groups;
use ocf_membership::Sabotage as Membership;
use ocf_membership::partitionable::PartitionSabotage;

/// A protocol bug that is put back to show that it is caught.
///
/// The cores have one switch for each, under the feature `testing`: it stands where a patch would change a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bug {
    /// A bug of the agreement on views.
    Membership(Membership),
    /// A bug of the ordered stream.
    Groups(Groups),
    /// A bug of views of any partition; shows only where nodes have such groups.
    Partitions(PartitionSabotage),
    /// A bug of the paths between two nodes.
    Paths(Paths),
    /// The resource manager starts a resource elsewhere without waiting for the fence.
    StartBeforeFence,
    /// It starts resources on a node that was not given its access.
    StartWithoutAccess,
}

impl Bug {
    /// Every bug that can be put back.
    pub const ALL: [Self; 22] = [
        Self::Membership(Membership::NoLeaseWait),
        Self::Membership(Membership::IgnoreAccepted),
        Self::Membership(Membership::NoMemoryRule),
        Self::Membership(Membership::NoLeaseExpiry),
        Self::Membership(Membership::ForgetsContacts),
        Self::Membership(Membership::FallsBack),
        Self::Groups(Groups::SafeWithoutQuorum),
        Self::Groups(Groups::SkipFetch),
        Self::Groups(Groups::FreeOnOwnDelivery),
        Self::Groups(Groups::IgnoreSequence),
        Self::Groups(Groups::ForgetUnordered),
        Self::Groups(Groups::OpenGates),
        Self::Partitions(PartitionSabotage::MergesStates),
        Self::Partitions(PartitionSabotage::ClaimsPrimary),
        Self::Paths(Paths::StickToDeadPath),
        Self::Paths(Paths::CountFromLastSend),
        Self::Paths(Paths::NoBackOff),
        Self::Paths(Paths::NeverFallBack),
        Self::Paths(Paths::RestartNumbers),
        Self::Paths(Paths::TakeTwice),
        Self::StartBeforeFence,
        Self::StartWithoutAccess,
    ];

    /// Its name, as `simulate --bug` takes it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Membership(bug) => format!("{bug:?}"),
            Self::Groups(bug) => format!("{bug:?}"),
            Self::Partitions(bug) => format!("{bug:?}"),
            Self::Paths(bug) => format!("{bug:?}"),
            Self::StartBeforeFence | Self::StartWithoutAccess => format!("{self:?}"),
        }
    }

    pub(crate) fn put_back(self, stack: &mut Stack) {
        match self {
            Self::Membership(bug) => stack.consensus.sabotage(bug),
            Self::Groups(bug) => stack.groups.sabotage(bug),
            Self::Partitions(bug) => stack.sabotage_partition(bug),
            Self::Paths(bug) => stack.endpoint.sabotage(bug),
            Self::StartBeforeFence => stack.manager.sabotage(),
            Self::StartWithoutAccess => {
                stack.manager.put_back(ocf_resource::testing::Bug::StartWithoutAccess);
            }
        }
    }
}
