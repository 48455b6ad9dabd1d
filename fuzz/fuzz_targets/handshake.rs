//! Fuzzes headers and handshake messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::handshake(data));
