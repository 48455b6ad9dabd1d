//! Three programs beside the nodes of a cluster are members of one group. Each counts what all say, in one order; one is killed with
//! `kill -9`, a fourth comes and is given the count. A program is no node and has no protocol: it says what it wants to the node of its machine.
//!
//! `cargo run --release --example groups_from_a_program` needs no rights, no files and no configuration. The exit status is 0
//! only if every check held.
#![expect(clippy::print_stdout, reason = "the program is there to be watched")]
#![expect(clippy::wildcard_enum_match_arm, reason = "of many events this program wants few")]

use ocf::{ApiConfig, Cluster, GroupClient, GroupNews};
use ocf_groups::{Event, Guarantee};
use std::error::Error;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes long; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const GROUP: &str = "counters";
/// What each member says.
const WORDS: u64 = 100;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    if let (Some(node), Some(members), Some(last)) = (arguments.next(), arguments.next(), arguments.next()) {
        return work(&node, members.parse()?, last.parse()?);
    }
    let address = |node: u32| format!("@groups-from-a-program-{}-{node}", std::process::id());
    let equip = move |builder: ocf::NodeBuilder| {
        let local = Some(address(builder.node().raw()));
        builder.api(ApiConfig { local, ..ApiConfig::default() })
    };
    let _cluster = Cluster::builder("programs").equip(equip).local(3)?;

    let mut programs = Vec::new();
    for node in 1..=3 {
        programs.push(Program::start(&address(node), 3, 3 * WORDS)?);
    }
    for program in &mut programs {
        println!("program {} counts {}", program.child.id(), program.word("counts ")?);
    }
    let mut killed = programs.remove(0);
    killed.child.kill()?;
    killed.child.wait()?;
    let at = Instant::now();
    for program in &mut programs {
        assert_eq!(program.word("members ")?, "2");
    }
    println!("program {} was killed: the others know it {:?} later", killed.child.id(), at.elapsed());
    let mut late = Program::start(&address(1), 3, 4 * WORDS)?;
    println!("program {} came late and counts {}", late.child.id(), late.word("counts ")?);
    for program in programs.iter_mut().chain([&mut late]) {
        program.child.kill()?;
        program.child.wait()?;
    }
    Ok(())
}

/// A program beside a node.
struct Program {
    child: Child,
    words: Lines<BufReader<ChildStdout>>,
}

impl Program {
    fn start(node: &str, members: usize, last: u64) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([node, &members.to_string(), &last.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let words = BufReader::new(child.stdout.take().ok_or("it is piped")?).lines();
        Ok(Self { child, words })
    }

    /// What it says next that begins so.
    fn word(&mut self, begins: &str) -> Result<String, Box<dyn Error>> {
        loop {
            let line = self.words.next().ok_or("it ended")??;
            if let Some(rest) = line.strip_prefix(begins) {
                return Ok(rest.to_owned());
            }
        }
    }
}

/// What a program does: once so many are here it says its words, and tells how much all have said when that is `last`.
fn work(node: &str, at_least: usize, last: u64) -> Result<(), Box<dyn Error>> {
    let client = GroupClient::connect(node, "counter")?;
    let me = client.join(GROUP)?;
    let (mut count, mut said, mut here) = (None, 0, 0);
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let Some(GroupNews::Group(event)) = client.next_event(PATIENCE) else { continue };
        match event {
            Event::Message { .. } => {
                count = count.map(|count: u64| count + 1);
                if count == Some(last) {
                    println!("counts {last}");
                }
            }
            Event::Membership { members, joined, .. } => {
                println!("members {}", members.len());
                here = members.len();
                if members == joined {
                    // The first of all begins with nothing.
                    count = Some(0);
                }
            }
            Event::StateWanted { group, joiner, position } => {
                let count = count.ok_or("who is asked has it")?;
                client.offer_state(&group, joiner, position, &count.to_be_bytes())?;
            }
            Event::State { state, .. } => count = Some(u64::from_be_bytes(state[..].try_into()?)),
            _ => {}
        }
        if count.is_some() && here >= at_least && said == 0 {
            for _ in 0..WORDS {
                client.send(GROUP, me.local, Guarantee::Agreed, b"a word")?;
                said += 1;
            }
        }
    }
    Ok(())
}
