//! Memory that is locked, each time in a process of its own: a lock lasts until the process ends.
#![expect(
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test may fail by panicking; its child says what it saw"
)]

use pils::ValueCodec as _;
use pils::codec::{LiXml, Limits};
use pils::memory::{self, LockError};
use std::fmt::Write as _;
use std::process::Command;

/// Runs one of the tests below in a process of its own, and tells what it says.
fn alone(test: &str, before: &str) -> String {
    let own = std::env::current_exe().expect("this test");
    let line = format!("{before} \"$0\" --exact {test} --ignored --nocapture");
    let output = Command::new("sh").args(["-c", &line]).arg(own).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

/// How many kilobytes of this process the system holds in RAM, of all its mappings.
fn locked_kb() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux");
    let lines = maps.lines().filter_map(|line| line.strip_prefix("Locked:"));
    lines.map(|line| line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")).sum()
}

#[test]
fn a_document_is_parsed_in_memory_that_is_never_paged_out_or_the_limit_is_told_with_its_remedy() {
    let said = alone("parse_with_memory_locked", "exec");
    assert!(said.contains("parsed in locked memory") || said.contains("LimitMEMLOCK=infinity"), "{said}");
}

#[test]
#[ignore = "needs root and setpriv of util-linux, to be without a capability"]
fn a_process_that_may_lock_little_is_told_how_much_and_is_whole() {
    let without = "ulimit -l 64; exec setpriv --bounding-set -ipc_lock";
    let said = alone("parse_with_memory_locked", without);
    assert!(said.contains("may lock 65536 bytes; raise RLIMIT_MEMLOCK"), "{said}");
}

/// 40 kB of XML.
fn document() -> String {
    let mut text = "<list>".to_owned();
    for number in 0..1000 {
        write!(text, "<LI><hash><LI key=\"n\">{number:020}</LI></hash></LI>").expect("memory");
    }
    text + "</list>"
}

#[test]
#[ignore = "is run by the tests above, in a process of its own"]
fn parse_with_memory_locked() {
    let (text, limits) = (document(), Limits::default());
    match memory::lock() {
        Ok(held) => {
            assert!(held > 0, "the system counts what is locked");
            let before = locked_kb();
            let values: Vec<_> =
                (0..50).map(|_| LiXml.decode(text.as_bytes(), &limits).expect("good XML")).collect();
            let after = locked_kb();
            assert_eq!(values.len(), 50);
            // Each holds 1000 strings of 20 bytes, and their lists.
            assert!(after >= before + 1000, "what is new is locked as well: {before} kB, then {after} kB");
            println!("parsed in locked memory: {before} kB, then {after} kB");
        }
        Err(error @ LockError::Limit(_)) => {
            assert_eq!(locked_kb(), 0);
            assert!(LiXml.decode(text.as_bytes(), &limits).is_ok());
            println!("{error}");
        }
        Err(error) => panic!("{error}"),
    }
}
