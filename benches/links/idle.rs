//! What three nodes cost that have nothing to do.

use crate::support::circuit::PATIENCE;
use crate::support::corosync::{Corosync, Setup};
use crate::support::{Goal, Report};
use ocf::{Cluster, Node};
use rustix::time::{ClockId, clock_gettime};
use std::thread;
use std::time::{Duration, Instant};

/// After forming, and before an idle cluster is measured.
const REST: Duration = Duration::from_secs(1);

/// Processor time of this process.
fn used() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let part = |n: i64| u64::try_from(n).expect("time that was used");
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

/// Per cent of a processor that one of three idle nodes takes.
fn ours(time: Duration) -> Result<f64, String> {
    let cluster = Cluster::builder("bench").local(3).map_err(|error| error.to_string())?;
    let end = Instant::now() + PATIENCE;
    let formed = |node: &Node| node.view().is_some_and(|view| view.members.len() == 3);
    while !cluster.running().all(formed) {
        if Instant::now() > end {
            return Err("no cluster forms".to_owned());
        }
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(REST);
    let (before, start) = (used(), Instant::now());
    thread::sleep(time);
    Ok(used().saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64() / 3.0 * 100.0)
}

fn theirs(time: Duration) -> Result<f64, String> {
    let mut corosync = Corosync::start(Setup::usual(true))?;
    thread::sleep(REST);
    let (before, start) = (corosync.used()?, Instant::now());
    thread::sleep(time);
    Ok(corosync.used()?.saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64() / 3.0 * 100.0)
}

/// The figures of M-8.
pub fn report(time: Duration, report: &mut Report) {
    let at_most = |bound| Some(Goal::AtMost(bound));
    let (what, beside) = ("one of three idle nodes, of a processor", "the same, against corosync");
    let ours = match ours(time) {
        Ok(ours) => {
            report.figure(("M-8", what), (ours, "%"), Some(("1 %", 1.0)), at_most(1.0));
            ours
        }
        Err(why) => {
            report.missing(("M-8", what), "%", at_most(1.0), &why);
            return report.missing(("M-8/corosync", beside), "%", at_most(0.5), &why);
        }
    };
    match theirs(time) {
        Ok(theirs) => {
            report.figure(("M-8/corosync", beside), (ours, "%"), Some(("corosync", theirs)), at_most(0.5));
        }
        Err(why) => report.missing(("M-8/corosync", beside), "%", at_most(0.5), &why),
    }
}
