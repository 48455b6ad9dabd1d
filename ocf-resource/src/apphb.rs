//! Heartbeats of applications: a program registers, says again and again that it is well, and is missed when it stops.
//!
//! [`AppHeartbeat`] is sans-IO and needs no cluster: it is told of calls and of the time, and says whom it misses. The driver
//! serves it over a Unix socket. Source: heartbeat's `apphbd`, whose calls, events and defaults it has; deviations A1 to A3
//! in PROTOCOL.md.

use core::fmt;
use core::time::Duration;
use pils::{Instant, Layer};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Limits and times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Applications at a time. Default 4096; one more is refused.
    pub clients_max: usize,
    /// How long an application may be silent if it does not say so itself. Default 10 s.
    pub interval: Duration,
    /// The shortest interval that is accepted. Default 10 ms.
    pub interval_min: Duration,
    /// Users other than root whose applications may ask for a reboot of this machine when they fail. Default none.
    pub may_reboot: BTreeSet<u32>,
    /// Users whose applications may register; others are told [`CallError::NotPermitted`]. Default `None`: everybody who reaches
    /// the socket.
    pub may_register: Option<BTreeSet<u32>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            clients_max: 4096,
            interval: Duration::from_secs(10),
            interval_min: Duration::from_millis(10),
            may_reboot: BTreeSet::new(),
            may_register: None,
        }
    }
}

/// Longest name of an application or instance, in bytes.
pub const NAME_MAX: usize = 255;

/// Names a connection. Chosen by the driver; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize)]
pub struct ClientId(pub u64);

/// Who an application is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Application {
    /// Its name.
    pub name: Arc<str>,
    /// Which of several of this name.
    pub instance: Arc<str>,
    /// Its process.
    pub pid: i32,
    /// Its user, as the system says.
    pub user: u32,
    /// Its group, as the system says.
    pub group: u32,
}

impl fmt::Display for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} (pid {})", self.name, self.instance, self.pid)
    }
}

/// What an application asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Call {
    /// Be missed from now on. The credentials of the process are those that the system reports, not those it claims.
    Register(Application),
    /// Be missed no more.
    Unregister,
    /// I am well.
    Beat,
    /// Miss me after this time.
    SetInterval(Duration),
    /// Warn after this time; zero for never.
    SetWarn(Duration),
    /// Reboot this machine if I fail.
    SetReboot(bool),
}

/// Why a call was refused. Nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// This connection, or another living one with the same names, is registered.
    #[error("already registered")]
    Exists,
    /// This connection is not registered.
    #[error("not registered")]
    NotRegistered,
    /// A time or a name that makes no sense.
    #[error("invalid argument")]
    Invalid,
    /// Too many applications.
    #[error("too many applications")]
    Full,
    /// A name longer than [`NAME_MAX`].
    #[error("name too long")]
    NameTooLong,
    /// Not for this user.
    #[error("not permitted")]
    NotPermitted,
}

impl CallError {
    /// The error number that heartbeat's library has for it.
    #[must_use]
    pub const fn errno(self) -> i32 {
        match self {
            Self::Exists => 17,
            Self::NotRegistered => 9,
            Self::Invalid => 22,
            Self::Full => 28,
            Self::NameTooLong => 36,
            Self::NotPermitted => 1,
        }
    }
}

/// What arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Input {
    /// An application asks for something.
    Call {
        /// Which.
        client: ClientId,
        /// What.
        call: Call,
    },
    /// A connection is gone.
    Closed(ClientId),
}

/// What comes of it, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// Answer a call; beats are not answered unless they are refused.
    Answer {
        /// Which.
        client: ClientId,
        /// How the call ended.
        result: Result<(), CallError>,
    },
    /// Tell whoever listens.
    Event(Event),
    /// An application failed that had asked for this machine to be rebooted then.
    Reboot(Application),
}

/// What is told of an application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Of whom.
    pub application: Application,
    /// What.
    pub kind: EventKind,
    /// For how long nothing had been heard of it.
    pub silent: Duration,
}

/// What can be told of an application. The numbers are those of heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Its connection ended without goodbye: it died.
    HangUp = 1,
    /// It was silent for longer than its interval: it hangs.
    Missed = 2,
    /// It is heard again.
    Again = 3,
    /// It was silent for longer than its warn time.
    Late = 4,
    /// It said goodbye.
    Unregistered = 5,
}

impl EventKind {
    /// True if the application has failed.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::HangUp | Self::Missed)
    }
}

/// What is known of an application that is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AppStatus {
    /// Who it is.
    pub application: Application,
    /// How long it may be silent.
    pub interval: Duration,
    /// When a warning is due; zero for never.
    pub warn: Duration,
    /// Does its failure reboot the machine?
    pub reboot: bool,
    /// Is it missed now?
    pub missed: bool,
}

#[derive(Debug)]
struct Client {
    status: AppStatus,
    heard: Instant,
    warned: bool,
    due: Option<Instant>,
}

/// Whoever registered, and when each is missed.
#[derive(Debug)]
pub struct AppHeartbeat {
    config: Config,
    clients: BTreeMap<ClientId, Client>,
    names: BTreeMap<(Arc<str>, Arc<str>), ClientId>,
    due: BTreeSet<(Instant, ClientId)>,
    out: VecDeque<Output>,
}

impl AppHeartbeat {
    /// Nobody is registered.
    #[must_use]
    pub const fn new(config: Config) -> Self {
        Self {
            config,
            clients: BTreeMap::new(),
            names: BTreeMap::new(),
            due: BTreeSet::new(),
            out: VecDeque::new(),
        }
    }

    /// Everybody who is registered, in the order in which they came.
    pub fn status(&self) -> impl Iterator<Item = &AppStatus> + '_ {
        self.clients.values().map(|c| &c.status)
    }

    fn on_call(&mut self, now: Instant, client: ClientId, call: Call) {
        let beat = call == Call::Beat;
        let result = match call {
            Call::Register(application) => self.register(now, client, application),
            Call::Unregister => self.unregister(now, client),
            Call::Beat => self.heard(now, client),
            Call::SetInterval(interval) if interval < self.config.interval_min => Err(CallError::Invalid),
            Call::SetInterval(interval) => self.change(now, client, |s| s.interval = interval),
            Call::SetWarn(warn) => self.change(now, client, |s| s.warn = warn),
            Call::SetReboot(reboot) => self.set_reboot(now, client, reboot),
        };
        if !beat || result.is_err() {
            self.out.push_back(Output::Answer { client, result });
        }
    }

    fn register(&mut self, now: Instant, client: ClientId, who: Application) -> Result<(), CallError> {
        if who.name.len() > NAME_MAX || who.instance.len() > NAME_MAX {
            return Err(CallError::NameTooLong);
        }
        if who.name.is_empty() || who.name.contains('\0') || who.instance.contains('\0') {
            return Err(CallError::Invalid);
        }
        if self.config.may_register.as_ref().is_some_and(|users| !users.contains(&who.user)) {
            return Err(CallError::NotPermitted);
        }
        let names = (Arc::clone(&who.name), Arc::clone(&who.instance));
        if self.clients.contains_key(&client) || self.names.contains_key(&names) {
            return Err(CallError::Exists);
        }
        if self.clients.len() >= self.config.clients_max {
            return Err(CallError::Full);
        }
        let status = AppStatus {
            application: who,
            interval: self.config.interval,
            warn: Duration::ZERO,
            reboot: false,
            missed: false,
        };
        self.names.insert(names, client);
        self.clients.insert(client, Client { status, heard: now, warned: false, due: None });
        self.arm(client);
        Ok(())
    }

    fn unregister(&mut self, now: Instant, client: ClientId) -> Result<(), CallError> {
        let gone = self.remove(client).ok_or(CallError::NotRegistered)?;
        self.tell(now, &gone, EventKind::Unregistered);
        Ok(())
    }

    fn heard(&mut self, now: Instant, id: ClientId) -> Result<(), CallError> {
        let client = self.clients.get_mut(&id).ok_or(CallError::NotRegistered)?;
        let silent = now - client.heard;
        client.heard = now;
        client.warned = false;
        if core::mem::take(&mut client.status.missed) {
            let application = client.status.application.clone();
            self.out.push_back(Output::Event(Event { application, kind: EventKind::Again, silent }));
        }
        self.arm(id);
        Ok(())
    }

    /// A change counts as a sign of life.
    fn change(
        &mut self,
        now: Instant,
        id: ClientId,
        change: impl FnOnce(&mut AppStatus),
    ) -> Result<(), CallError> {
        let client = self.clients.get_mut(&id).ok_or(CallError::NotRegistered)?;
        change(&mut client.status);
        self.heard(now, id)
    }

    fn set_reboot(&mut self, now: Instant, id: ClientId, reboot: bool) -> Result<(), CallError> {
        let client = self.clients.get(&id).ok_or(CallError::NotRegistered)?;
        let user = client.status.application.user;
        if reboot && user != 0 && !self.config.may_reboot.contains(&user) {
            return Err(CallError::NotPermitted);
        }
        self.change(now, id, |s| s.reboot = reboot)
    }

    fn on_closed(&mut self, now: Instant, client: ClientId) {
        if let Some(gone) = self.remove(client) {
            self.tell(now, &gone, EventKind::HangUp);
        }
    }

    fn remove(&mut self, id: ClientId) -> Option<Client> {
        let client = self.clients.remove(&id)?;
        let who = &client.status.application;
        self.names.remove(&(Arc::clone(&who.name), Arc::clone(&who.instance)));
        if let Some(at) = client.due {
            self.due.remove(&(at, id));
        }
        Some(client)
    }

    fn tell(&mut self, now: Instant, of: &Client, kind: EventKind) {
        let application = of.status.application.clone();
        let silent = now - of.heard;
        self.out.push_back(Output::Event(Event { application: application.clone(), kind, silent }));
        if kind.is_failure() && of.status.reboot {
            self.out.push_back(Output::Reboot(application));
        }
    }

    /// Sets when to look at a client next: at its warning, then at its end; not at all once it is missed.
    fn arm(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        if let Some(at) = client.due.take() {
            self.due.remove(&(at, id));
        }
        let s = &client.status;
        if s.missed {
            return;
        }
        let warns = !client.warned && !s.warn.is_zero() && s.warn < s.interval;
        let at = client.heard + if warns { s.warn } else { s.interval };
        client.due = Some(at);
        self.due.insert((at, id));
    }
}

impl Layer for AppHeartbeat {
    type Input<'a> = Input;
    type Output = Output;

    fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Call { client, call } => self.on_call(now, client, call),
            Input::Closed(client) => self.on_closed(now, client),
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, id)) = self.due.first().filter(|(at, _)| *at <= now).copied() {
            let Some(mut client) = self.remove(id) else { return };
            let kind = if client.heard + client.status.interval <= now {
                client.status.missed = true;
                EventKind::Missed
            } else {
                client.warned = true;
                EventKind::Late
            };
            client.due = None;
            self.tell(now, &client, kind);
            let who = &client.status.application;
            self.names.insert((Arc::clone(&who.name), Arc::clone(&who.instance)), id);
            self.clients.insert(id, client);
            self.arm(id);
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }
}
