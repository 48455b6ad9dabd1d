//! Operations on trees that this node masters.

use super::queue::{Effect, Effects, Holder, Queues, Terms, ValueNews};
use super::tree::{Mastered, Route, Tree};
use super::{Engine, sabotaged};
use crate::wire::{Answer, Convert, Item, Key, Name, NewOwner, Refusal, Request, Unlock};
use crate::{FencingToken, Flags, Mode};
use pils::NodeInstance;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most locks of one tree at its master.
const TREE_LOCKS_MAX: usize = 1 << 24;

impl Engine {
    /// Becomes the master of a tree that it asked for. False, and nothing changes, if it did not, or is already.
    pub(crate) fn become_master(
        &mut self,
        name: &Name,
        token: FencingToken,
        suspects: BTreeSet<NodeInstance>,
    ) -> bool {
        match self.trees.find_mut(name) {
            Some((place, tree)) if matches!(tree.route, Route::Looking(true)) => {
                if !suspects.is_empty() {
                    self.haunted.insert(place);
                }
                tree.route = Route::Here(Box::new(Mastered::new(token, suspects)));
                self.mastering += 1;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn mastered(&mut self, tree: &Name) -> Option<&mut Mastered> {
        self.trees.get_mut(tree).and_then(Tree::mastered_mut)
    }

    /// A request for a new lock. `keeper`: who forwarded it, if the directory did.
    pub(crate) fn on_request(
        &mut self,
        origin: NodeInstance,
        keeper: Option<NodeInstance>,
        request: Request,
    ) {
        if !self.is_member(origin) {
            return;
        }
        let (value_length, now) = (self.config.value_length, self.now);
        let full = self.holders.len() >= TREE_LOCKS_MAX;
        self.touch(&request.key.tree);
        let Some(request) = self.defer_request(origin, keeper, request) else { return };
        if self.mastered(&request.key.tree).is_none() {
            self.refer(origin, keeper, &request);
            return;
        }
        let who = Holder { node: origin, lock: request.lock };
        let mut effects = Effects::new();
        let Request { key, op, client, transaction, mode, flags, ranges, signal, .. } = request;
        let known = self.holders.get(&who).cloned();
        self.note_use(&key.tree, origin);
        if let Some(tree) = self.trees.get_mut(&key.tree) {
            tree.idle_since = None;
        }
        let Some(mastered) = self.mastered(&key.tree) else { return };
        if let Some(key) = known {
            let Mastered { resources, token, .. } = mastered;
            if let Some(queues) = resources.get(&key.path) {
                queues.answer_again(who, op, token, &mut effects);
            }
            self.carry(&key, effects);
            return;
        }
        if let Some(ranges) = ranges.as_deref().filter(|ranges| ranges.test) {
            let found = mastered.range_blocker(&key, (origin, client), &ranges.set);
            self.carry(&key, vec![(who, Effect::Tested { op, blocker: found })]);
            self.tidy(&key);
            return;
        }
        if full {
            self.carry(&key, vec![(who, Effect::Refused { op, why: Refusal::Limit, held: None })]);
            return;
        }
        let Mastered { resources, token, suspects, .. } = mastered;
        let queues = resources.or_insert_with(&key.path, || {
            let mut queues = Queues::new(value_length);
            queues.at(now);
            for suspect in suspects.iter() {
                queues.suspect(*suspect);
                queues.invalidate(true);
            }
            queues
        });
        let terms = Terms { op, mode, flags, ranges: ranges.as_ref().map(|ranges| &ranges.set), signal };
        queues.at(now).request((who, client, transaction), terms, token, &mut effects);
        if queues.contains(who) {
            self.holders.insert(who, key.clone());
        }
        self.carry(&key, effects);
        self.tidy(&key);
    }

    pub(crate) fn on_convert(&mut self, from: NodeInstance, convert: &Convert) {
        let who = Holder { node: from, lock: convert.lock };
        let ranges = convert.ranges.as_ref().map(|ranges| &ranges.set);
        let Convert { op, mode, flags, signal, .. } = *convert;
        let terms = Terms { op, mode, flags, ranges, signal };
        if let Some(key) = self.holders.get(&who).cloned() {
            self.note_use(&key.tree, from);
        }
        self.at_queues(who, |queues, token, out| {
            let Some(last) = queues.last_op(who) else { return };
            if convert.op <= last {
                queues.answer_again(who, convert.op, token, out);
                return;
            }
            queues.convert(who, (terms, convert.value.as_ref()), token, out);
            if convert.told {
                out.retain(|(holder, effect)| *holder != who || !matches!(effect, Effect::Granted { .. }));
            }
        });
    }

    pub(crate) fn on_unlock(&mut self, from: NodeInstance, unlock: &Unlock) {
        let who = Holder { node: from, lock: unlock.lock };
        self.at_queues(who, |queues, token, out| {
            queues.unlock(who, (unlock.flags, unlock.value.as_ref()), token, out);
        });
        self.holders.remove(&who);
    }

    pub(crate) fn on_new_owner(&mut self, from: NodeInstance, owner: &NewOwner) {
        let who = Holder { node: from, lock: owner.lock };
        self.at_queues(who, |queues, token, out| queues.owned_by(who, owner, token, out));
    }

    pub(crate) fn on_cancel(&mut self, from: NodeInstance, lock: u64, op: u32) {
        let who = Holder { node: from, lock };
        self.at_queues(who, |queues, token, out| queues.cancel(who, op, token, out));
    }

    /// Lets something happen to the resource of a lock, and carries out what follows.
    fn at_queues(&mut self, who: Holder, act: impl FnOnce(&mut Queues, &mut FencingToken, &mut Effects)) {
        let Some(key) = self.holders.get(&who).cloned() else {
            self.stats.unknown_locks += 1;
            return;
        };
        self.touch(&key.tree);
        let (mut effects, now) = (Effects::new(), self.now);
        if let Some(mastered) = self.mastered(&key.tree)
            && let Some(queues) = mastered.resources.get_mut(&key.path)
        {
            act(queues.at(now), &mut mastered.token, &mut effects);
            if !queues.contains(who) {
                self.holders.remove(&who);
            }
        }
        self.carry(&key, effects);
        self.tidy(&key);
    }

    /// Tells the holders what happened.
    pub(crate) fn carry(&mut self, key: &Key, effects: Effects) {
        for (who, effect) in effects {
            if who.lock == 0 {
                continue;
            }
            let lock = who.lock;
            let answer = match effect {
                Effect::Granted { op, mode, token, remarks, value } => {
                    self.stats.grants += 1;
                    Answer::Granted { lock, op, mode, token, remarks, value, blocking: None }
                }
                Effect::Queued { op, place, demoted } => {
                    let fence = self.fenced_blockers(key, who);
                    Answer::Queued { lock, op, place, demoted, fence }
                }
                Effect::Refused { op, why, held } => {
                    if held.is_none() {
                        self.holders.remove(&who);
                    }
                    Answer::Refused { lock, op, why, held }
                }
                Effect::Blocking { wanted, signal } => {
                    let other = sabotaged!(self, TellAnother).then(|| self.last_signal(key)).flatten();
                    Answer::Blocking { lock, wanted, signal: other.unwrap_or(signal) }
                }
                Effect::Tested { op, blocker } => Answer::Tested { lock, op, blocker },
            };
            self.push(who.node, Item::Answer(answer));
        }
    }

    /// What came with the request that waits last, whatever it asks for: a bug that can be put back.
    fn last_signal(&self, key: &Key) -> Option<u64> {
        self.trees.get(&key.tree)?.mastered()?.resources.get(&key.path)?.last_signal()
    }

    /// Departed instances whose locks, or possible locks, keep `who` waiting.
    pub(crate) fn fenced_blockers(&self, key: &Key, who: Holder) -> Vec<NodeInstance> {
        let Some(mastered) = self.trees.get(&key.tree).and_then(Tree::mastered) else { return Vec::new() };
        let Some(queues) = mastered.resources.get(&key.path) else { return Vec::new() };
        let nodes: BTreeSet<NodeInstance> = queues
            .blockers(who)
            .into_iter()
            .map(|entry| entry.who.node)
            .filter(|node| !self.is_member(*node))
            .collect();
        nodes.into_iter().collect()
    }

    /// Notes what became of a value block, drops a resource without locks unless it is kept for repair, and notices when the tree
    /// has none.
    pub(crate) fn tidy(&mut self, key: &Key) {
        let now = self.now;
        if let Some((place, tree)) = self.trees.find_mut(&key.tree) {
            if let Some(mastered) = tree.mastered_mut()
                && let Some(queues) = mastered.resources.get_mut(&key.path)
            {
                let (news, root) = (queues.take_news(), key.path.is_empty());
                if root && news != ValueNews::Nothing {
                    self.domains.note(&key.tree, news, self.config.repair_max);
                }
                if queues.is_empty() && !(root && self.domains.is_marked(&key.tree)) {
                    mastered.resources.remove(&key.path);
                }
            }
            if tree.is_idle() && tree.idle_since.is_none() {
                tree.idle_since = Some(now);
                if !core::mem::replace(&mut tree.idle_noted, true) {
                    self.note_idle(place, now);
                }
            }
        }
    }

    /// Releases what departed instances held in a tree that is mastered here, as far as it is certain that they act no
    /// more; of the others only what waits goes. `since`: the view to which the tree was brought up before.
    pub(crate) fn exorcise(&mut self, name: &Name, since: u64) {
        let Some((place, tree)) = self.trees.find_mut(name) else { return };
        let Some(mastered) = tree.mastered_mut() else { return };
        let mut gone: BTreeSet<NodeInstance> = BTreeSet::new();
        for entry in mastered.resources.iter().flat_map(|(_, queues)| queues.entries()) {
            let node = entry.who.node;
            if node != self.local && self.members.get(&node).is_none_or(|joined| *joined > since) {
                gone.insert(node);
            }
        }
        if gone.is_empty() && mastered.suspects.is_empty() {
            self.haunted.remove(&place);
            return;
        }
        let mut suspects = core::mem::take(&mut mastered.suspects);
        suspects.retain(|x| !self.is_innocent(*x));
        let mut haunted = !suspects.is_empty();
        if let Some(mastered) = self.mastered(name) {
            mastered.suspects = suspects;
        }
        for node in gone {
            let certain =
                self.is_member(node) || self.is_proven(node) || sabotaged!(self, ReleaseWithoutProof);
            haunted |= !certain;
            self.release_dead(name, node, certain);
        }
        if haunted {
            self.haunted.insert(place);
        } else {
            self.haunted.remove(&place);
        }
        self.tidy(&Key { tree: Name::clone(name), path: Arc::from([]) });
    }

    fn release_dead(&mut self, name: &Name, node: NodeInstance, certain: bool) {
        let (trust_value, now) = (sabotaged!(self, TrustValue), self.now);
        let Some(mastered) = self.mastered(name) else { return };
        let Mastered { resources, token, .. } = mastered;
        let mut changes: Vec<(Key, Effects)> = Vec::new();
        let mut released: Vec<Holder> = Vec::new();
        for (path, queues) in resources.iter_mut() {
            let theirs: Vec<Holder> =
                queues.entries().map(|entry| entry.who).filter(|who| who.node == node).collect();
            if theirs.is_empty() {
                continue;
            }
            let mut effects = Effects::new();
            queues.at(now).drop_node(node, (certain, !trust_value), token, &mut effects);
            queues.tell_places(&mut effects);
            released.extend(theirs.into_iter().filter(|who| !queues.contains(*who)));
            if !effects.is_empty() || queues.is_empty() {
                changes.push((Key { tree: Name::clone(name), path: Name::clone(path) }, effects));
            }
        }
        for who in released {
            self.holders.remove(&who);
        }
        for (key, effects) in changes {
            self.carry(&key, effects);
            self.tidy(&key);
        }
    }

    /// True if the conversion needs no answer of the master.
    pub(crate) const fn needs_no_answer(held: Mode, to: Mode, flags: Flags) -> bool {
        held.is_down(to) && !(held as u8 == to as u8 && flags.has(Flags::VALBLK))
    }
}
