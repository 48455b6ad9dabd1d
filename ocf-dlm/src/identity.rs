use core::fmt;

/// Most bits of a shard's number in a [`LockId`]: at most 4096 shards.
pub(crate) const SHARD_BITS: u32 = 12;
/// Bits of a lock's place within its shard: at most 2^22 - 1 locks in one shard.
pub(crate) const PLACE_BITS: u32 = 22;

/// A lock of one lockspace on one node: its shard, its place there, and which lock it is of those that had the place.
///
/// Means nothing on another node, and is not given again before about 10^9 other locks had the same place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(u64);

impl LockId {
    /// Puts an id together; parts beyond their bits are cut.
    pub(crate) const fn new(shard: u32, place: u32, generation: u32) -> Self {
        let shard = (shard as u64) & ((1 << SHARD_BITS) - 1);
        let place = (place as u64) & ((1 << PLACE_BITS) - 1);
        Self((generation as u64) << (SHARD_BITS + PLACE_BITS) | shard << PLACE_BITS | place)
    }

    /// The id that is `raw` on the wire.
    #[must_use]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// The value on the wire. Never zero.
    #[must_use]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// The shard.
    pub(crate) const fn shard(self) -> usize {
        ((self.0 >> PLACE_BITS) & ((1 << SHARD_BITS) - 1)) as usize
    }

    /// The place within the shard.
    pub(crate) const fn place(self) -> u32 {
        (self.0 & ((1 << PLACE_BITS) - 1)) as u32
    }

    /// Which of the locks that had the place.
    pub(crate) const fn generation(self) -> u32 {
        (self.0 >> (SHARD_BITS + PLACE_BITS)) as u32
    }
}

impl fmt::Debug for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LockId {
    /// `s3/17.2`: shard, place, generation.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}/{}.{}", self.shard(), self.place(), self.generation())
    }
}

/// Who a lock belongs to, on its node: a process, a connection, or a part of a program.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(u32);

impl ClientId {
    /// The id that is `raw` on the wire.
    #[must_use]
    pub const fn new(raw: u32) -> Self {
        Self(raw)
    }

    /// The value on the wire.
    #[must_use]
    pub const fn raw(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for ClientId {
    /// `c7`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

/// The nodes that a shard knows, by a small number: who drives the shard keeps the table from number to
/// [`NodeInstance`](pils::NodeInstance) and gives a number again only when no lock of the old instance is left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeSlot(u16);

impl NodeSlot {
    /// This node.
    pub const LOCAL: Self = Self(0);

    /// Another node's number; zero is this node.
    #[must_use]
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The number.
    #[must_use]
    pub const fn raw(self) -> u16 {
        self.0
    }

    /// True for this node.
    #[must_use]
    pub const fn is_local(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for NodeSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_local() { f.write_str("local") } else { write!(f, "node{}", self.0) }
    }
}

/// Who a lock belongs to: a client of a node, and what the owner calls the lock.
///
/// `tag` is the owner's own word: for a lock of another node its [`LockId`] there, for a local lock whatever the client
/// likes. It comes back in every notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// Which node.
    pub node: NodeSlot,
    /// Which client of that node.
    pub client: ClientId,
    /// What the owner calls the lock.
    pub tag: u64,
}

impl Owner {
    /// A lock of a client of this node.
    #[must_use]
    pub const fn local(client: ClientId, tag: u64) -> Self {
        Self { node: NodeSlot::LOCAL, client, tag }
    }
}

/// A number that tells a storage service which of two holders is the later one: refuse what carries a smaller token than
/// one you have seen for the same resource.
///
/// It grows with every grant in EX or PW, and with the first of a group of grants in CW, per resource, also when the
/// resource moves to another master, is forgotten and used again, or is recovered. A grant in another mode carries the
/// token of the last writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FencingToken {
    /// The lockspace's epoch at the grant: the number of the view.
    pub epoch: u64,
    /// Grows with every grant of a writer.
    pub sequence: u64,
}

impl FencingToken {
    /// The token as one number that compares like it: for a service that stores one column.
    #[must_use]
    pub const fn as_u128(self) -> u128 {
        (self.epoch as u128) << 64 | self.sequence as u128
    }

    /// The token that is `raw` as one number.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    pub const fn from_u128(raw: u128) -> Self {
        Self { epoch: (raw >> 64) as u64, sequence: raw as u64 }
    }
}

impl fmt::Display for FencingToken {
    /// `7:1042`: epoch, sequence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_id_gives_its_parts_back() {
        let id = LockId::new(4095, (1 << PLACE_BITS) - 2, (1 << 30) - 1);
        assert_eq!((id.shard(), id.place(), id.generation()), (4095, (1 << PLACE_BITS) - 2, (1 << 30) - 1));
        assert_eq!(LockId::from_raw(id.raw()), id);
        assert_eq!(LockId::new(3, 17, 2).to_string(), "s3/17.2");
    }

    #[test]
    fn tokens_compare_alike_as_pairs_and_as_numbers() {
        let tokens = [(0, 0), (0, 9), (1, 0), (1, 1), (2, 0)]
            .map(|(epoch, sequence)| FencingToken { epoch, sequence });
        for pair in tokens.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].as_u128() < pair[1].as_u128());
        }
        assert_eq!(FencingToken::from_u128(tokens[3].as_u128()), tokens[3]);
    }
}
