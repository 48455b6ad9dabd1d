//! One promised property in each file. `docs/simulator.md` says how to add one.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a checker looks at its own kinds of entry and at no others"
)]

mod circuit_order;
mod dead_members;
mod fence_truth;
mod node_set;
mod one_holder;
mod one_level;
mod one_plan;
mod one_view;
mod per_chain;
mod primary_overlap;
mod quorum_chain;
mod resource_order;
mod run_once;
mod sender_order;
mod state_kept;
mod steady;
mod suspicion;
mod total_order;
mod virtual_synchrony;

pub use circuit_order::CircuitOrder;
pub use dead_members::DeadMembers;
pub use fence_truth::FenceTruth;
pub use node_set::NodeSet;
pub use one_holder::OneHolder;
pub use one_level::OneLevel;
pub use one_plan::OnePlan;
pub use one_view::OneView;
pub use per_chain::PerChain;
pub use primary_overlap::PrimaryOverlap;
pub use quorum_chain::QuorumChain;
pub use resource_order::ResourceOrder;
pub use run_once::RunOnce;
pub use sender_order::SenderOrder;
pub use state_kept::StateKept;
pub use steady::Steady;
pub use suspicion::Suspicion;
pub use total_order::TotalOrder;
pub use virtual_synchrony::VirtualSynchrony;
