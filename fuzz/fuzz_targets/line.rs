//! Fuzzes bytes of a serial line.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::line(data));
