//! Keys change while messages pass: nothing is lost, and nobody waits for long.

use crate::support::circuit::{
    Application, CHANNEL, ENCRYPTED, Echo, PATIENCE, SMALL, Wire, ports, run_over,
};
use crate::support::{Goal, Options, Report, Samples, machine};
use bytes::Bytes;
use ocf_comm::{ClusterKey, Endpoint, Event, KeyError, KeyId, Lane};
use pils::{Instant, NodeInstance};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{self, Duration};

/// Packets after which a session derives its next key, and round trips that are looked at together: each such group has a
/// change of keys in it.
const GROUP: u16 = 100;
/// Changes of the cluster's key.
const ROTATIONS: u8 = 20;

/// What a measurement and its program share.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// A change of the cluster's key is under way.
    changing: AtomicBool,
    renewed: AtomicU64,
}

/// One message at a time, each with a number that must come back.
struct Pinger {
    number: u64,
    sent: time::Instant,
    /// Whether a key was being changed when it was sent.
    marked: bool,
    samples: Vec<(Duration, bool)>,
    lost: u64,
    shared: Arc<Shared>,
    report: crossbeam_channel::Sender<Run>,
}

/// Round trips in order, each with its mark, and messages that did not come back.
struct Run {
    samples: Vec<(Duration, bool)>,
    lost: u64,
}

impl Pinger {
    fn send(&mut self, to: NodeInstance, endpoint: &mut Endpoint, now: Instant) {
        self.number += 1;
        let mut message = [0; SMALL];
        message[..8].copy_from_slice(&self.number.to_be_bytes());
        (self.sent, self.marked) = (time::Instant::now(), self.shared.changing.load(Ordering::Relaxed));
        endpoint
            .send(now, to, Lane::Small, CHANNEL, Bytes::copy_from_slice(&message))
            .expect("one message fits");
    }
}

impl Application for Pinger {
    fn on(&mut self, event: Event, endpoint: &mut Endpoint, now: Instant) {
        match event {
            Event::Up { peer } => self.send(peer, endpoint, now),
            Event::Renewed { .. } => _ = self.shared.renewed.fetch_add(1, Ordering::Relaxed),
            Event::Message { from, lane, message, .. } => {
                let marked = self.marked || self.shared.changing.load(Ordering::Relaxed);
                self.samples.push((self.sent.elapsed(), marked));
                self.lost += u64::from(message.first_chunk() != Some(&self.number.to_be_bytes()));
                endpoint.consumed(now, from, lane, message.len());
                if !self.shared.stop.load(Ordering::Relaxed) {
                    return self.send(from, endpoint, now);
                }
                let samples = std::mem::take(&mut self.samples);
                self.report.send(Run { samples, lost: self.lost }).expect("someone waits for it");
            }
            Event::Down { .. } => self.lost += 1,
            _ => {}
        }
    }
}

/// Round trips for as long as `meanwhile` takes, which may work on both endpoints: the nodes run on the first processor, that on
/// any.
fn ping(rekey: Option<u64>, meanwhile: impl FnOnce(&mut Both<'_>, &Shared)) -> Run {
    let (report, reports) = crossbeam_channel::bounded(1);
    let shared = Arc::<Shared>::default();
    let pinger = Pinger {
        number: 0,
        sent: time::Instant::now(),
        marked: false,
        samples: Vec::with_capacity(1 << 20),
        lost: 0,
        shared: Arc::clone(&shared),
        report,
    };
    let wire = Wire { rekey, ..ENCRYPTED };
    let (a, b) = machine::on_one(|| {
        let ((a_ports, a_address), (b_ports, b_address)) = (ports(), ports());
        let b = run_over(wire, (b_ports, 2), &[(1, a_address)], |_| Echo);
        (run_over(wire, (a_ports, 1), &[(2, b_address)], |_| pinger), b)
    });
    let mut both = |step: &mut Step<'_>| {
        let a = a.running.call(|endpoint, _, now| step(endpoint, now)).expect("it runs");
        let b = b.running.call(|endpoint, _, now| step(endpoint, now)).expect("it runs");
        a.and(b)
    };
    meanwhile(&mut both, &shared);
    shared.stop.store(true, Ordering::Relaxed);
    reports.recv_timeout(PATIENCE).expect("the measurement ends")
}

/// A step of changing the cluster's key, at one node.
type Step<'a> = dyn FnMut(&mut Endpoint, Instant) -> Result<(), KeyError> + 'a;

/// Has both nodes take a step.
type Both<'a> = dyn FnMut(&mut Step<'_>) -> Result<(), KeyError> + 'a;

/// Changes the cluster's key in three steps, and marks the time that it takes.
fn change(both: &mut Both<'_>, shared: &Shared, old: KeyId, new: ClusterKey) {
    let (id, before) = (new.id, shared.renewed.load(Ordering::Relaxed));
    let end = time::Instant::now() + PATIENCE;
    shared.changing.store(true, Ordering::Relaxed);
    both(&mut |endpoint, now| endpoint.learn_key(now, new.clone())).expect("a new key");
    both(&mut |endpoint, now| endpoint.use_key(now, id)).expect("a key that was learned");
    while shared.renewed.load(Ordering::Relaxed) == before {
        assert!(time::Instant::now() < end, "the circuit moves to the new key");
        thread::sleep(Duration::from_micros(200));
    }
    // The other end may still rest on the old one for a moment, and one may have forgotten it already.
    while let Err(KeyError::StillNeeded { .. }) = both(&mut |endpoint, now| {
        let known = endpoint.keys().iter().any(|key| key.id == old);
        if known { endpoint.forget_key(now, old) } else { Ok(()) }
    }) {
        assert!(time::Instant::now() < end, "both ends move to the new key");
        thread::sleep(Duration::from_micros(200));
    }
    shared.changing.store(false, Ordering::Relaxed);
}

/// The longest round trip of each change of the cluster's key, as samples in microseconds, and what was lost.
fn rotate() -> (Samples, u64) {
    let run = ping(None, |both, shared| {
        thread::sleep(Duration::from_millis(100));
        for new in 1..=ROTATIONS {
            let secret = format!("key {new} for measuring, which has 32 bytes or more");
            change(both, shared, KeyId(new - 1), ClusterKey::new(KeyId(new), secret));
            thread::sleep(Duration::from_millis(20));
        }
    });
    let groups = run.samples.chunk_by(|a, b| a.1 == b.1).filter(|group| group[0].1);
    let longest = groups.filter_map(|group| group.iter().map(|(time, _)| *time).max());
    (Samples::micros(longest.collect::<Vec<_>>()), run.lost)
}

/// All round trips of a run, and the longest of each group of them, in microseconds; and what was lost.
fn pings(rekey: Option<u64>, time: Duration) -> (Samples, Samples, u64) {
    let run = ping(rekey, |_, _| thread::sleep(time));
    let longest =
        run.samples.chunks(usize::from(GROUP)).filter_map(|group| group.iter().map(|(time, _)| *time).max());
    let longest = Samples::micros(longest.collect::<Vec<_>>());
    (Samples::micros(run.samples.into_iter().map(|(time, _)| time)), longest, run.lost)
}

/// The figures of S-1.
pub fn report(options: Options, report: &mut Report) {
    let time = options.time(Duration::from_secs(2));
    let (quiet, _, _) = pings(None, time);
    let (_, rekeyed, lost) = pings(Some(u64::from(GROUP)), time);
    let (rotated, lost_too) = rotate();
    let allowed = Some(("p99 without", quiet.percentile(0.99)));
    let twice = Some(Goal::AtMost(2.0));
    let what = "longest of 100 round trips with a session rekey";
    report.figure(("S-1", what), (rekeyed.median(), "us"), allowed, twice);
    let what = "longest round trip while the cluster's key changes";
    report.figure(("S-1/rotation", what), (rotated.median(), "us"), allowed, twice);
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let lost = (lost + lost_too) as f64;
    let what = "messages lost in all of them";
    report.figure(("S-1/lost", what), (lost, ""), Some(("one", 1.0)), Some(Goal::AtMost(0.0)));
    report.note("S-1: medians over all changes of keys; one message at a time, both nodes on one processor");
}
