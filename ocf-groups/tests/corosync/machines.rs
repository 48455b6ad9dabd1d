//! Programs on the nodes of a running corosync.

use crate::nodes::OnCorosync;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An example of this crate, built with the feature.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program has a place");
    let folder = test.parent().and_then(Path::parent).expect("target/profile/deps/program");
    let profile = if folder.ends_with("debug") { "dev" } else { "release" };
    let build = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--features", "corosync", "--example", name])
        .args(["--profile", profile, "--target-dir"])
        .arg(folder.parent().expect("target/profile"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(build.expect("cargo runs").success(), "the example does not build");
    folder.join("examples").join(name)
}

#[test]
#[ignore = "needs root, network namespaces and corosync: .ci/run installs it"]
fn a_vote_is_held_on_a_running_corosync() {
    let program = example("vote_on_corosync");
    let mut lab = OnCorosync::new();
    for node in 1..=3 {
        lab.daemons.start(node).expect("a node of the lab starts");
    }
    (1..=3).for_each(|node| lab.wait_for_daemon(node));
    for shell in lab.daemons.nodes() {
        shell.say(&format!("{} 3", program.display())).expect("the shell listens");
    }
    let said: Vec<String> = lab.daemons.nodes().map(|shell| shell.hear().expect("it answers")).collect();
    assert!(said[0].contains(" coordinates, by "), "{said:?}");
    assert!(said.iter().all(|line| *line == said[0]), "one result for all: {said:?}");
}
