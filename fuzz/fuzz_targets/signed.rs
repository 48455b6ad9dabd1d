//! Fuzzes handshake messages with the right code.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::signed(data));
