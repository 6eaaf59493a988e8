//! `socket_line` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::socket_line::run(data));
