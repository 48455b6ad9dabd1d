//! What a peer may have a joiner or a donor hold, whatever it says.

use super::*;
use crate::Config;
use crate::wire::Message;
use ocf_membership::ViewNumber;
use pils::wire::Reader;
use pils::{Incarnation, Layer as _, NodeId};
use proptest::prelude::*;

const KIB: usize = 1024;

fn instance(node: u32) -> NodeInstance {
    NodeInstance::new(NodeId::new(node), Incarnation::new(u128::from(node) << 64))
}

fn core(config: Config) -> Groups {
    Groups::new(config, instance(1))
}

fn at(sequence: u64) -> Position {
    Position { view: ViewNumber(1), sequence }
}

fn index(position: Position, offset: usize, total: usize, parts: Vec<(usize, Digest)>) -> Index {
    Index { group: 1, local: 0, position, offset, total, parts }
}

fn piece(position: Position, offset: usize, total: usize, content: &[u8]) -> Piece {
    let content = Bytes::copy_from_slice(content);
    Piece { group: 1, local: 0, position, offset, total, content }
}

/// What is sent, by kind, in order.
fn sent(core: &mut Groups) -> Vec<Message> {
    let mut sent = Vec::new();
    while let Some(output) = core.poll_output() {
        if let Output::Send { message, .. } = output {
            sent.push(Message::read(&mut Reader::new(&message), &message).expect("it was written"));
        }
    }
    sent
}

fn parts(core: &Groups) -> usize {
    core.incoming.get(&(1, 0)).map_or(0, |incoming| incoming.parts.len())
}

#[test]
fn an_index_tells_of_so_many_pieces_and_no_more() {
    let mut core = core(Config::default());
    let many: Vec<_> = (0..1000_u64).map(|n| (1, Digest::of(&n.to_be_bytes()))).collect();
    for offset in (0..200_000).step_by(1000) {
        core.on_index(instance(2), &index(at(1), offset, 1 << 25, many.clone()));
        assert_eq!(core.check_invariants(), Ok(()));
    }
    assert_eq!(parts(&core), PIECES_MAX / 1000 * 1000);
    assert_eq!(core.stats.dropped.state, 200 - (PIECES_MAX / 1000) as u64);
}

#[test]
fn a_state_that_is_announced_as_too_large_is_not_begun() {
    let mut core = core(Config { state_max: KIB, ..Config::default() });
    for total in [KIB + 1, usize::MAX] {
        core.on_index(instance(2), &index(at(1), 0, total, vec![(1, Digest::of(b"x"))]));
        core.on_piece(instance(2), &piece(at(1), 0, total, b"x"));
    }
    assert_eq!((core.incoming.len(), core.stats.dropped.state), (0, 4));
    core.on_piece(instance(2), &piece(at(1), 0, KIB, b"x"));
    assert_eq!(core.incoming.len(), 1);
}

#[test]
fn what_is_here_is_not_taken_for_a_piece_of_another_length() {
    let mut core = core(Config::default());
    let content = vec![7; KIB];
    let digest = Digest::of(&content);
    core.on_index(instance(2), &index(at(1), 0, 2 * KIB, vec![(KIB, digest)]));
    core.on_piece(instance(2), &piece(at(1), 0, 2 * KIB, &content));
    assert_eq!(core.stats.state_received, KIB as u64);
    // The next state claims to be made of a hundred such pieces of one byte.
    core.on_index(instance(3), &index(at(2), 0, 100, vec![(1, digest); 100]));
    assert_eq!(core.stats.state_kept, 0);
    assert_eq!(core.take_incoming((1, 0), at(2)), None, "they have to be asked for");
    core.on_piece(instance(3), &piece(at(2), 0, 100, b"x"));
    assert_eq!(core.take_incoming((1, 0), at(2)).map(|state| state.len()), Some(100));
}

#[test]
fn what_is_kept_of_states_that_never_came_is_bounded() {
    let mut core = core(Config { state_max: 10 * KIB, ..Config::default() });
    for round in 1..50_u8 {
        for offset in (0..9 * KIB).step_by(KIB) {
            let content = vec![round; KIB - usize::from(round) + offset / KIB];
            let next = core.incoming.get(&(1, 0)).map_or(0, Incoming::covered);
            let begun = if offset == 0 { 0 } else { next };
            core.on_piece(instance(2), &piece(at(round.into()), begun, 10 * KIB, &content));
            assert_eq!(core.check_invariants(), Ok(()));
        }
    }
    assert_eq!(core.stats.dropped.state, 0, "they were all taken");
}

#[test]
fn a_state_comes_from_its_donor_alone() {
    let mut core = core(Config::default());
    let digest = Digest::of(b"a");
    core.on_index(instance(2), &index(at(1), 0, 2, vec![(1, digest)]));
    core.on_index(instance(3), &index(at(1), 1, 2, vec![(1, digest)]));
    core.on_piece(instance(3), &piece(at(1), 0, 2, b"a"));
    assert_eq!((parts(&core), core.stats.dropped.state, core.stats.state_received), (1, 2, 0));
    // Nor does it send what was told of and not asked for, or is told of as it was sent.
    core.on_piece(instance(2), &piece(at(1), 1, 2, b"b"));
    core.on_piece(instance(2), &piece(at(2), 0, 2, b"a"));
    core.on_index(instance(2), &index(at(2), 1, 2, vec![(1, digest)]));
    assert_eq!((parts(&core), core.stats.dropped.state), (1, 4));
}

#[test]
fn who_asks_for_more_than_there_is_gets_nothing() {
    let mut core = core(Config::default());
    let joiner = MemberId { instance: instance(2), local: 0 };
    let state = Bytes::from(vec![1; 8 * KIB]);
    let outgoing = Outgoing { position: at(1), state, cut: 8 * KIB, piece: 8 * KIB, indexed: true };
    core.outgoing.insert((1, joiner), outgoing);
    let mut ask = |parts| {
        core.on_pull(instance(2), &Pull { group: 1, local: 0, position: at(1), parts });
        sent(&mut core).len()
    };
    assert_eq!(ask(vec![(0, 8 * KIB); 2]), 0);
    assert_eq!(ask(vec![(1, 8 * KIB)]), 0);
    assert_eq!(ask(vec![(0, usize::MAX), (1, usize::MAX)]), 0);
    assert_eq!(ask(vec![(0, 4 * KIB), (4 * KIB, 4 * KIB)]), 2);
}

/// What a build before the index did with what came to it: piece after piece, each where the one before ended.
fn in_order(messages: &[Message]) -> Vec<u8> {
    let mut state = Vec::new();
    for message in messages {
        let Message::State(piece) = message else { panic!("{message:?} is not known to it") };
        assert_eq!(piece.offset, state.len());
        state.extend_from_slice(&piece.content);
        assert!(state.len() <= piece.total);
    }
    state
}

#[test]
fn at_the_first_level_a_state_goes_as_builds_before_the_index_sent_and_took_it() {
    let state: Vec<u8> = (0..10_000_u32).flat_map(u32::to_be_bytes).collect();
    let mut donor = core(Config { state_piece: 3000, state_window: KIB, ..Config::default() });
    let joiner = MemberId { instance: instance(2), local: 0 };
    donor.offer(1, joiner, at(1), Bytes::from(state.clone()));
    let mut messages = Vec::new();
    while let Some(due) = donor.poll_timeout() {
        donor.handle_timeout(due);
        let slice = sent(&mut donor);
        assert_eq!(slice.len(), 1, "nobody is held up for longer than a slice takes");
        messages.extend(slice);
    }
    assert_eq!(in_order(&messages), state);
    assert_eq!(donor.outgoing.len(), 0);
    // Such a build sent all at once.
    let mut joiner = core(Config { state_piece: 7, ..Config::default() });
    for message in &messages {
        let Message::State(piece) = message else { panic!("{message:?}") };
        joiner.on_piece(instance(1), piece);
    }
    assert_eq!(joiner.take_incoming((1, 0), at(1)).as_deref(), Some(&state[..]));
}

#[test]
fn a_donor_cuts_no_more_pieces_than_a_joiner_takes() {
    for (size, noise) in [(300_000, true), (300_000, false), (PIECES_MAX, false), (PIECES_MAX + 1, true)] {
        let mut rng = pils::Rng::new(3);
        let mut byte = || if noise { u8::try_from(rng.below(256)).expect("a byte") } else { 0 };
        let state: Bytes = (0..size).map(|_| byte()).collect();
        let mut donor = core(Config { state_piece: 1, ..Config::default() });
        let key = (1, MemberId { instance: instance(2), local: 0 });
        donor.offer(key.0, key.1, at(1), state);
        donor.outgoing.get_mut(&key).expect("on its way").indexed = true;
        let mut told = 0;
        while let Some(due) = donor.poll_timeout() {
            donor.handle_timeout(due);
            for message in sent(&mut donor) {
                let Message::Index(index) = message else { panic!("{message:?}") };
                told += index.parts.len();
            }
        }
        assert!((size / 64..=PIECES_MAX).contains(&told), "{told} pieces of {size} bytes");
    }
}

#[derive(Clone, Debug)]
enum Word {
    Index {
        offset: usize,
        total: usize,
        lengths: Vec<usize>,
    },
    Piece {
        offset: usize,
        total: usize,
        length: usize,
        byte: u8,
    },
    /// What was asked for, or would come next.
    Right(u8),
}

fn word() -> impl Strategy<Value = Word> {
    let size = 0..300_usize;
    prop_oneof![
        (size.clone(), size.clone(), proptest::collection::vec(1..90_usize, 0..5))
            .prop_map(|(offset, total, lengths)| Word::Index { offset, total, lengths }),
        (size.clone(), size, 0..90_usize, 0..3_u8).prop_map(|(offset, total, length, byte)| Word::Piece {
            offset,
            total,
            length,
            byte
        }),
        (0..3_u8).prop_map(Word::Right),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_peers_say_of_states_is_bounded(
        words in proptest::collection::vec((2..4_u32, 1..4_u64, 0..3_u32, word()), 0..80),
    ) {
        let config = Config { state_max: 256, state_window: 100, transfers_max: 2, ..Config::default() };
        let mut core = core(config);
        for (from, sequence, local, word) in words {
            let (from, position) = (instance(from), at(sequence));
            match word {
                Word::Index { offset, total, lengths } => {
                    let parts = lengths.iter().map(|length| (*length, Digest::of(&(length % 4).to_be_bytes()))).collect();
                    core.on_index(from, &Index { local, ..index(position, offset, total, parts) });
                }
                Word::Piece { offset, total, length, byte } => {
                    core.on_piece(from, &Piece { local, ..piece(position, offset, total, &vec![byte; length]) });
                }
                Word::Right(byte) => {
                    let Some(incoming) = core.incoming.get(&(1, local)) else { continue };
                    let asked = incoming.parts.iter().find(|part| incoming.asked.contains(&part.known()));
                    let (offset, length) = asked.map_or_else(|| (incoming.covered(), 9), |part| (part.offset, part.length));
                    let (total, donor, position) = (incoming.total, incoming.donor, incoming.position);
                    let content = vec![byte; length.min(total.saturating_sub(offset))];
                    core.on_piece(donor, &Piece { local, ..piece(position, offset, total, &content) });
                }
            }
            prop_assert_eq!(core.check_invariants(), Ok(()));
            sent(&mut core);
        }
        for ((_, local), total, position) in core.incoming.iter().map(|(key, i)| (*key, i.total, i.position)).collect::<Vec<_>>() {
            let whole = core.take_incoming((1, local), position);
            prop_assert!(whole.is_none_or(|state| state.len() == total));
        }
    }
}
