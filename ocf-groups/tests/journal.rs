//! Goal: a process that is killed at any moment has in its journal all that it was told is durable, and starts from it.
//!
//! Method: a process of its own writes records and says which are durable; it is killed with SIGKILL after a random number of words and a
//! random time, again and again on one file, which is written anew several times meanwhile.

#![expect(clippy::disallowed_methods, reason = "a process runs for a time of its own")]

use bytes::Bytes;
use ocf_groups::driver::FileJournal;
use ocf_groups::replicated::Birth;
use ocf_groups::transaction::{Journal as _, Parties, Record, Site, TxnId};
use ocf_groups::{MemberId, Position};
use pils::{Incarnation, NodeId, NodeInstance, Rng};
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Tells the process where its journal is.
const PATH: &str = "OCF_TEST_JOURNAL";

/// So many transactions are open at once.
const OPEN: u64 = 4;

/// A hundred of them make a file that is written anew.
const SIZE: usize = 20_000;

fn txn(number: u64) -> TxnId {
    let instance = NodeInstance::new(NodeId::new(1), Incarnation::new(1));
    TxnId { birth: Birth { founder: MemberId { instance, local: 0 }, position: Position::default() }, number }
}

fn prepared(number: u64) -> Record {
    let site = Site { node: NodeId::new(1), local: 0 };
    let parties = Parties { coordinator: site, participants: BTreeSet::from([site]) };
    let fill = u8::try_from(number % 251).expect("it is below 256");
    Record::Prepared { txn: txn(number), parties, content: Bytes::from(vec![fill; SIZE]) }
}

fn forget(number: u64) -> Record {
    Record::Forget { txn: txn(number) }
}

fn newest(records: &[Record]) -> u64 {
    records.iter().map(|record| record.txn().number).max().unwrap_or(0)
}

/// Not a test: the process of the test. Does nothing unless it was started as such.
#[test]
fn a_process_that_writes_until_it_is_killed() {
    let Some(path) = std::env::var_os(PATH).map(PathBuf::from) else { return };
    let (mut journal, records) = FileJournal::open(path).expect("the journal opens");
    let mut out = std::io::stdout();
    let newest = newest(&records);
    for number in records.iter().map(|record| record.txn().number).filter(|n| n + OPEN <= newest) {
        journal.append(&[forget(number)]).expect("it is written");
    }
    for number in newest + 1.. {
        journal.append(&[prepared(number)]).expect("it is written");
        writeln!(out, "\n> {number}").expect("somebody listens");
        if number > OPEN {
            journal.append(&[forget(number - OPEN)]).expect("it is written");
        }
    }
}

/// Has a process write for a while, and kills it. The last transaction that it said is durable.
fn killed_after(path: &Path, least: u64, then: Duration) -> u64 {
    let own = std::env::current_exe().expect("this program has a path");
    let mut child = Command::new(own)
        .args(["--exact", "a_process_that_writes_until_it_is_killed", "--nocapture", "--test-threads=1"])
        .env(PATH, path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut words = BufReader::new(child.stdout.take().expect("it is piped")).lines().filter_map(|line| {
        let line = line.expect("it speaks in text");
        line.strip_prefix("> ").map(|number| number.parse::<u64>().expect("a number"))
    });
    let mut said = 0;
    for _ in 0..least {
        said = words.next().expect("it writes on");
    }
    std::thread::sleep(then);
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    // What it said before it ended is in the pipe.
    words.last().unwrap_or(said)
}

#[test]
fn a_process_that_is_killed_at_any_moment_has_all_that_was_durable() {
    let folder = std::env::temp_dir().join(format!("ocf-journal-killed-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder of our own");
    let path = folder.join("journal");
    let mut rng = Rng::new(137);
    let mut last = 0;
    for round in 0..20 {
        let then = Duration::from_micros(500 + rng.below(3_000));
        let said = killed_after(&path, 10 + rng.below(20), then);
        let (journal, records) = FileJournal::open(&path).expect("it is whole");
        last = newest(&records);
        assert!(last == said || last == said + 1, "round {round}: {said} was said, {last} is there");
        // One more is open if it was killed before it could forget.
        let first = records[0].txn().number;
        assert!(first.abs_diff(last - OPEN) <= 1, "round {round}: {first} to {last}");
        let expected: Vec<Record> = (first..=last).map(prepared).collect();
        assert_eq!(records, expected, "round {round}");
        assert!(journal.size() < 2 << 20, "round {round}: {} bytes", journal.size());
    }
    assert!(last > 200, "{last} were written");
    std::fs::remove_dir_all(&folder).expect("it is ours");
}
