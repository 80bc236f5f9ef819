//! Files that TLS needs and that are not there at once, or never.
#![cfg(all(unix, feature = "tls"))]

#[path = "support/broker.rs"]
mod broker;
mod support;

use std::error::Error as _;
use std::io;
use std::process::Command;
use std::time::Duration;

use broker::Folder;
use haypile::{Connection, ConnectionParameters, Error, TlsOptions};
use support::{assert_matches, bounded};

fn pipe(folder: &Folder, name: &str) -> String {
    let path = folder.path().join(name);
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    path.to_str().unwrap().to_owned()
}

fn open(tls: TlsOptions, patience: Duration) -> Error {
    let parameters = ConnectionParameters::new("127.0.0.1").port(1).tls(tls);
    Connection::open(parameters.stack_timeout(patience)).unwrap_err()
}

#[test]
fn a_pipe_without_a_writer_does_not_hold_up_connecting() {
    bounded(|| {
        let folder = Folder::new();
        let pipe = pipe(&folder, "pipe.pem");
        let all = TlsOptions::new().ca_certificates_file(&pipe);
        let own = TlsOptions::new().client_certificate_files(&pipe, &pipe);
        for tls in [all, own] {
            let error = open(tls, Duration::from_millis(100));
            assert_matches!(error, Error::InvalidParameter { .. });
            let text = error.to_string();
            assert!(
                text.contains("pipe.pem") && text.contains("100 ms"),
                "{text}"
            );
            let source: Option<&io::Error> =
                error.source().and_then(|source| source.downcast_ref());
            assert_eq!(source.map(io::Error::kind), Some(io::ErrorKind::TimedOut));
            assert!(!error.is_retryable());
        }
        // Both readers end.
        std::fs::write(&pipe, "").unwrap();
    });
}

#[test]
fn a_pipe_that_is_written_to_is_a_file_like_any_other() {
    bounded(|| {
        let folder = Folder::new();
        let pipe = pipe(&folder, "pipe.pem");
        let tls = TlsOptions::new().ca_certificates_file(&pipe);
        std::thread::scope(|scope| {
            scope.spawn(|| std::fs::write(&pipe, "no certificate").unwrap());
            let error = open(tls, Duration::from_secs(20));
            let text = error.to_string();
            assert!(text.contains("there is no certificate"), "{text}");
        });
    });
}

#[test]
fn a_file_without_end_is_refused() {
    bounded(|| {
        let error = open(
            TlsOptions::new().ca_certificates_file("/dev/zero"),
            Duration::from_secs(20),
        );
        assert!(error.to_string().contains("16 MiB"), "{error}");
    });
}
