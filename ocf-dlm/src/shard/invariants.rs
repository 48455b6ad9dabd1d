//! What always holds, checked against every count and every list. For tests, simulators and fuzzers: O(all).

use super::Shard;
use crate::mode::Mode;
use crate::resource::{Home, Queue};
use crate::slab::NONE;

impl Shard {
    /// Checks every invariant of the shard.
    ///
    /// # Panics
    /// If one does not hold, with its words: that is a bug of the shard.
    pub fn check_invariants(&self) {
        let mut seen = 0;
        for (at, resource) in self.resources.iter() {
            let name = &resource.name;
            assert_eq!(
                self.lookup(resource.tag, resource.parent, name.as_bytes()),
                Some(at),
                "{name} is in the index"
            );
            assert!(!resource.is_idle() || self.kept.contains_key(&at), "{name} has a lock");
            let mut counts = [0; 6];
            let mut locks = 0;
            for queue in [Queue::Granted, Queue::Converting, Queue::Waiting, Queue::Outside] {
                for place in resource.queued(&self.locks, queue) {
                    self.check_lock(at, place, queue);
                    locks += 1;
                    if let Some(held) = self.locks[place].held {
                        counts[held as usize] += 1;
                    }
                }
            }
            seen += u32::from(locks);
            assert_eq!(resource.locks, locks, "{name}: every lock is counted");
            for mode in Mode::ALL {
                assert_eq!(resource.count(mode), counts[mode as usize], "{name}: every {mode} is counted");
                assert_eq!(
                    resource.held & mode.bit() != 0,
                    counts[mode as usize] > 0,
                    "{name}: {mode} in the set"
                );
            }
            self.check_resource(at);
        }
        assert_eq!(seen, self.locks.len(), "every lock is in a queue");
        assert_eq!(self.index.len(), self.resources.len() as usize, "the index has what there is");
        let values = self.resources.iter().filter(|(_, resource)| resource.value != NONE).count();
        assert_eq!(values, self.values.len() as usize, "every value block belongs to a resource");
        let waiting = self.locks.iter().filter(|(_, lock)| lock.queue != Queue::Granted).count();
        assert_eq!(waiting, self.waits.len(), "every lock that waits has a wait");
        let timed = self.waits.values().filter(|wait| wait.deadline.is_some()).count();
        assert_eq!(timed, self.deadlines.len(), "every deadline belongs to a wait");
        assert!(
            self.transactions.keys().all(|at| self.locks.find(*at).is_some()),
            "transactions belong to locks"
        );
        assert!(self.carried.keys().all(|at| self.locks.find(*at).is_some_and(|lock| lock.parked)));
    }

    fn check_lock(&self, resource: u32, at: u32, queue: Queue) {
        let lock = &self.locks[at];
        assert_eq!((lock.queue, lock.resource), (queue, resource), "{} knows its queue", self.id(at));
        let (holds, asks) = match queue {
            Queue::Granted => (true, false),
            Queue::Converting => (true, true),
            Queue::Waiting | Queue::Outside => (false, true),
        };
        assert_eq!(
            (lock.held.is_some(), lock.asked.is_some()),
            (holds, asks),
            "{} in {queue:?}",
            self.id(at)
        );
        assert!(!lock.orphan || queue == Queue::Granted, "an orphan does not wait");
        let children = self.locks.iter().filter(|(_, other)| other.parent == at).count();
        assert_eq!(lock.children as usize, children, "every sublock is counted");
    }

    /// What holds for one resource that is decided here: nobody who could be granted waits, no two exclude each other.
    fn check_resource(&self, at: u32) {
        let resource = &self.resources[at];
        let name = &resource.name;
        let holders: Vec<(u32, Mode)> = [Queue::Granted, Queue::Converting]
            .into_iter()
            .flat_map(|queue| resource.queued(&self.locks, queue))
            .filter_map(|place| self.locks[place].held.map(|held| (place, held)))
            .collect();
        if resource.home() == Home::Local {
            for (index, (_, one)) in holders.iter().enumerate() {
                let compatible = holders[index + 1..].iter().all(|(_, other)| one.is_compatible(*other));
                assert!(compatible, "{name}: {one} beside {holders:?}");
            }
        }
        if resource.is_open() {
            assert!(resource.is_empty(Queue::Outside), "{name}: nothing is outside");
            for queue in [Queue::Converting, Queue::Waiting] {
                for place in resource.queued(&self.locks, queue) {
                    assert!(
                        !self.may_grant(place, false),
                        "{name}: {:?} could be granted",
                        self.locks[place]
                    );
                }
            }
        }
    }
}
