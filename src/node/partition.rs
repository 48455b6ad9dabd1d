use super::{Node, RequestError};
use bytes::Bytes;
use ocf_comm::driver::Stopped;
use ocf_groups::{Groups, Guarantee, JoinError, LeaveError, MemberId, OfferError, Position, SendError};
use ocf_membership::partitionable::PartitionView;
use pils::Instant;

/// Groups that go on in any partition, of a [`Node`] that has them ([`NodeConfig::partition_groups`](crate::NodeConfig::partition_groups)).
/// Their stream has nothing to do with that of the primary, nor have their names: `board` here is another group than `board` there. What
/// happens in them comes as [`NodeEvent::Partition`](crate::NodeEvent::Partition).
///
/// **Several partitions may go on with the same group at the same time**, so such a group never decides who may lock, start or write. When
/// partitions meet, one of them keeps its state: that in the newest primary, else the largest, else that with the lowest node. On all others
/// the members are told [`Reset`](ocf_groups::Event::Reset), join again by themselves, and are given the state of those who kept theirs
/// ([`State`](ocf_groups::Event::State)). What only they had is lost unless the application keeps it: on `Reset` it puts aside what its
/// side did since it was alone, and after `State` sends that again, as messages that the others can merge.
///
/// [`Safe`](Guarantee::Safe) means held by every member of the partition; [`SendError::NotPrimary`] is never seen here.
#[derive(Clone, Copy, Debug)]
pub struct PartitionGroups<'a> {
    pub(super) node: &'a Node,
}

impl PartitionGroups<'_> {
    fn request<R, E>(
        &self,
        ask: impl FnOnce(&mut Groups, Instant) -> Result<R, E>,
    ) -> Result<R, RequestError<E>> {
        self.node.request(|stack, now| {
            let groups = stack.partition_groups(now);
            ask(groups.expect("a node without such groups gives nobody this handle"), now)
        })
    }

    /// The view of this node's partition.
    ///
    /// # Errors
    /// [`Stopped`] if the node does not run any more.
    ///
    /// # Panics
    /// Never: a node without such groups gives nobody this handle.
    pub fn view(&self) -> Result<PartitionView, Stopped> {
        let view = self.node.inner.handle.inspect(|stack, _, _| stack.partition().cloned())?;
        Ok(view.expect("a node without such groups gives nobody this handle"))
    }

    /// Members of a group in this partition, most senior first. Empty if the node does not run any more.
    #[must_use]
    pub fn members(&self, group: &str) -> Vec<MemberId> {
        let members = |groups: &Groups| groups.members(group);
        let asked = self.node.inner.handle.inspect(|stack, _, _| stack.partition_table().map(members));
        asked.ok().flatten().unwrap_or_default()
    }

    /// Joins a group as its member `local` of this node. Effective at the `Membership` event that names it.
    ///
    /// # Errors
    /// See [`JoinError`].
    pub fn join(&self, group: &str, local: u32) -> Result<MemberId, RequestError<JoinError>> {
        self.request(|groups, now| groups.join(now, group, local))
    }

    /// Leaves a group.
    ///
    /// # Errors
    /// See [`LeaveError`].
    pub fn leave(&self, group: &str, local: u32) -> Result<(), RequestError<LeaveError>> {
        self.request(|groups, now| groups.leave(now, group, local))
    }

    /// Sends to all members of a group in this partition, this one included. Never waits: a full window is an error, and a `Writable`
    /// event follows when there is room. What is sent while the view changes is ordered in the next one; if this node joins that, it is lost,
    /// and its members are told `Reset`.
    ///
    /// # Errors
    /// See [`SendError`].
    pub fn send(
        &self,
        group: &str,
        local: u32,
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<(), RequestError<SendError>> {
        self.request(|groups, now| groups.send(now, group, local, guarantee, payload))
    }

    /// Answers a `StateWanted` event.
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn offer_state(
        &self,
        group: &str,
        joiner: MemberId,
        position: Position,
        state: Bytes,
    ) -> Result<(), RequestError<OfferError>> {
        self.request(|groups, now| groups.offer_state(now, group, joiner, position, state))
    }
}
