//! Hosts outside the cluster, watched by ICMP echo: a router, a storage head, whatever tells "I am cut off" from "they are".
//!
//! [`Pinger`] is the protocol without I/O: when to ask, which answer counts, when a host is up or down.
//! [`Ports::ping`](crate::driver::Ports::ping) puts one beside the protocol of a node, on the same reactor. A [target](PingConfig)
//! is one host, or several that stand for one thing and are up while any of them answers. [`Pinger::reachable`] counts the
//! targets that are up: what a tie breaker compares between nodes.
//!
//! An answer counts only if it repeats the 16 random bytes of a request that still waits, so that nobody who does not see the
//! requests can pretend that a dead host lives. States, timers and limits are in `PROTOCOL.md`.

mod config;
#[cfg(any(feature = "driver", test))]
pub(crate) mod echo;
mod host;
#[cfg(test)]
mod tests;

pub use config::PingConfig;
pub use host::PingHostStatus;

use crate::crypto::Drbg;
use core::fmt;
use core::time::Duration;
use host::{Host, Verdict};
use pils::{ConfigErrors, Instant, Layer};
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

/// Bytes of a request that its answer must repeat.
pub const PING_TOKEN: usize = 16;

/// What is known of a target or of one of its hosts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PingState {
    /// Not decided yet: the first answers, or their absence, will.
    #[default]
    Unknown,
    /// It answers.
    Up,
    /// It does not.
    Down,
}

impl fmt::Display for PingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// Why a target or host is in its state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum PingReason {
    /// Nothing was heard or missed yet.
    #[default]
    Starting,
    /// So many requests in a row were answered.
    Answered {
        /// How many.
        in_row: u32,
    },
    /// So many requests in a row were not answered in time.
    Silent {
        /// How many.
        in_row: u32,
    },
    /// The last of the requests that failed in a row was not even sent: this machine has no way to the host.
    NotSent {
        /// How many failed.
        in_row: u32,
    },
}

impl fmt::Display for PingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("not asked long enough"),
            Self::Answered { in_row } => write!(f, "answered {in_row} in a row"),
            Self::Silent { in_row } => write!(f, "{in_row} in a row not answered"),
            Self::NotSent { in_row } => {
                write!(f, "{in_row} in a row failed, this machine has no way to it")
            }
        }
    }
}

/// A target, or one of its hosts, changed its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PingChange {
    /// The name of the target.
    pub target: Arc<str>,
    /// The host that changed, or `None` if the target as a whole did.
    pub host: Option<IpAddr>,
    /// Its state now.
    pub state: PingState,
    /// Why: for a target, the reason of the host that decided.
    pub reason: PingReason,
    /// Targets that are up now, as [`Pinger::reachable`].
    pub reachable: usize,
}

/// What is known of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct PingStatus {
    /// Its name.
    pub target: Arc<str>,
    /// Its state.
    pub state: PingState,
    /// Why.
    pub reason: PingReason,
    /// How long it has been in it.
    pub since: Duration,
    /// Its hosts, in the order of the configuration.
    pub hosts: Vec<PingHostStatus>,
}

/// What arrives at a pinger.
#[derive(Clone, Copy, Debug)]
pub enum PingInput<'a> {
    /// An echo reply.
    Reply {
        /// Whom it is from. Proof of nothing.
        from: IpAddr,
        /// The sequence number it repeats.
        sequence: u16,
        /// The bytes it repeats.
        token: &'a [u8],
    },
    /// A request could not be sent: no route, no address, filtered.
    NotSent {
        /// To whom.
        to: IpAddr,
        /// Its sequence number.
        sequence: u16,
    },
}

/// What a pinger wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PingOutput {
    /// Send an echo request. Losing it is allowed.
    Send {
        /// To whom.
        to: IpAddr,
        /// Its sequence number.
        sequence: u16,
        /// The bytes that the answer must repeat.
        token: [u8; PING_TOKEN],
    },
    /// Tell whoever wants to know.
    Event(PingChange),
}

#[derive(Debug)]
struct Target {
    name: Arc<str>,
    config: PingConfig,
    hosts: Vec<Host>,
    state: PingState,
    reason: PingReason,
    since: Instant,
}

/// Watches hosts by echo requests. A sans-IO core: see the [module](self).
#[derive(Debug)]
pub struct Pinger {
    targets: Vec<Target>,
    outputs: VecDeque<PingOutput>,
    random: Drbg,
    deadline: Option<Instant>,
    unexpected: u64,
}

impl Pinger {
    /// Watches these targets from `now` on. `seed` must be random and secret: whoever knows it can forge answers.
    ///
    /// # Errors
    /// Every mistake in the targets at once.
    pub fn new(now: Instant, targets: &[PingConfig], seed: &[u8; 32]) -> Result<Self, ConfigErrors> {
        PingConfig::check_all(targets)?;
        let mut random = Drbg::new(seed);
        let targets = targets
            .iter()
            .map(|config| Target {
                name: Arc::from(config.name.as_str()),
                hosts: config
                    .hosts
                    .iter()
                    .map(|address| Host::new(now, *address, config, random.u32()))
                    .collect(),
                config: config.clone(),
                state: PingState::Unknown,
                reason: PingReason::Starting,
                since: now,
            })
            .collect();
        let mut pinger = Self { targets, outputs: VecDeque::new(), random, deadline: None, unexpected: 0 };
        pinger.arm();
        Ok(pinger)
    }

    /// Targets that are up: the score that a tie breaker compares.
    #[must_use]
    pub fn reachable(&self) -> usize {
        self.targets.iter().filter(|target| target.state == PingState::Up).count()
    }

    /// Every target, in the order of the configuration.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<PingStatus> {
        let status = |target: &Target| PingStatus {
            target: Arc::clone(&target.name),
            state: target.state,
            reason: target.reason,
            since: now.since(target.since),
            hosts: target.hosts.iter().map(|host| host.status(now)).collect(),
        };
        self.targets.iter().map(status).collect()
    }

    /// Replies that repeated no request that waits: late, doubled or forged.
    #[must_use]
    pub const fn unexpected(&self) -> u64 {
        self.unexpected
    }

    fn arm(&mut self) {
        self.deadline = self
            .targets
            .iter()
            .flat_map(|target| target.hosts.iter().map(|host| host.deadline(&target.config)))
            .min();
    }

    /// A host has something new: tells of it, and of its target if that decides.
    fn judge(&mut self, now: Instant, target: usize, host: usize, verdict: Option<Verdict>) {
        let Some(verdict) = verdict else { return };
        let at = &mut self.targets[target];
        at.hosts[host].enter(now, verdict);
        let (any_up, any_unknown) = at.hosts.iter().fold((false, false), |(up, unknown), host| {
            (up | (host.state() == PingState::Up), unknown | (host.state() == PingState::Unknown))
        });
        let state = match (any_up, any_unknown) {
            (true, _) => PingState::Up,
            (false, true) => at.state,
            (false, false) => PingState::Down,
        };
        let changed = state != at.state;
        if changed {
            tracing::info!(target = %at.name, %state, reason = %verdict.reason, "ping");
            (at.state, at.reason, at.since) = (state, verdict.reason, now);
        }
        let (name, address) = (Arc::clone(&at.name), at.hosts[host].address);
        let reachable = self.reachable();
        let mut tell = |host, state| {
            let (target, reason) = (Arc::clone(&name), verdict.reason);
            let change = PingChange { target, host, state, reason, reachable };
            self.outputs.push_back(PingOutput::Event(change));
        };
        tell(Some(address), verdict.state);
        if changed {
            tell(None, state);
        }
    }
}

impl Layer for Pinger {
    type Input<'a> = PingInput<'a>;
    type Output = PingOutput;

    fn handle(&mut self, now: Instant, input: PingInput<'_>) {
        for t in 0..self.targets.len() {
            for h in 0..self.targets[t].hosts.len() {
                let Target { config, hosts, .. } = &mut self.targets[t];
                let taken = match input {
                    PingInput::Reply { from, sequence, token } => {
                        hosts[h].on_reply(now, from, (sequence, token), config)
                    }
                    PingInput::NotSent { to, sequence } => hosts[h].on_not_sent(to, sequence, config),
                };
                if let Some(verdict) = taken {
                    self.judge(now, t, h, verdict);
                    self.arm();
                    return;
                }
            }
        }
        if matches!(input, PingInput::Reply { .. }) {
            self.unexpected += 1;
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|deadline| deadline > now) {
            return;
        }
        for t in 0..self.targets.len() {
            for h in 0..self.targets[t].hosts.len() {
                loop {
                    let Target { config, hosts, .. } = &mut self.targets[t];
                    let Some(verdict) = hosts[h].on_timeout(now, config) else { break };
                    self.judge(now, t, h, verdict);
                }
                let Target { config, hosts, .. } = &mut self.targets[t];
                if let Some((sequence, token)) = hosts[h].ask(now, config, &mut self.random) {
                    let to = hosts[h].address;
                    self.outputs.push_back(PingOutput::Send { to, sequence, token });
                }
            }
        }
        self.arm();
    }

    fn poll_output(&mut self) -> Option<PingOutput> {
        self.outputs.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }
}
