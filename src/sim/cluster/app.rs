use super::locks::Locks;
use super::record::{Log, MessageId};
use bytes::{BufMut, Bytes};
use ocf_groups::Position;
use pils::wire::{ParseError, Reader, Writer};
use pils::{NodeInstance, Rng};

/// Bytes of the header of a message of the workload.
const HEADER: usize = 40;

/// The application on one node: a replicated log, folded into a number.
#[derive(Debug, Default)]
pub(crate) struct App {
    pub(crate) log: Log,
    /// True if the log is in step with the group.
    pub(crate) synced: bool,
    pub(crate) epoch: u32,
    pub(crate) next: u64,
    /// A send was refused because the window is full.
    pub(crate) full: bool,
    pub(crate) suspended: bool,
    pub(crate) view: u64,
    pub(crate) last: Position,
    /// Senders heard since the last fault.
    pub(crate) heard: Vec<NodeInstance>,
    pub(crate) locks: Locks,
}

impl App {
    /// Takes a message into the log.
    pub(crate) fn take(&mut self, position: Position, id: MessageId) {
        self.last = position;
        self.log.count += 1;
        let mut rng = Rng::new(self.log.digest ^ mix(id));
        self.log.digest = rng.next_u64();
    }

    pub(crate) fn state(&self) -> Bytes {
        let mut out = Vec::with_capacity(16);
        out.put_u64(self.log.count);
        out.put_u64(self.log.digest);
        // Some of it is ballast, so that a transfer takes several datagrams.
        out.resize(16 + usize::try_from(self.log.count % 4000).unwrap_or(0), 7);
        out.into()
    }

    pub(crate) fn load(&mut self, state: &[u8]) -> Result<(), ParseError> {
        let mut r = Reader::new(state);
        self.log = Log { count: r.u64("count")?, digest: r.u64("digest")? };
        self.synced = true;
        Ok(())
    }
}

fn mix(id: MessageId) -> u64 {
    let raw = id.sender.incarnation.raw();
    let folded =
        u64::try_from(raw >> 64).unwrap_or(0) ^ u64::try_from(raw & u128::from(u64::MAX)).unwrap_or(0);
    folded ^ u64::from(id.epoch).rotate_left(40) ^ id.number.rotate_left(8)
}

/// The only content that a message of this id and size can have.
pub(crate) fn content(id: MessageId, size: usize) -> Bytes {
    let size = size.max(HEADER);
    let mut out = Vec::with_capacity(size);
    out.put_instance(id.sender);
    out.put_u32(id.epoch);
    out.put_u64(id.number);
    out.put_u64(size as u64);
    let start = out.len();
    out.resize(size, 0);
    Rng::new(mix(id)).fill(&mut out[start..]);
    out.into()
}

/// The id of a message, if it is exactly what its sender sent.
pub(crate) fn check(payload: &Bytes) -> Option<MessageId> {
    let parse = |r: &mut Reader<'_>| -> Result<(MessageId, u64), ParseError> {
        let id =
            MessageId { sender: r.instance("sender")?, epoch: r.u32("epoch")?, number: r.u64("number")? };
        Ok((id, r.u64("size")?))
    };
    let (id, size) = parse(&mut Reader::new(payload)).ok()?;
    let size = usize::try_from(size).ok().filter(|s| *s == payload.len())?;
    (content(id, size) == payload).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId};

    #[test]
    fn a_message_is_known_by_every_byte() {
        let sender = NodeInstance::new(NodeId::new(3), Incarnation::new(77));
        let id = MessageId { sender, epoch: 1, number: 9 };
        for size in [0, 41, 5000] {
            let good = content(id, size);
            assert_eq!(check(&good), Some(id));
            let mut bad = good.to_vec();
            *bad.last_mut().unwrap() ^= 1;
            assert_eq!(check(&bad.into()), None);
        }
    }
}
