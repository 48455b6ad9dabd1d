//! Machines of groups that live in this node: they are fed what their groups order, and send within the same turn.

use super::Stack;
use core::fmt::Debug;
use ocf_groups::{Event, Groups, JoinError, LeaveError, MemberId};
use pils::Instant;
use std::sync::Arc;

/// A member of a group that lives in a stack, as [`Replicated`](ocf_groups::replicated::Replicated) does. It is told what happens in its
/// group, of views, and that there is room to send again; the application of the node is not told of that group.
pub trait Resident: Debug + Send {
    /// Joins its group.
    ///
    /// # Errors
    /// As [`Groups::join`].
    fn join(&mut self, now: Instant, groups: &mut Groups) -> Result<MemberId, JoinError>;

    /// Leaves its group.
    ///
    /// # Errors
    /// As [`Groups::leave`].
    fn leave(&mut self, now: Instant, groups: &mut Groups) -> Result<(), LeaveError>;

    /// Takes an event of its group, a view, or [`Event::Writable`].
    fn handle(&mut self, now: Instant, event: &Event);

    /// Something is due.
    fn handle_timeout(&mut self, now: Instant);

    /// When something is due.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Carries out on `groups` what it wants, and tells its owner the rest.
    fn drive(&mut self, now: Instant, groups: &mut Groups);
}

/// The residents of a stack. There are few.
#[derive(Debug, Default)]
pub(super) struct Residents(Vec<Tenancy>);

#[derive(Debug)]
struct Tenancy {
    group: Arc<str>,
    local: u32,
    resident: Box<dyn Resident>,
    /// It was told to go, and is forgotten once it is outside.
    leaving: bool,
}

impl Residents {
    /// True if nothing of `event` concerns the application.
    pub(super) fn take(&mut self, now: Instant, event: &Event) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let group = match event {
            Event::View(_) | Event::Writable => {
                self.0.iter_mut().for_each(|tenancy| tenancy.resident.handle(now, event));
                return false;
            }
            Event::Message { group, .. }
            | Event::Fifo { group, .. }
            | Event::Membership { group, .. }
            | Event::StateWanted { group, .. }
            | Event::State { group, .. }
            | Event::StateLost { group, .. }
            | Event::Reset { group, .. }
            | Event::Refused { group, .. } => group,
            Event::Evicted { .. } | _ => return false,
        };
        let mut taken = false;
        for tenancy in self.0.iter_mut().filter(|tenancy| tenancy.group == *group) {
            tenancy.resident.handle(now, event);
            taken = true;
        }
        taken
    }

    /// True if one is a member of that group.
    pub(super) fn has(&self, group: &str) -> bool {
        self.0.iter().any(|tenancy| *tenancy.group == *group)
    }

    pub(super) fn drive(&mut self, now: Instant, groups: &mut Groups) {
        self.0.iter_mut().for_each(|tenancy| tenancy.resident.drive(now, groups));
        self.0.retain(|tenancy| !tenancy.leaving || groups.is_local(&tenancy.group, tenancy.local));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.0.iter_mut().for_each(|tenancy| tenancy.resident.handle_timeout(now));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.iter().filter_map(|tenancy| tenancy.resident.poll_timeout()).min()
    }
}

impl Stack {
    /// Has a machine live here, as the member `local` of this node in `group`. From now on events of that group go to the residents
    /// in it, and not to the application.
    ///
    /// # Errors
    /// As [`Groups::join`]; it does not live here then.
    pub fn add_resident(
        &mut self,
        now: Instant,
        (group, local): (&str, u32),
        mut resident: Box<dyn Resident>,
    ) -> Result<MemberId, JoinError> {
        self.now = now;
        let me = resident.join(now, &mut self.groups)?;
        // One whose group refused it is still there, if its owner is.
        self.residents.0.retain(|tenancy| *tenancy.group != *group || tenancy.local != local);
        self.residents.0.push(Tenancy { group: Arc::from(group), local, resident, leaving: false });
        Ok(me)
    }

    /// Has the resident leave its group; it is forgotten once it has. Without such a resident nothing happens.
    pub fn remove_resident(&mut self, now: Instant, (group, local): (&str, u32)) {
        self.now = now;
        let theirs = |tenancy: &&mut Tenancy| *tenancy.group == *group && tenancy.local == local;
        if let Some(tenancy) = self.residents.0.iter_mut().find(theirs) {
            tenancy.leaving = true;
            if let Err(error) = tenancy.resident.leave(now, &mut self.groups) {
                tracing::debug!(group, local, %error, "a resident is not in its group");
            }
        }
    }

    /// Its owner has asked something of a resident: what follows is carried out in this turn.
    pub const fn resident_was_asked(&mut self, now: Instant) {
        self.now = now;
    }
}
