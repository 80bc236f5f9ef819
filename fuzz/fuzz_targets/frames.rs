//! Frames, and the methods and headers in them: what can be read makes the way there and back.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| haypile::internals::fuzz::frames(bytes));
