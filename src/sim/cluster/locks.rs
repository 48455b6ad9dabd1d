//! The part of the workload that locks: a few names, one holder of each at a time.

use super::program::{Cluster, Completion};
use super::record::Record;
use crate::sim::Ctx;
use crate::stack::Stack;
use core::time::Duration;
use ocf_dlm::cluster::{Ask, Output};
use ocf_dlm::wire::Key;
use ocf_dlm::{ClientId, Flags, Mode};
use std::collections::BTreeMap;

/// Names that are locked.
const NAMES: u64 = 3;
/// Locks that the application on a node holds or waits for at the same time.
const LOCKS_MAX: usize = 2;

/// The locks of the application on one node.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    /// By lock: of which name, and whether it is held.
    of: BTreeMap<u64, (u8, bool)>,
    /// It was granted one since the last fault.
    pub(crate) granted: bool,
}

impl Cluster {
    /// The application asks for a lock, and will again.
    pub(super) fn ask_lock(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack) {
        let rng = ctx.world().rng();
        let wait = rng.duration(Duration::from_millis(20), Duration::from_millis(400));
        let name = u8::try_from(rng.below(NAMES)).unwrap_or(0);
        ctx.later(wait, Completion::AskLock);
        let locks = &mut self.apps[ctx.index()].locks;
        if locks.of.len() >= LOCKS_MAX {
            return;
        }
        let ask = Ask {
            client: ClientId::new(1),
            key: Key::root(b"simulated", &[name]),
            parent: None,
            mode: Mode::Ex,
            flags: Flags::NONE,
            transaction: None,
            deadline: None,
            signal: 0,
        };
        match layer.lock(ctx.now(), ask) {
            Ok(lock) => {
                locks.of.insert(lock, (name, false));
            }
            Err(error) => panic!("a lock is refused: {error}"),
        }
    }

    /// What the lock manager tells the application.
    pub(super) fn told_of_lock(&mut self, ctx: &mut Ctx<'_, Self>, output: &Output) {
        let locks = &mut self.apps[ctx.index()].locks;
        if let Output::Completed(done) = output {
            let Some((name, held)) = locks.of.get_mut(&done.lock) else { return };
            let name = *name;
            *held = done.held.is_some();
            if done.held.is_none() {
                locks.of.remove(&done.lock);
                return;
            }
            locks.granted |= ctx.world().healed();
            ctx.record(Record::Locked(name, done.token));
            let hold = ctx.world().rng().duration(Duration::from_millis(1), Duration::from_millis(300));
            ctx.later(hold, Completion::Unlock(done.lock));
        } else if let Output::Lost { lock, .. } = output
            && let Some((name, _)) = locks.of.remove(lock)
        {
            ctx.world().sometimes("a lock was lost outside the primary partition");
            ctx.record(Record::Unlocked(name));
        }
    }

    /// The application has done what it needed the lock for.
    pub(super) fn give_back(&mut self, ctx: &mut Ctx<'_, Self>, layer: &mut Stack, lock: u64) {
        let Some((name, _)) = self.apps[ctx.index()].locks.of.remove(&lock) else { return };
        ctx.record(Record::Unlocked(name));
        if let Err(error) = layer.unlock(ctx.now(), lock, Flags::NONE, None) {
            panic!("a lock that is held is not given back: {error}");
        }
    }
}
