//! The payload of one content header.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| haypile::internals::fuzz::header(bytes));
