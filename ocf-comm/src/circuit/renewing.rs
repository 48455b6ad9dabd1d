//! The agreement on fresh secrets inside an open circuit: what this end wants, has offered, and has answered.

use super::{Circuit, Stage};
use crate::crypto::{Agreeing, EphemeralKey, KeyId};
use crate::wire::{ANSWER, DECLINE, Declined, Frame, OFFER, RENEWAL, Renewal};
use bytes::BufMut as _;
use core::fmt;
use core::task::Poll;
use core::time::Duration;
use pils::Instant;

/// A secret that is being computed is asked for so often.
const ASK_EVERY: Duration = Duration::from_millis(1);
/// Longest time between two offers, and after one was declined.
const AGAIN_MAX: Duration = Duration::from_secs(1);

/// A word about fresh secrets, as it was heard or is to be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Offer(Renewal),
    Answer(Renewal),
    Decline { serial: u32, key: u8, why: Declined },
}

/// What this end has offered. It is dropped only for an answer, a decline, or an offer of the peer that comes first; if
/// another key is wanted meanwhile it is replaced by another offer, never just dropped, because the peer may have answered.
struct Offered {
    content: Renewal,
    private: Box<dyn EphemeralKey>,
    again_at: Instant,
    wait: Duration,
}

/// An offer and its answer, of which the secret is being computed.
pub(crate) struct Agreement {
    pub(crate) offer: Renewal,
    /// Without its proof yet, if this end answers.
    pub(crate) answer: Renewal,
    /// This end made the offer.
    pub(crate) own: bool,
}

/// See [`Agreement`].
struct Computing {
    agreement: Agreement,
    work: Box<dyn Agreeing>,
    ask_at: Instant,
}

/// What this end has answered: it seals with the fresh secret once the peer does.
pub(crate) struct Answered {
    pub(crate) offer: Renewal,
    pub(crate) answer: Renewal,
    pub(crate) seal: [u8; 32],
}

/// See the module.
#[derive(Default)]
pub(crate) struct Renewing {
    /// This end wants fresh secrets under this cluster key.
    wanted: Option<KeyId>,
    not_before: Instant,
    /// Serial number of this end's last offer.
    serial: u32,
    /// Serial number of the peer's last offer that was answered or declined.
    seen: u32,
    /// Why the offer with that number was declined, if it was: the peer may not have heard it.
    declined: Option<Declined>,
    offered: Option<Offered>,
    computing: Option<Computing>,
    answered: Option<Answered>,
    say: Option<Word>,
    heard: Option<Word>,
}

impl fmt::Debug for Renewing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewing")
            .field("wanted", &self.wanted)
            .field("offered", &self.offered.is_some())
            .field("computing", &self.computing.is_some())
            .field("answered", &self.answered.is_some())
            .finish_non_exhaustive()
    }
}

impl Circuit {
    /// Wants fresh secrets under this cluster key, from `at` on.
    pub(crate) fn want_renewal(&mut self, at: Instant, key: KeyId) {
        self.renewing.wanted = Some(key);
        self.renewing.not_before = at;
    }

    /// Wants this cluster key if the circuit does not rest on it yet, or is about to leave it; true if there is something
    /// to do.
    pub(crate) fn aim(&mut self, at: Instant, key: KeyId) -> bool {
        let Renewing { offered, computing, .. } = &*self.renewing;
        let leaves = offered.as_ref().is_some_and(|o| o.content.key != key.0)
            || computing.as_ref().is_some_and(|c| c.agreement.own && c.agreement.offer.key != key.0);
        if self.key == key && !leaves {
            self.renewing.wanted = None;
            return false;
        }
        self.want_renewal(at, key);
        true
    }

    /// True if this end has offered fresh secrets under another key than it wants now.
    fn replaces(&self) -> bool {
        let offered = self.renewing.offered.as_ref().map(|o| KeyId(o.content.key));
        offered.is_some() && self.renewing.wanted.is_some() && offered != self.renewing.wanted
    }

    /// True if an agreement is under way or wanted.
    pub(crate) const fn is_renewing(&self) -> bool {
        self.renewing.wanted.is_some()
            || self.renewing.offered.is_some()
            || self.renewing.computing.is_some()
            || self.renewing.answered.is_some()
            || self.open.expects()
    }

    /// True if this cluster key protects the circuit, or is about to.
    pub(crate) fn rests_on(&self, key: KeyId) -> bool {
        let Renewing { offered, computing, answered, .. } = &*self.renewing;
        self.key == key
            || computing.as_ref().is_some_and(|c| c.agreement.offer.key == key.0)
            || offered.as_ref().is_some_and(|o| o.content.key == key.0)
            || answered.as_ref().is_some_and(|a| a.answer.key == key.0)
    }

    /// The generation that the next agreement leads to.
    pub(crate) const fn next_generation(&self) -> u8 {
        // The two ends' directions are in step but for the moment in which one of them has yet to follow.
        self.open.generation().wrapping_add(1)
    }

    /// When this end has something to offer, or to offer again.
    pub(crate) fn renewal_at(&self) -> Option<Instant> {
        if self.stage != Stage::Open {
            return None;
        }
        if let Some(computing) = &self.renewing.computing {
            return Some(computing.ask_at);
        }
        if self.replaces() {
            return Some(self.renewing.not_before);
        }
        if let Some(offered) = &self.renewing.offered {
            return Some(offered.again_at);
        }
        let free = self.renewing.answered.is_none() && !self.open.expects();
        (free && self.renewing.wanted.is_some()).then_some(self.renewing.not_before)
    }

    /// The key to offer now, if this end has to make an offer. Says again what it has offered, if that is due.
    pub(crate) fn renewal_due(&mut self, now: Instant) -> Option<KeyId> {
        if self.is_computing() || self.renewal_at().is_none_or(|at| at > now) {
            return None;
        }
        if self.replaces() {
            return self.renewing.wanted;
        }
        let Some(offered) = &mut self.renewing.offered else { return self.renewing.wanted };
        offered.wait = (offered.wait * 2).min(AGAIN_MAX);
        offered.again_at = now + offered.wait;
        let content = offered.content;
        self.say_renewal(Word::Offer(content));
        None
    }

    /// The serial number of the next offer.
    pub(crate) const fn next_serial(&self) -> u32 {
        self.renewing.serial.wrapping_add(1)
    }

    pub(crate) fn offer_renewal(&mut self, now: Instant, content: Renewal, private: Box<dyn EphemeralKey>) {
        self.renewing.serial = content.serial;
        let wait = (self.paths[self.active].recovery.pto() * 3).max(Duration::from_millis(20));
        self.renewing.offered = Some(Offered { content, private, again_at: now + wait, wait });
        self.say_renewal(Word::Offer(content));
    }

    /// The secret of an agreement is being computed. Takes the place of what this end has offered.
    pub(crate) fn compute(&mut self, now: Instant, agreement: Agreement, work: Box<dyn Agreeing>) {
        self.renewing.offered = None;
        if !agreement.own {
            self.renewing.seen = agreement.offer.serial;
            self.renewing.declined = None;
        }
        self.renewing.computing = Some(Computing { agreement, work, ask_at: now });
    }

    pub(crate) const fn is_computing(&self) -> bool {
        self.renewing.computing.is_some()
    }

    /// The agreement whose secret is there, if one is that was to be asked for by now. No secret: the peer's half is not valid.
    pub(crate) fn computed(&mut self, now: Instant) -> Option<(Agreement, Option<[u8; 32]>)> {
        let computing = self.renewing.computing.as_mut().filter(|c| c.ask_at <= now)?;
        match computing.work.poll() {
            Poll::Pending => {
                computing.ask_at = now + ASK_EVERY;
                None
            }
            Poll::Ready(secret) => self.renewing.computing.take().map(|c| (c.agreement, secret)),
        }
    }

    pub(crate) fn answer_renewal(&mut self, answered: Answered, open: [u8; 32]) {
        self.open.expect(open);
        self.say_renewal(Word::Answer(answered.answer));
        self.renewing.answered = Some(answered);
    }

    /// The peer answered this end's offer: seals with the fresh secret at once, and makes the peer do so, too.
    pub(crate) fn adopt_renewal(&mut self, now: Instant, key: KeyId, seal: [u8; 32], open: [u8; 32]) {
        self.open.expect(open);
        self.switch(now, key, seal);
        self.paths[self.active].ping = true;
    }

    /// The peer uses what this end answered: so does this end. True if that is new.
    pub(crate) fn confirm_renewal(&mut self, now: Instant) -> bool {
        let confirmed = self.renewing.answered.take_if(|_| !self.open.expects());
        if let Some(Answered { answer, seal, .. }) = &confirmed {
            self.switch(now, KeyId(answer.key), *seal);
            self.paths[self.active].ping = true;
        }
        confirmed.is_some()
    }

    fn switch(&mut self, now: Instant, key: KeyId, seal: [u8; 32]) {
        self.seal.replace(now, seal);
        self.key = key;
        self.renewing.offered = None;
        self.renewing.wanted.take_if(|wanted| *wanted == key);
    }

    /// The peer does not take what was offered: asks again later.
    pub(crate) fn give_up_offer(&mut self, now: Instant) {
        self.renewing.offered = None;
        self.postpone_renewal(now);
    }

    pub(crate) fn postpone_renewal(&mut self, now: Instant) {
        self.renewing.not_before = now + AGAIN_MAX;
    }

    /// This end cannot take this offer, for good: another one will have another number. What it answered or computes for an
    /// earlier one is over: the peer has only one offer at a time, and does not take that answer any more.
    pub(crate) fn decline_renewal(&mut self, offer: &Renewal, why: Declined) {
        self.renewing.computing.take_if(|c| !c.agreement.own);
        if self.renewing.answered.take().is_some() {
            self.open.expect_none();
        }
        self.renewing.seen = offer.serial;
        self.renewing.declined = Some(why);
        self.say_renewal(Word::Decline { serial: offer.serial, key: offer.key, why });
    }

    /// True if an offer of the peer is to be looked at: it is newer than those answered or declined, leads on from here,
    /// and no other agreement has to end first. Of two offers at the same time, that of the circuit's initiator counts.
    pub(crate) fn takes_offer(&self, offer: &Renewal) -> bool {
        let rival = self.initiator && self.renewing.offered.is_some();
        let computing = self.renewing.computing.as_ref().is_some_and(|c| c.agreement.own);
        let adopting = computing || self.renewing.answered.is_none() && self.open.expects();
        let newer = offer.serial.wrapping_sub(self.renewing.seen).wrapping_sub(1) < u32::MAX / 2;
        newer && !rival && !adopting && offer.generation == self.next_generation()
    }

    pub(crate) fn say_renewal(&mut self, word: Word) {
        self.renewing.say = Some(word);
        self.renewal_due = true;
    }

    /// Keeps what the peer said until the endpoint, which has the keys, looks at it.
    pub(super) fn hear_renewal(&mut self, frame: &Frame<'_>) {
        self.renewing.heard = match *frame {
            Frame::Offer(bytes) => Some(Word::Offer(Renewal::from_bytes(bytes))),
            Frame::Answer(bytes) => Some(Word::Answer(Renewal::from_bytes(bytes))),
            Frame::Decline { serial, key, why } => Some(Word::Decline { serial, key, why }),
            Frame::Ping
            | Frame::Ack(_)
            | Frame::Credit { .. }
            | Frame::Accept { .. }
            | Frame::Refuse
            | Frame::Leave
            | Frame::LastGasp
            | Frame::Close
            | Frame::Removed
            | Frame::Commitment(_)
            | Frame::Data { .. } => return,
        };
        self.attention = true;
    }

    /// What this end has offered and has no answer to.
    pub(crate) fn offered(&self) -> Option<Renewal> {
        self.renewing.offered.as_ref().map(|o| o.content)
    }

    pub(crate) fn take_offered(&mut self) -> Option<Box<dyn EphemeralKey>> {
        self.renewing.offered.take().map(|o| o.private)
    }

    /// What this end said to this very offer before: the peer did not hear it.
    pub(crate) fn said_to(&self, offer: &Renewal) -> Option<Word> {
        let Renewing { answered, declined, seen, .. } = &*self.renewing;
        if let Some(answered) = answered.as_ref().filter(|a| a.offer == *offer) {
            return Some(Word::Answer(answered.answer));
        }
        let why = declined.filter(|_| offer.serial == *seen)?;
        Some(Word::Decline { serial: offer.serial, key: offer.key, why })
    }

    /// Packets that did not open, and how many the cipher bears.
    pub(crate) fn forged(&self) -> (u64, u64) {
        (self.open.forged(), self.open.limits().forged)
    }

    /// The circuit's ids: this end's, the other's.
    pub(crate) const fn ids(&self) -> (u32, u32) {
        (self.local_id, self.remote_id)
    }

    pub(crate) fn heard_renewal(&mut self) -> Option<Word> {
        self.renewing.heard.take()
    }

    /// Writes what is to be said. It is said again by its own timer, not when the packet is lost.
    pub(super) fn put_renewal(&mut self, out: &mut Vec<u8>) {
        self.renewal_due = false;
        match self.renewing.say.take() {
            Some(Word::Offer(content)) => put(out, OFFER, &content),
            Some(Word::Answer(content)) => put(out, ANSWER, &content),
            Some(Word::Decline { serial, key, why }) => {
                out.put_u8(DECLINE);
                out.put_u32(serial);
                out.put_slice(&[key, why.byte()]);
            }
            None => {}
        }
    }
}

fn put(out: &mut Vec<u8>, kind: u8, content: &Renewal) {
    let bytes: [u8; RENEWAL] = content.bytes();
    out.put_u8(kind);
    out.put_slice(&bytes);
}
