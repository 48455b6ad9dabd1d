//! What looking after resources costs, and how soon they are back.
//!
//! `cargo bench --bench resource`, with `-- --json` one object per line, with `-- --quick` shorter; `--only` with `calls`, `watch`,
//! `many` or `recovery` measures that part alone. Needs `/bin/sh`; the comparison with Pacemaker needs root and Debian's `corosync`,
//! `pacemaker` and `iproute2`.

mod many;
mod recovery;
mod support;

use ocf::{Cluster, Node};
use ocf_resource::driver::{Events, InProcess, Local, OcfClass, RustClass, Stateful};
use ocf_resource::executor::{Event, OperationId, Request, WatchPolicy};
use ocf_resource::{
    Action, AgentName, Agents, Config, GroupConfig, Metadata, OcfCode, Operation, OperationResult, Outcome,
    ResourceAgent, ResourceConfig, ResourceState, executor,
};
use pils::process::Runner;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use support::{Goal, Options, Report, Samples};

/// An agent that does nothing but answer: what is left is the cost of the call.
const AGENT: &str = "#!/bin/sh\ncase $1 in meta-data)\necho '<resource-agent name=\"Quick\" version=\"1\">\
    <version>1.1</version><longdesc>x</longdesc><shortdesc>x</shortdesc><parameters/><actions>\
    <action name=\"start\" timeout=\"20s\"/><action name=\"stop\" timeout=\"20s\"/>\
    <action name=\"monitor\" timeout=\"20s\"/></actions></resource-agent>' ;; esac\n";
const LONG: Duration = Duration::from_secs(120);

/// Resources that an executor watches.
const WATCHED: usize = 10_000;
/// Resources of a whole node, in groups of [`GROUP`].
const MANAGED: usize = 1_000;
const GROUP: usize = 50;
/// One agent in so many is a program.
const PROGRAM: usize = 100;
/// How often each of them is looked at: the default.
const INTERVAL: Duration = Duration::from_secs(10);

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("bench-resource-{}", std::process::id()));
        let agents = dir.join("resource.d/bench");
        fs::create_dir_all(&agents).expect("a directory");
        let agent = agents.join("quick");
        fs::write(&agent, AGENT).expect("a file");
        fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("its own file");
        Self(dir)
    }

    fn agent(&self) -> PathBuf {
        self.0.join("resource.d/bench/quick")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or(());
    }
}

fn quick() -> AgentName {
    "ocf:bench:quick".parse().expect("the name of an agent")
}

/// One run of the agent with nothing around it: fork, exec, read to the end, wait.
fn bare(agent: &Path) {
    let output = Command::new(agent).arg("monitor").env_clear().stdin(Stdio::null()).output();
    assert!(output.expect("it starts").status.success(), "it answers");
}

/// The same call through the class of OCF agents.
struct Class {
    agent: Arc<dyn ResourceAgent>,
    answers: (Sender<OperationResult>, Receiver<OperationResult>),
}

impl Class {
    fn new(root: &Path) -> Self {
        Self { agent: classes(root).find(&quick()).expect("it is there"), answers: channel() }
    }

    fn call(&self) {
        let (tell, told) = (self.answers.0.clone(), &self.answers.1);
        let done = move |result: OperationResult| tell.send(result).expect("the bench listens");
        let operation = Operation::new("x", quick(), Action::Monitor);
        let _canceller = self.agent.begin(&operation, Box::new(done));
        assert_eq!(told.recv().expect("an answer").outcome, Outcome::Ok);
    }
}

/// The same call through the executor: it waits for its turn, is begun, and its end is told as an event.
struct Executor {
    local: Local,
    events: Events,
    last: u64,
}

impl Executor {
    fn new(root: &Path) -> Self {
        let (tell, events) = Events::channel();
        let local = Local::open(classes(root), executor::Config::default(), None, tell).expect("a thread");
        let mut executor = Self { local, events, last: 0 };
        // The first look makes the agent describe itself, once.
        executor.call();
        thread::sleep(Duration::from_millis(100));
        executor
    }

    fn call(&mut self) {
        self.last += 1;
        let operation = Operation::new("x", quick(), Action::Monitor);
        self.local.request(Request::Run { id: OperationId(self.last), operation });
        match self.events.next(LONG) {
            Some(Event::Finished { result, .. }) => assert_eq!(result.outcome, Outcome::Ok),
            other => panic!("{other:?}"),
        }
    }
}

fn classes(root: &Path) -> Agents {
    let runner = Runner::new(8).expect("a thread");
    Agents::new().with("ocf", Arc::new(OcfClass::new(runner).with_root(root)))
}

/// The three kinds of call by turns, so that a disturbance hits all of them alike: medians of a round.
fn round(agent: &Path, class: &Class, executor: &mut Executor, times: usize) -> [f64; 3] {
    let mut taken: [Vec<Duration>; 3] = Default::default();
    for _ in 0..times {
        let mut calls: [&mut dyn FnMut(); 3] =
            [&mut || bare(agent), &mut || class.call(), &mut || executor.call()];
        for (call, taken) in calls.iter_mut().zip(&mut taken) {
            let began = Instant::now();
            call();
            taken.push(began.elapsed());
        }
    }
    taken.map(|taken| Samples::micros(taken).median())
}

fn calls(options: Options, scratch: &Scratch, report: &mut Report) {
    let (agent, root) = (scratch.agent(), &scratch.0);
    let (class, mut executor) = (Class::new(root), Executor::new(root));
    let rounds = (0..options.rounds()).map(|_| round(&agent, &class, &mut executor, options.count(1000)));
    let rounds: Vec<[f64; 3]> = rounds.collect();
    let [exec, through_class, through_executor] =
        [0, 1, 2].map(|kind| Samples::new(rounds.iter().map(|round| round[kind]).collect()));
    report.judge_machine("EXEC", &exec);
    let bare = ("EXEC", exec.median());
    report.figure(("EXEC", "fork, exec, pipes and wait, nothing around it"), (bare.1, "us"), None, None);
    let mut add = |id, what, taken: &Samples| {
        report.figure((id, what), (taken.median(), "us"), Some(bare), Some(Goal::AtMost(1.3)));
    };
    add("E-1", "agent call through its class", &through_class);
    add("E-2", "agent call through the executor", &through_executor);
}

/// The agent in this process, and how often it looked.
#[derive(Clone, Default)]
struct Counting {
    agent: Stateful,
    looks: Arc<AtomicUsize>,
}

impl InProcess for Counting {
    fn operate(&self, operation: &Operation) -> Result<String, (OcfCode, String)> {
        if operation.action == Action::Monitor {
            self.looks.fetch_add(1, Ordering::Relaxed);
        }
        self.agent.operate(operation)
    }

    fn metadata(&self) -> Metadata {
        self.agent.metadata()
    }
}

/// Processor time of this process and of its children that have ended.
fn used() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("the system tells");
    // Behind the name: the state, 10 more, then user and system time, own and of children.
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields.split(' ').skip(11).take(4));
    let ticks: u64 = fields.expect("a name").map(|field| field.parse::<u64>().expect("a number")).sum();
    // The kernel tells hundredths of a second to programs, whatever it counts in.
    Duration::from_millis(ticks * 10)
}

/// The agent of the resource with this number.
fn agent_of(at: usize) -> AgentName {
    let name = if at.is_multiple_of(PROGRAM) { "ocf:bench:quick" } else { "rust:stateful" };
    name.parse().expect("the name of an agent")
}

/// What is measured while resources are watched: per cent of a processor, and looks of agents in this process per second.
fn look_on(options: Options, counting: &Counting) -> [f64; 2] {
    // A whole number of intervals, so that each was looked at so often.
    let time = INTERVAL * if options.quick { 1 } else { 3 };
    let (before, looks, start) = (used(), counting.looks.load(Ordering::Relaxed), Instant::now());
    thread::sleep(time);
    let took = start.elapsed().as_secs_f64();
    let used = used().saturating_sub(before).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let looked = (counting.looks.load(Ordering::Relaxed) - looks) as f64;
    [used / took * 100.0, looked / took]
}

/// The executor of one node watches [`WATCHED`] resources.
fn watch(options: Options, root: &Path) -> [f64; 2] {
    let counting = Counting::default();
    let rust = RustClass::new().with("stateful", Arc::new(counting.clone()));
    let (tell, events) = Events::channel();
    let agents = classes(root).with("rust", Arc::new(rust));
    let local = Local::open(agents, executor::Config::default(), None, tell).expect("a thread");
    let operation = |at: usize, action| Operation::new(format!("r{at}"), agent_of(at), action);
    let ids = || (0..).map(OperationId);
    for (at, id) in (0..WATCHED).zip(ids()) {
        local.request(Request::Run { id, operation: operation(at, Action::Start) });
    }
    for _ in 0..WATCHED {
        match events.next(LONG) {
            Some(Event::Finished { result, .. }) => assert_eq!(result.outcome, Outcome::Ok),
            other => panic!("{other:?}"),
        }
    }
    for (at, id) in (0..WATCHED).zip(ids().skip(WATCHED)) {
        let operation = Operation { interval: Some(INTERVAL), ..operation(at, Action::Monitor) };
        local.request(Request::Watch { id, operation, policy: WatchPolicy::default() });
    }
    // The first looks come within an interval.
    thread::sleep(INTERVAL);
    let seen = look_on(options, &counting);
    assert_eq!(events.next(Duration::ZERO), None, "none of them has failed");
    seen
}

fn resources() -> Config {
    let resource = |at: usize| {
        let mut resource = ResourceConfig::new(format!("r{at}"), agent_of(at));
        resource.monitor_interval = INTERVAL;
        resource
    };
    let group = |at: usize| {
        let members = (at * GROUP..(at + 1) * GROUP).map(resource).collect();
        GroupConfig::new(format!("g{at}"), members)
    };
    Config { groups: (0..MANAGED / GROUP).map(group).collect(), ..Config::default() }
}

/// How many resources run, as the node's own status says.
fn running(node: &Node) -> usize {
    let status = node.snapshot().expect("the node runs").resources;
    let resources = status.groups.iter().flat_map(|group| &group.resources);
    resources.filter(|r| r.at.iter().any(|(_, state)| matches!(state, ResourceState::Running(_)))).count()
}

/// A whole node looks after [`MANAGED`] resources: what [`look_on`] gives, and seconds until all ran.
fn manage(options: Options, root: &Path) -> ([f64; 2], f64) {
    let counting = Counting::default();
    let class = Arc::new(RustClass::new().with("stateful", Arc::new(counting.clone())));
    let root = root.to_owned();
    let equip =
        move |builder: ocf::NodeBuilder| builder.agent_class("rust", Arc::clone(&class) as _).ocf_root(&root);
    let began = Instant::now();
    let cluster = Cluster::builder("bench").resources(resources()).equip(equip).local(1).expect("a node");
    let node = cluster.node(0).expect("it was started");
    while running(node) < MANAGED {
        assert!(began.elapsed() < LONG, "only {} run", running(node));
        // An application takes its events.
        let until = Instant::now() + Duration::from_millis(200);
        while Instant::now() < until {
            drop(node.next_event(Duration::from_millis(100)));
        }
    }
    let ready = began.elapsed().as_secs_f64();
    while node.next_event(Duration::from_secs(1)).is_some() {}
    let seen = look_on(options, &counting);
    assert_eq!(running(node), MANAGED, "all of them run to the end");
    (seen, ready)
}

fn watched(options: Options, scratch: &Scratch, report: &mut Report) {
    let [cpu, looks] = watch(options, &scratch.0);
    let (goal, bound) = (Some(Goal::AtMost(1.0)), Some(("20 %", 20.0)));
    report.figure(("E-3", "10,000 resources watched, of a processor"), (cpu, "%"), bound, goal);
    report.figure(("E-3/looks", "looks of the agents in this process"), (looks, "1/s"), None, None);
    let ([cpu, _], ready) = manage(options, &scratch.0);
    report.figure(("E-4", "a whole node that runs 1,000, of a processor"), (cpu, "%"), None, None);
    report.figure(("E-4/ready", "from nothing until all 1,000 run"), (ready, "s"), None, None);
    report.note(
        "E-3, E-4: each looked at every 10 s; of 100 agents 99 are in this process and one is a line of shell, whose time counts",
    );
}

fn main() -> ExitCode {
    if let Some(code) = recovery::inside() {
        return code;
    }
    let options = Options::from_args();
    let scratch = Scratch::new();
    let mut report = Report::default();
    let wants = |part| options.only.is_none_or(|only| only == part);
    if wants("calls") {
        calls(options, &scratch, &mut report);
    }
    if wants("watch") {
        watched(options, &scratch, &mut report);
    }
    if wants("many") {
        many::report(options, &mut report);
    }
    if wants("recovery") {
        recovery::report(options, &mut report);
    }
    report.print(options);
    ExitCode::SUCCESS
}
