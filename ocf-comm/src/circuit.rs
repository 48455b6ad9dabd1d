//! One circuit: the keys, lanes and paths between this incarnation and one of a peer.

mod incoming;
mod keys;
mod mtu;
mod outgoing;
mod path;
mod paths;
mod ranges;
mod received;
mod recovery;
mod renewing;
mod sabotage;
mod transmit;

pub(crate) use incoming::Batch;
pub(crate) use keys::Renewal;
use keys::{OpenKeys, SealKeys};
pub(crate) use renewing::{Agreement, Answered, Word};
#[cfg(feature = "testing")]
pub use sabotage::Sabotage;
#[cfg(not(feature = "testing"))]
pub(crate) use sabotage::Sabotage;
pub(crate) use sabotage::Saboteur;

use crate::codec::ENCODE_MIN;
use crate::crypto::{KeyId, Suite};
use crate::detector::Detector;
use crate::suite::Codec;
use crate::wire::{Frame, HEADER, Header, lane_index, lane_number, to_size};
use crate::{Channel, Config, DropReason, Event, Lane, PacketCodec, PathId, PathPolicy, Stats};
use bytes::Bytes;
use core::time::Duration;
use incoming::{ENCODED_FORM, Incoming, PLAIN_FORM, Refused};
use outgoing::Outgoing;
use path::Path;
use pils::buffer::Recycler;
use pils::wire::{Reader, Writer as _};
use pils::{Instant, NodeInstance};
use recovery::Content;
use renewing::Renewing;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Urgent messages up to this size go on every path that is up, with [`PathPolicy::Failover`].
const URGENT_TWICE: usize = 256;

/// How far a circuit has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Keys are agreed. The initiator waits until a contest for the node id is decided; the responder waits for the
    /// first sealed packet, which proves that the request was fresh, and then for the contest.
    Held,
    /// Initiator: asks until the responder accepts.
    Confirming,
    /// Responder: has accepted, and waits until the initiator does.
    Accepting,
    /// Both ends accepted: messages flow.
    Open,
    /// The newcomer lost the contest; it is told so whenever it is heard.
    Refusing,
}

/// How a circuit ends by a word of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Left,
    LastGasp,
    /// The peer's sentinel says that it is dead.
    Obituary {
        resources: bool,
    },
    /// The peer says that this node broke the protocol.
    Closed,
    /// The peer was told to talk to this node no more.
    Removed,
    /// The peer says that another living node has this node's id.
    Refused,
    /// The peer broke this rule.
    Misbehaved(&'static str),
}

/// A hint of the network that the peer may be gone, since when, when the peer was asked last, and how often it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint {
    pub(crate) since: Instant,
    pub(crate) asked_at: Instant,
    pub(crate) hits: u32,
}

/// What decides, in a packet, about the circuit as a whole.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Outline {
    /// The sender accepts the circuit, by word or by using it.
    pub(crate) accepts: bool,
    /// The circuit ends.
    pub(crate) ends: bool,
}

/// Numbers that all circuits share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tuning {
    pub(crate) heartbeat: Duration,
    pub(crate) detection: Duration,
    pub(crate) renewal: Renewal,
    pub(crate) message_max: usize,
    pub(crate) budget: usize,
    /// What this node's sentinel can prove with.
    pub(crate) commitment: Option<[u8; 32]>,
}

/// Where the results of received packets go.
#[derive(Debug)]
pub(crate) struct Sink<'a> {
    pub(crate) events: &'a mut VecDeque<Event>,
    pub(crate) stats: &'a mut Stats,
    pub(crate) batch: &'a mut Batch,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Circuit {
    /// Index of the peer.
    pub(crate) peer: usize,
    pub(crate) instance: NodeInstance,
    pub(crate) local_id: u32,
    remote_id: u32,
    pub(crate) initiator: bool,
    pub(crate) stage: Stage,
    /// When `stage` was entered.
    pub(crate) since: Instant,
    /// Something sealed was received.
    pub(crate) heard: bool,
    /// The peer answered a probe sent after [`Circuit::probe`].
    pub(crate) answered: bool,
    pub(crate) detector: Detector,
    pub(crate) fate: Option<Fate>,
    /// The network says that nobody receives at the peer's address.
    pub(crate) hint: Option<Hint>,
    /// Bytes that may still be written in this turn.
    pub(crate) budget: usize,
    turn: u64,
    /// Had nothing to send in that turn, so that it is not asked again for each burst of the others.
    quiet: bool,
    seal: SealKeys,
    open: OpenKeys,
    /// The cluster key that the secrets rest on.
    pub(crate) key: KeyId,
    renewing: Box<Renewing>,
    /// A word about fresh secrets must be said.
    renewal_due: bool,
    /// The endpoint must look at the circuit: something about fresh secrets was heard.
    pub(crate) attention: bool,
    /// In the order of the configuration, which is the order of preference.
    paths: Vec<Path>,
    /// Paths that are not used any more, because their packet numbers must not be used again.
    retired: Vec<Path>,
    /// Index of the path that carries data.
    active: usize,
    policy: PathPolicy,
    outgoing: [Outgoing; 3],
    incoming: [Incoming; 3],
    /// How messages of the bulk lane are encoded, if they are.
    codec: Option<Codec>,
    accept_due: bool,
    /// Lanes whose credit must be told, as bits.
    credit_due: u8,
    /// Frames that go out once and are not repeated.
    once: Vec<Frame<'static>>,
    /// Packets that may go out although the congestion window is full.
    probes: u32,
    peer_message_max: Option<usize>,
    /// What the peer's sentinel can prove with.
    pub(crate) commitment: Option<[u8; 32]>,
    bug: Saboteur,
}

/// What is needed to start a circuit.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) peer: usize,
    pub(crate) instance: NodeInstance,
    pub(crate) local_id: u32,
    pub(crate) remote_id: u32,
    pub(crate) initiator: bool,
    pub(crate) seal: [u8; 32],
    pub(crate) open: [u8; 32],
    /// The cluster key that the secrets rest on.
    pub(crate) key: KeyId,
    pub(crate) suite: Suite,
    pub(crate) codec: Codec,
}

impl Circuit {
    pub(crate) fn new(
        now: Instant,
        config: &Config,
        addresses: &[(PathId, SocketAddr)],
        start: &Start,
    ) -> Self {
        let path = |(id, address): &(PathId, SocketAddr)| Path::new(now, *id, *address, config);
        let codec = Some(start.codec.clone()).filter(|codec| codec.name() != "none");
        let window = |lane: Lane| {
            let codec = codec.clone().filter(|_| lane == Lane::Bulk);
            Incoming::new(config.lane(lane).receive_window, config.message_max, codec)
        };
        Self {
            peer: start.peer,
            instance: start.instance,
            local_id: start.local_id,
            remote_id: start.remote_id,
            initiator: start.initiator,
            stage: Stage::Held,
            since: now,
            heard: false,
            answered: false,
            detector: Detector::new(now),
            fate: None,
            hint: None,
            budget: 0,
            turn: 0,
            quiet: false,
            seal: SealKeys::new(now, start.seal, start.suite.clone(), config.datagram_max()),
            open: OpenKeys::new(start.open, start.suite.clone()),
            key: start.key,
            renewing: Box::default(),
            renewal_due: false,
            attention: false,
            paths: addresses.iter().map(path).collect(),
            retired: Vec::new(),
            active: 0,
            policy: config.policy,
            outgoing: Lane::ALL.map(|lane| Outgoing::new(config.lane(lane).send_queue)),
            incoming: Lane::ALL.map(window),
            codec,
            accept_due: false,
            credit_due: 0,
            once: Vec::new(),
            probes: 0,
            peer_message_max: None,
            commitment: None,
            bug: Saboteur::default(),
        }
    }

    /// Puts a bug back.
    pub(crate) fn sabotage(&mut self, bug: Saboteur) {
        self.bug = bug;
        self.paths.iter_mut().for_each(|path| path.bug = bug);
    }

    /// Moves to the next stage and queues what it has to say.
    pub(crate) fn enter(&mut self, now: Instant, stage: Stage) {
        tracing::debug!(peer = %self.instance, from = ?self.stage, to = ?stage, "circuit");
        self.stage = stage;
        self.since = now;
        match stage {
            Stage::Held => {}
            Stage::Confirming => self.paths[self.active].ping = true,
            Stage::Accepting => self.accept_due = true,
            Stage::Open => {
                // The responder has said so already; only the initiator accepts here.
                self.accept_due |= self.initiator;
                self.credit_due = 0b111;
                for path in &mut self.paths {
                    path.ping = true;
                }
            }
            Stage::Refusing => self.say(Frame::Refuse),
        }
    }

    /// Sends `frame` once, with the next packet.
    pub(crate) fn say(&mut self, frame: Frame<'static>) {
        if self.once.is_empty() {
            self.once.push(frame);
        }
    }

    /// Authenticates a sealed datagram in place and makes later copies of it replays. Gives the length of the content,
    /// which starts behind the header, and the index of the path.
    pub(crate) fn open(
        &mut self,
        now: Instant,
        header: Header,
        datagram: &mut [u8],
        stats: &mut Stats,
    ) -> Result<(usize, usize), DropReason> {
        let path = self.paths.iter().position(|p| p.id.0 == header.path).ok_or(DropReason::UnknownPath)?;
        self.paths[path].received.check(header.number)?;
        let keep = self.paths[path].recovery.pto() * 3;
        let length = self.open.open(now + keep, header, datagram, stats).ok_or(DropReason::BadSeal)?;
        self.paths[path].received.mark(header.number);
        self.attention |= self.open.generation() != self.seal.generation();
        self.paths[path].heard_at = Some(now);
        stats.packets_accepted += 1;
        self.heard = true;
        Ok((length, path))
    }

    /// Looks, without effect, for what decides about the circuit as a whole.
    pub(crate) fn outline(content: &[u8]) -> Outline {
        let mut r = Reader::new(content);
        let mut outline = Outline::default();
        while let Ok(Some(frame)) = Frame::parse(&mut r) {
            match frame {
                Frame::Accept { .. } | Frame::Data { .. } => outline.accepts = true,
                Frame::Leave | Frame::LastGasp | Frame::Close | Frame::Removed | Frame::Refuse => {
                    outline.ends = true;
                }
                Frame::Ping
                | Frame::Ack(_)
                | Frame::Credit { .. }
                | Frame::Offer(_)
                | Frame::Answer(_)
                | Frame::Decline { .. }
                | Frame::Commitment(_) => {}
            }
        }
        outline
    }

    /// Takes over the content of an authenticated packet. A broken rule, or the peer's last word, is in `fate` afterwards.
    pub(crate) fn apply(
        &mut self,
        now: Instant,
        (path, number): (usize, u64),
        content: &[u8],
        sink: &mut Sink<'_>,
    ) {
        let mut r = Reader::new(content);
        let (mut asks, mut at_once) = (false, false);
        loop {
            let frame = match Frame::parse(&mut r) {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::debug!(peer = %self.instance, %error, "malformed frame");
                    self.fate = Some(Fate::Misbehaved("frames that parse"));
                    return;
                }
            };
            asks |= !matches!(frame, Frame::Ack(_));
            at_once |= matches!(frame, Frame::Ping | Frame::Accept { .. });
            match self.apply_frame(now, &frame, sink) {
                Ok(()) => {}
                Err(Refused::Rule(rule)) => {
                    self.fate = Some(Fate::Misbehaved(rule));
                    return;
                }
                Err(Refused::NoRoom) => {
                    sink.stats.count_drop(DropReason::NoRoom);
                    return;
                }
            }
        }
        self.paths[path].received.record(now, number, asks, at_once);
    }

    fn apply_frame(&mut self, now: Instant, frame: &Frame<'_>, sink: &mut Sink<'_>) -> Result<(), Refused> {
        match *frame {
            Frame::Ping => {}
            Frame::Ack(ref ack) => self.on_ack(now, ack, sink)?,
            Frame::Credit { lane, limit } => self.outgoing[lane_index(lane)].raise_credit(limit),
            Frame::Accept { message_max } => self.peer_message_max = Some(to_size(message_max)),
            Frame::Offer(_) | Frame::Answer(_) | Frame::Decline { .. } => self.hear_renewal(frame),
            Frame::Refuse => self.fate = Some(Fate::Refused),
            Frame::Leave => self.fate = Some(Fate::Left),
            Frame::LastGasp => self.fate = Some(Fate::LastGasp),
            Frame::Close => self.fate = Some(Fate::Closed),
            Frame::Removed => self.fate = Some(Fate::Removed),
            // The first one counts: an incarnation has one sentinel.
            Frame::Commitment(hash) => self.commitment = self.commitment.or(Some(*hash)),
            Frame::Data { lane, offset, bytes } => {
                if self.stage != Stage::Open {
                    return Err(Refused::Rule("no data before the circuit is accepted"));
                }
                let from = self.instance;
                let Sink { events, stats, batch } = sink;
                let mut deliver = |channel: Channel, message: Bytes| {
                    stats.messages_delivered += 1;
                    events.push_back(Event::Message { from, lane, channel, message });
                };
                let incoming = &mut self.incoming[lane_index(lane)];
                if self.bug.is(Sabotage::TakeTwice) {
                    incoming.forget(offset, bytes.len());
                }
                incoming.receive(offset, bytes, batch, &mut deliver)?;
                if incoming.wants_grant() {
                    self.credit_due |= 1 << lane_number(lane);
                }
            }
        }
        Ok(())
    }

    fn on_ack(
        &mut self,
        now: Instant,
        ack: &crate::wire::Ack<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Refused> {
        let Some(i) = self.paths.iter().position(|p| p.id.0 == ack.path) else {
            // On its way when the path was removed, or for a path that only the peer knows yet.
            let known = self.retired.iter().any(|p| p.id.0 == ack.path);
            return if known { Ok(()) } else { Err(Refused::Rule("acknowledgements of configured paths")) };
        };
        let outgoing = &mut self.outgoing;
        let path = &mut self.paths[i];
        if let Some(number) = path.mtu.awaited()
            && ack.largest >= number
            && ack.largest < path.recovery.next_number()
            && ack.ranges().any(|(low, high)| (low..=high).contains(&number))
        {
            let size = path.mtu.on_probe_acked(now);
            path.recovery.set_datagram(size);
        }
        let mut count = 0;
        let mtu = &mut path.mtu;
        let acked = |content: &Content| {
            count += 1;
            mtu.on_arrived(content.large);
            for part in content.parts() {
                outgoing[usize::from(part.lane)].on_acked(part.start..part.end);
            }
        };
        let fresh = path.recovery.on_ack(now, ack, acked);
        if fresh.is_err() && self.bug.is(Sabotage::BelieveAnyAck) {
            return Ok(());
        }
        if !fresh.map_err(|_e| Refused::Rule("acknowledgements of packets that were sent"))? {
            return Ok(());
        }
        self.seal.on_acked(ack.path, ack.largest);
        self.answered |= path.probe_from.is_some_and(|n| ack.largest >= n);
        path.count(count, 0);
        path.on_answer(now);
        self.detect_lost(now, i, sink.stats);
        self.choose_path();
        if self.stage == Stage::Open {
            for (lane, outgoing) in Lane::ALL.into_iter().zip(&mut self.outgoing) {
                if outgoing.take_writable() {
                    sink.events.push_back(Event::Writable { peer: self.instance, lane });
                }
            }
        }
        Ok(())
    }

    /// Ends a burst of received packets: acknowledgements are counted per burst.
    pub(crate) fn end_burst(&mut self, now: Instant) {
        for path in &mut self.paths {
            path.received.end_burst(now);
        }
    }

    /// A new turn gives a new budget.
    pub(crate) const fn refill(&mut self, turn: u64, budget: usize) {
        if self.turn != turn {
            self.turn = turn;
            self.budget = budget;
            self.quiet = false;
        }
    }

    /// Asks the peer, on every path, to prove that it lives now; [`Circuit::answered`] tells.
    pub(crate) fn probe(&mut self) {
        self.answered = false;
        for path in &mut self.paths {
            path.ping = true;
            path.probe_from = Some(path.recovery.next_number());
            path.recovery.forget_probes();
        }
    }

    /// Asks the peer on every path for a sign of life.
    pub(crate) fn ask(&mut self) {
        self.paths.iter_mut().for_each(|p| p.ping = true);
    }

    /// Queues a message; `false` if the lane is full.
    pub(crate) fn push(
        &mut self,
        lane: Lane,
        channel: Channel,
        message: Bytes,
        memory: &mut Recycler,
    ) -> bool {
        let outgoing = &mut self.outgoing[lane_index(lane)];
        match &self.codec {
            Some(codec) if lane == Lane::Bulk => push_encoded(&**codec, (outgoing, memory), channel, message),
            _ if lane == Lane::Urgent && self.paths.len() > 1 => {
                outgoing.push_small(channel.0, message, URGENT_TWICE, memory)
            }
            _ => outgoing.push(channel.0, &[], message, memory),
        }
    }

    /// Bytes waiting or unacknowledged in a lane, and the limit.
    pub(crate) fn queue(&self, lane: Lane) -> (usize, usize) {
        let outgoing = &self.outgoing[lane_index(lane)];
        (outgoing.queued(), outgoing.limit())
    }

    /// Bytes in a lane that were not sent once, if the peer answers what is sent.
    pub(crate) fn backlog(&self, lane: Lane) -> Option<usize> {
        let answers = self.paths[self.active].recovery.probes() == 0;
        answers.then(|| self.outgoing[lane_index(lane)].backlog())
    }

    /// The largest message the peer takes, once it said so.
    pub(crate) const fn peer_message_max(&self) -> Option<usize> {
        self.peer_message_max
    }

    /// The layer above has freed memory. What was waiting for it is delivered.
    pub(crate) fn consumed(
        &mut self,
        lane: Lane,
        bytes: usize,
        (events, stats): (&mut VecDeque<Event>, &mut Stats),
    ) {
        let from = self.instance;
        let incoming = &mut self.incoming[lane_index(lane)];
        let mut deliver = |channel: Channel, message: Bytes| {
            stats.messages_delivered += 1;
            events.push_back(Event::Message { from, lane, channel, message });
        };
        if let Err(Refused::Rule(rule)) = incoming.consumed(bytes, &mut deliver) {
            self.fate = Some(Fate::Misbehaved(rule));
        }
        if incoming.wants_grant() {
            self.credit_due |= 1 << lane_number(lane);
        }
    }

    /// Smoothed round-trip time of the path that carries data.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.paths[self.active].recovery.rtt()
    }

    /// The address that data goes to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.paths[self.active].address
    }

    pub(crate) fn check_invariants(&self) {
        self.outgoing.iter().for_each(Outgoing::check_invariants);
        self.incoming.iter().for_each(Incoming::check_invariants);
        self.paths.iter().for_each(|p| p.recovery.check_invariants());
        assert!(
            self.stage == Stage::Open || self.incoming.iter().all(|i| i.memory() == 0),
            "no data before it is open"
        );
    }
}

/// Queues a message in its encoded form, if that is smaller.
fn push_encoded(
    codec: &dyn PacketCodec,
    (outgoing, memory): (&mut Outgoing, &mut Recycler),
    channel: Channel,
    message: Bytes,
) -> bool {
    if message.len() >= ENCODE_MIN {
        let mut encoded = Vec::new();
        if codec.encode(&message, &mut encoded) && encoded.len() < message.len() {
            let mut prefix = vec![ENCODED_FORM];
            prefix.put_length(message.len());
            return outgoing.push(channel.0, &prefix, encoded.into(), memory);
        }
    }
    outgoing.push(channel.0, &[PLAIN_FORM], message, memory)
}

/// Bytes of the clear header, for those who cut datagrams.
pub(crate) const CONTENT: usize = HEADER;

/// Feeds a lane with a stream in pieces, for fuzzers: it is taken or refused, and memory keeps its bound.
#[cfg(any(test, fuzzing, feature = "testing"))]
pub(crate) fn fuzz_stream(encoded: bool, piece: usize, stream: &[u8]) {
    let codec = encoded.then(|| crate::codecs().get("lz4").expect("it is built in"));
    let mut lane = Incoming::new(1 << 16, 1 << 12, codec);
    lane.grant();
    let mut at = 0_u64;
    let mut batch = Batch::default();
    for piece in stream.chunks(piece) {
        let mut got = 0;
        let mut deliver = |_: Channel, message: Bytes| {
            assert!(message.len() <= 1 << 12, "a message keeps its limit");
            got += message.len();
        };
        if lane.receive(at, piece, &mut batch, &mut deliver).is_err() {
            return;
        }
        at += piece.len() as u64;
        lane.check_invariants();
        let mut again = |_: Channel, _: Bytes| {};
        if got > 0 && lane.consumed(got, &mut again).is_err() {
            return;
        }
    }
}
