//! Programs beside the node that are members of groups: what each is told, and what it sends.

use super::gate::{Accepted, Gate, Refused};
use crate::Standing;
use crate::groups::wire::{self, Nodes, Packer, Said, Unpacker};
use crate::stack::{PROGRAM_MEMBERS, Stack};
use bytes::Bytes;
use ocf_comm::local::{ClientInfo, EventSink};
use ocf_comm::rpc::Body;
use ocf_groups::{Event, Guarantee, JoinError, MemberId, SendError, Window};
use ocf_membership::View;
use parking_lot::Mutex;
use pils::{Instant, NodeInstance};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Bytes of events that a program may leave before deliveries are held for it, and from which on they are not held any more.
const UNREAD_MAX: usize = 4 << 20;
const UNREAD_LOW: usize = UNREAD_MAX / 2;

/// A program, for the thread that serves it and for the reactor.
pub(super) struct Program {
    pub(super) info: ClientInfo,
    pub(super) sink: EventSink,
    /// Cost of events that it has not taken.
    unread: AtomicUsize,
    /// Deliveries are held for it.
    holding: AtomicBool,
    /// What it has sent waits.
    blocked: AtomicBool,
    /// States that it was asked for and has not given.
    asked: AtomicUsize,
    /// Locked behind the reactor, or without it; only the gate is locked behind it.
    pub(super) inbox: Mutex<Inbox>,
}

/// What came from a program.
#[derive(Default)]
pub(super) struct Inbox {
    pub(super) unpacker: Unpacker<Said>,
    /// It has asked for a member, and was given one.
    pub(super) joined: bool,
    /// Its members, by number: the group, and how often it was reset.
    seats: BTreeMap<u32, (Arc<str>, u64)>,
    orders: VecDeque<Order>,
    /// What the orders count against the window.
    queued: usize,
    /// Bytes that it may send again and was not told.
    credit: usize,
    /// When it last took something.
    pub(super) took: u64,
}

enum Order {
    Send { sender: (u32, u64), guarantee: Guarantee, payloads: VecDeque<Bytes> },
    Leave { member: (u32, u64) },
}

/// What became of the orders of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// All is done; the gate has accepted this at last.
    All(Option<Accepted>),
    /// There is no room, or not yet the membership.
    Blocked(Option<Accepted>),
    /// A leave is next, for which the stack is needed.
    Leave,
}

impl Program {
    pub(super) fn new(info: ClientInfo, sink: EventSink) -> Self {
        Self {
            info,
            sink,
            unread: AtomicUsize::new(0),
            holding: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
            asked: AtomicUsize::new(0),
            inbox: Mutex::default(),
        }
    }

    /// It has taken so much. False if it was not told so much.
    pub(super) fn took(&self, bytes: u64) -> bool {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        let less = |unread: usize| unread.checked_sub(bytes);
        self.unread.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }

    /// It gives a state. False if it was asked for none that it has not given.
    pub(super) fn gives(&self) -> bool {
        self.asked.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |asked| asked.checked_sub(1)).is_ok()
    }

    /// True if deliveries are held for it, and need not be any more.
    pub(super) fn may_resume(&self) -> bool {
        self.holding.load(Ordering::SeqCst) && self.unread.load(Ordering::SeqCst) <= UNREAD_LOW
    }

    /// True while deliveries are held for it.
    pub(super) fn is_waited_for(&self) -> bool {
        self.holding.load(Ordering::SeqCst) && !self.may_resume()
    }

    fn told(&self, cost: usize) {
        let unread = self.unread.fetch_add(cost, Ordering::SeqCst) + cost;
        if unread > UNREAD_MAX {
            self.holding.store(true, Ordering::SeqCst);
            // It may have taken that meanwhile, and have seen that nothing is held.
            if self.may_resume() {
                self.holding.store(false, Ordering::SeqCst);
            }
        }
    }

    fn send(&self, body: Body) {
        if self.sink.send_now(body).is_err() {
            tracing::trace!(client = self.info.id, "the program is gone");
        }
    }
}

impl Inbox {
    /// Takes a message or a leave, behind those before.
    pub(super) fn order(&mut self, said: Said, payload: Bytes) {
        self.queued += Window::cost(payload.len());
        match said {
            Said::Send { local, life, guarantee } => {
                if let Some(Order::Send { sender, guarantee: same, payloads }) = self.orders.back_mut()
                    && (*sender, *same) == ((local, life), guarantee)
                {
                    payloads.push_back(payload);
                    return;
                }
                let payloads = VecDeque::from([payload]);
                self.orders.push_back(Order::Send { sender: (local, life), guarantee, payloads });
            }
            Said::Leave { local, life } => self.orders.push_back(Order::Leave { member: (local, life) }),
            Said::Offer { .. } | Said::Took(_) => {}
        }
    }

    /// True if the program has sent more than its library lets it, of a node whose largest message this is.
    pub(super) const fn overflows(&self, message_max: usize) -> bool {
        self.queued > wire::WINDOW + Window::cost(message_max)
    }

    fn done(&mut self, cost: usize) {
        self.queued -= cost;
        self.credit += cost;
    }

    /// Hands messages to the gate, as far as it takes them.
    pub(super) fn drain(&mut self, gate: &Gate, program: &Program) -> Drained {
        let mut accepted = None;
        let drained = loop {
            let Some(order) = self.orders.front_mut() else { break Drained::All(accepted) };
            let Order::Send { sender: (local, life), guarantee, payloads } = order else {
                break Drained::Leave;
            };
            // What was sent in an earlier membership, or by no member, is void.
            let seat = self.seats.get(local).filter(|(_, known)| known == life);
            let offered =
                seat.map(|(group, _)| gate.offer_for_program((group, *local), *guarantee, payloads));
            let cost = match offered {
                None => cost_of(payloads.drain(..)),
                Some(Ok((now, cost))) => {
                    // What is worth most says what to do.
                    accepted = Some(if accepted.is_none() { now } else { Accepted::Plenty });
                    cost
                }
                // The library of the program would not have sent it.
                Some(Err(Refused::Send(SendError::TooLarge { .. } | SendError::NotOffered(_)))) => {
                    cost_of(payloads.pop_front())
                }
                Some(Err(_)) => break Drained::Blocked(accepted),
            };
            if payloads.is_empty() {
                self.orders.pop_front();
            }
            self.done(cost);
        };
        program.blocked.store(matches!(drained, Drained::Blocked(_)), Ordering::SeqCst);
        if self.credit >= wire::WINDOW / 4 {
            program.send(Body::Value(wire::credit(core::mem::take(&mut self.credit))));
        }
        drained
    }
}

fn cost_of(payloads: impl IntoIterator<Item = Bytes>) -> usize {
    payloads.into_iter().map(|payload| Window::cost(payload.len())).sum()
}

/// What the reactor knows of programs.
pub(super) struct Programs {
    local: NodeInstance,
    clients: BTreeMap<u64, Outlet>,
    /// Groups in which programs are members, or the application of the node is.
    groups: BTreeMap<Arc<str>, Group>,
    /// The next member of a program, and the next number of a group.
    next: u32,
    number: u32,
    standing: Standing,
    view: Option<View>,
    /// The donor of the state that the next event asks for.
    donor: Option<MemberId>,
    /// Some are to be told something.
    dirty: bool,
    /// Deliveries are held for one of them.
    held: bool,
}

/// What leads to a program.
struct Outlet {
    program: Arc<Program>,
    packer: Packer,
    nodes: Nodes,
    cost: usize,
}

#[derive(Default)]
struct Group {
    number: u32,
    seats: BTreeMap<u32, Seat>,
    /// Members of the node's application.
    application: BTreeSet<u32>,
    /// Programs with a member that is in.
    audience: Vec<u64>,
}

struct Seat {
    client: u64,
    is_in: bool,
    /// How often it was reset.
    life: u64,
}

impl Group {
    fn settle(&mut self) {
        let all: BTreeSet<u64> =
            self.seats.values().filter(|seat| seat.is_in).map(|seat| seat.client).collect();
        self.audience = all.into_iter().collect();
    }
}

impl Outlet {
    fn tell(&mut self, group: u32, event: &Event) {
        if matches!(event, Event::StateWanted { .. }) {
            self.program.asked.fetch_add(1, Ordering::SeqCst);
        }
        if self.packer.event(&mut self.nodes, group, event) {
            self.cost += wire::cost(event);
        }
        // What is a whole frame leaves before the turn ends.
        while let Some(frame) = self.packer.next_full() {
            self.program.told(core::mem::take(&mut self.cost));
            self.program.send(Body::Bytes(frame));
        }
    }

    fn flush(&mut self) {
        self.packer.finish();
        if self.cost > 0 {
            self.program.told(core::mem::take(&mut self.cost));
        }
        while let Some(frame) = self.packer.next_full() {
            self.program.send(Body::Bytes(frame));
        }
    }
}

impl Programs {
    pub(super) const fn new(local: NodeInstance) -> Self {
        Self {
            local,
            clients: BTreeMap::new(),
            groups: BTreeMap::new(),
            next: PROGRAM_MEMBERS,
            number: 0,
            standing: Standing::NonPrimary,
            view: None,
            donor: None,
            dirty: false,
            held: false,
        }
    }

    /// A program greets: it is told where the node stands, and everything from now on.
    pub(super) fn add(&mut self, program: Arc<Program>) {
        let id = program.info.id;
        let (packer, nodes) = (Packer::default(), Nodes::default());
        let mut outlet = Outlet { program, packer, nodes, cost: 0 };
        if let Some(view) = &self.view {
            outlet.tell(0, &Event::View(view.clone()));
            if self.standing != Standing::Primary {
                outlet.packer.standing(self.standing);
            }
        }
        outlet.flush();
        self.clients.insert(id, outlet);
    }

    /// A program joins a group: the number of the member, and of the group.
    pub(super) fn join(
        &mut self,
        (stack, now): (&mut Stack, Instant),
        client: u64,
        name: &str,
    ) -> Result<(u32, u32), JoinError> {
        // Far fewer lives than numbers; should they be used up, those that are free are used again.
        let local = (0..=u32::MAX - PROGRAM_MEMBERS)
            .map(|step| self.next.wrapping_add(step) | PROGRAM_MEMBERS)
            .find(|local| !self.groups.values().any(|group| group.seats.contains_key(local)));
        let local = local.ok_or(JoinError::TooManyMembers(self.groups.len()))?;
        stack.join_program(now, name, local)?;
        self.next = local.wrapping_add(1) | PROGRAM_MEMBERS;
        let name: Arc<str> = Arc::from(name);
        let number = &mut self.number;
        let group = self.groups.entry(Arc::clone(&name)).or_default();
        if group.number == 0 {
            *number += 1;
            group.number = *number;
        }
        group.seats.insert(local, Seat { client, is_in: false, life: 0 });
        if let Some(outlet) = self.clients.get(&client) {
            let mut inbox = outlet.program.inbox.lock();
            inbox.joined = true;
            inbox.seats.insert(local, (name, 0));
        }
        Ok((local, group.number))
    }

    /// Name of the group that has this number.
    pub(super) fn named(&self, number: u32) -> Option<Arc<str>> {
        self.groups.iter().find(|(_, group)| group.number == number).map(|(name, _)| Arc::clone(name))
    }

    /// True if a program has a member in that group, or on its way.
    pub(super) fn are_in(&self, group: &str) -> bool {
        self.groups.get(group).is_some_and(|group| !group.seats.is_empty())
    }

    /// True if the program has a member in that group, or on its way.
    pub(super) fn has_seat(&self, client: u64, group: &str) -> bool {
        self.groups.get(group).is_some_and(|group| group.seats.values().any(|seat| seat.client == client))
    }

    /// Members that a program has.
    pub(super) fn count(&self, client: u64) -> usize {
        self.groups
            .values()
            .flat_map(|group| group.seats.values())
            .filter(|seat| seat.client == client)
            .count()
    }

    /// A program is gone: its members leave.
    pub(super) fn remove(&mut self, stack: &mut Stack, now: Instant, client: u64) {
        if self.clients.remove(&client).is_none() {
            return;
        }
        for (name, group) in &mut self.groups {
            group.seats.retain(|local, seat| {
                if seat.client == client && stack.leave_program(now, name, *local).is_err() {
                    tracing::trace!(local, "it was leaving");
                }
                seat.client != client
            });
            group.settle();
        }
        self.sweep();
    }

    fn sweep(&mut self) {
        self.groups.retain(|_, group| !group.seats.is_empty() || !group.application.is_empty());
    }

    /// Does what the programs that wait have ordered, as far as it goes. True if the gate accepted something, or a member left.
    pub(super) fn retry(&mut self, stack: &mut Stack, now: Instant, gate: &Gate) -> bool {
        let waiting = |outlet: &&Outlet| outlet.program.blocked.load(Ordering::SeqCst);
        let waiting: Vec<Arc<Program>> =
            self.clients.values().filter(waiting).map(|outlet| Arc::clone(&outlet.program)).collect();
        waiting.iter().fold(false, |any, program| self.drain(stack, now, (gate, program)) | any)
    }

    /// Does what a program has ordered, as far as it goes. True if the gate accepted something, or a member left.
    pub(super) fn drain(
        &mut self,
        stack: &mut Stack,
        now: Instant,
        (gate, program): (&Gate, &Program),
    ) -> bool {
        let mut any = false;
        loop {
            let mut inbox = program.inbox.lock();
            match inbox.drain(gate, program) {
                Drained::All(accepted) | Drained::Blocked(accepted) => return any | accepted.is_some(),
                Drained::Leave => {
                    let order = inbox.orders.pop_front();
                    inbox.queued -= Window::cost(0);
                    drop(inbox);
                    if let Some(Order::Leave { member }) = order {
                        any = true;
                        self.leave(stack, now, (gate, program), member);
                    }
                }
            }
        }
    }

    /// A member leaves, behind what it has sent.
    fn leave(
        &mut self,
        stack: &mut Stack,
        now: Instant,
        (gate, program): (&Gate, &Program),
        (local, life): (u32, u64),
    ) {
        let seat = program.inbox.lock().seats.get(&local).cloned();
        let Some((name, known)) = seat else { return };
        // What it has sent is in the gate.
        gate.hand_in_now(stack, now);
        if stack.leave_program(now, &name, local).is_err() {
            tracing::debug!(local, group = %name, "it was no member any more");
        }
        let taken_back = !stack.is_local(&name, local);
        // It was reset meanwhile: that was the end of its membership, and it is told of no other.
        if taken_back || known != life {
            let Some(group) = self.groups.get_mut(&name) else { return };
            group.seats.remove(&local);
            group.settle();
            let number = group.number;
            program.inbox.lock().seats.remove(&local);
            if let Some(outlet) = self.clients.get_mut(&program.info.id) {
                outlet.packer.gone(number, local);
                self.dirty = true;
            }
            self.sweep();
        }
    }

    /// The next event asks this member of a program for a state.
    pub(super) const fn donor_is(&mut self, donor: MemberId) {
        self.donor = Some(donor);
    }

    /// Where the node stands changed.
    pub(super) fn stands(&mut self, standing: Standing) {
        self.standing = standing;
        self.dirty |= !self.clients.is_empty();
        self.clients.values_mut().for_each(|outlet| outlet.packer.standing(standing));
    }

    /// Tells the programs that an event is for. False if it is not for the application of the node.
    pub(super) fn take(&mut self, event: &Event, gate: &Gate) -> bool {
        let donor = self.donor.take();
        match event {
            Event::View(view) => {
                self.view = Some(view.clone());
                self.standing = Standing::Primary;
                self.tell_all(event);
                true
            }
            Event::Evicted { .. } => {
                self.tell_all(event);
                true
            }
            // Programs are told by the credit that they get.
            Event::Writable => self.clients.is_empty() || gate.application_waits(),
            // Messages are many: without programs nothing is looked up for them.
            Event::Message { .. } | Event::Fifo { .. } if self.clients.is_empty() => true,
            Event::Message { group, .. } | Event::Fifo { group, .. } => {
                let Some(known) = self.groups.get(group) else { return true };
                for client in &known.audience {
                    if let Some(outlet) = self.clients.get_mut(client) {
                        outlet.tell(known.number, event);
                    }
                }
                self.dirty |= !known.audience.is_empty();
                known.seats.is_empty() || !known.application.is_empty()
            }
            Event::Membership { group, members, joined, left, .. } => {
                self.on_membership(group, event, [members, joined, left])
            }
            Event::StateWanted { group, .. } => {
                let Some(known) = self.groups.get(group) else { return true };
                let Some(donor) = donor else {
                    return known.seats.is_empty() || !known.application.is_empty();
                };
                self.tell_member(group, donor.local, event);
                false
            }
            Event::State { group, member, .. } | Event::StateLost { group, member, .. } => {
                self.is_of_application(*member) || self.tell_member(group, member.local, event)
            }
            Event::Reset { group, member } => self.on_reset(group, *member, event),
            Event::Refused { group, member } => {
                if self.is_of_application(*member) {
                    return true;
                }
                self.tell_member(group, member.local, event);
                self.vacate(group, member.local);
                self.sweep();
                false
            }
            _ => true,
        }
    }

    const fn is_of_application(&self, member: MemberId) -> bool {
        member.local < PROGRAM_MEMBERS
    }

    fn tell_all(&mut self, event: &Event) {
        self.clients.values_mut().for_each(|outlet| outlet.tell(0, event));
        self.dirty |= !self.clients.is_empty();
    }

    /// Tells the program of a member. Always false: it is not for the application.
    fn tell_member(&mut self, group: &str, local: u32, event: &Event) -> bool {
        let Some(known) = self.groups.get(group) else { return false };
        let Some(seat) = known.seats.get(&local) else { return false };
        if let Some(outlet) = self.clients.get_mut(&seat.client) {
            outlet.tell(known.number, event);
            self.dirty = true;
        }
        false
    }

    fn on_membership(&mut self, name: &Arc<str>, event: &Event, lists: [&[MemberId]; 3]) -> bool {
        let local = self.local;
        let [members, joined, left] = lists
            .map(|list| list.iter().filter(|m| m.instance == local).map(|m| m.local).collect::<Vec<u32>>());
        let application: BTreeSet<u32> = members.into_iter().filter(|m| *m < PROGRAM_MEMBERS).collect();
        let Some(known) = self.groups.get_mut(name) else {
            if !application.is_empty() {
                self.groups.insert(Arc::clone(name), Group { application, ..Group::default() });
            }
            return true;
        };
        let mut audience: BTreeSet<u64> = known.audience.iter().copied().collect();
        for new in &joined {
            if let Some(seat) = known.seats.get_mut(new) {
                seat.is_in = true;
                audience.insert(seat.client);
            }
        }
        let for_application =
            known.seats.is_empty() || !known.application.is_empty() || !application.is_empty();
        known.application = application;
        let number = known.number;
        for client in audience {
            if let Some(outlet) = self.clients.get_mut(&client) {
                outlet.tell(number, event);
                self.dirty = true;
            }
        }
        for gone in left.iter().filter(|gone| !joined.contains(gone)) {
            self.vacate(name, *gone);
        }
        if let Some(known) = self.groups.get_mut(name) {
            known.settle();
        }
        self.sweep();
        for_application
    }

    /// A member of a program is none any more.
    fn vacate(&mut self, group: &str, local: u32) {
        let Some(known) = self.groups.get_mut(group) else { return };
        let Some(seat) = known.seats.remove(&local) else { return };
        known.settle();
        if let Some(outlet) = self.clients.get(&seat.client) {
            outlet.program.inbox.lock().seats.remove(&local);
        }
    }

    fn on_reset(&mut self, name: &Arc<str>, member: MemberId, event: &Event) -> bool {
        let of_application = self.is_of_application(member);
        let Some(known) = self.groups.get_mut(name) else { return of_application };
        if of_application {
            known.application.remove(&member.local);
            self.sweep();
            return true;
        }
        if let Some(seat) = known.seats.get_mut(&member.local) {
            seat.is_in = false;
            seat.life += 1;
            if let Some(outlet) = self.clients.get(&seat.client)
                && let Some((_, life)) = outlet.program.inbox.lock().seats.get_mut(&member.local)
            {
                *life = seat.life;
            }
            known.settle();
        }
        self.tell_member(name, member.local, event);
        false
    }

    /// Hands over what this turn has for programs. True if deliveries are to be held for one of them from now on.
    pub(super) fn flush(&mut self) -> bool {
        if !core::mem::take(&mut self.dirty) {
            return false;
        }
        self.clients.values_mut().for_each(Outlet::flush);
        let held = self.held;
        self.holds() && !held
    }

    /// True while deliveries must be held for a program. Those that have taken enough are not waited for any more.
    pub(super) fn holds(&mut self) -> bool {
        self.held = false;
        for outlet in self.clients.values() {
            if outlet.program.may_resume() {
                outlet.program.holding.store(false, Ordering::SeqCst);
            }
            self.held |= outlet.program.holding.load(Ordering::SeqCst);
        }
        self.held
    }
}
