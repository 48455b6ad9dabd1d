//! Why operations of a program wait, as values of the local interface.

use super::{WireKey, mode};
use core::time::Duration;
use ocf_dlm::cluster::{WaitReason, Waiting};
use ocf_dlm::wire::ReportedLock;
use ocf_dlm::{ClientId, Mode};
use pils::NodeInstance;
use serde::{Deserialize, Serialize};

/// An operation that waits.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ToldWait {
    tag: u64,
    owner: u32,
    key: WireKey,
    held: Option<u8>,
    asked: u8,
    /// In milliseconds.
    age: u64,
    reason: Reason,
}

/// Why an operation waits.
#[derive(Debug, Serialize, Deserialize)]
enum Reason {
    WaitQuorum,
    Lookup,
    Recovery,
    WaitFence(Vec<NodeInstance>),
    BlockedBy(Vec<InTheWay>),
    AtMaster(NodeInstance),
}

/// A lock that is in the way of another.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct InTheWay {
    node: NodeInstance,
    lock: u64,
    client: u32,
    held: Option<u8>,
    asked: Option<u8>,
    departed: bool,
    orphan: bool,
    age: u64,
}

impl ToldWait {
    /// `owner`: as the program numbers it.
    pub(crate) fn of(wait: Waiting, (tag, owner): (u64, u32)) -> Self {
        Self {
            tag,
            owner,
            key: WireKey::of(&wait.key),
            held: wait.held.map(Mode::raw),
            asked: wait.asked.raw(),
            age: signed(u64::try_from(wait.age.as_millis()).unwrap_or(u64::MAX)),
            reason: wait.reason.into(),
        }
    }

    /// As the program has it. `None` if it has no meaning.
    pub(crate) fn waiting(self) -> Option<Waiting> {
        Some(Waiting {
            lock: self.tag,
            client: ClientId::new(self.owner),
            key: self.key.key()?,
            held: some_mode(self.held)?,
            asked: mode(self.asked)?,
            age: Duration::from_millis(self.age),
            reason: self.reason.reason()?,
        })
    }
}

impl From<WaitReason> for Reason {
    fn from(reason: WaitReason) -> Self {
        match reason {
            WaitReason::WaitQuorum => Self::WaitQuorum,
            WaitReason::Lookup => Self::Lookup,
            WaitReason::Recovery => Self::Recovery,
            WaitReason::WaitFence(who) => Self::WaitFence(who),
            WaitReason::BlockedBy(who) => Self::BlockedBy(who.iter().map(InTheWay::of).collect()),
            WaitReason::AtMaster(node) => Self::AtMaster(node),
        }
    }
}

impl Reason {
    fn reason(self) -> Option<WaitReason> {
        Some(match self {
            Self::WaitQuorum => WaitReason::WaitQuorum,
            Self::Lookup => WaitReason::Lookup,
            Self::Recovery => WaitReason::Recovery,
            Self::WaitFence(who) => WaitReason::WaitFence(who),
            Self::BlockedBy(who) => {
                WaitReason::BlockedBy(who.into_iter().map(InTheWay::reported).collect::<Option<_>>()?)
            }
            Self::AtMaster(node) => WaitReason::AtMaster(node),
        })
    }
}

impl InTheWay {
    pub(super) fn of(lock: &ReportedLock) -> Self {
        Self {
            node: lock.node,
            lock: signed(lock.lock),
            client: lock.client.raw(),
            held: lock.held.map(Mode::raw),
            asked: lock.asked.map(Mode::raw),
            departed: lock.departed,
            orphan: lock.orphan,
            age: signed(lock.age_ms),
        }
    }

    pub(super) fn reported(self) -> Option<ReportedLock> {
        Some(ReportedLock {
            node: self.node,
            lock: self.lock,
            client: ClientId::new(self.client),
            held: some_mode(self.held)?,
            asked: some_mode(self.asked)?,
            departed: self.departed,
            orphan: self.orphan,
            age_ms: self.age,
        })
    }
}

/// A number of the local interface has a sign.
fn signed(number: u64) -> u64 {
    number.min(i64::MAX.unsigned_abs())
}

/// `None` if it is no mode.
fn some_mode(raw: Option<u8>) -> Option<Option<Mode>> {
    match raw {
        None => Some(None),
        Some(raw) => mode(raw).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocf_comm::rpc::Body;
    use ocf_dlm::wire::Key;
    use pils::{Incarnation, NodeId};

    #[test]
    fn a_program_is_told_of_a_wait_what_the_node_knows() {
        let node = NodeInstance::new(NodeId::new(7), Incarnation::new(u128::MAX));
        let lock = ReportedLock {
            node,
            lock: 12,
            client: ClientId::new(3),
            held: Some(Mode::Pr),
            asked: Some(Mode::Ex),
            departed: false,
            orphan: true,
            age_ms: 77,
        };
        let reasons = [
            WaitReason::WaitQuorum,
            WaitReason::Lookup,
            WaitReason::Recovery,
            WaitReason::WaitFence(vec![node]),
            WaitReason::BlockedBy(vec![lock, ReportedLock { held: None, ..lock }]),
            WaitReason::AtMaster(node),
        ];
        for reason in reasons {
            let wait = Waiting {
                lock: 9,
                client: ClientId::new(4),
                key: Key::root(b"space", &[0, 255]).child(b"part"),
                held: Some(Mode::Nl),
                asked: Mode::Cw,
                age: Duration::from_millis(5),
                reason,
            };
            let told = Body::of(&ToldWait::of(wait.clone(), (9, 4))).and_then(Body::read::<ToldWait>);
            assert_eq!(told.expect("it has a form as a value").waiting(), Some(wait));
        }
    }
}
