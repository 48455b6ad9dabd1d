//! A resource as a person would keep it on paper: three lists. Written from the rules, not from the code it is held against.

use ocf_dlm::{Flags, Mode};

/// Row: held; column: asked for.
const COMPATIBLE: [&[u8; 6]; 6] = [b"yyyyyy", b"yyyyyn", b"yyynnn", b"yynynn", b"yynnnn", b"ynnnnn"];
/// Row: held before (first: a new lock); column: held after.
const MOVES: [&[u8; 6]; 7] = [b"RRRRRR", b"RRRRRR", b"-RRRRR", b"--RRRR", b"---RRR", b"WWWWWR", b"WWWWWW"];
/// Row: held, column: asked for: where a conversion may be told to queue.
const QUEUES: [&[u8; 6]; 6] = [b"nyyyyy", b"nnyyyy", b"nnnyyy", b"nnynyy", b"nnnnny", b"nnnnnn"];

pub(crate) fn compatible(a: Mode, b: Mode) -> bool {
    COMPATIBLE[a as usize][b as usize] == b'y'
}

pub(crate) fn may_queue(held: Mode, asked: Mode) -> bool {
    QUEUES[held as usize][asked as usize] == b'y'
}

fn goes_down(held: Mode, asked: Mode) -> bool {
    asked <= held && (held, asked) != (Mode::Pr, Mode::Cw)
}

/// What happened, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Ended { tag: u64, how: &'static str, held: Option<Mode>, remarks: u8, token: u64, value: Option<Vec<u8>> },
    Blocks { tag: u64, wanted: Mode },
}

#[derive(Clone, Debug)]
pub(crate) struct Lock {
    pub(crate) tag: u64,
    pub(crate) client: u32,
    pub(crate) held: Option<Mode>,
    pub(crate) asked: Option<Mode>,
    flags: Flags,
    deadline: Option<u64>,
    told: Vec<Mode>,
    demoted: bool,
    alternative: bool,
    pub(crate) orphan: bool,
    /// When it was made, or queued last.
    stamp: u64,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    pub(crate) granted: Vec<Lock>,
    pub(crate) converting: Vec<Lock>,
    pub(crate) waiting: Vec<Lock>,
    value: Vec<u8>,
    invalid: bool,
    token: u64,
    tokens: u64,
    pub(crate) events: Vec<Event>,
    queue_conversions: bool,
    stamps: u64,
}

impl Model {
    pub(crate) fn new(queue_conversions: bool) -> Self {
        Self { value: vec![0; 32], queue_conversions, ..Self::default() }
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &Lock> {
        self.granted.iter().chain(&self.converting).chain(&self.waiting)
    }

    fn excluded(&self, lock: &Lock) -> bool {
        let asked = lock.asked.unwrap();
        let others = self.granted.iter().chain(&self.converting).filter(|other| other.tag != lock.tag);
        others.filter_map(|other| other.held).any(|held| !compatible(held, asked))
    }

    fn passes(&self, lock: &Lock, fresh: bool) -> bool {
        if lock.flags.has(Flags::EXPEDITE) {
            return true;
        }
        if self.excluded(lock) {
            return false;
        }
        if let (Some(held), true) = (lock.held, fresh) {
            let queues = lock.flags.has(Flags::QUECVT)
                || (self.queue_conversions && !goes_down(held, lock.asked.unwrap()));
            return !queues || self.converting.is_empty();
        }
        if lock.flags.has(Flags::NOORDER) {
            return true;
        }
        let first = |list: &[Lock]| list.first().is_some_and(|head| head.tag == lock.tag);
        match (lock.held.is_some(), fresh) {
            (true, _) => first(&self.converting),
            (false, true) => self.converting.is_empty() && self.waiting.is_empty(),
            (false, false) => self.converting.is_empty() && first(&self.waiting),
        }
    }

    /// As asked, or in the alternative mode.
    fn passes_somehow(&self, lock: &mut Lock, fresh: bool) -> bool {
        self.passes(lock, fresh) || self.passes_otherwise(lock, fresh)
    }

    fn passes_otherwise(&self, lock: &mut Lock, fresh: bool) -> bool {
        for (flag, mode) in [(Flags::ALTPR, Mode::Pr), (Flags::ALTCW, Mode::Cw)] {
            if lock.flags.has(flag) && lock.asked != Some(mode) {
                let other = Lock { asked: Some(mode), alternative: true, ..lock.clone() };
                if self.passes(&other, fresh) {
                    *lock = other;
                    return true;
                }
                return false;
            }
        }
        false
    }

    fn ended(&mut self, lock: &Lock, how: &'static str, held: Option<Mode>, value: Option<Vec<u8>>) {
        let remarks = u8::from(lock.demoted) + 2 * u8::from(self.invalid) + 4 * u8::from(lock.alternative);
        self.events.push(Event::Ended { tag: lock.tag, how, held, remarks, token: self.token, value });
    }

    /// The lock holds what it asked for; it comes back, in no list.
    fn granted_now(&mut self, mut lock: Lock, given: Option<&[u8]>) -> Lock {
        let new = lock.asked.take().unwrap();
        let row = lock.held.map_or(0, |held| held as usize + 1);
        let mut value = None;
        match MOVES[row][new as usize] {
            b'R' if lock.flags.has(Flags::VALBLK) => value = Some(self.value.clone()),
            b'W' if lock.flags.has(Flags::IVVALBLK) => self.invalid = true,
            // One that waited and ends in a lower alternative mode brings no block: nothing is written.
            b'W' if lock.flags.has(Flags::VALBLK) => {
                if let Some(given) = given {
                    (self.value, self.invalid) = (given.to_vec(), false);
                }
            }
            _ => {}
        }
        let beside = |list: &[Lock]| list.iter().any(|o| o.tag != lock.tag && o.held == Some(Mode::Cw));
        let alone = !beside(&self.granted) && !beside(&self.converting) && lock.held != Some(Mode::Cw);
        let keeps = matches!(
            (lock.held, new),
            (Some(Mode::Ex), Mode::Pw | Mode::Ex | Mode::Cw) | (Some(Mode::Pw), Mode::Pw | Mode::Cw)
        );
        let writer = matches!(new, Mode::Pw | Mode::Ex) || (new == Mode::Cw && alone);
        if writer && !keeps {
            self.tokens += 1;
            self.token = self.tokens;
        }
        lock.held = Some(new);
        lock.told.clear();
        self.ended(&lock, "Granted", Some(new), value);
        lock
    }

    fn tell(events: &mut Vec<Event>, lock: &mut Lock, wanted: Mode) {
        if !lock.flags.has(Flags::NOTIFY) || lock.orphan {
            return;
        }
        let pair = [Mode::Cw, Mode::Pr];
        let knows = lock.told.iter().any(|told| {
            *told >= wanted && !(pair.contains(told) && pair.contains(&wanted) && *told != wanted)
        });
        if !knows {
            lock.told.push(wanted);
            events.push(Event::Blocks { tag: lock.tag, wanted });
        }
    }

    fn tell_of(&mut self, asked: Mode, but: u64, converting_too: bool) {
        let lists = if converting_too {
            vec![&mut self.granted, &mut self.converting]
        } else {
            vec![&mut self.granted]
        };
        for lock in lists.into_iter().flatten() {
            if lock.tag != but && lock.held.is_some_and(|held| !compatible(held, asked)) {
                Self::tell(&mut self.events, lock, asked);
            }
        }
    }

    fn tell_of_all(&mut self) {
        let asked: Vec<Mode> =
            self.converting.iter().chain(&self.waiting).filter_map(|lock| lock.asked).collect();
        for lock in &mut self.granted {
            let held = lock.held.unwrap();
            if let Some(wanted) = asked.iter().filter(|asked| !compatible(held, **asked)).max() {
                Self::tell(&mut self.events, lock, *wanted);
            }
        }
    }

    fn grant_conversions(&mut self) {
        loop {
            let mut some = false;
            for tag in self.converting.iter().map(|lock| lock.tag).collect::<Vec<_>>() {
                let at = self.converting.iter().position(|lock| lock.tag == tag).unwrap();
                let mut lock = self.converting[at].clone();
                if self.passes_somehow(&mut lock, false) {
                    let lock = self.granted_now(lock, None);
                    self.converting.remove(at);
                    self.granted.push(lock);
                    some = true;
                }
            }
            if !some {
                return;
            }
        }
    }

    /// After any change.
    fn settle(&mut self) {
        if self.all().next().is_none() {
            (self.value, self.invalid, self.token) = (vec![0; 32], false, self.tokens);
            return;
        }
        self.grant_conversions();
        for tag in self.waiting.iter().map(|lock| lock.tag).collect::<Vec<_>>() {
            let at = self.waiting.iter().position(|lock| lock.tag == tag).unwrap();
            let mut lock = self.waiting[at].clone();
            if self.passes_somehow(&mut lock, false) {
                let lock = self.granted_now(lock, None);
                self.waiting.remove(at);
                self.granted.push(lock);
            }
        }
        self.tell_of_all();
    }

    /// A wait ended ungranted: if it was the last, all are told anew.
    fn forget(&mut self) {
        if self.converting.is_empty() && self.waiting.is_empty() {
            self.granted.iter_mut().for_each(|lock| lock.told.clear());
        }
    }

    fn stamp(&mut self) -> u64 {
        self.stamps += 1;
        self.stamps
    }

    fn enqueue(list: &mut Vec<Lock>, lock: Lock) {
        // Who went down to NL does not overtake: those behind it could wait for ever.
        let first = lock.flags.has(Flags::HEADQUE) && !lock.demoted;
        if first { list.insert(0, lock) } else { list.push(lock) }
    }

    pub(crate) fn request(
        &mut self,
        (tag, client): (u64, u32),
        mode: Mode,
        flags: Flags,
        deadline: Option<u64>,
    ) {
        let mut lock = Lock {
            tag,
            client,
            held: None,
            asked: Some(mode),
            flags,
            deadline,
            told: Vec::new(),
            demoted: false,
            alternative: false,
            orphan: false,
            stamp: self.stamp(),
        };
        if self.passes_somehow(&mut lock, true) {
            let lock = self.granted_now(lock, None);
            self.granted.push(lock);
            self.tell_of_all();
        } else if flags.has(Flags::NOQUEUE) {
            self.ended(&lock, "NotQueued", None, None);
            if flags.has(Flags::NOQUEUEBAST) {
                self.tell_of(mode, tag, true);
            }
        } else {
            lock.stamp = self.stamp();
            Self::enqueue(&mut self.waiting, lock);
            self.tell_of(mode, tag, false);
            if flags.has(Flags::HEADQUE) {
                self.settle();
            }
        }
    }

    fn deadlock(&self, lock: &Lock) -> bool {
        if lock.flags.has_any(Flags::NOQUEUE | Flags::NODLCKWT) {
            return false;
        }
        self.converting.iter().filter(|other| !other.flags.has(Flags::NODLCKWT)).any(|other| {
            let waits_for_us =
                !lock.flags.has(Flags::NODLCKBLK) && !compatible(lock.held.unwrap(), other.asked.unwrap());
            let we_overtake_what_we_wait_for = lock.flags.has(Flags::HEADQUE)
                && !other.flags.has_any(Flags::NOORDER | Flags::NODLCKBLK)
                && !compatible(other.held.unwrap(), lock.asked.unwrap());
            waits_for_us || we_overtake_what_we_wait_for
        })
    }

    pub(crate) fn convert(
        &mut self,
        (tag, mode): (u64, Mode),
        flags: Flags,
        value: &[u8],
        deadline: Option<u64>,
    ) {
        let at = self.granted.iter().position(|lock| lock.tag == tag).unwrap();
        let before = self.granted[at].clone();
        let kept = before.flags.bits() & (Flags::NOTIFY | Flags::PERSISTENT).bits();
        let mut lock = Lock {
            asked: Some(mode),
            flags: flags | Flags::from_bits(kept),
            deadline,
            demoted: false,
            alternative: false,
            ..before
        };
        let mut done = self.passes(&lock, true);
        if !done && self.deadlock(&lock) {
            if !flags.has(Flags::CONVDEADLK) {
                self.ended(&lock, "Deadlock", lock.held, None);
                self.granted[at] = Lock { asked: None, ..lock };
                return;
            }
            (lock.held, lock.demoted) = (Some(Mode::Nl), true);
            lock.told.clear();
            self.granted[at].held = Some(Mode::Nl);
            self.granted[at].told.clear();
            self.grant_conversions();
            done = self.passes(&lock, true);
        }
        if done || self.passes_otherwise(&mut lock, true) {
            let lock = self.granted_now(lock, Some(value));
            let at = self.granted.iter().position(|lock| lock.tag == tag).unwrap();
            self.granted[at] = lock;
            self.settle();
            return;
        }
        if flags.has(Flags::NOQUEUE) {
            self.ended(&lock, "NotQueued", lock.held, None);
            if flags.has(Flags::NOQUEUEBAST) {
                self.tell_of(mode, tag, true);
            }
            self.granted[at] = Lock { asked: None, ..lock };
            return;
        }
        let demoted = lock.demoted;
        self.granted.retain(|other| other.tag != tag);
        lock.stamp = self.stamp();
        Self::enqueue(&mut self.converting, lock);
        self.tell_of(mode, tag, false);
        if demoted || flags.has_any(Flags::HEADQUE | Flags::NOORDER) {
            self.settle();
        }
    }

    /// Ends a wait; true if there was one.
    pub(crate) fn give_up(&mut self, tag: u64, how: &'static str) -> bool {
        if let Some(at) = self.waiting.iter().position(|lock| lock.tag == tag) {
            let lock = self.waiting.remove(at);
            self.ended(&lock, how, None, None);
        } else if let Some(at) = self.converting.iter().position(|lock| lock.tag == tag) {
            let lock = self.converting.remove(at);
            self.ended(&lock, how, lock.held, None);
            self.granted.push(Lock { asked: None, ..lock });
        } else {
            return false;
        }
        self.forget();
        self.settle();
        true
    }

    fn take(&mut self, tag: u64) -> (Lock, bool) {
        for (list, waits) in
            [(&mut self.granted, false), (&mut self.converting, true), (&mut self.waiting, true)]
        {
            if let Some(at) = list.iter().position(|lock| lock.tag == tag) {
                return (list.remove(at), waits);
            }
        }
        unreachable!("the test picks locks that are there");
    }

    fn let_go(&mut self, lock: &Lock, flags: Flags, value: &[u8]) {
        if matches!(lock.held, Some(Mode::Pw | Mode::Ex)) {
            if flags.has(Flags::IVVALBLK) {
                self.invalid = true;
            } else if flags.has(Flags::VALBLK) {
                (self.value, self.invalid) = (value.to_vec(), false);
            }
        }
    }

    /// False if it may not be released.
    pub(crate) fn release(&mut self, tag: u64, flags: Flags, value: &[u8]) -> bool {
        let waits = self.converting.iter().chain(&self.waiting).any(|lock| lock.tag == tag);
        if waits && !flags.has(Flags::FORCEUNLOCK) {
            return false;
        }
        let (lock, _) = self.take(tag);
        if waits {
            self.ended(&lock, "Unlocked", None, None);
        }
        self.let_go(&lock, flags, value);
        if waits {
            self.forget();
        }
        self.settle();
        true
    }

    pub(crate) fn pass_time(&mut self, now: u64) {
        loop {
            let waits = self.converting.iter().chain(&self.waiting);
            let due = waits
                .filter_map(|lock| Some((lock.deadline?, lock.stamp, lock.tag)))
                .filter(|(at, ..)| *at <= now)
                .min();
            let Some((_, _, tag)) = due else { return };
            self.give_up(tag, "TimedOut");
        }
    }

    fn tags(&self, which: impl Fn(&Lock) -> bool) -> Vec<u64> {
        let mut found: Vec<(u64, u64)> = self.all().filter(|l| which(l)).map(|l| (l.stamp, l.tag)).collect();
        found.sort_unstable();
        found.into_iter().map(|(_, tag)| tag).collect()
    }

    pub(crate) fn client_dies(&mut self, client: u32) {
        let tags = self.tags(|l| l.client == client && !l.orphan);
        for tag in &tags {
            if let Some(lock) = self.granted.iter_mut().find(|lock| lock.tag == *tag)
                && lock.flags.has(Flags::PERSISTENT)
            {
                lock.orphan = true;
                continue;
            }
            let (lock, _) = self.take(*tag);
            if lock.flags.has(Flags::PERSISTENT) && lock.held.is_some() {
                self.granted.push(Lock { orphan: true, asked: None, ..lock });
            } else {
                self.let_go(&lock, Flags::IVVALBLK, &[]);
            }
        }
        if !tags.is_empty() {
            self.forget();
            self.settle();
        }
    }

    pub(crate) fn purge(&mut self, client: Option<u32>) {
        let tags = self.tags(|l| l.orphan && client.is_none_or(|client| l.client == client));
        for tag in &tags {
            let (lock, _) = self.take(*tag);
            self.let_go(&lock, Flags::IVVALBLK, &[]);
        }
        if !tags.is_empty() {
            self.forget();
            self.settle();
        }
    }
}
