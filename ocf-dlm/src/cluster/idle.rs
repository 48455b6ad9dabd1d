//! Trees that nobody uses are given up.

use super::client::Timer;
use super::{Engine, Standing};
use crate::wire::{Item, Name};
use pils::Instant;

impl Engine {
    /// A tree, at this place, has become idle.
    pub(crate) fn note_idle(&mut self, place: u32, since: Instant) {
        if self.idle.is_empty() && !self.idle_due {
            self.timers.insert((since + self.config.idle_after, Timer::Sweep));
        }
        self.idle.push_back((since, place));
    }

    /// True if trees are to be given up, and can be: who rebuilds the directory must not miss one.
    pub(crate) fn may_sweep(&self) -> bool {
        let due = self.idle_due || self.idle.len() > self.config.idle_max;
        due && self.standing == Standing::Active && self.recovery.is_over()
    }

    /// Gives up the tree that was idle for longest, if that was long enough or there are more than the limit.
    pub(crate) fn sweep(&mut self) {
        let over = self.idle.len() > self.config.idle_max;
        let now = self.now;
        let Some((noted, place)) = self.idle.front().copied() else {
            self.idle_due = false;
            return;
        };
        let due = noted + self.config.idle_after;
        if !over && due > now {
            self.idle_due = false;
            self.timers.insert((due, Timer::Sweep));
            return;
        }
        self.idle.pop_front();
        let Some(tree) = self.trees.at_mut(place).filter(|tree| tree.idle_noted) else { return };
        tree.idle_noted = false;
        if !tree.is_idle() {
            // It moves, or is used: it is noted anew when it has nothing again.
            tree.idle_since = None;
        }
        let Some(since) = tree.idle_since else { return };
        if !over && since + self.config.idle_after > now {
            // It was used meanwhile.
            tree.idle_noted = true;
            self.idle.push_back((since, place));
            return;
        }
        if let Some(name) = self.trees.key_at(place) {
            self.give_up(&name);
        }
    }

    /// Forgets a tree without locks, and tells the directory if it was mastered here.
    fn give_up(&mut self, name: &Name) {
        let Some(tree) = self.trees.get(name) else { return };
        if let Some(floor) = tree.mastered().map(|mastered| mastered.token) {
            if let Some(keeper) = self.keeper(tree.slot) {
                self.push(keeper, Item::Forget { tree: name.clone(), floor });
            }
            self.mastering -= 1;
        }
        self.trees.remove(name);
    }
}
