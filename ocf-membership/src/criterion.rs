//! Who may be in one view with whom, and who sees to it first.

use core::fmt;
use pils::NodeId;
use std::sync::Arc;

/// Which nodes must be able to talk to each other to be in one view. A pure function, the same on every node.
///
/// Must be symmetric. `ocf_membership::testing::check_criterion` tests one.
pub trait Criterion: fmt::Debug + Send + Sync {
    /// The name by which a configuration chooses it: `mesh`, `star:1`.
    fn name(&self) -> String;
    /// True if `a` and `b`, two nodes, must see each other.
    fn must_see(&self, a: NodeId, b: NodeId) -> bool;
    /// True if the node may be a member at all. Default: every configured one.
    fn admits(&self, node: NodeId) -> bool {
        let _: NodeId = node;
        true
    }
    /// The node that must be in every view, and alone starts ballots, if there is one. It needs a quorum of votes of its own.
    fn head(&self) -> Option<NodeId> {
        None
    }
}

/// Every member sees every other: for high availability, and for ordered messages and locks, which need it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mesh;

impl Criterion for Mesh {
    fn name(&self) -> String {
        "mesh".to_owned()
    }

    fn must_see(&self, _a: NodeId, _b: NodeId) -> bool {
        true
    }
}

/// Every member sees the head: for computing clusters, whose nodes need not reach each other. The head has all the votes, so
/// without it nobody acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Star(pub NodeId);

impl Criterion for Star {
    fn name(&self) -> String {
        format!("star:{}", self.0.raw())
    }

    fn must_see(&self, a: NodeId, b: NodeId) -> bool {
        a == self.0 || b == self.0
    }

    fn head(&self) -> Option<NodeId> {
        Some(self.0)
    }
}

/// Only these nodes, which all see each other: others of the configuration wait, for example to be replaced or upgraded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StaticList(pub Vec<NodeId>);

impl Criterion for StaticList {
    fn name(&self) -> String {
        let ids: Vec<String> = self.0.iter().map(|n| n.raw().to_string()).collect();
        format!("list:{}", ids.join(","))
    }

    fn must_see(&self, _a: NodeId, _b: NodeId) -> bool {
        true
    }

    fn admits(&self, node: NodeId) -> bool {
        self.0.contains(&node)
    }
}

/// The criterion called `name` (`mesh`, `star:<node>`, `list:<node>,<node>`), or `None` if there is none of that name.
///
/// ```
/// use pils::NodeId;
/// let star = ocf_membership::criterion_by_name("star:1").expect("a criterion");
/// assert!(star.must_see(NodeId::new(1), NodeId::new(3)) && !star.must_see(NodeId::new(2), NodeId::new(3)));
/// ```
#[must_use]
pub fn criterion_by_name(name: &str) -> Option<Arc<dyn Criterion>> {
    let node = |text: &str| text.parse().ok().map(NodeId::new);
    if let Some(head) = name.strip_prefix("star:") {
        return Some(Arc::new(Star(node(head)?)));
    }
    if let Some(list) = name.strip_prefix("list:") {
        return Some(Arc::new(StaticList(list.split(',').map(node).collect::<Option<_>>()?)));
    }
    (name == "mesh").then(|| Arc::new(Mesh) as Arc<dyn Criterion>)
}

/// Who of those that may starts a ballot first; the others follow, each a little later, if it does not.
///
/// Anybody may take over, whoever is first: this decides who does the work, never what is agreed. The most senior member of a
/// view ([`View::senior`](crate::View::senior)) is the same for every criterion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Coordinator {
    /// The most senior member of the last primary.
    #[default]
    Senior,
    /// The lowest id.
    Lowest,
    /// The highest id.
    Highest,
    /// In this order, for example that of the nodes' names; who is not in it comes last, by id.
    Order(Vec<NodeId>),
}

impl Coordinator {
    /// Sorts candidates that come most senior first.
    pub(crate) fn sort<T>(&self, candidates: &mut [T], node: impl Fn(&T) -> NodeId) {
        match self {
            Self::Senior => {}
            Self::Lowest => candidates.sort_by_key(node),
            Self::Highest => candidates.sort_by_key(|c| core::cmp::Reverse(node(c))),
            Self::Order(order) => candidates.sort_by_key(|c| {
                let node = node(c);
                (order.iter().position(|n| *n == node).unwrap_or(order.len()), node)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn criteria_are_found_by_the_name_they_print() {
        for name in ["mesh", "star:3", "list:1,2,5"] {
            assert_eq!(criterion_by_name(name).expect("a built-in criterion").name(), name);
        }
        for name in ["", "star:", "star:x", "list:", "list:1,,2", "ring"] {
            assert!(criterion_by_name(name).is_none(), "{name}");
        }
    }

    #[test]
    fn the_order_of_coordinators_is_the_chosen_one() {
        let ids = |list: &[u32]| list.iter().map(|n| NodeId::new(*n)).collect::<Vec<_>>();
        let sorted = |by: Coordinator| {
            let mut nodes = ids(&[2, 4, 1, 3]);
            by.sort(&mut nodes, |n| *n);
            nodes
        };
        assert_eq!(sorted(Coordinator::Senior), ids(&[2, 4, 1, 3]));
        assert_eq!(sorted(Coordinator::Lowest), ids(&[1, 2, 3, 4]));
        assert_eq!(sorted(Coordinator::Highest), ids(&[4, 3, 2, 1]));
        assert_eq!(sorted(Coordinator::Order(ids(&[3, 1]))), ids(&[3, 1, 2, 4]));
    }
}
