//! Which builds can be members of one view, and at which level that is.

use super::{Bug, Consensus};
use crate::quorum::VoteConfig;
use crate::wire::Message;
use crate::{Event, Levels};
use pils::NodeInstance;
use std::collections::BTreeMap;

/// What was heard of levels, and said.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard {
    /// What each peer speaks, and the level of the newest view that it knows.
    peers: BTreeMap<NodeInstance, (Levels, u32)>,
    /// The level in force that was told to all who are up.
    announced: Option<u32>,
    /// A proposal that may have been agreed had this one.
    floor: u32,
    /// Of whom the layers above were told that they do not fit, and for which level.
    told: BTreeMap<NodeInstance, u32>,
}

impl Consensus {
    pub(super) fn on_levels(&mut self, from: NodeInstance, levels: Levels, in_force: u32) {
        self.levels.peers.retain(|peer, _| peer.node != from.node);
        self.levels.peers.insert(from, (levels, in_force));
        self.dirty = true;
    }

    /// A peer is up, perhaps for the first time.
    pub(super) const fn tell_levels_anew(&mut self) {
        self.levels.announced = None;
    }

    /// Tells everybody what this node speaks, before anything else.
    pub(super) fn announce_levels(&mut self) {
        let in_force = self.level();
        if self.levels.announced.replace(in_force) == Some(in_force) {
            return;
        }
        let peers: Vec<NodeInstance> = self.up.iter().chain(&self.strangers).copied().collect();
        self.send_all(&peers, &Message::Levels { levels: self.config.levels, in_force });
    }

    /// The level that the cluster runs at, as far as this node knows; zero before the first view.
    pub(super) fn level(&self) -> u32 {
        let own = self.chosen.as_ref().map(|(view, _)| view.level);
        let heard = self.levels.peers.iter().filter(|(peer, _)| self.up.contains(peer));
        let heard = heard.map(|(_, (_, in_force))| *in_force);
        own.into_iter().chain(heard).max().unwrap_or(0).max(self.levels.floor)
    }

    fn levels_of(&self, instance: NodeInstance) -> Levels {
        if instance == self.local {
            return self.config.levels;
        }
        self.levels.peers.get(&instance).map_or(Levels::FIRST, |(levels, _)| *levels)
    }

    /// True if `instance` can be a member of the next view.
    pub(super) fn speaks(&self, instance: NodeInstance) -> bool {
        self.speaks_at(self.level(), instance)
    }

    /// The same, where `level` is the one in force.
    pub(super) fn speaks_at(&self, level: u32, instance: NodeInstance) -> bool {
        level == 0 || self.levels_of(instance).include(level) || self.is_sabotaged(Bug::FallsBack)
    }

    /// The highest level that all of them speak, and the lowest.
    fn common(&self, candidates: &[NodeInstance]) -> (u32, u32) {
        let all = || candidates.iter().map(|c| self.levels_of(*c));
        (all().map(|l| l.newest).min().unwrap_or(1), all().map(|l| l.oldest).max().unwrap_or(1))
    }

    /// The level of a fresh view after one of level `in_force` (zero: none). It rises once every node of the set is there and speaks more:
    /// one that is away may come back as it was. `Err` with a level that somebody does not speak.
    pub(super) fn next_level(
        &self,
        in_force: u32,
        votes: &VoteConfig,
        candidates: &[NodeInstance],
    ) -> Result<u32, u32> {
        let (newest, oldest) = self.common(candidates);
        if self.is_sabotaged(Bug::FallsBack) {
            return Ok(newest);
        }
        let level = if votes.all_present(candidates) {
            newest.max(in_force)
        } else if in_force > 0 {
            in_force
        } else {
            oldest
        };
        let fits = candidates.iter().all(|c| self.levels_of(*c).include(level));
        if fits { Ok(level) } else { Err(level) }
    }

    /// Who does not speak this level is no candidate.
    pub(super) fn demand_level(&mut self, level: u32) {
        self.levels.floor = self.levels.floor.max(level);
        self.dirty = true;
    }

    /// A view is agreed: what was only possible is not asked for any more.
    pub(super) const fn forget_floor(&mut self) {
        self.levels.floor = 0;
    }

    /// True if the view that this node is in can be followed by one of a higher level.
    pub(super) fn may_rise(&self, candidates: &[NodeInstance]) -> bool {
        let Some(view) = self.view() else { return false };
        self.votes.all_present(candidates) && self.common(candidates).0 > view.level
    }

    /// Tells the layers above which peers this node cannot be in a view with.
    pub(super) fn tell_incompatible(&mut self) {
        let (level, ours) = (self.level(), self.config.levels);
        self.levels.told.retain(|peer, _| self.up.contains(peer));
        if level == 0 {
            return;
        }
        // One that has not told its status has not told its levels either.
        let judged = self.up.iter().filter(|peer| self.statuses.contains_key(peer));
        let apart = |peer: &&NodeInstance| ours.include(level) != self.levels_of(**peer).include(level);
        let apart: Vec<NodeInstance> = judged.filter(apart).copied().collect();
        for peer in apart {
            if self.levels.told.insert(peer, level) != Some(level) {
                let theirs = self.levels_of(peer);
                tracing::warn!(node = %self.local, %peer, level, %ours, %theirs, "the levels do not fit");
                self.event(Event::Incompatible { peer, level, ours, theirs });
            }
        }
    }
}
