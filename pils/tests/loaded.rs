//! Goal: plug-ins from dynamic modules and from programs are as good as those that are compiled in, and what is wrong with
//! one is an error that says what, not a crash. Method: the example module and programs written here, loaded for real, with
//! damaged files, wrong versions, panics, crashes and silence.
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]
#![expect(clippy::disallowed_methods, reason = "a test of drivers: it meets real processes in real time")]

use pils::codec::xmlrpc::Fault;
use pils::plugin::{
    CallError, Contract, HANDLERS, Interface, LoadError, Loader, PluginError, Program, Remote, Universe,
};
use pils::{Registry, Value};
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What this program wants of counters, wherever they come from.
trait Counter: Send + Sync {
    fn next(&self) -> Result<i64, CallError>;
    fn add(&self, n: i64) -> Result<i64, CallError>;
    fn call(&self, method: &str) -> Result<Value, CallError>;
    fn within(&self, method: &str, limit: Duration) -> Result<Value, CallError>;
}

struct Loaded(Arc<dyn Remote>);

impl Counter for Loaded {
    fn next(&self) -> Result<i64, CallError> {
        self.0.call("next", &[]).map(|value| value.as_int().unwrap())
    }

    fn add(&self, n: i64) -> Result<i64, CallError> {
        self.0.call("add", &[n.into()]).map(|value| value.as_int().unwrap())
    }

    fn call(&self, method: &str) -> Result<Value, CallError> {
        self.0.call(method, &[])
    }

    fn within(&self, method: &str, limit: Duration) -> Result<Value, CallError> {
        self.0.call_within(method, &[], limit)
    }
}

const TYPE: &str = "counter";
const V1: Interface = Interface { major: 1, minor: 0 };

fn world(contract: Contract) -> (Universe, Loader, Arc<Registry<dyn Counter>>) {
    let universe = Universe::new();
    let loader = Loader::new(&universe);
    let counters =
        loader.add_type(TYPE, contract, |remote| Arc::new(Loaded(remote)) as Arc<dyn Counter>).unwrap();
    (universe, loader, counters)
}

fn counters() -> (Universe, Loader, Arc<Registry<dyn Counter>>) {
    world(Contract::new(V1, ["next", "add"]))
}

/// The example that is built together with this test.
fn example() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples");
    let file = folder.join("libcounter_module.so");
    assert!(
        file.is_file(),
        "{} is missing: run `cargo test -p pils`, which builds the example",
        file.display()
    );
    file
}

/// A file of its own for a test, gone afterwards.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let file = self.0.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, bytes).unwrap();
        file
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

fn is_mapped(file: &Path) -> bool {
    fs::read_to_string("/proc/self/maps").unwrap().contains(file.to_str().unwrap())
}

#[test]
fn a_module_brings_its_plug_ins_and_takes_its_code_along_when_it_goes() {
    let scratch = Scratch::new("unload");
    let file = scratch.file("counters-1.2.so", &fs::read(example()).unwrap());
    let (universe, loader, counters) = counters();
    let info = loader.load_module(&file).unwrap();
    assert_eq!((info.kind.as_str(), info.plugins.len()), ("module", 2));
    assert!(is_mapped(&file));
    let (up, down) = (counters.get("up").unwrap(), counters.get("down").unwrap());
    assert_eq!((up.next(), up.add(10), down.next()), (Ok(1), Ok(11), Ok(-1)), "each has a state of its own");
    assert_eq!(up.version(), "1.2");
    assert_eq!(loader.load_module(&file).unwrap_err(), LoadError::Loaded(info.name.clone()));

    let error = loader.unload(&info.name).unwrap_err();
    assert!(
        matches!(&error, LoadError::Plugin { source: PluginError::InUse { references: 1, .. }, .. }),
        "{error}"
    );
    assert_eq!(universe.list(TYPE).unwrap().len(), 2, "a module goes whole or not at all");
    assert_eq!((up.next(), counters.get("down").unwrap().next()), (Ok(12), Ok(-2)));
    drop((up, down));
    loader.unload(&info.name).unwrap();
    assert!(universe.list(TYPE).unwrap().is_empty() && loader.list().is_empty());
    assert!(!is_mapped(&file), "the code is unmapped");
    assert!(matches!(loader.unload(&info.name), Err(LoadError::Unknown { .. })));
    loader.load_module(&file).unwrap();
    assert_eq!(counters.get("up").unwrap().next(), Ok(1), "loaded again it begins anew");
}

#[test]
fn a_panic_in_a_module_is_an_error_and_the_plug_in_goes_on() {
    let (_universe, loader, counters) = counters();
    loader.load_module(&example()).unwrap();
    let up = counters.get("up").unwrap();
    assert_eq!(up.call("panic"), Err(CallError::Panicked("it panics when it is told to".into())));
    assert_eq!(up.next(), Ok(1));
    let fault = Fault { code: 7, text: "it fails when it is told to".into() };
    assert_eq!(up.call("fail"), Err(CallError::Fault(fault)));
    let error = up.call("add").unwrap_err();
    assert!(matches!(&error, CallError::Fault(fault) if fault.code == Fault::INVALID_PARAMS), "{error}");
}

#[test]
fn only_what_a_plug_in_exports_can_be_called() {
    let (_universe, loader, counters) = counters();
    loader.load_module(&example()).unwrap();
    let error = counters.get("up").unwrap().call("hidden").unwrap_err();
    assert_eq!(error.to_string(), "up has no method \"hidden\"");
    assert!(counters.get("down").unwrap().call("panic").is_err(), "one plug-in's methods are not another's");
}

#[test]
fn a_file_that_is_no_module_is_refused_with_the_reason() {
    let scratch = Scratch::new("damaged");
    let (universe, loader, _counters) = counters();
    let whole = fs::read(example()).unwrap();
    let reason = |file: &Path| loader.load_module(file).unwrap_err().to_string();
    assert!(reason(&scratch.0.join("none.so")).contains("cannot be read: No such file"));
    assert!(reason(&scratch.file("text.so", &[b'x'; 4000])).contains("is no shared object"));
    for part in 1..20 {
        let cut = scratch.file("cut.so", &whole[..whole.len() * part / 20]);
        let reason = reason(&cut);
        assert!(reason.contains("cut short") || reason.contains("cannot be opened"), "{part}/20: {reason}");
    }
    // the head of the declaration, found by its magic
    let magic: Vec<usize> = whole
        .windows(8)
        .enumerate()
        .filter(|(_, w)| *w == pils::plugin::dynamic::abi::MAGIC.to_ne_bytes())
        .map(|(at, _)| at)
        .collect();
    let major = magic.iter().map(|at| at + 8).filter(|at| whole[*at..*at + 4] == [1, 0, 0, 0]);
    let mut other = whole.clone();
    let mut found = 0;
    for at in major {
        other[at] = 9;
        found += 1;
    }
    assert_eq!(found, 1, "the declaration is in the file once");
    let error = reason(&scratch.file("other.so", &other));
    assert!(
        error.contains("was made for version 9.0 of the module interface, and this program has 1.0"),
        "{error}"
    );
    assert!(universe.list(TYPE).unwrap().is_empty());
}

#[test]
fn a_plug_in_for_another_interface_or_without_a_capability_is_refused_and_none_of_its_module_stays() {
    for (contract, wanted) in [
        (
            Contract::new(Interface { major: 2, minor: 0 }, []),
            "was made for interface 1.0, and this program has 2.0",
        ),
        (Contract::new(V1, ["next", "reset", "set"]), "lacks reset, set"),
        (Contract::new(V1, ["next", "panic"]), "counter \"down\" lacks panic"),
    ] {
        let (universe, loader, _counters) = world(contract);
        let error = loader.load_module(&example()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(universe.list(TYPE).unwrap().is_empty() && loader.list().is_empty());
    }
    let (_universe, loader, _counters) = world(Contract::new(Interface { major: 1, minor: 7 }, ["next"]));
    loader.load_module(&example()).expect("a plug-in for an older minor version is taken");
}

#[test]
fn a_handler_that_is_missing_is_looked_for_in_the_folders() {
    let scratch = Scratch::new("folders");
    scratch.file("counter/more.so", &fs::read(example()).unwrap());
    scratch.file("PluginHandler/counter.so", b"no module");
    let universe = Universe::new();
    let loader = Loader::new(&universe);
    let missing = universe.list(TYPE).unwrap_err().to_string();
    assert!(missing.contains("no module PluginHandler/counter.so in none"), "{missing}");
    loader.add_folder(&scratch.0);
    assert_eq!(loader.available(TYPE), ["more"]);
    let error = loader.load(TYPE, "more").unwrap_err().to_string();
    assert!(error.contains("is no shared object") && error.contains("known types: PluginHandler"), "{error}");
    assert!(loader.load("..", "counter").is_err() && loader.load(TYPE, "../counter/more").is_err());
    assert_eq!(universe.types().len(), 1, "nothing was added");
}

#[test]
#[ignore = "needs python3"]
fn a_program_in_a_folder_is_loaded_by_its_name_and_started_again_whenever_it_ended() {
    let scratch = Scratch::new("by-name");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/counter_program.py");
    let text =
        fs::read_to_string(script).unwrap().replacen("counts =", "sys.argv.append('--hang')\ncounts =", 1);
    let file = scratch.file("counter/python", text.as_bytes());
    scratch.file("counter/notes", b"no program: it may not be run");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    let (_universe, loader, counters) = counters();
    loader.add_folder(&scratch.0);
    loader.add_folder(&scratch.0);
    assert_eq!(loader.folders().len(), 1, "each folder once");
    assert_eq!(loader.available(TYPE), ["python"]);
    assert_eq!(loader.load(TYPE, "python").unwrap().kind, "program");
    let up = counters.get("python_up").unwrap();
    for _ in 0..8 {
        assert_eq!(up.next(), Ok(1));
        let limit = Duration::from_millis(50);
        assert_eq!(up.within("add", limit), Err(CallError::TimedOut(limit)), "it hangs, and is ended");
    }
}

#[test]
fn a_program_whose_first_plug_in_is_a_handler_introduces_a_type() {
    let universe = Universe::new();
    let loader = Loader::new(&universe);
    let described = |plugin_type: &str, name: &str, method: &str| {
        format!(
            "<value><struct><member><name>plugin_type</name><value>{plugin_type}</value></member>\
             <member><name>name</name><value>{name}</value></member><member><name>version</name><value>1</value></member>\
             <member><name>interface</name><value><struct><member><name>major</name><value><int>1</int></value></member>\
             <member><name>minor</name><value><int>0</int></value></member></struct></value></member>\
             <member><name>methods</name><value><array><data><value>{method}</value></data></array></value></member></struct></value>"
        )
    };
    let start = |first: String, second: String| {
        let document = format!(
            "<methodResponse><params><param><value><array><data>{first}{second}</data></array></value></param></params></methodResponse>"
        );
        let script =
            format!("printf 'Content-Length: {}\\n\\n%s' '{document}'; cat >/dev/null", document.len());
        loader.start_program(shell(&script))
    };
    let able = described("lamp", "red", "shine");
    let info = start(described(HANDLERS, "lamp", "shine"), able.clone()).unwrap();
    let names: Vec<String> = universe.types().into_iter().map(|info| info.name).collect();
    assert_eq!(names, [HANDLERS, "lamp"]);
    let lamp = universe.get::<dyn Remote>("lamp", "red").unwrap();
    assert_eq!(lamp.description().version, "1");
    drop(lamp);
    loader.unload(&info.name).unwrap();
    assert_eq!(universe.types().len(), 1, "the handler goes after its plug-ins");
    let unable = start(described(HANDLERS, "lamp", "glow"), able).unwrap_err().to_string();
    assert!(unable.contains("lamp \"red\" lacks glow"), "{unable}");
    assert_eq!(universe.types().len(), 1, "all or none");
}

fn shell(script: &str) -> Program {
    Program { args: ["-c", script].map(OsString::from).to_vec(), ..Program::new("/bin/sh") }
}

#[test]
fn a_program_that_does_not_speak_is_an_error_that_says_why() {
    let (_universe, loader, _counters) = counters();
    let reason = |program: Program| loader.start_program(program).unwrap_err().to_string();
    assert!(reason(Program::new("/nonexistent")).contains("cannot be started: No such file"));
    assert!(reason(shell("echo no licence >&2; exit 4")).contains("exit status: 4; it said: no licence"));
    for _ in 0..20 {
        // the end of its output, its exit status and its last words come in any order
        let said = reason(shell("exec >&-; (echo no licence >&2) & exit 4"));
        assert!(said.contains("exit status: 4; it said: no licence"), "{said}");
    }
    assert!(reason(shell("echo hello; sleep 60")).contains("output that is no message: hello"));
    assert!(reason(shell("echo Content-Length: 99999999; echo; sleep 60")).contains("longer than 1048576"));
    assert!(reason(shell("printf 'Content-Length: 2\\n\\nxx'; sleep 60")).contains("its answer is none"));
    let slow = Program { timeout: Duration::from_millis(200), ..shell("sleep 60") };
    let begun = Instant::now();
    assert!(reason(slow).contains("no answer within 200ms"));
    assert!(begun.elapsed() < Duration::from_secs(10), "what hangs is ended");
}

fn python(args: &[&str]) -> Program {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/counter_program.py");
    let mut all = vec![OsString::from("python3"), script.into()];
    all.extend(args.iter().map(OsString::from));
    let path = std::env::var_os("PATH").unwrap();
    Program { args: all, env: vec![("PATH".into(), path)], ..Program::new("/usr/bin/env") }
}

#[test]
#[ignore = "needs python3"]
fn a_plug_in_in_python_counts_like_any_other() {
    let (universe, loader, counters) = counters();
    let info = loader.start_program(python(&[])).unwrap();
    loader.load_module(&example()).unwrap();
    let names: Vec<String> = universe.list(TYPE).unwrap().into_iter().map(|info| info.name).collect();
    assert_eq!(names, ["down", "python_down", "python_up", "up"], "one registry for all ways in");
    let (up, down) = (counters.get("python_up").unwrap(), counters.get("python_down").unwrap());
    assert_eq!((up.next(), up.add(5), down.add(3)), (Ok(1), Ok(6), Ok(-3)));
    let error = up.call("add").unwrap_err();
    assert!(matches!(&error, CallError::Fault(fault) if fault.code == Fault::INVALID_PARAMS), "{error}");
    assert!(matches!(up.call("reset"), Err(CallError::NoMethod { .. })));
    drop((up, down));
    loader.unload(&info.name).unwrap();
}

#[test]
#[ignore = "needs python3"]
fn a_crash_of_a_program_costs_one_call_and_a_silent_one_is_ended() {
    let (_universe, loader, counters) = counters();
    let program = Program { restarts_max: 1, ..python(&["--crash-after", "3"]) };
    loader.start_program(program).unwrap();
    let up = counters.get("python_up").unwrap();
    assert_eq!((up.next(), up.next()), (Ok(1), Ok(2)));
    let error = up.next().unwrap_err().to_string();
    assert!(error.contains("exit status: 3; it said: a counter overflowed"), "{error}");
    assert_eq!((up.next(), up.next()), (Ok(1), Ok(2)), "it was started again, with nothing remembered");
    assert!(matches!(up.next(), Err(CallError::Gone(_))));
    let error = up.next().unwrap_err().to_string();
    assert!(error.contains("is not started again"), "{error}");

    let (_universe, loader, counters) = self::counters();
    let program = Program { timeout: Duration::from_millis(1500), ..python(&["--hang"]) };
    loader.start_program(program).unwrap();
    let up = counters.get("python_up").unwrap();
    assert_eq!(up.next(), Ok(1));
    assert_eq!(up.add(1), Err(CallError::TimedOut(Duration::from_millis(1500))));
    assert_eq!(up.next(), Ok(1), "a new process answers");
}

const C_MODULE: &str = r#"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
struct slice { const uint8_t *bytes; size_t length; };
struct buffer { uint8_t *bytes; size_t length, capacity; };
struct host { uint32_t size; void (*log)(uint32_t, struct slice); };
static void give(struct buffer *answer, const char *bytes, size_t length) {
    answer->bytes = malloc(length); answer->length = answer->capacity = length; memcpy(answer->bytes, bytes, length);
}
/* [{interface: {major: 1, minor: 0}, methods: ["add", "next"], name: "c", plugin_type: "counter", version: "3"}] */
static const char described[] = "\x01\x0a\x01\x0b\x05\x09interface\x0b\x02\x05major\x03\x01\x05minor\x03\x00"
    "\x07methods\x0a\x02\x07\x03" "add\x07\x04next\x04name\x07\x01" "c\x0bplugin_type\x07\x07" "counter\x07version\x07\x01" "3";
static int32_t describe(struct buffer *answer) { give(answer, described, sizeof described - 1); return 0; }
static int32_t open_it(struct slice plugin, const struct host *host, void **instance, struct buffer *answer) {
    (void)plugin; (void)host; *instance = calloc(1, 1); give(answer, "\x01\x00", 2); return 0;
}
static int32_t call(void *instance, struct slice request, struct buffer *answer) {
    (void)request; char bytes[3] = {1, 3, ++*(char *)instance}; give(answer, bytes, 3); return 0;
}
static void close_it(void *instance) { free(instance); }
static void free_buffer(struct buffer b) { free(b.bytes); }
const struct { uint64_t magic; uint16_t major, minor; uint32_t size; int32_t (*d)(struct buffer *);
    int32_t (*o)(struct slice, const struct host *, void **, struct buffer *); int32_t (*c)(void *, struct slice, struct buffer *);
    void (*x)(void *); void (*f)(struct buffer); } ocf_pils_module =
    { 0x4f434650494c5301ull, 1, 0, 56, describe, open_it, call, close_it, free_buffer };
"#;

#[test]
#[ignore = "needs a C compiler"]
fn a_module_in_c_counts_like_any_other() {
    let scratch = Scratch::new("c-module");
    let (source, file) = (scratch.file("counter.c", C_MODULE.as_bytes()), scratch.0.join("counter.so"));
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"])
        .arg(&file)
        .arg(&source)
        .status();
    assert!(compiled.unwrap().success());
    let (_universe, loader, counters) = counters();
    let info = loader.load_module(&file).unwrap();
    let counter = counters.get("c").unwrap();
    assert_eq!((counter.next(), counter.add(1), counter.version()), (Ok(1), Ok(2), "3"));
    drop(counter);
    loader.unload(&info.name).unwrap();
    assert!(!is_mapped(&file));
}
