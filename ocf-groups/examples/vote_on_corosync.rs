//! Programs on the nodes of a running corosync elect a coordinator: the vote of this crate, unchanged, on corosync's membership and order.
//!
//! `cargo build -p ocf-groups --features corosync --example vote_on_corosync`, then on each of three nodes `vote_on_corosync 3`. It
//! needs Debian's libcpg-dev, libquorum-dev, libvotequorum-dev, libcmap-dev and libcfg-dev to be built, and a corosync with a quorum
//! provider to run on. It ends with the result, which is the same on all nodes.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]
#![expect(clippy::wildcard_enum_match_arm, reason = "and looks only at what it shows")]
#![expect(clippy::disallowed_methods, reason = "a program owns the clock, and its arguments")]

use ocf_groups::corosync::Corosync;
use ocf_groups::replicated::{Config, Output, Replicated};
use ocf_groups::voting::{Ballot, Event, Outcome, Rule, Voting};
use ocf_groups::{GroupProvider, GroupService};
use ocf_membership::Membership;
use pils::{Incarnation, Instant};
use std::error::Error;
use std::fs::File;
use std::io::Read as _;
use std::time::Duration;
use std::{env, thread};

fn main() -> Result<(), Box<dyn Error>> {
    let nodes: usize = env::args().nth(1).ok_or("say of how many nodes: vote_on_corosync 3")?.parse()?;
    let mut random = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let incarnation = Incarnation::new(u128::from_be_bytes(random));
    let mut node = Corosync::open("council", ocf_groups::Config::default(), incarnation)?;

    // Corosync has no Safe delivery, which is the default; joining would be refused.
    let guarantee = node.group_promises().strongest;
    let config = Config { guarantee, ..Config::new("council", 0) };
    let mut voting = Replicated::new(config, node.local(), Voting::default());

    let start = std::time::Instant::now();
    let now = || Instant::ZERO + start.elapsed();
    voting.join(now(), &mut node)?;
    let mut asked = false;
    let mut candidates = Vec::new();
    loop {
        node.process(now());
        while let Some(event) = node.poll_group_event() {
            voting.handle(now(), &event);
        }
        let told = voting.drive(now(), &mut node);
        let idle = told.is_empty();
        for output in told {
            match output {
                Output::Event(Event::Opened { ballot, content, .. }) => {
                    candidates = content.options;
                    voting.vote(now(), ballot, Some(0))?;
                }
                Output::Event(Event::Closed(closed)) => {
                    let Outcome::Elected(which) = closed.outcome else {
                        return Err("nobody is elected".into());
                    };
                    println!("{} coordinates, by {:?}", candidates[which], closed.reason);
                    node.leave();
                    return Ok(());
                }
                Output::Failed(error) => return Err(error.into()),
                _ => {}
            }
        }
        // The most senior asks once all are there.
        if !asked && voting.members().len() == nodes && voting.members()[0] == voting.me() {
            asked = true;
            let names = voting.members().iter().map(|m| m.instance.node.to_string());
            voting.open(now(), Ballot::new("who coordinates?", names, Rule::Unanimous))?;
        }
        if node.is_lost() {
            return Err("corosync is gone".into());
        }
        // A real program waits for `node.descriptors()` until `node.poll_timeout()`.
        if idle {
            thread::sleep(Duration::from_millis(2));
        }
    }
}
