//! V6: a view is a barrier: what is delivered after it belongs to it. Views come in order.

use super::{History, Violation};
use crate::{Event, Position};
use ocf_membership::ViewNumber;

pub(super) fn check(history: &History) -> Result<(), Violation> {
    for (instance, log) in &history.logs {
        let mut current = ViewNumber::default();
        for event in log.events() {
            let position: Position = match event {
                Event::View(view) => {
                    if view.number <= current || !view.contains(*instance) {
                        let what = format!("{instance} enters {} after {current}", view.number);
                        return Err(Violation::new("V6", what));
                    }
                    current = view.number;
                    continue;
                }
                Event::Message { position, .. }
                | Event::Membership { position, .. }
                | Event::StateWanted { position, .. }
                | Event::State { position, .. }
                | Event::StateLost { position, .. } => *position,
                Event::Fifo { view, number, .. } => Position { view: *view, sequence: *number },
                Event::Reset { .. } | Event::Refused { .. } | Event::Evicted { .. } | Event::Writable => {
                    continue;
                }
            };
            if position.view != current {
                return Err(Violation::new("V6", format!("{instance} gets {position} in {current}")));
            }
        }
    }
    Ok(())
}
