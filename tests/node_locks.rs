//! Goal: what `Node::locks` offers beside plain locks works between nodes: sublocks, requests that are awaited, numbers that
//! many change, owners by name, and word of what happens to a lock.
//!
//! Method: three nodes of one process over loopback.

use ocf::{Cluster, Locks, Node};
use ocf_dlm::{LockError, LockManager, Mode, NumberOp, ValueBlock, Wait};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake};
use std::thread;
use std::time::Duration;

/// Nothing here takes long; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const WAIT: Wait = Wait::For(PATIENCE);

fn three() -> Cluster {
    let equip = |node: ocf::NodeBuilder| node.locks(ocf_dlm::cluster::Config::default());
    Cluster::builder("locks").equip(equip).local(3).expect("three nodes on loopback")
}

fn all(cluster: &Cluster) -> Vec<Locks> {
    cluster.running().filter_map(Node::locks).collect()
}

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Awaits a future on this thread.
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = Arc::new(Unpark(thread::current())).into();
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn a_part_is_locked_below_the_whole_and_excludes_nobody_from_other_parts() {
    let cluster = three();
    let locks = all(&cluster);
    let mut whole = locks[0].lock("disk", "volume", Mode::Cw, WAIT).expect("free");
    let also = locks[1].lock("disk", "volume", Mode::Cw, WAIT).expect("writers of parts share the whole");
    let part = whole.lock_below("block 1", Mode::Ex, WAIT).expect("free");
    let refused = also.lock_below("block 1", Mode::Ex, Wait::No).err();
    assert_eq!(refused, Some(LockError::WouldBlock), "the same part");
    let other = also.lock_below("block 2", Mode::Ex, WAIT).expect("another part");
    // A value block is there as long as somebody has a lock, whatever it is.
    let watcher = also.lock_below("block 1", Mode::Nl, WAIT).expect("NL is in nobody's way");
    let value = ValueBlock::zero(32).with_number(5);
    part.release(Some(value)).expect("held");
    let part = also.lock_below("block 1", Mode::Pr, WAIT).expect("it was released");
    assert_eq!(part.value().map(ValueBlock::number), Some(5), "a part has a value block of its own");
    drop((part, other, watcher));
    drop(also);
    whole.convert(Mode::Ex, None).expect("nobody else has the whole or a part");
}

#[test]
fn requests_are_awaited_and_taken_back() {
    let cluster = three();
    let locks = all(&cluster);
    let first = locks[0].lock("space", "name", Mode::Ex, WAIT).expect("free");
    let (news, heard) = mpsc::channel();
    first.on_news(move || _ = news.send(()));
    let second = locks[1].lock_later("space", "name", Mode::Ex, Wait::Forever).expect("it may be asked for");
    heard.recv_timeout(PATIENCE).expect("the holder hears that another wants it");
    assert_eq!(first.wanted(PATIENCE), Some(Mode::Ex));
    let third = locks[2].lock_later("space", "name", Mode::Ex, Wait::Forever).expect("it may be asked for");
    let before = first.token().expect("held");
    // Taken back: whoever asks after it does not wait behind it.
    drop(second);
    let waiter = thread::spawn(move || block_on(third));
    drop(first);
    let third = waiter.join().expect("it ends").expect("nobody else has it");
    assert!(third.token().expect("held") > before);
    let late = locks[0].lock_later("space", "name", Mode::Pr, Wait::For(Duration::from_millis(50)));
    let late = block_on(late.expect("it may be asked for"));
    assert_eq!(late.err(), Some(LockError::TimedOut), "the end of the wait needs no thread of the caller");
}

#[test]
fn the_locks_of_a_cluster_are_a_lock_manager() {
    let cluster = three();
    let locks = all(&cluster);
    let managers: Vec<&dyn LockManager> = locks.iter().map(|locks| -> &dyn LockManager { locks }).collect();
    ocf_dlm::testing::check(&managers);
}

#[test]
fn numbers_that_many_change_lose_no_change() {
    const EACH: u64 = 20;
    let cluster = three();
    let locks = all(&cluster);
    // A resource without locks is forgotten, with its block: this one excludes nobody.
    let kept = locks[0].lock("space", "counter", Mode::Nl, WAIT).expect("NL excludes nobody");
    let adders: Vec<_> = all(&cluster)
        .into_iter()
        .map(|locks| {
            thread::spawn(move || {
                for _ in 0..EACH {
                    locks.number("space", "counter", NumberOp::Increment, WAIT).expect("it is counted");
                }
            })
        })
        .collect();
    for adder in adders {
        adder.join().expect("it ends");
    }
    assert_eq!(locks[1].number("space", "counter", NumberOp::Read, WAIT), Ok(3 * EACH));
    assert_eq!(locks[2].number("space", "counter", NumberOp::Set(100), WAIT), Ok(100));
    assert_eq!(locks[0].number("space", "counter", NumberOp::Raise(7), WAIT), Ok(100));
    drop(kept);
}

#[test]
fn an_owner_by_name_is_one_owner() {
    let cluster = three();
    let node = cluster.running().next().expect("it runs");
    let (one, same, other) = (node.locks_of_group("g"), node.locks_of_group("g"), node.locks_of_group("h"));
    let owner = |locks: Option<Locks>| locks.expect("the node has locks").owner();
    let (one, same, other) = (owner(one), owner(same), owner(other));
    assert_eq!(one, same);
    assert_ne!(one, other);
    assert_ne!(one, owner(node.locks()), "an owner without a name is nobody else");
}
