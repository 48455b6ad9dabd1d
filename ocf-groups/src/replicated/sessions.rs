//! What each submitter was answered, so that a command that comes twice is carried out once.

use super::wire::{put_member, read_count, read_member};
use crate::MemberId;
use bytes::Bytes;
use pils::wire::{Malformed, ParseError, Reader, Writer};
use std::collections::{BTreeMap, VecDeque};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Session {
    /// Number of the last command that was carried out.
    last: u64,
    /// Replies that the submitter may not have seen, oldest first.
    replies: VecDeque<(u64, Bytes)>,
    /// Place in the row of those who left; 0: it is a member.
    departed: u64,
}

/// The sessions of a group. Equal at all members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sessions {
    of: BTreeMap<MemberId, Session>,
    departures: u64,
    /// How many sessions of departed members were forgotten.
    forgotten: u64,
}

/// What became of a command, as its submitter finds it in a state it was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was not carried out.
    NotApplied,
    Applied(Bytes),
    /// The session is gone, or the reply is.
    Unknown,
}

impl Sessions {
    /// True if the command is new; then [`Sessions::answered`] follows.
    pub(super) fn begin(&mut self, member: MemberId, number: u64, oldest: u64) -> bool {
        let session = self.of.entry(member).or_default();
        session.replies.retain(|(n, _)| *n >= oldest);
        if number <= session.last {
            return false;
        }
        session.last = number;
        true
    }

    pub(super) fn answered(&mut self, member: MemberId, number: u64, reply: Bytes, keep: usize) {
        let session = self.of.entry(member).or_default();
        session.replies.push_back((number, reply));
        while session.replies.len() > keep {
            session.replies.pop_front();
        }
    }

    pub(super) fn on_joined(&mut self, member: MemberId) {
        if let Some(session) = self.of.get_mut(&member) {
            session.departed = 0;
        }
    }

    /// The session stays, as the member may come back and ask; of those who left only the last `keep` do.
    pub(super) fn on_left(&mut self, member: MemberId, keep: usize) {
        let Some(session) = self.of.get_mut(&member) else { return };
        self.departures += 1;
        session.departed = self.departures;
        let departed: BTreeMap<u64, MemberId> =
            self.of.iter().filter(|(_, s)| s.departed > 0).map(|(m, s)| (s.departed, *m)).collect();
        let surplus = departed.len().saturating_sub(keep);
        for gone in departed.values().take(surplus) {
            self.of.remove(gone);
            self.forgotten += 1;
        }
    }

    pub(super) fn fate(&self, member: MemberId, number: u64) -> Fate {
        match self.of.get(&member) {
            None if self.forgotten > 0 => Fate::Unknown,
            None => Fate::NotApplied,
            Some(session) if number > session.last => Fate::NotApplied,
            Some(session) => session
                .replies
                .iter()
                .find(|(n, _)| *n == number)
                .map_or(Fate::Unknown, |(_, reply)| Fate::Applied(reply.clone())),
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.put_varint(self.departures);
        out.put_varint(self.forgotten);
        out.put_length(self.of.len());
        for (member, session) in &self.of {
            put_member(out, *member);
            out.put_varint(session.last);
            out.put_varint(session.departed);
            out.put_length(session.replies.len());
            for (number, reply) in &session.replies {
                out.put_varint(*number);
                out.put_prefixed(reply);
            }
        }
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Result<Self, ParseError> {
        let (departures, forgotten) = (r.varint("departures")?, r.varint("forgotten")?);
        let mut of = BTreeMap::new();
        for _ in 0..read_count(r, 24)? {
            let at = r.clone();
            let member = read_member(r)?;
            let (last, departed) = (r.varint("last")?, r.varint("departed")?);
            let n = read_count(r, 2)?;
            let reply = |r: &mut Reader<'_>| {
                Ok::<_, ParseError>((r.varint("number")?, Bytes::copy_from_slice(r.bytes("reply")?)))
            };
            let replies = (0..n).map(|_| reply(r)).collect::<Result<_, _>>()?;
            if departed > departures || of.insert(member, Session { last, replies, departed }).is_some() {
                return Err(at.error("session", Malformed::OutOfRange));
            }
        }
        Ok(Self { of, departures, forgotten })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pils::{Incarnation, NodeId, NodeInstance};

    fn member(n: u32) -> MemberId {
        MemberId {
            instance: NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 96)),
            local: 0,
        }
    }

    #[test]
    fn only_the_last_who_left_are_remembered_and_the_state_says_that_some_are_not() {
        let mut sessions = Sessions::default();
        for n in 0..4 {
            assert!(sessions.begin(member(n), 1, 1));
            sessions.answered(member(n), 1, Bytes::from_static(b"r"), 8);
        }
        for n in [2, 0, 1] {
            sessions.on_left(member(n), 2);
        }
        assert_eq!(sessions.fate(member(2), 1), Fate::Unknown);
        assert_eq!(sessions.fate(member(0), 1), Fate::Applied(Bytes::from_static(b"r")));
        assert_eq!(sessions.fate(member(3), 2), Fate::NotApplied);
        sessions.on_joined(member(0));
        sessions.on_left(member(3), 1);
        assert_eq!(sessions.fate(member(0), 1), Fate::Applied(Bytes::from_static(b"r")));
    }

    #[test]
    fn what_was_carried_out_is_not_new_and_its_reply_stays_until_it_was_seen() {
        let mut sessions = Sessions::default();
        assert!(sessions.begin(member(1), 1, 1));
        sessions.answered(member(1), 1, Bytes::from_static(b"one"), 8);
        assert!(!sessions.begin(member(1), 1, 1));
        assert_eq!(sessions.fate(member(1), 1), Fate::Applied(Bytes::from_static(b"one")));
        assert!(sessions.begin(member(1), 2, 2));
        assert_eq!(sessions.fate(member(1), 1), Fate::Unknown);
        let mut bytes = Vec::new();
        sessions.write(&mut bytes);
        assert_eq!(Sessions::read(&mut Reader::new(&bytes)), Ok(sessions));
    }
}
