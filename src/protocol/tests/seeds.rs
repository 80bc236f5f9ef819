//! Each fuzz target over its seeds in `fuzz/seeds`, on a stable compiler and without the fuzzer.

use std::path::Path;

use crate::protocol::exercise;

/// Runs one target; the folder is missing in a published package, where nothing is tried.
fn run(target: &str, mut try_one: impl FnMut(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if !root.exists() {
        return;
    }
    let folder = root.join("seeds").join(target);
    let mut tried = 0;
    for file in std::fs::read_dir(&folder).unwrap() {
        try_one(&std::fs::read(file.unwrap().path()).unwrap());
        tried += 1;
    }
    assert!(tried > 0, "nothing in {}", folder.display());
}

#[test]
fn frames() {
    run("frames", |bytes| {
        exercise::frames(bytes, exercise::FRAME_MAX);
    });
}

#[test]
fn method() {
    run("method", |bytes| {
        exercise::method(1, bytes);
    });
}

#[test]
fn header() {
    run("header", |bytes| {
        exercise::header(1, bytes);
    });
}

#[test]
fn session() {
    run("session", |bytes| {
        exercise::session(bytes);
    });
}

#[test]
fn url() {
    run("url", |bytes| {
        exercise::url(&String::from_utf8_lossy(bytes));
    });
}

#[test]
fn table() {
    run("table", |bytes| {
        exercise::table(bytes);
    });
}

/// The fuzzer must start from a connection that comes to be open.
#[test]
fn handshake() {
    let mut opened = 0;
    run("handshake", |bytes| {
        opened += usize::from(exercise::handshake(bytes));
    });
    assert!(opened > 0 || !Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").exists());
}
