use crate::{Channel, Connectivity, DownReason, Event, Lane, PeerStatus, SendError};
use bytes::Bytes;
use core::time::Duration;
use pils::{NodeId, NodeInstance};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// Nodes in one thread that exchange messages through memory: for tests, and for programs that need the interface of
/// a cluster but have one process.
///
/// Deterministic: no clock, no thread; a message is in the receiver's queue when `send` returns. Every node that ever
/// attached is a peer of every other. Links can be cut and nodes killed; both are noticed at once.
///
/// ```
/// use ocf_comm::{Channel, Connectivity, Event, Lane, MemoryHub};
/// use pils::{Incarnation, NodeId, NodeInstance};
///
/// let hub = MemoryHub::default();
/// let mut a = hub.attach(NodeInstance::new(NodeId::new(1), Incarnation::new(1)))?;
/// let mut b = hub.attach(NodeInstance::new(NodeId::new(2), Incarnation::new(2)))?;
/// a.send(b.local(), Lane::Small, Channel::APPLICATION, "hello".into())?;
/// assert!(matches!(b.poll_event(), Some(Event::Up { peer }) if peer == a.local()));
/// assert!(matches!(b.poll_event(), Some(Event::Message { message, .. }) if message == "hello"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct MemoryHub {
    hub: Rc<RefCell<Hub>>,
}

/// Limits of a [`MemoryHub`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Largest message in bytes, default 16 MiB.
    pub message_max: usize,
    /// Bytes of one lane to one peer that may wait for the receiver's window, default 8 MiB.
    pub send_queue: usize,
    /// Bytes of one lane from one peer that may be delivered and not yet consumed, default 4 MiB. A larger message is
    /// delivered alone.
    pub receive_window: usize,
    /// How long a peer was silent, as told in `Down`; there is no clock. Default 500 ms.
    pub detection: Duration,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            message_max: 16 << 20,
            send_queue: 8 << 20,
            receive_window: 4 << 20,
            detection: Duration::from_millis(500),
        }
    }
}

/// Why a node could not attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// A living node has this id: kill it first, or choose another id.
    #[error("{0} is attached already")]
    Attached(NodeInstance),
}

#[derive(Debug, Default)]
struct Hub {
    limits: MemoryLimits,
    nodes: BTreeMap<NodeId, Node>,
    /// Broken links, lower id first.
    cut: BTreeSet<(NodeId, NodeId)>,
    lanes: BTreeMap<(NodeInstance, NodeInstance, Lane), Queue>,
}

#[derive(Debug)]
struct Node {
    instance: NodeInstance,
    life: Life,
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    /// Ended without a word: peers know only that it is silent.
    Killed,
    /// Said that it leaves.
    Left,
}

/// One lane of one direction.
#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Channel, Bytes)>,
    waiting_bytes: usize,
    unconsumed: usize,
    /// A send was refused; say when there is room.
    refused: bool,
}

impl MemoryHub {
    /// A hub with these limits.
    #[must_use]
    pub fn new(limits: MemoryLimits) -> Self {
        Self { hub: Rc::new(RefCell::new(Hub { limits, ..Hub::default() })) }
    }

    /// Adds a node, or a new incarnation of one that was killed or left.
    ///
    /// # Errors
    /// [`AttachError::Attached`] while an incarnation of this node lives.
    pub fn attach(&self, instance: NodeInstance) -> Result<MemoryNode, AttachError> {
        self.hub.borrow_mut().attach(instance)?;
        Ok(MemoryNode { hub: Rc::clone(&self.hub), local: instance })
    }

    /// Breaks the link between two nodes, both ways. Each sees the other go down; what is queued is kept.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.hub.borrow_mut().cut(a, b);
    }

    /// Mends the link between two nodes. Each sees the other come up, and what was queued arrives.
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.hub.borrow_mut().heal(a, b);
    }

    /// Ends a node without warning: its peers see silence. Its [`MemoryNode`] is dead from here on.
    pub fn kill(&self, node: NodeId) {
        self.hub.borrow_mut().end(node, Life::Killed);
    }
}

impl Hub {
    fn link(a: NodeId, b: NodeId) -> (NodeId, NodeId) {
        (a.min(b), a.max(b))
    }

    fn linked(&self, a: NodeId, b: NodeId) -> bool {
        !self.cut.contains(&Self::link(a, b))
    }

    fn alive(&self, id: NodeId) -> Option<NodeInstance> {
        self.nodes.get(&id).filter(|node| node.life == Life::Alive).map(|node| node.instance)
    }

    /// Living nodes other than `id` that have a link to it.
    fn neighbours(&self, id: NodeId) -> Vec<NodeInstance> {
        let others = self.nodes.values().filter(|node| node.life == Life::Alive).map(|node| node.instance);
        others.filter(|other| other.node != id && self.linked(id, other.node)).collect()
    }

    fn tell(&mut self, id: NodeId, event: Event) {
        if let Some(node) = self.nodes.get_mut(&id) {
            node.events.push_back(event);
        }
    }

    fn attach(&mut self, instance: NodeInstance) -> Result<(), AttachError> {
        let id = instance.node;
        if let Some(living) = self.alive(id) {
            return Err(AttachError::Attached(living));
        }
        let neighbours = self.neighbours(id);
        let earlier = self.nodes.insert(id, Node { instance, life: Life::Alive, events: VecDeque::new() });
        if let Some(earlier) = earlier {
            self.lanes.retain(|(from, to, _), _| *from != earlier.instance && *to != earlier.instance);
            if earlier.life == Life::Killed {
                for peer in &neighbours {
                    let reason = DownReason::Superseded;
                    self.tell(peer.node, Event::Down { peer: earlier.instance, reason });
                }
            }
        }
        for peer in neighbours {
            self.tell(peer.node, Event::Up { peer: instance });
            self.tell(id, Event::Up { peer });
        }
        Ok(())
    }

    fn end(&mut self, id: NodeId, life: Life) {
        let Some(instance) = self.alive(id) else { return };
        let neighbours = self.neighbours(id);
        if let Some(node) = self.nodes.get_mut(&id) {
            node.life = life;
            node.events.clear();
        }
        let reason = match life {
            Life::Left => DownReason::Left,
            Life::Alive | Life::Killed => DownReason::Silent { for_: self.limits.detection },
        };
        for peer in neighbours {
            self.tell(peer.node, Event::Down { peer: instance, reason });
        }
    }

    fn cut(&mut self, a: NodeId, b: NodeId) {
        if self.cut.insert(Self::link(a, b))
            && let (Some(a), Some(b)) = (self.alive(a), self.alive(b))
        {
            let reason = DownReason::Silent { for_: self.limits.detection };
            self.tell(a.node, Event::Down { peer: b, reason });
            self.tell(b.node, Event::Down { peer: a, reason });
        }
    }

    fn heal(&mut self, a: NodeId, b: NodeId) {
        if self.cut.remove(&Self::link(a, b))
            && let (Some(a), Some(b)) = (self.alive(a), self.alive(b))
        {
            self.tell(a.node, Event::Up { peer: b });
            self.tell(b.node, Event::Up { peer: a });
            for lane in Lane::ALL {
                self.pump(a, b, lane);
                self.pump(b, a, lane);
            }
        }
    }

    fn send(
        &mut self,
        way: (NodeInstance, NodeInstance, Lane),
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        let (from, to, lane) = way;
        let MemoryLimits { message_max, send_queue, .. } = self.limits;
        if self.alive(from.node) != Some(from) {
            return Err(SendError::Stopped);
        }
        let peer = self.nodes.get(&to.node).filter(|peer| peer.instance == to && to != from);
        let peer = peer.ok_or(SendError::UnknownPeer(to))?;
        let size = message.len();
        if size > message_max {
            return Err(SendError::TooLarge { size, limit: message_max });
        }
        if peer.life != Life::Alive || !self.linked(from.node, to.node) {
            return Err(SendError::Down(to));
        }
        let queue = self.lanes.entry(way).or_default();
        let queued = queue.waiting_bytes;
        // A message larger than the queue may wait alone.
        if queued > 0 && queued + size > send_queue {
            queue.refused = true;
            return Err(SendError::Full { to, queued, limit: send_queue });
        }
        queue.waiting.push_back((channel, message));
        queue.waiting_bytes += size;
        self.pump(from, to, lane);
        Ok(())
    }

    /// Delivers what fits the receiver's window.
    fn pump(&mut self, from: NodeInstance, to: NodeInstance, lane: Lane) {
        if !self.linked(from.node, to.node) || self.alive(to.node) != Some(to) {
            return;
        }
        let Self { limits, lanes, nodes, .. } = self;
        let Some(queue) = lanes.get_mut(&(from, to, lane)) else { return };
        while let Some((_, next)) = queue.waiting.front() {
            if queue.unconsumed > 0 && queue.unconsumed + next.len() > limits.receive_window {
                break;
            }
            let Some((channel, message)) = queue.waiting.pop_front() else { break };
            queue.waiting_bytes -= message.len();
            queue.unconsumed += message.len();
            if let Some(node) = nodes.get_mut(&to.node) {
                node.events.push_back(Event::Message { from, lane, channel, message });
            }
        }
        if queue.refused && queue.waiting_bytes <= limits.send_queue / 2 {
            queue.refused = false;
            self.tell(from.node, Event::Writable { peer: to, lane });
        }
    }

    fn peers(&self, local: NodeInstance) -> Vec<PeerStatus> {
        let others = self.nodes.values().filter(|node| node.instance.node != local.node);
        let status = |node: &Node| {
            let peer = node.instance;
            let up = node.life == Life::Alive && self.linked(local.node, peer.node);
            let waiting = |lane| self.lanes.get(&(local, peer, lane)).map_or(0, |queue| queue.waiting_bytes);
            PeerStatus {
                node: peer.node,
                instance: Some(peer),
                up,
                rtt: None,
                silent_for: up.then_some(Duration::ZERO),
                queued: Lane::ALL.into_iter().map(waiting).sum(),
                health: if up { 100 } else { 0 },
                phi_hundredths: 0,
                paths: Vec::new(),
            }
        };
        others.map(status).collect()
    }
}

/// A node of a [`MemoryHub`]. Dropping it is an orderly leave.
#[derive(Debug)]
pub struct MemoryNode {
    hub: Rc<RefCell<Hub>>,
    local: NodeInstance,
}

impl Connectivity for MemoryNode {
    fn local(&self) -> NodeInstance {
        self.local
    }

    fn send(
        &mut self,
        to: NodeInstance,
        lane: Lane,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        self.hub.borrow_mut().send((self.local, to, lane), channel, message)
    }

    fn poll_event(&mut self) -> Option<Event> {
        let mut hub = self.hub.borrow_mut();
        let node = hub.nodes.get_mut(&self.local.node).filter(|node| node.instance == self.local)?;
        node.events.pop_front()
    }

    fn consumed(&mut self, from: NodeInstance, lane: Lane, bytes: usize) {
        let mut hub = self.hub.borrow_mut();
        if let Some(queue) = hub.lanes.get_mut(&(from, self.local, lane)) {
            queue.unconsumed = queue.unconsumed.saturating_sub(bytes);
            hub.pump(from, self.local, lane);
        }
    }

    fn peers(&self) -> Vec<PeerStatus> {
        self.hub.borrow().peers(self.local)
    }
}

impl Drop for MemoryNode {
    fn drop(&mut self) {
        let mut hub = self.hub.borrow_mut();
        if hub.alive(self.local.node) == Some(self.local) {
            hub.end(self.local.node, Life::Left);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::Incarnation;

    fn instance(id: u32, life: u128) -> NodeInstance {
        NodeInstance::new(NodeId::new(id), Incarnation::new(life))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the other events print well enough")]
    fn drain(node: &mut MemoryNode) -> Vec<String> {
        let mut seen = Vec::new();
        while let Some(event) = node.poll_event() {
            seen.push(match event {
                Event::Up { peer } => format!("up {}", peer.node),
                Event::Down { peer, reason } => format!("down {} {reason:?}", peer.node),
                Event::Message { message, .. } => format!("message of {}", message.len()),
                other => format!("{other:?}"),
            });
        }
        seen
    }

    #[test]
    fn what_waits_when_a_link_is_cut_arrives_after_it_healed() {
        let limits = MemoryLimits { receive_window: 10, ..MemoryLimits::default() };
        let hub = MemoryHub::new(limits);
        let mut a = hub.attach(instance(1, 1)).unwrap();
        let mut b = hub.attach(instance(2, 2)).unwrap();
        for size in [8, 4, 3] {
            a.send(b.local(), Lane::Small, Channel::APPLICATION, vec![0; size].into()).unwrap();
        }
        hub.cut(NodeId::new(1), NodeId::new(2));
        b.consumed(a.local(), Lane::Small, 8);
        let refused = a.send(b.local(), Lane::Small, Channel::APPLICATION, Bytes::new());
        assert_eq!(refused, Err(SendError::Down(b.local())));
        hub.heal(NodeId::new(2), NodeId::new(1));
        assert_eq!(
            drain(&mut b),
            [
                "up n1",
                "message of 8",
                "down n1 Silent { for_: 500ms }",
                "up n1",
                "message of 4",
                "message of 3"
            ]
        );
    }

    #[test]
    fn a_living_node_id_cannot_attach_twice() {
        let hub = MemoryHub::default();
        let a = hub.attach(instance(1, 1)).unwrap();
        assert_eq!(hub.attach(instance(1, 2)).unwrap_err(), AttachError::Attached(a.local()));
        hub.kill(NodeId::new(1));
        assert!(hub.attach(instance(1, 2)).is_ok());
        drop(a);
        assert!(hub.hub.borrow().nodes[&NodeId::new(1)].life == Life::Left, "the second handle was dropped");
    }
}
