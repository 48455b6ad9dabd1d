use bytes::Bytes;
use ocf_comm::driver::Stopped;
use ocf_groups::{Guarantee, SendError, Sending, Window};
use parking_lot::Mutex;
use pils::Instant;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::stack::{PROGRAM_MEMBERS, Stack};

/// Takes messages for groups from any thread without the reactor's lock, which the reactor holds for a turn: it knows
/// what the groups core would answer, and keeps what was accepted until the reactor's thread, or the caller if the
/// reactor sleeps, hands it in.
///
/// What the core says of itself is [told](Gate::publish) after every turn, and everything accepted on the word of one
/// turn is handed in before the next word is given.
#[derive(Debug)]
pub(super) struct Gate {
    state: Mutex<State>,
}

/// Group and local number.
type Senders = Arc<[(Arc<str>, u32)]>;

#[derive(Debug)]
struct State {
    sending: Sending,
    /// Sorted.
    senders: Senders,
    offers: Vec<Offer>,
    /// Cost of the messages among `offers`, and of those taken whose effect was not told yet.
    offered: usize,
    taken: usize,
    refused: bool,
    /// The application of the node was refused, and waits to be told that there is room.
    application_waits: bool,
    stopped: Option<Stopped>,
}

/// An accepted message: from this one of the senders.
#[derive(Debug)]
struct Offer {
    sender: usize,
    guarantee: Guarantee,
    payload: Bytes,
}

/// What became of an offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    /// Nothing is under way: hand it in at once.
    First,
    /// Earlier messages are: the reactor runs soon anyway, and takes this one with others.
    Behind,
    /// So much waits that it is worth a call: hand it in, unless the reactor is busy anyway.
    Plenty,
}

/// Cost of waiting messages above which senders help the reactor, which may be waiting for a processor.
const PLENTY: usize = 64 << 10;

/// Why an offer was not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Stopped(Stopped),
    Send(SendError),
}

impl Gate {
    pub(super) fn new(sending: Sending) -> Self {
        let state = State {
            sending,
            senders: Arc::from([]),
            offers: Vec::new(),
            offered: 0,
            taken: 0,
            refused: false,
            application_waits: false,
            stopped: None,
        };
        Self { state: Mutex::new(state) }
    }

    /// Accepts a message, or says why not.
    pub(super) fn offer(
        &self,
        (group, local): (&str, u32),
        guarantee: Guarantee,
        payload: Bytes,
    ) -> Result<Accepted, Refused> {
        let mut state = self.state.lock();
        let sender = state.own_sender(group, local)?;
        let first = state.is_idle();
        state.admit(payload.len()).inspect_err(|_| state.application_waits = true)?;
        state.offers.push(Offer { sender, guarantee, payload });
        Ok(state.accepted(first))
    }

    /// Accepts from the front of `payloads` as many as fit; at least one, or says why not.
    pub(super) fn offer_all(
        &self,
        (group, local): (&str, u32),
        guarantee: Guarantee,
        payloads: &mut VecDeque<Bytes>,
    ) -> Result<Accepted, Refused> {
        let mut state = self.state.lock();
        let sender = state.own_sender(group, local)?;
        let offered = state.offer_all(sender, guarantee, payloads);
        offered.map(|(accepted, _)| accepted).inspect_err(|_| state.application_waits = true)
    }

    /// As [`Gate::offer_all`], from a member of a program beside the node. Also tells what the accepted ones count against a window.
    pub(super) fn offer_for_program(
        &self,
        (group, local): (&str, u32),
        guarantee: Guarantee,
        payloads: &mut VecDeque<Bytes>,
    ) -> Result<(Accepted, usize), Refused> {
        let mut state = self.state.lock();
        let sender = state.sender(group, local)?;
        state.offer_all(sender, guarantee, payloads)
    }

    /// True once, if the application of the node was refused.
    pub(super) fn application_waits(&self) -> bool {
        core::mem::take(&mut self.state.lock().application_waits)
    }

    /// What [`Gate::hand_in`] does, where no memory is at hand.
    pub(super) fn hand_in_now(&self, stack: &mut Stack, now: Instant) {
        self.hand_in(stack, now, &mut Offers::default());
    }

    /// Hands what was accepted to the core. `spare` is empty before and after; its memory is used again.
    pub(super) fn hand_in(&self, stack: &mut Stack, now: Instant, spare: &mut Offers) {
        let mut state = self.state.lock();
        if state.refused {
            state.refused = false;
            stack.note_full(now);
        }
        if state.offers.is_empty() {
            return;
        }
        core::mem::swap(&mut state.offers, &mut spare.0);
        state.taken += core::mem::take(&mut state.offered);
        let senders = Arc::clone(&state.senders);
        drop(state);
        admit_all(stack, now, &senders, &mut spare.0);
    }

    /// Tells what the core says of itself now. True if messages had to be handed in, because the meaning of their
    /// senders changes.
    pub(super) fn publish(&self, stack: &mut Stack, now: Instant) -> bool {
        let mut state = self.state.lock();
        let mut handed_in = false;
        let version = stack.sending().version;
        if state.sending.version != version {
            let State { offers, senders, .. } = &mut *state;
            handed_in = !offers.is_empty();
            admit_all(stack, now, senders, offers);
            *senders = stack.senders().map(|(group, local)| (Arc::clone(group), local)).collect();
            state.offered = 0;
        }
        state.sending = stack.sending();
        state.taken = 0;
        handed_in
    }

    /// Refuses everything from now on.
    pub(super) fn close(&self, why: &Stopped) {
        let mut state = self.state.lock();
        state.offers.clear();
        state.stopped = Some(why.clone());
    }
}

fn admit_all(stack: &mut Stack, now: Instant, senders: &Senders, offers: &mut Vec<Offer>) {
    for Offer { sender, guarantee, payload } in offers.drain(..) {
        let (group, local) = &senders[sender];
        if !stack.admit(now, (group, *local), guarantee, payload) {
            tracing::debug!(%group, local, "message dropped: its sender left the group");
        }
    }
}

impl State {
    fn sender(&self, group: &str, local: u32) -> Result<usize, Refused> {
        if let Some(stopped) = &self.stopped {
            return Err(Refused::Stopped(stopped.clone()));
        }
        if !self.sending.primary {
            return Err(Refused::Send(SendError::NotPrimary));
        }
        let found = self.senders.binary_search_by(|(name, number)| (&**name, *number).cmp(&(group, local)));
        found.map_err(|_at| Refused::Send(SendError::NotMember(Arc::from(group))))
    }

    /// As [`State::sender`], of the node's own application: it has no say for programs.
    fn own_sender(&self, group: &str, local: u32) -> Result<usize, Refused> {
        let found = self.sender(group, local)?;
        if local < PROGRAM_MEMBERS {
            Ok(found)
        } else {
            Err(Refused::Send(SendError::NotMember(group.into())))
        }
    }

    /// Accepts from the front of `payloads` as many as fit; at least one, or says why not.
    fn offer_all(
        &mut self,
        sender: usize,
        guarantee: Guarantee,
        payloads: &mut VecDeque<Bytes>,
    ) -> Result<(Accepted, usize), Refused> {
        let idle = self.is_idle();
        let (mut first, mut cost) = (true, 0);
        while let Some(payload) = payloads.front() {
            match self.admit(payload.len()) {
                Ok(()) => {}
                Err(refused) if first => return Err(refused),
                Err(_) => break,
            }
            first = false;
            if let Some(payload) = payloads.pop_front() {
                cost += Window::cost(payload.len());
                self.offers.push(Offer { sender, guarantee, payload });
            }
        }
        Ok((self.accepted(idle), cost))
    }

    const fn is_idle(&self) -> bool {
        self.sending.undelivered == 0 && self.taken == 0 && self.offers.is_empty()
    }

    const fn accepted(&self, first: bool) -> Accepted {
        if first {
            Accepted::First
        } else if self.offered >= PLENTY {
            Accepted::Plenty
        } else {
            Accepted::Behind
        }
    }

    /// Counts a message with this much payload, if it may be sent.
    fn admit(&mut self, payload: usize) -> Result<(), Refused> {
        let Sending { window, message_max, .. } = self.sending;
        if payload > message_max {
            return Err(Refused::Send(SendError::TooLarge { size: payload, limit: message_max }));
        }
        let used = window.used + self.offered + self.taken;
        if !(Window { used, ..window }).admits(payload) {
            self.refused = true;
            return Err(Refused::Send(SendError::Full { queued: used, limit: window.limit }));
        }
        self.offered += Window::cost(payload);
        Ok(())
    }
}

/// Memory for [`Gate::hand_in`].
#[derive(Debug, Default)]
pub(super) struct Offers(Vec<Offer>);
