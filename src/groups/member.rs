//! What a program knows of its members and their groups: by the events that it has taken.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what is known of members changes with few of the events"
)]

use ocf_groups::{Event, JoinError, LeaveError, MemberId, OfferError, Position, SendError};
use ocf_membership::View;
use pils::NodeInstance;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Joining,
    Member,
    Leaving,
}

#[derive(Debug)]
struct Membership {
    phase: Phase,
    /// How often it was reset.
    life: u64,
}

/// A group in which the program has, or had, a member.
#[derive(Debug)]
struct Known {
    number: u32,
    own: BTreeMap<u32, Membership>,
    members: Vec<MemberId>,
    /// States that were asked for here.
    wanted: BTreeMap<MemberId, Position>,
}

#[derive(Debug)]
pub(super) struct Members {
    /// The node beside this program.
    local: NodeInstance,
    groups: BTreeMap<Arc<str>, Known>,
    pub(super) view: Option<View>,
}

impl Members {
    pub(super) const fn new(local: NodeInstance) -> Self {
        Self { local, groups: BTreeMap::new(), view: None }
    }

    /// A member was given this number and is on its way into the group.
    pub(super) fn joining(&mut self, (group, number): (&Arc<str>, u32), local: u32) {
        let known = self.groups.entry(Arc::clone(group)).or_insert_with(|| Known {
            number,
            own: BTreeMap::new(),
            members: Vec::new(),
            wanted: BTreeMap::new(),
        });
        known.own.insert(local, Membership { phase: Phase::Joining, life: 0 });
    }

    /// True if that member is in the group, or on its way into or out of it.
    pub(super) fn is_local(&self, group: &str, local: u32) -> bool {
        self.groups.get(group).is_some_and(|known| known.own.contains_key(&local))
    }

    /// Members of the group, most senior first.
    pub(super) fn of(&self, group: &str) -> Vec<MemberId> {
        self.groups.get(group).map(|known| known.members.clone()).unwrap_or_default()
    }

    /// Number of the membership from which this member may send.
    pub(super) fn sender(&self, group: &str, local: u32) -> Result<u64, SendError> {
        let member = self.groups.get(group).and_then(|known| known.own.get(&local));
        let member = member.filter(|member| member.phase == Phase::Member);
        member.map(|member| member.life).ok_or_else(|| SendError::NotMember(Arc::from(group)))
    }

    /// Number of the membership that the member leaves.
    pub(super) fn leave(&mut self, group: &str, local: u32) -> Result<u64, LeaveError> {
        let member = self.groups.get_mut(group).and_then(|known| known.own.get_mut(&local));
        let member = member.filter(|member| member.phase != Phase::Leaving);
        let member = member.ok_or_else(|| LeaveError::NotMember(Arc::from(group)))?;
        member.phase = Phase::Leaving;
        Ok(member.life)
    }

    /// Number of the group, if that state was asked for here and is no longer from now on.
    pub(super) fn answer(
        &mut self,
        group: &str,
        joiner: MemberId,
        position: Position,
    ) -> Result<u32, OfferError> {
        let known = self.groups.get_mut(group).filter(|known| known.wanted.get(&joiner) == Some(&position));
        let known = known.ok_or_else(|| OfferError::NotWanted { group: Arc::from(group), position })?;
        known.wanted.remove(&joiner);
        Ok(known.number)
    }

    /// A join was taken back before it was effective.
    pub(super) fn gone(&mut self, group: &str, local: u32) {
        if let Some(known) = self.groups.get_mut(group) {
            known.own.remove(&local);
        }
        self.forget(group);
    }

    fn forget(&mut self, group: &str) {
        if self.groups.get(group).is_some_and(|known| known.own.is_empty()) {
            self.groups.remove(group);
        }
    }

    /// The program takes an event.
    pub(super) fn take(&mut self, event: &Event) {
        match event {
            Event::View(view) => {
                // Who waited for a state asks anew.
                self.groups.values_mut().for_each(|known| known.wanted.clear());
                self.view = Some(view.clone());
            }
            Event::Membership { group, members, joined, left, .. } => {
                let Some(known) = self.groups.get_mut(group) else { return };
                known.members.clone_from(members);
                known.wanted.retain(|joiner, _| members.contains(joiner));
                let here = |id: &&MemberId| id.instance == self.local;
                for gone in left.iter().filter(here).filter(|gone| !joined.contains(gone)) {
                    known.own.remove(&gone.local);
                }
                for new in joined.iter().filter(here) {
                    if let Some(member) = known.own.get_mut(&new.local)
                        && member.phase == Phase::Joining
                    {
                        member.phase = Phase::Member;
                    }
                }
                self.forget(group);
            }
            Event::StateWanted { group, joiner, position } => {
                if let Some(known) = self.groups.get_mut(group) {
                    known.wanted.insert(*joiner, *position);
                }
            }
            Event::Reset { group, member } => {
                let Some(known) = self.groups.get_mut(group) else { return };
                known.wanted.clear();
                if let Some(own) = known.own.get_mut(&member.local) {
                    own.life += 1;
                    if own.phase == Phase::Leaving {
                        known.own.remove(&member.local);
                    } else {
                        own.phase = Phase::Joining;
                    }
                }
                self.forget(group);
            }
            Event::Refused { group, member } => self.gone(group, member.local),
            _ => {}
        }
    }
}

/// A join that was not accepted.
pub(super) fn check_name(group: &str) -> Result<(), JoinError> {
    let fits = (1..=ocf_groups::GROUP_NAME_MAX).contains(&group.len());
    if fits { Ok(()) } else { Err(JoinError::Name(group.len())) }
}
