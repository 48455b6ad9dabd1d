//! Messages of a group of one cluster in a group of another, for nodes that are members of both. PROTOCOL.md, section 16.

use crate::{MemberId, Position};
use bytes::{BufMut as _, Bytes, BytesMut};
use ocf_membership::ViewNumber;
use pils::wire::{Malformed, ParseError, Reader, Writer as _};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Longest name of a cluster, in bytes.
pub const CLUSTER_NAME_MAX: usize = 64;
/// Clusters from which messages arrive, at most; messages of further ones are not taken.
pub const ORIGINS_MAX: usize = 256;
/// First bytes of a message that came through a gateway. A program's own messages must not begin with them.
pub const MARK: [u8; 4] = *b"OCFr";
const VERSION: u8 = 1;
/// Bytes in front of a payload, at most.
const HEADER_MAX: usize = 48 + CLUSTER_NAME_MAX;

/// Bounds of a [`Relay`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Messages that wait to be seen in the target; beyond it the oldest is given up, and who gets the next is told that some are
    /// missing. Default 4096.
    pub waiting_max: usize,
    /// Bytes of their payloads. Default 64 MiB.
    pub waiting_bytes: usize,
    /// Largest message of the target cluster, in bytes, as in the [`Config`](crate::Config) of its groups; what is larger with the up to
    /// 112 bytes in front is given up. Default 16 MiB - 4 KiB.
    pub message_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { waiting_max: 4096, waiting_bytes: 64 << 20, message_max: (16 << 20) - (4 << 10) }
    }
}

/// A message as it travels between clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// The cluster in which it was sent.
    pub origin: Arc<str>,
    /// Its place in the ordered stream of that cluster: with `origin` it names the message.
    pub place: Position,
    /// Who sent it there.
    pub sender: MemberId,
    /// False if messages of that cluster may be missing just before it: no gateway was there, or too many waited.
    pub gapless: bool,
    /// What was sent.
    pub payload: Bytes,
}

impl Relayed {
    fn write(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_MAX + self.payload.len());
        out.put_slice(&MARK);
        out.put_u8(VERSION);
        out.put_u8(u8::from(self.gapless));
        out.put_prefixed(self.origin.as_bytes());
        out.put_u64(self.place.view.0);
        out.put_u64(self.place.sequence);
        out.put_instance(self.sender.instance);
        out.put_u32(self.sender.local);
        out.put_slice(&self.payload);
        out.freeze()
    }

    /// `None` if it did not come through a gateway.
    fn read(message: &Bytes) -> Option<Result<Self, ParseError>> {
        message.starts_with(&MARK).then(|| Self::read_marked(message))
    }

    fn read_marked(message: &Bytes) -> Result<Self, ParseError> {
        let mut r = Reader::new(message);
        let _mark = r.take("mark", MARK.len())?;
        if r.u8("version")? != VERSION {
            return Err(r.error("version", Malformed::OutOfRange));
        }
        let gapless = r.u8("gapless")? == 1;
        let origin = r.bytes("origin")?;
        let origin =
            core::str::from_utf8(origin).ok().filter(|o| !o.is_empty() && o.len() <= CLUSTER_NAME_MAX);
        let origin = Arc::from(origin.ok_or_else(|| r.error("origin", Malformed::OutOfRange))?);
        let place = Position { view: ViewNumber(r.u64("view")?), sequence: r.u64("sequence")? };
        let sender = MemberId { instance: r.instance("sender")?, local: r.u32("local")? };
        let payload = message.slice(r.position()..);
        Ok(Self { origin, place, sender, gapless, payload })
    }
}

/// What a message of a group is, to who receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It was sent in this cluster.
    Local,
    /// It came through a gateway, and is new.
    Relayed(Relayed),
    /// It came through a gateway before, or one after it did: to be passed over.
    Repeated,
    /// It has the mark and is no message of a gateway: to be passed over.
    Malformed,
}

/// How far the messages of other clusters have come in a group: a function of its ordered stream, so the same at all its members. Part of the
/// state that a member hands to a joiner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrivals {
    last: BTreeMap<Arc<str>, Position>,
}

impl Arrivals {
    /// What the message of the group that is delivered now is. To be called with each of them, in order.
    pub fn take(&mut self, message: &Bytes) -> Arrival {
        let relayed = match Relayed::read(message) {
            None => return Arrival::Local,
            Some(Err(_)) => return Arrival::Malformed,
            Some(Ok(relayed)) => relayed,
        };
        if self.has(&relayed.origin, relayed.place) {
            return Arrival::Repeated;
        }
        if self.last.len() >= ORIGINS_MAX && !self.last.contains_key(&relayed.origin) {
            return Arrival::Malformed;
        }
        self.last.insert(Arc::clone(&relayed.origin), relayed.place);
        Arrival::Relayed(relayed)
    }

    /// The place in its cluster of the last message that came from there.
    #[must_use]
    pub fn last(&self, origin: &str) -> Option<Position> {
        self.last.get(origin).copied()
    }

    fn has(&self, origin: &str, place: Position) -> bool {
        self.last(origin).is_some_and(|last| place <= last)
    }

    /// For the state of the group.
    #[must_use]
    pub fn write(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_varint(self.last.len() as u64);
        for (origin, place) in &self.last {
            out.put_prefixed(origin.as_bytes());
            out.put_u64(place.view.0);
            out.put_u64(place.sequence);
        }
        out.freeze()
    }

    /// From the state of the group.
    ///
    /// # Errors
    /// Where it is not what [`Self::write`] wrote.
    pub fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let mut last = BTreeMap::new();
        for _ in 0..r.length("origins", ORIGINS_MAX)? {
            let origin = core::str::from_utf8(r.bytes("origin")?);
            let origin = origin.ok().filter(|origin| origin.len() <= CLUSTER_NAME_MAX);
            let origin = origin.ok_or_else(|| r.error("origin", Malformed::OutOfRange))?;
            let place = Position { view: ViewNumber(r.u64("view")?), sequence: r.u64("sequence")? };
            last.insert(Arc::from(origin), place);
        }
        Ok(Self { last })
    }
}

/// Counters of a [`Relay`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that were handed out to be sent, some more than once.
    pub handed_out: u64,
    /// Messages that were given up because too many waited, or they were too large.
    pub given_up: u64,
    /// Messages that would have gone back where they came from.
    pub turned_back: u64,
}

/// A bug put back on purpose, to see that a checker finds it.
#[cfg(feature = "testing")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// Sends though another gateway leads.
    EverybodyLeads,
    /// Relays what came from the target.
    TurnsNothingBack,
    /// Takes for sent what it handed out before it was outside the target.
    RemembersHandedOut,
    /// Says that nothing is missing though it was away.
    HidesGaps,
    /// Leads on after it has asked to leave the gateways.
    LeadsOn,
}

/// True if the bug was put back; never, without the feature `testing`.
macro_rules! sabotaged {
    ($core:expr, $bug:ident) => {{
        #[cfg(feature = "testing")]
        let yes = $core.sabotage == Some(Sabotage::$bug);
        #[cfg(not(feature = "testing"))]
        let yes = false;
        yes
    }};
}

/// One direction of one gateway: a sans-IO core that passes the ordered messages of a group of the cluster `source` on to a group of the
/// cluster `target`. A gateway that joins both ways has two.
///
/// ```text
/// what happens                                                    call
/// this gateway joined the source group                            source_joined()
/// Event::Reset of the source group                                source_reset()
/// a message of the source group, in order                         source()
/// a message of the target group, in order                         target()
/// this gateway joined the target group: with the state it got     target_joined()
/// Event::Reset of the target group                                target_reset()
/// the members of the gateways' own group in the target cluster    gateways()
/// Event::Reset of the gateways' own group                         gateways_reset()
/// then: join the gateways' own group if this is true;
/// if not, leave it and say so                                     serves(), gateways_left()
/// and, as long as the target group takes it                       next(), handed_out()
/// ```
///
/// All gateways between two clusters are members of one more group of the target cluster, in which nothing is sent: the first in its table
/// **leads**, and sends; who does not hear the source is no member of it. As that table changes in the one order of the target cluster, everything that a leader sent was ordered before the news
/// that another leads: nothing comes twice.
#[derive(Debug)]
pub struct Relay {
    config: Config,
    source: Arc<str>,
    target: Arc<str>,
    local: MemberId,
    /// It is in the table of the gateways.
    listed: bool,
    /// And first.
    leads: bool,
    /// It has asked to leave the gateways, and what it sends now would come after that.
    leaving: bool,
    /// It is a member of the source group.
    hears: bool,
    /// What has come in the target group; none before this gateway was told.
    arrivals: Option<Arrivals>,
    /// Not seen in the target yet, in the order of the source group.
    waiting: VecDeque<Relayed>,
    bytes: usize,
    /// How many of them were handed out since this gateway joined the target.
    out: usize,
    /// Clusters of which this gateway has heard the last message that the source had, and so will not miss the next.
    sure: BTreeSet<Arc<str>>,
    stats: Stats,
    #[cfg(feature = "testing")]
    sabotage: Option<Sabotage>,
}

impl Relay {
    /// A gateway that is a member of nothing yet. `local` is its member in the target cluster.
    #[must_use]
    pub fn new(config: Config, source: &str, target: &str, local: MemberId) -> Self {
        Self {
            config,
            source: Arc::from(source),
            target: Arc::from(target),
            local,
            listed: false,
            leads: false,
            leaving: false,
            hears: false,
            arrivals: None,
            waiting: VecDeque::new(),
            bytes: 0,
            out: 0,
            sure: BTreeSet::new(),
            stats: Stats::default(),
            #[cfg(feature = "testing")]
            sabotage: None,
        }
    }

    /// Puts a bug back.
    #[cfg(feature = "testing")]
    pub const fn sabotage(&mut self, what: Sabotage) {
        self.sabotage = Some(what);
    }

    /// This gateway joined the source group: it may have missed what came before.
    pub fn source_joined(&mut self) {
        self.hears = true;
        self.sure.clear();
    }

    /// The source group went on without this gateway. It hands nothing out until it joined again, and has to leave the gateways' group, so
    /// that another leads which hears.
    pub const fn source_reset(&mut self) {
        self.hears = false;
    }

    /// Whether this gateway should be a member of the gateways' own group now: it hears the source, and knows what came in the target.
    #[must_use]
    pub const fn serves(&self) -> bool {
        self.hears && self.arrivals.is_some()
    }

    /// A message of the source group.
    pub fn source(&mut self, place: Position, sender: MemberId, payload: &Bytes) {
        let mut relayed = match Relayed::read(payload) {
            None => Relayed {
                origin: Arc::clone(&self.source),
                place,
                sender,
                gapless: true,
                payload: payload.clone(),
            },
            Some(Ok(relayed)) if relayed.origin != self.target || sabotaged!(self, TurnsNothingBack) => {
                relayed
            }
            Some(_) => {
                self.stats.turned_back += 1;
                return;
            }
        };
        let sure = self.sure.contains(&relayed.origin);
        if !sure && self.sure.len() < ORIGINS_MAX {
            self.sure.insert(Arc::clone(&relayed.origin));
        }
        // Whatever was missing before it has come by another gateway, or is not wanted any more.
        if self.arrivals.as_ref().is_some_and(|a| a.has(&relayed.origin, relayed.place)) {
            return;
        }
        if relayed.payload.len().saturating_add(HEADER_MAX) > self.config.message_max {
            self.stats.given_up += 1;
            self.sure.remove(&relayed.origin);
            return;
        }
        relayed.gapless &= sure || sabotaged!(self, HidesGaps);
        self.bytes += relayed.payload.len();
        self.waiting.push_back(relayed);
        while self.waiting.len() > self.config.waiting_max || self.bytes > self.config.waiting_bytes {
            self.give_up_oldest();
        }
    }

    fn give_up_oldest(&mut self) {
        let Some(oldest) = self.waiting.pop_front() else { return };
        self.bytes -= oldest.payload.len();
        self.out = self.out.saturating_sub(1);
        self.stats.given_up += 1;
        match self.waiting.iter_mut().find(|next| next.origin == oldest.origin) {
            Some(next) => next.gapless = false,
            None => {
                self.sure.remove(&oldest.origin);
            }
        }
    }

    /// A message of the target group, whoever sent it.
    pub fn target(&mut self, message: &Bytes) -> Arrival {
        let Some(arrivals) = &mut self.arrivals else { return Arrival::Repeated };
        let arrival = arrivals.take(message);
        if matches!(arrival, Arrival::Relayed(_)) {
            self.forget_seen();
        }
        arrival
    }

    /// This gateway joined the target group, in which `arrivals` had come before; the default if it is the only member.
    pub fn target_joined(&mut self, arrivals: Arrivals) {
        self.arrivals = Some(arrivals);
        self.forget_seen();
    }

    /// The target group went on without this gateway: what it handed out may be lost, or not. It sends nothing until it joined
    /// again.
    pub fn target_reset(&mut self) {
        self.arrivals = None;
        if !sabotaged!(self, RemembersHandedOut) {
            self.out = 0;
        }
    }

    fn forget_seen(&mut self) {
        let Some(arrivals) = &self.arrivals else { return };
        while let Some(oldest) = self.waiting.front().filter(|w| arrivals.has(&w.origin, w.place)) {
            self.bytes -= oldest.payload.len();
            self.waiting.pop_front();
            self.out = self.out.saturating_sub(1);
        }
    }

    /// The members of the gateways' own group in the target cluster, most senior first.
    pub fn gateways(&mut self, members: &[MemberId]) {
        let listed = members.contains(&self.local);
        self.leaving &= listed || !self.listed;
        self.listed = listed;
        self.leads = members.first() == Some(&self.local);
    }

    /// This gateway has asked to leave the gateways' group: it hands nothing out until it is out and has joined again. `ordered` is what
    /// [`GroupService::is_local`](crate::GroupService::is_local) says after that: false if its join was taken back before it was sent, of which
    /// no table tells.
    pub const fn gateways_left(&mut self, ordered: bool) {
        self.leaving = ordered;
    }

    /// The gateways' group went on without this gateway.
    pub const fn gateways_reset(&mut self) {
        (self.listed, self.leads, self.leaving) = (false, false, false);
    }

    /// What to send to the target group next, with [`Guarantee::Safe`](crate::Guarantee::Safe); `None` if nothing waits or this gateway
    /// does not lead.
    #[must_use]
    pub fn next(&self) -> Option<Bytes> {
        self.next_out().map(|i| self.waiting[i].write())
    }

    /// The target group took what [`Self::next`] returned.
    pub fn handed_out(&mut self) {
        if let Some(i) = self.next_out() {
            self.out = i + 1;
            self.stats.handed_out += 1;
        }
    }

    fn next_out(&self) -> Option<usize> {
        let arrivals = self.arrivals.as_ref()?;
        let leads = self.hears
            && (!self.leaving || sabotaged!(self, LeadsOn))
            && (self.leads || sabotaged!(self, EverybodyLeads));
        // In a ring of clusters one may have come by another way, behind one that has not.
        let came = |i: &usize| arrivals.has(&self.waiting[*i].origin, self.waiting[*i].place);
        (self.out..self.waiting.len()).find(|i| !came(i)).filter(|_| leads)
    }

    /// What has come in the target group, for the state that this gateway hands to a joiner.
    #[must_use]
    pub const fn arrivals(&self) -> Option<&Arrivals> {
        self.arrivals.as_ref()
    }

    /// Messages that were not seen in the target group yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Counters since the start.
    #[must_use]
    pub const fn stats(&self) -> Stats {
        self.stats
    }

    /// What always holds, for tests.
    ///
    /// # Errors
    /// The invariant that does not.
    pub fn check_invariants(&self) -> Result<(), &'static str> {
        let mut last: BTreeMap<&str, Position> = BTreeMap::new();
        let mut bytes = 0;
        for relayed in &self.waiting {
            bytes += relayed.payload.len();
            if last.insert(&relayed.origin, relayed.place).is_some_and(|before| before >= relayed.place) {
                return Err("what waits of a cluster is in its order");
            }
        }
        if self
            .waiting
            .front()
            .is_some_and(|w| self.arrivals.as_ref().is_some_and(|a| a.has(&w.origin, w.place)))
        {
            return Err("what came in the target waits no more");
        }
        if self.out > self.waiting.len()
            || bytes != self.bytes
            || self.waiting.len() > self.config.waiting_max
        {
            return Err("counts are right and bounded");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
