//! AMQP URLs.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| haypile::internals::fuzz::url(text));
