//! What a broker says on an open connection: however it is cut, the program is told the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| haypile::internals::fuzz::session(bytes));
