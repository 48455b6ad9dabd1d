//! Which members have the access that they need.

use super::{Access, Node, State};
use crate::{Decision, Event};
use pils::NodeInstance;
use std::sync::Arc;

impl State {
    /// A member of which nothing is known. If this very life was fenced, it is over, whatever it says.
    pub(super) fn admit(&mut self, member: NodeInstance, events: &mut Vec<Event>) {
        self.over.retain(|i| i.node != member.node || *i == member);
        let dead = self.over.contains(&member);
        if dead {
            events.push(Event::LifeIsOver { node: member });
        }
        let before = self.nodes.insert(member, Node { member: true, dead, ..Node::default() });
        if let Some(mut before) = before {
            self.overtake(member.node, before.drop_steps());
        }
    }

    /// True if this member has to be given its access first.
    pub(crate) fn lacks_access(&self, member: NodeInstance) -> bool {
        self.config.as_ref().is_some_and(|config| config.access.has(member.node))
            && self.nodes.get(&member).is_some_and(|node| node.access != Access::Has)
    }

    /// From now on access is being given to this member.
    pub(super) fn ask_access(&mut self, member: NodeInstance) {
        self.decisions += 1;
        let decision = Decision { view: self.view, number: self.decisions };
        if let Some(node) = self.nodes.get_mut(&member) {
            node.access = Access::Asked { decision, last: None };
        }
    }

    /// What came of it. Returns false if that was not asked.
    pub(super) fn on_access(
        &mut self,
        sender: NodeInstance,
        answered: Decision,
        why: Option<Arc<str>>,
        events: &mut Vec<Event>,
    ) -> bool {
        let Some(node) = self.nodes.get_mut(&sender).filter(|n| !n.dead) else { return false };
        let Access::Asked { decision, last } = &mut node.access else { return false };
        if *decision != answered {
            return false;
        }
        match why {
            None => {
                node.access = Access::Has;
                events.push(Event::AccessGiven { node: sender });
            }
            Some(why) => {
                *last = Some(Arc::clone(&why));
                events.push(Event::AccessRefused { node: sender, why });
            }
        }
        true
    }
}
