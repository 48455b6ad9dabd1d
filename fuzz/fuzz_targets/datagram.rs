//! Fuzzes datagrams from strangers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::datagram(data));
