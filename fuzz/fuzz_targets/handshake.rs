//! What a broker says until the connection is open.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| haypile::internals::fuzz::handshake(bytes));
