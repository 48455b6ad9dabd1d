//! What a node tells outside and hears from there: programs, mail, and applications that say that they are well.

use ocf::{Cluster, HeartbeatEntry, MailEntry, NodeEvent, OutsideConfig};
use ocf_resource::driver::{RustClass, Stateful};
use ocf_resource::{Config, Event, GroupConfig, ResourceConfig};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(120);

/// A folder of this test alone; removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("ocf-outside-{}", std::process::id()));
        std::fs::create_dir_all(path.join("programs")).expect("a folder");
        Self(path)
    }

    fn program(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("our file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap_or_default();
    }
}

/// Waits until one of the files of a folder has all of these words.
fn find(folder: &Path, words: &[&str]) -> String {
    let until = Instant::now() + SOON;
    loop {
        let files = std::fs::read_dir(folder).expect("our folder").flatten();
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        if let Some(text) = texts.into_iter().find(|text| words.iter().all(|word| text.contains(word))) {
            return text;
        }
        assert!(Instant::now() < until, "nothing has {words:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn wait_for(cluster: &Cluster, is_it: impl Fn(&NodeEvent) -> bool) {
    let until = Instant::now() + SOON;
    let node = cluster.node(0).expect("it runs");
    while Instant::now() < until {
        if node.next_event(Duration::from_millis(50)).is_some_and(|event| is_it(&event.event)) {
            return;
        }
    }
    panic!("it does not happen");
}

/// One line to the socket of heartbeats, and its answer.
fn say(stream: &mut UnixStream, line: &str) -> String {
    writeln!(stream, "{line}").expect("the node listens");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("an answer");
    answer.trim().to_owned()
}

#[test]
fn programs_and_people_are_told_and_an_application_that_dies_is_a_failed_resource() {
    let folder = Folder::new();
    let (told, letters) = (folder.0.join("told"), folder.0.join("letters"));
    for made in [&told, &letters] {
        std::fs::create_dir(made).expect("a folder");
    }
    let keep = |folder: &Path| {
        // Written under another name first, so that no half of one is read.
        format!("#!/bin/sh\ncat >\"{0}/.$$\" && mv \"{0}/.$$\" \"{0}/$$\"\n", folder.display())
    };
    folder.program("programs/keep", &keep(&told));
    let sendmail = folder.program("sendmail", &keep(&letters));
    let socket = folder.0.join("heartbeats");
    let outside = OutsideConfig {
        programs: Some(folder.0.join("programs")),
        mail: Some(MailEntry {
            from: "cluster@example.com".to_owned(),
            to: vec!["admin@example.com".to_owned()],
            program: sendmail,
        }),
        heartbeats: Some(HeartbeatEntry {
            socket: socket.clone(),
            interval_ms: 60_000,
            users: vec![],
            may_reboot: vec![],
        }),
        ..OutsideConfig::default()
    };
    let stateful = Stateful::new();
    let class = Arc::new(RustClass::new().with("stateful", Arc::new(stateful.clone())));
    let resource = ResourceConfig::new("database", "rust:stateful".parse().expect("a name"));
    let resources = Config { groups: vec![GroupConfig::new("web", vec![resource])], ..Config::default() };
    let equip = move |builder: ocf::NodeBuilder| {
        builder.agent_class("rust", Arc::clone(&class) as _).outside(outside.clone())
    };
    let cluster = Cluster::builder("outside").resources(resources).equip(equip).local(1).expect("it starts");
    find(&told, &["\"event\":\"node-started\"", "\"cluster\":\"outside\""]);
    find(&told, &["\"event\":\"view\"", "\"members\":["]);
    let started = find(&told, &["\"event\":\"started\"", "\"resource\":\"database\""]);
    assert!(started.contains("\"group\":\"web\"") && started.contains("\"state\":{"), "{started}");
    let letter = find(&letters, &["database runs on"]);
    assert!(letter.contains("To: admin@example.com\nSubject: [outside] database runs on"), "{letter}");

    // The application has the name of the resource: that is how its end is the end of the resource.
    let mut application = UnixStream::connect(&socket).expect("the node listens");
    assert_eq!(say(&mut application, "reg database 1"), "0");
    drop(application);
    wait_for(&cluster, |event| matches!(event, NodeEvent::Application(_)));
    wait_for(&cluster, |event| matches!(event, NodeEvent::Resource(Event::Started { .. })));
    assert!(stateful.is_running("database"));
    find(&told, &["\"event\":\"application\"", "\"kind\":\"hang_up\""]);
    let failed = find(&told, &["\"event\":\"failed\"", "database/1 (pid "]);
    assert!(failed.contains("\"failures\":1"), "{failed}");
    assert!(failed.contains("died: its heartbeats ended without goodbye"), "{failed}");
    find(&letters, &["monitor of database failed"]);

    // Whoever is told of the end is not ended by it.
    drop(cluster);
    let stopped = find(&told, &["\"event\":\"node-stopped\""]);
    assert!(stopped.contains("\"cluster\":\"outside\""), "{stopped}");
    assert!(!socket.exists(), "the socket goes with the node");
}
