//! The providers of this project's own protocols on the hub in memory, in virtual time.

use ocf_comm::{MemoryHub, MemoryNode};
use ocf_groups::{AgreedGroups, Config};
use ocf_membership::testing::{Fabric, node};
use ocf_membership::{self as membership, Durability, Membership as _, NodeVotes};
use pils::{Incarnation, Instant, NodeId, NodeInstance, Rng};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Records outlive the nodes that wrote them.
type Disk = Rc<RefCell<BTreeMap<NodeId, Vec<u8>>>>;

#[derive(Debug, Default)]
pub(crate) struct InMemory {
    hub: MemoryHub,
    lives: u128,
    now: Instant,
    disk: Disk,
}

impl Fabric for InMemory {
    type Node = AgreedGroups<MemoryNode>;

    fn start(&mut self, id: NodeId) -> Self::Node {
        self.lives += 1;
        let instance = NodeInstance::new(id, Incarnation::new(self.lives << 96));
        let below = self.hub.attach(instance).expect("its earlier life has ended");
        let views = membership::Config {
            durability: Durability::Durable,
            ..membership::Config::new((1..=3).map(|n| NodeVotes::new(node(n), 1)))
        };
        let record = self.disk.borrow().get(&id).cloned();
        let disk = Rc::clone(&self.disk);
        let write = Box::new(move |record: &[u8]| {
            disk.borrow_mut().insert(id, record.to_vec());
            Ok(())
        });
        let rng = Rng::new(u64::from(id.raw()) + 100);
        AgreedGroups::durable(self.now, views, Config::default(), below, rng, record.as_deref(), write)
            .expect("the configuration is right")
    }

    fn kill(&mut self, node: Self::Node) {
        self.hub.kill(node.local().node);
    }

    fn leave(&mut self, node: Self::Node) {
        drop(node);
    }

    fn cut(&mut self, id: NodeId) {
        (1..=3).map(node).filter(|n| *n != id).for_each(|other| self.hub.cut(id, other));
    }

    fn heal(&mut self, id: NodeId) {
        (1..=3).map(node).filter(|n| *n != id).for_each(|other| self.hub.heal(id, other));
    }

    fn now(&self) -> Instant {
        self.now
    }

    fn wait(&mut self) {
        self.now += Duration::from_millis(5);
    }
}
