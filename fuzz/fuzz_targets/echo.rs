//! Fuzzes what watched hosts answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ocf_comm::fuzzing::echo(data));
