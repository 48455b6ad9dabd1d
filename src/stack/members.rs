//! Members of groups on this node: those of its application, and those of programs beside it.

use super::Stack;
use ocf_groups::{GroupPromises, GroupService as _, JoinError, LeaveError, MemberId};
use pils::Instant;
use std::sync::Arc;

/// Members of a node with this local number, and above, are those of programs beside the node; the node gives them their numbers.
pub const PROGRAM_MEMBERS: u32 = 1 << 31;

impl Stack {
    /// Joins a group as its member `local` of this node. See [`ocf_groups::Groups::join`].
    ///
    /// # Errors
    /// See [`JoinError`]; nothing changed.
    pub fn join(&mut self, now: Instant, group: &str, local: u32) -> Result<MemberId, JoinError> {
        if local >= PROGRAM_MEMBERS {
            return Err(JoinError::Reserved(PROGRAM_MEMBERS));
        }
        self.now = now;
        self.groups.join(now, group, local)
    }

    /// Leaves a group. See [`ocf_groups::Groups::leave`].
    ///
    /// # Errors
    /// See [`LeaveError`]; nothing changed.
    pub fn leave_group(&mut self, now: Instant, group: &str, local: u32) -> Result<(), LeaveError> {
        if local >= PROGRAM_MEMBERS {
            return Err(LeaveError::NotMember(Arc::from(group)));
        }
        self.now = now;
        self.groups.leave(now, group, local)
    }

    /// As [`Stack::join`], for a program beside the node.
    pub(crate) fn join_program(
        &mut self,
        now: Instant,
        group: &str,
        local: u32,
    ) -> Result<MemberId, JoinError> {
        self.now = now;
        self.groups.join(now, group, local)
    }

    /// As [`Stack::leave_group`], for a program beside the node.
    pub(crate) fn leave_program(&mut self, now: Instant, group: &str, local: u32) -> Result<(), LeaveError> {
        self.now = now;
        self.groups.leave(now, group, local)
    }

    /// True if something of the node itself is a member of that group.
    pub(crate) fn is_own_group(&self, group: &str) -> bool {
        self.residents.has(group)
    }

    /// See [`ocf_groups::Groups::is_local`].
    pub(crate) fn is_local(&self, group: &str, local: u32) -> bool {
        self.groups.is_local(group, local)
    }

    /// What can be relied upon in groups.
    pub(crate) fn group_promises(&self) -> GroupPromises {
        self.groups.group_promises()
    }
}
