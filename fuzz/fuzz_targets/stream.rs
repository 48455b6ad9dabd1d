//! Fuzzes a lane's stream, with and without a codec.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::stream(data));
