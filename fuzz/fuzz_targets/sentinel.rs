//! Fuzzes obituaries and the orders of sentinels.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::sentinel(data));
