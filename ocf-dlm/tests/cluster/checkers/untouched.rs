use super::Book;
use ocf_dlm::Mode;
use ocf_dlm::cluster::{Engine, TreeSnapshot, TreeState};
use pils::NodeInstance;

/// D10: a master that is in the view goes on serving its trees, whatever is recovered beside.
pub(super) fn probed(book: &mut Book, at: NodeInstance, held: Option<Mode>) {
    if held != Some(Mode::Nl) {
        book.fail("D10", format!("{at} masters a tree and did not grant NL in it at once"));
    }
}

/// D10: a view changes the way to a tree only if the tree's master is gone.
pub(super) fn view(
    book: &mut Book,
    at: NodeInstance,
    before: &[TreeSnapshot],
    engine: &Engine,
    stays: impl Fn(NodeInstance) -> bool,
) {
    for tree in before {
        let keeps = match tree.state {
            TreeState::Here => true,
            TreeState::At(master) => stays(master) && tree.locks > 0,
            TreeState::Looking | TreeState::Moving | TreeState::Recovering => false,
        };
        if !keeps {
            continue;
        }
        *book.coverage.entry("tree untouched").or_default() += 1;
        let now = engine.trees().find(|t| t.name == tree.name).map(|t| t.state);
        let same = now == Some(tree.state) || (tree.locks == 0 && now.is_none());
        if !same {
            book.fail("D10", format!("{at}: {tree:?} is {now:?} after a view that keeps its master"));
        }
    }
}
