//! Fuzzes messages of calls between nodes.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::calls(data));
