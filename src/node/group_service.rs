//! Groups for programs beside the node: they come over the local interface, and the kernel says who they are.

use super::gate::{Accepted, Gate};
use super::host::NodeHost;
use super::programs::{Drained, Program};
use crate::config::GroupUsers;
use crate::groups::wire::{self, SAY, Said};
use crate::stack::Stack;
use bytes::Bytes;
use core::time::Duration;
use ocf_comm::driver::{Handle, Stopped};
use ocf_comm::local::{ClientInfo, EventSink, Process, Service, no_method};
use ocf_comm::rpc::{Access, Body, Fault, Responder};
use ocf_groups::{JoinError, MemberId, OfferError, Position};
use parking_lot::Mutex;
use pils::wire::{Malformed, Reader};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// Members that one program may have.
const PROGRAM_MEMBERS_MAX: usize = 256;
/// How long a program may take nothing while deliveries are held for it, if the configuration does not say.
pub(super) const UNREAD_FOR: Duration = Duration::from_secs(5);
/// Names of groups that begin so are the node's own.
const OWN_GROUPS: &str = "ocf.";

/// The group service of a node for the programs of its machine.
pub(super) struct GroupService {
    handle: Handle<Stack, NodeHost>,
    gate: Arc<Gate>,
    who: Vec<GroupUsers>,
    own: u32,
    /// Largest message and largest state.
    sizes: (usize, usize),
    unread_for: Duration,
    programs: Mutex<BTreeMap<u64, Served>>,
}

struct Served {
    program: Arc<Program>,
    /// Since when it is waited for, and what it had taken then.
    waited: Option<(Instant, u64)>,
}

/// A state that a program gives: number of the group, for whom, as of when, and the state.
type Offer = (u32, MemberId, Position, Bytes);

impl fmt::Debug for GroupService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupService").field("programs", &self.programs.lock().len()).finish_non_exhaustive()
    }
}

fn stopped(why: &Stopped) -> Fault {
    Fault::new(Fault::UNAVAILABLE, why.to_string())
}

/// What must not be said is not kept either: a program that may connect and join nothing takes no memory here.
fn allow(said: &Said, program: &Program, joined: bool) -> Result<(), &'static str> {
    match said {
        Said::Took(_) => Ok(()),
        Said::Send { .. } | Said::Leave { .. } | Said::Offer { .. } if !joined => {
            Err("what only a member says")
        }
        Said::Send { .. } | Said::Leave { .. } => Ok(()),
        Said::Offer { .. } if program.gives() => Ok(()),
        Said::Offer { .. } => Err("a state that was not asked for"),
    }
}

impl GroupService {
    pub(super) fn new(
        (handle, gate): (Handle<Stack, NodeHost>, Arc<Gate>),
        who: Vec<GroupUsers>,
        unread_for: Duration,
    ) -> Self {
        let promised = handle.inspect(|stack, _, _| stack.group_promises());
        let sizes = promised.map_or((0, 0), |promised| (promised.message_max, promised.state_max));
        let own = rustix::process::geteuid().as_raw();
        Self { handle, gate, who, own, sizes, unread_for, programs: Mutex::default() }
    }

    fn may_join(&self, info: &ClientInfo, group: &str) -> bool {
        let (uid, gid) = (info.credentials.uid, info.credentials.gid);
        uid == 0 || uid == self.own || self.who.iter().any(|entry| entry.allows(group, uid, gid))
    }

    /// From now on the program is told where the node stands.
    fn hello(&self, program: &Arc<Program>) -> Result<Body, Fault> {
        let greeted = self.handle.call(|_, host, _| {
            let Some(programs) = host.programs() else { return false };
            programs.add(Arc::clone(program));
            true
        });
        if !greeted.map_err(|why| stopped(&why))? {
            return Err(Fault::new(Fault::UNAVAILABLE, "this node has no groups for programs"));
        }
        let size = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
        let (message_max, state_max) = (size(self.sizes.0), size(self.sizes.1));
        Body::of(&wire::Welcome { message_max, state_max, window: size(wire::WINDOW) })
    }

    fn join(&self, program: &Program, group: &str) -> Result<Body, Fault> {
        let denied = |why: String| Err(Fault::new(Fault::DENIED, why));
        if !self.may_join(&program.info, group) {
            let ocf_comm::rpc::Credentials { uid, gid, .. } = program.info.credentials;
            return denied(format!(
                "user {uid}, group {gid} may not join the group {group:?}: [[api.groups]] of the node's configuration says \
                 who may (names, users, groups)"
            ));
        }
        let client = program.info.id;
        let joined = self.handle.call(|stack, host, now| {
            if group.starts_with(OWN_GROUPS) || stack.is_own_group(group) {
                return Ok(None);
            }
            host.hand_in(stack, now);
            let programs = host.programs().ok_or(JoinError::TooManyMembers(0))?;
            let count = programs.count(client);
            if count >= PROGRAM_MEMBERS_MAX {
                return Err(JoinError::TooManyMembers(count));
            }
            let joined = programs.join((stack, now), client, group);
            host.publish(stack, now);
            joined.map(Some)
        });
        match joined.map_err(|why| stopped(&why))? {
            Ok(Some((local, group))) => Body::of(&wire::Joined { local, group, too_many: None }),
            Ok(None) => denied(format!("the group {group:?} is one of the node itself")),
            Err(JoinError::TooManyMembers(most)) => {
                Body::of(&wire::Joined { local: 0, group: 0, too_many: u64::try_from(most).ok() })
            }
            Err(other) => denied(other.to_string()),
        }
    }

    /// Takes a frame of records. What is none ends the connection.
    fn say(&self, program: &Arc<Program>, frame: &Bytes) {
        let (mut offers, mut took) = (Vec::new(), None);
        let mut inbox = program.inbox.lock();
        let mut unpacker = core::mem::take(&mut inbox.unpacker);
        let (message_max, state_max) = self.sizes;
        let most = |said: &Said| if matches!(said, Said::Offer { .. }) { state_max } else { message_max };
        let joined = inbox.joined;
        let read = |r: &mut Reader<'_>| {
            let read = Said::read(r)?;
            allow(&read.0, program, joined).map_err(|what| r.error(what, Malformed::OutOfRange))?;
            Ok(read)
        };
        let read = unpacker.feed(frame, read, most, |said, payload| match said {
            Said::Offer { group, joiner, position } => offers.push((group, joiner, position, payload)),
            Said::Took(bytes) => took = Some(took.unwrap_or(0_u64).saturating_add(bytes)),
            Said::Send { .. } | Said::Leave { .. } => inbox.order(said, payload),
        });
        inbox.unpacker = unpacker;
        let drained = inbox.drain(&self.gate, program);
        let overflows = inbox.overflows(message_max);
        if let Some(bytes) = took {
            inbox.took = inbox.took.saturating_add(bytes);
        }
        drop(inbox);
        let sane = took.is_none_or(|bytes| program.took(bytes));
        if let Err(broken) = read {
            return program.sink.end(&format!("it does not keep to the protocol of groups: {broken}"));
        }
        if overflows || !sane {
            return program.sink.end("it sends or takes more than there is");
        }
        self.go_on(program, drained);
        if program.may_resume() {
            self.resume();
        }
        offers.into_iter().for_each(|offer| self.offer(program, offer));
    }

    /// Has the node do what follows from what was drained.
    fn go_on(&self, program: &Arc<Program>, drained: Drained) {
        let gone = match drained {
            Drained::All(None) => return,
            Drained::All(Some(Accepted::First)) => self.handle.nudge(),
            Drained::All(Some(Accepted::Plenty)) => self.handle.try_flush(),
            // The core must know that somebody waits, to say when there is room.
            Drained::All(Some(Accepted::Behind)) | Drained::Blocked(_) => {
                self.handle.wake();
                Ok(())
            }
            Drained::Leave => self.handle.call(|stack, host, now| host.drain(stack, now, program)),
        };
        if let Err(why) = gone {
            tracing::debug!(%why, "a program speaks to a node that has stopped");
        }
    }

    fn resume(&self) {
        if let Err(why) = self.handle.call(|stack, host, now| host.resume(stack, now)) {
            tracing::debug!(%why, "nothing is delivered any more");
        }
    }

    fn offer(&self, program: &Program, (group, joiner, position, state): Offer) {
        let done = self.handle.call(|stack, host, now| {
            host.hand_in(stack, now);
            let wanted = |_: ()| OfferError::NotWanted { group: Arc::from(""), position };
            let programs = host.programs().ok_or_else(|| wanted(()))?;
            let name = programs.named(group).filter(|name| programs.has_seat(program.info.id, name));
            let name = name.ok_or_else(|| wanted(()))?;
            let offered = stack.offer_state(now, (&name, joiner, position), state);
            host.publish(stack, now);
            offered
        });
        if let Ok(Err(why)) = done {
            tracing::debug!(%why, "a state came too late");
        }
    }

    fn find(&self, client: u64) -> Option<Arc<Program>> {
        self.programs.lock().get(&client).map(|served| Arc::clone(&served.program))
    }
}

impl Service for GroupService {
    fn access(&self, _method: &str) -> Access {
        // Who may join what is settled with each join.
        Access::Observe
    }

    fn joined(&self, client: &ClientInfo, events: EventSink) {
        let program = Arc::new(Program::new(client.clone(), events));
        self.programs.lock().insert(client.id, Served { program, waited: None });
    }

    fn call(&self, client: &ClientInfo, method: &str, body: Body, answer: Responder<Body>) {
        let Some(program) = self.find(client.id) else {
            return answer.answer(Err(Fault::new(Fault::UNAVAILABLE, "the program is gone")));
        };
        let done = match method {
            SAY => match body.into_bytes() {
                Ok(frame) => {
                    self.say(&program, &frame);
                    Ok(Body::default())
                }
                Err(fault) => Err(fault),
            },
            "hello" => self.hello(&program),
            "join" => body.read::<String>().and_then(|group| self.join(&program, &group)),
            other => Err(no_method(other)),
        };
        answer.answer(done);
    }

    fn look(&self) {
        let now = Instant::now();
        let mut programs = self.programs.lock();
        for Served { program, waited } in programs.values_mut() {
            // A child may have the connection of a process that has ended.
            if program.info.process.as_ref().is_some_and(Process::has_ended) {
                program.sink.end("the process that connected has ended");
                continue;
            }
            if !program.is_waited_for() {
                *waited = None;
                continue;
            }
            let took = program.inbox.lock().took;
            match waited {
                Some((since, before)) if *before == took => {
                    if now - *since >= self.unread_for {
                        let (pid, name) = (program.info.credentials.pid, &program.info.name);
                        tracing::warn!(pid, name, "a program takes nothing of what its groups bring");
                        program.sink.end("it takes nothing of what its groups bring, and all wait for it");
                    }
                }
                _ => *waited = Some((now, took)),
            }
        }
    }

    fn gone(&self, client: u64) {
        if self.programs.lock().remove(&client).is_none() {
            return;
        }
        let done = self.handle.call(|stack, host, now| {
            host.hand_in(stack, now);
            if let Some(programs) = host.programs() {
                programs.remove(stack, now, client);
            }
            host.publish(stack, now);
            host.resume(stack, now);
        });
        if done.is_err() {
            tracing::debug!(client, "a program ended after the node");
        }
    }
}
