//! Goal: what stands on the kernel holds on a real one that has it: reservations of shared disks, watchdogs, replicated block
//! devices, virtual servers, whatever the kernel of this machine lacks.
//!
//! Method: each test asks for its result in a virtual machine (`machine.rs`), which is started once and runs the same tests there. The
//! last ends with a watchdog that nobody keeps quiet: its reset is seen from outside. A second machine has a watchdog of another kind.

mod agents;
mod machine;
mod replication;
mod reservations;
mod virtual_servers;
mod watchdogs;
