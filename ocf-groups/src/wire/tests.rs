use super::*;
use crate::Config;
use crate::flush::Report;
use crate::table::Table;
use pils::{Incarnation, NodeId, NodeInstance};
use proptest::prelude::*;

fn item() -> impl Strategy<Value = Item> {
    let data = (any::<u32>(), any::<u32>(), any::<bool>(), proptest::collection::vec(any::<u8>(), 0..40));
    let name = "[a-z]{1,20}".prop_map(|s| Arc::<str>::from(s.as_str()));
    prop_oneof![
        data.prop_map(|(group, local, safe, payload)| Item::Data {
            group,
            local,
            guarantee: if safe { Guarantee::Safe } else { Guarantee::Agreed },
            payload: Bytes::from(payload),
        }),
        (any::<u32>(), name.clone()).prop_map(|(local, name)| Item::Join { local, name }),
        (any::<u32>(), name).prop_map(|(local, name)| Item::Leave { local, name }),
        (any::<u32>(), any::<u32>()).prop_map(|(group, local)| Item::Stated { group, local }),
        (any::<u32>(), any::<u32>()).prop_map(|(group, local)| Item::Denied { group, local }),
    ]
}

fn frames(message: &Bytes) -> (Message, Vec<Frame>) {
    let mut r = Reader::new(message);
    let head = Message::read(&mut r, message).expect("a head that was written");
    let mut frames = Vec::new();
    while !r.is_empty() {
        frames.push(Frame::read(&mut r, message).expect("a frame that was written"));
    }
    (head, frames)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_written_is_read_and_no_longer_than_announced(items in proptest::collection::vec(item(), 0..8), base in 1..1_u64 << 40) {
        let mut out = BytesMut::new();
        start_batch(&mut out, ViewNumber(7), base);
        for item in &items {
            let before = out.len();
            item.write(&mut out);
            prop_assert!(out.len() - before <= item.wire_len());
        }
        write_stamp(&mut out, 9, &[(0, 3), (2, 1)]);
        write_have(&mut out, 5, 4);
        let (head, mut read) = frames(&out.freeze());
        prop_assert_eq!(head, Message::Batch { view: ViewNumber(7), base });
        prop_assert_eq!(read.pop(), Some(Frame::Have { held: 5, consumed: 4 }));
        prop_assert_eq!(read.pop(), Some(Frame::Stamp { first: 9, runs: vec![(0, 3), (2, 1)] }));
        prop_assert_eq!(read, items.into_iter().map(Frame::Own).collect::<Vec<_>>());
    }

    #[test]
    fn answers_and_fetches_round_trip(item in item(), lseq in 1..1_u64 << 40, ranges in proptest::collection::vec((any::<u32>(), 1..100_u64, 1..100_u64), 0..6)) {
        let mut out = BytesMut::new();
        start_fetched(&mut out, ViewNumber(3));
        write_of(&mut out, 4, lseq, &item);
        let (head, read) = frames(&out.freeze());
        prop_assert_eq!(head, Message::Fetched { view: ViewNumber(3) });
        prop_assert_eq!(read, vec![Frame::Of { member: 4, lseq, item }]);
        let wanted = Fetch { stamps: (1, lseq), items: ranges };
        let (head, _) = frames(&wanted.write(ViewNumber(3)));
        prop_assert_eq!(head, Message::Fetch { view: ViewNumber(3), wanted });
    }

    #[test]
    fn pieces_and_reports_round_trip(content in proptest::collection::vec(any::<u8>(), 0..50), offset in 0..1000_usize, synced: bool, held in proptest::collection::vec(0..1_u64 << 50, 0..6)) {
        let total = offset + content.len();
        let position = Position { view: ViewNumber(2), sequence: 77 };
        let piece = Piece { group: 1, local: 2, position, offset, total, content: Bytes::from(content) };
        let (head, _) = frames(&piece.write());
        prop_assert_eq!(head, Message::State(piece.clone()));
        let parts = piece.content.chunks(7).map(|p| (p.len(), Digest::of(p))).collect();
        let index = Index { group: 3, local: 4, position, offset, total, parts };
        prop_assert_eq!(frames(&index.write()).0, Message::Index(index));
        let pull = Pull { group: 5, local: 6, position, parts: vec![(offset, total), (0, 1)] };
        prop_assert_eq!(frames(&pull.write()).0, Message::Pull(pull));
        let lag = Lag { stalled: synced, lasted: Duration::from_micros(offset as u64), behind: total as u64 };
        let evicted = Evicted { view: ViewNumber(4), lag };
        prop_assert_eq!(frames(&evicted.write()).0, Message::Evicted(evicted));
        let ahead = if synced { held.clone() } else { Vec::new() };
        let report = Report { view: ViewNumber(9), synced, stamped: 12, held, ahead };
        prop_assert_eq!(Report::read(&report.write()), Ok(report));
    }

    #[test]
    fn any_bytes_parse_or_fail_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80), kind in 0..10_u8) {
        let mut with_head = vec![VERSION, kind];
        with_head.extend_from_slice(&bytes);
        for bytes in [Bytes::from(bytes), Bytes::from(with_head)] {
            let mut r = Reader::new(&bytes);
            if Message::read(&mut r, &bytes).is_ok() {
                while !r.is_empty() && Frame::read(&mut r, &bytes).is_ok() {}
            }
            prop_assert!(r.position() <= bytes.len());
            prop_assert!(Report::read(&bytes).is_err() || bytes.first() == Some(&VERSION));
            let local = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
            if let Ok(table) = Table::read(&mut Reader::new(&bytes), &Config::default(), local) {
                let mut again = BytesMut::new();
                table.write(&mut again);
                prop_assert_eq!(&again[..], &bytes[..]);
            }
        }
    }
}
