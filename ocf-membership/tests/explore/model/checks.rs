//! What is promised, judged in every state.

use super::{Counts, State};
use ocf_membership::{Event, Input, NodeVotes, Snapshot, View, ViewNumber};
use pils::{Layer as _, NodeId, NodeInstance};
use std::rc::Rc;

impl State {
    pub(crate) fn tell(&mut self, i: usize, event: Event) {
        let now = self.now;
        let node = Rc::make_mut(&mut self.nodes[i]);
        match event {
            Event::Installed(view) => {
                node.active = Some(view.number);
                if let Some(core) = &mut node.core {
                    core.handle(now, Input::Synced(view.number));
                }
                let (local, last) = (node.local, core::mem::replace(&mut node.last, view.number));
                if last >= view.number {
                    self.fail(format!("M2: {local} installs {} after {last}", view.number));
                }
                self.counted(i, &view);
                self.installed(local, view);
            }
            Event::NonPrimary(_) | Event::Suspended => node.active = None,
            Event::Resumed => {
                node.active = node.core.as_ref().and_then(|core| core.view()).map(|view| view.number);
            }
            _ => {}
        }
    }

    fn fail(&mut self, text: String) {
        self.broken.get_or_insert(text);
    }

    fn installed(&mut self, local: NodeInstance, view: View) {
        if !view.contains(local) {
            self.fail(format!("M3: {local} installs {} without itself", view.number));
        }
        match self.views.get(&view.number) {
            Some(other) if **other != view => {
                self.fail(format!("M1: two views {}: {other:?} and {view:?}", view.number));
            }
            Some(_) => {}
            None => {
                self.remembers(&view);
                self.views.insert(view.number, Rc::new(view));
            }
        }
    }

    /// Votes change only by a view that quorums of both have accepted, and a change is never undone by none. Judged where a view is
    /// installed first: all who accepted it in that ballot have it on their disks.
    fn counted(&mut self, i: usize, view: &View) {
        let Some(core) = self.nodes[i].core.as_ref().filter(|_| !self.counts.contains_key(&view.number))
        else {
            return;
        };
        let Snapshot { votes, quorum, votes_revision: revision, .. } = core.snapshot();
        let mut written = Vec::new();
        view.write(&mut written);
        let accepted = |n: &&NodeVotes| {
            let disk = self.nodes.iter().find(|x| x.local.node == n.node).and_then(|x| x.disk.as_ref());
            disk.is_some_and(|disk| disk.windows(written.len()).any(|part| part == written))
        };
        if let Some((number, former)) = self.counts.range(..view.number).next_back() {
            let sum: u32 = former.votes.iter().filter(accepted).map(|n| n.votes).sum();
            let text =
                format!("{number} of revision {} is followed by {view:?} of {revision}", former.revision);
            if revision < former.revision {
                self.fail(format!("Q3: {text}"));
            } else if revision > former.revision && sum < former.quorum {
                self.fail(format!("Q3: {text}, accepted by {sum} of {}", former.quorum));
            }
        }
        self.counts.insert(view.number, Rc::new(Counts { revision, votes, quorum }));
    }

    /// Somebody of every quorum of the view before goes on into this one, or a quorum of its nodes, or all of them, began anew.
    fn remembers(&mut self, view: &View) {
        let before = view.number.0.checked_sub(1).and_then(|n| self.views.get(&ViewNumber(n)));
        let Some(former) = before.cloned() else { return };
        let continues =
            |x: NodeInstance| view.members.iter().any(|m| m.instance == x && m.joined < view.number);
        let here = |node: NodeId| view.members.iter().any(|m| m.instance.node == node);
        let sum = |keep: &dyn Fn(NodeInstance) -> bool| -> u32 {
            former.members.iter().filter(|m| keep(m.instance)).map(|m| m.votes).sum()
        };
        let (all, remember) = (sum(&|_| true), sum(&continues));
        let forgot = sum(&|x| here(x.node) && !continues(x));
        let everybody = former.members.iter().all(|m| here(m.instance.node));
        if remember + former.quorum <= all && forgot < former.quorum && !everybody {
            self.fail(format!("Q2: {former:?} is followed by {view:?}"));
        }
    }

    /// Nobody acts in a view while somebody acts in a later one without it.
    pub(crate) fn judge(&mut self) {
        let acts = |i: usize| {
            let node = &self.nodes[i];
            node.active.filter(|_| !self.paused[i] && node.core.is_some()).map(|number| (node.local, number))
        };
        let acting: Vec<(NodeInstance, ViewNumber)> = (0..self.nodes.len()).filter_map(acts).collect();
        for (local, number) in &acting {
            let later = acting.iter().find(|(_, newer)| {
                newer > number && self.views.get(newer).is_some_and(|view| !view.contains(*local))
            });
            if let Some((other, newer)) = later.copied() {
                self.fail(format!("Q1: {local} acts in {number} while {other} acts in {newer} without it"));
                return;
            }
        }
    }
}
