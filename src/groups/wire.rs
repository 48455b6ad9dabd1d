//! What a program and the group service of the node beside it say to each other: records in frames of bytes.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the events of groups are open-ended: what has no form is not told"
)]

use bytes::{Bytes, BytesMut};
use core::time::Duration;
use ocf_groups::{Event, Guarantee, MemberId, Position};
use ocf_membership::{Lag, View, ViewNumber};
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use pils::{NodeInstance, Value};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// The service's name.
pub(crate) const SERVICE: &str = "groups";
/// The method that takes records.
pub(crate) const SAY: &str = "say";
/// Bytes of records in one frame, about: a message of 64 KiB and some small ones fit.
pub(crate) const FRAME: usize = 128 << 10;
/// Bytes that the head of a record takes, at most, if it carries a payload.
const HEAD: usize = 128;
/// What a program may have sent that the node has not handed in.
pub(crate) const WINDOW: usize = 2 << 20;
/// What an event counts beside its payload, of what a program has not taken.
const EVENT_COST: usize = 128;
/// Members that one record names, at most: as many as a group may have, and more.
const MEMBERS_MAX: usize = 1 << 20;

/// What the node says to a program that greets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// Largest message.
    pub(crate) message_max: u64,
    /// Largest state.
    pub(crate) state_max: u64,
    /// What may be on its way to the node.
    pub(crate) window: u64,
}

/// What the node says of the program's window: bytes that were handed in. Beside the records, which may be in the midst of a payload.
pub(crate) fn credit(bytes: usize) -> Value {
    i64::try_from(bytes).unwrap_or(i64::MAX).into()
}

/// Reads what [`credit`] wrote.
pub(crate) fn read_credit(value: Value) -> Option<usize> {
    i64::try_from(value).ok().and_then(|bytes| usize::try_from(bytes).ok())
}

/// A join that was accepted, or not.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Joined {
    /// The member's number on its node.
    pub(crate) local: u32,
    /// The group's number between the two.
    pub(crate) group: u32,
    /// So many members has the node, which takes no more.
    #[serde(default)]
    pub(crate) too_many: Option<u64>,
}

/// What the node counts as not taken for an event.
pub(crate) fn cost(event: &Event) -> usize {
    EVENT_COST
        + match event {
            Event::Message { payload, .. } | Event::Fifo { payload, .. } => payload.len(),
            Event::State { state, .. } => state.len(),
            _ => 0,
        }
}

/// Writes records into frames.
#[derive(Debug, Default)]
pub(crate) struct Packer {
    frame: Vec<u8>,
    full: VecDeque<Bytes>,
}

impl Packer {
    /// The next whole frame.
    pub(crate) fn next_full(&mut self) -> Option<Bytes> {
        self.full.pop_front()
    }

    /// Ends the frame that was begun.
    pub(crate) fn finish(&mut self) {
        if !self.frame.is_empty() {
            // The next is as long, if there are many.
            let next = if self.frame.len() >= FRAME / 4 { FRAME + HEAD } else { 0 };
            let frame = core::mem::replace(&mut self.frame, Vec::with_capacity(next));
            self.full.push_back(frame.into());
        }
    }

    fn record(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.frame);
        if self.frame.len() >= FRAME {
            self.finish();
        }
    }

    /// A record that carries bytes. What fits no frame goes on in the next ones.
    fn carry(&mut self, payload: &[u8], head: impl FnOnce(&mut Vec<u8>)) {
        if !self.frame.is_empty() && self.frame.len() + HEAD + payload.len() > FRAME {
            self.finish();
        }
        head(&mut self.frame);
        self.frame.put_length(payload.len());
        let mut rest = payload;
        loop {
            let room = FRAME.saturating_sub(self.frame.len()).min(rest.len());
            let (now, later) = rest.split_at(room);
            self.frame.extend_from_slice(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
            self.finish();
        }
        if self.frame.len() >= FRAME {
            self.finish();
        }
    }

    pub(crate) fn send(&mut self, (local, life): (u32, u64), guarantee: Guarantee, payload: &[u8]) {
        self.carry(payload, |out| {
            out.push(1);
            out.put_varint(local.into());
            out.put_varint(life);
            out.push(guarantee as u8);
        });
    }

    pub(crate) fn offer(&mut self, group: u32, joiner: MemberId, position: Position, state: &[u8]) {
        self.carry(state, |out| {
            out.push(2);
            out.put_varint(group.into());
            out.put_instance(joiner.instance);
            out.put_varint(joiner.local.into());
            put_position(out, position);
        });
    }

    pub(crate) fn leave(&mut self, (local, life): (u32, u64)) {
        self.record(|out| {
            out.push(3);
            out.put_varint(local.into());
            out.put_varint(life);
        });
    }

    pub(crate) fn took(&mut self, bytes: usize) {
        self.record(|out| {
            out.push(4);
            out.put_length(bytes);
        });
    }

    pub(crate) fn standing(&mut self, standing: crate::Standing) {
        use crate::Standing::{NonPrimary, Primary, Suspended};
        self.record(|out| {
            out.push(11);
            out.push(match standing {
                NonPrimary => 0,
                Primary => 1,
                Suspended => 2,
            });
        });
    }

    pub(crate) fn gone(&mut self, group: u32, local: u32) {
        self.record(|out| {
            out.push(13);
            out.put_varint(group.into());
            out.put_varint(local.into());
        });
    }

    /// An event of the group that has this number between the two. False if there is no form for it.
    pub(crate) fn event(&mut self, nodes: &mut Nodes, group: u32, event: &Event) -> bool {
        match event {
            Event::Message { sender, position, guarantee, payload, .. } => {
                let node = nodes.number(self, sender.instance);
                self.carry(payload, |out| {
                    out.push(1);
                    out.put_varint(group.into());
                    put_member(out, node, sender.local);
                    put_position(out, *position);
                    out.push(*guarantee as u8);
                });
            }
            Event::Fifo { sender, view, number, payload, .. } => {
                let node = nodes.number(self, sender.instance);
                self.carry(payload, |out| {
                    out.push(2);
                    out.put_varint(group.into());
                    put_member(out, node, sender.local);
                    out.put_varint(view.0);
                    out.put_varint(*number);
                });
            }
            Event::State { member, position, state, .. } => {
                let node = nodes.number(self, member.instance);
                self.carry(state, |out| {
                    out.push(5);
                    out.put_varint(group.into());
                    put_member(out, node, member.local);
                    put_position(out, *position);
                });
            }
            other => return self.rare(nodes, group, other),
        }
        true
    }

    fn rare(&mut self, nodes: &mut Nodes, group: u32, event: &Event) -> bool {
        match event {
            Event::Membership { position, members, joined, left, .. } => {
                let lists = [members, joined, left].map(|list| {
                    list.iter().map(|m| (nodes.number(self, m.instance), m.local)).collect::<Vec<_>>()
                });
                self.record(|out| {
                    out.push(3);
                    out.put_varint(group.into());
                    put_position(out, *position);
                    for list in lists {
                        out.put_length(list.len());
                        list.into_iter().for_each(|(node, local)| put_member(out, node, local));
                    }
                });
            }
            Event::StateWanted { joiner, position, .. } => {
                self.of_member((4, group), nodes, *joiner, Some(*position));
            }
            Event::StateLost { member, position, .. } => {
                self.of_member((6, group), nodes, *member, Some(*position));
            }
            Event::Reset { member, .. } => self.of_member((7, group), nodes, *member, None),
            Event::Refused { member, .. } => self.of_member((8, group), nodes, *member, None),
            Event::Evicted { view, lag } => self.record(|out| {
                out.push(9);
                out.put_varint(view.0);
                out.push(u8::from(lag.stalled));
                out.put_varint(u64::try_from(lag.lasted.as_micros()).unwrap_or(0));
                out.put_varint(lag.behind);
            }),
            Event::View(view) => {
                nodes.0.clear();
                self.record(|out| {
                    out.push(10);
                    view.write(out);
                });
            }
            _ => return false,
        }
        true
    }

    fn of_member(
        &mut self,
        (kind, group): (u8, u32),
        nodes: &mut Nodes,
        member: MemberId,
        position: Option<Position>,
    ) {
        let node = nodes.number(self, member.instance);
        self.record(|out| {
            out.push(kind);
            out.put_varint(group.into());
            put_member(out, node, member.local);
            if let Some(position) = position {
                put_position(out, position);
            }
        });
    }
}

fn put_member(out: &mut Vec<u8>, node: u32, local: u32) {
    out.put_varint(node.into());
    out.put_varint(local.into());
}

fn put_position(out: &mut Vec<u8>, position: Position) {
    out.put_varint(position.view.0);
    out.put_varint(position.sequence);
}

/// Lives of nodes that have a number in the stream to a program, since the last view.
#[derive(Debug, Default)]
pub(crate) struct Nodes(Vec<NodeInstance>);

impl Nodes {
    /// The number of a life. One that has none is given the next, and the program is told. There are few.
    fn number(&mut self, packer: &mut Packer, instance: NodeInstance) -> u32 {
        let at = self.0.iter().position(|known| *known == instance).unwrap_or_else(|| {
            packer.record(|out| {
                out.push(12);
                out.put_instance(instance);
            });
            self.0.push(instance);
            self.0.len() - 1
        });
        u32::try_from(at).unwrap_or(u32::MAX)
    }
}

/// What a program says. A payload stands beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Send { local: u32, life: u64, guarantee: Guarantee },
    Offer { group: u32, joiner: MemberId, position: Position },
    Leave { local: u32, life: u64 },
    Took(u64),
}

impl Said {
    /// A record, and the length of its payload if it has one.
    pub(crate) fn read(r: &mut Reader<'_>) -> Result<(Self, Option<usize>), ParseError> {
        match r.u8("kind")? {
            1 => {
                let (local, life) = (number(r, "member")?, r.varint("membership")?);
                let said = Self::Send { local, life, guarantee: guarantee(r)? };
                Ok((said, Some(r.length("payload", usize::MAX)?)))
            }
            2 => {
                let group = number(r, "group")?;
                let joiner = MemberId { instance: r.instance("joiner")?, local: number(r, "joiner")? };
                let said = Self::Offer { group, joiner, position: position(r)? };
                Ok((said, Some(r.length("state", usize::MAX)?)))
            }
            3 => {
                let (local, life) = (number(r, "member")?, r.varint("membership")?);
                Ok((Self::Leave { local, life }, None))
            }
            4 => Ok((Self::Took(r.varint("bytes")?), None)),
            _ => Err(r.error("kind", Malformed::OutOfRange)),
        }
    }
}

fn number(r: &mut Reader<'_>, field: &'static str) -> Result<u32, ParseError> {
    let number = r.varint(field)?;
    u32::try_from(number).map_err(|_large| r.error(field, Malformed::OutOfRange))
}

fn guarantee(r: &mut Reader<'_>) -> Result<Guarantee, ParseError> {
    let all = [Guarantee::Fifo, Guarantee::Agreed, Guarantee::Safe];
    let given = r.u8("guarantee")?;
    let found = all.into_iter().find(|g| *g as u8 == given);
    found.ok_or_else(|| r.error("guarantee", Malformed::OutOfRange))
}

fn position(r: &mut Reader<'_>) -> Result<Position, ParseError> {
    Ok(Position { view: ViewNumber(r.varint("view")?), sequence: r.varint("sequence")? })
}

/// What the node says. A payload stands beside it, and groups are numbers.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    Message {
        group: u32,
        sender: MemberId,
        position: Position,
        guarantee: Guarantee,
    },
    Fifo {
        group: u32,
        sender: MemberId,
        view: ViewNumber,
        number: u64,
    },
    Membership {
        group: u32,
        position: Position,
        lists: [Vec<MemberId>; 3],
    },
    StateWanted {
        group: u32,
        joiner: MemberId,
        position: Position,
    },
    State {
        group: u32,
        member: MemberId,
        position: Position,
    },
    StateLost {
        group: u32,
        member: MemberId,
        position: Position,
    },
    Reset {
        group: u32,
        member: MemberId,
    },
    Refused {
        group: u32,
        member: MemberId,
    },
    Evicted {
        view: ViewNumber,
        lag: Lag,
    },
    View(View),
    Standing(crate::Standing),
    Gone {
        group: u32,
        local: u32,
    },
    /// A life of a node has a number now.
    Node,
}

impl Told {
    /// A record, and the length of its payload if it has one. `nodes` are those that have a number.
    pub(crate) fn read(
        r: &mut Reader<'_>,
        nodes: &mut Vec<NodeInstance>,
    ) -> Result<(Self, Option<usize>), ParseError> {
        let kind = r.u8("kind")?;
        let told = match kind {
            1..=8 => return Self::of_group(kind, r, nodes),
            9 => {
                let view = ViewNumber(r.varint("view")?);
                let stalled = r.u8("stalled")? != 0;
                let lasted = Duration::from_micros(r.varint("lasted")?);
                Self::Evicted { view, lag: Lag { stalled, lasted, behind: r.varint("behind")? } }
            }
            10 => {
                nodes.clear();
                Self::View(View::read(r)?)
            }
            11 => Self::Standing(match r.u8("standing")? {
                0 => crate::Standing::NonPrimary,
                1 => crate::Standing::Primary,
                2 => crate::Standing::Suspended,
                _ => return Err(r.error("standing", Malformed::OutOfRange)),
            }),
            12 => {
                nodes.push(r.instance("node")?);
                Self::Node
            }
            13 => Self::Gone { group: number(r, "group")?, local: number(r, "member")? },
            _ => return Err(r.error("kind", Malformed::OutOfRange)),
        };
        Ok((told, None))
    }

    fn of_group(
        kind: u8,
        r: &mut Reader<'_>,
        nodes: &[NodeInstance],
    ) -> Result<(Self, Option<usize>), ParseError> {
        let group = number(r, "group")?;
        if kind == 3 {
            let position = position(r)?;
            let mut lists: [Vec<MemberId>; 3] = Default::default();
            for list in &mut lists {
                for _ in 0..r.length("members", MEMBERS_MAX)? {
                    list.push(member(r, nodes)?);
                }
            }
            return Ok((Self::Membership { group, position, lists }, None));
        }
        let who = member(r, nodes)?;
        let told = match kind {
            1 => {
                let told =
                    Self::Message { group, sender: who, position: position(r)?, guarantee: guarantee(r)? };
                return Ok((told, Some(r.length("payload", usize::MAX)?)));
            }
            2 => {
                let view = ViewNumber(r.varint("view")?);
                let told = Self::Fifo { group, sender: who, view, number: r.varint("number")? };
                return Ok((told, Some(r.length("payload", usize::MAX)?)));
            }
            5 => {
                let told = Self::State { group, member: who, position: position(r)? };
                return Ok((told, Some(r.length("state", usize::MAX)?)));
            }
            4 => Self::StateWanted { group, joiner: who, position: position(r)? },
            6 => Self::StateLost { group, member: who, position: position(r)? },
            7 => Self::Reset { group, member: who },
            _ => Self::Refused { group, member: who },
        };
        Ok((told, None))
    }
}

fn member(r: &mut Reader<'_>, nodes: &[NodeInstance]) -> Result<MemberId, ParseError> {
    let node = usize::try_from(number(r, "node")?).unwrap_or(usize::MAX);
    let instance = *nodes.get(node).ok_or_else(|| r.error("node", Malformed::OutOfRange))?;
    Ok(MemberId { instance, local: number(r, "member")? })
}

/// Reads records from frames.
#[derive(Debug)]
pub(crate) struct Unpacker<H> {
    /// A payload of which more is to come: whose, what is here, how long it is.
    part: Option<(H, BytesMut, usize)>,
}

impl<H> Default for Unpacker<H> {
    fn default() -> Self {
        Self { part: None }
    }
}

impl<H> Unpacker<H> {
    /// Hands every whole record of a frame to `each`. Payloads are not copied, but for those in pieces.
    pub(crate) fn feed(
        &mut self,
        frame: &Bytes,
        mut read: impl FnMut(&mut Reader<'_>) -> Result<(H, Option<usize>), ParseError>,
        payload_max: impl Fn(&H) -> usize,
        mut each: impl FnMut(H, Bytes),
    ) -> Result<(), ParseError> {
        let mut at = 0;
        if let Some((head, mut bytes, total)) = self.part.take() {
            at = (total - bytes.len()).min(frame.len());
            bytes.extend_from_slice(&frame[..at]);
            if bytes.len() < total {
                self.part = Some((head, bytes, total));
                return Ok(());
            }
            each(head, bytes.freeze());
        }
        while at < frame.len() {
            let mut r = Reader::new(&frame[at..]);
            let (head, total) = read(&mut r)?;
            at += r.position();
            let Some(total) = total else {
                each(head, Bytes::new());
                continue;
            };
            if total > payload_max(&head) {
                return Err(ParseError { field: "payload", at, reason: Malformed::OutOfRange });
            }
            if let Some(whole) = at.checked_add(total).filter(|end| *end <= frame.len()) {
                each(head, frame.slice(at..whole));
                at = whole;
            } else {
                // Only what is here is paid for in advance, not what is announced.
                let mut bytes = BytesMut::with_capacity(total.min(frame.len().saturating_mul(16)));
                bytes.extend_from_slice(&frame[at..]);
                self.part = Some((head, bytes, total));
                at = frame.len();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId};
    use proptest::prelude::{prop_assert, proptest};
    use std::sync::Arc;

    fn life(node: u32) -> NodeInstance {
        NodeInstance::new(NodeId::new(node), Incarnation::new(u128::from(node) << 70))
    }

    fn member(node: u32) -> MemberId {
        MemberId { instance: life(node), local: (1 << 31) + node }
    }

    fn frames(packer: &mut Packer) -> Vec<Bytes> {
        packer.finish();
        core::iter::from_fn(|| packer.next_full()).collect()
    }

    fn told(frames: &[Bytes]) -> Vec<(Told, Bytes)> {
        let (mut unpacker, mut nodes, mut out) = (Unpacker::default(), Vec::new(), Vec::new());
        for frame in frames {
            let read = |r: &mut Reader<'_>| Told::read(r, &mut nodes);
            unpacker.feed(frame, read, |_| usize::MAX, |head, bytes| out.push((head, bytes))).unwrap();
        }
        out.retain(|(told, _)| *told != Told::Node);
        out
    }

    fn position(sequence: u64) -> Position {
        Position { view: ViewNumber(7), sequence }
    }

    #[test]
    fn events_come_as_they_were_and_large_ones_in_pieces() {
        let (mut packer, mut nodes) = (Packer::default(), Nodes::default());
        let group: Arc<str> = Arc::from("g");
        let sizes = [0, 1, 1000, FRAME - 1, FRAME, FRAME + 1, 5 * FRAME + 3];
        for (sequence, size) in (1..).zip(sizes) {
            let (sender, payload) = (member(sequence % 3), Bytes::from(vec![9; size]));
            let position = position(sequence.into());
            let guarantee = Guarantee::Safe;
            let event = Event::Message { group: Arc::clone(&group), sender, position, guarantee, payload };
            assert!(packer.event(&mut nodes, 5, &event));
        }
        let frames = frames(&mut packer);
        assert!(frames.iter().all(|frame| frame.len() <= FRAME + HEAD), "no frame is much longer");
        let heard = told(&frames);
        assert_eq!(heard.len(), sizes.len());
        for ((sequence, size), (told, payload)) in (1..).zip(sizes).zip(heard) {
            let (sender, position) = (member(sequence % 3), position(sequence.into()));
            assert_eq!(told, Told::Message { group: 5, sender, position, guarantee: Guarantee::Safe });
            assert_eq!(payload.len(), size);
            assert!(payload.iter().all(|byte| *byte == 9));
        }
    }

    #[test]
    fn what_a_program_says_comes_in_its_order() {
        let mut packer = Packer::default();
        packer.send((1 << 31, 3), Guarantee::Fifo, b"one");
        packer.offer(2, member(1), position(4), &[1; 3 * FRAME]);
        packer.leave((1 << 31, 3));
        packer.took(77);
        let (mut unpacker, mut heard) = (Unpacker::default(), Vec::new());
        for frame in frames(&mut packer) {
            let each = |said, bytes: Bytes| heard.push((said, bytes.len()));
            unpacker.feed(&frame, Said::read, |_| usize::MAX, each).unwrap();
        }
        let local = 1 << 31;
        let offer = Said::Offer { group: 2, joiner: member(1), position: position(4) };
        let said = [
            (Said::Send { local, life: 3, guarantee: Guarantee::Fifo }, 3),
            (offer, 3 * FRAME),
            (Said::Leave { local, life: 3 }, 0),
            (Said::Took(77), 0),
        ];
        assert_eq!(heard, said);
    }

    proptest! {
        /// Bytes of a stranger panic nowhere, and take no more memory than they are.
        #[test]
        fn no_bytes_do_harm(frames: Vec<Vec<u8>>) {
            let (mut said, mut heard, mut nodes) = (Unpacker::default(), Unpacker::default(), Vec::new());
            for frame in frames.into_iter().map(Bytes::from) {
                let mut bytes = 0;
                let read = said.feed(&frame, Said::read, |_| 1 << 20, |_, payload| bytes += payload.len());
                prop_assert!(read.is_err() || bytes <= 64 << 10);
                let read = |r: &mut Reader<'_>| Told::read(r, &mut nodes);
                if heard.feed(&frame, read, |_| 1 << 20, |_, _| {}).is_err() {
                    heard = Unpacker::default();
                }
            }
        }
    }

    #[test]
    fn what_announces_too_much_or_is_no_record_is_refused() {
        let mut packer = Packer::default();
        packer.send((1 << 31, 0), Guarantee::Agreed, &[0; 1000]);
        let frame = &frames(&mut packer)[0];
        let feed = |frame: &Bytes, max| {
            Unpacker::default().feed(frame, Said::read, |_| max, |_, _| panic!("nothing is whole"))
        };
        assert!(feed(frame, 999).is_err());
        assert!(feed(&Bytes::from_static(&[77, 1, 2, 3]), usize::MAX).is_err());
        for cut in 1..10 {
            assert!(feed(&frame.slice(..cut.min(6)), 1000).is_err(), "{cut} bytes are no record");
        }
        assert_eq!(feed(&frame.slice(..20), 1000), Ok(()), "more is to come");
    }
}
