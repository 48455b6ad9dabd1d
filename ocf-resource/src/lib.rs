//! Resource agents, their executor and the cluster resource manager
#![forbid(unsafe_code)]
