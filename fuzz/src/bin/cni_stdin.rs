//! `cni_stdin` for libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| flock_fuzz::cni_stdin::run(data));
