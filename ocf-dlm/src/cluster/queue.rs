//! The queues of one resource at its master.

mod kept;
mod moved;
mod notice;
mod rare;

use super::range_queue::EntryRanges;
use crate::range::RangeSet;
use crate::wire::{NewOwner, RangeBlocker, Refusal, Value};
use crate::{ClientId, FencingToken, Flags, Mode, Remarks, Transfer, ValueBlock};
use pils::{Instant, NodeInstance};
use rare::Rare;

/// A lock as its master knows it: the node it lives on, and what that node calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Holder {
    /// The node.
    pub node: NodeInstance,
    /// The lock's id there. Zero: any lock that a departed node may have had.
    pub lock: u64,
}

/// What the master tells a holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Granted { op: u32, mode: Mode, token: FencingToken, remarks: Remarks, value: Option<Value> },
    Queued { op: u32, place: i64, demoted: bool },
    Refused { op: u32, why: Refusal, held: Option<Mode> },
    Blocking { wanted: Mode, signal: u64 },
    Tested { op: u32, blocker: Option<RangeBlocker> },
}

impl Effect {
    pub(crate) const fn is_blocking(&self) -> bool {
        matches!(self, Self::Blocking { .. })
    }
}

/// What became of a value block since this was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum ValueNews {
    #[default]
    Nothing,
    /// It was written, and is valid.
    Written,
    /// It is invalid by the word of a holder.
    Invalid,
    /// It is invalid by a failure that is a matter of the recovery domain.
    Failed,
}

pub(crate) type Effects = Vec<(Holder, Effect)>;

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    pub(crate) op: u32,
    pub(crate) mode: Mode,
    pub(crate) flags: Flags,
    /// Of which bytes; `None`: of all.
    pub(crate) ranges: Option<&'a RangeSet>,
    /// What those are told that are in the way.
    pub(crate) signal: u64,
}

#[derive(Clone, Debug, Hash)]
pub(crate) struct Entry {
    pub(crate) who: Holder,
    pub(crate) client: ClientId,
    pub(crate) transaction: u64,
    pub(crate) flags: Flags,
    pub(crate) held: Option<Mode>,
    pub(crate) asked: Option<Mode>,
    pub(crate) op: u32,
    pub(crate) place: i64,
    /// Since when it holds or waits as it does, in milliseconds of this node's clock; before its start if negative.
    pub(crate) since: i64,
    /// Modes that it was told of since its last grant, as bits.
    notified: u8,
    demoted: bool,
    /// How the last operation was refused, to say it again.
    refused: Option<Refusal>,
    rare: Rare,
}

impl Entry {
    /// The mode that it takes if it cannot have the one it asked for.
    fn alternative(&self) -> Option<Mode> {
        let choices = [(Flags::ALTPR, Mode::Pr), (Flags::ALTCW, Mode::Cw)];
        let other = |choice: &&(Flags, Mode)| self.flags.has(choice.0) && self.asked != Some(choice.1);
        choices.iter().find(other).map(|choice| choice.1)
    }

    fn effect_queued(&self) -> (Holder, Effect) {
        (self.who, Effect::Queued { op: self.op, place: self.place, demoted: self.demoted })
    }
}

/// GRANTED, CONVERTING and WAITING, and the value block.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Queues {
    granted: Vec<Entry>,
    converting: Vec<Entry>,
    waiting: Vec<Entry>,
    value: ValueBlock,
    value_sequence: u64,
    value_invalid: bool,
    news: ValueNews,
    next_place: i64,
    first_place: i64,
    /// The time, as of [`Queues::at`].
    now: i64,
}

impl Queues {
    pub(crate) fn new(value_length: usize) -> Self {
        Self {
            granted: Vec::new(),
            converting: Vec::new(),
            waiting: Vec::new(),
            value: ValueBlock::zero(value_length),
            value_sequence: 0,
            value_invalid: false,
            news: ValueNews::Nothing,
            next_place: 0,
            first_place: 0,
            now: 0,
        }
    }

    /// What happens from now on happens at this time.
    pub(crate) fn at(&mut self, now: Instant) -> &mut Self {
        self.now = millis(now);
        self
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.granted.is_empty() && self.converting.is_empty() && self.waiting.is_empty()
    }

    /// Granted, then converting, then waiting.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.granted.iter().chain(&self.converting).chain(&self.waiting)
    }

    /// Locks that hold a mode.
    pub(crate) fn holders(&self) -> impl Iterator<Item = &Entry> {
        self.granted.iter().chain(&self.converting)
    }

    fn find(&self, who: Holder) -> Option<&Entry> {
        self.entries().find(|e| e.who == who)
    }

    pub(crate) fn contains(&self, who: Holder) -> bool {
        self.find(who).is_some()
    }

    /// The operation that `who` did last, as far as the master knows.
    pub(crate) fn last_op(&self, who: Holder) -> Option<u32> {
        self.find(who).map(|e| e.op)
    }

    fn conflicts(&self, entry: &Entry, mode: Mode) -> bool {
        self.holders().any(|e| e.who != entry.who && e.excludes(entry, mode))
    }

    /// A new lock.
    pub(crate) fn request(
        &mut self,
        (who, client, transaction): (Holder, ClientId, u64),
        terms: Terms<'_>,
        token: &mut FencingToken,
        out: &mut Effects,
    ) {
        let mut entry = Entry {
            who,
            client,
            transaction,
            flags: terms.flags,
            held: None,
            asked: Some(terms.mode),
            op: terms.op,
            place: 0,
            since: self.now,
            notified: 0,
            demoted: false,
            refused: None,
            rare: Rare::default(),
        };
        entry.ask_rare(&terms);
        let calm = self.converting.is_empty() && self.waiting.is_empty();
        if let Some((mode, alternative)) = self.grantable(&entry, |flags| calm || flags.has(Flags::NOORDER)) {
            let entry = self.grant(entry, (mode, alternative), token, out);
            self.granted.push(entry);
            self.pass(token, out);
            return;
        }
        if terms.flags.has(Flags::NOQUEUE) && !self.may_become_free(&entry, i64::MAX) {
            out.push((who, Effect::Refused { op: terms.op, why: Refusal::NotQueued, held: None }));
            if terms.flags.has(Flags::NOQUEUEBAST) {
                self.notify(&terms, who, true, out);
            }
            return;
        }
        entry.place = self.new_place(terms.flags);
        out.push(entry.effect_queued());
        let at = if terms.flags.has(Flags::HEADQUE) { 0 } else { self.waiting.len() };
        self.waiting.insert(at, entry);
        self.notify(&terms, who, false, out);
        if terms.flags.has(Flags::HEADQUE) {
            self.pass(token, out);
        }
    }

    /// Another mode for a lock. `value`: what to write, if the direction table says so.
    pub(crate) fn convert(
        &mut self,
        who: Holder,
        (terms, value): (Terms<'_>, Option<&Value>),
        token: &mut FencingToken,
        out: &mut Effects,
    ) {
        let Some(at) = self.granted.iter().position(|e| e.who == who) else { return };
        let entry = &mut self.granted[at];
        (entry.flags, entry.op, entry.asked, entry.refused) = (terms.flags, terms.op, Some(terms.mode), None);
        entry.demoted = false;
        entry.ask_rare(&terms);
        let mut granted = self.converts_at_once(at, terms.mode);
        if !granted && self.is_deadlock(at) {
            if !terms.flags.has(Flags::CONVDEADLK) {
                self.refuse(at, Refusal::Deadlock, out);
                return;
            }
            let entry = &mut self.granted[at];
            (entry.held, entry.demoted, entry.notified) = (Some(Mode::Nl), true, 0);
            self.pass_converting(token, out);
            granted = self.converts_at_once(at, terms.mode);
        }
        let alternative = if granted { None } else { self.granted[at].alternative() };
        let alternative = alternative.filter(|mode| self.converts_at_once(at, *mode));
        if granted || alternative.is_some() {
            let (mode, alternative) = alternative.map_or((terms.mode, false), |mode| (mode, true));
            if Mode::transfer(self.granted[at].held, mode) == Transfer::Write {
                self.write(terms.flags, value);
            }
            let entry = self.granted.remove(at);
            let entry = self.grant(entry, (mode, alternative), token, out);
            self.granted.insert(at, entry);
            self.pass(token, out);
            return;
        }
        if terms.flags.has(Flags::NOQUEUE) && !self.may_become_free(&self.granted[at], i64::MAX) {
            self.refuse(at, Refusal::NotQueued, out);
            if terms.flags.has(Flags::NOQUEUEBAST) {
                self.notify(&terms, who, true, out);
            }
            return;
        }
        let mut entry = self.granted.remove(at);
        entry.since = self.now;
        let demoted = entry.demoted;
        // Holding NL does not help those that it would overtake: they would wait behind it. Deviation: D2.
        let flags = if demoted { terms.flags.without(Flags::HEADQUE) } else { terms.flags };
        entry.place = self.new_place(flags);
        out.push(entry.effect_queued());
        let at = if flags.has(Flags::HEADQUE) { 0 } else { self.converting.len() };
        self.converting.insert(at, entry);
        self.notify(&terms, who, false, out);
        if demoted || terms.flags.has_any(Flags::HEADQUE | Flags::NOORDER) {
            self.pass(token, out);
        }
    }

    /// True if the granted lock may have the mode without being queued.
    fn converts_at_once(&self, at: usize, mode: Mode) -> bool {
        let entry = &self.granted[at];
        !self.conflicts(entry, mode) && (!entry.flags.has(Flags::QUECVT) || self.converting.is_empty())
    }

    /// True if the granted lock and one that converts would wait for each other for ever.
    fn is_deadlock(&self, at: usize) -> bool {
        let entry = &self.granted[at];
        let (Some(held), Some(asked)) = (entry.held, entry.asked) else { return false };
        if entry.flags.has_any(Flags::NOQUEUE | Flags::NODLCKWT) {
            return false;
        }
        if entry.ranges().is_some() {
            return self.is_range_deadlock(entry);
        }
        self.converting.iter().filter(|other| !other.flags.has(Flags::NODLCKWT)).any(|other| {
            let waits = !entry.flags.has(Flags::NODLCKBLK)
                && other.asked.is_some_and(|theirs| !theirs.is_compatible(held));
            let overtaken = entry.flags.has(Flags::HEADQUE)
                && !other.flags.has_any(Flags::NOORDER | Flags::NODLCKBLK)
                && other.held.is_some_and(|theirs| !theirs.is_compatible(asked));
            waits || overtaken
        })
    }

    fn refuse(&mut self, at: usize, why: Refusal, out: &mut Effects) {
        let entry = &mut self.granted[at];
        (entry.asked, entry.refused) = (None, Some(why));
        entry.rare.asks_no_more();
        out.push((entry.who, Effect::Refused { op: entry.op, why, held: entry.held }));
    }

    /// The end of a lock, in whatever queue.
    pub(crate) fn unlock(
        &mut self,
        who: Holder,
        (flags, value): (Flags, Option<&Value>),
        token: &mut FencingToken,
        out: &mut Effects,
    ) {
        let Some(entry) = self.take(who) else { return };
        if entry.held.is_some_and(Mode::is_writer) {
            let apart = if entry.flags.has(Flags::NODOMAIN) { Flags::FAILURE } else { Flags::NONE };
            self.write(flags.without(apart), value);
        }
        if entry.asked.is_some() {
            self.notify_anew();
        }
        self.pass(token, out);
    }

    /// The lock outlived its client; or another has it, who is told of all that wait for it.
    pub(crate) fn owned_by(
        &mut self,
        who: Holder,
        owner: &NewOwner,
        token: &mut FencingToken,
        out: &mut Effects,
    ) {
        let all = self.granted.iter_mut().chain(&mut self.converting);
        let Some(entry) = all.into_iter().find(|entry| entry.who == who) else { return };
        if owner.flags.has(Flags::ORPHAN) {
            entry.flags |= Flags::ORPHAN;
            return;
        }
        (entry.client, entry.transaction) = (owner.client, owner.transaction);
        if owner.flags.has(Flags::KEEP) {
            // It was asked, and is in use.
            entry.flags = entry.flags.without(Flags::KEEP);
        } else {
            (entry.flags, entry.notified) = (owner.flags, 0);
        }
        self.pass(token, out);
    }

    /// Ends the operation that waits, if it is `op`.
    pub(crate) fn cancel(&mut self, who: Holder, op: u32, token: &mut FencingToken, out: &mut Effects) {
        let waits = self.find(who).is_some_and(|e| e.op == op && e.asked.is_some());
        if !waits {
            return;
        }
        let Some(mut entry) = self.take(who) else { return };
        out.push((who, Effect::Refused { op, why: Refusal::Cancelled, held: entry.held }));
        if entry.held.is_some() {
            (entry.asked, entry.refused, entry.since) = (None, Some(Refusal::Cancelled), self.now);
            entry.rare.asks_no_more();
            self.granted.push(entry);
        }
        self.notify_anew();
        self.pass(token, out);
    }

    /// Takes away the locks of a node. `certain`: it is dead, so what it holds goes, too; otherwise only what waits.
    /// `invalidate`: a value block that it may have been about to write is not valid any more.
    pub(crate) fn drop_node(
        &mut self,
        node: NodeInstance,
        (certain, invalidate): (bool, bool),
        token: &mut FencingToken,
        out: &mut Effects,
    ) {
        self.waiting.retain(|e| e.who.node != node);
        let (theirs, others): (Vec<Entry>, Vec<Entry>) =
            core::mem::take(&mut self.converting).into_iter().partition(|e| e.who.node == node);
        self.converting = others;
        for mut entry in theirs {
            entry.asked = None;
            entry.rare.asks_no_more();
            self.granted.push(entry);
        }
        if certain {
            let wrote = |e: &Entry| e.who.node == node && e.held.is_some_and(Mode::is_writer);
            if invalidate && self.granted.iter().any(wrote) {
                self.invalidate(self.granted.iter().any(|e| wrote(e) && !e.flags.has(Flags::NODOMAIN)));
            }
            self.granted.retain(|e| e.who.node != node);
        } else {
            // It answers nobody.
            for entry in self.granted.iter_mut().filter(|e| e.who.node == node) {
                entry.flags = entry.flags.without(Flags::KEEP);
            }
        }
        self.notify_anew();
        self.pass(token, out);
    }

    /// Says again what became of operation `op`, and what was notified since.
    pub(crate) fn answer_again(&self, who: Holder, op: u32, token: &mut FencingToken, out: &mut Effects) {
        let Some(entry) = self.find(who) else { return };
        if entry.op != op {
            return;
        }
        if entry.asked.is_some() {
            out.push(entry.effect_queued());
            return;
        }
        match (entry.refused, entry.held) {
            (Some(why), held) => out.push((who, Effect::Refused { op, why, held })),
            (None, Some(mode)) => {
                let remarks = Remarks { value_invalid: self.value_invalid, ..Remarks::default() };
                let value = entry.flags.has_any(Flags::VALBLK | Flags::KEEP).then(|| self.value());
                // What went with the grant may have gone to others by now.
                let token = if mode.is_writer() && entry.flags.has(Flags::KEEP) {
                    take_tokens(token, entry.flags)
                } else {
                    *token
                };
                out.push((who, Effect::Granted { op, mode, token, remarks, value }));
            }
            (None, None) => {}
        }
        let told = Mode::ALL.into_iter().filter(|mode| entry.notified & (1 << mode.raw()) != 0);
        out.extend(
            told.map(|wanted| (who, Effect::Blocking { wanted, signal: self.signal_for(entry, wanted) })),
        );
    }

    /// Who keeps `who` from being granted: holders in conflict, and who waits before it.
    pub(crate) fn blockers(&self, who: Holder) -> Vec<&Entry> {
        let Some(entry) = self.find(who) else { return Vec::new() };
        let Some(asked) = entry.asked else { return Vec::new() };
        let conflict = |e: &Entry| e.excludes(entry, asked);
        let mut found: Vec<&Entry> = self.holders().filter(|e| e.who != who && conflict(e)).collect();
        if entry.ranges().is_some() {
            // Nobody waits for the order alone.
            return found;
        }
        let before = |e: &&Entry| e.who != who && (entry.held.is_none() || e.place < entry.place);
        found.extend(self.converting.iter().filter(before).filter(|e| !conflict(e)));
        if entry.held.is_none() {
            found.extend(self.waiting.iter().filter(|e| e.place < entry.place));
        }
        found
    }

    /// The value block.
    pub(crate) const fn value(&self) -> Value {
        Value { block: self.value, sequence: self.value_sequence }
    }

    /// Says again where each operation waits.
    pub(crate) fn tell_places(&self, out: &mut Effects) {
        out.extend(self.converting.iter().chain(&self.waiting).map(Entry::effect_queued));
    }

    /// Takes the value block for valid; a bug that can be put back.
    pub(crate) const fn trust_value(&mut self) {
        (self.value_invalid, self.news) = (false, ValueNews::Nothing);
    }

    pub(crate) const fn is_value_invalid(&self) -> bool {
        self.value_invalid
    }

    /// `failed`: by a failure that is a matter of the recovery domain.
    pub(crate) fn invalidate(&mut self, failed: bool) {
        self.value_invalid = true;
        if failed || self.news != ValueNews::Failed {
            self.news = if failed { ValueNews::Failed } else { ValueNews::Invalid };
        }
    }

    /// It is repaired: the value block is zero, and valid.
    pub(crate) fn validate(&mut self) {
        self.value = ValueBlock::zero(self.value.as_bytes().len());
        self.value_sequence += 1;
        (self.value_invalid, self.news) = (false, ValueNews::Nothing);
    }

    /// What became of the value block since the last time.
    pub(crate) const fn take_news(&mut self) -> ValueNews {
        core::mem::replace(&mut self.news, ValueNews::Nothing)
    }

    /// Puts in place of every lock that a departed node may have had the strongest one that the others allow.
    pub(crate) fn suspect(&mut self, node: NodeInstance) {
        let ranges = self.range_suspicion();
        self.suspect_of(node, ranges);
    }

    /// As [`Queues::suspect`]; `ranges`: what it may have of a resource that is locked by ranges.
    pub(crate) fn suspect_of(&mut self, node: NodeInstance, ranges: Option<EntryRanges>) {
        let who = Holder { node, lock: 0 };
        if self.contains(who) {
            return;
        }
        let strongest = [Mode::Ex, Mode::Pw, Mode::Pr, Mode::Cw, Mode::Cr, Mode::Nl];
        let living = |e: &&Entry| e.who.lock != 0;
        let allowed = |mode: &Mode| {
            self.holders().filter(living).all(|e| e.held.is_none_or(|held| held.is_compatible(*mode)))
        };
        let mode = match &ranges {
            Some(ranges) => ranges.held.mode(),
            None => strongest.into_iter().find(allowed).unwrap_or(Mode::Nl),
        };
        self.granted.push(Entry {
            who,
            client: ClientId::new(0),
            transaction: 0,
            flags: Flags::NONE,
            held: Some(mode),
            asked: None,
            op: 0,
            place: 0,
            since: self.now,
            notified: 0,
            demoted: false,
            refused: None,
            rare: Rare::new(ranges, 0),
        });
    }

    /// Grants what can be granted, and notifies who is in the way of the rest.
    pub(crate) fn pass(&mut self, token: &mut FencingToken, out: &mut Effects) {
        self.pass_all(token, out);
        while self.refuse_one(out) {
            self.pass_all(token, out);
        }
        self.tell_in_the_way(out);
    }

    fn pass_all(&mut self, token: &mut FencingToken, out: &mut Effects) {
        self.pass_converting(token, out);
        for who in self.waiting.iter().map(|e| e.who).collect::<Vec<_>>() {
            let Some(at) = self.waiting.iter().position(|e| e.who == who) else { continue };
            let first = self.converting.is_empty() && at == 0;
            if let Some(mode) = self.grantable(&self.waiting[at], |flags| first || flags.has(Flags::NOORDER))
            {
                let entry = self.waiting.remove(at);
                let entry = self.grant(entry, mode, token, out);
                self.granted.push(entry);
            }
        }
    }

    fn pass_converting(&mut self, token: &mut FencingToken, out: &mut Effects) {
        let mut some = true;
        while some {
            some = false;
            for who in self.converting.iter().map(|e| e.who).collect::<Vec<_>>() {
                let Some(at) = self.converting.iter().position(|e| e.who == who) else { continue };
                let may = |flags: Flags| at == 0 || flags.has(Flags::NOORDER);
                if let Some(mode) = self.grantable(&self.converting[at], may) {
                    let entry = self.converting.remove(at);
                    let entry = self.grant(entry, mode, token, out);
                    self.granted.push(entry);
                    some = true;
                }
            }
        }
    }

    /// The mode in which the entry can be granted, and whether that is its alternative. `order`: whether its place in the
    /// queue allows it.
    fn grantable(&self, entry: &Entry, order: impl Fn(Flags) -> bool) -> Option<(Mode, bool)> {
        let asked = entry.asked?;
        if entry.flags.has(Flags::EXPEDITE) && asked == Mode::Nl {
            return Some((asked, false));
        }
        if !order(entry.flags) {
            return None;
        }
        if !self.conflicts(entry, asked) {
            return Some((asked, false));
        }
        let alternative = entry.alternative()?;
        (!self.conflicts(entry, alternative)).then_some((alternative, true))
    }

    /// The lock holds `mode` and is in no queue. Its holder is told.
    fn grant(
        &self,
        mut entry: Entry,
        (mode, alternative): (Mode, bool),
        token: &mut FencingToken,
        out: &mut Effects,
    ) -> Entry {
        let transfer = Mode::transfer(entry.held, mode);
        let beside = self.holders().any(|e| e.who != entry.who && e.held == Some(Mode::Cw));
        let alone = !beside && entry.held != Some(Mode::Cw);
        let writes = mode.is_writer() || (mode == Mode::Cw && alone);
        // A writer that is converted down goes on as the writer it was.
        let mut issued = *token;
        if writes && !(entry.held.is_some_and(Mode::is_writer) && entry.goes_down(mode)) {
            issued = take_tokens(token, entry.flags);
        }
        entry.take_ranges();
        let wanted = entry.flags.has_any(Flags::VALBLK | Flags::KEEP);
        let value = (transfer == Transfer::Read && wanted).then(|| self.value());
        let remarks = Remarks { demoted: entry.demoted, value_invalid: self.value_invalid, alternative };
        let effect = Effect::Granted { op: entry.op, mode, token: issued, remarks, value };
        out.push((entry.who, effect));
        (entry.held, entry.asked, entry.notified, entry.demoted) = (Some(mode), None, 0, false);
        entry.rare.asks_no_more();
        entry.since = self.now;
        entry
    }

    fn write(&mut self, flags: Flags, value: Option<&Value>) {
        if flags.has(Flags::IVVALBLK) {
            self.invalidate(flags.has(Flags::FAILURE));
        } else if let (true, Some(value)) = (flags.has(Flags::VALBLK), value) {
            self.value = value.block.resized(self.value.as_bytes().len());
            self.value_sequence += 1;
            (self.value_invalid, self.news) = (false, ValueNews::Written);
        }
    }

    /// Places come from other nodes, too: whatever they say, this does not overflow.
    fn new_place(&mut self, flags: Flags) -> i64 {
        if flags.has(Flags::HEADQUE) {
            self.first_place = self.first_place.saturating_sub(1);
            return self.first_place;
        }
        let place = self.next_place;
        self.next_place = place.saturating_add(1);
        place
    }

    fn take(&mut self, who: Holder) -> Option<Entry> {
        for queue in [&mut self.granted, &mut self.converting, &mut self.waiting] {
            if let Some(at) = queue.iter().position(|e| e.who == who) {
                return Some(queue.remove(at));
            }
        }
        None
    }
}

/// The token of a grant to a writer. Those that it may use before it asks again are nobody else's.
const fn take_tokens(token: &mut FencingToken, flags: Flags) -> FencingToken {
    token.sequence += 1;
    let issued = *token;
    if flags.has(Flags::KEEP) {
        token.sequence += super::KEPT_USES;
    }
    issued
}

/// A time as queues note it.
pub(crate) fn millis(at: Instant) -> i64 {
    i64::try_from(at.as_nanos() / 1_000_000).unwrap_or(i64::MAX)
}
