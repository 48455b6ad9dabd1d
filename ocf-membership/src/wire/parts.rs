use super::{CONTACT_MAX, UPPER_STATE_MAX};
use crate::quorum::VoteConfig;
use crate::{
    Ballot, Cause, ChangeReason, Evidence, LEVEL_MAX, Lag, Member, NODES_MAX, NodeVotes, Proposal,
    UNPROVEN_MAX, View, ViewNumber,
};
use bytes::{BufMut, Bytes};
use core::time::Duration;
use ocf_comm::DownReason;
use pils::wire::{Malformed, ParseError, Reader, VARINT_MAX, Writer};
use pils::{NodeId, NodeInstance};

/// The most causes of a view: who came, who went, who went before.
const CAUSES_MAX: usize = 3 * NODES_MAX;
/// The most instances in a list: two lives of every node.
const INSTANCES_MAX: usize = 2 * NODES_MAX;
/// In the word of the quorum: the revision follows.
const VOTES_REVISED: u32 = 1 << 31;
/// In the word of the quorum of a view: who is unproven follows.
const VIEW_UNPROVEN: u32 = 1 << 31;
/// In the word of the quorum of a view: how far its level is above the first; the quorum itself is less than 2^20.
const VIEW_LEVEL: u32 = 20;
/// In the word of the quorum: what was in force before follows.
const VOTES_BEFORE: u32 = 1 << 30;
/// In the word of the quorum: how nodes are reached follows.
const VOTES_CONTACTS: u32 = 1 << 29;

pub(crate) fn put_ballot(out: &mut Vec<u8>, ballot: Ballot) {
    out.put_u64(ballot.round);
    out.put_instance(ballot.proposer);
}

pub(crate) fn ballot(r: &mut Reader<'_>) -> Result<Ballot, ParseError> {
    Ok(Ballot { round: r.u64("round")?, proposer: r.instance("proposer")? })
}

pub(crate) fn put_number(out: &mut Vec<u8>, number: ViewNumber) {
    out.put_u64(number.0);
}

pub(crate) fn number(r: &mut Reader<'_>) -> Result<ViewNumber, ParseError> {
    Ok(ViewNumber(r.u64("number")?))
}

pub(crate) fn put_instances(out: &mut Vec<u8>, instances: &[NodeInstance]) {
    out.put_length(instances.len());
    for instance in instances {
        out.put_instance(*instance);
    }
}

/// A list of instances, strictly ascending.
pub(crate) fn instances(r: &mut Reader<'_>, field: &'static str) -> Result<Vec<NodeInstance>, ParseError> {
    instances_up_to(r, field, INSTANCES_MAX)
}

/// Those who left and are not proven to have ended: one more than a view may name says that they are too many.
pub(super) fn unproven(r: &mut Reader<'_>) -> Result<Vec<NodeInstance>, ParseError> {
    instances_up_to(r, "unproven", UNPROVEN_MAX + 1)
}

fn instances_up_to(
    r: &mut Reader<'_>,
    field: &'static str,
    most: usize,
) -> Result<Vec<NodeInstance>, ParseError> {
    let n = r.length(field, most)?;
    let mut list: Vec<NodeInstance> = Vec::with_capacity(n.min(r.remaining() / 20));
    for _ in 0..n {
        let instance = r.instance(field)?;
        if list.last().is_some_and(|last| *last >= instance) {
            return Err(r.error(field, Malformed::OutOfRange));
        }
        list.push(instance);
    }
    Ok(list)
}

pub(crate) fn put_members(out: &mut Vec<u8>, members: &[Member]) {
    out.put_length(members.len());
    for m in members {
        out.put_instance(m.instance);
        put_number(out, m.joined);
        out.put_u32(m.votes);
    }
}

/// A list of members, most senior first: strictly ascending by (joined, node).
pub(crate) fn members(r: &mut Reader<'_>) -> Result<Vec<Member>, ParseError> {
    let n = r.length("members", NODES_MAX)?;
    let mut list: Vec<Member> = Vec::with_capacity(n.min(r.remaining() / 32));
    for _ in 0..n {
        let m = Member { instance: r.instance("member")?, joined: number(r)?, votes: r.u32("votes")? };
        let senior = |m: &Member| (m.joined, m.instance.node);
        if list.last().is_some_and(|last| senior(last) >= senior(&m)) {
            return Err(r.error("members", Malformed::OutOfRange));
        }
        list.push(m);
    }
    Ok(list)
}

fn put_reason(out: &mut Vec<u8>, reason: ChangeReason) {
    match reason {
        ChangeReason::Joined => out.put_u8(0),
        ChangeReason::PartlyConnected => out.put_u8(1),
        ChangeReason::NoAnswer => out.put_u8(2),
        ChangeReason::TieWon(Evidence::TieBreaker) => out.put_u8(3),
        ChangeReason::TieWon(Evidence::Ended) => out.put_u8(4),
        ChangeReason::TieWon(Evidence::Operator) => out.put_u8(5),
        ChangeReason::VotesChanged => out.put_u8(6),
        ChangeReason::Evicted(lag) => {
            out.put_u8(if lag.stalled { 7 } else { 8 });
            out.put_varint(micros(lag.lasted));
            out.put_varint(lag.behind.min(VARINT_MAX));
        }
        ChangeReason::Down(down) => match down {
            DownReason::Left => out.put_u8(16),
            DownReason::LastGasp => out.put_u8(17),
            DownReason::Superseded => out.put_u8(18),
            DownReason::Misbehaved => out.put_u8(19),
            DownReason::Silent { for_ } => {
                out.put_u8(20);
                out.put_varint(micros(for_));
            }
            DownReason::Unreachable { for_ } => {
                out.put_u8(22);
                out.put_varint(micros(for_));
            }
            DownReason::Removed => out.put_u8(23),
            DownReason::KeyRevoked => out.put_u8(24),
            DownReason::Forged => out.put_u8(25),
            DownReason::Obituary { resources } => out.put_u8(if resources { 27 } else { 26 }),
            // A reason that a later version of node communication adds: its kind is lost, not its meaning.
            _ => out.put_u8(19),
        },
    }
}

fn reason(r: &mut Reader<'_>) -> Result<ChangeReason, ParseError> {
    Ok(match r.u8("reason")? {
        0 => ChangeReason::Joined,
        1 => ChangeReason::PartlyConnected,
        2 => ChangeReason::NoAnswer,
        3 => ChangeReason::TieWon(Evidence::TieBreaker),
        4 => ChangeReason::TieWon(Evidence::Ended),
        5 => ChangeReason::TieWon(Evidence::Operator),
        6 => ChangeReason::VotesChanged,
        tag @ (7 | 8) => ChangeReason::Evicted(Lag {
            stalled: tag == 7,
            lasted: Duration::from_micros(r.varint("lasted")?),
            behind: r.varint("behind")?,
        }),
        16 => ChangeReason::Down(DownReason::Left),
        17 => ChangeReason::Down(DownReason::LastGasp),
        18 => ChangeReason::Down(DownReason::Superseded),
        19 => ChangeReason::Down(DownReason::Misbehaved),
        26 => ChangeReason::Down(DownReason::Obituary { resources: false }),
        27 => ChangeReason::Down(DownReason::Obituary { resources: true }),
        20 => ChangeReason::Down(DownReason::Silent { for_: Duration::from_micros(r.varint("silence")?) }),
        22 => {
            ChangeReason::Down(DownReason::Unreachable { for_: Duration::from_micros(r.varint("silence")?) })
        }
        23 => ChangeReason::Down(DownReason::Removed),
        24 => ChangeReason::Down(DownReason::KeyRevoked),
        25 => ChangeReason::Down(DownReason::Forged),
        _ => return Err(r.error("reason", Malformed::OutOfRange)),
    })
}

pub(crate) fn put_view(out: &mut Vec<u8>, view: &View) {
    put_number(out, view.number);
    put_ballot(out, view.ballot);
    put_members(out, &view.members);
    put_members(out, &view.previous);
    out.put_length(view.causes.len());
    for cause in &view.causes {
        out.put_instance(cause.instance);
        put_reason(out, cause.reason);
    }
    let level = view.level.saturating_sub(1).min(LEVEL_MAX - 1) << VIEW_LEVEL;
    out.put_u32(view.quorum | level | if view.unproven.is_empty() { 0 } else { VIEW_UNPROVEN });
    if !view.unproven.is_empty() {
        put_instances(out, &view.unproven);
    }
}

pub(crate) fn view(r: &mut Reader<'_>) -> Result<View, ParseError> {
    let (number, ballot) = (number(r)?, ballot(r)?);
    let (members, previous) = (members(r)?, members(r)?);
    if members.is_empty() || number.0 == 0 || members.iter().any(|m| m.joined > number) {
        return Err(r.error("view", Malformed::OutOfRange));
    }
    let n = r.length("causes", CAUSES_MAX)?;
    let mut causes: Vec<Cause> = Vec::with_capacity(n.min(r.remaining() / 21));
    for _ in 0..n {
        causes.push(Cause { instance: r.instance("cause")?, reason: reason(r)? });
    }
    let word = r.u32("quorum")?;
    let unproven = if word & VIEW_UNPROVEN == 0 { Vec::new() } else { unproven(r)? };
    let quorum = word & ((1 << VIEW_LEVEL) - 1);
    let level = ((word & !VIEW_UNPROVEN) >> VIEW_LEVEL) + 1;
    Ok(View { number, ballot, members, previous, causes, quorum, level, unproven })
}

pub(crate) fn put_proposal(out: &mut Vec<u8>, proposal: &Proposal) {
    put_view(out, &proposal.view);
    out.put_length(proposal.states.len());
    for (instance, state) in &proposal.states {
        out.put_instance(*instance);
        out.put_prefixed(state);
    }
}

pub(crate) fn proposal(r: &mut Reader<'_>) -> Result<Proposal, ParseError> {
    let view = view(r)?;
    let n = r.length("states", NODES_MAX)?;
    let mut states = Vec::with_capacity(n.min(r.remaining() / 21));
    for _ in 0..n {
        states.push((r.instance("state of")?, upper_state(r)?));
    }
    Ok(Proposal { view, states })
}

pub(crate) fn upper_state(r: &mut Reader<'_>) -> Result<Bytes, ParseError> {
    let n = r.length("upper state", UPPER_STATE_MAX)?;
    Ok(Bytes::copy_from_slice(r.take("upper state", n)?))
}

pub(crate) fn put_vote_config(out: &mut Vec<u8>, votes: &VoteConfig) {
    put_node_votes(out, &votes.nodes);
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    out.put_u32(
        votes.quorum
            | flag(votes.revision > 0, VOTES_REVISED)
            | flag(votes.before.is_some(), VOTES_BEFORE)
            | flag(!votes.contacts.is_empty(), VOTES_CONTACTS),
    );
    if votes.revision > 0 {
        out.put_u64(votes.revision);
    }
    if !votes.contacts.is_empty() {
        out.put_length(votes.contacts.len());
        votes.contacts.iter().for_each(|contact| put_contact(out, contact));
    }
    if let Some(before) = &votes.before {
        put_vote_config(out, before);
    }
}

pub(crate) fn vote_config(r: &mut Reader<'_>) -> Result<VoteConfig, ParseError> {
    let (mut votes, has_before) = vote_config_alone(r)?;
    if has_before {
        // What was in force before has nothing before it.
        let (before, more) = vote_config_alone(r)?;
        if more {
            return Err(r.error("vote configuration", Malformed::OutOfRange));
        }
        votes.before = Some(Box::new(before));
    }
    Ok(votes)
}

/// A configuration without what was in force before, and whether that follows.
fn vote_config_alone(r: &mut Reader<'_>) -> Result<(VoteConfig, bool), ParseError> {
    let nodes = node_votes(r)?;
    let word = r.u32("quorum")?;
    let revision = if word & VOTES_REVISED == 0 { 0 } else { r.u64("revision")? };
    let quorum = word & !(VOTES_REVISED | VOTES_BEFORE | VOTES_CONTACTS);
    let mut votes = VoteConfig { revision, nodes, quorum, ..VoteConfig::default() };
    if word & VOTES_CONTACTS != 0 {
        for _ in 0..r.length("contacts", NODES_MAX)? {
            let contact = contact(r)?;
            let ascending = votes.contacts.last().is_none_or(|(last, _)| *last < contact.0);
            if !ascending || !votes.lists(contact.0) {
                return Err(r.error("contacts", Malformed::OutOfRange));
            }
            votes.contacts.push(contact);
        }
    }
    Ok((votes, word & VOTES_BEFORE != 0))
}

pub(super) fn put_contact(out: &mut Vec<u8>, (node, address): &(NodeId, Bytes)) {
    out.put_node(*node);
    out.put_prefixed(address);
}

/// How a node is reached.
pub(super) fn contact(r: &mut Reader<'_>) -> Result<(NodeId, Bytes), ParseError> {
    let node = r.node("contact of")?;
    let n = r.length("contact", CONTACT_MAX)?;
    Ok((node, Bytes::copy_from_slice(r.take("contact", n)?)))
}

pub(super) fn put_node_votes(out: &mut Vec<u8>, nodes: &[NodeVotes]) {
    out.put_length(nodes.len());
    for n in nodes {
        out.put_node(n.node);
        out.put_u32(n.votes);
    }
}

/// Nodes with their votes, strictly ascending by node.
pub(super) fn node_votes(r: &mut Reader<'_>) -> Result<Vec<NodeVotes>, ParseError> {
    let n = r.length("vote configuration", NODES_MAX)?;
    let mut nodes: Vec<NodeVotes> = Vec::with_capacity(n.min(r.remaining() / 8));
    for _ in 0..n {
        let entry = NodeVotes::new(r.node("node")?, r.u32("votes")?);
        if nodes.last().is_some_and(|last| last.node >= entry.node) {
            return Err(r.error("vote configuration", Malformed::OutOfRange));
        }
        nodes.push(entry);
    }
    Ok(nodes)
}

/// Microseconds, rounded down; saturates.
pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(VARINT_MAX)
}
