//! What services on a group repeat: commands with a layout, replies that are a number or a refusal, a state that is
//! written and read. A service implements [`Service`] and is a [`Machine`] by the macro `service!`.

use super::{Context, Machine};
use crate::MemberId;
use bytes::Bytes;
use core::time::Duration;
use pils::wire::{ParseError, Reader, Writer};

/// A value with a layout.
pub(crate) trait Layout: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(r: &mut Reader<'_>) -> Result<Self, ParseError>;

    fn write(&self) -> Bytes {
        let mut out = Vec::new();
        self.put(&mut out);
        Bytes::from(out)
    }

    /// The bytes must be this value and nothing else.
    fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let mut r = Reader::new(bytes);
        let value = Self::take(&mut r)?;
        r.finish("value")?;
        Ok(value)
    }
}

/// A machine whose commands have a layout and whose replies are a number or a refusal.
pub(crate) trait Service: Machine + Default {
    type Command: Layout;
    type Refusal: Copy + PartialEq + 'static;
    /// By their numbers in a reply, from 1. The first says that the bytes are no command.
    const REFUSALS: &'static [Self::Refusal];

    /// On `Err` nothing has changed.
    fn carry_out(
        &mut self,
        context: &Context<'_>,
        sender: MemberId,
        command: Self::Command,
        events: &mut Vec<Self::Event>,
    ) -> Result<u64, Self::Refusal>;

    fn members_left(&mut self, context: &Context<'_>, left: &[MemberId], events: &mut Vec<Self::Event>);

    fn time_passed(&mut self, _context: &Context<'_>, _events: &mut Vec<Self::Event>) {}

    fn next_due(&self) -> Option<Duration> {
        None
    }

    fn put_state(&self, out: &mut Vec<u8>);

    fn take_state(r: &mut Reader<'_>) -> Result<Self, ParseError>;

    /// Becomes `state`, but for what is no part of a state: a bug put back.
    fn become_state(&mut self, state: Self);
}

/// The reply to a command that may be none.
pub(crate) fn reply<S: Service>(
    service: &mut S,
    context: &Context<'_>,
    sender: MemberId,
    command: &[u8],
    events: &mut Vec<S::Event>,
) -> Vec<u8> {
    let result = match S::Command::parse(command) {
        Ok(command) => service.carry_out(context, sender, command, events),
        Err(_) => Err(S::REFUSALS[0]),
    };
    let mut out = Vec::new();
    match result {
        Ok(number) => {
            out.push(0);
            out.put_varint(number);
        }
        Err(refusal) => {
            let place = S::REFUSALS.iter().position(|r| *r == refusal).unwrap_or(0);
            out.push(u8::try_from(place + 1).unwrap_or(1));
        }
    }
    out
}

/// Reads what [`reply`] wrote.
pub(crate) fn answer<S: Service>(reply: &[u8]) -> Result<u64, S::Refusal> {
    let malformed = S::REFUSALS[0];
    let mut r = Reader::new(reply);
    match r.u8("reply") {
        Ok(0) => r.varint("number").map_err(|_truncated| malformed),
        Ok(n) => Err(S::REFUSALS.get(usize::from(n) - 1).copied().unwrap_or(malformed)),
        Err(_) => Err(malformed),
    }
}

/// Makes a [`Service`] a [`Machine`] that tells `$event`.
macro_rules! service {
    ($service:ty, $event:ty) => {
        impl $crate::replicated::Machine for $service {
            type Event = $event;

            fn reset(&mut self) {
                $crate::replicated::service::Service::become_state(self, Self::default());
            }

            fn on_command(
                &mut self,
                context: &$crate::replicated::Context<'_>,
                sender: $crate::MemberId,
                command: &[u8],
                events: &mut Vec<Self::Event>,
            ) -> Vec<u8> {
                $crate::replicated::service::reply(self, context, sender, command, events)
            }

            fn on_members(
                &mut self,
                context: &$crate::replicated::Context<'_>,
                _joined: &[$crate::MemberId],
                left: &[$crate::MemberId],
                events: &mut Vec<Self::Event>,
            ) {
                $crate::replicated::service::Service::members_left(self, context, left, events);
            }

            fn on_time(&mut self, context: &$crate::replicated::Context<'_>, events: &mut Vec<Self::Event>) {
                $crate::replicated::service::Service::time_passed(self, context, events);
            }

            fn due(&self) -> Option<core::time::Duration> {
                $crate::replicated::service::Service::next_due(self)
            }

            fn snapshot(&self, out: &mut Vec<u8>) {
                $crate::replicated::service::Service::put_state(self, out);
            }

            fn restore(
                &mut self,
                snapshot: &mut pils::wire::Reader<'_>,
            ) -> Result<(), pils::wire::ParseError> {
                let state = $crate::replicated::service::Service::take_state(snapshot)?;
                $crate::replicated::service::Service::become_state(self, state);
                Ok(())
            }
        }
    };
}
pub(crate) use service;

#[cfg(test)]
pub(crate) mod testing;
