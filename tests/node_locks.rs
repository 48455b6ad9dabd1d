//! Goal: what `Node::locks` offers beside plain locks works between nodes: sublocks, requests that are awaited, numbers that
//! many change, owners by name, word of what happens to a lock, and orders of an operator from any node.
//!
//! Method: three nodes of one process over loopback.

use ocf::{Cluster, LockDomain, LockOrderError, Locks, Node};
use ocf_dlm::cluster::{Holder, OrderError, WaitReason, Waiting};
use ocf_dlm::wire::{OrderRefusal, ReleaseGuard};
use ocf_dlm::{LockError, LockManager, Mode, NumberOp, RequestError, ValueBlock, Wait};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::mpsc;
use std::task::{Context, Poll, Wake};
use std::thread;
use std::time::{Duration, Instant};

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
fn a_conversion_whose_node_loses_the_others_ends_as_lost_and_its_guard_refuses() {
    let cluster = three();
    let locks = all(&cluster);
    let lock = |at: usize, name| locks[at].lock("space", name, Mode::Pr, WAIT).expect("PR beside PR");
    let (mine, theirs, also, others) = (lock(0, "x"), lock(1, "x"), lock(0, "y"), lock(2, "y"));
    let waited_for = mine.convert_later(Mode::Ex, None, Wait::Forever);
    let awaited = also.convert_later(Mode::Cw, None, Wait::Forever);
    assert_eq!(theirs.wanted(PATIENCE), Some(Mode::Ex));
    assert_eq!(others.wanted(PATIENCE), Some(Mode::Cw));
    for other in [1, 2] {
        cluster.node(other).expect("it runs").kill();
    }
    let (mine, end) = waited_for.wait();
    assert_eq!((end, mine.check().is_err()), (Err(LockError::Lost), true));
    let (also, end) = block_on(awaited);
    assert_eq!(end, Err(LockError::Lost));
    assert!(also.check().is_err() && also.token().is_err());
    let (mine, end) = mine.convert_later(Mode::Nl, None, Wait::No).wait();
    assert_eq!((mine.mode(), end), (Mode::Pr, Err(LockError::Lost)), "it is not used again");
}

#[test]
fn a_part_is_converted_without_waiting_and_the_whole_stays_borrowed() {
    let cluster = three();
    let locks = all(&cluster);
    let whole = |at: usize| locks[at].lock("space", "whole", Mode::Cw, WAIT).expect("CW beside CW");
    let (mine, theirs) = (whole(0), whole(1));
    let part = mine.lock_below("part", Mode::Pr, WAIT).expect("free");
    let other = theirs.lock_below("part", Mode::Pr, WAIT).expect("PR beside PR");
    let (ended, heard) = mpsc::channel();
    let mut later = part.convert_later(Mode::Ex, None, Wait::Forever);
    later.on_end(move || _ = ended.send(()));
    assert!(later.try_take().is_none(), "another is in the way");
    assert_eq!(other.wanted(PATIENCE), Some(Mode::Ex));
    drop(other);
    let part = loop {
        heard.recv_timeout(PATIENCE).expect("its end calls back");
        if let Some((part, end)) = later.try_take() {
            assert_eq!((end, part.mode()), (Ok(()), Mode::Ex));
            break part;
        }
    };
    let (part, end) = block_on(part.convert_later(Mode::Cr, None, Wait::No));
    assert_eq!((end, part.mode()), (Ok(()), Mode::Cr));
    let mut later = theirs.lock_below("part", Mode::Pr, WAIT).expect("PR beside CR").convert_later(
        Mode::Ex,
        None,
        Wait::Forever,
    );
    later.cancel();
    let (other, end) = later.wait();
    assert_eq!((end, other.mode()), (Err(LockError::Cancelled), Mode::Pr));
    drop((part, other));
}

#[test]
fn a_request_calls_back_when_it_has_ended() {
    let cluster = three();
    let locks = all(&cluster);
    let held = locks[0].lock("space", "called", Mode::Ex, WAIT).expect("free");
    let mut asked = locks[1].lock_later("space", "called", Mode::Ex, WAIT).expect("it may be asked for");
    let (ended, heard) = mpsc::channel();
    let tell = ended.clone();
    asked.on_end(move || _ = tell.send(()));
    assert!(asked.try_take().is_none(), "another is in the way");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
    drop(held);
    heard.recv_timeout(PATIENCE).expect("its end calls back");
    asked.on_end(move || _ = ended.send(()));
    heard.recv_timeout(PATIENCE).expect("at once if it has ended");
    let guard = asked.try_take().expect("it has ended").expect("it is granted");
    assert!(guard.check().is_ok() && asked.try_take().is_none(), "it is taken once");
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

#[test]
fn an_operator_sees_who_has_a_lock_and_takes_it_away_with_a_guard_only() {
    let cluster = three();
    let locks = all(&cluster);
    let held = locks[0].lock("space", "orders", Mode::Ex, WAIT).expect("free");
    let waiting =
        locks[1].lock_later("space", "orders", Mode::Pr, Wait::Forever).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Pr));
    let seen = locks[2].inspect("space", "orders", PATIENCE).expect("the master answers");
    let instances: Vec<_> = cluster.running().map(Node::local).collect();
    let known: Vec<_> = seen.locks.iter().map(|lock| (lock.node, lock.held, lock.asked)).collect();
    assert_eq!(known, [(instances[0], Some(Mode::Ex), None), (instances[1], None, Some(Mode::Pr))]);
    assert_eq!(seen.locks[0].client, locks[0].owner());
    assert_eq!(seen.in_the_way(1), [&seen.locks[0]]);
    let holder = Holder { node: seen.locks[0].node, lock: seen.locks[0].lock };
    let release = |guard| locks[2].force_release(holder, ("space", b"orders"), guard, PATIENCE);
    let Err(LockOrderError::Refused(OrderRefusal::Endangers(danger))) = release(None) else {
        panic!("nothing is released without a guard");
    };
    assert_eq!((danger.held, danger.unproven, danger.client), (Some(Mode::Ex), false, locks[0].owner()));
    held.check().expect("nothing was done");
    assert_eq!(release(ReleaseGuard::new("it hangs")), Ok(1));
    assert!(held.check().is_err(), "its guard refuses before anybody else has it");
    let reader = waiting.wait().expect("it is free");
    assert_eq!(reader.value(), None, "who could write did not give the block back");
    drop(held);
    reader.check().expect("the end of the old guard takes nothing away");
    let gone = release(ReleaseGuard::new("it hangs"));
    assert_eq!(gone, Err(LockOrderError::Refused(OrderRefusal::NoSuchLock)));
}

#[test]
fn a_wait_says_who_holds_and_who_precedes_also_when_another_node_masters_the_lock() {
    let cluster = three();
    let locks = all(&cluster);
    let instances: Vec<_> = cluster.running().map(Node::local).collect();
    // The first that uses it is its master, and has nothing to do with what follows.
    let master = locks[0].lock("space", "why", Mode::Nl, WAIT).expect("free");
    let held = locks[1].lock("space", "why", Mode::Pr, WAIT).expect("NL is in nobody's way");
    let ask = |at: usize, mode| locks[at].lock_later("space", "why", mode, Wait::Forever);
    let writer = ask(2, Mode::Ex).expect("it may be asked for");
    assert_eq!(held.wanted(PATIENCE), Some(Mode::Ex));
    let reader = ask(2, Mode::Pr).expect("it may be asked for");
    let seen = |waits: &[Waiting], asked| {
        let wait = waits.iter().find(|wait| wait.asked == asked).expect("it waits").clone();
        assert_eq!((wait.client, wait.held), (locks[2].owner(), None));
        let WaitReason::BlockedBy(in_the_way) = wait.reason else { panic!("{wait:?}") };
        let of = in_the_way.iter().map(|lock| (lock.node, lock.held, lock.asked)).collect::<Vec<_>>();
        (of, in_the_way.iter().map(|lock| lock.client).collect::<Vec<_>>())
    };
    let known = locks[2].waits();
    let elsewhere = [WaitReason::Lookup, WaitReason::AtMaster(instances[0])];
    assert!(known.len() == 2 && known.iter().all(|wait| elsewhere.contains(&wait.reason)), "{known:?}");
    let waits = locks[2].waits_explained(PATIENCE);
    assert_eq!(waits.len(), 2, "{waits:?}");
    assert!(waits[0].age >= waits[1].age, "the longest wait first");
    let holder = (instances[1], Some(Mode::Pr), None);
    assert_eq!(seen(&waits, Mode::Ex), (vec![holder], vec![locks[1].owner()]));
    let ahead = (instances[2], None, Some(Mode::Ex));
    assert_eq!(seen(&waits, Mode::Pr), (vec![ahead], vec![locks[2].owner()]));
    // A conversion of the master's own is known there without asking.
    let mut conversion = master.convert_later(Mode::Ex, None, Wait::Forever);
    assert_eq!(held.wanted(Duration::from_millis(1)), None, "it knows");
    let waits = locks[0].waits();
    let [Waiting { held: Some(Mode::Nl), asked: Mode::Ex, reason: WaitReason::BlockedBy(in_the_way), .. }] =
        waits.as_slice()
    else {
        panic!("{waits:?}")
    };
    assert_eq!((in_the_way[0].node, in_the_way[0].held), (instances[1], Some(Mode::Pr)));
    conversion.cancel();
    drop((conversion, writer, reader));
    assert_eq!(locks[2].waits_explained(PATIENCE), []);
}

#[test]
fn what_dead_writers_left_is_collected_by_one_node_and_zero_after_validation() {
    let cluster = three();
    let locks = all(&cluster);
    let domain = locks[1].attach_domain("space").expect("it may");
    let other = locks[2].attach_domain("space").expect("it may");
    let writer = |name: &str, at: usize| {
        let owner = cluster.running().nth(at).and_then(Node::locks).expect("the node has locks");
        let guard = owner.lock("space", name, Mode::Ex, WAIT).expect("free");
        assert_eq!(owner.end(), 1);
        drop(guard);
    };
    // The masters have heard of the domain when a lock has been to each and back.
    for (at, name) in ["x", "y", "z"].into_iter().enumerate() {
        drop(locks[1].lock("space", name, Mode::Ex, WAIT).expect("free"));
        drop(locks[at].lock("space", name, Mode::Ex, WAIT).expect("free"));
    }
    let known = || {
        writer("a", 0);
        writer("b", 2);
        let found = domain.collect(PATIENCE).expect("nobody else collects");
        if found.names() == [b"a".to_vec(), b"b".to_vec()] { Some(found) } else { None }
    };
    let found = (0..100).find_map(|_| known()).expect("they are kept, although nobody has them");
    let busy = other.collect(PATIENCE).map(drop);
    assert_eq!(busy, Err(LockOrderError::NotGiven(OrderError::NotCollector)));
    drop(found);
    // Its release may still be under way.
    let collect = |domain: &LockDomain| {
        let since = Instant::now();
        loop {
            match domain.collect(PATIENCE) {
                Err(LockOrderError::NotGiven(OrderError::NotCollector)) if since.elapsed() < PATIENCE => {
                    thread::yield_now();
                }
                found => return found.expect("the first has given up"),
            }
        }
    };
    let found = collect(&other);
    assert!(found.names() == [b"a".to_vec(), b"b".to_vec()] && found.is_complete());
    let reader = locks[0].lock("space", "a", Mode::Pr, WAIT).expect("free");
    assert_eq!(reader.value(), None, "it is not valid");
    drop(reader);
    writer("b", 1);
    // Its master has heard of that end when it grants the next request of the same node.
    drop(locks[1].lock("space", "b", Mode::Pr, WAIT).expect("its owner has ended"));
    assert_eq!(found.validate(PATIENCE), Ok(true), "another failure came after it was collected");
    let reader = locks[0].lock("space", "a", Mode::Pr, WAIT).expect("free");
    assert_eq!(reader.value().map(ValueBlock::number), Some(0));
    let found = collect(&domain);
    assert_eq!(found.names(), [b"b".to_vec()]);
    assert_eq!(found.validate(PATIENCE), Ok(false));
    domain.detach_invalidating(PATIENCE).expect("all nodes answer");
    let late = locks[1].lock("space", "a", Mode::Pr, WAIT).expect("shared");
    assert_eq!(late.value(), None);
}

#[test]
fn a_lock_that_lasts_is_left_by_its_owner_and_adopted_or_purged() {
    let cluster = three();
    let locks = all(&cluster);
    let node = cluster.running().next().expect("it runs");
    let owner = || node.locks().expect("the node has locks");
    let (first, second) = (owner(), owner());
    let lasting = first.lock_lasting("space", "lasting", Mode::Ex, WAIT).expect("free");
    let plain = first.lock("space", "plain", Mode::Ex, WAIT).expect("free");
    assert_eq!(first.end(), 2);
    assert!(lasting.check().is_err() && plain.check().is_err(), "they have no owner any more");
    drop((lasting, plain));
    assert!(locks[1].try_lock("space", "plain", Mode::Ex).is_ok(), "what is not to last is released");
    let refused = locks[1].try_lock("space", "lasting", Mode::Pr).map(drop);
    assert_eq!(refused, Err(LockError::WouldBlock), "the orphan is still held");
    let seen = locks[1].inspect("space", "lasting", PATIENCE).expect("the master answers");
    assert!(seen.locks.len() == 1 && seen.locks[0].orphan, "{seen:?}");
    let wrong = second.adopt("space", "lasting", Mode::Pr).map(drop);
    assert_eq!(wrong, Err(LockError::Refused(RequestError::NoOrphan { other_mode: true })));
    let adopted = second.adopt("space", "lasting", Mode::Ex).expect("it is there, in this mode");
    adopted.check().expect("it is held");
    assert_eq!(locks[2].orphans(node.local(), PATIENCE).expect("it answers").0.len(), 0);
    drop(adopted);
    let third = owner();
    let again =
        third.lock_lasting("space", "lasting", Mode::Pw, WAIT).expect("the adopted lock was released");
    assert_eq!(third.end(), 1);
    drop(again);
    let (orphans, more) = locks[2].orphans(node.local(), PATIENCE).expect("it answers");
    assert_eq!((orphans.len(), more, orphans[0].mode), (1, 0, Mode::Pw));
    assert_eq!(locks[2].purge(node.local(), Some(orphans[0].client), PATIENCE), Ok(1));
    drop(locks[1].lock("space", "lasting", Mode::Ex, WAIT).expect("it was purged"));
}
