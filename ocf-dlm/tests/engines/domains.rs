//! Recovery domains over three engines.

use super::*;
use ocf_dlm::wire::MARKS_MAX;

const SPACE: &[u8] = b"space";

impl Three {
    fn attached(config: &Config) -> Self {
        let mut three = Self::with_config(None, config);
        three.engines.get_mut(&instance(1)).unwrap().attach(Instant::ZERO, SPACE).unwrap();
        three.drain(instance(1), 0);
        three.settle();
        three
    }

    fn collector(&mut self, node: u32) -> u64 {
        let collector = self.ask_with(node, &Key::collector(SPACE), Mode::Ex, Flags::NOQUEUE);
        self.settle();
        collector
    }

    /// The trees that are collected, and whether some are missing.
    fn collect(&mut self, node: u32, collector: u64) -> (Vec<Key>, bool) {
        let reported = self.order(node, |engine| engine.collect(Instant::ZERO, collector));
        let Some(Some(Outcome::Marks { marks, missed, .. })) = reported else {
            unreachable!("{reported:?} is not what is to be repaired")
        };
        (marks.iter().map(|mark| Key::root(SPACE, mark.name().unwrap())).collect(), missed)
    }

    fn validate(&mut self, node: u32, collector: u64) -> Option<Option<Outcome>> {
        self.order(node, |engine| engine.validate(Instant::ZERO, collector))
    }

    fn end_clients(&mut self, node: u32) {
        self.engines.get_mut(&instance(node)).unwrap().end_client(Instant::ZERO, ClientId::new(1));
        self.drain(instance(node), 0);
        self.settle();
    }
}

#[test]
fn what_dead_writers_left_on_any_master_is_collected_whatever_its_number_but_for_what_takes_no_part() {
    let mut three = Three::attached(&Config::default());
    let mut keys: Vec<Key> = all_kept_by(2).take(2 * MARKS_MAX + 3).chain([kept_by(3)]).collect();
    keys.iter().for_each(|key| _ = three.ask(2, key, Mode::Ex));
    let apart = Key::root(SPACE, b"apart");
    three.ask_with(2, &apart, Mode::Ex, Flags::NODOMAIN);
    three.ask(2, &Key::root(SPACE, b"only read"), Mode::Pr);
    three.ask(2, &Key::root(b"other", b"space"), Mode::Ex);
    three.settle();
    three.end_clients(2);
    let collector = three.collector(3);
    let (found, missed) = three.collect(3, collector);
    keys.sort_by(|a, b| a.tree.cmp(&b.tree));
    assert!(found == keys && !missed, "{} of {}", found.len(), keys.len());
    let late = three.collector(1);
    assert_eq!(three.ended(1, late), Some(Status::NotQueued), "one collector at a time");
    let refused = three.engines.get_mut(&instance(1)).unwrap().collect(Instant::ZERO, late);
    assert_eq!(refused, Err(OrderError::NotCollector));
    // One fails anew, another is written: neither is touched.
    let (again, _) = three.lock(1, &keys[0], Mode::Pw);
    three.engines.get_mut(&instance(1)).unwrap().end_client(Instant::ZERO, ClientId::new(1));
    three.drain(instance(1), 0);
    let value = Value { block: ValueBlock::zero(32).with_number(7), sequence: 0 };
    let (writer, _) = three.lock(2, &keys[1], Mode::Ex);
    three.lock(1, &keys[1], Mode::Nl);
    let engine = three.engines.get_mut(&instance(2)).unwrap();
    engine.unlock(Instant::ZERO, writer, Flags::VALBLK, Some(value)).unwrap();
    assert!(engine.lock_state(writer).is_none() && three.held(1, again).is_none());
    assert_eq!(three.validate(3, collector), Some(Some(Outcome::Validated { more: true })));
    for (key, valid) in [(&keys[0], None), (&keys[1], Some(7)), (&keys[2], Some(0))] {
        three.told.clear();
        let reader = three.ask_with(1, key, Mode::Cr, Flags::VALBLK);
        three.settle();
        let read = three.granted(1, reader).unwrap().1;
        let number = read.value.filter(|_| !read.remarks.value_invalid).map(|value| value.block.number());
        assert_eq!(number, valid);
    }
    assert_eq!(three.collect(3, collector).0, keys[..1]);
    assert_eq!(three.validate(3, collector), Some(Some(Outcome::Validated { more: false })));
    assert!(three.engines.values().all(|engine| engine.snapshot().repairs == 0));
}

#[test]
fn what_a_lost_node_had_alone_is_collected_if_another_lists_it_and_is_told_after_the_recovery_only() {
    let mut three = Three::attached(&Config::default());
    let (listed, alone, shared) = (kept_by(1), kept_by(3), all_kept_by(2).nth(1).unwrap());
    three.lock(2, &shared, Mode::Nl);
    for key in [&listed, &alone, &shared] {
        three.lock(3, key, Mode::Ex);
    }
    let collector = three.collector(2);
    assert_eq!(three.collect(2, collector).0, []);
    three.lose_the_third();
    let mut expected = vec![listed, shared];
    expected.sort_by(|a, b| a.tree.cmp(&b.tree));
    assert_eq!(three.collect(2, collector).0, expected, "what it alone mastered and listed nobody knows");
    // Nobody takes part any more.
    three.engines.get_mut(&instance(1)).unwrap().detach(Instant::ZERO, SPACE);
    three.drain(instance(1), 0);
    three.settle();
    assert_eq!(three.collect(2, collector).0, []);
    assert!(three.engines.values().all(|engine| engine.check_invariants().is_ok()));
}

#[test]
fn more_than_may_be_kept_is_said_to_be_missing_until_it_is_validated() {
    let mut three = Three::attached(&Config { repair_max: 2, ..Config::default() });
    all_kept_by(2).take(3).for_each(|key| _ = three.ask(2, &key, Mode::Ex));
    three.settle();
    three.end_clients(2);
    let collector = three.collector(1);
    let (found, missed) = three.collect(1, collector);
    assert_eq!((found.len(), missed), (2, true));
    assert_eq!(three.validate(1, collector), Some(Some(Outcome::Validated { more: false })));
    let (found, missed) = three.collect(1, collector);
    assert_eq!((found.len(), missed), (0, false));
}

#[test]
fn all_value_blocks_of_a_lockspace_become_invalid_wherever_they_are_mastered() {
    let mut three = Three::new();
    let keys: Vec<Key> = all_kept_by(1).take(3).collect();
    for (node, key) in (1..=3).zip(&keys) {
        three.lock(node, key, Mode::Nl);
    }
    let other = Key::root(b"other", b"space");
    three.lock(2, &other, Mode::Nl);
    let done = three.order(1, |engine| engine.invalidate(Instant::ZERO, SPACE));
    assert_eq!(done, Some(Some(Outcome::Validated { more: false })));
    for key in keys.iter().chain([&other]) {
        three.told.clear();
        let reader = three.ask_with(2, key, Mode::Pr, Flags::VALBLK);
        three.settle();
        let invalid = three.granted(2, reader).unwrap().1.remarks.value_invalid;
        assert_eq!(invalid, *key != other);
    }
}
