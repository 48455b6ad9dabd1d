//! A deterministic simulator: a seed chooses everything, the same seed gives the same run, byte for byte.
//!
//! The production cores run on simulated machines (clocks that drift, processes that are killed or stopped, disks that
//! fail) and a simulated network (loss, delay, reordering, duplication, corruption, cuts of every shape, several paths
//! between two nodes that fail alone, an attacker without keys). Virtual time: an idle cluster runs thousands of times faster than the real one.
//!
//! * [`Program`]: what you write to run your own [`Layer`](pils::Layer)s; [`Ctx`] and [`World`] are what it can do.
//! * [`Profile`]: what a seed decides before the run, and [`Fault`]: what it inflicts during it.
//! * [`Checker`]: judges the history, one property each.
//! * [`Simulation`]: one run; its [`Report`] holds the [`Verdict`].

pub mod checkers;
pub mod circuits;
mod clock;
pub mod cluster;
mod disk;
mod history;
mod nemesis;
mod network;
mod paths;
mod profile;
mod program;
mod queue;
mod simulation;
mod trace;
mod world;

pub use disk::DiskProfile;
pub use history::{Change, Checker, Entry, Stop, Violation, What};
pub use network::address;
pub use paths::PATH_CASES;
pub use profile::{Fault, Profile, Quality};
pub use program::{Ctx, Datagrams, Moved, Program};
pub use simulation::{Report, Simulation, Verdict};
pub use world::World;
