use super::alive::{self, Alive, Ender, NotArmedError};
use super::api::{self, Api, ApiError};
use super::application::Application;
use super::calls::{self, Callers, Job};
use super::gate::Gate;
use super::group_service::{self, GroupService};
use super::host::{Command, NodeHost};
use super::lock_service::{self, LockService};
use super::outside::Outside;
use super::programs::Programs;
use super::queue::EventQueue;
use super::recorder::{self, Keeper, Recorder};
use super::tie::Decider;
use super::{Inner, Node};
use crate::config::{ApiConfig, HeartbeatEntry, NodeConfig, OutsideConfig, PingEntry, TieBreakerEntry};
use crate::stack::{Birth, Stack, StackConfig, StackError};
use crate::store::{FileStore, RecordStore};
use core::fmt;
use core::time::Duration;
use crossbeam_channel::Receiver;
use ocf_comm::driver::sentinel::{Sentinel, SentinelConfig};
use ocf_comm::driver::{
    Agreement, Handle, IoConfig, Ports, Reactor, Remote, Running, SetupError, cipher, entropy,
};
use ocf_comm::rpc::{self, Dispatcher};
use ocf_comm::{KeyRing, Secrets};
use ocf_groups::SlowMembers;
use ocf_membership::TieBreaker;
use ocf_resource::driver::apphb::AppHeartbeatServer;
use ocf_resource::driver::{AgentHost, Descriptions, OcfClass, RustClass};
use ocf_resource::{AgentClass, AgentName, Agents, GroupConfig};
use ocf_stonith::driver::{Classes, DeviceClass, DeviceHost, KernelWatchdog, Watchdog, end_by_sysrq};
use ocf_stonith::sbd::End;
use parking_lot::Mutex;
use pils::durable;
use pils::memory::LockError;
use pils::plugin::{Loader, Universe};
use pils::process::Runner;
use pils::topic::Bus;
use pils::{ConfigErrors, NodeId, NodeInstance, Rng};
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// Bytes of messages that may wait for the application before deliveries are held.
const BACKLOG: usize = 64 << 20;

/// Child processes that may run at once: agents and fence agents.
const CHILDREN: usize = 64;

type Loaded = (Option<Vec<u8>>, Option<Box<dyn RecordStore>>, bool);

/// Assembles a node from its configuration and from parts that a program brings.
pub struct NodeBuilder {
    config: NodeConfig,
    agents: Agents,
    has_ocf: bool,
    has_rust: bool,
    ocf_root: PathBuf,
    devices: Classes,
    /// What is wrong with what a program brought.
    wrong: ConfigErrors,
    store: Option<Box<dyn RecordStore>>,
    ports: Option<Ports>,
    offload: bool,
    application: Option<Box<dyn Application>>,
    backlog: usize,
    methods: rpc::Builder,
    tune: Box<dyn FnOnce(&mut StackConfig)>,
    locks: Option<ocf_dlm::cluster::Config>,
    /// What is done to the new stack, in tests.
    alter: Box<dyn FnOnce(&mut Stack)>,
    tie_breaker: Option<Box<dyn TieBreaker>>,
    watchdog: Option<Box<dyn Watchdog>>,
    ender: Ender,
}

impl fmt::Debug for NodeBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is wrong: everything that is.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// A layer refused its part.
    #[error(transparent)]
    Stack(#[from] StackError),
    /// The sockets could not be opened.
    #[error(transparent)]
    Sockets(#[from] SetupError),
    /// The view record could not be read. Without it this node might break a promise it made; do not delete it lightly.
    #[error("the view record cannot be read: {0}")]
    Record(#[source] io::Error),
    /// What the cluster agreed to run, kept beside the record, could not be read. Without it this node may bring back what was removed.
    #[error(
        "{path}: {reason}; remove the file only if all nodes begin with the resources of their configuration again"
    )]
    Kept {
        /// The file, `<record>.resources`.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        reason: io::Error,
    },
    /// The folder in which promotion scores of agents are kept, beside the record, could not be written.
    #[error("promotion scores of agents: {0}")]
    Scores(#[source] io::Error),
    /// Programs outside could not be served.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The socket for heartbeats of applications could not be served.
    #[error("heartbeats of applications: {0}")]
    Heartbeats(#[source] io::Error),
    /// Nothing stands behind the node, and the configuration says that something has to.
    #[error("self_fencing: {0}")]
    NotArmed(#[from] NotArmedError),
    /// Memory could not be locked, and `lock_memory` asks for it.
    #[error("lock_memory: {0}")]
    Memory(#[from] LockError),
    /// The system gave no thread or child process runner.
    #[error("the system refuses a thread: {0}")]
    Threads(#[source] io::Error),
}

impl NodeBuilder {
    pub(super) fn new(config: NodeConfig) -> Self {
        let loader = Loader::new(&Universe::new());
        config.plugins.iter().for_each(|folder| loader.add_folder(folder));
        Self {
            config,
            agents: Agents::of(&loader).expect("the universe is new"),
            has_ocf: false,
            has_rust: false,
            ocf_root: PathBuf::from(OcfClass::ROOT),
            devices: Classes::new(&loader).expect("the universe has the type of agents alone"),
            wrong: ConfigErrors::default(),
            store: None,
            ports: None,
            offload: true,
            application: None,
            backlog: BACKLOG,
            methods: Dispatcher::builder(),
            tune: Box::new(|_| {}),
            locks: None,
            alter: Box::new(|_| {}),
            tie_breaker: None,
            watchdog: None,
            ender: Box::new(end_by_sysrq),
        }
    }

    /// Adds a class of resource agents, by the first part of an agent's name. `ocf` is there already, and `rust`
    /// with the [built-in agents](RustClass::built_in), unless replaced.
    ///
    /// # Panics
    /// If it cannot be a name: see [`Agents::with`].
    #[must_use]
    pub fn agent_class(mut self, name: &str, class: Arc<dyn AgentClass>) -> Self {
        self.has_ocf |= name == "ocf";
        self.has_rust |= name == "rust";
        self.agents = self.agents.with(name, class);
        self
    }

    /// Looks for the agents of the class `ocf` below another root than [`OcfClass::ROOT`].
    #[must_use]
    pub fn ocf_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.ocf_root = root.into();
        self
    }

    /// Adds a class of fence devices, in place of the one that has its name.
    #[must_use]
    pub fn fence_class(mut self, class: Arc<dyn DeviceClass>) -> Self {
        let name = class.name().to_owned();
        if let Err(error) = self.devices.add(class) {
            self.wrong.push("fencing.classes", name, error.to_string(), "add it under another name");
        }
        self
    }

    /// The plug-ins of this node: classes of fence devices and of agents, to look at, and to load more.
    #[must_use]
    pub const fn plugins(&self) -> &Loader {
        self.devices.loader()
    }

    /// How other programs reach the node, in place of what the configuration says.
    #[must_use]
    pub fn api(mut self, api: ApiConfig) -> Self {
        self.config.api = api;
        self
    }

    /// What is told outside the cluster, and who outside is listened to, in place of what the configuration says.
    #[must_use]
    pub fn outside(mut self, outside: OutsideConfig) -> Self {
        self.config.outside = outside;
        self
    }

    /// Adds methods that other nodes call with [`Node::call`], and programs outside through the `api`. They run on a thread of
    /// their own, one after the other: one that takes long answers later.
    ///
    /// # Panics
    /// If one has the name of a method that is there already, such as `node.status`: a mistake in the program, found at the
    /// latest by [`NodeBuilder::start`].
    #[must_use]
    pub fn methods(mut self, methods: rpc::Builder) -> Self {
        self.methods = self.methods.merge(methods);
        self
    }

    /// Which node this will be.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        self.config.node
    }

    /// Keeps the view record elsewhere than in the file of the configuration.
    #[must_use]
    pub fn record_store(mut self, store: impl RecordStore + 'static) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Uses sockets that are bound already, instead of binding the configured address.
    #[must_use]
    pub fn ports(mut self, ports: Ports) -> Self {
        self.ports = Some(ports);
        self
    }

    /// Has this program live inside the node: it is called with every event, and [`Node::next_event`] gives none. That saves
    /// waking a thread for each delivery, which costs more than everything else on the way.
    #[must_use]
    pub fn application(mut self, application: impl Application) -> Self {
        self.application = Some(Box::new(application));
        self
    }

    /// Sends bursts through segmentation offload where the kernel can; default true.
    #[must_use]
    pub const fn offload(mut self, offload: bool) -> Self {
        self.offload = offload;
        self
    }

    /// Bytes of messages that may wait for the application before deliveries, and so senders, are held. Default 64 MiB.
    #[must_use]
    pub const fn backlog(mut self, bytes: usize) -> Self {
        self.backlog = bytes;
        self
    }

    /// Changes what the configuration file does not say, such as limits of a layer.
    #[must_use]
    pub fn tune(mut self, tune: impl FnOnce(&mut StackConfig) + 'static) -> Self {
        self.tune = Box::new(tune);
        self
    }

    /// Takes part in distributed locks: see [`Node::locks`](super::Node::locks). All nodes of a cluster must, or none. A node
    /// that is lost without a proof of its death is fenced then, because it may hold locks.
    #[must_use]
    pub const fn locks(mut self, config: ocf_dlm::cluster::Config) -> Self {
        self.locks = Some(config);
        self
    }

    /// Puts a protocol bug back, to see that what judges the histories of real nodes finds it.
    #[cfg(feature = "sim")]
    #[must_use]
    pub fn put_back(mut self, bug: crate::sim::cluster::Bug) -> Self {
        self.alter = Box::new(move |stack| bug.put_back(stack));
        self
    }

    /// Asks this in even splits, in place of what the configuration says. `quorum` must have `+tie-breaker`.
    #[must_use]
    pub fn tie_breaker(mut self, breaker: impl TieBreaker + 'static) -> Self {
        self.tie_breaker = Some(Box::new(breaker));
        self
    }

    /// The watchdog of `self_fencing`, in place of the kernel's.
    #[must_use]
    pub fn watchdog(mut self, watchdog: impl Watchdog + 'static) -> Self {
        self.watchdog = Some(Box::new(watchdog));
        self
    }

    /// What ends this machine when the node has to end at once, in place of [`end_by_sysrq`]. The watchdog is behind it.
    #[must_use]
    pub fn on_end(mut self, end: impl FnOnce(&End) + Send + 'static) -> Self {
        self.ender = Box::new(end);
        self
    }

    /// `keep`: where promotion scores of agents are kept, if anywhere.
    fn agents(&self, runner: &Runner, keep: Option<&Path>) -> io::Result<Agents> {
        let mut agents = self.agents.clone();
        if !self.has_rust {
            agents = agents.with("rust", Arc::new(RustClass::built_in()));
        }
        if self.has_ocf {
            return Ok(agents);
        }
        let mut ocf = OcfClass::new(runner.clone())
            .with_root(&self.ocf_root)
            .with_node_name(self.config.name_of(self.config.node));
        if let Some(keep) = keep {
            ocf = ocf.with_promotion(keep)?;
        }
        Ok(agents.with("ocf", Arc::new(ocf)))
    }

    /// Beside the record: `<record>.scores`. A group with roles may be added while the cluster runs.
    fn scores(&self) -> Option<PathBuf> {
        self.config.record.as_deref().map(|record| durable::beside(record, ".scores"))
    }

    /// Checks all that can be checked without starting: the configuration, and what it needs of this machine, such as
    /// the key, the agents and the fence agents, and the parameters of each, by what they say about themselves.
    ///
    /// Parameters that a resource agent does not take, or misses, keep no node from starting: that resource is blocked and says
    /// why. So call this first where a person can mend them. Blocks for 5 s if an agent does not describe itself, see
    /// [`Descriptions::check`].
    ///
    /// # Errors
    /// [`StartError::Config`] with every mistake at once, or [`StartError::Threads`].
    pub fn check(&self) -> Result<(), StartError> {
        let runner = Runner::new(CHILDREN).map_err(StartError::Threads)?;
        let agents = self.agents(&runner, None).map_err(StartError::Scores)?;
        let mut errors = self.check_with(&agents);
        let resources = &self.config.resources;
        let needed = needed(self.config.node, resources);
        errors.nest("resources", Descriptions::new().check(resources, &agents, &needed));
        Ok(errors.into_result()?)
    }

    /// Everything that keeps the node from starting.
    fn check_with(&self, agents: &Agents) -> ConfigErrors {
        let config = &self.config;
        let nodes: Vec<NodeId> = config.nodes.iter().map(|n| n.id).collect();
        let resources = check_resources(config.node, &config.resources, &nodes, agents);
        let mut errors = config.check_with(self.devices.check(&config.fencing), resources);
        errors.nest("", self.wrong.clone());
        // What is wrong with the list itself was said above; what is in files only the machine can tell.
        let mut listed = ConfigErrors::default();
        config.check_keys(&mut listed);
        let from_files = config.key_file.is_some() || config.keys.iter().any(|entry| entry.file.is_some());
        if from_files
            && listed.into_result().is_ok()
            && let Err(wrong) = config.read_keys()
        {
            errors.nest("", wrong);
        }
        if let Some(record) = &config.record
            && self.store.is_none()
            && !record.parent().is_some_and(|folder| folder == Path::new("") || folder.is_dir())
        {
            let fix = "make the folder, or name a file in another one";
            errors.push("record", record.display(), "its folder does not exist", fix);
        }
        errors
    }

    /// Starts the node on a thread of its own, as a fresh incarnation.
    ///
    /// # Errors
    /// See [`StartError`]; nothing runs then.
    pub fn start(self) -> Result<Node, StartError> {
        let runner = Runner::new(CHILDREN).map_err(StartError::Threads)?;
        self.check_with(&self.agents(&runner, None).map_err(StartError::Scores)?).into_result()?;
        let agents = self.agents(&runner, self.scores().as_deref()).map_err(StartError::Scores)?;
        let mut stack_config = self.config.stack()?;
        stack_config.locks = self.locks;
        (self.tune)(&mut stack_config);
        stack_config.comm = cipher::for_this_machine(stack_config.comm);
        check_here(self.config.node, &stack_config, &agents, &self.devices)?;
        let (keys, (record, store, sole_life)) = (read_keys(&self.config)?, load(self.store, &self.config)?);
        stack_config.membership.sole_life = sole_life;
        let ports = self.ports.map_or_else(|| bind(&self.config, self.offload), Ok)?;
        let ports = ports.ping(&PingEntry::configs(&self.config.ping))?;
        let discovery = self.config.discovery_config(&ports.local_addresses()?);
        stack_config.comm.discovery = discovery.or(stack_config.comm.discovery);
        let local = NodeInstance::new(self.config.node, entropy::incarnation());
        let sentinel = self.config.sentinel.then(|| Sentinel::start(&SentinelConfig::default(), local));
        let sentinel = sentinel.transpose()?;
        stack_config.comm.obituary = sentinel.as_ref().map(Sentinel::commitment);
        let secrets = Secrets { keys, seed: entropy::bytes(), agreement: Box::new(Agreement::start()) };
        let unread_for = unread_for(&self.config.api, &stack_config.groups.slow);
        let (fencing, lease) = (stack_config.fencing.clone(), stack_config.membership.lease);
        let birth = Birth { local, secrets, record, rng: Rng::new(entropy::seed()) };
        let stack = Stack::new(ports.clock().now(), stack_config, birth)?;
        let (mut stack, keeper) = keeping(named(stack, &self.config), self.config.record.as_deref())?;
        (self.alter)(&mut stack);

        let (addresses, (remote, inbox)) = (ports.local_addresses()?, ports.inbox::<Command>());
        let recorder =
            store.map(|store| recorder(store, &remote)).transpose().map_err(StartError::Threads)?;
        let events = Arc::new(EventQueue::new(self.backlog));
        let gate = Arc::new(Gate::new(stack.sending()));
        let (agents, devices) = hosts(agents, (&self.devices, &fencing), &runner, &remote)?;
        let heartbeats = self.config.outside.heartbeats.as_ref().map(|entry| heartbeats(entry, &remote));
        let outside = Outside::start(&self.config, local).map_err(StartError::Threads)?;
        let (bus, (callers, jobs)) = (api::bus(), Callers::new());
        let host = NodeHost::new(
            (Arc::clone(&events), Arc::clone(&gate)),
            remote.clone(),
            (recorder, keeper),
            agents,
            devices,
        )
        .with_sentinel(sentinel)
        .with_decider(decider(self.tie_breaker, &self.config, local, &remote)?, self.config.ping.len())
        .with_outside(outside, heartbeats.transpose().map_err(StartError::Heartbeats)?)
        .with_bus(Some(bus.clone()))
        .with_callers(callers)
        .with_programs(self.config.api.local.is_some().then(|| Programs::new(local)))
        .with_application(self.application);
        // Last, and before anything can run here.
        let alive = arm((&self.config, lease), self.watchdog, self.ender, (&remote, &mut stack))?;
        let clock = ports.clock();
        let reactor = Reactor::new(ports, inbox, stack, host.with_alive(alive.clone(), clock));
        let more = (self.methods, Arc::clone(&gate), unread_for);
        let launched = launch((&self.config, local), reactor, more, (jobs, remote), &bus);
        // A node that does not start has not met anybody.
        let (running, api) = launched.inspect_err(|_| alive.iter().for_each(|alive| alive.let_go()))?;
        Ok(Node {
            inner: Arc::new(Inner {
                handle: running.handle(),
                partitions: running.handle().inspect(|s, _, _| s.partition().is_some()).unwrap_or(false),
                running: Mutex::new(Some(running)),
                events,
                gate,
                local,
                addresses,
                config: self.config,
                api: Mutex::new(api),
                bus,
                alive,
            }),
        })
    }
}

/// What runs agents and fence devices.
fn hosts(
    agents: Agents,
    (devices, fencing): (&Classes, &ocf_stonith::Config),
    runner: &Runner,
    remote: &Remote<Command>,
) -> Result<(AgentHost, DeviceHost), StartError> {
    let report = reporter(remote);
    let devices = DeviceHost::new(fencing, devices, runner, move |done| report(Command::Device(done)))?;
    let report = reporter(remote);
    let agents = AgentHost::new(agents, move |done| report(Command::Operated(done.run, done.result)));
    Ok((agents, devices))
}

/// A stack that calls nodes what people call them.
fn named(mut stack: Stack, config: &NodeConfig) -> Stack {
    stack.set_names(config.nodes.iter().map(|n| (n.id, config.name_of(n.id))));
    stack
}

/// Starts the node's thread, and what answers others.
fn launch(
    (config, local): (&NodeConfig, NodeInstance),
    reactor: Reactor<Stack, NodeHost>,
    more: (rpc::Builder, Arc<Gate>, Duration),
    calls: (Receiver<Job>, Remote<Command>),
    bus: &Bus,
) -> Result<(Running<Stack, NodeHost>, Option<Api>), StartError> {
    let running = reactor.spawn(&format!("ocf-{}", local.node))?;
    let api = serve((config, local), running.handle(), more, calls, bus)?;
    Ok((running, api))
}

/// Has the watchdog stand behind the node, if the configuration has one.
fn arm(
    (config, lease): (&NodeConfig, Duration),
    given: Option<Box<dyn Watchdog>>,
    ender: Ender,
    (remote, stack): (&Remote<Command>, &mut Stack),
) -> Result<Option<Arc<Alive>>, StartError> {
    let Some(entry) = &config.self_fencing else { return Ok(None) };
    let watchdog = match given {
        Some(given) => given,
        None => {
            let watchdog = KernelWatchdog::new(&entry.watchdog)
                .map_err(|reason| NotArmedError::NoWatchdog { path: entry.watchdog.clone(), reason })?;
            // Orders on disks reach whoever keeps it quiet; without them others count on nobody doing so.
            Box::new(if entry.disks.is_empty() { watchdog.marked() } else { watchdog })
        }
    };
    let time = watchdog.timeout();
    if time < lease {
        return Err(NotArmedError::Fast { watchdog: time, lease }.into());
    }
    let alive = Arc::new(Alive::arm(entry, &config.name_of(config.node), watchdog, ender)?);
    let beating = alive::beat(time, remote.clone());
    beating.inspect_err(|_| alive.let_go()).map_err(StartError::Threads)?;
    if entry.disks.is_empty() {
        stack.set_watchdog(time);
    }
    Ok(Some(alive))
}

/// Answers what other nodes and programs outside ask of the node.
fn serve(
    (config, local): (&NodeConfig, NodeInstance),
    handle: Handle<Stack, NodeHost>,
    (more, gate, unread_for): (rpc::Builder, Arc<Gate>, Duration),
    (jobs, remote): (Receiver<Job>, Remote<Command>),
    bus: &Bus,
) -> Result<Option<Api>, StartError> {
    let locks = Arc::new(LockService::new(handle.clone(), config.api.locks.clone(), config.sentinel));
    let more = more.merge(lock_service::methods(&locks));
    let groups = GroupService::new((handle.clone(), gate), config.api.groups.clone(), unread_for);
    let methods = api::dispatcher(config, &handle, local, more);
    calls::serve(methods.clone(), jobs, remote).map_err(StartError::Threads)?;
    let start = || Api::start(config, local, methods, (bus, locks, Arc::new(groups)));
    Ok(config.api.is_on().then(start).transpose()?)
}

/// How long a program may take nothing while the node waits for it: it goes before the whole node does.
fn unread_for(api: &ApiConfig, slow: &SlowMembers) -> Duration {
    let asked = api.groups_unread_ms.map_or(group_service::UNREAD_FOR, Duration::from_millis);
    match slow {
        SlowMembers::Evict(patience) => asked.min(patience.stalled / 2),
        SlowMembers::Throttle => asked,
    }
}

/// Gives the stack what an earlier life has kept of what the cluster agreed to run, and has that kept from now on: beside the record, in
/// `<record>.resources`.
fn keeping(mut stack: Stack, record: Option<&Path>) -> Result<(Stack, Option<Keeper>), StartError> {
    let Some(path) = record.map(|record| durable::beside(record, ".resources")) else {
        return Ok((stack, None));
    };
    let kept = recorder::kept(&path).map_err(|reason| StartError::Kept { path: path.clone(), reason })?;
    if let Some(kept) = kept {
        stack.set_kept(kept);
    }
    Ok((stack, Some(Keeper::start(path).map_err(StartError::Threads)?)))
}

/// The keys, in memory that is held before they are in it, if the configuration asks for that.
fn read_keys(config: &NodeConfig) -> Result<KeyRing, StartError> {
    if config.lock_memory {
        pils::memory::lock()?;
    }
    Ok(config.read_keys()?)
}

/// The view record of an earlier life, where it is kept, and whether nothing of earlier lives runs.
fn load(store: Option<Box<dyn RecordStore>>, config: &NodeConfig) -> Result<Loaded, StartError> {
    let file = || config.record.as_ref().map(|path| Box::new(FileStore::new(path)) as Box<dyn RecordStore>);
    Ok(match store.or_else(file) {
        Some(mut store) => {
            let record = store.load().map_err(StartError::Record)?;
            // A node with a sentinel locks for no programs.
            let leaves_programs = config.api.is_on() && !config.sentinel;
            let sole_life = store.claim(leaves_programs).map_err(StartError::Record)?;
            (record, Some(store), sole_life)
        }
        None => (None, None, false),
    })
}

/// What asks the tie-breaker, if there is one.
fn decider(
    given: Option<Box<dyn TieBreaker>>,
    config: &NodeConfig,
    local: NodeInstance,
    remote: &Remote<Command>,
) -> Result<Option<Decider>, StartError> {
    let mut nodes: Vec<NodeId> = config.nodes.iter().map(|n| n.id).collect();
    nodes.sort_unstable();
    let open =
        |entry: &TieBreakerEntry| entry.open(&config.cluster, local, &nodes, Rng::new(entropy::seed()));
    let breaker = match given {
        Some(given) => Some(given),
        None => config.tie_breaker.as_ref().map(open).transpose()?.flatten(),
    };
    let report = reporter(remote);
    let start =
        |breaker| Decider::start(breaker, move |ballot, verdict| report(Command::Tie(ballot, verdict)));
    breaker.map(start).transpose().map_err(StartError::Threads)
}

fn recorder(store: Box<dyn RecordStore>, remote: &Remote<Command>) -> io::Result<Recorder> {
    let report = reporter(remote);
    Recorder::start(store, move |token, written| {
        report(match written {
            Ok(()) => Command::Persisted(token),
            Err(_) => Command::PersistFailed(token),
        });
    })
}

/// Serves heartbeats of applications.
fn heartbeats(entry: &HeartbeatEntry, remote: &Remote<Command>) -> io::Result<AppHeartbeatServer> {
    let own = rustix::process::geteuid().as_raw();
    let others = || entry.users.iter().chain(&entry.may_reboot).copied();
    let config = ocf_resource::apphb::Config {
        interval: Duration::from_millis(entry.interval_ms),
        may_reboot: entry.may_reboot.iter().copied().collect(),
        // Who registers as a resource can have it taken for failed.
        may_register: Some(others().chain([0, own]).collect()),
        ..ocf_resource::apphb::Config::default()
    };
    let report = reporter(remote);
    let server =
        AppHeartbeatServer::bind(&entry.socket, config, move |told| report(Command::Application(told)))?;
    let mode = if others().next().is_some() { 0o666 } else { 0o600 };
    fs::set_permissions(&entry.socket, fs::Permissions::from_mode(mode))?;
    Ok(server)
}

/// Opens the sockets that the configuration names.
fn bind(config: &NodeConfig, offload: bool) -> Result<Ports, SetupError> {
    let mut io = IoConfig::over(config.specs());
    io.offload = offload;
    Ports::bind(&io)
}

/// Passes reports of other threads on to the reactor.
fn reporter(remote: &Remote<Command>) -> impl Fn(Command) + Send + Sync + 'static {
    let remote = remote.clone();
    move |command| {
        if remote.post(command).is_err() {
            tracing::debug!("a report came after the node stopped");
        }
    }
}

/// Checks what only this machine can say, after what a program changed: are the agents here that may be needed here, and
/// the fence agents?
fn check_here(
    node: NodeId,
    config: &StackConfig,
    agents: &Agents,
    devices: &Classes,
) -> Result<(), ConfigErrors> {
    let nodes: Vec<NodeId> = config.membership.nodes.iter().map(|n| n.node).collect();
    let mut errors = ConfigErrors::default();
    if let Err(wrong) = check_resources(node, &config.resources, &nodes, agents) {
        errors.nest("resources", wrong);
    }
    if let Err(wrong) = devices.check(&config.fencing) {
        errors.nest("fencing", wrong);
    }
    errors.into_result()
}

/// Checks resources, and, of those that may run on `node`, that their agents are here.
fn check_resources(
    node: NodeId,
    resources: &ocf_resource::Config,
    nodes: &[NodeId],
    agents: &Agents,
) -> Result<(), ConfigErrors> {
    let needed = needed(node, resources);
    let find = |agent: &AgentName| if needed.contains(agent) { agents.find(agent).map(drop) } else { Ok(()) };
    resources.check(nodes, find)
}

/// The agents of what may run on `node`.
fn needed(node: NodeId, resources: &ocf_resource::Config) -> BTreeSet<&AgentName> {
    let may_run =
        |group: &GroupConfig| group.nodes.is_empty() || group.elsewhere || group.nodes.contains(&node);
    let here = resources.groups.iter().filter(|g| may_run(g));
    here.flat_map(|g| g.resources.iter().map(|r| &r.agent)).collect()
}
