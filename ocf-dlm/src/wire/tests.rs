use super::*;
use crate::range::{Range, RangeKind, RangeSet};
use crate::{ClientId, Flags, Mode, Remarks, ValueBlock};
use pils::{Incarnation, NodeId};
use proptest::prelude::*;

fn instance(node: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(node), Incarnation::new(u128::from(node) << 96 | 5))
}

fn all_samples(n: u64, small: u32, name: &[u8]) -> Vec<Item> {
    let mut all = samples(n, small, name);
    all.extend(order_samples(n, small, name));
    all.extend(move_samples(n, small, name));
    all
}

fn move_samples(n: u64, small: u32, name: &[u8]) -> Vec<Item> {
    let tree = || Key::root(b"space", name).tree;
    let mode = Mode::ALL[small as usize % Mode::ALL.len()];
    let lock = ClaimedLock {
        lock: n,
        op: small,
        client: ClientId::new(small),
        transaction: n,
        flags: Flags::NOTIFY,
        held: Some(mode),
        asked: small.is_multiple_of(2).then_some(Mode::Ex),
        place: Some(i64::from(small) - 5),
        age_ms: n >> 2,
        ranges: small.is_multiple_of(3).then(|| Box::new((ranges(n), ranges(n ^ 1)))),
        signal: n,
    };
    let refused = [None, Some(Refusal::NotQueued), Some(Refusal::Deadlock)][small as usize % 3];
    let moved = MovedLock {
        node: instance(small),
        lock,
        notified: small.to_be_bytes()[3] % 64,
        demoted: true,
        refused,
    };
    let resource = MovedResource {
        path: Key::root(b"space", name).child(b"below").path,
        value: Value { block: ValueBlock::new(b"value"), sequence: n >> 2 },
        value_invalid: small.is_multiple_of(2),
        places: (i64::from(small), -3),
        locks: vec![moved; small as usize % 4],
    };
    let moved = MovedTree {
        tree: tree(),
        ticket: n,
        token: FencingToken { epoch: n >> 2, sequence: 7 },
        moves: small.to_be_bytes()[3],
        waiting: vec![instance(1), instance(2)],
        resources: vec![resource; 2],
    };
    vec![
        Item::Move { tree: tree(), ticket: n, to: instance(small) },
        Item::Moved { tree: tree(), ticket: n, ready: small.is_multiple_of(2) },
        Item::Take(moved),
        Item::Mastering { tree: tree(), ticket: n, taken: small.is_multiple_of(2) },
        Item::Stay { tree: tree(), ticket: n },
    ]
}

fn order_samples(n: u64, small: u32, name: &[u8]) -> Vec<Item> {
    let key = Key::root(b"space", name).child(b"below");
    let token = FencingToken { epoch: n >> 2, sequence: 7 };
    let mode = Mode::ALL[small as usize % Mode::ALL.len()];
    let reported = ReportedLock {
        node: instance(small),
        lock: n,
        client: ClientId::new(small),
        held: Some(mode),
        asked: small.is_multiple_of(2).then_some(Mode::Ex),
        departed: small.is_multiple_of(3),
        orphan: small.is_multiple_of(5),
        age_ms: n >> 2,
    };
    let danger = Danger {
        client: ClientId::new(small),
        held: Some(mode),
        asked: None,
        sublocks: small,
        waiting: 3,
        unproven: small.is_multiple_of(2),
    };
    let orphan = OrphanLock { lock: n, client: ClientId::new(small), key: key.clone(), mode, age_ms: n >> 2 };
    let report = ResourceReport {
        master: small.is_multiple_of(2).then_some(instance(1)),
        token,
        value_invalid: true,
        locks: vec![reported; 3],
        more: small,
    };
    let space: Arc<[u8]> = Arc::from(*b"space");
    let marks = vec![Mark { tree: key.tree.clone(), failure: n }; small as usize % 4];
    let order = |what| Item::Order(Order { ticket: n, origin: instance(5), what });
    let guard = ReleaseGuard::new("it hangs").filter(|_| small.is_multiple_of(2));
    vec![
        order(Wanted::Look(key.clone())),
        order(Wanted::Release { node: instance(6), lock: n, key: key.clone(), guard }),
        order(Wanted::Orphans),
        order(Wanted::PurgeResource(key.clone())),
        order(Wanted::Why { lock: n, key: key.clone() }),
        Item::Report { ticket: n, outcome: Outcome::InTheWay { locks: vec![reported; 2], more: small } },
        order(Wanted::Collect { space: space.clone(), after: key.tree.clone() }),
        order(Wanted::Validate { space: space.clone(), marks: marks.clone() }),
        order(Wanted::Invalidate { space: space.clone(), over: small.is_multiple_of(2) }),
        Item::Domains { spaces: vec![space; small as usize % 3] },
        Item::Report {
            ticket: n,
            outcome: Outcome::Marks { marks, more: small.is_multiple_of(2), missed: true },
        },
        Item::Report { ticket: n, outcome: Outcome::Validated { more: small.is_multiple_of(3) } },
        order(Wanted::Purge(small.is_multiple_of(2).then_some(ClientId::new(small)))),
        Item::Report { ticket: n, outcome: Outcome::Resource(report) },
        Item::Report { ticket: n, outcome: Outcome::Released(small) },
        Item::Report { ticket: n, outcome: Outcome::Refused(OrderRefusal::Recovering) },
        Item::Report { ticket: n, outcome: Outcome::Refused(OrderRefusal::Endangers(danger)) },
        Item::Report { ticket: n, outcome: Outcome::Orphans { locks: vec![orphan; 2], more: small } },
        Item::Report { ticket: n, outcome: Outcome::Refused(OrderRefusal::NoSuchLock) },
        Item::NewOwner(NewOwner {
            lock: n,
            client: ClientId::new(small),
            transaction: n,
            flags: Flags::NOTIFY,
        }),
    ]
}

fn ranges(n: u64) -> RangeSet {
    let mut set = RangeSet::of(Range::new(n >> 1, u64::MAX).unwrap(), RangeKind::Exclusive);
    set.set(Range::new(0, n >> 2).unwrap(), Some(RangeKind::Shared));
    set
}

fn asked_ranges(n: u64, small: u32, test: bool) -> Option<Box<AskedRanges>> {
    small.is_multiple_of(2).then(|| Box::new(AskedRanges { set: ranges(n), test }))
}

fn tested(lock: u64, op: u32) -> Item {
    let (range, kind) = (Range::WHOLE, RangeKind::Shared);
    let blocker = RangeBlocker { node: instance(4), client: ClientId::new(op), range, kind };
    Item::Answer(Answer::Tested { lock, op, blocker: op.is_multiple_of(3).then_some(blocker) })
}

fn request(n: u64, small: u32, key: &Key) -> Request {
    Request {
        key: key.clone(),
        lock: n,
        op: small,
        client: ClientId::new(small),
        transaction: n,
        mode: Mode::ALL[small as usize % 6],
        flags: Flags::NOQUEUE | Flags::NOTIFY,
        ranges: asked_ranges(n, small, true),
        signal: n,
    }
}

fn claimed(n: u64, small: u32) -> ClaimedLock {
    ClaimedLock {
        lock: n,
        op: small,
        client: ClientId::new(7),
        transaction: n,
        flags: Flags::VALBLK,
        held: Some(Mode::ALL[small as usize % 6]),
        asked: small.is_multiple_of(2).then_some(Mode::Ex),
        place: small.is_multiple_of(3).then_some(-5),
        age_ms: u64::from(small),
        ranges: small.is_multiple_of(2).then(|| Box::new((ranges(n), RangeSet::default()))),
        signal: u64::from(small),
    }
}

fn samples(n: u64, small: u32, name: &[u8]) -> Vec<Item> {
    let key = Key::root(b"space", name).child(b"part");
    let (tree, mode) = (key.tree.clone(), Mode::ALL[small as usize % 6]);
    let value = Some(Value { block: ValueBlock::new(b"value"), sequence: n >> 3 });
    let token = FencingToken { epoch: n >> 4, sequence: n >> 5 };
    let (request, lock) = (request(n, small, &key), claimed(n, small));
    let suspects = vec![instance(small), instance(9)];
    let hop = Hop { home: instance(1), transaction: n, lock: n, op: small, waited_ms: n >> 2 };
    let remarks = Remarks { value_invalid: true, ..Remarks::default() };
    vec![
        Item::Lookup(request.clone()),
        Item::Forward { origin: instance(2), request: request.clone() },
        Item::Request(request),
        Item::Convert(Convert {
            lock: n,
            op: small,
            mode,
            flags: Flags::NONE,
            value,
            told: true,
            ranges: asked_ranges(n, small, false),
            signal: n ^ u64::from(small),
        }),
        Item::Unlock(Unlock { lock: n, flags: Flags::IVVALBLK, value: None }),
        Item::Cancel { lock: n, op: small },
        Item::Own { tree: tree.clone(), floor: token, suspects: suspects.clone() },
        Item::Forget { tree: tree.clone(), floor: token },
        Item::Answer(Answer::Granted { lock: n, op: small, mode, token, remarks, value, blocking: None }),
        Item::Answer(Answer::Queued {
            lock: n,
            op: small,
            place: i64::MIN,
            demoted: small.is_multiple_of(2),
            fence: suspects.clone(),
        }),
        Item::Answer(Answer::Refused { lock: n, op: small, why: Refusal::Deadlock, held: Some(mode) }),
        Item::Answer(Answer::Blocking { lock: n, wanted: mode, signal: n }),
        Item::Answer(Answer::Retry { tree: tree.clone(), lock: n, op: small, hint: instance(3) }),
        tested(n, small),
        Item::Master { tree: tree.clone() },
        Item::ClaimTree { tree: tree.clone() },
        Item::Claim(Claim {
            key,
            token,
            value,
            value_certain: true,
            value_invalid: false,
            locks: vec![lock],
        }),
        Item::Handover(Handover {
            slot: 4095,
            incomplete: false,
            suspects: suspects.clone(),
            orphans: vec![(tree, vec![])],
        }),
        Item::Barrier(Barrier { phase: Phase::Claimed, unproven: suspects.clone(), proven: vec![] }),
        Item::Proven { instance: instance(4), proof: Proof::Obituary },
        Item::Probe(Probe { path: vec![hop, hop], next: Some(InTheWay { transaction: n, lock: n, op: 7 }) }),
        Item::Victim { lock: n, op: small },
        Item::Taken { claims: small },
    ]
}

fn message(items: &[Item]) -> Vec<u8> {
    let mut batch = Batch::new(7);
    for item in items {
        batch.push(item);
    }
    batch.finish().to_vec()
}

#[test]
fn an_empty_batch_is_known_as_such() {
    let mut batch = Batch::new(1 << 40);
    assert!(batch.is_empty());
    batch.push(&Item::Cancel { lock: 1, op: 1 });
    assert!(!batch.is_empty());
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let slot = Handover { slot: 4096, incomplete: false, suspects: vec![], orphans: vec![] };
    for wrong in [
        message(&[Item::Handover(slot)]),
        message(&[Item::Probe(Probe { path: vec![], next: None })]),
        message(&[Item::Master { tree: [].into() }]),
        vec![VERSION + 1, 7],
        vec![VERSION, 7, 0],
    ] {
        assert!(Message::parse(&wrong).is_err(), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn every_item_comes_back_and_has_one_encoding(
        n in any::<u64>(), small in any::<u32>(), name in proptest::collection::vec(any::<u8>(), 1..80),
    ) {
        let items = all_samples(n, small, &name);
        let bytes = message(&items);
        prop_assert_eq!(Message::epoch(&bytes), Ok(7));
        prop_assert_eq!(Message::parse(&bytes), Ok(Message { epoch: 7, items }));
    }

    #[test]
    fn a_message_cut_or_changed_anywhere_never_panics_and_stays_canonical(
        n in any::<u64>(), at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<bool>(),
    ) {
        let mut bytes = message(&all_samples(n, to.into(), b"name"));
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = to }
        if let Ok(parsed) = Message::parse(&bytes) {
            let mut again = Batch::new(parsed.epoch);
            for item in &parsed.items {
                again.push(item);
            }
            prop_assert_eq!(again.finish().to_vec(), bytes);
        }
    }

    #[test]
    fn any_bytes_parse_or_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let framed: Vec<u8> = [VERSION, 3].into_iter().chain(bytes).collect();
        prop_assert!(Message::parse(&framed).is_ok_and(|m| m.epoch == 3) || Message::parse(&framed).is_err());
    }
}
