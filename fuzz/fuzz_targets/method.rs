//! The payload of one method frame.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| haypile::internals::fuzz::method(bytes));
