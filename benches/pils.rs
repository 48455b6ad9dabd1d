//! What plug-ins cost, by the way they come in, and what the codecs do in a second.
//!
//! `cargo bench --bench pils`, with `-- --json` one object per line, with `-- --quick` shorter. Builds the example module of
//! `pils`; needs Python 3 for what is held against it.

mod support;

use pils::codec::xmlrpc::{Call, Fault};
use pils::codec::{Binary, LiXml, Limits, NameValue, XmlRpc};
use pils::plugin::{CallError, Contract, Interface, Loader, Program, Remote, Universe};
use pils::{Registry, Value, ValueCodec};
use std::hint::black_box;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;
use support::{Figure, Options, Report, interleave};

/// What is called: a counter, wherever it comes from.
trait Counter: Send + Sync {
    fn add(&self, n: i64) -> Result<i64, CallError>;
}

/// In this program.
#[derive(Default)]
struct Compiled(AtomicI64);

impl Counter for Compiled {
    #[inline(never)]
    fn add(&self, n: i64) -> Result<i64, CallError> {
        Ok(self.0.fetch_add(n, Ordering::Relaxed) + n)
    }
}

/// In a module, or in a program of its own.
struct Loaded(Arc<dyn Remote>);

impl Counter for Loaded {
    fn add(&self, n: i64) -> Result<i64, CallError> {
        let value = self.0.call("add", &[n.into()])?;
        value.as_int().ok_or_else(|| Fault::application("no number").into())
    }
}

/// Python's side: how long it takes for a document that it is given, in microseconds: to read it, and to write it.
const PYTHON: &str = "import sys, time, xmlrpc.client as x\n\
    times, text = int(sys.argv[1]), sys.stdin.buffer.read()\n\
    began = time.perf_counter()\n\
    for _ in range(times): params, method = x.loads(text, use_builtin_types=True)\n\
    read = time.perf_counter() - began\n\
    began = time.perf_counter()\n\
    for _ in range(times): written = x.dumps(params, method).encode()\n\
    print(read / times * 1e6, (time.perf_counter() - began) / times * 1e6 * len(text) / len(written))\n";

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("pils/examples").join(name)
}

/// The example module, built as this bench was.
fn module() -> PathBuf {
    let cargo = std::env::var_os("CARGO").expect("a bench is run by cargo");
    let words = "build --quiet --profile bench -p pils --features dynamic --example counter_module";
    let status = Command::new(cargo).args(words.split(' ')).status().expect("cargo runs");
    assert!(status.success(), "the example module is built");
    let me = std::env::current_exe().expect("this program has a path");
    let built =
        me.ancestors().nth(2).expect("the folder of the profile").join("examples/libcounter_module.so");
    assert!(built.is_file(), "{} is there", built.display());
    built
}

/// One registry with a counter by each way in.
struct World {
    counters: Arc<Registry<dyn Counter>>,
    // What was loaded goes when the loader goes.
    _loader: Loader,
}

impl World {
    fn new() -> Self {
        let (universe, v1) = (Universe::new(), Interface { major: 1, minor: 0 });
        let loader = Loader::new(&universe);
        let adapter = |remote| Arc::new(Loaded(remote)) as Arc<dyn Counter>;
        let counters =
            loader.add_type("counter", Contract::new(v1, ["add"]), adapter).expect("a new plug-in type");
        counters
            .register("compiled", "1", Arc::new(Compiled::default()) as Arc<dyn Counter>)
            .expect("a new name");
        loader.load_module(&module()).expect("the module is whole");
        let mut program = Program::new("/usr/bin/env");
        program.args = vec!["python3".into(), example("counter_program.py").into()];
        program.env = vec![("PATH".into(), std::env::var_os("PATH").unwrap_or_default())];
        loader.start_program(program).expect("python3 is there");
        Self { counters, _loader: loader }
    }

    /// Nanoseconds of a call of the counter of this name, looked up once.
    fn call(&self, name: &str, times: usize) -> f64 {
        let counter = self.counters.get(name).expect("it is registered");
        nanos(times, || counter.add(black_box(1)).expect("it counts"))
    }

    /// Nanoseconds of a call that looks the counter up each time.
    fn get_and_call(&self, times: usize) -> f64 {
        let add = || self.counters.get("compiled").expect("it is registered").add(black_box(1));
        nanos(times, || add().expect("it counts"))
    }
}

/// Nanoseconds of one of so many.
fn nanos<R>(times: usize, mut what: impl FnMut() -> R) -> f64 {
    let began = Instant::now();
    for _ in 0..times {
        black_box(what());
    }
    began.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(times).unwrap_or(u32::MAX))
}

/// What a status of a thousand resources looks like.
fn value() -> Value {
    let resource = |n: i64| {
        Value::from([
            ("name", Value::from(format!("resource-{n}"))),
            ("node", Value::from(if n % 2 == 0 { "alpha" } else { "beta & gamma" })),
            ("running", (n % 3 != 0).into()),
            ("failures", (n % 5).into()),
            ("took", (0.25 * f64::from(i32::try_from(n).unwrap_or(0))).into()),
            ("tags", Value::List(vec!["web".into(), n.into()])),
        ])
    };
    Value::List((0..1000).map(resource).collect())
}

fn megabytes(bytes: usize, nanos: f64) -> f64 {
    f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) * 1000.0 / nanos
}

fn decode(codec: &dyn ValueCodec, times: usize) -> f64 {
    let bytes = codec.encode(&value()).expect("it can be written");
    let limits = Limits::default();
    megabytes(bytes.len(), nanos(times, || codec.decode(&bytes, &limits).expect("it was written here")))
}

fn encode(codec: &dyn ValueCodec, times: usize) -> f64 {
    let value = value();
    let length = codec.encode(&value).expect("it can be written").len();
    megabytes(length, nanos(times, || codec.encode(&value).expect("it can be written")))
}

/// The parser alone: every event of the document, its text unescaped, nothing made of it.
fn quick_xml(times: usize) -> f64 {
    use quick_xml::events::Event;
    let bytes = XmlRpc.encode(&value()).expect("it can be written");
    let text = std::str::from_utf8(&bytes).expect("it is text");
    let read = || {
        let (mut reader, mut seen) = (quick_xml::Reader::from_str(text), 0);
        loop {
            let event = reader.read_event().expect("it is well-formed");
            if let Event::Text(text) = &event {
                seen += text.xml10_content().len();
            } else if matches!(event, Event::Eof) {
                return seen;
            }
        }
    };
    megabytes(bytes.len(), nanos(times, read))
}

/// MB/s of Python's own implementation: reading and writing.
fn python(times: usize) -> Option<[f64; 2]> {
    let call = Call { method: "status".into(), params: vec![value()] };
    let document = call.to_xml().expect("it can be written");
    let mut command = Command::new("python3");
    command.args(["-c", PYTHON, &times.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take()?.write_all(&document).ok()?;
    let output = child.wait_with_output().ok()?;
    let micros: Vec<f64> = String::from_utf8(output.stdout)
        .ok()?
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let [read, write] = *micros.as_slice() else { return None };
    Some([read, write].map(|micros| megabytes(document.len(), micros * 1000.0)))
}

fn calls(options: Options, report: &mut Report) {
    let (world, direct) = (World::new(), Compiled::default());
    let times = options.count(1_000_000);
    let taken = interleave(
        options,
        vec![
            ("DIRECT", Box::new(|| nanos(times, || direct.add(black_box(1)).expect("it counts")))),
            ("P-1", Box::new(|| world.call("compiled", times))),
            ("P-1/get", Box::new(|| world.get_and_call(times))),
            ("P-2", Box::new(|| world.call("up", times / 4))),
            ("P-3", Box::new(|| world.call("python_up", times / 200))),
        ],
    );
    if options.only.is_some() {
        return;
    }
    let of = |name: &str| taken[name].median();
    let direct = of("DIRECT");
    let mut add = |id, what, value| {
        let against = (id != "DIRECT").then_some(("direct", direct));
        report.add(Figure { id, what, value, unit: "ns", against, goal: None });
    };
    add("DIRECT", "call of a method that is not inlined", direct);
    add("P-1", "plug-in compiled in, held", of("P-1"));
    add("P-1/get", "plug-in compiled in, looked up by its name each time", of("P-1/get"));
    add("P-2", "plug-in of a module, through its C interface", of("P-2"));
    add("P-3", "plug-in of a program, in Python, over its streams", of("P-3"));
}

fn codecs(options: Options, report: &mut Report) {
    let times = options.count(50);
    let all: [(&'static str, &'static str, &dyn ValueCodec); 3] = [
        ("K-3/read", "K-3/write", &Binary),
        ("K-4/read", "K-4/write", &LiXml),
        ("K-5/read", "K-5/write", &NameValue),
    ];
    let mut measures: Vec<support::Measure<'_>> = vec![
        ("QUICK-XML", Box::new(|| quick_xml(times))),
        ("K-1", Box::new(|| decode(&XmlRpc, times))),
        ("K-2", Box::new(|| encode(&XmlRpc, times))),
    ];
    for (read, write, codec) in all {
        measures.push((read, Box::new(move || decode(codec, times))));
        measures.push((write, Box::new(move || encode(codec, times))));
    }
    let taken = interleave(options, measures);
    if options.only.is_some() {
        return;
    }
    let of = |name: &str| taken[name].median();
    let mut add = |id, what, against| {
        report.add(Figure { id, what, value: of(id), unit: "MB/s", against, goal: None });
    };
    let parser = Some(("quick-xml", of("QUICK-XML")));
    add("QUICK-XML", "events of an XML-RPC document, nothing made of them", None);
    add("K-1", "XML-RPC read to a value", parser);
    add("K-2", "XML-RPC written", None);
    for (read, write, codec) in all {
        let [what_read, what_write] = match codec.name() {
            "binary" => ["binary read", "binary written"],
            "li-xml" => ["LI-XML read", "LI-XML written"],
            _ => ["name-value read", "name-value written"],
        };
        add(read, what_read, None);
        add(write, what_write, None);
    }
    let (read, write) = (("K-1/python", "XML-RPC read to a value"), ("K-2/python", "XML-RPC written"));
    match python(times.div_ceil(5)) {
        Some([reads, writes]) => {
            report.figure(read, (of("K-1"), "MB/s"), Some(("xmlrpc.client", reads)), None);
            report.figure(write, (of("K-2"), "MB/s"), Some(("xmlrpc.client", writes)), None);
        }
        None => report.missing(read, "MB/s", None, "python3 did not run"),
    }
}

fn main() {
    let options = Options::from_args();
    let mut report = Report::default();
    calls(options, &mut report);
    codecs(options, &mut report);
    if options.only.is_none() {
        report.note("K-*: a list of 1,000 structs of six members; MB of the document in that encoding");
        report.print(options);
    }
}
