//! Orders of programs about locks, and what has come of them, as values of the local interface.

use super::waits::InTheWay;
use super::{WireKey, bytes};
use crate::locks::{LockOrder, LockOrderError};
use ocf_dlm::FencingToken;
use ocf_dlm::cluster::OrderError;
use ocf_dlm::wire::{Mark, OrderRefusal, Outcome, ResourceReport};
use pils::{NodeInstance, Value};
use serde::{Deserialize, Serialize};

/// What a program may ask of locks that are not its own, or of the master of one that is.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// What is in the way of its operation of that tag.
    Why(u64),
    /// Who holds a resource and who waits for it.
    Look(WireKey),
    /// The end of a node's orphans of a resource.
    Purge(NodeInstance, WireKey),
    /// What is to be repaired, for the collector that has the lock of that tag.
    Collect(u64),
    /// It is.
    Validate(u64),
    /// No value block of the lockspace is to be trusted.
    Invalidate(String),
}

/// What has come of it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// These, and so many more.
    InTheWay(Vec<InTheWay>, u32),
    Resource(Resource),
    Released(u32),
    /// The names of their trees and their failures, and whether some are missing.
    Marks(Vec<(Value, String)>, bool),
    /// Whether there is more to repair.
    Validated(bool),
    /// A master changes: ask again.
    Again,
    /// The members changed: it was carried out or not.
    Interrupted,
    /// Nothing waits under that tag.
    NotWaiting,
    NotMember(NodeInstance),
    /// Another collects, or the lock of that tag does not allow it.
    NotCollector,
    /// Too many orders are under way.
    Limit,
    /// There is more to repair than a program is told.
    TooMany,
    /// The program may not lock in that lockspace.
    NotAllowed,
    /// The node may not act.
    NotPrimary,
}

/// A resource at its master.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Resource {
    master: Option<NodeInstance>,
    token: String,
    value_invalid: bool,
    locks: Vec<InTheWay>,
    more: u32,
}

impl Order {
    /// `None`: programs give no such orders.
    pub(crate) fn of(order: &LockOrder) -> Option<Self> {
        Some(match order {
            LockOrder::Why(tag) => Self::Why(*tag),
            LockOrder::Look(key) => Self::Look(WireKey::of(key)),
            LockOrder::PurgeResource(node, key) => Self::Purge(*node, WireKey::of(key)),
            LockOrder::Collect(tag) => Self::Collect(*tag),
            LockOrder::Validate(tag) => Self::Validate(*tag),
            LockOrder::Invalidate(space) => Self::Invalidate(space.clone()),
            LockOrder::Release(..) | LockOrder::Orphans(_) | LockOrder::Purge(..) => return None,
        })
    }
}

impl Reply {
    /// `None`: the members changed meanwhile.
    pub(crate) fn of(outcome: Option<Outcome>) -> Self {
        match outcome {
            Some(Outcome::InTheWay { locks, more }) => {
                Self::InTheWay(locks.iter().map(InTheWay::of).collect(), more)
            }
            Some(Outcome::Resource(report)) => Self::Resource(Resource::of(&report)),
            Some(Outcome::Released(count)) => Self::Released(count),
            Some(Outcome::Marks { marks, missed, .. }) => {
                let mark = |mark: &Mark| (bytes(&mark.tree), mark.failure.to_string());
                Self::Marks(marks.iter().map(mark).collect(), missed)
            }
            Some(Outcome::Validated { more }) => Self::Validated(more),
            Some(Outcome::Refused(OrderRefusal::NoSuchLock)) => Self::NotWaiting,
            Some(Outcome::Refused(_)) => Self::Again,
            None | Some(_) => Self::Interrupted,
        }
    }

    pub(crate) const fn refused(why: OrderError) -> Self {
        match why {
            OrderError::NotWaiting => Self::NotWaiting,
            OrderError::NotMember(node) => Self::NotMember(node),
            OrderError::NotCollector => Self::NotCollector,
            OrderError::Limit => Self::Limit,
            OrderError::NotPrimary | _ => Self::NotPrimary,
        }
    }

    /// As a program in the node's own process hears it.
    pub(crate) fn outcome(self) -> Result<Outcome, LockOrderError> {
        let locks = |locks: Vec<InTheWay>| {
            let known: Option<Vec<_>> = locks.into_iter().map(InTheWay::reported).collect();
            known.ok_or(LockOrderError::Stopped)
        };
        Ok(match self {
            Self::InTheWay(all, more) => Outcome::InTheWay { locks: locks(all)?, more },
            Self::Resource(of) => {
                let token = of.token.parse().map(FencingToken::from_u128);
                let token = token.map_err(|_not_a_number| LockOrderError::Stopped)?;
                let (master, value_invalid, more) = (of.master, of.value_invalid, of.more);
                Outcome::Resource(ResourceReport {
                    master,
                    token,
                    value_invalid,
                    locks: locks(of.locks)?,
                    more,
                })
            }
            Self::Released(count) => Outcome::Released(count),
            Self::Marks(marks, missed) => {
                let mark = |(tree, failure): (Value, String)| {
                    let tree: Vec<u8> = tree.try_into().ok()?;
                    Some(Mark { tree: tree.into(), failure: failure.parse().ok()? })
                };
                let marks: Option<Vec<Mark>> = marks.into_iter().map(mark).collect();
                Outcome::Marks { marks: marks.ok_or(LockOrderError::Stopped)?, more: false, missed }
            }
            Self::Validated(more) => Outcome::Validated { more },
            Self::Again => Outcome::Refused(OrderRefusal::Recovering),
            Self::Interrupted => return Err(LockOrderError::Interrupted),
            Self::NotWaiting => return Err(OrderError::NotWaiting.into()),
            Self::NotMember(node) => return Err(OrderError::NotMember(node).into()),
            Self::NotCollector => return Err(OrderError::NotCollector.into()),
            Self::Limit => return Err(OrderError::Limit.into()),
            Self::TooMany => return Err(LockOrderError::TooMany),
            Self::NotAllowed => return Err(LockOrderError::NotAllowed),
            Self::NotPrimary => return Err(OrderError::NotPrimary.into()),
        })
    }
}

impl Resource {
    fn of(report: &ResourceReport) -> Self {
        Self {
            master: report.master,
            token: report.token.as_u128().to_string(),
            value_invalid: report.value_invalid,
            locks: report.locks.iter().map(InTheWay::of).collect(),
            more: report.more,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ocf_comm::rpc::Body;
    use ocf_dlm::wire::ReportedLock;
    use ocf_dlm::{ClientId, Mode};
    use pils::{Incarnation, NodeId};

    fn node() -> NodeInstance {
        NodeInstance::new(NodeId::new(7), Incarnation::new(u128::MAX))
    }

    fn told(reply: &Reply) -> Result<Outcome, LockOrderError> {
        Body::of(reply).and_then(Body::read::<Reply>).expect("it has a form as a value").outcome()
    }

    #[test]
    fn what_has_come_of_an_order_is_told_whole() {
        let lock = ReportedLock {
            node: node(),
            lock: 12,
            client: ClientId::new(3),
            held: Some(Mode::Pr),
            asked: Some(Mode::Ex),
            departed: true,
            orphan: false,
            age_ms: 77,
        };
        let token = FencingToken { epoch: u64::MAX, sequence: 5 };
        let (master, locks) = (Some(node()), vec![lock, ReportedLock { held: None, ..lock }]);
        let resource = ResourceReport { master, token, value_invalid: true, locks, more: 3 };
        let mark = Mark { tree: [0, 255].as_slice().into(), failure: u64::MAX };
        let outcomes = [
            Outcome::InTheWay { locks: vec![lock], more: 4 },
            Outcome::Resource(resource),
            Outcome::Released(9),
            Outcome::Marks { marks: vec![mark], more: false, missed: true },
            Outcome::Validated { more: true },
            Outcome::Refused(OrderRefusal::Recovering),
        ];
        for outcome in outcomes {
            assert_eq!(told(&Reply::of(Some(outcome.clone()))), Ok(outcome));
        }
        assert_eq!(told(&Reply::of(None)), Err(LockOrderError::Interrupted));
        let nothing = Reply::of(Some(Outcome::Refused(OrderRefusal::NoSuchLock)));
        assert_eq!(told(&nothing), Err(OrderError::NotWaiting.into()));
    }

    #[test]
    fn why_an_order_was_not_given_is_told() {
        let all = [
            OrderError::NotPrimary,
            OrderError::NotMember(node()),
            OrderError::NotCollector,
            OrderError::Limit,
            OrderError::NotWaiting,
        ];
        for why in all {
            assert_eq!(told(&Reply::refused(why)), Err(why.into()));
        }
        assert_eq!(told(&Reply::NotAllowed), Err(LockOrderError::NotAllowed));
        assert_eq!(told(&Reply::TooMany), Err(LockOrderError::TooMany));
    }
}
