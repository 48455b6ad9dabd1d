//! What the applications see, and the promises it is held against.

use ocf_dlm::cluster::{Completed, Engine, TreeState, WaitReason};
use ocf_dlm::wire::Key;
use ocf_dlm::{Flags, Mode, Status, Transfer};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};

/// A promise that was not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) promise: &'static str,
    pub(crate) what: String,
}

pub(crate) fn broken<T>(promise: &'static str, what: String) -> Result<T, Broken> {
    Err(Broken { promise, what })
}

pub(crate) type Id = (NodeInstance, u64);

/// A lock as its application sees it.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Seen {
    pub(crate) key: Key,
    pub(crate) held: Option<Mode>,
    pub(crate) asked: Option<(Mode, Flags)>,
    writes: u64,
    /// Its node died or its application was told that it is lost: its holder may go on until there is proof.
    pub(crate) lost: bool,
    /// It was told that it is in the way since its last grant.
    told: bool,
}

/// What a reader of a resource may be given, and the last token of a writer.
#[derive(Clone, Debug, Hash)]
struct Truth {
    /// The last value written. `None`: a holder that could write may have died since.
    last: Option<u64>,
    /// There was a time without locks: the resource may have begun anew, with zeros.
    zero: bool,
    token: (u64, u64),
}

/// What the applications saw.
#[derive(Clone, Debug, Default, Hash)]
pub(crate) struct Book {
    pub(crate) locks: BTreeMap<Id, Seen>,
    truths: BTreeMap<Key, Truth>,
    /// Who was asked to be fenced.
    pub(crate) wanted: BTreeSet<NodeInstance>,
}

impl Book {
    fn truth(&mut self, key: &Key) -> &mut Truth {
        let fresh = || Truth { last: None, zero: true, token: (0, 0) };
        self.truths.entry(key.clone()).or_insert_with(fresh)
    }

    pub(crate) fn asked(&mut self, id: Id, key: &Key, how: (Mode, Flags)) {
        let key = key.clone();
        let seen = Seen { key, held: None, asked: Some(how), writes: 0, lost: false, told: false };
        self.locks.insert(id, seen);
    }

    pub(crate) fn converting(&mut self, id: Id, how: (Mode, Flags), writes: u64) {
        if let Some(seen) = self.locks.get_mut(&id) {
            (seen.asked, seen.writes) = (Some(how), writes);
        }
    }

    pub(crate) fn completed(&mut self, id: Id, completed: &Completed) -> Result<(), Broken> {
        let Some(seen) = self.locks.get_mut(&id) else { return Ok(()) };
        let before = seen.clone();
        if before.asked.is_none() {
            return broken("each request ends once", format!("{id:?} {before:?} ended again: {completed:?}"));
        }
        if completed.status == Status::Unlocked {
            // Given up by force: what is held until now is given back by the call that follows.
            seen.asked = None;
            return Ok(());
        }
        (seen.asked, seen.held, seen.told) = (None, completed.held, false);
        if completed.status == Status::Lost {
            // What a master may have granted meanwhile is in the way of others, and of no use to anybody.
            self.locks.remove(&id);
            return Ok(());
        }
        let Some(mode) = completed.held else {
            self.locks.remove(&id);
            self.counted(&before.key);
            return Ok(());
        };
        if completed.status != Status::Granted {
            if let Some(seen) = self.locks.get_mut(&id) {
                seen.told = before.told;
            }
            return Ok(());
        }
        let in_the_way = |(other, seen): &(&Id, &Seen)| {
            **other != id && seen.key == before.key && seen.held.is_some_and(|held| !held.is_compatible(mode))
        };
        if let Some((other, seen)) = self.locks.iter().find(in_the_way) {
            let what = format!("{id:?} is granted {mode} while {other:?} holds {:?}", seen.held);
            return broken("holders are compatible", what);
        }
        self.judge_token(&before, completed, mode)?;
        self.judge_value(&before, completed, mode)
    }

    fn judge_token(&mut self, before: &Seen, completed: &Completed, mode: Mode) -> Result<(), Broken> {
        let token = (completed.token.epoch, completed.token.sequence);
        let up = before.held.is_none_or(|held| !held.is_down(mode));
        let last = &mut self.truth(&before.key).token;
        if up && (mode.is_writer() && token <= *last || mode == Mode::Pr && token < *last) {
            return broken("tokens grow", format!("{mode} with token {token:?} after {last:?}"));
        }
        if up && mode.is_writer() {
            *last = token;
        }
        Ok(())
    }

    fn judge_value(&mut self, before: &Seen, completed: &Completed, mode: Mode) -> Result<(), Broken> {
        let truth = self.truth(&before.key);
        if before.held.is_some() && Mode::transfer(before.held, mode) == Transfer::Write {
            (truth.last, truth.zero) = (Some(before.writes), false);
        }
        let Some(value) = completed.value.filter(|_| !completed.remarks.value_invalid) else { return Ok(()) };
        let number = value.block.number();
        let tolerated = mode <= Mode::Cr;
        if tolerated || truth.last == Some(number) || (truth.zero && number == 0) {
            return Ok(());
        }
        broken("the last value is read", format!("read {number} in {mode}, the truth is {truth:?}"))
    }

    pub(crate) fn unlocked(&mut self, id: Id, value: u64) {
        let Some(seen) = self.locks.remove(&id) else { return };
        if seen.held.is_some_and(Mode::is_writer) && !seen.lost {
            let truth = self.truth(&seen.key);
            (truth.last, truth.zero) = (Some(value), false);
        }
        self.counted(&seen.key);
    }

    fn counted(&mut self, key: &Key) {
        if self.locks.values().all(|seen| seen.key != *key || seen.held.is_none()) {
            self.truth(key).zero = true;
        }
    }

    pub(crate) fn notified(&mut self, id: Id, wanted: Mode) -> Result<(), Broken> {
        match self.locks.get_mut(&id) {
            Some(seen) if seen.held.is_none() => broken(
                "notices go to holders",
                format!("{id:?} holds nothing and is to make way for {wanted}"),
            ),
            Some(seen) => {
                seen.told = true;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(crate) fn lost(&mut self, id: Id) {
        if let Some(seen) = self.locks.get_mut(&id) {
            (seen.lost, seen.asked) = (true, None);
        }
    }

    /// The process is gone; its holders may go on.
    pub(crate) fn died(&mut self, x: NodeInstance) {
        self.locks.retain(|(node, _), seen| *node != x || seen.held.is_some());
        for (_, seen) in self.locks.range_mut((x, 0)..=(x, u64::MAX)) {
            (seen.lost, seen.asked) = (true, None);
        }
        self.doubt(x);
    }

    /// Its holders act no more.
    pub(crate) fn proven(&mut self, x: NodeInstance) {
        self.doubt(x);
        let theirs = self.locks.range((x, 0)..=(x, u64::MAX)).filter(|(_, seen)| seen.lost);
        for id in theirs.map(|(id, _)| *id).collect::<Vec<Id>>() {
            if let Some(seen) = self.locks.remove(&id) {
                self.counted(&seen.key);
            }
        }
    }

    fn doubt(&mut self, x: NodeInstance) {
        let theirs: Vec<Seen> = self.locks.range((x, 0)..=(x, u64::MAX)).map(|(_, s)| s.clone()).collect();
        for seen in theirs.iter().filter(|seen| seen.held.is_some_and(Mode::is_writer)) {
            let truth = self.truth(&seen.key);
            (truth.last, truth.zero) = (None, false);
        }
    }
}

/// No two nodes of one epoch master one tree. Looked at after every step.
pub(crate) fn one_master<'a>(engines: impl Iterator<Item = &'a Engine>) -> Result<(), Broken> {
    let mut masters = BTreeMap::new();
    for engine in engines {
        for tree in engine.trees().filter(|tree| tree.state == TreeState::Here) {
            let (epoch, here) = (engine.epoch(), engine.local());
            if let Some(other) = masters.insert((epoch, tree.name), here) {
                return broken("a tree has one master", format!("{other} and {here} in epoch {epoch}"));
            }
        }
    }
    Ok(())
}

/// What must be so when nothing is on its way: `unproven` instances left and are not proven dead.
pub(crate) fn at_rest(
    book: &Book,
    engines: &[&Engine],
    epoch: u64,
    unproven: &[NodeInstance],
) -> Result<(), Broken> {
    for engine in engines {
        let snapshot = engine.snapshot();
        if !(snapshot.active && snapshot.recovered && snapshot.epoch == epoch) {
            return broken("a recovery ends", format!("{}: {snapshot:?}, view {epoch}", engine.local()));
        }
    }
    if let Some(x) = unproven.iter().find(|x| !book.wanted.contains(x)) {
        return broken("who left is to be fenced", format!("nobody asked for a proof of {x}"));
    }
    directory(engines)?;
    agreement(book, engines)?;
    waits(book, engines, unproven)
}

/// The directory names the masters, and no others.
fn directory(engines: &[&Engine]) -> Result<(), Broken> {
    let mut masters = BTreeMap::new();
    for engine in engines {
        let here = engine.trees().filter(|tree| tree.state == TreeState::Here);
        masters.extend(here.map(|tree| (tree.name, engine.local())));
    }
    for engine in engines {
        for (name, listed) in engine.directory() {
            if listed != masters.remove(&name) {
                return broken(
                    "the directory names the master",
                    format!("{} lists {listed:?}", engine.local()),
                );
            }
        }
    }
    match masters.first_key_value() {
        Some((_, x)) => {
            broken("the directory names the master", format!("{x} masters a tree and is not listed"))
        }
        None => Ok(()),
    }
}

/// Masters have granted what living applications hold.
fn agreement(book: &Book, engines: &[&Engine]) -> Result<(), Broken> {
    let living = |x: NodeInstance| engines.iter().any(|engine| engine.local() == x);
    let granted: BTreeSet<(NodeInstance, u64, Mode)> = engines
        .iter()
        .flat_map(|engine| engine.mastered_locks())
        .filter(|(_, lock)| lock.who.lock != 0 && living(lock.who.node))
        .filter_map(|(_, lock)| Some((lock.who.node, lock.who.lock, lock.held?)))
        .collect();
    let held: BTreeSet<(NodeInstance, u64, Mode)> = book
        .locks
        .iter()
        .filter(|((node, _), seen)| !seen.lost && living(*node))
        .filter_map(|((node, lock), seen)| Some((*node, *lock, seen.held?)))
        .collect();
    if granted == held {
        return Ok(());
    }
    broken("masters know what is held", format!("granted {granted:?}, held {held:?}"))
}

/// Who waits, waits for a holder that knows of it, or for a proof.
fn waits(book: &Book, engines: &[&Engine], unproven: &[NodeInstance]) -> Result<(), Broken> {
    let living: Vec<(&Id, &Seen)> = book.locks.iter().filter(|(_, seen)| !seen.lost).collect();
    for (id, seen) in &living {
        let Some((asked, _)) = seen.asked else { continue };
        if !engines.iter().any(|engine| engine.local() == id.0) {
            // It waits for its node to be a member again.
            continue;
        }
        let in_the_way = |asked: Mode| {
            let others = living.iter().filter(move |(other, o)| *other != *id && o.key == seen.key);
            others.filter(move |(_, o)| o.held.is_some_and(|held| !held.is_compatible(asked)))
        };
        if let Some((other, _)) = in_the_way(asked).find(|(_, other)| !other.told) {
            return broken("who is in the way is told", format!("{other:?} does not know of {id:?}"));
        }
        let mut may_wait = living.iter().filter(|(_, o)| o.key == seen.key).filter_map(|(other, o)| {
            let engine = engines.iter().find(|engine| engine.local() == other.0)?;
            let (asked, _) = o.asked?;
            let blocked = living.iter().any(|(third, t)| {
                third != other && t.key == o.key && t.held.is_some_and(|held| !held.is_compatible(asked))
            });
            let fenced = |who: &[NodeInstance]| who.iter().any(|x| unproven.contains(x));
            let fence = |reason| matches!(reason, WaitReason::WaitFence(who) if fenced(&who));
            Some(blocked || engine.wait_reason(other.1).is_some_and(fence))
        });
        if !may_wait.any(|may| may) {
            return broken(
                "no request is lost",
                format!("{id:?} asks for {asked}, and nobody is in the way"),
            );
        }
    }
    Ok(())
}

/// What must be so when everything was given back.
pub(crate) fn nothing_left(engines: &[&Engine]) -> Result<(), Broken> {
    for engine in engines {
        let (locks, mastered) = (engine.snapshot().locks, engine.mastered_locks());
        if locks > 0 || !mastered.is_empty() {
            return broken(
                "nothing is left",
                format!("{}: {locks} locks, masters {mastered:?}", engine.local()),
            );
        }
    }
    Ok(())
}
