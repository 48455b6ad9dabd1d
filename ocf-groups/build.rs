//! Says which packages are missing if the feature `corosync` is on and corosync's libraries are not there. It is a warning, as
//! `cargo check`, `clippy` and `doc` need none of them: the linker fails after it, for programs and tests.
#![expect(clippy::disallowed_methods, reason = "its environment is how cargo talks to a build script")]

use std::env;
use std::path::{Path, PathBuf};

const LIBRARIES: [&str; 5] = ["cpg", "quorum", "votequorum", "cmap", "cfg"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBRARY_PATH");
    if env::var_os("CARGO_FEATURE_COROSYNC").is_none() {
        return;
    }
    let arch = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let of_target = format!("/usr/lib/{arch}-linux-gnu");
    let mut folders: Vec<PathBuf> =
        [of_target.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"].map(PathBuf::from).to_vec();
    folders.extend(env::var_os("LIBRARY_PATH").iter().flat_map(env::split_paths));
    let is_there = |name: &str| folders.iter().any(|f: &PathBuf| has(f, name));
    let missing: Vec<String> =
        LIBRARIES.iter().filter(|name| !is_there(name)).map(|name| format!("lib{name}-dev")).collect();
    if !missing.is_empty() {
        let packages = missing.join(" ");
        println!(
            "cargo::warning=feature `corosync`: programs and tests will not link without corosync's libraries"
        );
        println!(
            "cargo::warning=install them: apt-get install {packages} (Debian; corosynclib-devel elsewhere)"
        );
    }
}

fn has(folder: &Path, name: &str) -> bool {
    folder.join(format!("lib{name}.so")).exists()
}
