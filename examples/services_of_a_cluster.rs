//! Three nodes vote, wait for each other at a barrier, and keep the progress of a job in a checkpoint. The node that does the job is
//! lost, and another one goes on from where it was.
//!
//! `cargo run --release --example services_of_a_cluster` needs no rights, no files and no configuration. The exit status is 0
//! only if every check held.
#![expect(clippy::print_stdout, reason = "the program is there to be watched")]

use bytes::Bytes;
use ocf::{Cluster, Reply, RequestError, Service, ServiceEvent};
use ocf_groups::barrier::{self, Barriers, Terms};
use ocf_groups::checkpoint::{self, Access, Attributes, Checkpoints, Handle, Mode};
use ocf_groups::replicated::{Config, Machine, Outcome, SubmitError};
use ocf_groups::voting::{self, Ballot, Rule, Voting};
use std::error::Error;
use std::time::{Duration, Instant};

/// Nothing here takes long; this is for a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(60);
const JOB: &[u8] = b"job";

fn main() -> Result<(), Box<dyn Error>> {
    let mut cluster = Cluster::builder("services").local(3)?;
    let votes = everywhere::<Voting>(&cluster, "votes")?;
    let barriers = everywhere::<Barriers>(&cluster, "barriers")?;
    let mut jobs = everywhere::<Checkpoints>(&cluster, "jobs")?;

    let ballot = Ballot::new("Who does the job?", ["node 1", "node 2", "node 3"], Rule::MajorityOfMembers);
    let ballot = voting::answer(&applied(votes[1].ask(|v, now| v.open(now, ballot)))?)?;
    for service in &votes {
        // The first two votes may decide it before the third one comes.
        drop(applied(service.ask(|v, now| v.vote(now, ballot, Some(0))))?);
    }
    let voting::Event::Closed(closed) = told(&votes[2], |e| matches!(e, voting::Event::Closed(_)))? else {
        return Err("the ballot is not closed".into());
    };
    println!("elected: {:?}, {:?}", closed.outcome, closed.tally);
    assert_eq!(closed.outcome, voting::Outcome::Elected(0));

    for service in &barriers {
        applied(service.ask(|b, now| b.enter(now, "all are ready", None, Terms::all())))?;
    }
    told(&barriers[0], |e| matches!(e, barrier::Event::Passed { .. }))?;
    println!("all three are ready");

    let worker = jobs.remove(0);
    let handle = open(&worker)?;
    applied(worker.ask(|c, now| c.create_section(now, handle, (Some(JOB.into()), Bytes::new()), None)))?;
    for step in 1..=5 {
        let done = Bytes::from(format!("step {step}"));
        applied(worker.ask(|c, now| c.overwrite(now, handle, JOB.into(), done)))?;
    }
    let lost = Instant::now();
    cluster.kill(0);
    let handle = open(&jobs[0])?;
    let found = jobs[0].look(|c| c.machine().read(c.me(), handle, JOB, (0, usize::MAX)))?;
    println!("node 1 is lost; {:?} later node 2 goes on after {:?}", lost.elapsed(), found);
    assert_eq!(found, "step 5");
    Ok(())
}

/// The machine at every node, each with the state of the group.
fn everywhere<M>(cluster: &Cluster, group: &str) -> Result<Vec<Service<M>>, Box<dyn Error>>
where
    M: Machine<Event: Send> + Default + Send,
{
    let start = |node: &ocf::Node| node.service(Config::new(group, 1), M::default());
    let all = cluster.running().map(start).collect::<Result<Vec<_>, _>>()?;
    if all.iter().all(|service| service.wait_ready(PATIENCE)) { Ok(all) } else { Err("no group".into()) }
}

/// Waits until the command was carried out everywhere.
fn applied(asked: Result<Reply, RequestError<SubmitError>>) -> Result<Bytes, Box<dyn Error>> {
    match asked?.wait(PATIENCE)? {
        Some(Outcome::Applied(reply)) => Ok(reply),
        other => Err(format!("not carried out: {other:?}").into()),
    }
}

/// Waits for an event.
fn told<M>(service: &Service<M>, is_it: impl Fn(&M::Event) -> bool) -> Result<M::Event, Box<dyn Error>>
where
    M: Machine<Event: Send> + Send,
{
    loop {
        match service.next_event(PATIENCE) {
            Some(ServiceEvent::Event(event)) if is_it(&event) => return Ok(event),
            Some(_) => {}
            None => return Err("nothing happens".into()),
        }
    }
}

fn open(service: &Service<Checkpoints>) -> Result<Handle, Box<dyn Error>> {
    let create = Attributes {
        mode: Mode::AllReplicas,
        collocated: false,
        size: 4096,
        retention: None,
        sections_max: 4,
        section_size_max: 1024,
        section_id_max: 16,
    };
    let access = Access { read: true, write: true };
    let opened = applied(service.ask(|c, now| c.open_checkpoint(now, "jobs", access, Some(create))))?;
    Ok(Handle(checkpoint::answer(&opened)?))
}
