//! Fuzzes the frames of an authenticated packet.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::frames(data));
