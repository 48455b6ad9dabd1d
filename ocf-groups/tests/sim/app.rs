//! The application of a node: one replica for each member, whose state is a digest of what it was delivered.

use bytes::Bytes;
use ocf_groups::testing::Entry;
use ocf_groups::{Event, MemberId, Position};
use pils::NodeInstance;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A state to be offered.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) group: Arc<str>,
    pub(crate) joiner: MemberId,
    pub(crate) position: Position,
    pub(crate) state: Bytes,
}

pub(crate) struct App {
    pub(crate) broken: Option<String>,
    /// Members that asked to leave.
    pub(crate) leaving: BTreeSet<(Arc<str>, u32)>,
    instance: NodeInstance,
    /// Digest of each local member; `None` while it has no state.
    replicas: BTreeMap<(Arc<str>, u32), Option<u64>>,
}

fn mix(digest: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(digest ^ 0xcbf2_9ce4_8422_2325, |d, b| (d ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

impl App {
    pub(crate) fn new(instance: NodeInstance) -> Self {
        Self { broken: None, leaving: BTreeSet::new(), instance, replicas: BTreeMap::new() }
    }

    pub(crate) fn forget(&mut self, group: &str, local: u32) {
        self.replicas.remove(&(group.into(), local));
    }

    pub(crate) fn waiting(&self) -> Option<String> {
        self.replicas.iter().find(|(_, d)| d.is_none()).map(|((g, l), _)| format!("member {l} of {g}"))
    }

    pub(crate) fn on_event(&mut self, event: &Event, entries: &mut Vec<Entry>) -> Option<Wanted> {
        let me = self.instance;
        let mut note = |group: &Arc<str>, local: u32, position: Position, digest: u64| {
            let member = MemberId { instance: me, local };
            entries.push(Entry::Digest { group: Arc::clone(group), member, position, digest });
        };
        match event {
            Event::Message { group, position, payload, sender, .. } => {
                for ((g, local), digest) in &mut self.replicas {
                    if g == group
                        && let Some(digest) = digest
                    {
                        *digest = mix(mix(*digest, payload), &sender.local.to_be_bytes());
                        note(group, *local, *position, *digest);
                    }
                }
            }
            Event::Membership { group, members, joined, left, .. } => {
                for gone in left.iter().filter(|m| m.instance == me) {
                    self.replicas.remove(&(Arc::clone(group), gone.local));
                    if !joined.contains(gone) {
                        self.leaving.remove(&(Arc::clone(group), gone.local));
                    }
                }
                for new in joined.iter().filter(|m| m.instance == me) {
                    let first = members.len() == 1;
                    self.replicas.insert((Arc::clone(group), new.local), first.then_some(0));
                }
            }
            Event::State { group, member, position, state } => {
                let digest = u64::from_be_bytes(state[..8].try_into().expect("a state starts with a digest"));
                self.replicas.insert((Arc::clone(group), member.local), Some(digest));
                note(group, member.local, *position, digest);
            }
            Event::StateLost { group, member, .. } => {
                self.replicas.insert((Arc::clone(group), member.local), Some(0));
            }
            Event::Reset { group, member } if self.leaving.remove(&(Arc::clone(group), member.local)) => {
                self.replicas.remove(&(Arc::clone(group), member.local));
            }
            Event::Reset { group, member } => {
                self.replicas.insert((Arc::clone(group), member.local), None);
            }
            Event::StateWanted { group, joiner, position } => {
                let mine = self.replicas.iter().filter(|((g, _), _)| g == group);
                let Some(digest) = mine.filter_map(|(_, d)| *d).next() else {
                    self.broken =
                        Some(format!("{me} is asked for a state of {group} at {position} and has none"));
                    return None;
                };
                let mut state = digest.to_be_bytes().to_vec();
                // What never changes is told again from what was got before.
                state.extend((0..22_u8).map(|at| at.wrapping_mul(37)));
                let (group, state) = (Arc::clone(group), Bytes::from(state));
                return Some(Wanted { group, joiner: *joiner, position: *position, state });
            }
            // In no state, as its promise says.
            Event::Fifo { .. }
            | Event::Refused { .. }
            | Event::Evicted { .. }
            | Event::View(_)
            | Event::Writable => {}
            other => panic!("unknown event {other:?}"),
        }
        None
    }
}
