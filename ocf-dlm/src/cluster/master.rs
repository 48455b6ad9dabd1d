//! Operations on trees that this node masters.

use super::queue::{Effect, Effects, Holder, Queues, Terms};
use super::tree::{Mastered, Route, Tree};
use super::{Engine, sabotaged};
use crate::wire::{Answer, Convert, Item, Key, Name, Refusal, Request, Unlock};
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
        match self.trees.get_mut(name) {
            Some(tree) if matches!(tree.route, Route::Looking(true)) => {
                if !suspects.is_empty() {
                    self.suspected.insert(name.clone());
                }
                tree.route = Route::Here(Box::new(Mastered::new(token, suspects)));
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
        let value_length = self.config.value_length;
        let full = self.holders.len() >= TREE_LOCKS_MAX;
        if self.mastered(&request.key.tree).is_none() {
            self.refer(origin, keeper, &request);
            return;
        }
        let who = Holder { node: origin, lock: request.lock };
        let mut effects = Effects::new();
        let Request { key, op, client, transaction, mode, flags, .. } = request;
        let known = self.holders.get(&who).cloned();
        if let Some(tree) = self.trees.get_mut(&key.tree) {
            tree.idle_since = None;
        }
        let Some(mastered) = self.mastered(&key.tree) else { return };
        if let Some(key) = known {
            let token = mastered.token;
            if let Some(queues) = mastered.resources.get(&key.path) {
                queues.answer_again(who, op, token, &mut effects);
            }
            self.carry(&key, effects);
            return;
        }
        if full {
            self.carry(&key, vec![(who, Effect::Refused { op, why: Refusal::Limit, held: None })]);
            return;
        }
        let Mastered { resources, token, suspects, .. } = mastered;
        let queues = resources.entry(key.path.clone()).or_insert_with(|| {
            let mut queues = Queues::new(value_length);
            for suspect in suspects.iter() {
                queues.suspect(*suspect);
                queues.invalidate_value();
            }
            queues
        });
        queues.request((who, client, transaction), Terms { op, mode, flags }, token, &mut effects);
        if queues.contains(who) {
            self.holders.insert(who, key.clone());
        }
        self.carry(&key, effects);
        self.tidy(&key);
    }

    pub(crate) fn on_convert(&mut self, from: NodeInstance, convert: &Convert) {
        let who = Holder { node: from, lock: convert.lock };
        let terms = Terms { op: convert.op, mode: convert.mode, flags: convert.flags };
        self.at_queues(who, |queues, token, out| {
            let Some(last) = queues.last_op(who) else { return };
            if convert.op <= last {
                queues.answer_again(who, convert.op, *token, out);
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
        let mut effects = Effects::new();
        if let Some(mastered) = self.mastered(&key.tree)
            && let Some(queues) = mastered.resources.get_mut(&key.path)
        {
            act(queues, &mut mastered.token, &mut effects);
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
                Effect::Blocking { wanted } => Answer::Blocking { lock, wanted },
            };
            self.push(who.node, Item::Answer(answer));
        }
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

    /// Drops a resource without locks, and notices when the tree has none.
    pub(crate) fn tidy(&mut self, key: &Key) {
        let now = self.now;
        if let Some(tree) = self.trees.get_mut(&key.tree) {
            if let Some(mastered) = tree.mastered_mut()
                && mastered.resources.get(&key.path).is_some_and(Queues::is_empty)
            {
                mastered.resources.remove(&key.path);
            }
            if tree.is_idle() && tree.idle_since.is_none() {
                tree.idle_since = Some(now);
                self.note_idle();
            }
        }
    }

    /// The holders of an instance are certainly gone: its locks are released, wherever this node masters them.
    pub(crate) fn release_dead(&mut self, node: NodeInstance, certain: bool) {
        let span = Holder { node, lock: 0 }..=Holder { node, lock: u64::MAX };
        let mut names: BTreeSet<Name> =
            self.holders.range(span.clone()).map(|(_, key)| key.tree.clone()).collect();
        if certain {
            names.extend(self.suspected.iter().cloned());
        }
        let trust_value = sabotaged!(self, TrustValue);
        for name in names {
            let mut changes: Vec<(Key, Effects)> = Vec::new();
            let Some(mastered) = self.mastered(&name) else { continue };
            let Mastered { resources, token, suspects, .. } = mastered;
            if certain {
                suspects.remove(&node);
            }
            let innocent = suspects.is_empty();
            for (path, queues) in resources.iter_mut() {
                let mut effects = Effects::new();
                let dropped = queues.drop_node(node, (certain, !trust_value), token, &mut effects);
                if queues.holders().any(|e| e.who.node == node) || dropped > 0 {
                    queues.tell_places(&mut effects);
                }
                if dropped > 0 || !effects.is_empty() {
                    changes.push((Key { tree: name.clone(), path: path.clone() }, effects));
                }
            }
            if innocent {
                self.suspected.remove(&name);
            }
            for (key, effects) in changes {
                self.carry(&key, effects);
                self.tidy(&key);
            }
            if innocent {
                self.tidy(&Key { tree: name, path: Arc::from([]) });
            }
        }
        let gone: Vec<Holder> = self.holders.range(span).map(|(who, _)| *who).collect();
        for who in gone {
            let key = &self.holders[&who];
            let queues =
                self.trees.get(&key.tree).and_then(Tree::mastered).and_then(|m| m.resources.get(&key.path));
            if queues.is_none_or(|queues| !queues.contains(who)) {
                self.holders.remove(&who);
            }
        }
    }

    /// True if the conversion needs no answer of the master.
    pub(crate) const fn needs_no_answer(held: Mode, to: Mode, flags: Flags) -> bool {
        held.is_down(to) && !(held as u8 == to as u8 && flags.has(Flags::VALBLK))
    }
}
