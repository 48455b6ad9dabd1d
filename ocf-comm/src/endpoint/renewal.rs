//! The cluster's keys while the node runs: learn, use, forget; and fresh secrets inside circuits that stay open.

use super::Endpoint;
use crate::circuit::{Agreement, Answered, Circuit, Word};
use crate::crypto::{Direction, Transcript, circuit_secrets};
use crate::wire::{Declined, Renewal};
use crate::{ClusterKey, DownReason, Event, KeyError, KeyId, KeyStatus, Refusal};
use core::time::Duration;
use pils::{Instant, NodeId, NodeInstance};

/// Circuits move to another key one after the other, so much apart.
const PACE: Duration = Duration::from_millis(2);

impl Endpoint {
    /// Learns one more key of the cluster: it is accepted from now on. First of three steps to change keys without a
    /// pause: when **every** node has learned the new key, let every node [use](Self::use_key) it, then
    /// [forget](Self::forget_key) the old one.
    ///
    /// Learning what is known already does nothing, so that an ordered message may say it twice.
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed.
    pub fn learn_key(&mut self, now: Instant, key: ClusterKey) -> Result<(), KeyError> {
        self.begin(now);
        self.keys.learn(key)
    }

    /// Sends with this key from now on, and moves every circuit to it, one after the other, while messages flow: an
    /// [`Event::Renewed`] tells of each. A peer that does not know the key keeps its circuit under the old one, is asked
    /// again every second, and is named in an [`Event::Refused`]. Second of three steps.
    ///
    /// # Errors
    /// [`KeyError`]; nothing has changed.
    pub fn use_key(&mut self, now: Instant, id: KeyId) -> Result<(), KeyError> {
        self.begin(now);
        self.keys.send_with(self.now, id)?;
        let mut at = self.now;
        for circuit in self.circuits.values_mut() {
            if circuit.aim(at, id) {
                at += PACE;
            }
        }
        self.renew_circuits(self.now);
        Ok(())
    }

    /// Does not accept this key any more. Last of three steps; [`Endpoint::keys`] tells when nothing needs it.
    ///
    /// # Errors
    /// [`KeyError`], among others if this node would lock itself out; nothing has changed.
    pub fn forget_key(&mut self, now: Instant, id: KeyId) -> Result<(), KeyError> {
        self.begin(now);
        self.keys.may_forget(id)?;
        let peers = self.resting_on(id);
        if !peers.is_empty() {
            return Err(KeyError::StillNeeded { id, peers });
        }
        self.drop_key(id);
        Ok(())
    }

    /// Does not accept this key any more, and ends every circuit that rests on it, for good: an incarnation on its other
    /// end is [down](DownReason::KeyRevoked) and has to start again with another key. For a key that got into wrong hands,
    /// and for peers that will not come back. Returns whose circuits ended.
    ///
    /// # Errors
    /// [`KeyError`], among others for the key that this node sends with; nothing has changed.
    pub fn revoke_key(&mut self, now: Instant, id: KeyId) -> Result<Vec<NodeInstance>, KeyError> {
        self.begin(now);
        self.keys.may_forget(id)?;
        let mut ended = Vec::new();
        let resting = self.circuits.values().filter(|c| c.rests_on(id));
        let circuits: Vec<u32> = resting.map(|c| c.local_id).collect();
        for circuit in circuits {
            ended.extend(self.circuits.get(&circuit).map(|c| c.instance));
            self.end_circuit(self.now, circuit, DownReason::KeyRevoked);
        }
        self.drop_key(id);
        ended.sort_unstable();
        ended.dedup();
        Ok(ended)
    }

    /// Every key that this node knows, in order of their ids, and whose circuits rest on it.
    #[must_use]
    pub fn keys(&self) -> Vec<KeyStatus> {
        let sends_with = self.keys.sends_with();
        let status = |id| KeyStatus { id, sends: id == sends_with, peers: self.resting_on(id) };
        self.keys.ids().map(status).collect()
    }

    fn resting_on(&self, id: KeyId) -> Vec<NodeId> {
        let mut peers: Vec<NodeId> =
            self.circuits.values().filter(|c| c.rests_on(id)).map(|c| c.instance.node).collect();
        peers.sort_unstable();
        peers.dedup();
        peers
    }

    fn drop_key(&mut self, id: KeyId) {
        self.keys.forget(id);
        let now = self.now;
        for peer in &mut self.peers {
            if peer.attempt.take_if(|a| a.cluster_key == id).is_some() {
                peer.next_at = now;
            }
        }
    }

    /// Ends a circuit on this node's own account.
    fn end_circuit(&mut self, now: Instant, id: u32, reason: DownReason) {
        let Some(circuit) = self.circuits.get(&id) else { return };
        let i = circuit.peer;
        if self.peers[i].current == Some(id) {
            self.end_current(now, i, reason);
        } else {
            self.discard(i, id);
        }
    }

    /// Makes the offers that are due, and goes on where a secret was waited for.
    pub(super) fn renew_circuits(&mut self, now: Instant) {
        let computing: Vec<u32> =
            self.circuits.iter().filter(|(_, c)| c.is_computing()).map(|(id, _)| *id).collect();
        computing.into_iter().for_each(|id| self.finish_agreement(now, id));
        let due: Vec<(u32, KeyId)> =
            self.circuits.iter_mut().filter_map(|(id, c)| Some((*id, c.renewal_due(now)?))).collect();
        for (id, key) in due {
            self.offer_renewal(now, id, key);
        }
    }

    fn offer_renewal(&mut self, now: Instant, id: u32, key: KeyId) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        let (Some(private), Some(mac)) = (self.agreement.generate(), self.keys.renewal(key)) else {
            circuit.postpone_renewal(now);
            return;
        };
        let generation = circuit.next_generation();
        let (nonce, public) = (self.random.bytes(), private.public());
        let mut content =
            Renewal { generation, key: key.0, serial: circuit.next_serial(), nonce, public, proof: [0; 32] };
        let sides = Sides { cluster: self.cluster, local: self.local, circuit };
        content.proof = mac.sign(&sides.transcript(true, &content, None).content(OFFER_LABEL));
        circuit.offer_renewal(now, content, private);
    }

    /// A circuit has heard something about fresh secrets, or a packet under them.
    pub(super) fn on_renewal(&mut self, now: Instant, id: u32) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        if circuit.confirm_renewal(now) {
            self.events.push_back(Event::Renewed { peer: circuit.instance, key: circuit.key });
        }
        match circuit.heard_renewal() {
            Some(Word::Offer(offer)) => self.on_offer(now, id, offer),
            Some(Word::Answer(answer)) => self.on_answer(now, id, &answer),
            Some(Word::Decline { serial, key, why }) => {
                let offered = circuit.offered().is_some_and(|o| (o.serial, o.key) == (serial, key));
                if offered {
                    circuit.give_up_offer(now);
                    let (node, address, key) = (circuit.instance.node, circuit.address(), KeyId(key));
                    let refusal = match why {
                        Declined::Unknown => Refusal::KeyNotKnown { key },
                        Declined::Differs => Refusal::KeyDiffers { key },
                    };
                    self.tell_refusal(now, node, address, refusal);
                }
            }
            None => {}
        }
    }

    fn on_offer(&mut self, now: Instant, id: u32, offer: Renewal) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        if let Some(again) = circuit.said_to(&offer) {
            circuit.say_renewal(again);
            return;
        }
        if !circuit.takes_offer(&offer) {
            return;
        }
        let key = KeyId(offer.key);
        let sides = Sides { cluster: self.cluster, local: self.local, circuit };
        let signed = sides.transcript(false, &offer, None).content(OFFER_LABEL);
        let why = match self.keys.renewal(key) {
            None => Some(Declined::Unknown),
            Some(mac) if !mac.verify(&signed, &offer.proof) => Some(Declined::Differs),
            Some(_) => None,
        };
        if let Some(why) = why {
            circuit.decline_renewal(&offer, why);
            return;
        }
        let Some(private) = self.agreement.generate() else { return };
        let (nonce, public) = (self.random.bytes(), private.public());
        let answer = Renewal { nonce, public, proof: [0; 32], ..offer };
        let work = self.agreement.agree_in_time(private, offer.public);
        circuit.compute(now, Agreement { offer, answer, own: false }, work);
        self.finish_agreement(now, id);
    }

    fn on_answer(&mut self, now: Instant, id: u32, answer: &Renewal) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        let Some(offer) = circuit.offered() else { return };
        let key = KeyId(offer.key);
        let Some(mac) = self.keys.renewal(key) else { return };
        let sides = Sides { cluster: self.cluster, local: self.local, circuit };
        let transcript = sides.transcript(true, &offer, Some(answer));
        let same =
            (offer.generation, offer.key, offer.serial) == (answer.generation, answer.key, answer.serial);
        if !same || !mac.verify(&transcript.content(ANSWER_LABEL), &answer.proof) {
            return;
        }
        let Some(private) = circuit.take_offered() else { return };
        let work = self.agreement.agree_in_time(private, answer.public);
        circuit.compute(now, Agreement { offer, answer: *answer, own: true }, work);
        self.finish_agreement(now, id);
    }

    /// Takes the fresh secret into use, if it is there: says so as the one who answers, seals with it as the one who offered.
    fn finish_agreement(&mut self, now: Instant, id: u32) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        let Some((Agreement { offer, mut answer, own }, shared)) = circuit.computed(now) else { return };
        let key = KeyId(offer.key);
        let known = (shared, self.keys.renewal(key), self.keys.secret(key));
        let (Some(shared), Some(mac), Some(secret)) = known else {
            if own {
                circuit.give_up_offer(now);
            }
            return;
        };
        let sides = Sides { cluster: self.cluster, local: self.local, circuit };
        let transcript = sides.transcript(own, &offer, Some(&answer));
        let secret = |direction| circuit_secrets(&shared, secret, &transcript, direction);
        let seal = secret(Direction::from(circuit.initiator));
        let open = secret(Direction::from(!circuit.initiator));
        if own {
            circuit.adopt_renewal(now, key, seal, open);
            self.events.push_back(Event::Renewed { peer: circuit.instance, key });
        } else {
            answer.proof = mac.sign(&transcript.content(ANSWER_LABEL));
            circuit.answer_renewal(Answered { offer, answer, seal }, open);
        }
    }

    /// A packet did not open. Half of what the cipher bears: fresh secrets. All of it: the end of the circuit.
    pub(super) fn on_forged(&mut self, now: Instant, id: u32) {
        let Some(circuit) = self.circuits.get_mut(&id) else { return };
        let (forged, limit) = circuit.forged();
        if forged >= limit {
            self.end_circuit(now, id, DownReason::Forged);
        } else if forged >= limit / 2 && !circuit.is_renewing() {
            circuit.want_renewal(now, self.keys.sends_with());
        }
    }
}

const OFFER_LABEL: &[u8] = b"ocf-comm 1 offer";
const ANSWER_LABEL: &[u8] = b"ocf-comm 1 answer";

/// The two ends of a circuit, for a transcript.
struct Sides<'a> {
    cluster: [u8; 16],
    local: NodeInstance,
    circuit: &'a Circuit,
}

impl Sides<'_> {
    /// What both ends must agree on: who offered is in it, because each end's part stands at its place.
    fn transcript(&self, own_offer: bool, offer: &Renewal, answer: Option<&Renewal>) -> Transcript {
        let Self { cluster, local, circuit } = *self;
        let (local_id, remote_id) = circuit.ids();
        let blank = ([0; 16], [0; 32]);
        let offered = (offer.nonce, offer.public);
        let answered = answer.map_or(blank, |a| (a.nonce, a.public));
        let (mine, theirs) = if own_offer { (offered, answered) } else { (answered, offered) };
        let mine = (local, mine, local_id);
        let theirs = (circuit.instance, theirs, remote_id);
        let (i, r) = if circuit.initiator { (mine, theirs) } else { (theirs, mine) };
        Transcript {
            cluster,
            key: KeyId(offer.key),
            initiator: i.0,
            responder: r.0,
            initiator_nonce: i.1.0,
            responder_nonce: r.1.0,
            initiator_public: i.1.1,
            responder_public: r.1.1,
            initiator_circuit: i.2,
            responder_circuit: r.2,
            offer: [0; 32],
            choice: u64::from(offer.serial).to_be_bytes(),
            generation: offer.generation,
        }
    }
}
