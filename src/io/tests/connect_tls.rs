//! What becomes of an attempt to connect over TLS.

use super::*;
use crate::TlsOptions;
use std::error::Error as _;

/// What the end of the stream comes to, if it is TLS's doing.
fn tls_failure(
    error: io::Error,
    certificate_missing: bool,
    has_replied: bool,
    received: &[u8],
) -> Option<Box<Failure>> {
    let parameters = parameters();
    let target = Target::new(&parameters).unwrap();
    let script = Script::default();
    let (mut stream, mut received) = (script.transport(), received.to_vec());
    let mut negotiated = Negotiated::default();
    let opening = Opening {
        target: &target,
        stream: &mut *stream,
        certificate_missing,
        deadline: None,
        limited_at: None,
        limit: Duration::ZERO,
        handshake: Handshake::new(&parameters, &mut negotiated),
        sent_last: 0,
        send_error: None,
        received: &mut received,
        has_replied,
        early_reads: EarlyReturns::of("read"),
    };
    opening.tls_failure(error).ok()
}

#[test]
fn a_server_that_insists_on_a_certificate_may_refuse_later() {
    let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let failure = tls_failure(end(), true, false, b"").unwrap();
    assert!(failure
        .hint
        .unwrap()
        .contains("asked for a client certificate"));
    assert!(failure.source.get().is_some() && failure.stage == Stage::Tls);
    // Not if it has none to ask for, or has gone on to AMQP.
    assert!(tls_failure(end(), false, false, b"").is_none());
    assert!(tls_failure(end(), true, true, b"").is_none());
    assert!(tls_failure(end(), true, false, b"\x01").is_none());
    assert!(tls_failure(end(), true, true, b"\x01").is_none());
    // What TLS itself reports counts in any case.
    for (missing, replied) in [(false, false), (false, true), (true, true)] {
        let error = io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        let failure = tls_failure(error, missing, replied, b"\x01").unwrap();
        let source = failure.source.get().unwrap();
        assert!(source.downcast_ref::<rustls::Error>().is_some());
    }
}

fn over_tls() -> ConnectionParameters {
    let authority = rcgen::generate_simple_self_signed(["broker".to_owned()]).unwrap();
    let options = TlsOptions::new().ca_certificates_pem(authority.cert.pem());
    parameters().tls(options)
}

#[test]
fn a_failure_of_tls_keeps_its_cause() {
    // An alert: handshake_failure.
    let alert = b"\x15\x03\x03\0\x02\x02\x28".to_vec();
    let (script, opened) = opened(&over_tls(), [Ok(alert)]);
    let error = opened.err().unwrap();
    assert!(matches!(error, Error::Tls(_)), "{error:?}");
    assert!(!error.is_retryable() && script.lock().is_shut_down);
    let source = error.source().unwrap();
    assert!(
        source.downcast_ref::<rustls::Error>().is_some(),
        "{source:?}"
    );
    // A stream that ends says nothing about TLS.
    let (_, opened) = self::opened(&over_tls(), [Ok(Vec::new())]);
    let error = opened.err().unwrap();
    assert!(
        matches!(error, Error::Tls(_)) && error.is_retryable(),
        "{error:?}"
    );
}

#[test]
fn a_peer_that_is_silent_may_not_expect_tls() {
    let parameters = over_tls();
    let target = Target::new(&parameters).unwrap();
    let script = Script::default();
    let stream = script.transport();
    let failure = target
        .open_over(stream, Some(Instant::now()))
        .err()
        .unwrap();
    assert_eq!(failure.stage, Stage::Tls);
    assert_eq!(script.lock().write_timeouts, [Duration::from_millis(1)]);
    assert!(failure.retryable && failure.hint.unwrap().contains("does not expect TLS"));
}
