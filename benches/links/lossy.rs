//! A tenth of all packets is lost: circuits and views stay.

use super::{measure, sh};
use crate::support::circuit::PATIENCE;
use crate::support::{Goal, Report};
use bytes::Bytes;
use ocf::{Cluster, Node, NodeEvent};
use ocf_groups::{Event, Guarantee};
use std::thread;
use std::time::{Duration, Instant};

const GROUP: &str = "bench";
const TIME: Duration = Duration::from_secs(8);

#[derive(Default)]
struct Seen {
    delivered: u64,
    broken: u64,
    views: u64,
}

impl Seen {
    fn take(&mut self, node: &Node) {
        while let Some(event) = node.next_event(Duration::ZERO) {
            match event.event {
                NodeEvent::PeerDown { .. } => self.broken += 1,
                NodeEvent::Group(Event::View(_)) | NodeEvent::NonPrimary(_) => self.views += 1,
                NodeEvent::Group(Event::Message { .. }) => self.delivered += 1,
                NodeEvent::Group(Event::StateWanted { group, joiner, position }) => {
                    // Another event may follow that asks for a later state.
                    drop(node.offer_state(&group, joiner, position, Bytes::new()));
                }
                _ => {}
            }
        }
    }
}

/// Circuits that broke, views that changed and messages that were delivered in that time, at all nodes together.
pub fn inside() -> Result<Vec<f64>, String> {
    sh("nft add table inet t && nft add chain inet t in '{ type filter hook input priority 0; }'")?;
    let cluster = Cluster::builder("bench").local(3).map_err(|error| error.to_string())?;
    let end = Instant::now() + PATIENCE;
    cluster.running().for_each(|node| drop(node.join(GROUP, 0)));
    let mut seen = Seen::default();
    while seen.delivered < 9 {
        if Instant::now() > end {
            return Err("no cluster forms".to_owned());
        }
        step(&cluster, &mut seen);
    }
    sh("nft add rule inet t in numgen random mod 100 '<' 10 drop")?;
    let (mut seen, end) = (Seen::default(), Instant::now() + TIME);
    while Instant::now() < end {
        step(&cluster, &mut seen);
    }
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    Ok([seen.broken, seen.views, seen.delivered].map(|count| count as f64).to_vec())
}

/// Each node sends, all events are taken.
fn step(cluster: &Cluster, seen: &mut Seen) {
    for node in cluster.running() {
        // Refused before it is a member, and while the window is full.
        drop(node.send(GROUP, 0, Guarantee::Agreed, Bytes::from_static(&[7; 200])));
        seen.take(node);
    }
    thread::sleep(Duration::from_millis(1));
}

/// The part of C-5 that is about what must not happen.
pub fn report(report: &mut Report) {
    let none = Some(Goal::AtMost(0.0));
    let (breaks, changes) = ("10 % loss: circuits broken in 8 s", "10 % loss: views changed in 8 s");
    match measure("lossy")
        .and_then(|values| <[f64; 3]>::try_from(values).map_err(|_values| "three figures".to_owned()))
    {
        Ok([broken, views, delivered]) => {
            report.note(format!("10 % loss, three nodes: {delivered} ordered messages delivered meanwhile"));
            let any = Some(("one", 1.0));
            report.figure(("C-5/breaks", breaks), (broken, ""), any, none);
            report.figure(("C-5/views", changes), (views, ""), any, none);
        }
        Err(why) => {
            report.missing(("C-5/breaks", breaks), "", none, &why);
            report.missing(("C-5/views", changes), "", none, &why);
        }
    }
}
