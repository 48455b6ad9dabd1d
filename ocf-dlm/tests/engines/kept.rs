//! Grants that a node keeps when its last client lets go.

use super::*;

fn keeping(bug: Option<Sabotage>) -> Three {
    Three::with_config(bug, &Config { kept_max: 2, ..Config::default() })
}

/// `master` masters the key, and node 2 keeps EX of it. Its lock and token.
fn kept(three: &mut Three, master: u32, key: &Key) -> (u64, ocf_dlm::FencingToken) {
    three.lock(master, key, Mode::Nl);
    let (lock, _) = three.lock(2, key, Mode::Ex);
    let token = three.granted(2, lock).unwrap().1.token;
    three.unlock(2, lock);
    three.settle();
    assert!(three.engines[&instance(2)].is_kept(lock));
    assert_eq!(three.engines[&instance(2)].lock_state(lock), None);
    (lock, token)
}

#[test]
fn a_kept_grant_costs_no_message_and_its_tokens_grow_for_whoever_is_next() {
    let (mut three, key) = (keeping(None), kept_by(1));
    let (lock, mut last) = kept(&mut three, 1, &key);
    three.messages = 0;
    for _ in 0..1000 {
        let (again, messages) = three.lock(2, &key, Mode::Ex);
        let token = three.granted(2, again).unwrap().1.token;
        assert_eq!((again, messages), (lock, 0));
        assert!(token > last, "{token} after {last}");
        last = token;
        three.unlock(2, again);
    }
    assert_eq!(three.messages, 0);
    let (other, messages) = three.lock(3, &key, Mode::Ex);
    assert!(three.granted(3, other).unwrap().1.token > last);
    assert_eq!(messages, 4);
    assert!(three.told.iter().all(|(_, _, output)| !matches!(output, Output::Blocking { .. })));
}

#[test]
fn what_was_written_while_kept_is_read_by_the_next_holder_and_not_trusted_when_the_node_is_lost() {
    for lost in [false, true] {
        let (mut three, key) = (keeping(None), kept_by(1));
        three.lock(1, &key, Mode::Nl);
        let (lock, _) = three.lock(3, &key, Mode::Ex);
        let value = Value { block: ValueBlock::zero(32).with_number(7), sequence: 0 };
        let engine = three.engines.get_mut(&instance(3)).unwrap();
        engine.unlock(Instant::ZERO, lock, Flags::VALBLK, Some(value)).unwrap();
        assert!(engine.is_kept(lock));
        if lost {
            three.lose_the_third();
        }
        three.told.clear();
        let reader = three.ask_with(2, &key, Mode::Pr, Flags::VALBLK);
        three.settle();
        let read = three.granted(2, reader).unwrap().1;
        assert_eq!(read.remarks.value_invalid, lost);
        assert_eq!(read.value.unwrap().block.number() == 7, !lost);
    }
}

#[test]
fn who_is_not_to_wait_gets_what_is_only_kept_and_is_refused_what_is_in_use() {
    for in_use in [false, true] {
        let (mut three, key) = (keeping(None), kept_by(1));
        let (lock, _) = kept(&mut three, 1, &key);
        if in_use {
            assert_eq!(three.lock(2, &key, Mode::Ex), (lock, 0));
        }
        three.told.clear();
        let asked = three.ask_with(3, &key, Mode::Pr, Flags::NOQUEUE);
        three.settle();
        let expected = if in_use { Status::NotQueued } else { Status::Granted };
        assert_eq!(three.ended(3, asked), Some(expected));
        assert_eq!(three.held(2, lock), in_use.then_some(Mode::Ex));
        if in_use {
            // Somebody wanted it: it goes back with its last use.
            three.unlock(2, lock);
            assert!(!three.engines[&instance(2)].is_kept(lock));
        }
    }
}

#[test]
fn who_is_not_to_wait_is_refused_when_the_node_that_keeps_is_lost() {
    let (mut three, key) = (keeping(None), kept_by(1));
    three.lock(1, &key, Mode::Nl);
    let (lock, _) = three.lock(3, &key, Mode::Ex);
    three.unlock(3, lock);
    assert!(three.engines[&instance(3)].is_kept(lock));
    three.engines.remove(&instance(3));
    let asked = three.ask_with(2, &key, Mode::Ex, Flags::NOQUEUE);
    three.settle();
    assert_eq!(three.ended(2, asked), None);
    three.install(&view(2, &[(1, 1), (2, 1)], &[1, 2, 3]));
    assert_eq!(three.ended(2, asked), Some(Status::NotQueued));
}

#[test]
fn a_kept_grant_outlives_its_master_and_its_tokens_go_on() {
    let (mut three, key) = (keeping(None), kept_by(1));
    let (lock, first) = kept(&mut three, 3, &key);
    three.lose_the_third();
    assert!(three.engines[&instance(2)].is_kept(lock));
    three.messages = 0;
    let (again, messages) = three.lock(2, &key, Mode::Ex);
    let second = three.granted(2, again).unwrap().1.token;
    assert_eq!((again, messages, three.messages), (lock, 0, 0));
    assert!(second > first);
    three.unlock(2, again);
    let (other, _) = three.lock(1, &key, Mode::Ex);
    assert!(three.granted(1, other).unwrap().1.token > second);
}

#[test]
fn a_kept_grant_is_given_to_nobody_while_the_lease_is_in_doubt_and_lost_with_it_in_silence() {
    for (bug, granted) in [(None, false), (Some(Sabotage::ReuseInDoubt), true)] {
        let (mut three, key) = (keeping(bug), kept_by(1));
        kept(&mut three, 1, &key);
        three.told.clear();
        three.hear(instance(2), Input::Suspended);
        let asked = three.ask(2, &key, Mode::Ex);
        assert_eq!(three.granted(2, asked).is_some(), granted);
    }
    let (mut three, key) = (keeping(None), kept_by(1));
    kept(&mut three, 1, &key);
    three.told.clear();
    three.hear(instance(2), Input::NonPrimary);
    assert!(three.told.iter().all(|(_, _, output)| !matches!(output, Output::Lost { .. })));
    assert_eq!(three.engines[&instance(2)].snapshot().locks, 0);
}

#[test]
fn the_oldest_goes_back_beyond_the_limit_and_all_do_in_time_or_with_their_client() {
    let mut three = keeping(None);
    let locks: Vec<u64> = all_kept_by(1).take(3).map(|key| kept(&mut three, 1, &key).0).collect();
    let keeps = |three: &Three| {
        locks.iter().map(|lock| three.engines[&instance(2)].is_kept(*lock)).collect::<Vec<_>>()
    };
    assert_eq!(keeps(&three), [false, true, true]);
    let mut ended = keeping(None);
    kept(&mut ended, 1, &kept_by(1));
    let engine = ended.engines.get_mut(&instance(2)).unwrap();
    assert_eq!(engine.end_client(Instant::ZERO, ClientId::new(1)), 0);
    assert_eq!(engine.snapshot().kept, 0);
    let engine = three.engines.get_mut(&instance(2)).unwrap();
    engine.handle_timeout(Instant::ZERO + Config::default().kept_for);
    assert_eq!(engine.snapshot().kept, 0);
}

#[test]
fn a_lock_that_was_used_again_is_converted_in_the_name_of_who_has_it() {
    let (mut three, key) = (keeping(None), kept_by(1));
    let (lock, _) = kept(&mut three, 1, &key);
    let ask = Ask {
        client: ClientId::new(5),
        key: key.clone(),
        parent: None,
        mode: Mode::Ex,
        flags: Flags::NONE,
        transaction: None,
        deadline: None,
        signal: 0,
    };
    let engine = three.engines.get_mut(&instance(2)).unwrap();
    assert_eq!(engine.lock(Instant::ZERO, ask), Ok(lock));
    three.convert(2, lock, Mode::Pr, Flags::NONE);
    three.settle();
    let mastered = three.engines[&instance(1)].mastered_locks();
    let known = mastered.iter().find(|(_, held)| held.who.node == instance(2)).unwrap().1;
    assert_eq!((known.client, known.held), (ClientId::new(5), Some(Mode::Pr)));
}
