//! Fuzzes what nodes announce.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::announce(data));
