//! Machines of groups that live in a node.

use super::{Node, RequestError};
use crate::services::{Closing, Resident, Seat, Service, ServiceError};
use ocf_groups::JoinError;
use ocf_groups::replicated::{Config, Machine, Replicated};
use parking_lot::Mutex;
use pils::Instant;
use std::sync::{Arc, Weak};

/// Whom to tell that the node has stopped.
#[derive(Default)]
pub(super) struct Seats(Mutex<Vec<Weak<dyn Closing>>>);

impl Seats {
    fn add(&self, seat: Weak<dyn Closing>) {
        let mut seats = self.0.lock();
        seats.retain(|seat| seat.strong_count() > 0);
        seats.push(seat);
    }

    pub(super) fn close(&self, why: &ocf_comm::driver::Stopped) {
        let seats = core::mem::take(&mut *self.0.lock());
        seats.iter().filter_map(Weak::upgrade).for_each(|seat| seat.close(why));
    }
}

impl Node {
    /// Runs a machine as a member of the group that `config` names: the same one at every node that takes part. What happens in
    /// that group goes to the machine, and is no event of this node any more. See [`Service`].
    ///
    /// # Errors
    /// [`JoinError`], among others if that member of this node is in that group, or programs beside the node are
    /// ([`JoinError::HasPrograms`]); or the node has stopped.
    pub fn service<M>(&self, config: Config, machine: M) -> Result<Service<M>, ServiceError>
    where
        M: Machine<Event: Send + 'static> + Send + 'static,
    {
        let (group, local) = (Arc::clone(&config.group), config.local);
        let seat = Arc::new(Seat::new(Replicated::new(config, self.local(), machine)));
        let closing: Arc<dyn Closing> = Arc::<Seat<M>>::clone(&seat);
        let resident = Box::new(Resident(Arc::clone(&seat)));
        let joined = self.inner.handle.call(|stack, host, now| {
            host.hand_in(stack, now);
            if host.programs().is_some_and(|programs| programs.are_in(&group)) {
                return Err(JoinError::HasPrograms(Arc::clone(&group)));
            }
            let me = stack.add_resident(now, (&group, local), resident)?;
            host.seats().add(Arc::downgrade(&closing));
            host.publish(stack, now);
            Ok(me)
        });
        let me = joined.map_err(RequestError::Stopped)?.map_err(RequestError::Refused)?;
        Ok(Service::new(self.clone(), group, me, seat))
    }

    /// Asks a machine that lives here.
    pub(crate) fn ask_resident<R, E>(
        &self,
        ask: impl FnOnce(Instant) -> Result<R, E>,
    ) -> Result<R, RequestError<E>> {
        self.request(|stack, now| {
            stack.resident_was_asked(now);
            ask(now)
        })
    }

    pub(crate) fn remove_resident(&self, group: &str, local: u32) {
        let removed = self.inner.handle.call(|stack, host, now| {
            host.hand_in(stack, now);
            stack.remove_resident(now, (group, local));
            host.publish(stack, now);
        });
        if let Err(stopped) = removed {
            tracing::debug!(group, %stopped, "a member need not leave");
        }
    }
}
