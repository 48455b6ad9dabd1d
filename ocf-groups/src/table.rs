//! The table of groups: who is in which group. A function of the ordered stream and the views, the same at every node
//! that has it.

use crate::wire::{read_member, read_name, read_position, read_u32, write_member, write_position};
use crate::{Config, MemberId, Position};
use bytes::BufMut;
use bytes::BytesMut;
use ocf_membership::View;
use pils::NodeInstance;
use pils::wire::{Malformed, ParseError, Reader, Writer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether a member has the group's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Ready,
    /// `donor` was asked for the state as of `position`.
    Pending {
        donor: MemberId,
        position: Position,
    },
    /// Nobody is known to have the state; whether this member has it will show in the order.
    Orphan,
    /// Nobody is known to have the state, and this member has said that it has not.
    Denied,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) id: MemberId,
    pub(crate) joined: Position,
    pub(crate) status: Status,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) name: Arc<str>,
    /// Most senior first. Never empty. While none is ready, none is pending.
    pub(crate) members: Vec<Entry>,
    /// How many of them live here. Not part of what the nodes share.
    pub(crate) here: usize,
}

impl Group {
    pub(crate) fn entry(&self, id: MemberId) -> Option<&Entry> {
        self.members.iter().find(|e| e.id == id)
    }

    fn ids(&self) -> Vec<MemberId> {
        self.members.iter().map(|e| e.id).collect()
    }

    /// Who gives its state to a joiner: a ready member on the joiner's own node, else the most senior ready one.
    fn donor_for(&self, joiner: MemberId) -> Option<MemberId> {
        let mut ready = self.members.iter().filter(|e| e.status == Status::Ready && e.id != joiner);
        let near = ready.clone().find(|e| e.id.instance == joiner.instance);
        near.or_else(|| ready.next()).map(|e| e.id)
    }
}

/// What follows from a change of the table, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Changed {
        group: u32,
        name: Arc<str>,
        members: Vec<MemberId>,
        joined: Vec<MemberId>,
        left: Vec<MemberId>,
        /// A member lived here before or lives here now.
        here: bool,
    },
    /// Nobody is known to have the state: the member says whether it has (`ask`, once), and waits.
    Orphaned {
        group: u32,
        member: MemberId,
        ask: bool,
    },
    /// Nobody has the state: this member goes on without.
    Promoted {
        group: u32,
        member: MemberId,
    },
    Wanted {
        group: u32,
        name: Arc<str>,
        joiner: MemberId,
        donor: MemberId,
    },
    Refused {
        name: Arc<str>,
        member: MemberId,
    },
}

#[derive(Debug)]
pub(crate) struct Table {
    local: NodeInstance,
    groups_max: usize,
    members_max: usize,
    /// Number of the group that was created last.
    last: u32,
    numbers: BTreeMap<Arc<str>, u32>,
    groups: BTreeMap<u32, Group>,
}

impl Table {
    pub(crate) fn new(config: &Config, local: NodeInstance) -> Self {
        Self {
            local,
            groups_max: config.groups_max,
            members_max: config.members_max,
            last: 0,
            numbers: BTreeMap::new(),
            groups: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Group> {
        self.groups.get(&number)
    }

    pub(crate) fn named(&self, name: &str) -> Option<(u32, &Group)> {
        let number = *self.numbers.get(name)?;
        Some((number, self.groups.get(&number)?))
    }

    /// Members that live here: group, name, member.
    pub(crate) fn here(&self) -> Vec<(u32, Arc<str>, u32)> {
        let groups = self.groups.iter().filter(|(_, g)| g.here > 0);
        let of = |(number, group): (&u32, &Group)| {
            let mine = group.members.iter().filter(|e| e.id.instance == self.local);
            mine.map(|e| (*number, Arc::clone(&group.name), e.id.local)).collect::<Vec<_>>()
        };
        groups.flat_map(of).collect()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.numbers.keys()
    }

    /// An ordered join. A member that is in the group already leaves and comes back as the most junior.
    pub(crate) fn join(&mut self, at: Position, id: MemberId, name: &Arc<str>, effects: &mut Vec<Effect>) {
        let number = match self.numbers.get(&**name) {
            Some(number) => *number,
            None if self.groups.len() >= self.groups_max || self.last == u32::MAX => {
                effects.push(Effect::Refused { name: Arc::clone(name), member: id });
                return;
            }
            None => {
                self.last += 1;
                self.numbers.insert(Arc::clone(name), self.last);
                let group = Group { name: Arc::clone(name), members: Vec::new(), here: 0 };
                self.groups.insert(self.last, group);
                self.last
            }
        };
        let Some(group) = self.groups.get_mut(&number) else { return };
        let back = group.entry(id).is_some();
        if !back && group.members.len() >= self.members_max {
            effects.push(Effect::Refused { name: Arc::clone(name), member: id });
            return;
        }
        let mut left = Vec::new();
        if back {
            group.members.retain(|e| e.id != id);
            group.here -= usize::from(id.instance == self.local);
            left.push(id);
        }
        // Those who are left choose a heir before the joiner counts.
        let mut later = Vec::new();
        Self::repair(number, group, at, false, &mut later);
        let status = match group.donor_for(id) {
            Some(donor) => Status::Pending { donor, position: at },
            None if group.members.is_empty() => Status::Ready,
            None => Status::Denied,
        };
        let here = group.here > 0 || id.instance == self.local;
        group.members.push(Entry { id, joined: at, status });
        group.here += usize::from(id.instance == self.local);
        let name = Arc::clone(&group.name);
        effects.push(Effect::Changed {
            group: number,
            name,
            members: group.ids(),
            joined: vec![id],
            left,
            here,
        });
        effects.append(&mut later);
        match status {
            Status::Pending { donor, .. } => {
                effects.push(Effect::Wanted {
                    group: number,
                    name: Arc::clone(&group.name),
                    joiner: id,
                    donor,
                });
            }
            Status::Denied => {
                effects.push(Effect::Orphaned { group: number, member: id, ask: false });
                // Those before it may all be gone by now, or have denied.
                Self::repair(number, group, at, false, effects);
            }
            Status::Ready | Status::Orphan => {}
        }
    }

    /// An ordered leave.
    pub(crate) fn leave(&mut self, at: Position, id: MemberId, name: &str, effects: &mut Vec<Effect>) {
        if let Some(number) = self.numbers.get(name).copied() {
            self.remove(number, at, |e| e.id == id, false, effects);
        }
    }

    /// An ordered word of a joiner that it has the state.
    pub(crate) fn stated(&mut self, at: Position, id: MemberId, number: u32, effects: &mut Vec<Effect>) {
        let Some(group) = self.groups.get_mut(&number) else { return };
        if let Some(entry) = group.members.iter_mut().find(|e| e.id == id) {
            entry.status = Status::Ready;
            Self::repair(number, group, at, false, effects);
        }
    }

    /// An ordered word of an orphan that it has no state.
    pub(crate) fn denied(&mut self, at: Position, id: MemberId, number: u32, effects: &mut Vec<Effect>) {
        let Some(group) = self.groups.get_mut(&number) else { return };
        let entry = group.members.iter_mut().find(|e| e.id == id && e.status == Status::Orphan);
        if let Some(entry) = entry {
            entry.status = Status::Denied;
            Self::repair(number, group, at, false, effects);
        }
    }

    /// A new view: members on nodes that did not come along are gone, and every pending state is asked for anew, as of
    /// the start of the view.
    pub(crate) fn enter(&mut self, view: &View, effects: &mut Vec<Effect>) {
        let at = Position { view: view.number, sequence: 0 };
        let gone =
            |e: &Entry| !view.members.iter().any(|m| m.instance == e.id.instance && m.joined < view.number);
        let numbers: Vec<u32> = self.groups.keys().copied().collect();
        for number in numbers {
            self.remove(number, at, gone, true, effects);
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what, when, who, how, and what follows")]
    fn remove(
        &mut self,
        number: u32,
        at: Position,
        gone: impl Fn(&Entry) -> bool,
        ask_all: bool,
        effects: &mut Vec<Effect>,
    ) {
        let Some(group) = self.groups.get_mut(&number) else { return };
        let left: Vec<MemberId> = group.members.iter().filter(|e| gone(e)).map(|e| e.id).collect();
        let was_here = group.here > 0;
        if !left.is_empty() {
            group.members.retain(|e| !gone(e));
            let local = self.local;
            group.here = group.members.iter().filter(|e| e.id.instance == local).count();
            let (name, members) = (Arc::clone(&group.name), group.ids());
            let joined = Vec::new();
            effects.push(Effect::Changed { group: number, name, members, joined, left, here: was_here });
        }
        if group.members.is_empty() {
            let name = Arc::clone(&group.name);
            self.numbers.remove(&*name);
            self.groups.remove(&number);
        } else {
            Self::repair(number, group, at, ask_all, effects);
        }
    }

    /// Sees to it that those without the state get it: asks a ready member where none was asked or the donor is gone
    /// (`ask_all`: everywhere). If nobody is ready, finds out who has the state; if nobody has, the most senior goes
    /// on without.
    fn repair(number: u32, group: &mut Group, at: Position, ask_all: bool, effects: &mut Vec<Effect>) {
        if group.members.iter().all(|e| e.status == Status::Denied)
            && let Some(heir) = group.members.first_mut()
        {
            heir.status = Status::Ready;
            effects.push(Effect::Promoted { group: number, member: heir.id });
        }
        let orphaned = group.members.iter().all(|e| e.status != Status::Ready);
        for index in 0..group.members.len() {
            let Entry { id, status, .. } = group.members[index];
            let asked = match status {
                Status::Ready => continue,
                Status::Pending { donor, .. } => {
                    group.entry(donor).is_some_and(|e| e.status == Status::Ready)
                }
                Status::Orphan | Status::Denied => orphaned,
            };
            if asked && !ask_all {
                continue;
            }
            if orphaned {
                let ask = matches!(status, Status::Pending { .. });
                if ask {
                    group.members[index].status = Status::Orphan;
                }
                effects.push(Effect::Orphaned { group: number, member: id, ask });
            } else if let Some(donor) = group.donor_for(id) {
                group.members[index].status = Status::Pending { donor, position: at };
                effects.push(Effect::Wanted {
                    group: number,
                    name: Arc::clone(&group.name),
                    joiner: id,
                    donor,
                });
            }
        }
    }

    pub(crate) fn write(&self, out: &mut BytesMut) {
        out.put_varint(u64::from(self.last));
        out.put_length(self.groups.len());
        for (number, group) in &self.groups {
            out.put_varint(u64::from(*number));
            out.put_text(&group.name);
            out.put_length(group.members.len());
            for entry in &group.members {
                write_member(out, entry.id);
                write_position(out, entry.joined);
                match entry.status {
                    Status::Ready => out.put_u8(0),
                    Status::Orphan => out.put_u8(2),
                    Status::Denied => out.put_u8(3),
                    Status::Pending { donor, position } => {
                        out.put_u8(1);
                        write_member(out, donor);
                        write_position(out, position);
                    }
                }
            }
        }
    }

    /// Reads what [`Self::write`] wrote. Memory is bounded by the input.
    pub(crate) fn read(r: &mut Reader<'_>, config: &Config, local: NodeInstance) -> Result<Self, ParseError> {
        let mut table = Self::new(config, local);
        table.last = read_u32(r, "last group")?;
        let n = r.length("groups", config.groups_max.min(r.remaining()))?;
        let mut before = 0;
        for _ in 0..n {
            let number = read_u32(r, "group")?;
            if number <= before || number > table.last {
                return Err(r.error("group", Malformed::OutOfRange));
            }
            before = number;
            let name = read_name(r)?;
            let count = r.length("members", config.members_max.min(r.remaining() / 20))?;
            let mut members: Vec<Entry> = Vec::with_capacity(count);
            for _ in 0..count {
                let entry = Self::read_entry(r)?;
                if members.iter().any(|e| e.id == entry.id) {
                    return Err(r.error("member", Malformed::OutOfRange));
                }
                members.push(entry);
            }
            if members.is_empty() {
                return Err(r.error("members", Malformed::OutOfRange));
            }
            let here = members.iter().filter(|e| e.id.instance == local).count();
            if table.numbers.insert(Arc::clone(&name), number).is_some() {
                return Err(r.error("name", Malformed::OutOfRange));
            }
            table.groups.insert(number, Group { name, members, here });
        }
        r.finish("table")?;
        Ok(table)
    }

    fn read_entry(r: &mut Reader<'_>) -> Result<Entry, ParseError> {
        let id = read_member(r)?;
        let joined = read_position(r)?;
        let status = match r.u8("status")? {
            0 => Status::Ready,
            1 => Status::Pending { donor: read_member(r)?, position: read_position(r)? },
            2 => Status::Orphan,
            3 => Status::Denied,
            _ => return Err(r.error("status", Malformed::OutOfRange)),
        };
        Ok(Entry { id, joined, status })
    }

    pub(crate) fn check(&self) -> Result<(), &'static str> {
        for group in self.groups.values() {
            if group.members.iter().all(|e| e.status == Status::Denied) {
                return Err("every group has a member that is ready, or may turn out to be");
            }
            if group.here != group.members.iter().filter(|e| e.id.instance == self.local).count() {
                return Err("members that live here are counted");
            }
            for entry in &group.members {
                if let Status::Pending { donor, .. } = entry.status
                    && group.entry(donor).is_none_or(|e| e.status != Status::Ready)
                {
                    return Err("the donor of a state is a ready member");
                }
            }
        }
        Ok(())
    }
}
