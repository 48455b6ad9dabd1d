use super::Violation;
use crate::world::Node;
use ocf_dlm::cluster::TreeState;
use pils::NodeInstance;
use std::collections::BTreeMap;

/// D2: no two nodes of one epoch master one tree.
pub(super) fn watch(nodes: &BTreeMap<NodeInstance, Node>) -> Result<(), Violation> {
    let mut masters = BTreeMap::new();
    for (x, node) in nodes {
        for tree in node.engine.trees().filter(|t| t.state == TreeState::Here) {
            if let Some(other) = masters.insert((node.engine.epoch(), tree.name.clone()), *x) {
                let what = format!("{other} and {x} master {:?} in epoch {}", tree.name, node.engine.epoch());
                return Err(Violation { rule: "D2", what });
            }
        }
    }
    Ok(())
}

/// D2: at rest the directory names the master, and everybody who has locks goes to it.
pub(super) fn settled(nodes: &BTreeMap<NodeInstance, Node>, epoch: u64) -> Result<(), Violation> {
    let fail = |what: String| Err(Violation { rule: "D2", what });
    let mut masters = BTreeMap::new();
    for (x, node) in nodes {
        let snapshot = node.engine.snapshot();
        if !(snapshot.active && snapshot.recovered && snapshot.epoch == epoch) {
            return fail(format!("{x} is not recovered: {snapshot:?}, view {epoch}"));
        }
        for tree in node.engine.trees().filter(|t| t.state == TreeState::Here) {
            masters.insert(tree.name, *x);
        }
    }
    for (x, node) in nodes {
        for (name, master) in node.engine.directory() {
            if master != masters.remove(&name) {
                return fail(format!("{x} lists {master:?} for {name:?}"));
            }
        }
    }
    if let Some((name, x)) = masters.first_key_value() {
        return fail(format!("{x} masters {name:?}, which is not listed"));
    }
    Ok(())
}
