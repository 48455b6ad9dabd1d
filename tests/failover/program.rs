//! The program itself, without root: its mistakes, its signals, and three processes on loopback.

use crate::example::example;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) fn failover() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| example("failover"))
}

/// A folder of its own, with a resource agent below `ocf`, and the processes that use it.
struct Bench {
    dir: PathBuf,
    nodes: BTreeMap<usize, Child>,
}

/// An agent whose resource is a file for each node. Stopping it takes as long as there is a file `slow`.
const AGENT: &str = r#"#!/bin/sh
state=$OCF_RESKEY_dir/$OCF_RESOURCE_INSTANCE.$OCF_RESKEY_CRM_meta_on_node
case $1 in
start) echo "$OCF_RESKEY_text" > "$state" ;;
stop)
    while [ -e "$OCF_RESKEY_dir/slow" ]; do sleep 0.1; done
    rm -f "$state" ;;
monitor) [ -e "$state" ] || exit 7 ;;
meta-data)
    echo '<?xml version="1.0"?><resource-agent name="File" version="1"><version>1.1</version>'
    echo '<longdesc lang="en">A file</longdesc><shortdesc lang="en">A file</shortdesc><parameters>'
    echo '<parameter name="dir" required="1"><longdesc lang="en">Folder</longdesc>'
    echo '<shortdesc lang="en">Folder</shortdesc><content type="string"/></parameter>'
    echo '<parameter name="text"><longdesc lang="en">What is in it</longdesc>'
    echo '<shortdesc lang="en">Text</shortdesc><content type="string"/></parameter></parameters><actions>'
    for action in start stop monitor meta-data validate-all; do echo "<action name=\"$action\" timeout=\"20s\"/>"; done
    echo '</actions></resource-agent>' ;;
validate-all) ;;
*) exit 3 ;;
esac
"#;

impl Bench {
    fn new(test: &str, nodes: usize) -> Self {
        let dir = std::env::temp_dir().join(format!("ocf-{test}-{}", std::process::id()));
        let agents = dir.join("ocf/resource.d/test");
        fs::create_dir_all(&agents).unwrap();
        fs::write(agents.join("File"), AGENT).unwrap();
        fs::set_permissions(agents.join("File"), fs::Permissions::from_mode(0o755)).unwrap();
        // Ports that are free now; nobody else takes them before the nodes start.
        let sockets: Vec<UdpSocket> = (0..nodes).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        let mut text = String::from("cluster = \"bench\"\nnode = 1\nkey_file = \"KEY\"\nsentinel = true\n");
        for (i, socket) in sockets.iter().enumerate() {
            let (id, address) = (i + 1, socket.local_addr().unwrap());
            text += &format!("[[nodes]]\nid = {id}\nname = \"node{id}\"\naddress = \"{address}\"\n");
        }
        text += "[[fencing.devices]]\nname = \"switch\"\nclass = \"simulated\"\nnodes = \"all\"\n\
                 [[resources.groups]]\nname = \"files\"\nnodes = [1]\nelsewhere = true\n\
                 [[resources.groups.resources]]\nname = \"file\"\nagent = \"ocf:test:File\"\n\
                 parameters = { dir = \"DIR\" }\nmonitor_interval = \"1s\"\n";
        let key = dir.join("key");
        fs::write(&key, "00112233445566778899aabbccddeeff".repeat(2)).unwrap();
        let text = text.replace("KEY", key.to_str().unwrap()).replace("DIR", dir.to_str().unwrap());
        fs::write(dir.join("node.toml"), text).unwrap();
        Self { dir, nodes: BTreeMap::new() }
    }

    fn command(&self) -> Command {
        self.command_of(&self.dir.join("node.toml"))
    }

    fn command_of(&self, config: &Path) -> Command {
        let mut command = Command::new(failover());
        command.arg("--config").arg(config);
        command.arg("--ocf-root").arg(self.dir.join("ocf")).stdin(Stdio::null());
        command
    }

    fn start(&mut self, i: usize) {
        let log = File::create(self.dir.join(format!("{i}.log"))).unwrap();
        let mut command = self.command();
        let own = self.dir.join(format!("{i}.toml"));
        if own.exists() {
            command = self.command_of(&own);
        }
        command.args(["--node", &i.to_string()]).arg("--snapshot").arg(self.dir.join(format!("{i}.json")));
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.nodes.insert(i, child);
    }

    fn log(&self, i: usize) -> String {
        fs::read_to_string(self.dir.join(format!("{i}.log"))).unwrap()
    }

    fn logs(&self) -> String {
        self.nodes.keys().map(|i| format!("--- node{i}\n{}", self.log(*i))).collect()
    }

    /// True if the file of node `i` is there.
    fn runs(&self, i: usize) -> bool {
        self.text_of("file", i).is_some()
    }

    /// What is in the file that is a resource on node `i`, if it runs there.
    fn text_of(&self, resource: &str, i: usize) -> Option<String> {
        let text = fs::read_to_string(self.dir.join(format!("{resource}.node{i}"))).ok()?;
        Some(text.trim().to_owned())
    }

    /// Gives each node a file and a record of its own; what is in the files, without what is the node's own.
    fn files_of_their_own(&self, nodes: usize) -> String {
        let text = fs::read_to_string(self.dir.join("node.toml")).unwrap();
        (1..=nodes).for_each(|i| self.write_file(i, &text));
        text
    }

    fn write_file(&self, i: usize, text: &str) {
        let record = self.dir.join(format!("{i}.record"));
        let own = format!("record = \"{}\"\n{text}", record.display());
        fs::write(self.dir.join(format!("{i}.toml")), own).unwrap();
    }

    fn signal(&self, i: usize, signal: &str) {
        let pid = self.nodes[&i].id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    fn wait_for(&self, what: &str, mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < PATIENCE, "waited too long for {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the process of node `i` to end by itself; its exit status.
    fn ended(&mut self, i: usize) -> Option<i32> {
        let mut child = self.nodes.remove(&i).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status.code();
            }
            if began.elapsed() > PATIENCE {
                self.nodes.insert(i, child);
                panic!("node {i} does not end\n{}", self.logs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for child in self.nodes.values_mut() {
            drop(child.kill());
            drop(child.wait());
        }
        drop(fs::remove_dir_all(&self.dir));
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn three_processes_keep_a_resource_running_when_the_one_that_runs_it_is_killed() {
    let mut bench = Bench::new("three", 3);
    for i in 1..=3 {
        bench.start(i);
    }
    bench.wait_for("the resource to start on the preferred node", || bench.runs(1));
    bench.nodes.get_mut(&1).unwrap().kill().unwrap();
    bench.wait_for("the resource to start elsewhere", || bench.runs(2) || bench.runs(3));
    let (heir, other) = if bench.runs(2) { (2, 3) } else { (3, 2) };
    bench.wait_for("the heir to say so", || bench.log(heir).contains(&format!("file runs on node{heir}")));
    let logs = bench.logs();
    assert!(
        logs.contains("its process died, as its sentinel saw"),
        "told before it was silent for long\n{logs}"
    );
    assert!(logs.contains("what ran on node1 is free"), "fenced before it started elsewhere\n{logs}");
    assert_eq!(bench.ended(1), None, "it was killed by a signal");

    // A clean leave hands the resource over, and needs no fencing.
    bench.signal(heir, "TERM");
    bench.wait_for("the last node to take over", || bench.runs(other) && !bench.runs(heir));
    let log = bench.log(heir);
    assert_eq!(bench.ended(heir), Some(0), "{log}");
    assert!(!bench.log(other).contains(&format!("what ran on node{heir} is free")), "{}", bench.logs());
}

#[test]
fn a_second_signal_ends_a_node_that_is_still_handing_over() {
    let mut bench = Bench::new("twice", 1);
    bench.start(1);
    bench.wait_for("the resource to start", || bench.log(1).contains("file runs on node1"));
    fs::write(bench.dir.join("slow"), "").unwrap();
    bench.signal(1, "TERM");
    bench.wait_for("the first signal to be heard", || bench.log(1).contains("hands over"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(bench.nodes.get_mut(&1).unwrap().try_wait().unwrap().is_none(), "it waits for the agent");
    bench.signal(1, "TERM");
    let log = bench.dir.join("1.log");
    assert_eq!(bench.ended(1), Some(0));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("leaves at once"), "{log}");
}

#[test]
fn three_processes_change_the_key_by_their_files_and_a_signal_and_nobody_loses_anybody() {
    let mut bench = Bench::new("keys", 3);
    let path = bench.dir.join("node.toml");
    let single = format!("key_file = \"{}\"\n", bench.dir.join("key").display());
    let rest = fs::read_to_string(&path).unwrap().replace(&single, "");
    fs::write(bench.dir.join("key-1"), "ffeeddccbbaa99887766554433221100".repeat(2)).unwrap();
    let list = |keys: &[(u8, &str, bool)]| {
        let entry = |(id, file, send): &(u8, &str, bool)| {
            let file = bench.dir.join(file);
            format!("[[keys]]\nid = {id}\nfile = \"{}\"\nsend = {send}\n", file.display())
        };
        rest.clone() + &keys.iter().map(entry).collect::<String>()
    };
    let steps = [
        (list(&[(0, "key", true), (1, "key-1", false)]), "keys: 0 (sends), 1\n"),
        (list(&[(0, "key", false), (1, "key-1", true)]), "keys: 0, 1 (sends)\n"),
        (list(&[(1, "key-1", true)]), "keys: 1 (sends)\n"),
    ];
    for i in 1..=3 {
        bench.start(i);
    }
    bench.wait_for("the resource to start on the preferred node", || bench.runs(1));
    let met =
        |log: &str, other: &str| log.contains(&format!("{other} (")) && log.contains("can be talked to");
    bench.wait_for("all to have met", || met(&bench.log(2), "node3") && met(&bench.log(3), "node2"));

    // A mistake changes nothing: what a node sends with cannot be left out before it has another.
    fs::write(&path, rest.clone() + "[[keys]]\nid = 1\nfile = \"/nowhere/key\"\n").unwrap();
    bench.signal(2, "HUP");
    bench.wait_for("the mistake to be told", || bench.log(2).contains("the keys were not taken over"));
    for (text, said) in steps {
        fs::write(&path, text).unwrap();
        for i in 1..=3 {
            bench.signal(i, "HUP");
        }
        let mut again = Instant::now();
        bench.wait_for(said, || {
            let late: Vec<usize> = (1..=3).filter(|i| !bench.log(*i).contains(said)).collect();
            // Refused while a circuit still rests on the old key: asked once more.
            if again.elapsed() > Duration::from_millis(300) {
                late.iter().for_each(|i| bench.signal(*i, "HUP"));
                again = Instant::now();
            }
            late.is_empty()
        });
    }
    bench.wait_for("the circuits to have moved", || bench.logs().contains("moved to key 1"));
    assert!(!bench.logs().contains("is gone"), "no circuit broke\n{}", bench.logs());
    assert!(bench.runs(1), "what ran runs on");

    // The cluster works with the new key, and takes back who comes with it.
    bench.nodes.get_mut(&1).unwrap().kill().unwrap();
    bench.wait_for("the resource to start elsewhere", || bench.runs(2) || bench.runs(3));
    assert_eq!(bench.ended(1), None, "it was killed by a signal");
    bench.start(1);
    bench.wait_for("the node with the new key to be met", || bench.log(1).contains("can be talked to"));
}

/// Adds a revision, and what else stands in a section of resources, before its groups.
fn with_revision(text: &str, revision: u64) -> String {
    let groups = "[[resources.groups]]";
    text.replacen(groups, &format!("[resources]\nrevision = {revision}\n{groups}"), 1)
}

#[test]
fn three_processes_run_what_the_changed_file_of_one_of_them_says() {
    let mut bench = Bench::new("reload", 3);
    let old = bench.files_of_their_own(3);
    let dir = bench.dir.display().to_string();
    (1..=3).for_each(|i| bench.start(i));
    bench.wait_for("the resource to start", || bench.text_of("file", 1).is_some_and(|text| text.is_empty()));

    // Another parameter, and one resource more, in the file of one node.
    let more = format!(
        "[[resources.groups.resources]]\nname = \"more\"\nagent = \"ocf:test:File\"\n\
         parameters = {{ dir = \"{dir}\" }}\nmonitor_interval = \"1s\"\n"
    );
    let own = format!("parameters = {{ dir = \"{dir}\"");
    let first = old.replace(&own, &format!("{own}, text = \"new\"")) + &more;
    bench.write_file(2, &first);
    bench.signal(2, "HUP");
    bench.wait_for("what runs to be what the file says", || {
        bench.text_of("file", 1).as_deref() == Some("new") && bench.text_of("more", 1).is_some()
    });
    let said = "what the cluster runs is changed by node2: revision 1";
    bench.wait_for("all nodes to say so", || (1..=3).all(|i| bench.log(i).contains(said)));

    // A wrong file changes nothing, and every mistake is told.
    let wrong = with_revision(&first, 1)
        .replace("ocf:test:File", "ocf:test:Nothing")
        .replace("nodes = [1]", "nodes = [7]");
    bench.write_file(2, &wrong);
    bench.signal(2, "HUP");
    for mistake in
        ["resources.groups[0].nodes[0]", "resources[0].agent", "resources[1].agent", "nor were resources"]
    {
        bench.wait_for(mistake, || bench.log(2).contains(mistake));
    }
    // Nor does one that was made from what somebody else has changed since.
    bench.write_file(3, &old.replace("1s", "2s"));
    bench.signal(3, "HUP");
    bench.wait_for("the old file to be refused", || {
        bench.log(3).contains("it was made from revision 0, and the cluster has revision 1")
    });
    assert!(!bench.logs().contains("revision 2\n"), "{}", bench.logs());
    assert_eq!(bench.text_of("file", 1).as_deref(), Some("new"));

    // The first resource goes, by the file of another node.
    let (head, _) = old.split_once("[[resources.groups.resources]]").unwrap();
    bench.write_file(3, &(with_revision(head, 1) + &more));
    bench.signal(3, "HUP");
    bench.wait_for("what is removed to be gone, and the other one to run", || {
        !bench.runs(1) && bench.text_of("more", 1).is_some()
    });
    bench.wait_for("all nodes to say so", || {
        (1..=3).all(|i| bench.log(i).contains("file is down everywhere, and removed"))
    });

    // All end. What they have agreed on is written by then, and counts in their next lives, though their files are the old ones.
    (1..=3).for_each(|i| bench.signal(i, "TERM"));
    bench.wait_for("all to hear it", || (1..=3).all(|i| bench.log(i).contains("hands over")));
    for i in 1..=3 {
        // A second signal, if it waits for others to take over: they leave, too.
        if bench.nodes.get_mut(&i).unwrap().try_wait().unwrap().is_none() {
            bench.signal(i, "TERM");
        }
        let log = bench.log(i);
        assert_eq!(bench.ended(i), Some(0), "{log}");
        let kept = fs::read_to_string(bench.dir.join(format!("{i}.record.resources"))).unwrap();
        assert!(kept.contains("\"revision\": 2"), "{kept}");
        bench.write_file(i, &old);
    }
    (1..=3).for_each(|i| drop(fs::remove_file(bench.dir.join(format!("more.node{i}")))));
    (1..=3).for_each(|i| bench.start(i));
    bench.wait_for("what was agreed on to run", || (1..=3).any(|i| bench.text_of("more", i).is_some()));
    assert!(!(1..=3).any(|i| bench.runs(i)), "what was removed does not come back\n{}", bench.logs());
}

#[test]
fn check_accepts_a_good_configuration_and_starts_nothing() {
    let bench = Bench::new("good", 3);
    let output = bench.command().arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("the configuration is good"));
    assert!(!bench.runs(1));
}

#[test]
fn a_wrong_configuration_is_told_all_at_once_with_path_value_and_remedy() {
    let bench = Bench::new("wrong", 3);
    let path = bench.dir.join("node.toml");
    let wrong = fs::read_to_string(&path)
        .unwrap()
        .replace("node = 1\n", "node = 9\nquorum = \"threshold:1\"\nrecord = \"/nowhere/at/all\"\n")
        .replace("\"simulated\"", "\"laser\"")
        .replace("id = 3", "id = 2")
        .replace("nodes = [1]", "nodes = [7]")
        .replace("ocf:test:File", "ocf:test:Missing")
        .replace(bench.dir.join("key").to_str().unwrap(), "/nowhere/key");
    fs::write(&path, wrong).unwrap();
    for arguments in [&["--check"][..], &[]] {
        let output = bench.command().args(arguments).output().unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        for line in [
            "node = 9: is not among nodes (1, 2, 2); name one of them",
            "quorum = threshold:1: is 1 of 3 votes: two halves could both go on; ask for at least 2",
            "nodes[2].id = 2: is used twice; give each node an id of its own",
            "key_file = /nowhere/key: ",
            "record = /nowhere/at/all: its folder does not exist; make the folder, or name a file in another one",
            "fencing.devices[0].class = laser: is not known; choose one of ",
            "resources.groups[0].nodes[0] = ",
            "resources.groups[0].resources[0].agent = ocf:test:Missing: ",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
        assert!(text.contains(path.to_str().unwrap()), "it names the file\n{text}");
    }
}

#[test]
fn a_file_that_cannot_be_read_or_parsed_is_told_with_its_name_and_line() {
    let bench = Bench::new("parse", 1);
    let path = bench.dir.join("node.toml");
    fs::write(&path, "cluster = \"x\"\nnod = 1\n").unwrap();
    let output = bench.command().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output);
    assert!(
        told.contains(path.to_str().unwrap()) && told.contains("line 2") && told.contains("nod"),
        "{told}"
    );

    fs::remove_file(&path).unwrap();
    let output = bench.command().output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told = text(&output);
    assert!(told.contains(path.to_str().unwrap()) && told.contains("--example"), "{told}");
}

#[test]
fn the_example_lacks_only_what_a_machine_must_bring() {
    let bench = Bench::new("example", 1);
    let example = Command::new(failover()).arg("--example").output().unwrap();
    assert!(example.status.success());
    let example = String::from_utf8(example.stdout).unwrap();
    let key = bench.dir.join("key");
    let missing = example.replace("/etc/ocf.key", "/nowhere/key");
    // It does not say which parameters it has.
    let silent = bench.dir.join("ocf/resource.d/test/Silent");
    fs::write(&silent, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&silent, fs::Permissions::from_mode(0o755)).unwrap();
    let without_agents = |text: &str| {
        // Neither agents nor fence agents need to be installed where this test runs.
        let classes = text.replace("ocf:heartbeat:Dummy", "ocf:test:Silent");
        let classes = classes.replace("ocf:heartbeat:IPaddr2", "ocf:test:Silent");
        let lines = classes.replace("\"fence_agent\"", "\"manual\"");
        let kept = lines.lines().filter(|line| !line.starts_with("parameters = { agent"));
        kept.map(|line| format!("{line}\n")).collect::<String>()
    };
    fs::write(bench.dir.join("node.toml"), without_agents(&missing)).unwrap();
    let output = bench.command().arg("--check").output().unwrap();
    let told = text(&output);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("key_file = /nowhere/key: "), "{told}");
    assert!(!told.contains("errors in the configuration"), "only the key is missing\n{told}");

    let good = without_agents(&example.replace("/etc/ocf.key", key.to_str().unwrap()));
    fs::write(bench.dir.join("node.toml"), good).unwrap();
    let output = bench.command().arg("--check").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}
