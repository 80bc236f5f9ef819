//! Why TLS did not come about, in plain words.

use std::io;
use std::net::IpAddr;

use rustls::{AlertDescription, CertificateError};

use crate::error::Source;
use crate::io::stream::{describe as describe_io, is_hang_up};

/// Why TLS did not come about.
pub(crate) enum Failure {
    TimeUp,
    Other {
        cause: String,
        hint: Option<&'static str>,
        /// The stream ended, which says nothing about TLS.
        lost: bool,
        source: Source,
    },
}

const PLAIN_PORT: &str =
    "this port does not expect TLS: use an amqp:// URL, or the port for AMQP over TLS (5671)";
const CLIENT_CERTIFICATE: &str =
    "give one with client_certificate_files (in a URL: certfile and keyfile)";

/// What hint there is when a server that asked for a certificate and got none hangs up.
pub(crate) const MISSING_CERTIFICATE: &str =
    "the server asked for a client certificate and was given none: give one with client_certificate_files \
     (in a URL: certfile and keyfile)";

/// A server that does not speak TLS is known by its first bytes. `error` is what became of the handshake.
pub(super) fn other_protocol(first: &[u8], error: Source) -> Result<Failure, Source> {
    let (cause, hint) = if first.starts_with(b"AMQP") {
        ("the peer replied with AMQP, without TLS", PLAIN_PORT)
    } else if first.starts_with(b"HTTP") {
        (
            "the peer replied with HTTP, without TLS",
            "this may be RabbitMQ's management port (15672); AMQP over TLS is on 5671",
        )
    } else if !matches!(first, [20..=23, 3, ..] | [20..=23] | []) {
        ("what the peer sent is no TLS", PLAIN_PORT)
    } else {
        return Err(error);
    };
    Ok(Failure::Other {
        cause: cause.to_owned(),
        hint: Some(hint),
        lost: false,
        source: error,
    })
}

/// The stream ended within the handshake.
pub(super) fn lost(error: io::Error, first: &[u8]) -> Failure {
    let hung_up = is_hang_up(&error);
    let cause = match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            "the peer closed the stream during the TLS handshake".to_owned()
        }
        _ => describe_io(&error),
    };
    other_protocol(first, Source::new(error)).unwrap_or_else(|source| Failure::Other {
        cause,
        hint: (hung_up && first.is_empty()).then_some(
            "perhaps this port does not expect TLS: AMQP is most often on 5672, and over TLS on 5671",
        ),
        lost: true,
        source,
    })
}

/// A failed read or write of a stream inside TLS, if it was TLS that failed.
pub(crate) fn described(error: &io::Error, certificate_missing: bool) -> Option<Failure> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(describe(error, certificate_missing))
}

pub(super) fn describe(error: &rustls::Error, certificate_missing: bool) -> Failure {
    use rustls::Error as Tls;
    let source = Source::new(error.clone());
    let (cause, hint) = match error {
        Tls::InvalidCertificate(error) => describe_certificate(error),
        Tls::AlertReceived(AlertDescription::CertificateRequired) => (
            "the server requires a client certificate, and was given none".to_owned(),
            Some(CLIENT_CERTIFICATE),
        ),
        // So do servers say it that speak no TLS 1.3.
        Tls::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::BadCertificate)
            if certificate_missing =>
        {
            (
                "the server refused the handshake, most likely because it requires a client certificate \
                 and was given none"
                    .to_owned(),
                Some(CLIENT_CERTIFICATE),
            )
        }
        Tls::AlertReceived(alert) => describe_alert(*alert),
        Tls::PeerIncompatible(what) => (
            format!("the server and this client have too little in common: {what:?}"),
            Some("TLS 1.2 or 1.3 is needed"),
        ),
        Tls::InvalidMessage(_) | Tls::InappropriateMessage { .. } => {
            (format!("what the peer sent is no proper TLS: {error}"), None)
        }
        error => (error.to_string(), None),
    };
    Failure::Other {
        cause,
        hint,
        lost: false,
        source,
    }
}

/// What the server reported of the handshake, or of the client's certificate.
fn describe_alert(alert: AlertDescription) -> (String, Option<&'static str>) {
    match alert {
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => (
            format!("the server refused the client's certificate ({alert:?})"),
            Some("the server's log says more; it must trust the authority that issued the certificate"),
        ),
        AlertDescription::ProtocolVersion => (
            "the server speaks no version of TLS that this client does".to_owned(),
            Some("TLS 1.2 or 1.3 is needed"),
        ),
        AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity => (
            format!("the server refused the handshake ({alert:?})"),
            Some("the two have no cipher in common, or the server's certificate is unfit; its log says more"),
        ),
        AlertDescription::UnrecognisedName => (
            "the server does not know the name that it was asked for".to_owned(),
            Some("give the right one with server_hostname (in a URL: server_name_indication)"),
        ),
        alert => (
            format!("the server refused: {alert:?}"),
            Some("the server's log says more"),
        ),
    }
}

/// What to do about a certificate with other names.
const NAME: &str =
    "connect by a name that the certificate bears, or say which it must bear with server_hostname \
     (in a URL: server_name_indication)";

fn describe_certificate(error: &CertificateError) -> (String, Option<&'static str>) {
    const CLOCK: &str =
        "the server needs a new certificate, unless the clock of this machine is wrong";
    let days = |seconds: u64| match seconds / 86_400 {
        0 => "less than a day".to_owned(),
        1 => "1 day".to_owned(),
        days => format!("{days} days"),
    };
    let (cause, hint) = match error {
        CertificateError::Expired => ("the server's certificate has expired".to_owned(), CLOCK),
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = days(time.as_secs().saturating_sub(not_after.as_secs()));
            (format!("the server's certificate has expired, {ago} ago"), CLOCK)
        }
        CertificateError::NotValidYet => {
            ("the server's certificate is not valid yet".to_owned(), CLOCK)
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let ahead = days(not_before.as_secs().saturating_sub(time.as_secs()));
            (
                format!("the server's certificate is not valid yet, for another {ahead}"),
                CLOCK,
            )
        }
        CertificateError::UnknownIssuer => (
            "the server's certificate comes from no authority that is trusted here".to_owned(),
            "is it self-signed, or is the authority one of your own? give the authority's certificate with \
             ca_certificates_file (in a URL: cacertfile)",
        ),
        CertificateError::NotValidForName => {
            ("the server's certificate bears another name".to_owned(), NAME)
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            describe_names(&expected.to_str(), presented)
        }
        CertificateError::UnsupportedSignatureAlgorithmContext {
            signature_algorithm_id,
            ..
        } if is_sha1(signature_algorithm_id) => (
            "a certificate of the server's is signed with SHA-1, which anybody can forge".to_owned(),
            "have it issued again, signed with SHA-256 or better",
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => (
            "a certificate of the server's is signed in a way that is not supported".to_owned(),
            "RSA (2048 to 8192 bits), ECDSA (P-256, P-384) or Ed25519 with SHA-256 or better is expected",
        ),
        CertificateError::BadSignature => (
            "a signature of the server's certificate, or of one that leads to its authority, is wrong".to_owned(),
            "is the authority another one of the same name? RSA keys below 2048 bits are refused in this way too",
        ),
        CertificateError::BadEncoding => (
            "the server's certificate cannot be read".to_owned(),
            "it must be a proper X.509 certificate of version 3",
        ),
        CertificateError::Revoked => ("the server's certificate has been revoked".to_owned(), CLOCK),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "the server's certificate is not meant for servers".to_owned(),
            "its extended key usage must allow server authentication",
        ),
        error => {
            let text = error.to_string();
            match OTHERS.iter().find(|(name, ..)| text.contains(name)) {
                Some((_, cause, hint)) => ((*cause).to_owned(), *hint),
                None => return (format!("the server's certificate cannot be taken: {text}"), None),
            }
        }
    };
    (cause, Some(hint))
}

/// Why the names in a certificate are not the one that is expected.
fn describe_names(expected: &str, presented: &[String]) -> (String, &'static str) {
    if presented.is_empty() {
        return (
            format!("the server's certificate bears no name, and so not {expected:?}"),
            "names are taken from its subjectAltName; the common name does not count",
        );
    }
    if presented
        .iter()
        .any(|name| is_address_as_name(name, expected))
    {
        return (
            format!("the server's certificate bears the address {expected:?} as a DNS name, where it does not count"),
            "in its subjectAltName an address must be of the type IP (IP:…), not DNS (DNS:…)",
        );
    }
    let names: Vec<_> = presented.iter().map(|name| bare(name)).collect();
    let names = names.join(", ");
    (
        format!("the server's certificate is not for {expected:?} but for {names}"),
        NAME,
    )
}

/// What rustls passes on of webpki's errors is their names alone: name, cause, hint.
const OTHERS: [(&str, &str, &str); 6] = [
    (
        "CaUsedAsEndEntity",
        "the server shows the certificate of an authority as its own",
        "openssl req -x509 makes such by default; let the authority issue one for the server",
    ),
    (
        "EndEntityUsedAsCa",
        "the server's certificate was issued by one that is no authority",
        "what issues certificates needs basicConstraints with CA:TRUE",
    ),
    (
        "NameConstraintViolation",
        "the server's certificate bears a name that its authority may not certify (name constraints)",
        "names and addresses in its subjectAltName must all be within what the authority's nameConstraints permit",
    ),
    (
        "NameConstraint",
        "the name constraints of an authority of the server's certificate cannot be checked",
        "they must be well-formed and few; ask who runs the authority",
    ),
    (
        "PathLenConstraintViolated",
        "there are more authorities between the server's certificate and the trusted one than that permits",
        "ask who runs the authority (pathlen in basicConstraints)",
    ),
    (
        "UnsupportedCertVersion",
        "a certificate of the server's is of X.509 version 1",
        "version 3 is needed; openssl x509 -req makes version 1 unless it is given extensions (-extfile)",
    ),
];

/// OIDs of sha1WithRSAEncryption and ecdsa-with-SHA1, in DER.
fn is_sha1(signature_algorithm: &[u8]) -> bool {
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
    [RSA, ECDSA].iter().any(|oid| {
        signature_algorithm
            .windows(oid.len())
            .any(|window| window == *oid)
    })
}

/// Whether this is the expected address, but among the DNS names.
fn is_address_as_name(presented: &str, expected: &str) -> bool {
    presented.starts_with("DnsName")
        && expected.parse::<IpAddr>().is_ok()
        && bare(presented).trim_matches('"') == expected
}

/// rustls gives names as `DnsName("name")` and `IpAddress(address)`.
fn bare(name: &str) -> &str {
    name.split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'))
        .unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{Error as Tls, PeerIncompatible};
    use std::time::Duration;

    /// What is said of it, and what to do about it.
    fn parts_of(failure: Failure) -> (String, &'static str, bool) {
        match failure {
            Failure::Other {
                cause, hint, lost, ..
            } => (cause, hint.unwrap_or(""), lost),
            Failure::TimeUp => panic!("time up"),
        }
    }

    /// What caused it.
    fn source<E: std::error::Error + 'static>(failure: &Failure) -> Option<&E> {
        match failure {
            Failure::Other { source, .. } => source.get()?.downcast_ref(),
            Failure::TimeUp => None,
        }
    }

    #[track_caller]
    fn assert_described(failure: Failure, cause_has: &str, hint_has: &str) {
        let (cause, hint, lost) = parts_of(failure);
        assert!(cause.contains(cause_has), "{cause}");
        assert!(hint.contains(hint_has), "{cause}; {hint}");
        assert_eq!(hint.is_empty(), hint_has.is_empty(), "{cause}; {hint}");
        assert!(!lost, "it is no lost stream: {cause}");
    }

    #[test]
    fn what_is_no_tls_is_known_by_its_first_bytes() {
        let other = |first: &[u8]| {
            other_protocol(first, Source::default()).unwrap_or_else(|_| panic!("{first:?}"))
        };
        assert_described(
            other(b"AMQP\0\0\x09\x01"),
            "replied with AMQP",
            "use an amqp:// URL",
        );
        assert_described(other(b"HTTP/1.1"), "replied with HTTP", "15672");
        for first in [b"SSH-2.0".as_slice(), b"\x15\x02", b"\x18\x03", b"A", b"\0"] {
            assert_described(
                other(first),
                "what the peer sent is no TLS",
                "use an amqp:// URL",
            );
        }
        for first in [
            b"".as_slice(),
            b"\x14",
            b"\x17",
            b"\x14\x03",
            b"\x16\x03\x01\0",
        ] {
            assert!(
                other_protocol(first, Source::default()).is_err(),
                "{first:?}"
            );
        }
    }

    #[test]
    fn a_stream_that_is_lost_is_no_failure_of_tls_unless_something_came() {
        let lost = |kind: io::ErrorKind, first: &[u8]| lost(kind.into(), first);
        let (cause, hint, is_lost) = parts_of(lost(io::ErrorKind::UnexpectedEof, b""));
        assert_eq!(cause, "the peer closed the stream during the TLS handshake");
        assert!(hint.contains("5671") && is_lost);
        let (_, hint, is_lost) = parts_of(lost(io::ErrorKind::UnexpectedEof, b"\x16\x03"));
        assert!(hint.is_empty() && is_lost);
        // Other ways to hang up, and what is none.
        for (kind, hangs_up) in [
            (io::ErrorKind::ConnectionReset, true),
            (io::ErrorKind::ConnectionAborted, true),
            (io::ErrorKind::BrokenPipe, true),
            (io::ErrorKind::NotConnected, false),
        ] {
            let (cause, hint, is_lost) = parts_of(lost(kind, b""));
            assert!(cause == io::Error::from(kind).to_string() && is_lost);
            assert_eq!(hint.contains("5671"), hangs_up, "{kind:?}");
            assert!(hangs_up || hint.is_empty());
        }
        let http = lost(io::ErrorKind::UnexpectedEof, b"HTTP/1.1");
        assert_described(http, "replied with HTTP", "15672");
        // The error itself is kept.
        for first in [b"".as_slice(), b"HTTP/1.1"] {
            let failure = lost(io::ErrorKind::ConnectionReset, first);
            let kind = source::<io::Error>(&failure).map(io::Error::kind);
            assert_eq!(kind, Some(io::ErrorKind::ConnectionReset));
        }
    }

    #[test]
    fn an_alert_names_what_the_server_refuses() {
        use AlertDescription as Alert;
        let certificate = "give one with client_certificate_files";
        let log = "log says more";
        let cases = [
            (
                Alert::CertificateRequired,
                false,
                "requires a client certificate",
                certificate,
            ),
            (
                Alert::CertificateRequired,
                true,
                "requires a client certificate",
                certificate,
            ),
            (
                Alert::HandshakeFailure,
                true,
                "most likely because it requires a client certificate",
                certificate,
            ),
            (
                Alert::BadCertificate,
                true,
                "most likely because it requires a client certificate",
                certificate,
            ),
            (
                Alert::HandshakeFailure,
                false,
                "refused the handshake (HandshakeFailure)",
                "no cipher in common",
            ),
            (
                Alert::InsufficientSecurity,
                true,
                "refused the handshake (InsufficientSecurity)",
                "no cipher",
            ),
            (
                Alert::BadCertificate,
                false,
                "refused the client's certificate (BadCertificate)",
                log,
            ),
            (
                Alert::UnsupportedCertificate,
                false,
                "refused the client's certificate",
                log,
            ),
            (
                Alert::CertificateRevoked,
                false,
                "refused the client's certificate",
                log,
            ),
            (
                Alert::CertificateExpired,
                false,
                "refused the client's certificate",
                log,
            ),
            (
                Alert::CertificateUnknown,
                false,
                "refused the client's certificate",
                log,
            ),
            (
                Alert::UnknownCA,
                true,
                "refused the client's certificate",
                log,
            ),
            (
                Alert::AccessDenied,
                false,
                "refused the client's certificate",
                log,
            ),
            (
                Alert::ProtocolVersion,
                false,
                "no version of TLS",
                "TLS 1.2 or 1.3",
            ),
            (
                Alert::UnrecognisedName,
                false,
                "does not know the name",
                "server_hostname",
            ),
            (
                Alert::InternalError,
                false,
                "the server refused: InternalError",
                log,
            ),
        ];
        for (alert, certificate_missing, cause, hint) in cases {
            let failure = describe(&Tls::AlertReceived(alert), certificate_missing);
            assert_described(failure, cause, hint);
        }
    }

    #[test]
    fn other_errors_of_tls_are_distinguished() {
        let incompatible = Tls::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon);
        assert_described(
            describe(&incompatible, false),
            "too little in common",
            "TLS 1.2 or 1.3",
        );
        let invalid = Tls::InvalidMessage(rustls::InvalidMessage::InvalidCcs);
        assert_described(describe(&invalid, false), "no proper TLS", "");
        let inappropriate = Tls::InappropriateMessage {
            expect_types: Vec::new(),
            got_type: rustls::ContentType::ApplicationData,
        };
        assert_described(describe(&inappropriate, false), "no proper TLS", "");
        let (cause, hint, _) = parts_of(describe(&Tls::DecryptError, false));
        assert_eq!((cause, hint), (Tls::DecryptError.to_string(), ""));
        // The error itself is kept.
        let failure = describe(&Tls::DecryptError, false);
        assert_eq!(source::<Tls>(&failure), Some(&Tls::DecryptError));
        // It is found in the error of a stream.
        let of_a_stream = io::Error::new(io::ErrorKind::InvalidData, Tls::DecryptError);
        assert!(described(&of_a_stream, false).is_some());
        assert!(described(&io::ErrorKind::InvalidData.into(), false).is_none());
        assert!(described(&io::Error::other("something else"), false).is_none());
    }

    fn certificate(error: CertificateError) -> Failure {
        describe(&Tls::InvalidCertificate(error), false)
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_named() {
        let names = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("broker.example").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let cases = [
            (
                CertificateError::Expired,
                "has expired",
                "the clock of this machine",
            ),
            (
                CertificateError::NotValidYet,
                "is not valid yet",
                "the clock of this machine",
            ),
            (
                CertificateError::UnknownIssuer,
                "no authority that is trusted here",
                "ca_certificates_file",
            ),
            (
                CertificateError::NotValidForName,
                "bears another name",
                "server_hostname",
            ),
            (
                names(&[]),
                "bears no name, and so not \"broker.example\"",
                "the common name does not count",
            ),
            (
                names(&["DnsName(\"a.example\")", "IpAddress(10.0.0.1)"]),
                "is not for \"broker.example\" but for \"a.example\", 10.0.0.1",
                "server_hostname",
            ),
            (
                CertificateError::BadSignature,
                "is wrong",
                "another one of the same name",
            ),
            (CertificateError::BadEncoding, "cannot be read", "X.509"),
            (
                CertificateError::Revoked,
                "revoked",
                "needs a new certificate",
            ),
            (
                CertificateError::InvalidPurpose,
                "not meant for servers",
                "extended key usage",
            ),
            (
                CertificateError::ApplicationVerificationFailure,
                "cannot be taken",
                "",
            ),
        ];
        for (error, cause, hint) in cases {
            assert_described(certificate(error), cause, hint);
        }
    }

    #[test]
    fn how_long_ago_a_certificate_expired_is_given_in_days() {
        const DAY: u64 = 86_400;
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        for (seconds, days) in [
            (0, "less than a day"),
            (DAY - 1, "less than a day"),
            (DAY, "1 day"),
            (2 * DAY - 1, "1 day"),
            (2 * DAY, "2 days"),
            (1000 * DAY, "1000 days"),
        ] {
            let (early, late) = (at(1_000_000), at(1_000_000 + seconds));
            let expired = CertificateError::ExpiredContext {
                time: late,
                not_after: early,
            };
            assert_described(
                certificate(expired),
                &format!("expired, {days} ago"),
                "clock",
            );
            let not_yet = CertificateError::NotValidYetContext {
                time: early,
                not_before: late,
            };
            assert_described(
                certificate(not_yet),
                &format!("for another {days}"),
                "clock",
            );
        }
    }

    #[test]
    fn an_address_counts_among_the_addresses_only() {
        let presented = |expected: &str, presented: &[&str]| {
            certificate(CertificateError::NotValidForNameContext {
                expected: ServerName::try_from(expected.to_owned()).unwrap(),
                presented: presented.iter().map(|name| (*name).to_owned()).collect(),
            })
        };
        let (as_dns, others) = ("as a DNS name", "but for ");
        let dns = "DnsName(\"10.0.0.7\")";
        assert_described(
            presented("10.0.0.7", &["DnsName(\"a\")", dns]),
            as_dns,
            "must be of the type IP",
        );
        assert_described(
            presented("10.0.0.7", &["DnsName(\"10.0.0.8\")"]),
            others,
            "server_hostname",
        );
        assert_described(
            presented("10.0.0.7", &["IpAddress(10.0.0.7)"]),
            others,
            "server_hostname",
        );
        assert_described(
            presented("a.example", &["DnsName(\"a.example\")"]),
            others,
            "server_hostname",
        );
    }

    #[test]
    fn sha_1_is_known_by_its_number() {
        // As in a certificate: a sequence with the number, and perhaps no parameters.
        let rsa: &[u8] = &[
            0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x05, 0x05, 0x00,
        ];
        let ecdsa: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
        let rsa_sha_256: &[u8] = &[
            0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b,
        ];
        assert!(is_sha1(rsa) && is_sha1(ecdsa));
        assert!(!is_sha1(rsa_sha_256) && !is_sha1(b"") && !is_sha1(&ecdsa[..8]));
        let signed = |algorithm: &[u8]| {
            certificate(CertificateError::UnsupportedSignatureAlgorithmContext {
                signature_algorithm_id: algorithm.to_vec(),
                supported_algorithms: Vec::new(),
            })
        };
        assert_described(signed(rsa), "signed with SHA-1", "SHA-256 or better");
        assert_described(
            signed(rsa_sha_256),
            "in a way that is not supported",
            "RSA (2048",
        );
    }

    #[test]
    fn what_rustls_passes_on_by_name_is_explained() {
        use rustls::OtherError;
        use std::sync::Arc;
        for (name, cause, hint) in OTHERS {
            let error = OtherError(Arc::new(io::Error::other(name)));
            let (said, to_do, _) = parts_of(certificate(CertificateError::Other(error)));
            assert_eq!((&*said, to_do), (cause, hint), "{name}");
        }
    }
}
