//! `node_config` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::node_config::run(data));
