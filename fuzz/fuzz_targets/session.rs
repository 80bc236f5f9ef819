//! What a broker says on an open connection: however it is cut, the same is delivered to the program.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| haypile::internals::fuzz::session(bytes));
