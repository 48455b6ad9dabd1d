//! Fuzzes what local programs and the server say.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::local(data));
