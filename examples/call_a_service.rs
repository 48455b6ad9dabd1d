//! Three nodes in one process: each serves a method, and one of them calls it at one, at each and at any of the others.
//!
//! `cargo run --release --example call_a_service`
#![expect(clippy::print_stdout, reason = "it shows what happens")]

use ocf::{Cluster, NodeBuilder};
use ocf_comm::rpc::{Body, CallOptions, Caller, Dispatcher, Method, Outcome, Target};
use std::error::Error;
use std::time::Duration;

/// What a node of this program serves, beside `node.status` and the other methods of every node.
fn serve(builder: NodeBuilder) -> NodeBuilder {
    let id = builder.node();
    let load = Method::new("demo.load").help("How busy this node is, in percent.");
    let answer = move |_: &Caller, (): ()| Ok(id.raw() * 10);
    builder.methods(Dispatcher::builder().method(load, answer))
}

fn main() -> Result<(), Box<dyn Error>> {
    let cluster = Cluster::builder("calls").equip(serve).local(3)?;
    let node = cluster.node(0).ok_or("the first node runs")?;
    while node.view().is_none_or(|view| view.members.len() < 3) {
        drop(node.next_event(Duration::from_millis(20)));
    }
    let others: Vec<_> = node.snapshot()?.peers.into_iter().filter_map(|peer| peer.instance).collect();
    for target in [Target::One(others[0]), Target::Many(others), Target::Any(Vec::new())] {
        let call = node.call(target, "demo.load", Body::default(), &CallOptions::default())?;
        let done = call.wait(Duration::from_secs(10))?.ok_or("no answer in time")?;
        for (who, outcome) in done.results {
            let Outcome::Answered(body) = outcome else { return Err(format!("{who}: {outcome:?}").into()) };
            println!("{who}: {} %", body.read::<u32>()?);
        }
    }
    Ok(())
}
