//! Programs of this crate's examples, for tests that run them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// A program of this name. Cargo builds examples before tests, unless it was told to build one test only.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(Path::parent).unwrap();
    let program = folder.join("examples").join(name);
    let built = fs::metadata(&program).and_then(|m| m.modified()).ok();
    if built.is_none_or(|built| newest_source(name) > built) {
        let profile = match folder.file_name().and_then(|name| name.to_str()).unwrap() {
            "debug" => "dev",
            other => other,
        };
        let build = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", name, "--profile", profile, "--target-dir"])
            .arg(folder.parent().unwrap())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(build.unwrap().success(), "the example does not build");
    }
    program
}

/// When a source file of this workspace that the program is made of was last changed.
fn newest_source(name: &str) -> SystemTime {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let crates =
        ["pils", "ocf-comm", "ocf-membership", "ocf-groups", "ocf-dlm", "ocf-resource", "ocf-stonith", "."];
    let mut folders: Vec<PathBuf> = crates.iter().map(|c| root.join(c).join("src")).collect();
    folders.push(root.join("examples").join(name));
    let mut newest = SystemTime::UNIX_EPOCH;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                folders.push(entry.path());
            } else {
                newest = newest.max(meta.modified().unwrap());
            }
        }
    }
    newest
}
