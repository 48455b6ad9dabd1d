use super::Violation;
use crate::world::Node;
use pils::NodeInstance;
use std::collections::BTreeMap;

/// D9: when everything is given back, no lock, tree or entry is left.
pub(super) fn empty(nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
    for (x, node) in nodes {
        let s = node.engine.snapshot();
        let left = node.engine.mastered_locks();
        if s.locks + s.waiting + s.trees + s.mastered + s.listed + s.repairs + left.len() > 0 {
            let trees: Vec<_> = nodes.values().flat_map(|node| node.engine.trees()).collect();
            let what = format!("{x} has something left: {s:?} {left:?} {trees:?}");
            return Err(Violation { rule: "D9", what });
        }
    }
    Ok(())
}
