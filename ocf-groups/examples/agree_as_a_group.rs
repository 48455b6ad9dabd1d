//! Three members of a group, in one process and without a network, vote, wait for each other, commit a transfer between two
//! of them, and tell each other what happened. `cargo run -p ocf-groups --example agree_as_a_group`
#![expect(clippy::print_stdout, reason = "an example shows what it does")]
#![expect(clippy::wildcard_enum_match_arm, reason = "and looks only at what it shows")]

use bytes::Bytes;
use ocf_groups::barrier::{self, Barriers, Terms};
use ocf_groups::channel::{self, Access, Channels, Content, Filter, Handle, Inbox, Notice};
use ocf_groups::replicated::{Config, Outcome, Output as Told, Replicated};
use ocf_groups::transaction::{Output as Done, Site, TransactionSite};
use ocf_groups::voting::{self, Ballot, Rule, Voting};
use ocf_groups::{Event, Groups, Input, MemberId, Output};
use ocf_membership::{Ballot as Round, Member, View, ViewNumber};
use pils::{Incarnation, Instant, Layer, NodeId, NodeInstance};
use std::error::Error;
use std::time::Duration;

/// A node: the core, and members of four groups on it.
struct Node {
    core: Groups,
    voting: Replicated<Voting>,
    barriers: Replicated<Barriers>,
    bank: TransactionSite,
    channels: Replicated<Channels>,
    inbox: Inbox,
    /// The channel that this node has open.
    alarms: Option<Handle>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let ids: Vec<NodeInstance> =
        (1..4).map(|n| NodeInstance::new(NodeId::new(n), Incarnation::new(u128::from(n) << 96))).collect();
    let mut nodes: Vec<Node> = ids.iter().map(|id| Node::new(*id)).collect();
    let mut now = Instant::ZERO;

    // Membership would agree on this view, and on the next when someone dies.
    let number = ViewNumber(1);
    let members = ids.iter().map(|id| Member { instance: *id, joined: number, votes: 1 }).collect();
    let ballot = Round { round: 1, proposer: ids[0] };
    let view = View {
        number,
        ballot,
        members,
        previous: Vec::new(),
        causes: Vec::new(),
        quorum: 2,
        level: 2,
        unproven: Vec::new(),
    };
    for node in &mut nodes {
        node.core.handle(now, Input::Installed(&view));
        node.voting.join(now, &mut node.core)?;
        node.barriers.join(now, &mut node.core)?;
        node.bank.join(now, &mut node.core)?;
        node.channels.join(now, &mut node.core)?;
    }
    settle(&mut nodes, &mut now);

    // Each votes for the one it likes; the result is the same everywhere.
    let ballot = Ballot::new("who coordinates?", ["n1", "n2"], Rule::MajorityOfMembers);
    nodes[2].voting.open(now, ballot)?;
    settle(&mut nodes, &mut now);
    let open = nodes[0].voting.machine().open_ballots().next().map(|(id, ..)| id).ok_or("no ballot")?;
    for (node, choice) in nodes.iter_mut().zip([1, 1, 0]) {
        node.voting.vote(now, open, Some(choice))?;
    }
    settle(&mut nodes, &mut now);

    // Nobody goes on before all are there.
    for node in &mut nodes {
        node.barriers.enter(now, "suspended", None, Terms::all())?;
    }
    settle(&mut nodes, &mut now);

    // Both sides of a transfer happen, or none.
    let (from, to) = (Site { node: NodeId::new(1), local: 0 }, Site { node: NodeId::new(2), local: 0 });
    nodes[2].bank.begin(now, [from, to], Bytes::from_static(b"100 from n1 to n2"), None)?;
    settle(&mut nodes, &mut now);
    assert!(nodes.iter().all(|node| node.bank.unfinished() == 0), "everyone has carried it out");
    tell(&mut nodes, &mut now)
}

/// One tells what happened: to who listens for such things, and, as it is retained, to who asks later.
fn tell(nodes: &mut [Node], now: &mut Instant) -> Result<(), Box<dyn Error>> {
    for node in nodes.iter_mut() {
        node.channels.open_channel(*now, "alarms", Access::BOTH, true)?;
    }
    settle(nodes, now);
    let disks = Filter::Prefix(Bytes::from_static(b"disk/"));
    let handle = nodes[1].alarms.ok_or("the channel is open")?;
    nodes[1].channels.subscribe(*now, handle, 1, vec![disks])?;
    settle(nodes, now);
    let handle = nodes[0].alarms.ok_or("the channel is open")?;
    for (pattern, text) in [("disk/full", "sda is full"), ("net/down", "eth0 is down")] {
        let data = Bytes::from_static(text.as_bytes());
        nodes[0].channels.publish(
            *now,
            handle,
            Content { retention: None, ..Content::new(pattern, data) },
        )?;
    }
    settle(nodes, now);
    let handle = nodes[2].alarms.ok_or("the channel is open")?;
    nodes[2].channels.subscribe(*now, handle, 1, vec![])?;
    settle(nodes, now);
    let heard: Vec<usize> = nodes.iter_mut().map(Node::listen).collect();
    assert_eq!(heard, [0, 1, 2], "one listens for disks, one asks later for all");
    Ok(())
}

impl Node {
    fn new(id: NodeInstance) -> Self {
        Self {
            core: Groups::new(ocf_groups::Config::default(), id),
            voting: Replicated::new(Config::new("council", 0), id, Voting::default()),
            barriers: Replicated::new(Config::new("recovery", 0), id, Barriers::default()),
            bank: TransactionSite::new(Config::new("bank", 0), id, []),
            channels: Replicated::new(Config::new("events", 0), id, Channels::default()),
            inbox: Inbox::new(MemberId { instance: id, local: 0 }, channel::INBOX_MAX),
            alarms: None,
        }
    }

    fn on_event(&mut self, now: Instant, event: &Event) {
        self.voting.handle(now, event);
        self.barriers.handle(now, event);
        self.bank.handle(now, event);
        self.channels.handle(now, event);
    }

    /// Looks at what it was told, most urgent first.
    fn listen(&mut self) -> usize {
        let notices: Vec<Notice> = std::iter::from_fn(|| self.inbox.pop()).collect();
        for notice in &notices {
            if let Notice::Event { event, .. } = notice {
                let text = String::from_utf8_lossy(&event.content.data);
                println!("{}: heard from {}: {text}", self.core.local().node, event.by.instance.node);
            }
        }
        notices.len()
    }

    /// Lets the members send, and says what they tell.
    fn drive(&mut self, now: Instant) {
        let name = self.core.local().node;
        for told in self.voting.drive(now, &mut self.core) {
            if let Told::Event(voting::Event::Closed(closed)) = told {
                println!("{name}: {:?}, {:?}, {:?}", closed.outcome, closed.reason, closed.tally);
            }
        }
        for told in self.barriers.drive(now, &mut self.core) {
            if let Told::Event(barrier::Event::Passed { name: of, entered, .. }) = told {
                println!("{name}: all {} are {of}", entered.len());
            }
        }
        for told in self.channels.drive(now, &mut self.core) {
            match told {
                Told::Event(event) => self.inbox.take(&event),
                Told::Done(_, Outcome::Applied(reply)) if self.alarms.is_none() => {
                    self.alarms = channel::answer(&reply).ok().map(Handle);
                }
                other => drop(other),
            }
        }
        for told in self.bank.drive(now, &mut self.core) {
            match told {
                Done::Prepare { txn, content } => {
                    println!("{name}: can do: {}", String::from_utf8_lossy(&content));
                    self.bank.prepared(now, txn, true);
                }
                // A real journal says so when the record would survive a crash.
                Done::Write { token, .. } => self.bank.durable(now, token),
                Done::Commit { txn, .. } => {
                    println!("{name}: committed");
                    self.bank.applied(now, txn);
                }
                other => drop(other),
            }
        }
    }
}

/// Carries messages until nothing happens any more.
fn settle(nodes: &mut [Node], now: &mut Instant) {
    for _ in 0..200 {
        *now += Duration::from_millis(1);
        let mut mail = Vec::new();
        for node in nodes.iter_mut() {
            node.core.handle_timeout(*now);
            node.drive(*now);
            while let Some(output) = node.core.poll_output() {
                match output {
                    Output::Send { to, message, .. } => mail.push((node.core.local(), to, message)),
                    Output::Event(event) => node.on_event(*now, &event),
                    other => drop(other),
                }
            }
        }
        for (from, to, message) in mail {
            for node in nodes.iter_mut().filter(|node| to.contains(&node.core.local())) {
                node.core.handle(*now, Input::Message { from, message: &message });
            }
        }
    }
}
