//! Locks that outlive their client, and who takes them over.

use super::event::{Ask, Completed, Output};
use super::{Engine, FAILED, Stop, sabotaged};
use crate::wire::{Item, NewOwner};
use crate::{ClientId, Flags, Mode, RequestError, Status};
use pils::Instant;

/// What stays with a lock through its conversions.
pub(super) const KEPT: Flags = Flags::NOTIFY.with(Flags::PERSISTENT).with(Flags::KEEP).with(Flags::NODOMAIN);

impl Engine {
    /// A client is gone: its locks are released, children first; a value block that it could write is invalid. Those that
    /// are held with PERSISTENT, and those above them, stay as orphans, until somebody adopts (ORPHAN) or purges them. How many
    /// locks there were. O(locks of this node), in one piece.
    pub fn end_client(&mut self, now: Instant, client: ClientId) -> usize {
        self.now = now;
        self.give_back_of(client);
        let theirs = self.locks.iter().filter(|(_, known)| known.client == client);
        let theirs = theirs.filter(|(lock, _)| !self.orphans.contains(*lock));
        let mut mine: Vec<(usize, u64)> = theirs.map(|(lock, l)| (l.key.path.len(), *lock)).collect();
        mine.sort_unstable_by_key(|at| core::cmp::Reverse(*at));
        for (_, lock) in &mine {
            let Some(known) = self.locks.get(lock) else { continue };
            let lasts = known.flags.has(Flags::PERSISTENT) && !sabotaged!(self, ForgetOrphans);
            if known.held.is_none() || !lasts && known.children == 0 {
                self.release(*lock, FAILED, None);
            } else {
                self.orphan(*lock);
            }
        }
        self.settle();
        mine.len()
    }

    /// True if the lock outlived its client.
    #[must_use]
    pub fn is_orphan(&self, lock: u64) -> bool {
        self.orphans.contains(&lock)
    }

    /// Whose a lock of this node is; of an orphan, whose it was.
    #[must_use]
    pub fn owner_of(&self, lock: u64) -> Option<ClientId> {
        self.locks.get(&lock).map(|known| known.client)
    }

    fn orphan(&mut self, lock: u64) {
        self.orphans.insert(lock);
        self.touch_lock(lock);
        let Some(known) = self.locks.get(&lock) else { return };
        let (client, transaction) = (known.client, known.transaction);
        let (name, waits) = (known.key.tree.clone(), known.pending.is_some());
        self.tell_master(&name, Item::NewOwner(NewOwner { lock, client, transaction, flags: Flags::ORPHAN }));
        if waits {
            self.stop(lock, Stop::Cancelled);
        }
    }

    /// Gives an orphan of this node, of the resource and in exactly the mode, to the caller.
    pub(super) fn adopt(&mut self, ask: &Ask) -> Result<u64, RequestError> {
        self.touch(&ask.key.tree);
        let tree = self.trees.get(&ask.key.tree).ok_or(RequestError::NoOrphan { other_mode: false })?;
        let mut other_mode = false;
        let few = if self.orphans.len() < tree.locks.len() { &self.orphans } else { &tree.locks };
        let fitting = few.iter().copied().find(|lock| {
            let known = self.locks.get(lock).filter(|known| known.key == ask.key);
            let known = known.filter(|_| self.orphans.contains(lock));
            let fits = known.is_some_and(|l| l.held == Some(ask.mode) && l.pending.is_none());
            other_mode |= known.is_some() && !fits;
            fits
        });
        let lock = fitting.ok_or(RequestError::NoOrphan { other_mode })?;
        let known = self.locks.get_mut(&lock).ok_or(RequestError::NoSuchLock)?;
        self.orphans.remove(&lock);
        known.client = ask.client;
        known.transaction = ask.transaction.unwrap_or_else(|| u64::from(ask.client.raw()));
        known.flags = ask.flags.without(Flags::ORPHAN);
        // Above CR nobody else can have written since.
        let certain = known.value_certain && ask.mode > Mode::Cr && ask.flags.has(Flags::VALBLK);
        let completed =
            Completed { value: known.value.filter(|_| certain), ..known.completed(lock, Status::Granted) };
        let (client, transaction, flags) = (known.client, known.transaction, known.flags);
        self.note_signal(lock, ask.signal);
        self.outputs.push_back(Output::Completed(completed));
        // Who waits for it is told of anew.
        let owner = NewOwner { lock, client, transaction, flags };
        self.tell_master(&ask.key.tree, Item::NewOwner(owner));
        self.settle();
        Ok(lock)
    }
}
