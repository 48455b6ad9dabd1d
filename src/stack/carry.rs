//! Who is told what: the wiring between the layers.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the enums of the layers are open-ended: what has no taker yet is traced, or passed on to the application"
)]

use super::{MANAGER_GROUP, Output, PROGRAM_MEMBERS, Stack};
use crate::event::NodeEvent;
use ocf_comm::{Channel, Endpoint, Lane};
use ocf_groups::Guarantee;
use ocf_membership::View;
use ocf_membership::partitionable::PartitionInput;
use ocf_resource::{Departed, FenceOutcome, executor};
use ocf_stonith::{Authority, Cause, FenceRequest, Outcome, Withdrawal};
use pils::{Instant, Layer as _, NodeInstance};
use std::sync::Arc;

/// Rounds of passing things between layers before giving up. Each round does all that waits, so that a handful is
/// enough; more means that two layers keep each other busy, which is a bug.
const ROUNDS_MAX: usize = 1000;

/// Outputs that may wait before they must be carried out.
const OUTPUTS_MAX: usize = 1024;

/// To whom most batches wait to be sent for the first time, and how many bytes.
pub(super) fn backlog(
    endpoint: &Endpoint,
    peers: impl Iterator<Item = NodeInstance>,
) -> Option<(NodeInstance, usize)> {
    let backlogs = peers.filter_map(|peer| Some((peer, endpoint.backlog(peer, Lane::Small)?)));
    backlogs.max_by_key(|(_, bytes)| *bytes)
}

impl Stack {
    /// Passes things between the layers until nothing is left to pass, or much waits to be carried out first.
    pub(super) fn settle(&mut self, now: Instant) {
        self.settle_within(now, OUTPUTS_MAX);
    }

    /// Passes things between the layers until nothing is left to pass, or `most` outputs wait. What belongs before a view that
    /// is installed passes in one piece with it: the manager would decide on the one, and fence, before the other is told.
    pub(super) fn settle_within(&mut self, now: Instant, most: usize) {
        for _ in 0..ROUNDS_MAX {
            let mut busy = false;
            while let Some(event) = self.endpoint.poll_event() {
                busy = true;
                self.on_endpoint(now, event);
            }
            while let Some(output) = self.consensus.poll_output() {
                busy = true;
                self.on_consensus(now, output);
            }
            busy |= self.settle_partition(now, most);
            busy |= self.broadcast(now);
            self.residents.drive(now, &mut self.groups);
            while (self.outputs.len() < most || self.entering)
                && let Some(output) = self.groups.poll_output()
            {
                busy = true;
                self.on_groups(now, output);
            }
            while let Some(output) = self.manager.poll_output() {
                busy = true;
                self.on_manager(now, output);
            }
            while let Some(output) = self.executor.poll_output() {
                busy = true;
                self.on_executor(now, output);
            }
            while let Some(output) = self.fencer.poll_output() {
                busy = true;
                self.on_fencer(now, output);
            }
            self.drain_calls();
            busy |= self.settle_locks(now);
            // What waits is carried out first: a stream of messages passes in pieces that the cache holds.
            if !busy || self.outputs.len() >= most {
                return;
            }
        }
        panic!("the layers of {} do not come to rest", self.local);
    }

    /// Tells every layer what membership says now. A lease that ends in the same moment in which a layer would act takes effect
    /// first: what that layer has put out is not taken back.
    pub(super) fn obey_membership(&mut self, now: Instant) {
        while let Some(output) = self.consensus.poll_output() {
            self.on_consensus(now, output);
        }
    }

    pub(super) fn on_endpoint(&mut self, now: Instant, event: ocf_comm::Event) {
        use ocf_comm::{Event, PathReason, PathState};
        let Some(event) = self.on_calls(now, event) else { return };
        match event {
            Event::Up { peer } => {
                self.outbox.flush(&mut self.endpoint, now, peer);
                self.tell_partition(now, PartitionInput::Up(peer));
                self.consensus.handle(now, ocf_membership::Input::Up(peer));
                self.emit(NodeEvent::PeerUp(peer));
            }
            Event::Down { peer, reason } => {
                if reason.is_final() {
                    self.outbox.forget(peer);
                }
                self.tell_partition(now, PartitionInput::Down(peer));
                self.consensus.handle(now, ocf_membership::Input::Down(peer, reason));
                self.emit(NodeEvent::PeerDown { peer, reason });
            }
            Event::Message { from, lane, channel, message } => {
                let bytes = message.len();
                match channel {
                    Channel::MEMBERSHIP => {
                        let input = ocf_membership::Input::Message { from, message: &message };
                        self.consensus.handle(now, input);
                    }
                    Channel::GROUPS => {
                        self.groups.handle(now, ocf_groups::Input::Message { from, message: &message });
                    }
                    Channel::LOCKS => {
                        self.tell_locks(now, ocf_dlm::cluster::Input::Message { from, message: &message });
                    }
                    Channel::PARTITIONS | Channel::PARTITION_GROUPS => {
                        if let Some(partition) = &mut self.partition {
                            partition.on_message(now, from, channel, &message);
                        }
                    }
                    Channel::APPLICATION => self.emit(NodeEvent::Direct { from, lane, message }),
                    Channel(other) => tracing::debug!(%from, other, "message on an unknown channel dropped"),
                }
                self.endpoint.consumed(now, from, lane, bytes);
            }
            Event::Writable { peer, .. } => self.outbox.flush(&mut self.endpoint, now, peer),
            Event::Stalled { late } => self.emit(NodeEvent::Stalled { late }),
            Event::Refused { peer, address, reason } => {
                self.emit(NodeEvent::Refused { peer, address, reason });
            }
            Event::Renewed { peer, key } => self.emit(NodeEvent::Renewed { peer, key }),
            Event::Misbehaved { peer, rule } => self.emit(NodeEvent::Misbehaved { peer, rule }),
            Event::PathUp { peer, path, address } => {
                let (state, reason) = (PathState::Up, PathReason::Answered);
                self.emit(NodeEvent::Path { peer, path, address, state, reason });
            }
            Event::PathDoubtful { peer, path, address, reason } => {
                let state = PathState::Doubtful;
                self.emit(NodeEvent::Path { peer, path, address, state, reason });
            }
            Event::PathDown { peer, path, address, reason } => {
                self.emit(NodeEvent::Path { peer, path, address, state: PathState::Down, reason });
            }
            other => tracing::debug!(?other, "event of node communication without a taker"),
        }
    }

    fn on_consensus(&mut self, now: Instant, output: ocf_membership::Output) {
        use ocf_membership::{Event, Output as From};
        self.primary_for_partition(now, &output);
        match output {
            From::Send { to, lane, message } => {
                self.outbox.send(&mut self.endpoint, now, to, (lane, Channel::MEMBERSHIP, message));
            }
            From::Persist { token, record } => self.outputs.push_back(Output::Persist { token, record }),
            From::Block { ballot } => self.groups.handle(now, ocf_groups::Input::Block(ballot)),
            From::Flush { ballot, proposal } => {
                self.groups.handle(now, ocf_groups::Input::Flush(ballot, &proposal));
            }
            From::Event(Event::Installed(view)) => {
                self.outbox.retain(Channel::GROUPS, |peer| view.contains(peer));
                self.entering = true;
                self.may_fence(now);
                self.retry_access(now);
                self.groups.handle(now, ocf_groups::Input::Installed(&view));
                self.view_for_locks(now, &view);
            }
            From::Event(Event::NonPrimary(situation)) => {
                self.fencer.set_authority(now, Authority::Absent);
                self.drop_access();
                self.lose_locks(now, situation.dormant);
                self.groups.handle(now, ocf_groups::Input::NonPrimary);
                self.manager.handle(now, ocf_resource::Input::NonPrimary);
                (self.told_primary, self.entering) = (false, false);
                self.emit(NodeEvent::NonPrimary(situation));
            }
            From::Event(Event::Suspended) => {
                self.fencer.set_authority(now, Authority::Suspended);
                self.tell_locks(now, ocf_dlm::cluster::Input::Suspended);
                self.groups.handle(now, ocf_groups::Input::Suspended);
                self.manager.handle(now, ocf_resource::Input::Suspended);
                // Who was told to be outside is told of a view once its lease is confirmed, and of no lease before.
                if self.told_primary {
                    self.emit(NodeEvent::Suspended);
                }
            }
            From::Event(Event::Resumed) => {
                self.may_fence(now);
                self.tell_locks(now, ocf_dlm::cluster::Input::Resumed);
                self.fence_for_locks(now);
                self.retry_access(now);
                self.groups.handle(now, ocf_groups::Input::Resumed);
                self.manager.handle(now, ocf_resource::Input::Resumed);
                if self.told_primary {
                    self.emit(NodeEvent::Resumed);
                }
            }
            From::AskTie(claim) => self.on_claim(now, claim),
            From::WithdrawTie(_) => self.withdraw_claim(now),
            From::Peers { peers, removed } => self.on_peers(now, &peers, &removed),
            From::NoteTie(view) => self.outputs.push_back(Output::NoteTie(view)),
            From::Event(Event::TieWon { evidence, reason, .. }) => {
                self.emit(NodeEvent::TieWon { evidence, reason });
            }
            From::Event(Event::Merged { ours, primary, kept }) => {
                self.emit(NodeEvent::Merged { ours, primary, kept });
            }
            From::Event(Event::VotesChanged { revision, votes, quorum }) => {
                self.emit(NodeEvent::VotesChanged { revision, votes, quorum });
            }
            From::Event(Event::Incompatible { peer, level, ours, theirs }) => {
                self.emit(NodeEvent::Incompatible { peer, level, ours, theirs });
            }
            From::Event(Event::Removed { revision, nodes }) => {
                self.emit(NodeEvent::Removed { revision, nodes });
            }
            From::Event(Event::VotesNotChanged { votes }) => self.emit(NodeEvent::VotesNotChanged { votes }),
            other => tracing::debug!(?other, "output of membership without a taker"),
        }
    }

    /// True if own messages waited for what was sent now, and go on.
    pub(super) fn goes_on(&mut self) -> bool {
        let Self { groups, partition, endpoint, now, local, .. } = self;
        let partitions = partition.as_mut().map(|partition| &mut partition.groups);
        let mut any = false;
        for groups in core::iter::once(groups).chain(partitions).filter(|groups| groups.is_crowded()) {
            let peers =
                groups.view().into_iter().flat_map(|view| &view.members).map(|member| member.instance);
            groups.note_backlog(*now, backlog(endpoint, peers.filter(|peer| peer != local)));
            any |= !groups.is_crowded();
        }
        any
    }

    fn on_groups(&mut self, now: Instant, output: ocf_groups::Output) {
        use ocf_groups::Output as From;
        match output {
            From::Send { to, lane, message } => {
                for peer in to.iter() {
                    let parcel = (lane, Channel::GROUPS, message.clone());
                    self.outbox.send(&mut self.endpoint, now, *peer, parcel);
                }
                if lane == Lane::Small {
                    self.groups.note_backlog(now, backlog(&self.endpoint, to.iter().copied()));
                }
            }
            From::Blocked(ballot, state) => {
                self.consensus.handle(now, ocf_membership::Input::Blocked { ballot, state });
            }
            From::Flushed(ballot) => {
                self.consensus.handle(now, ocf_membership::Input::Flushed { ballot });
            }
            From::Evict { instance, lag } => {
                if self.consensus.evict(now, instance, lag) {
                    tracing::warn!(%instance, %lag, "asks to evict a member that it waits for");
                }
            }
            From::Synced(view) => self.consensus.handle(now, ocf_membership::Input::Synced(view)),
            From::Event(event) => self.ordered(now, event),
            other => tracing::debug!(?other, "output of groups without a taker"),
        }
    }

    /// One event of the ordered stream: for the manager, the application, or both.
    fn ordered(&mut self, now: Instant, event: ocf_groups::Event) {
        use ocf_groups::Event;
        match event {
            Event::View(view) => {
                if view.joiners().any(|m| m.instance == self.local) {
                    self.broadcasts.clear();
                    self.wanted.clear();
                }
                self.view_for_manager(now, &view);
                (self.told_primary, self.entering, self.was_member) = (true, false, true);
                self.weigh_all();
                let view = Event::View(view);
                let _everybody: bool = self.residents.take(now, &view);
                self.emit(NodeEvent::Group(view));
            }
            Event::Message { group, sender, payload, .. } if *group == *MANAGER_GROUP => {
                let input = ocf_resource::Input::Ordered { sender: sender.instance, payload: &payload };
                self.manager.handle(now, input);
            }
            Event::StateWanted { group, joiner, position } if *group == *MANAGER_GROUP => {
                self.wanted_last += 1;
                let token = self.wanted_last;
                self.wanted.insert(token, (joiner, position));
                self.manager.handle(now, ocf_resource::Input::StateWanted { token });
            }
            Event::State { group, state, .. } if *group == *MANAGER_GROUP => {
                self.manager.handle(now, ocf_resource::Input::State(&state));
            }
            Event::Membership { ref group, ref members, .. } if **group == *MANAGER_GROUP => {
                if let [only] = members.as_slice()
                    && only.instance == self.local
                {
                    self.manager.handle(now, ocf_resource::Input::First);
                }
            }
            Event::StateLost { ref group, .. } if **group == *MANAGER_GROUP => {
                self.manager.handle(now, ocf_resource::Input::StateLost);
            }
            Event::Reset { ref group, .. } if **group == *MANAGER_GROUP => {}
            other => {
                if !self.residents.take(now, &other) {
                    self.name_donor(&other);
                    self.emit(NodeEvent::Group(other));
                }
            }
        }
    }

    /// Says who is to give a state, if it is a member of a program.
    fn name_donor(&mut self, event: &ocf_groups::Event) {
        if let ocf_groups::Event::StateWanted { group, joiner, position } = event
            && let Some(donor) = self.groups.donor(group, *joiner, *position)
            && donor.local >= PROGRAM_MEMBERS
        {
            self.outputs.push_back(Output::Donor(donor));
        }
    }

    fn view_for_manager(&mut self, now: Instant, view: &View) {
        let members: Vec<NodeInstance> = view.members.iter().map(|m| m.instance).collect();
        let joined: Vec<NodeInstance> = view.joiners().map(|m| m.instance).collect();
        let departed: Vec<Departed> = view
            .departed()
            .map(|member| {
                let cause = view.causes.iter().find(|c| c.instance == member.instance);
                Departed {
                    instance: member.instance,
                    proof_of_death: cause.is_some_and(|c| c.reason.is_proof_of_death()),
                    why: cause.map_or_else(|| Arc::from("unknown"), |c| Arc::from(c.reason.to_string())),
                }
            })
            .collect();
        self.manager.handle(
            now,
            ocf_resource::Input::View {
                number: view.number.0,
                members: &members,
                joined: &joined,
                departed: &departed,
            },
        );
    }

    /// Hands the manager's messages to the groups core, as far as it takes them.
    fn broadcast(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(message) = self.broadcasts.front() {
            if self.groups.send(now, MANAGER_GROUP, 0, Guarantee::Safe, message.clone()).is_err() {
                // Not joined yet, or the window is full: tried again when something moves.
                break;
            }
            self.broadcasts.pop_front();
            any = true;
        }
        any
    }

    fn on_manager(&mut self, now: Instant, output: ocf_resource::Output) {
        use ocf_resource::Output as From;
        match output {
            From::Broadcast(message) => self.broadcasts.push_back(message),
            From::Execute(request) => self.executor.handle(now, executor::Input::Request(request)),
            From::Fence { target, cause } => {
                let cause = match cause {
                    ocf_resource::FenceCause::StopFailed { resource, .. } => Cause::StopFailed { resource },
                    lost => Cause::Lost { why: Arc::from(lost.to_string()) },
                };
                let request = FenceRequest { target, action: self.fence_action, cause };
                if let Err(error) = self.fence(now, request) {
                    let detail = error.to_string();
                    let outcome = FenceOutcome::Unknown;
                    self.manager
                        .handle(now, ocf_resource::Input::Fenced { target, outcome, detail: &detail });
                }
            }
            From::WithdrawFence { target } => {
                if self.locks_wait_for(target) {
                    tracing::debug!(%target, "locks wait for its fencing");
                } else if self.fencer.withdraw(now, target, Withdrawal::NotNeeded).is_err() {
                    tracing::debug!(%target, "no fence request to withdraw");
                }
            }
            From::GiveAccess => self.give_access(now),
            From::Keep(kept) => self.outputs.push_back(Output::Keep(kept)),
            From::OfferState { token, state } => {
                if let Some((joiner, position)) = self.wanted.remove(&token)
                    && let Err(error) =
                        self.groups.offer_state(now, &Self::manager_group(), joiner, position, state)
                {
                    tracing::debug!(%error, "state is no longer wanted");
                }
            }
            From::Event(event) => {
                self.weigh(&event);
                self.emit(NodeEvent::Resource(event));
            }
            other => tracing::debug!(?other, "output of the manager without a taker"),
        }
    }

    fn on_executor(&mut self, now: Instant, output: executor::Output) {
        use executor::Output as From;
        match output {
            From::Run { run, operation } => self.outputs.push_back(Output::Operate { run, operation }),
            From::Cancel { run } => self.outputs.push_back(Output::CancelOperation(run)),
            From::Event(event) => self.manager.handle(now, ocf_resource::Input::Executor(event)),
            other => tracing::debug!(?other, "output of the executor without a taker"),
        }
    }

    fn on_fencer(&mut self, now: Instant, output: ocf_stonith::Output) {
        use ocf_stonith::{Event, Output as From};
        match output {
            From::Run(run) => self.outputs.push_back(Output::Fence(run)),
            From::Cancel { attempt } => self.outputs.push_back(Output::CancelFence(attempt)),
            From::Event(event) => {
                let told = match &event {
                    Event::Finished { target, outcome } | Event::Unresolved { target, outcome, .. } => {
                        Some((*target, known(outcome), outcome.to_string()))
                    }
                    _ => None,
                };
                if let Some((target, outcome, detail)) = told {
                    if outcome == FenceOutcome::Confirmed {
                        let proof = ocf_dlm::wire::Proof::Fenced;
                        self.tell_locks(now, ocf_dlm::cluster::Input::Proven { instance: target, proof });
                        self.duel_won(now, target);
                    }
                    self.manager
                        .handle(now, ocf_resource::Input::Fenced { target, outcome, detail: &detail });
                }
                self.on_access(now, &event);
                self.emit(NodeEvent::Fencing(event));
            }
            other => tracing::debug!(?other, "output of fencing without a taker"),
        }
    }
}

const fn known(outcome: &Outcome) -> FenceOutcome {
    match outcome {
        Outcome::Confirmed { .. } => FenceOutcome::Confirmed,
        Outcome::Requested { .. } => FenceOutcome::Requested,
        Outcome::Unknown { .. } => FenceOutcome::Unknown,
    }
}
