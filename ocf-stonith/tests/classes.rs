//! Goal: a device class of the user is as good as one of this crate, whichever way it comes in: compiled in, as a module, as a
//! program; by name, from a folder. Method: the two examples, whose outlets are files, installed into a folder of the test,
//! used by a configuration and by the `fence` program.
#![expect(clippy::disallowed_methods, reason = "a test of drivers: it meets real processes in real time")]
#![expect(clippy::unwrap_used, reason = "a broken test bench must end the test")]

use ocf_stonith::driver::{Classes, DeviceHost, FENCE_CLASS};
use ocf_stonith::{
    AttemptId, Config, DeviceReport, DeviceResult, Failure, FenceAction, ReadBack, Run, testing,
};
use pils::plugin::{Loader, Universe};
use pils::process::Runner;
use pils::{Incarnation, NodeId, NodeInstance};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use std::{env, fs};

const LONG: Duration = Duration::from_secs(20);

/// A folder of plug-ins and a switch with the outlets 1 and 2, both on; gone afterwards.
struct Bench(PathBuf);

impl Bench {
    fn new(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(folder.join("plugins").join(FENCE_CLASS)).unwrap();
        fs::create_dir_all(folder.join("switch")).unwrap();
        for outlet in ["1", "2"] {
            fs::write(folder.join("switch").join(outlet), "on").unwrap();
        }
        Self(folder)
    }

    /// Installs the class as a program.
    fn with_program(self) -> Self {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/file_switch.py");
        self.install("file_switch", &fs::read(from).unwrap());
        self
    }

    /// Installs the class as a module.
    fn with_module(self) -> Self {
        let file = examples().join("libfile_switch_module.so");
        let bytes = fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        self.install("file_switch.so", &bytes);
        self
    }

    fn install(&self, name: &str, bytes: &[u8]) {
        let file = self.plugins().join(FENCE_CLASS).join(name);
        fs::write(&file, bytes).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn plugins(&self) -> PathBuf {
        self.0.join("plugins")
    }

    fn classes(&self) -> Classes {
        let classes = Classes::default();
        classes.loader().add_folder(self.plugins());
        classes
    }

    fn outlet(&self, plug: &str) -> String {
        fs::read_to_string(self.0.join("switch").join(plug)).unwrap()
    }

    fn config(&self, more: &str) -> String {
        format!(
            "round_budget_ms = 60000\n[[devices]]\nname = 'bench'\nclass = 'file_switch'\ntimeout_ms = 2000\n\
             nodes = [{{ node = 1, plug = '1' }}, {{ node = 2, plug = '2' }}, {{ node = 3, plug = '3' }}]\n\
             parameters = {{ folder = '{}', {more} }}\n",
            self.0.join("switch").display()
        )
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// Where the examples are that are built together with this test.
fn examples() -> PathBuf {
    env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples")
}

fn open(config: &str, classes: &Classes) -> (DeviceHost, Receiver<DeviceReport>) {
    let config: Config = toml::from_str(config).unwrap();
    assert_eq!(classes.check(&config), Ok(()));
    let (tell, told) = channel();
    let report = move |report| tell.send(report).unwrap_or(());
    (DeviceHost::new(&config, classes, &Runner::new(4).unwrap(), report).unwrap(), told)
}

fn run(attempt: u64, action: FenceAction, node: u32) -> Run {
    let target = NodeInstance::new(NodeId::new(node), Incarnation::new(7));
    let plug = Some(node.to_string().into());
    let timeout = Duration::from_secs(2);
    Run { attempt: AttemptId(attempt), device: "bench".into(), action, target, plug, timeout }
}

/// Switches outlet 2 off and on, and finds that there is no outlet 3.
fn switches(bench: &Bench) {
    let (host, told) = open(&bench.config(""), &bench.classes());
    for (action, read_back) in [
        (FenceAction::Status, ReadBack::On),
        (FenceAction::Off, ReadBack::Off),
        (FenceAction::Status, ReadBack::Off),
        (FenceAction::On, ReadBack::On),
        (FenceAction::Off, ReadBack::Off),
    ] {
        host.run(run(1, action, 2));
        let result = told.recv_timeout(LONG).unwrap().result;
        assert!(
            matches!(&result, DeviceResult::Done { read_back: read, .. } if *read == read_back),
            "{action}: {result:?}"
        );
    }
    assert_eq!((bench.outlet("1").as_str(), bench.outlet("2").as_str()), ("on", "off"));
    host.run(run(2, FenceAction::Off, 3));
    let missing = told.recv_timeout(LONG).unwrap().result;
    assert!(matches!(missing, DeviceResult::Failed(Failure::Failed { .. })), "{missing:?}");
}

#[test]
fn a_class_in_a_module_is_loaded_by_the_name_that_a_configuration_has() {
    switches(&Bench::new("class-module").with_module());
}

#[test]
#[ignore = "needs python3"]
fn a_class_in_a_program_is_loaded_by_the_name_that_a_configuration_has() {
    switches(&Bench::new("class-program").with_program());
}

#[test]
fn a_device_of_a_loaded_class_passes_the_suite_for_devices() {
    let bench = Bench::new("class-suite").with_module();
    let classes = bench.classes();
    let config: Config = toml::from_str(&bench.config("")).unwrap();
    let runner = Runner::new(4).unwrap();
    let class = classes.find("file_switch").unwrap();
    let device = || {
        for outlet in 1..=9 {
            fs::write(bench.0.join("switch").join(outlet.to_string()), "on").unwrap();
        }
        class.open(&config.devices[0], &runner).unwrap()
    };
    testing::check(device);
}

#[test]
fn every_way_in_ends_in_the_registry_of_the_program() {
    let bench = Bench::new("class-registry").with_module();
    let universe = Universe::new();
    let loader = Loader::new(&universe);
    loader.add_folder(bench.plugins());
    let classes = Classes::new(&loader).unwrap();
    assert!(Classes::new(&loader).is_err(), "the universe has the type");
    assert!(classes.names().contains(&"file_switch".to_owned()), "what could be loaded is shown");
    assert!(universe.list(FENCE_CLASS).unwrap().iter().all(|info| info.name != "file_switch"), "not yet");
    let class = classes.find("file_switch").unwrap();
    assert_eq!((class.describe(), class.version()), ("a switch whose outlets are files", "1.0"));
    let names: Vec<String> = universe.list(FENCE_CLASS).unwrap().into_iter().map(|info| info.name).collect();
    let built_in = [
        "address",
        "external",
        "fence_agent",
        "file_switch",
        "manual",
        "none",
        "sbd",
        "scsi",
        "simulated",
        "watchdog",
    ];
    assert_eq!(names, built_in);
    let module = &loader.list()[0];
    assert!(loader.unload(&module.name).unwrap_err().to_string().contains("in use"));
    drop(class);
    loader.unload(&module.name).unwrap();
}

#[test]
fn a_class_that_is_nowhere_or_does_not_load_is_an_error_that_says_what_there_is() {
    let bench = Bench::new("class-wrong");
    bench.install("broken.so", b"no module");
    let classes = bench.classes();
    let said = |class: &str| {
        let text = bench.config("").replace("file_switch", class);
        classes.check(&toml::from_str(&text).unwrap()).unwrap_err().to_string()
    };
    let text = said("nowhere");
    assert!(
        text.contains("devices[0].class = nowhere: is not known; choose one of address, broken,"),
        "{text}"
    );
    let text = said("broken");
    assert!(text.contains("is no shared object") && text.contains("mend or replace the plug-in"), "{text}");
    assert!(said("../escape").contains("is not known"));
}

#[test]
fn what_a_loaded_class_finds_wrong_is_told_with_everything_else() {
    let bench = Bench::new("class-check").with_module();
    let text = bench.config("").replace("/switch'", "/nowhere'")
        + "[[devices]]\nname='x'\nclass='none'\nnodes='all'\n"
        + "parameters={assume=true}\n";
    let errors = bench.classes().check(&toml::from_str(&text).unwrap()).unwrap_err();
    let paths: Vec<_> = errors.0.iter().map(|e| e.path.as_str()).collect();
    assert_eq!(paths, ["devices[0].parameters.folder", "devices[1].parameters.assume"]);
    assert!(errors.to_string().contains("is no folder; name the folder"), "{errors}");
}

#[test]
#[ignore = "needs python3"]
fn an_order_ends_in_time_when_the_class_hangs_and_when_it_is_cancelled() {
    let bench = Bench::new("class-slow").with_program();
    let (host, told) = open(&bench.config("delay_ms = 60000"), &bench.classes());
    let begun = Instant::now();
    host.run(run(1, FenceAction::Off, 2));
    let result = told.recv_timeout(LONG).unwrap().result;
    assert!(matches!(result, DeviceResult::Failed(Failure::TimedOut { .. })), "{result:?}");
    host.run(run(2, FenceAction::Off, 2));
    host.cancel(AttemptId(2));
    assert_eq!(told.recv_timeout(LONG).unwrap().result, DeviceResult::Failed(Failure::Cancelled));
    assert!(begun.elapsed() < Duration::from_secs(10), "both ended long before the class did");
    assert_eq!(bench.outlet("2"), "on");
}

#[test]
fn the_fence_program_uses_a_class_from_a_folder() {
    let bench = Bench::new("class-example").with_module();
    let config = bench.0.join("fencing.toml");
    fs::write(&config, bench.config("")).unwrap();
    let fence = |words: &[&str]| {
        let output = Command::new(examples().join("fence"))
            .args(["--plugins", bench.plugins().to_str().unwrap()])
            .args(words)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let file = config.to_str().unwrap();
    let (code, said) = fence(&["list", "--config", file]);
    assert_eq!(code, Some(0));
    assert!(said.contains("file_switch  a switch whose outlets are files"), "{said}");
    assert_eq!(fence(&["status", "2", "--config", file]).0, Some(0));
    let (code, said) = fence(&["off", "2", "--config", file]);
    assert_eq!((code, bench.outlet("2").as_str()), (Some(0), "off"), "{said}");
    assert!(said.contains("off: confirmed: ") && said.contains("bench read back off"), "{said}");
    assert_eq!(fence(&["on", "2", "--config", file]).0, Some(0));
    assert_eq!(fence(&["off", "3", "--config", file]).0, Some(2), "there is no outlet 3");
}
