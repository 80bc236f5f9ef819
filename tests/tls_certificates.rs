//! What certificates, keys and the way to verify them come to: what is read, what is refused and with which words. Against TLS
//! servers of our own; no broker is needed. (`tests/tls.rs` has the real one.)
#![cfg(feature = "tls")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/capture.rs"]
mod capture;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::path::Path;

use haypile::{Connection, ConnectionParameters, Error, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, GeneralSubtree, IsCa, NameConstraints, SanType};
use rustls::version::{TLS12, TLS13};

use broker::Folder;
use support::peer::Peer;
use support::{assert_matches, bounded};
use tls::{
    expired, server_config, server_config_unchecked, server_params, Authority, Issued, Server,
};

fn fixture(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/tls");
    std::fs::read_to_string(Path::new(folder).join(name)).unwrap()
}

/// What comes of connecting by this name to a server with this certificate: the error's text, or nothing if TLS was agreed on.
#[track_caller]
fn shown(host: &str, certificate: &Issued, options: TlsOptions) -> Option<String> {
    let mut texts = [[&TLS13], [&TLS12]].map(|versions| {
        let peer = Peer::start(|session| {
            if session.read_bytes(8).is_some() {
                session.send_raw(b"not AMQP");
            }
        });
        let config = server_config(certificate, None, &versions);
        let server = Server::start(config, Some(peer.address()));
        let parameters = ConnectionParameters::new("127.0.0.1")
            .host(host)
            .port(server.port());
        let error = Connection::open(parameters.tls(options.clone())).unwrap_err();
        drop(server);
        match error {
            Error::Tls(failure) => Some(failure.to_string()),
            // as far as AMQP, which is not spoken there
            Error::IncompatibleProtocol(_) => None,
            other => panic!("{other:?}"),
        }
    });
    assert_eq!(texts[0].is_none(), texts[1].is_none(), "{texts:?}");
    texts[0].take()
}

fn trusting(authority: &Authority) -> TlsOptions {
    TlsOptions::new().ca_certificates_pem(authority.pem())
}

#[track_caller]
fn contains(text: Option<String>, words: &[&str]) {
    let text = text.expect("it was taken");
    for word in words {
        assert!(text.contains(word), "{word:?}: {text}");
    }
}

// ---- verification

#[test]
fn another_name_is_taken_only_by_its_setter_and_only_from_a_trusted_authority() {
    bounded(|| {
        capture::capture();
        let authority = Authority::new("ours");
        let elsewhere = authority.server(&["elsewhere.example"]);
        contains(
            shown("localhost", &elsewhere, trusting(&authority)),
            &["elsewhere.example"],
        );
        let any_name = trusting(&authority).danger_accept_any_hostname();
        assert_eq!(shown("localhost", &elsewhere, any_name.clone()), None);
        let logged = capture::logged();
        let warning = |line: &&str| {
            line.starts_with("WARN haypile") && line.contains("danger_accept_any_hostname")
        };
        assert!(logged.lines().any(|line| warning(&line)), "{logged}");

        // All the rest is verified as ever.
        let stranger = Authority::new("another").server(&["localhost"]);
        contains(
            shown("localhost", &stranger, any_name.clone()),
            &["no authority"],
        );
        let old = authority.issue(expired(server_params(&["localhost"])));
        contains(shown("localhost", &old, any_name.clone()), &["expired"]);
        let mut client = server_params(&["localhost"]);
        client.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        contains(
            shown("localhost", &authority.issue(client), any_name.clone()),
            &["not meant for servers"],
        );
        // A certificate that was copied, without its key.
        let key = authority.server(&["localhost"]).key;
        for version in [&TLS13, &TLS12] {
            let config = server_config_unchecked(&elsewhere.certificate, &key, version);
            let server = Server::start(config, None);
            let parameters = ConnectionParameters::new("localhost").port(server.port());
            let error = Connection::open(parameters.tls(any_name.clone())).unwrap_err();
            assert_matches!(error, Error::Tls(_));
        }
        assert_ne!(any_name, trusting(&authority));
        assert!(format!("{any_name:?}").contains("accept_any_hostname: true"));
    });
}

#[test]
fn each_way_to_switch_verification_off_warns() {
    bounded(|| {
        capture::capture();
        let certificate = Authority::new("nobody").server(&["elsewhere.example"]);
        let server = Server::start(server_config(&certificate, None, &[&TLS13]), None);
        let port = server.port();
        let count = || {
            let logged = capture::logged();
            let warns = |line: &&str| {
                // Other tests write into the same log, but not about this host.
                line.starts_with("WARN haypile")
                    && line.contains("LocalHost")
                    && line.contains("is not verified")
                    && line.contains("verify_none")
            };
            logged.lines().filter(warns).count()
        };
        for (n, options) in [
            "verify=verify_none",
            "ssl_options={'verify':False}",
            "ssl_options={'verify':'verify_none'}",
        ]
        .into_iter()
        .enumerate()
        {
            // There is nothing behind the server, so this ends once TLS is agreed on.
            let url = format!("amqps://LocalHost:{port}?stack_timeout=0.3&{options}");
            let error = Connection::open(url.as_str()).unwrap_err();
            assert!(!matches!(error, Error::Tls(_)), "{error}");
            assert_eq!(count(), n + 1);
        }
        let parameters = ConnectionParameters::new("LocalHost")
            .port(port)
            .stack_timeout(std::time::Duration::from_millis(300))
            .tls(TlsOptions::new().danger_accept_any_certificate());
        Connection::open(parameters).unwrap_err();
        assert_eq!(count(), 4);
    });
}

#[test]
fn switching_verification_off_beside_an_authority_is_refused() {
    let refused = |error: Error| {
        let text = error.to_string();
        assert_matches!(error, Error::InvalidParameter { .. });
        for word in [
            "cacertfile",
            "ca_certificates_file",
            "verify_none",
            "danger_accept_any_certificate",
        ] {
            assert!(text.contains(word), "{word:?}: {text}");
        }
    };
    for options in [
        "cacertfile=/ca.pem&verify=verify_none",
        "ssl_options={'ca_certs':'/ca.pem','verify':False}",
        "ssl_options={'cafile':'/ca.pem'}&verify=verify_none",
        "cacertfile=/ca.pem&ssl_options={'verify':'verify_none'}",
    ] {
        refused(
            ConnectionParameters::from_url(format!("amqps://localhost?{options}")).unwrap_err(),
        );
    }
    for options in [
        TlsOptions::new().ca_certificates_file("/ca.pem"),
        TlsOptions::new().ca_certificates_pem("pem"),
    ] {
        let tls = options.danger_accept_any_certificate();
        refused(Connection::open(ConnectionParameters::default().tls(tls)).unwrap_err());
    }
}

// ---- certificates

#[test]
fn a_certificate_signed_with_sha_1() {
    bounded(|| {
        let certificate = Issued {
            certificate: fixture("sha1-server.pem"),
            key: fixture("sha1-server.key"),
        };
        let options = TlsOptions::new().ca_certificates_pem(fixture("sha1-authority.pem"));
        contains(
            shown("localhost", &certificate, options.clone()),
            &["signed with SHA-1", "SHA-256"],
        );
        contains(
            shown(
                "localhost",
                &certificate,
                options.danger_accept_any_hostname(),
            ),
            &["signed with SHA-1"],
        );
    });
}

#[test]
fn a_certificate_that_its_authority_may_not_issue() {
    bounded(|| {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("rabbit.example".into())],
            excluded_subtrees: vec![],
        });
        let authority = Authority::with(params);
        contains(
            shown(
                "localhost",
                &authority.server(&["localhost"]),
                trusting(&authority),
            ),
            &["name constraints", "nameConstraints"],
        );
    });
}

#[test]
fn an_address_among_the_dns_names() {
    bounded(|| {
        let authority = Authority::new("ours");
        let mut params = server_params(&["localhost"]);
        let address = "127.0.0.1".try_into().unwrap();
        params.subject_alt_names.push(SanType::DnsName(address));
        contains(
            shown("127.0.0.1", &authority.issue(params), trusting(&authority)),
            &["\"127.0.0.1\" as a DNS name", "IP:"],
        );
    });
}

// ---- files

#[test]
fn a_bundle_is_read_to_its_end_wherever_byte_order_marks_stand() {
    bounded(|| {
        let (one, two) = (Authority::new("one"), Authority::new("two"));
        let mark = "\u{feff}";
        for bundle in [
            format!("{mark}{}{}", one.pem(), two.pem()),
            format!("{mark}{}{mark}{}", one.pem(), two.pem()),
            format!("{}{}", one.pem().trim_end(), two.pem()),
        ] {
            let folder = Folder::new();
            let path = folder.write("ca.pem", &bundle);
            for authority in [&one, &two] {
                let options = TlsOptions::new().ca_certificates_file(&path);
                assert_eq!(
                    shown("localhost", &authority.server(&["localhost"]), options),
                    None
                );
            }
        }
    });
}

/// The error over a client's certificate and key before anything is connected; none if they can be used.
fn key_refused(certificate: &str, key: &str) -> Option<String> {
    pem_refused(fixture(certificate), fixture(key))
}

fn pem_refused(certificate: String, key: String) -> Option<String> {
    let options = TlsOptions::new()
        .danger_accept_any_certificate()
        .client_certificate_pem(certificate, key);
    // Nothing listens there.
    let refused = support::RefusedPort::new();
    let parameters = ConnectionParameters::new("127.0.0.1").port(refused.port());
    match Connection::open(parameters.tls(options)).unwrap_err() {
        Error::Connection(_) => None,
        error => {
            assert_matches!(error, Error::InvalidParameter { .. });
            Some(error.to_string())
        }
    }
}

#[test]
fn keys_are_read_in_each_form_or_refused_with_the_reason() {
    for (certificate, key) in [
        ("ec.pem", "ec-pkcs8.pem"),
        ("ec.pem", "ec-sec1.pem"),
        ("ec.pem", "ec-parameters.pem"),
        ("rsa.pem", "rsa-pkcs8.pem"),
        ("rsa.pem", "rsa-pkcs1.pem"),
        ("ed25519.pem", "ed25519-pkcs8.pem"),
    ] {
        assert_eq!(key_refused(certificate, key), None, "{key}");
    }
    for (certificate, key, words) in [
        (
            "ec.pem",
            "ec-sec1-encrypted.pem",
            ["encrypted", "openssl pkey"],
        ),
        (
            "ec.pem",
            "ec-pkcs8-encrypted.pem",
            ["encrypted", "openssl pkey"],
        ),
        (
            "rsa.pem",
            "rsa-pkcs1-encrypted.pem",
            ["encrypted", "openssl pkey"],
        ),
        ("p521.pem", "p521-sec1.pem", ["P-256", "Ed25519"]),
        ("ec.pem", "rsa-pkcs1.pem", ["not the key", "certificate"]),
        ("ec.pem", "rsa.pem", ["no private key", "PEM"]),
    ] {
        contains(key_refused(certificate, key), &words);
    }
}

#[test]
fn of_several_keys_the_one_of_the_certificate_is_used() {
    let (rsa, ec, ed) = (
        fixture("rsa-pkcs1.pem"),
        fixture("ec-sec1.pem"),
        fixture("ed25519-pkcs8.pem"),
    );
    for keys in [
        [&rsa, &ec, &ed],
        [&ec, &ed, &rsa],
        [&ed, &rsa, &ec],
        // OpenSSL would take the first.
        [&ec, &ec, &ed],
    ] {
        let keys: String = keys.map(String::as_str).concat();
        assert_eq!(pem_refused(fixture("ec.pem"), keys), None);
    }
    let others = format!("{rsa}{ed}");
    contains(
        pem_refused(fixture("ec.pem"), others),
        &["none of the 2 private keys", "client's certificate"],
    );
    // Not left out in silence.
    let cut = format!("{ec}-----BEGIN PRIVATE KEY-----\nhush");
    let text = pem_refused(fixture("ec.pem"), cut);
    assert!(!text.as_ref().is_some_and(|text| text.contains("hush")));
    contains(text, &["END line"]);
}

/// An error names what it is about as it was given.
#[test]
fn what_was_given_as_text_is_named_by_its_setter() {
    for (certificate, key, named) in [
        (
            "rsa-pkcs1.pem",
            "rsa-pkcs1.pem",
            "client_certificate_pem (certificate): ",
        ),
        ("rsa.pem", "rsa.pem", "client_certificate_pem (key): "),
        ("rsa.pem", "ec-sec1.pem", "client_certificate_pem (key): "),
    ] {
        let text = key_refused(certificate, key).unwrap();
        assert!(text.starts_with(named), "{text}");
    }
    let refused = |options: TlsOptions| {
        let parameters = ConnectionParameters::new("127.0.0.1").port(1);
        Connection::open(parameters.tls(options))
            .unwrap_err()
            .to_string()
    };
    let text = refused(TlsOptions::new().ca_certificates_pem("none"));
    assert!(text.starts_with("ca_certificates_pem: "), "{text}");
    let both = TlsOptions::new().ca_certificates_pem(fixture("ec.pem"));
    let text = refused(both.danger_accept_any_certificate());
    assert!(text.starts_with("ca_certificates_pem: "), "{text}");
}

#[test]
fn der_is_named_in_each_place() {
    let authority = Authority::new("ours");
    let der = authority.der();
    let folder = Folder::new();
    let path = folder.path().join("ca.der");
    std::fs::write(&path, &der).unwrap();
    let ca = TlsOptions::new().ca_certificates_file(&path);
    let any = TlsOptions::new().danger_accept_any_certificate();
    for options in [
        ca,
        any.clone().client_certificate_files(&path, &path),
        any.client_certificate_pem(fixture("ec.pem"), der),
    ] {
        let parameters = ConnectionParameters::new("127.0.0.1").port(1);
        let text = Connection::open(parameters.tls(options))
            .unwrap_err()
            .to_string();
        assert!(text.contains("DER") && text.contains("PEM"), "{text}");
    }
}
