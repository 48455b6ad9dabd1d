//! Fencing: devices, confirmed outcomes, evidence
#![forbid(unsafe_code)]
