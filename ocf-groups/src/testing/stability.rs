//! V9: a message is freed only when every member of its view holds it.

use super::Violation;
use crate::Groups;
use ocf_membership::ViewNumber;
use pils::NodeInstance;

/// How much of the order of its view a member holds, and how much it freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Who.
    pub instance: NodeInstance,
    /// Its view.
    pub view: ViewNumber,
    /// Places held without gap.
    pub held: u64,
    /// Places freed.
    pub freed: u64,
}

impl Held {
    /// Of a living core.
    #[must_use]
    pub fn of(core: &Groups) -> Self {
        let (held, freed) = core.held_and_freed();
        Self { instance: core.local(), view: core.position().view, held, freed }
    }
}

/// Judges one moment of a run: all living cores.
///
/// # Errors
/// A member freed what another, in the same view, does not hold.
pub fn buffers_are_freed_only_when_all_hold(cores: &[Held]) -> Result<(), Violation> {
    for a in cores {
        if let Some(b) = cores.iter().find(|b| b.view == a.view && b.held < a.freed) {
            let what = format!("{} freed {} places, {} holds {}", a.instance, a.freed, b.instance, b.held);
            return Err(Violation::new("V9", what));
        }
    }
    Ok(())
}
