//! The set of nodes changes while the cluster runs: by the change that votes have, one node at a time.

use super::{Bug, Consensus};
use crate::quorum::VoteConfig;
use crate::wire::{CONTACT_MAX, Message, Status};
use crate::{Contact, Event, Member, NODES_MAX, NodeVotes, Output, VotesError};
use bytes::Bytes;
use ocf_comm::DownReason;
use pils::{Instant, NodeId, NodeInstance};
use std::collections::BTreeSet;

/// What shows that a node which is removed does nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Removal {
    /// This node heard how it ended, and of each life that it remembers: it left, or declared its death, or an obituary did. Else
    /// refused ([`VotesError::NotEnded`]).
    Ended,
    /// Whoever orders it answers for it: the node was fenced and that is confirmed, or it is known to be off.
    Confirmed,
}

/// What an order makes of the votes in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Others, for the same nodes.
    Votes,
    /// One more, that is reached so; empty if nobody said how.
    Add(NodeVotes, Bytes),
    Remove(NodeId),
}

impl Change {
    /// The nodes after it, if `in_force` is before it and votes are to be `asked`; `None` if it makes no sense any more.
    pub(super) fn applied(&self, in_force: &VoteConfig, asked: &[NodeVotes]) -> Option<Vec<NodeVotes>> {
        let mut nodes = in_force.nodes.clone();
        match self {
            Self::Votes => return in_force.same_nodes(asked).then(|| asked.to_vec()),
            Self::Add(node, _) => nodes.push(*node),
            Self::Remove(node) => nodes.retain(|n| n.node != *node),
        }
        nodes.sort_unstable();
        Some(nodes)
    }

    /// How the node that it adds is reached, if somebody said so.
    pub(super) fn contact(&self) -> Option<(NodeId, Bytes)> {
        let Self::Add(node, contact) = self else { return None };
        (!contact.is_empty()).then(|| (node.node, contact.clone()))
    }
}

impl Consensus {
    /// Adds a node to the set that [`Config::nodes`](crate::Config::nodes) began, while the cluster runs: from the next view on it
    /// may be talked to and may join. Agreed, durable and told of like [`Consensus::set_votes`]; one order at a time per node, orders
    /// of several nodes are carried out one after the other. With 0 votes it decides nothing until it is given some. Its own
    /// configuration lists the others and itself.
    ///
    /// `contact` says how it is reached, in words that this crate does not read, at most 512 bytes. It is agreed and recorded with the
    /// set, so that every node is told ([`Output::Peers`]), also one that was away or starts again. Empty: who carries out what this
    /// core puts out knows that already.
    ///
    /// # Errors
    /// See [`VotesError`]; nothing has changed then.
    pub fn add_node(&mut self, now: Instant, node: NodeVotes, contact: Bytes) -> Result<(), VotesError> {
        if self.votes.lists(node.node) {
            return Err(VotesError::Listed(node.node));
        }
        if contact.len() > CONTACT_MAX {
            return Err(VotesError::ContactTooLong { bytes: contact.len(), most: CONTACT_MAX });
        }
        self.change_nodes(now, Change::Add(node, contact))
    }

    /// Removes a node that is in no view from the set, while the cluster runs. Agreed by quorums with and without it, so it can never count
    /// again: with its old record and configuration it finds nobody who talks to it, and is told [`Event::Removed`]. If it comes
    /// back before that is agreed, the order is given up ([`Event::VotesNotChanged`]).
    ///
    /// A node that is to be replaced is removed, and added under another id, or under its own with an empty disk.
    ///
    /// # Errors
    /// [`VotesError::StillMember`], [`VotesError::NotEnded`], and others; nothing has changed then.
    pub fn remove_node(&mut self, now: Instant, node: NodeId, why: Removal) -> Result<(), VotesError> {
        if !self.votes.lists(node) {
            return Err(VotesError::NotListed(node));
        }
        let member = self.view().is_some_and(|v| v.members.iter().any(|m| m.instance.node == node));
        let acts = member || node == self.local.node || self.up.iter().any(|p| p.node == node);
        if acts && !self.is_sabotaged(Bug::RemovesMembers) {
            return Err(VotesError::StillMember(node));
        }
        let mut ends = self.down.iter().filter(|(i, _)| i.node == node).map(|(_, reason)| *reason).peekable();
        let ended = ends.peek().is_some() && ends.all(DownReason::is_proof_of_death);
        if why == Removal::Ended && !ended {
            return Err(VotesError::NotEnded(node));
        }
        self.change_nodes(now, Change::Remove(node))
    }

    fn change_nodes(&mut self, now: Instant, change: Change) -> Result<(), VotesError> {
        if self.config.policy.weigh(&self.config.sorted_nodes()) != self.config.sorted_nodes() {
            return Err(VotesError::Weighed { policy: self.config.policy.name() });
        }
        let nodes = change.applied(&self.votes, &[]).unwrap_or_default();
        self.order(now, change, nodes)
    }

    /// True if `members`, and whoever takes part in the ballot, are all in the set that `votes` lists: nobody leaves it who may act.
    pub(super) fn leaves_nobody(
        &self,
        votes: &VoteConfig,
        candidates: &[NodeInstance],
        members: &[Member],
    ) -> bool {
        let members = members.iter().map(|m| m.instance);
        let mut acting = candidates.iter().copied().chain(members);
        self.is_sabotaged(Bug::RemovesMembers) || acting.all(|i| votes.lists(i.node))
    }

    /// True if this node takes part in agreements with `node`: it is in the set, or was before a change that may not be agreed.
    pub(super) fn is_peer(&self, node: NodeId) -> bool {
        let before = self.votes.before.as_ref();
        self.votes.lists(node)
            || before.is_some_and(|b| b.lists(node))
            || self.is_sabotaged(Bug::LetsStrangersIn)
    }

    /// A peer can be talked to that is not in the set: it may be added, or does not know that it was removed.
    pub(super) fn on_stranger(&mut self, peer: NodeInstance) {
        self.strangers.retain(|p| p.node != peer.node);
        if self.strangers.len() < NODES_MAX {
            self.strangers.insert(peer);
            let (levels, in_force) = (self.config.levels, self.level());
            self.send(peer, &Message::Levels { levels, in_force });
            let status = self.status();
            self.send(peer, &Message::Status(status));
        }
    }

    /// Other votes count, as far as this node knows: who was a stranger may be a peer now, and the other way round.
    pub(super) fn replace_votes(&mut self, now: Instant, votes: VoteConfig) {
        let was = core::mem::replace(&mut self.votes, votes);
        self.tell_peers(&was);
        let listed = |p: &NodeInstance| self.is_peer(p.node);
        let out: Vec<NodeInstance> = self.up.iter().copied().filter(|p| !listed(p)).collect();
        let new: Vec<NodeInstance> = self.strangers.iter().copied().filter(listed).collect();
        for peer in out {
            self.up.remove(&peer);
            if let Some(status) = self.statuses.remove(&peer) {
                self.parked.insert(peer, status);
            }
            self.on_stranger(peer);
            self.on_candidate_down(now, peer);
        }
        for peer in new {
            self.strangers.remove(&peer);
            self.on_up(now, peer);
        }
        self.dirty = true;
    }

    /// Tells whom this node must be able to talk to, if that is not who it `was`. A node is let go once it is certain that it was
    /// removed; one that was only to be added stays, since it may be added again.
    pub(super) fn tell_peers(&mut self, was: &VoteConfig) {
        let certain = was.before.as_deref().unwrap_or(was);
        let gone = certain.nodes.iter().map(|n| n.node).filter(|node| !self.is_peer(*node));
        let removed: Vec<NodeId> = gone.filter(|node| *node != self.local.node).collect();
        let (peers, known) = (self.peers_in(&self.votes), self.peers_in(was));
        if peers != known || !removed.is_empty() {
            self.outputs.push_back(Output::Peers { peers, removed });
        }
    }

    /// Whom a node that knows these votes talks to, sorted.
    fn peers_in(&self, votes: &VoteConfig) -> Vec<Contact> {
        let before = votes.before.iter().flat_map(|b| &b.nodes);
        let nodes: BTreeSet<NodeId> = votes.nodes.iter().chain(before).map(|n| n.node).collect();
        let others = nodes.into_iter().filter(|node| *node != self.local.node);
        others.map(|node| Contact { node, address: votes.contact(node) }).collect()
    }

    /// What was in force before the votes of this revision, if this node accepted them and does not know whether they were agreed. Whoever
    /// tells of them as certain may know that from one who is gone.
    fn before_accepted(&self, revision: u64) -> Option<Box<VoteConfig>> {
        let accept = &self.accepted.as_ref()?.accept;
        (accept.votes.revision == revision).then(|| accept.votes.before.clone()).flatten()
    }

    /// Learns from a peer which votes are in force, so that this node does not take a few for enough, nor wait for too many, nor
    /// for nodes that were removed. What is agreed rests on what views say, not on this. Votes of a number that this node knows to be
    /// agreed without them were refuted; and who knows a view agreed that this node does not knows which were, too.
    pub(super) fn hear_votes(&mut self, now: Instant, status: &Status) {
        let agreed = self.chosen.as_ref().map_or(0, |(view, _)| view.number.0);
        let known = status.known.as_ref().map_or(0, |k| k.number.0);
        let theirs = self.in_force(status.votes.as_ref());
        let from_view = theirs.revision > self.configured.revision;
        let certain = known > agreed && (!from_view || theirs.revision <= known);
        let newer = from_view && theirs.revision > agreed.max(self.votes.revision);
        let told = || status.votes.as_ref().and_then(|v| v.before.clone());
        let before = if certain { None } else { told().or_else(|| self.before_accepted(theirs.revision)) };
        let wider = agreed < theirs.revision && theirs == self.votes && before.is_some();
        if newer || wider || certain && known >= self.votes.revision && theirs != self.votes {
            // Until it is certain, nodes that were in the set before are needed, and may start ballots.
            self.replace_votes(now, VoteConfig { before, ..theirs.clone() });
        }
        if self.votes.lists(self.local.node) {
            self.removed = false;
        } else if certain && theirs == self.votes && self.was_member && !self.removed {
            self.removed = true;
            let VoteConfig { revision, nodes, .. } = self.votes.clone();
            self.event(Event::Removed { revision, nodes });
        }
    }
}
