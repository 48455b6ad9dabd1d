//! Groups that go on in any partition: a second ordered stream beside that of the primary, over views of its own. Nothing that must
//! happen once in a cluster hears of it: locks, resources and fencing know the primary alone.

use super::carry::backlog;
use super::{Output, Stack};
use crate::event::{NodeEvent, PartitionEvent};
use bytes::Bytes;
use ocf_comm::{Channel, Lane};
use ocf_groups::{Event, Groups, SlowMembers};
use ocf_membership::partitionable::{
    PartitionConfig, PartitionInput, PartitionOutput, PartitionView, Partitionable,
};
use pils::{Instant, Layer as _, NodeInstance, Rng};
use std::collections::VecDeque;

/// The views of this node's partition, and the stream in them.
#[derive(Debug)]
pub(super) struct Partition {
    views: Partitionable,
    pub(super) groups: Groups,
    /// Views that the application was not told of yet.
    entering: VecDeque<PartitionView>,
}

impl Partition {
    pub(super) fn new(
        config: PartitionConfig,
        groups: ocf_groups::Config,
        local: NodeInstance,
        rng: Rng,
    ) -> Self {
        // Nobody is put out of a partition: who is slow slows it.
        let groups = ocf_groups::Config { partitions: true, slow: SlowMembers::Throttle, ..groups };
        let views = Partitionable::new(config, local, rng);
        Self { views, groups: Groups::new(groups, local), entering: VecDeque::new() }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.views.poll_timeout().into_iter().chain(self.groups.poll_timeout()).min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.views.handle_timeout(now);
        self.groups.handle_timeout(now);
    }

    /// A message on one of the two channels.
    pub(super) fn on_message(&mut self, now: Instant, from: NodeInstance, channel: Channel, message: &Bytes) {
        if channel == Channel::PARTITIONS {
            self.views.handle(now, PartitionInput::Message { from, message });
        } else {
            self.groups.handle(now, ocf_groups::Input::Message { from, message });
        }
    }

    /// One event of the stream. In place of a view: all that was agreed of it.
    fn told(&mut self, event: Event) -> PartitionEvent {
        if let Event::View(view) = &event {
            while let Some(entered) = self.entering.pop_front() {
                if entered.view.number == view.number {
                    return PartitionEvent::View(Box::new(entered));
                }
            }
        }
        PartitionEvent::Group(event)
    }
}

impl Stack {
    /// The view of this node's partition; `None` without [`StackConfig::partitions`](super::StackConfig::partitions).
    #[must_use]
    pub fn partition(&self) -> Option<&PartitionView> {
        self.partition.as_ref().map(|p| p.views.view())
    }

    /// The groups that go on in any partition, to look at.
    pub(crate) fn partition_table(&self) -> Option<&Groups> {
        self.partition.as_ref().map(|p| &p.groups)
    }

    /// The groups that go on in any partition, to ask something of them: to join, leave, send or offer a state. What happens in them comes as
    /// [`NodeEvent::Partition`]. `None` without [`StackConfig::partitions`](super::StackConfig::partitions).
    pub fn partition_groups(&mut self, now: Instant) -> Option<&mut Groups> {
        self.now = now;
        self.partition.as_mut().map(|p| &mut p.groups)
    }

    /// Puts a bug back.
    #[cfg(feature = "sim")]
    pub(crate) fn sabotage_partition(&mut self, bug: ocf_membership::partitionable::PartitionSabotage) {
        if let Some(partition) = &mut self.partition {
            partition.views.sabotage(bug);
        }
    }

    /// Something for the views of this node's partition, if it has such.
    pub(super) fn tell_partition(&mut self, now: Instant, input: PartitionInput<'_>) {
        if let Some(partition) = &mut self.partition {
            partition.views.handle(now, input);
        }
    }

    /// The primary view in which this node may act is another one, or none. One whose lease is in doubt is none: a minority is told
    /// late that it is outside, and is not to say in a view of its own that it is the primary.
    pub(super) fn primary_for_partition(&mut self, now: Instant, told: &ocf_membership::Output) {
        use ocf_membership::{Event as Of, Output};
        let acts = matches!(told, Output::Event(Of::Installed(_) | Of::Resumed));
        if !acts && !matches!(told, Output::Event(Of::Suspended | Of::NonPrimary(_))) {
            return;
        }
        let primary = self.view().filter(|_| acts).map(|view| view.number);
        self.tell_partition(now, PartitionInput::Primary(primary));
    }

    /// Passes on what the partition wants, until `most` outputs wait. True if there was anything.
    pub(super) fn settle_partition(&mut self, now: Instant, most: usize) -> bool {
        let mut busy = false;
        while let Some(output) = self.partition.as_mut().and_then(|p| p.views.poll_output()) {
            busy = true;
            self.on_partition_view(now, output);
        }
        while self.outputs.len() < most
            && let Some(output) = self.partition.as_mut().and_then(|p| p.groups.poll_output())
        {
            busy = true;
            self.on_partition_groups(now, output);
        }
        busy
    }

    fn on_partition_view(&mut self, now: Instant, output: PartitionOutput) {
        let Some(partition) = &mut self.partition else { return };
        match output {
            PartitionOutput::Send { to, lane, message } => {
                self.outbox.send(&mut self.endpoint, now, to, (lane, Channel::PARTITIONS, message));
            }
            PartitionOutput::Block { ballot } => {
                partition.groups.handle(now, ocf_groups::Input::Block(ballot));
            }
            PartitionOutput::Flush { ballot, proposal } => {
                partition.groups.handle(now, ocf_groups::Input::Flush(ballot, &proposal));
            }
            PartitionOutput::Installed(entered) => {
                let view = entered.view.clone();
                self.outbox.retain(Channel::PARTITION_GROUPS, |peer| view.contains(peer));
                partition.entering.push_back(entered);
                partition.groups.handle(now, ocf_groups::Input::Installed(&view));
            }
            other => tracing::debug!(?other, "output of partitions without a taker"),
        }
    }

    fn on_partition_groups(&mut self, now: Instant, output: ocf_groups::Output) {
        use ocf_groups::Output as From;
        let Some(partition) = &mut self.partition else { return };
        match output {
            From::Send { to, lane, message } => {
                for peer in to.iter() {
                    let parcel = (lane, Channel::PARTITION_GROUPS, message.clone());
                    self.outbox.send(&mut self.endpoint, now, *peer, parcel);
                }
                if lane == Lane::Small {
                    partition.groups.note_backlog(now, backlog(&self.endpoint, to.iter().copied()));
                }
            }
            From::Blocked(ballot, state) => {
                partition.views.handle(now, PartitionInput::Blocked { ballot, state });
            }
            From::Flushed(ballot) => partition.views.handle(now, PartitionInput::Flushed { ballot }),
            From::Event(event) => {
                let told = partition.told(event);
                self.outputs.push_back(Output::Event(NodeEvent::Partition(told)));
            }
            // A partition has nobody to remember for, and its groups never ask to put a member out.
            From::Synced(_) | From::Evict { .. } => {}
            other => tracing::debug!(?other, "output of groups of a partition without a taker"),
        }
    }
}
