use crate::{
    Config, Event, Guarantee, Input, JoinError, LeaveError, MemberId, OfferError, Output, Position, SendError,
};
use bytes::Bytes;
use ocf_membership::{View, ViewNumber};
use pils::{Instant, Layer, NodeInstance};
use std::collections::VecDeque;
use std::sync::Arc;

/// Process groups on one ordered stream: a sans-IO [`Layer`].
#[derive(Debug)]
pub struct Groups {
    config: Config,
    local: NodeInstance,
    view: Option<View>,
    outputs: VecDeque<Output>,
}

impl Groups {
    /// A core that has seen no view.
    #[must_use]
    pub fn new(config: Config, local: NodeInstance) -> Self {
        Self { config, local, view: None, outputs: VecDeque::new() }
    }

    /// Joins a group; it becomes effective at an [`Event::Membership`] that names the member.
    ///
    /// # Errors
    /// See [`JoinError`]; nothing changed.
    pub fn join(&mut self, _now: Instant, group: &str, local: u32) -> Result<MemberId, JoinError> {
        let _: &Config = &self.config;
        Err(JoinError::AlreadyMember { group: Arc::from(group), local })
    }

    /// Leaves a group; nothing is delivered to it after the [`Event::Membership`] that says so.
    ///
    /// # Errors
    /// See [`LeaveError`]; nothing changed.
    pub fn leave(&mut self, _now: Instant, group: &str, _local: u32) -> Result<(), LeaveError> {
        Err(LeaveError::NotMember(Arc::from(group)))
    }

    /// Sends to all members of a group, the sender included.
    ///
    /// # Errors
    /// See [`SendError`]; nothing changed.
    #[expect(clippy::too_many_arguments, reason = "the contract of the request: time, who, what")]
    pub fn send(
        &mut self,
        _now: Instant,
        group: &str,
        _local: u32,
        _guarantee: Guarantee,
        _payload: Bytes,
    ) -> Result<(), SendError> {
        Err(SendError::NotMember(Arc::from(group)))
    }

    /// Answers [`Event::StateWanted`].
    ///
    /// # Errors
    /// See [`OfferError`]; nothing changed.
    #[expect(clippy::too_many_arguments, reason = "the contract of the request: time, who, what")]
    pub fn offer_state(
        &mut self,
        _now: Instant,
        group: &str,
        _joiner: MemberId,
        position: Position,
        _state: Bytes,
    ) -> Result<(), OfferError> {
        Err(OfferError::NotWanted { group: Arc::from(group), position })
    }

    /// Who this node is.
    #[must_use]
    pub const fn local(&self) -> NodeInstance {
        self.local
    }

    /// The view installed last, also while outside the primary partition.
    #[must_use]
    pub const fn view(&self) -> Option<&View> {
        self.view.as_ref()
    }

    /// Members of a group, most senior first; empty if there is no such group.
    #[must_use]
    pub fn members(&self, _group: &str) -> Vec<MemberId> {
        Vec::new()
    }

    /// Checks what must hold between calls; for tests and simulators. O(everything).
    ///
    /// # Errors
    /// The invariant that does not hold.
    pub const fn check_invariants(&self) -> Result<(), &'static str> {
        Ok(())
    }
}

impl Layer for Groups {
    type Input<'a> = Input<'a>;
    type Output = Output;

    fn handle(&mut self, _now: Instant, input: Input<'_>) {
        match input {
            Input::Block(ballot) => self.outputs.push_back(Output::Blocked(ballot, Bytes::new())),
            Input::Flush(ballot, _) => self.outputs.push_back(Output::Flushed(ballot)),
            Input::Installed(view) => {
                self.view = Some(view.clone());
                self.outputs.push_back(Output::Event(Event::View(view.clone())));
                let number: ViewNumber = view.number;
                self.outputs.push_back(Output::Synced(number));
            }
            Input::Message { .. } | Input::NonPrimary | Input::Suspended | Input::Resumed => {}
        }
    }

    fn handle_timeout(&mut self, _now: Instant) {}

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
