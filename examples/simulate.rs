//! The whole stack under the simulator, for as many seeds as you like.
//!
//! `cargo run --release --example simulate -- [--seed N] [--runs N] [--nodes N] [--paths N] [--seconds N] [--canary] [--verbose]`, or
//! with `--circuits` node communication alone.
//!
//! Exit status: 0 every property held, 1 one did not, 2 a healed cluster did not become well, 3 a core panicked or a
//! replay differed. With `--canary` the fence device lies, and success is a failure.
#![expect(clippy::print_stdout, reason = "a program talks to a person")]

use clap::Parser;
use ocf::sim::cluster::{self, Bug, EXPECTED, Options};
use ocf::sim::{Fault, PATH_CASES, Report, Verdict, circuits};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::hash::{BuildHasher, RandomState};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Entries of the history that are shown before a violation.
const TAIL: usize = 60;
/// Share of the runs in which the set of nodes changes.
const SET_CHANGES: f64 = 0.2;
/// The default of `--partitions`.
const PARTITIONS: f64 = 0.2;

/// Simulates a whole cluster: one seed decides everything, the same seed gives the same run.
#[derive(Parser, Debug)]
struct Args {
    /// The first seed; fresh ones are drawn if it is not given.
    #[arg(long)]
    seed: Option<u64>,
    /// How many seeds. Default: 1 with --seed, else 100.
    #[arg(long)]
    runs: Option<u64>,
    /// Number of nodes. Default: 3 to 5, by the seed.
    #[arg(long)]
    nodes: Option<u32>,
    /// Number of paths between two nodes, 1 to 3. Default: by the seed.
    #[arg(long)]
    paths: Option<u8>,
    /// Virtual seconds with faults in each run.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Every so many runs are run twice and compared.
    #[arg(long, default_value_t = 10)]
    replay: u64,
    /// A fence device that lies: the checkers must object.
    #[arg(long)]
    canary: bool,
    /// Put a protocol bug back, by its name.
    #[arg(long)]
    bug: Option<String>,
    /// Only node communication, without the layers above.
    #[arg(long)]
    circuits: bool,
    /// No faults, little load.
    #[arg(long)]
    idle: bool,
    /// Only these kinds of fault, often: Closing, Alone, Kill, ... Several, separated by commas.
    #[arg(long, value_delimiter = ',')]
    focus: Vec<String>,
    /// Share of the runs in which nodes are added to the cluster and removed from it, 0 to 1.
    #[arg(long, default_value_t = SET_CHANGES)]
    set_changes: f64,
    /// Share of the runs in which the nodes have a group that goes on in any partition, 0 to 1.
    #[arg(long, default_value_t = PARTITIONS)]
    partitions: f64,
    /// Print the whole history of each run.
    #[arg(long)]
    verbose: bool,
    /// Go on after a failure, and count failures by kind.
    #[arg(long)]
    keep_going: bool,
}

fn faults() -> impl Iterator<Item = Fault> {
    Fault::ALL.into_iter().chain(Fault::OF_PATHS)
}

#[derive(Default)]
struct Sum {
    runs: u64,
    length: Duration,
    events: u64,
    datagrams: (u64, u64),
    coverage: BTreeMap<&'static str, u64>,
    judged: BTreeMap<&'static str, u64>,
    failures: BTreeMap<String, Vec<u64>>,
}

impl Sum {
    fn add<R>(&mut self, report: &Report<R>) {
        self.runs += 1;
        self.length += report.length;
        self.events += report.events;
        self.datagrams.0 += report.datagrams.0;
        self.datagrams.1 += report.datagrams.1;
        for (case, n) in &report.coverage {
            *self.coverage.entry(case).or_insert(0) += n;
        }
        for (checker, n) in &report.judged {
            *self.judged.entry(checker).or_insert(0) += n;
        }
    }

    fn print(&self, took: Duration, expected: &[&str]) {
        println!("\nruns               {}", self.runs);
        println!("virtual time       {:.2} h", self.length.as_secs_f64() / 3600.0);
        println!("real time          {:.1} s", took.as_secs_f64());
        println!("real-time factor   {:.0}x", self.length.as_secs_f64() / took.as_secs_f64().max(1e-9));
        println!("events             {}", self.events);
        println!("datagrams          {} sent, {} lost", self.datagrams.0, self.datagrams.1);
        println!("\nfacts judged");
        for (checker, n) in &self.judged {
            println!("  {n:>10}  {checker}");
        }
        println!("\ncases that occurred");
        for (case, n) in &self.coverage {
            println!("  {n:>10}  {case}");
        }
        for case in expected.iter().filter(|case| !self.coverage.contains_key(**case)) {
            println!("       never  {case}");
        }
        for (kind, seeds) in &self.failures {
            println!("\nFAILED {} times, seeds {:?}: {kind}", seeds.len(), &seeds[..seeds.len().min(8)]);
        }
    }
}

fn show<R: Debug>(report: &Report<R>, all: bool) {
    let skip = if all { 0 } else { report.history.len().saturating_sub(TAIL) };
    if skip > 0 {
        println!("  ({skip} entries before)");
    }
    for entry in &report.history[skip..] {
        println!("  {entry}");
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A panic of a core is a result like any other; the default hook would print pages.
    std::panic::set_hook(Box::new(|panic| println!("{panic}")));
    let mut options = Options {
        nodes: args.nodes,
        paths: args.paths,
        canary: args.canary,
        idle: args.idle,
        partitions: if args.idle { 0.0 } else { args.partitions.clamp(0.0, 1.0) },
        set_changes: if args.idle { 0.0 } else { args.set_changes.clamp(0.0, 1.0) },
        ..Options::default()
    };
    options.safety = Duration::from_secs(args.seconds);
    if let Some(name) = &args.bug {
        let Some(bug) = Bug::ALL.into_iter().find(|b| b.name() == *name) else {
            let names: Vec<String> = Bug::ALL.iter().map(Bug::name).collect();
            println!("no bug {name:?}; there are: {}", names.join(", "));
            return ExitCode::from(3);
        };
        options.bug = Some(bug);
    }
    for name in &args.focus {
        let Some(fault) = faults().find(|f| format!("{f:?}") == *name) else {
            println!("no kind of fault {name:?}; there are: {:?}", faults().collect::<Vec<_>>());
            return ExitCode::from(3);
        };
        options.focus.push(fault);
    }
    if args.circuits {
        let bug = match options.bug {
            Some(Bug::Paths(bug)) => Some(bug),
            Some(other) => {
                println!("{} is no bug of node communication", other.name());
                return ExitCode::from(3);
            }
            None => None,
        };
        let options = circuits::Options { nodes: args.nodes, paths: args.paths, safety: options.safety, bug };
        campaign(&args, |seed| circuits::run(seed, &options), &PATH_CASES)
    } else {
        let expected: Vec<&str> = EXPECTED.into_iter().chain(PATH_CASES).collect();
        campaign(&args, |seed| cluster::run(seed, &options), &expected)
    }
}

/// Runs seed after seed.
fn campaign<R: Debug>(args: &Args, run: impl Fn(u64) -> Report<R>, expected: &[&str]) -> ExitCode {
    let first = args.seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
    let runs = args.runs.unwrap_or_else(|| if args.seed.is_some() { 1 } else { 100 });
    println!("seeds {first} to {}", first + runs.max(1) - 1);
    let began = Instant::now();
    let mut sum = Sum::default();
    let mut worst = 0;
    for seed in first..first + runs {
        let report = run(seed);
        sum.add(&report);
        if args.verbose {
            println!("{:#?}", report.profile);
            show(&report, true);
        }
        if (seed - first) % args.replay.max(1) == args.replay.max(1) - 1 {
            let again = run(seed);
            if (again.trace, again.events) != (report.trace, report.events) {
                println!("\nseed {seed}: a second run differs: something is not a function of the seed");
                reproduce(seed, args);
                return ExitCode::from(3);
            }
        }
        let (code, what) = judge(&report.verdict);
        if code != 0 {
            worst = worst.max(code);
            sum.failures.entry(kind_of(&what)).or_default().push(seed);
            if !args.keep_going {
                println!("\nseed {seed}, {} nodes, after {:?}:", report.profile.nodes, report.length);
                show(&report, false);
                println!("\n{what}");
                reproduce(seed, args);
                break;
            }
            println!("seed {seed}: {}", what.chars().take(300).collect::<String>());
        }
        if sum.runs % 50 == 0 {
            println!("{} runs, {:.0} s", sum.runs, began.elapsed().as_secs_f64());
        }
    }
    sum.print(began.elapsed(), expected);
    ExitCode::from(worst)
}

/// The failure without its numbers, so that equal failures of many seeds count as one.
fn kind_of(what: &str) -> String {
    let mut words: Vec<&str> =
        what.split_whitespace().filter(|w| !w.contains(|c: char| c.is_ascii_digit())).collect();
    words.truncate(20);
    words.join(" ")
}

fn judge(verdict: &Verdict) -> (u8, String) {
    match verdict {
        Verdict::Passed => (0, String::new()),
        Verdict::Correctness(violation) => (1, violation.to_string()),
        Verdict::Liveness(text) => (2, format!("liveness: {text}")),
        Verdict::Crash(text) => (3, format!("crash: {text}")),
    }
}

fn reproduce(seed: u64, args: &Args) {
    let mut line = format!("REPRODUCE: cargo run --release --example simulate -- --seed {seed}");
    if let Some(nodes) = args.nodes {
        line += &format!(" --nodes {nodes}");
    }
    if let Some(paths) = args.paths {
        line += &format!(" --paths {paths}");
    }
    if args.seconds != 30 {
        line += &format!(" --seconds {}", args.seconds);
    }
    if args.canary {
        line += " --canary";
    }
    if args.circuits {
        line += " --circuits";
    }
    if args.idle {
        line += " --idle";
    }
    if !args.focus.is_empty() {
        line += &format!(" --focus {}", args.focus.join(","));
    }
    if (args.set_changes - SET_CHANGES).abs() > f64::EPSILON {
        line += &format!(" --set-changes {}", args.set_changes);
    }
    if (args.partitions - PARTITIONS).abs() > f64::EPSILON {
        line += &format!(" --partitions {}", args.partitions);
    }
    if let Some(bug) = &args.bug {
        line += &format!(" --bug {bug}");
    }
    println!("{line}");
}
