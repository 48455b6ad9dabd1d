//! Whole clusters of production cores in virtual time: single situations, and many seeds of random trouble.

mod behaviour;
mod criteria;
mod levels;
mod nodes;
mod policies;
mod simulation;
mod table;
mod votes;
mod world;
