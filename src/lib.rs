//! High-availability clusters from parts.
#![forbid(unsafe_code)]
