//! A process group of corosync, simulated: each ring is one ordered log that its nodes read at their own pace. When a ring breaks, those
//! who stay together are delivered the same part of it, and what they sent beyond it is ordered in the next ring.

use bytes::Bytes;
use ocf_groups::Config;
use ocf_groups::corosync::{Cpg, CpgSabotage, Departure, Input, OverCpg, Process, RingId, RingQuorum, Sent};
use ocf_membership::testing::Fabric;
use ocf_membership::{NodeVotes, ViewNumber};
use pils::{Incarnation, Instant, NodeId, Rng};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Entry {
    Message(Process, Bytes),
    /// Who is in the group from here on, and how those went who went by themselves.
    Change(BTreeSet<Process>, Option<(Process, Departure)>),
    /// Tells the ring to those who were in another one before.
    Ring,
}

/// A node that runs corosync.
#[derive(Debug)]
struct Daemon {
    ring: RingId,
    /// Entries of the ring's log that were read.
    read: usize,
    client: Option<Client>,
    remembered: ViewNumber,
    /// The ring that the quorum service told of last.
    told: Option<RingId>,
}

#[derive(Debug)]
struct Client {
    process: Process,
    /// The configuration it was told last; empty before its own join.
    configuration: BTreeSet<Process>,
    inbox: VecDeque<Input>,
    /// The ring that it joined in, of which it is not told.
    joined_in: RingId,
}

#[derive(Debug)]
struct World {
    rng: Rng,
    daemons: BTreeMap<NodeId, Daemon>,
    logs: BTreeMap<RingId, Vec<Entry>>,
    /// How much of each ring's log any node read, also one that is dead.
    furthest: BTreeMap<RingId, usize>,
    /// The nodes that each ring was formed of.
    formed: BTreeMap<RingId, BTreeSet<NodeId>>,
    cut: BTreeSet<NodeId>,
    pids: u32,
}

impl World {
    /// Nodes that are connected: those that are cut are alone.
    fn parts(&self) -> Vec<BTreeSet<NodeId>> {
        let (alone, together): (Vec<NodeId>, Vec<NodeId>) =
            self.daemons.keys().copied().partition(|n| self.cut.contains(n));
        let parts = alone.into_iter().map(|n| BTreeSet::from([n])).chain([together.into_iter().collect()]);
        parts.filter(|p: &BTreeSet<NodeId>| !p.is_empty()).collect()
    }

    fn in_ring(&self, ring: RingId) -> BTreeSet<NodeId> {
        self.daemons.iter().filter(|(_, d)| d.ring == ring).map(|(n, _)| *n).collect()
    }

    /// Forms new rings where the nodes that are connected are in none of their own.
    fn reform(&mut self) {
        let mut ordered = BTreeMap::new();
        for part in self.parts() {
            let rings: BTreeSet<RingId> = part.iter().map(|n| self.daemons[n].ring).collect();
            // A ring that lost a node forms anew, too.
            if rings.len() == 1 && rings.iter().all(|ring| self.formed.get(ring) == Some(&part)) {
                continue;
            }
            let sequence = rings.iter().map(|r| r.sequence).max().unwrap_or(0) + 4;
            let new = RingId { sequence, representative: *part.first().expect("not empty") };
            let mut log = Vec::new();
            for old in rings {
                let side: Vec<NodeId> =
                    part.iter().copied().filter(|n| self.daemons[n].ring == old).collect();
                let bound = *ordered.entry(old).or_insert_with(|| self.ordered_in(old));
                self.leave_ring((old, bound), &side, &mut log);
            }
            let clients = part.iter().filter_map(|n| self.daemons[n].client.as_ref()).map(|c| c.process);
            let change = Entry::Change(clients.collect(), None);
            // What was sent in the old rings is ordered before or after the change.
            let at = usize::try_from(self.rng.below(log.len() as u64 + 1)).expect("small");
            log.splice(at..at, [change, Entry::Ring]);
            self.logs.insert(new, log);
            self.formed.insert(new, part.clone());
            for n in &part {
                let daemon = self.daemons.get_mut(n).expect("of this part");
                (daemon.ring, daemon.read) = (new, 0);
            }
        }
    }

    /// How much of a ring's log was ordered when it broke. What stands beyond it was only about to be.
    fn ordered_in(&mut self, ring: RingId) -> usize {
        let read = self.furthest.get(&ring).copied().unwrap_or(0);
        let more = self.logs.get(&ring).map_or(0, Vec::len) - read;
        read + usize::try_from(self.rng.below(more as u64 + 1)).expect("small")
    }

    /// Those who go on together are delivered one part of what was ordered in the old ring, at least what they sent themselves; what they
    /// were about to send goes into the new one.
    fn leave_ring(&mut self, (old, ordered): (RingId, usize), side: &[NodeId], new: &mut Vec<Entry>) {
        let Some(log) = self.logs.get(&old).cloned() else { return };
        let ours = |entry: &&Entry| matches!(entry, Entry::Message(from, _) if side.contains(&from.node));
        let own = log[..ordered].iter().rposition(|entry| ours(&entry)).map_or(0, |at| at + 1);
        let least = side.iter().map(|n| self.daemons[n].read).max().unwrap_or(0).max(own);
        let cut = least + usize::try_from(self.rng.below((ordered - least) as u64 + 1)).expect("small");
        for n in side {
            while self.daemons[n].read < cut {
                self.deliver(*n);
            }
        }
        new.extend(log[ordered..].iter().filter(ours).cloned());
    }

    /// Hands the next entry of its ring to a node.
    fn deliver(&mut self, n: NodeId) -> bool {
        let daemon = self.daemons.get_mut(&n).expect("it runs");
        let Some(entry) = self.logs.get(&daemon.ring).and_then(|log| log.get(daemon.read)) else {
            return false;
        };
        daemon.read += 1;
        let furthest = self.furthest.entry(daemon.ring).or_default();
        *furthest = daemon.read.max(*furthest);
        let Some(client) = &mut daemon.client else { return true };
        let me = client.process;
        match entry {
            Entry::Message(from, message) if client.configuration.contains(&me) => {
                client.inbox.push_back(Input::Message { from: *from, message: message.clone() });
            }
            Entry::Change(members, how) if members.contains(&me) || client.configuration.contains(&me) => {
                let why = |p: &Process| match how {
                    Some((process, departure)) if process == p => *departure,
                    _ => Departure::NodeDown,
                };
                let left = client.configuration.difference(members).map(|p| (*p, why(p))).collect();
                client.configuration.clone_from(members);
                let members = members.iter().copied().collect();
                client.inbox.push_back(Input::Configuration { members, left });
            }
            Entry::Ring if client.configuration.contains(&me) && client.joined_in != daemon.ring => {
                client.inbox.push_back(Input::Ring(daemon.ring));
            }
            Entry::Message(..) | Entry::Change(..) | Entry::Ring => {}
        }
        true
    }

    fn append(&mut self, n: NodeId, entry: Entry) {
        let ring = self.daemons[&n].ring;
        self.logs.entry(ring).or_default().push(entry);
    }

    /// Who is in the group when everything in the node's ring is delivered.
    fn latest(&self, n: NodeId) -> BTreeSet<Process> {
        let mut log = self.logs.get(&self.daemons[&n].ring).into_iter().flatten().rev();
        let change = |entry: &Entry| match entry {
            Entry::Change(members, _) => Some(members.clone()),
            Entry::Message(..) | Entry::Ring => None,
        };
        log.find_map(change).unwrap_or_default()
    }

    /// Lets each node read a little, and its quorum service tell some time.
    fn step(&mut self) {
        for n in self.daemons.keys().copied().collect::<Vec<_>>() {
            for _ in 0..self.rng.below(4) {
                self.deliver(n);
            }
            let ring = self.daemons[&n].ring;
            if self.daemons[&n].told != Some(ring) && self.rng.chance(0.3) {
                let votes: Vec<NodeVotes> =
                    self.in_ring(ring).into_iter().map(|n| NodeVotes::new(n, 1)).collect();
                let quorum = RingQuorum { ring, quorate: votes.len() >= 2, needed: 2, votes };
                let daemon = self.daemons.get_mut(&n).expect("it runs");
                if let Some(client) = &mut daemon.client {
                    client.inbox.push_back(Input::Quorum(quorum));
                    daemon.told = Some(ring);
                }
            }
        }
    }
}

/// What a provider sees of it.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    world: Rc<RefCell<World>>,
    process: Process,
}

impl Port {
    fn end(&self, how: Departure) {
        let mut world = self.world.borrow_mut();
        let n = self.process.node;
        let runs = |d: &Daemon| d.client.as_ref().is_some_and(|c| c.process == self.process);
        if !world.daemons.get(&n).is_some_and(runs) {
            return;
        }
        let mut members = world.latest(n);
        members.remove(&self.process);
        world.append(n, Entry::Change(members, Some((self.process, how))));
        world.daemons.get_mut(&n).expect("it runs").client = None;
    }
}

impl Cpg for Port {
    fn process(&self) -> Process {
        self.process
    }

    fn poll(&mut self) -> Option<Input> {
        let mut world = self.world.borrow_mut();
        let Some(daemon) = world.daemons.get_mut(&self.process.node) else { return Some(Input::Lost) };
        daemon.client.as_mut()?.inbox.pop_front()
    }

    fn multicast(&mut self, message: &Bytes) -> Sent {
        let mut world = self.world.borrow_mut();
        if !world.daemons.contains_key(&self.process.node) {
            return Sent::Never;
        }
        if world.rng.chance(0.1) {
            return Sent::Later;
        }
        world.append(self.process.node, Entry::Message(self.process, message.clone()));
        Sent::Taken
    }

    fn remember(&mut self, number: ViewNumber) {
        if let Some(daemon) = self.world.borrow_mut().daemons.get_mut(&self.process.node) {
            daemon.remembered = number;
        }
    }

    fn remembered(&mut self) -> ViewNumber {
        self.world.borrow().daemons[&self.process.node].remembered
    }

    fn leave(&mut self) {
        self.end(Departure::Left);
    }
}

/// A cluster of nodes that run it.
#[derive(Debug)]
pub(crate) struct Simulated {
    world: Rc<RefCell<World>>,
    now: Instant,
    bug: Option<CpgSabotage>,
}

impl Simulated {
    pub(crate) fn new(seed: u64, bug: Option<CpgSabotage>) -> Self {
        let world = World {
            rng: Rng::new(seed),
            daemons: BTreeMap::new(),
            logs: BTreeMap::new(),
            furthest: BTreeMap::new(),
            formed: BTreeMap::new(),
            cut: BTreeSet::new(),
            pids: 0,
        };
        Self { world: Rc::new(RefCell::new(world)), now: Instant::ZERO, bug }
    }
}

impl Fabric for Simulated {
    type Node = OverCpg<Port>;

    fn start(&mut self, id: NodeId) -> Self::Node {
        let mut world = self.world.borrow_mut();
        world.pids += 1;
        let pids = world.pids;
        let process = Process { node: id, pid: pids };
        // Its corosync starts in a ring of its own, later than any it was in before.
        let sequence = u64::from(pids) * 100;
        let ring = RingId { sequence, representative: id };
        let daemon = Daemon { ring, read: 0, client: None, remembered: ViewNumber(0), told: None };
        world.logs.insert(ring, Vec::new());
        world.formed.insert(ring, BTreeSet::from([id]));
        world.daemons.insert(id, daemon);
        world.reform();
        let joined_in = world.daemons[&id].ring;
        let client = Client { process, configuration: BTreeSet::new(), inbox: VecDeque::new(), joined_in };
        world.daemons.get_mut(&id).expect("just made").client = Some(client);
        let mut members = world.latest(id);
        members.insert(process);
        world.append(id, Entry::Change(members, None));
        drop(world);
        let port = Port { world: Rc::clone(&self.world), process };
        let mut node = OverCpg::new(Config::default(), port, Incarnation::new(u128::from(pids) << 96));
        if let Some(bug) = self.bug {
            node.sabotage(bug);
        }
        node
    }

    fn kill(&mut self, dead: Self::Node) {
        let mut world = self.world.borrow_mut();
        world.daemons.remove(&dead.cpg().process.node);
        world.reform();
    }

    fn leave(&mut self, node: Self::Node) {
        node.leave();
    }

    fn cut(&mut self, id: NodeId) {
        let mut world = self.world.borrow_mut();
        world.cut.insert(id);
        world.reform();
    }

    fn heal(&mut self, id: NodeId) {
        let mut world = self.world.borrow_mut();
        world.cut.remove(&id);
        world.reform();
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn wait(&mut self) {
        self.now += Duration::from_millis(5);
        self.world.borrow_mut().step();
    }
}
