//! High-availability clusters from parts.
#![forbid(unsafe_code)]

#[cfg(feature = "sim")]
pub mod sim;
