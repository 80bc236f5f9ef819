//! TLS: with a real RabbitMQ that has a TLS listener, and with servers of our own for certificates that are not right.
#![cfg(feature = "tls")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/capture.rs"]
mod capture;
#[path = "support/streams.rs"]
mod streams;
mod support;
#[path = "support/tls.rs"]
mod tls;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use haypile::{
    BasicConsume, BasicGet, Connection, ConnectionParameters, Credentials, Error,
    ExternalCredentials, PlainCredentials, Stage, TlsOptions,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa};
use rustls::version::{TLS12, TLS13};

use broker::{Broker, Folder};
use support::peer::Peer;
use support::{assert_matches, assert_works, bounded_by, unique, wait_until, SOON};
use tls::{expired, not_yet_valid, self_signed, server_config, server_params};
use tls::{Authority, Issued, Server};

/// A broker takes some seconds to start.
const LIMIT: Duration = Duration::from_secs(120);

/// Names that the broker's certificate bears; its address is not among them.
const NAMES: [&str; 2] = ["localhost", "rabbit.example"];

/// The authority of all that is trusted.
fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::new("haypile's tests"))
}

/// Trusts this authority.
fn trusting() -> TlsOptions {
    TlsOptions::new().ca_certificates_pem(authority().pem())
}

fn start_broker(options: &[(&str, &str)]) -> Broker {
    let server = authority().server(&NAMES);
    let folder = Folder::new();
    folder.write("ca.pem", &authority().pem());
    folder.write("server.pem", &server.certificate);
    folder.write("server.key", &server.key);
    let mut options = options.to_vec();
    options.push(("BROKER_TLS", folder.path().to_str().unwrap()));
    Broker::start(&options)
}

/// A RabbitMQ that asks for a client certificate and does without; it offers EXTERNAL.
fn broker() -> &'static Broker {
    static BROKER: OnceLock<Broker> = OnceLock::new();
    BROKER.get_or_init(|| start_broker(&[("BROKER_PLUGINS", "rabbitmq_auth_mechanism_ssl")]))
}

fn parameters() -> ConnectionParameters {
    ConnectionParameters::new("localhost")
        .port(broker().tls_port())
        .tls(trusting())
}

#[track_caller]
fn open(parameters: ConnectionParameters) -> Connection {
    Connection::open(parameters).unwrap_or_else(|error| panic!("{error}"))
}

/// That this fails as [`Error::Tls`], at that stage, with host and port and these words; gives the whole text.
#[track_caller]
fn refused(parameters: ConnectionParameters, address: &str, words: &[&str]) -> String {
    let error = Connection::open(parameters).expect_err("it was taken");
    let text = error.to_string();
    assert_matches!(error, Error::Tls(_));
    assert!(error.is_connection_error());
    assert_eq!(error.address(), Some(address));
    let failure = error.connect_failure().unwrap();
    assert_eq!(failure.stage, Stage::Tls);
    for word in words {
        assert!(text.contains(word), "{word:?}: {text}");
    }
    text
}

/// Connects to a server with this certificate by the name `localhost`; the error has these words.
#[track_caller]
fn shown(certificate: &Issued, words: &[&str]) {
    for versions in [[&TLS13], [&TLS12]] {
        let server = Server::start(server_config(certificate, None, &versions), None);
        let address = format!("localhost:{}", server.port());
        let parameters = ConnectionParameters::new("localhost")
            .port(server.port())
            .tls(trusting());
        refused(parameters, &address, words);
    }
}

// ---- a good server

#[test]
fn a_certificate_of_a_trusted_authority_is_good() {
    bounded_by(LIMIT, || {
        let connection = open(parameters());
        assert_works(&connection);
        connection.close().unwrap();
    });
}

#[test]
fn a_url_is_enough_for_tls() {
    bounded_by(LIMIT, || {
        let folder = Folder::new();
        let ca = folder.write("ca and more.pem", &authority().pem());
        let client = authority().client("guest");
        let certificate = folder.write("client.pem", &client.certificate);
        let key = folder.write("client.key", &client.key);
        let both = folder.write("both.pem", &(client.key + &client.certificate));
        let ca = ca.replace(' ', "%20");
        let (port, url) = (broker().tls_port(), &broker().amqps);
        for url in [
            format!("{url}?cacertfile={ca}"),
            format!("{url}?cacertfile={ca}&verify=verify_peer&heartbeat=10&connection_timeout=5000&channel_max=7"),
            format!("amqps://127.0.0.1:{port}?cacertfile={ca}&server_name_indication=localhost"),
            format!("{url}?cacertfile={ca}&certfile={certificate}&keyfile={key}&auth_mechanism=external"),
            format!("amqps://localhost:{port}?cacertfile={ca}&certfile={both}&auth_mechanism=external&auth_mechanism=plain"),
            format!("{url}?ssl_options={{'ca_certs':'{ca}','certfile':'{certificate}','keyfile':'{key}'}}"),
            format!("{url}?verify=verify_none"),
        ] {
            let connection = Connection::open(&url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_works(&connection);
            if url.contains("channel_max") {
                assert_eq!(connection.channel_max(), 7);
                assert_eq!(connection.heartbeat(), Duration::from_secs(10));
            }
            connection.close().unwrap();
        }
    });
}

#[test]
fn verification_can_be_switched_off_and_only_by_name() {
    bounded_by(LIMIT, || {
        let any = TlsOptions::new().danger_accept_any_certificate();
        // an unknown authority, and an address that the certificate does not bear
        let by_address = ConnectionParameters::new("127.0.0.1").port(broker().tls_port());
        let connection = open(by_address.clone().tls(any.clone()));
        assert_works(&connection);
        connection.close().unwrap();
        refused(
            by_address.tls(trusting()),
            &format!("127.0.0.1:{}", broker().tls_port()),
            &["127.0.0.1"],
        );

        // nothing about the certificate matters
        let other = Authority::new("another");
        let mut ca = server_params(&["localhost"]);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        for certificate in [
            other.issue(expired(server_params(&["elsewhere"]))),
            self_signed(ca),
        ] {
            for versions in [[&TLS13], [&TLS12]] {
                let config = server_config(&certificate, None, &versions);
                let server =
                    Server::start(config, Some(([127, 0, 0, 1], broker().plain_port()).into()));
                let parameters = ConnectionParameters::new("127.0.0.1")
                    .port(server.port())
                    .tls(any.clone());
                assert_works(&open(parameters));
            }
        }
    });
}

#[test]
fn without_authorities_of_ones_own_the_platforms_are_asked() {
    bounded_by(LIMIT, || {
        let tls = TlsOptions::new();
        let parameters = parameters().tls(tls);
        match Connection::open(parameters) {
            Err(Error::Tls(failure)) => {
                assert!(failure.cause.contains("no authority"), "{failure}")
            }
            // a machine that trusts no authority
            Err(Error::InvalidParameter { field, .. }) => assert_eq!(&*field, "tls"),
            other => panic!("{other:?}"),
        }
    });
}

// ---- a server that is not right

#[test]
fn an_expired_certificate() {
    bounded_by(LIMIT, || {
        let expired = authority().issue(expired(server_params(&NAMES)));
        shown(&expired, &["expired", "days ago", "clock"]);
        let early = authority().issue(not_yet_valid(server_params(&NAMES)));
        shown(&early, &["not valid yet", "clock"]);
    });
}

#[test]
fn a_certificate_that_no_trusted_authority_has_signed() {
    bounded_by(LIMIT, || {
        let words = [
            "no authority that is trusted",
            "self-signed",
            "ca_certificates_file",
            "cacertfile",
        ];
        shown(&self_signed(server_params(&NAMES)), &words);
        shown(&Authority::new("another").server(&NAMES), &words);
        let mut ca = server_params(&NAMES);
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        shown(&self_signed(ca), &["authority"]);
    });
}

#[test]
fn a_certificate_with_another_name() {
    bounded_by(LIMIT, || {
        let other = authority().server(&["elsewhere.example", "127.0.0.3"]);
        shown(
            &other,
            &[
                "\"localhost\"",
                "elsewhere.example",
                "127.0.0.3",
                "server_hostname",
            ],
        );
        let nameless = authority().issue(CertificateParams::default());
        shown(&nameless, &["bears no name", "subjectAltName"]);

        // the real one, by an address that its certificate does not bear
        let address = format!("127.0.0.1:{}", broker().tls_port());
        let by_address = parameters().host("127.0.0.1");
        let text = refused(
            by_address.clone(),
            &address,
            &["localhost", "rabbit.example"],
        );
        assert!(text.contains("server_name_indication"), "{text}");
        for name in NAMES {
            let connection = open(by_address.clone().tls(trusting().server_hostname(name)));
            assert_works(&connection);
            connection.close().unwrap();
        }
        let wrong = by_address.tls(trusting().server_hostname("wrong.example"));
        refused(wrong, &address, &["\"wrong.example\""]);
    });
}

#[test]
fn a_certificate_with_names_without_end() {
    bounded_by(LIMIT, || {
        let names: Vec<String> = (0..1000)
            .map(|n| format!("host-{n}.elsewhere.example"))
            .collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let server = Server::start(
            server_config(&authority().server(&names), None, &[&TLS13]),
            None,
        );
        let address = format!("localhost:{}", server.port());
        let parameters = ConnectionParameters::new("localhost")
            .port(server.port())
            .tls(trusting());
        let words = ["host-0.elsewhere.example", "in all"];
        let text = refused(parameters.clone(), &address, &words);
        assert!(text.len() < 2000, "{} bytes", text.len());
        let error = Connection::open(parameters).unwrap_err();
        let text = format!("{error:?} {:?}", error.connect_failure());
        assert!(text.len() < 6000, "{} bytes", text.len());
    });
}

#[test]
fn a_certificate_not_meant_for_servers() {
    bounded_by(LIMIT, || {
        let mut params = server_params(&NAMES);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        shown(
            &authority().issue(params),
            &["not meant for servers", "extended key usage"],
        );
    });
}

#[test]
fn every_address_and_every_host_is_tried() {
    bounded_by(LIMIT, || {
        let expired = authority().issue(expired(server_params(&NAMES)));
        let server = Server::start(server_config(&expired, None, &[&TLS13]), None);
        let bad = ConnectionParameters::new("localhost")
            .port(server.port())
            .tls(trusting());
        let connection = Connection::open([bad.clone(), parameters()]).unwrap();
        assert_works(&connection);
        let bad = bad.connection_attempts(2).retry_delay(Duration::ZERO);
        let error = Connection::open(bad).unwrap_err();
        let attempts = &error.connect_failure().unwrap().attempts;
        let at_tls = attempts
            .iter()
            .filter(|attempt| attempt.stage == Stage::Tls);
        assert_eq!(at_tls.count(), 2, "{error}");
        assert_eq!(server.accepted(), 3);
    });
}

// ---- the wrong port

#[test]
fn tls_on_a_plain_port() {
    bounded_by(LIMIT, || {
        let port = broker().plain_port();
        let parameters = ConnectionParameters::new("127.0.0.1")
            .port(port)
            .tls(trusting());
        refused(
            parameters,
            &format!("127.0.0.1:{port}"),
            &["AMQP, without TLS", "amqp://", "5671"],
        );
    });
}

#[test]
fn tls_to_somebody_else_entirely() {
    bounded_by(LIMIT, || {
        for (sent, words) in [
            (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], ["HTTP", "15672"]),
            (b"SSH-2.0-OpenSSH_9.2\r\n", ["no TLS", "amqp://"]),
            (b"", ["closed the stream", "5671"]),
            // the beginning of a record, and the end
            (&[22, 3, 3, 0, 100, 2], ["closed the stream", "TLS"]),
            // an alert: handshake_failure
            (&[21, 3, 3, 0, 2, 2, 40], ["HandshakeFailure", "cipher"]),
            // protocol_version
            (&[21, 3, 1, 0, 2, 2, 70], ["version", "TLS 1.2"]),
        ] {
            let peer = Peer::start(move |session| {
                session.read_bytes(5);
                session.send_raw(sent);
                session.half_close();
                session.silent_until_end();
            });
            let parameters = ConnectionParameters::new("127.0.0.1")
                .port(peer.address().port())
                .tls(trusting());
            refused(parameters, &peer.address().to_string(), &words);
            peer.finish();
        }
    });
}

#[test]
fn a_silent_server_does_not_hold_anybody_up() {
    bounded_by(LIMIT, || {
        let peer = Peer::start(|session| {
            session.silent_until_end();
        });
        let parameters = ConnectionParameters::new("127.0.0.1")
            .port(peer.address().port())
            .stack_timeout(Duration::from_millis(500))
            .tls(trusting());
        let began = std::time::Instant::now();
        let error = Connection::open(parameters).unwrap_err();
        assert!(began.elapsed() < SOON);
        assert_matches!(error, Error::Connection(_));
        assert_eq!(error.connect_failure().unwrap().stage, Stage::Tls);
        assert!(error.to_string().contains("500 ms"), "{error}");
        peer.finish();
    });
}

#[test]
fn plain_on_a_tls_port() {
    bounded_by(LIMIT, || {
        let port = broker().tls_port();
        let parameters = ConnectionParameters::new("127.0.0.1").port(port);
        let error = Connection::open(parameters).unwrap_err();
        let text = error.to_string();
        assert_matches!(error, Error::IncompatibleProtocol(_));
        assert!(text.contains("TLS") && text.contains("amqps://"), "{text}");
        assert_eq!(error.address(), Some(&*format!("127.0.0.1:{port}")));
    });
}

// ---- the client's certificate

#[test]
fn a_certificate_in_place_of_a_password() {
    bounded_by(LIMIT, || {
        let client = authority().client("guest");
        let with_certificate = trusting().client_certificate_pem(client.certificate, client.key);
        let mutual = parameters().tls(with_certificate.clone());
        // by password all the same
        let connection = open(mutual.clone());
        assert_works(&connection);
        connection.close().unwrap();

        let connection = open(mutual.clone().credentials(ExternalCredentials));
        assert_works(&connection);
        let user = broker().rabbitmqctl(&[
            "list_connections",
            "-q",
            "--no-table-headers",
            "user",
            "auth_mechanism",
            "peer_cert_subject",
        ]);
        assert!(user.contains("EXTERNAL"), "{user}");
        connection.close().unwrap();

        let either = Credentials::FirstOffered(vec![
            ExternalCredentials.into(),
            PlainCredentials::default().into(),
        ]);
        assert_works(&open(mutual.credentials(either)));

        // a user whom the broker does not have
        let nobody = authority().client("nobody");
        let tls = trusting().client_certificate_pem(nobody.certificate, nobody.key);
        let error =
            Connection::open(parameters().tls(tls).credentials(ExternalCredentials)).unwrap_err();
        assert_matches!(error, Error::ProbableAuthentication(_));
        assert_eq!(error.reply_code(), Some(403));

        // no certificate at all: the broker offers EXTERNAL and then refuses
        let error = Connection::open(parameters().credentials(ExternalCredentials)).unwrap_err();
        assert_matches!(
            error,
            Error::ProbableAuthentication(_) | Error::Authentication(_)
        );
    });
}

/// `examples/tls.rs`, which cargo builds beside this test with the feature `tls`.
#[test]
fn the_example_checks_the_broker() {
    bounded_by(LIMIT, || {
        let this = std::env::current_exe().unwrap();
        let examples = this.ancestors().nth(2).unwrap().join("examples");
        let example = examples
            .join("tls")
            .with_extension(std::env::consts::EXE_EXTENSION);
        let url = format!("amqps://guest:guest@localhost:{}/%2f", broker().tls_port());
        let folder = Folder::new();
        let ca = folder.write("ca.pem", &authority().pem());
        let stranger = folder.write("stranger.pem", &Authority::new("a stranger").pem());
        let client = authority().client("guest");
        let certificate = folder.write("client.pem", &client.certificate);
        let key = folder.write("client.key", &client.key);
        let run = |files: &[&String]| {
            let mut command = std::process::Command::new(&example);
            let output = command.arg(&url).args(files).output();
            output.unwrap_or_else(|error| panic!("cargo build --examples first: {error}"))
        };
        for files in [&[&ca][..], &[&ca, &certificate, &key]] {
            let output = run(files);
            assert!(output.status.success(), "{output:?}");
            assert_eq!(
                String::from_utf8_lossy(&output.stdout),
                "received \"nobody else can read this\" inside TLS\n"
            );
        }
        let output = run(&[&stranger]);
        assert!(!output.status.success());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("certificate"), "{text}");
    });
}

#[test]
fn a_broker_that_requires_a_certificate() {
    bounded_by(LIMIT, || {
        let broker = start_broker(&[("BROKER_TLS_REQUIRE_CLIENT", "1")]);
        let parameters = ConnectionParameters::new("localhost").port(broker.tls_port());
        let address = format!("localhost:{}", broker.tls_port());
        let words = [
            "client certificate",
            "none",
            "client_certificate_files",
            "certfile",
        ];
        refused(parameters.clone().tls(trusting()), &address, &words);
        let unknown = Authority::new("another").client("guest");
        let tls = trusting().client_certificate_pem(unknown.certificate, unknown.key);
        refused(
            parameters.clone().tls(tls),
            &address,
            &["client's certificate"],
        );

        let client = authority().client("guest");
        let tls = trusting().client_certificate_pem(client.certificate, client.key);
        let connection = open(parameters.tls(tls));
        assert_works(&connection);

        // the end of the broker
        let channel = connection.channel().unwrap();
        let waiting = thread::spawn(move || {
            let queue = support::exclusive_queue(&channel);
            channel.basic_consume(queue, |_, _, _, _| ()).unwrap();
            channel.start_consuming()
        });
        assert_works(&connection);
        drop(broker);
        let error = waiting.join().unwrap().unwrap_err();
        assert_matches!(error, Error::StreamLost(_));
        assert_eq!(error.address(), Some(&*address));
        assert!(connection.is_closed());
        assert!(connection.channel().is_err());
    });
}

#[test]
fn a_missing_certificate_is_reported_with_each_version() {
    bounded_by(LIMIT, || {
        for versions in [[&TLS13], [&TLS12]] {
            let server = authority().server(&NAMES);
            let server = Server::start(server_config(&server, Some(authority()), &versions), None);
            let address = format!("localhost:{}", server.port());
            let parameters = ConnectionParameters::new("localhost").port(server.port());
            refused(
                parameters.clone().tls(trusting()),
                &address,
                &["client certificate", "none", "client_certificate_files"],
            );
            let other = Authority::new("another").client("guest");
            let tls = trusting().client_certificate_pem(other.certificate, other.key);
            refused(parameters.tls(tls), &address, &["client's certificate"]);
        }
    });
}

#[test]
fn files_that_will_not_do_are_named() {
    let folder = Folder::new();
    let client = authority().client("guest");
    let certificate = folder.write("client.pem", &client.certificate);
    let key = folder.write("client.key", &client.key);
    let other_key = folder.write("other.key", &authority().client("other").key);
    let empty = folder.write("empty.pem", "");
    let sealed =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let sealed = folder.write("sealed.key", sealed);
    let broken = format!("-----BEGIN PRIVATE KEY-----\n{}\n", "hush!");
    let broken = folder.write("broken.key", &broken);
    let missing = folder.path().join("missing.pem");
    let missing = missing.to_str().unwrap();
    let ca = folder.write("ca.pem", &authority().pem());
    for (options, words) in [
        (
            format!("cacertfile={missing}"),
            ["cacertfile", missing, "No such file"],
        ),
        (
            format!("cacertfile={empty}"),
            ["cacertfile", &empty, "no certificate"],
        ),
        (
            format!("cacertfile={key}"),
            ["cacertfile", &key, "no certificate"],
        ),
        (
            format!("certfile={missing}&keyfile={key}"),
            ["certfile", missing, "cannot be read"],
        ),
        (
            format!("certfile={key}&keyfile={key}"),
            ["certfile", &key, "no certificate"],
        ),
        (
            format!("certfile={certificate}&keyfile={missing}"),
            ["keyfile", missing, "cannot be read"],
        ),
        (
            format!("certfile={certificate}"),
            ["keyfile", &certificate, "no private key"],
        ),
        (
            format!("certfile={certificate}&keyfile={sealed}"),
            ["keyfile", &sealed, "encrypted"],
        ),
        (
            format!("certfile={certificate}&keyfile={broken}"),
            ["keyfile", &broken, "PEM"],
        ),
        (
            format!("certfile={certificate}&keyfile={other_key}"),
            ["keyfile", &other_key, "not the key"],
        ),
        (
            format!("server_name_indication=a%20b&cacertfile={ca}"),
            ["server_name_indication", "a b", "DNS"],
        ),
    ] {
        // Nothing listens there: this is found before anything is connected.
        let options = match options.contains("cacertfile") {
            true => options,
            false => format!("{options}&cacertfile={ca}"),
        };
        let error = Connection::open(format!("amqps://127.0.0.1:1?{options}")).unwrap_err();
        let text = error.to_string();
        assert_matches!(error, Error::InvalidParameter { .. });
        for word in words {
            assert!(text.contains(word), "{word:?}: {text}");
        }
        assert!(!text.contains("hush"), "{text}");
    }
}

// ---- as good as TCP

#[test]
fn large_bodies_both_ways() {
    bounded_by(LIMIT, || {
        let connection = open(parameters());
        let channel = connection.channel().unwrap();
        let queue = support::exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        for length in [0, 1, 16_383, 16_384, 16_385, 131_064, 131_065, 8 << 20] {
            let body: Vec<u8> = (0..length).map(|n: u32| (n * 31 + n / 251) as u8).collect();
            channel.basic_publish("", &queue, &body).unwrap();
            let (_, _, came) = channel
                .basic_get(BasicGet::new(&queue).auto_ack(true))
                .unwrap()
                .unwrap();
            assert!(came == body, "{length}");
        }
        connection.close().unwrap();
    });
}

#[test]
fn many_threads_publish_while_one_consumes() {
    const THREADS: usize = 8;
    const EACH: usize = 1500;
    bounded_by(LIMIT, || {
        let connection = open(parameters());
        let channel = connection.channel().unwrap();
        let queue = support::exclusive_queue(&channel);
        let publishers: Vec<_> = (0..THREADS)
            .map(|number| {
                let channel = connection.channel().unwrap();
                let queue = queue.clone();
                thread::spawn(move || {
                    let mut publisher = channel.publisher(200).unwrap();
                    for n in 0..EACH {
                        // most of them small, some written from where they lie
                        let mut body = vec![n as u8; if n % 100 == 99 { 50_000 } else { n % 700 }];
                        body.extend_from_slice(format!(":{number}:{n}").as_bytes());
                        publisher.publish("", &queue, body).unwrap();
                    }
                    publisher.wait_for_confirms(SOON).unwrap();
                })
            })
            .collect();
        let mut next = [0; THREADS];
        let came = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&came);
        channel.basic_qos(100).unwrap();
        channel
            .basic_consume(
                BasicConsume::new(&queue),
                move |channel, method, _, body| {
                    let text = String::from_utf8_lossy(&body);
                    let mut parts = text.rsplit(':');
                    let n: usize = parts.next().unwrap().parse().unwrap();
                    let number: usize = parts.next().unwrap().parse().unwrap();
                    assert_eq!(n, next[number]);
                    next[number] += 1;
                    channel.basic_ack(method.delivery_tag)?;
                    if count.fetch_add(1, Ordering::Relaxed) + 1 == THREADS * EACH {
                        channel.stop_consuming()?;
                    }
                    Ok(())
                },
            )
            .unwrap();
        channel.start_consuming().unwrap();
        assert_eq!(came.load(Ordering::Relaxed), THREADS * EACH);
        for publisher in publishers {
            publisher.join().unwrap();
        }
        connection.close().unwrap();
    });
}

#[test]
fn an_idle_connection_lives_on_its_heartbeats() {
    bounded_by(LIMIT, || {
        let connection = open(parameters().heartbeat(1));
        assert_eq!(connection.heartbeat(), Duration::from_secs(1));
        // Either side gives up after two to three seconds of silence.
        thread::sleep(Duration::from_secs(6));
        assert_works(&connection);
        connection.close().unwrap();
    });
}

#[test]
fn a_frozen_peer_is_noticed() {
    bounded_by(LIMIT, || {
        let proxy = support::proxy::Proxy::to(([127, 0, 0, 1], broker().tls_port()).into());
        let parameters = parameters().port(proxy.port()).heartbeat(1);
        let connection = open(parameters);
        assert_works(&connection);
        proxy.pause();
        wait_until(SOON, || connection.is_closed());
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::HeartbeatTimeout { .. });
    });
}

#[test]
fn a_cut_is_a_lost_stream() {
    bounded_by(LIMIT, || {
        let proxy = support::proxy::Proxy::to(([127, 0, 0, 1], broker().tls_port()).into());
        let connection = open(parameters().port(proxy.port()));
        assert_works(&connection);
        proxy.cut();
        wait_until(SOON, || connection.is_closed());
        let error = connection.channel().unwrap_err();
        assert_matches!(error, Error::StreamLost(_));
    });
}

#[test]
fn a_peer_that_takes_nothing_for_a_while_gets_it_all_in_the_end() {
    bounded_by(LIMIT, || {
        let proxy = support::proxy::Proxy::to(([127, 0, 0, 1], broker().tls_port()).into());
        let connection = open(parameters().port(proxy.port()).heartbeat(0));
        let channel = connection.channel().unwrap();
        let queue = support::exclusive_queue(&channel);
        let mut publisher = channel.publisher(1000).unwrap();
        proxy.pause();
        // More than the sockets on the way hold; what is stuck in a record is finished later.
        let publishing = thread::spawn(move || {
            for n in 0..40_u32 {
                let body: Vec<u8> = (0..500_000).map(|k: u32| (k ^ n) as u8).collect();
                publisher.publish("", &queue, body).unwrap();
            }
            publisher
                .wait_for_confirms(Duration::from_secs(60))
                .unwrap();
            (publisher, queue)
        });
        // Meanwhile writes end in the middle of a record, again and again.
        thread::sleep(Duration::from_secs(3));
        proxy.resume();
        let (_publisher, queue) = publishing.join().unwrap();
        for n in 0..40_u32 {
            let (_, _, body) = channel
                .basic_get(BasicGet::new(&queue).auto_ack(true))
                .unwrap()
                .unwrap();
            assert!(
                body.iter()
                    .zip(0_u32..)
                    .all(|(byte, k)| *byte == (k ^ n) as u8),
                "{n}"
            );
        }
        connection.close().unwrap();
    });
}

#[test]
fn tls_over_a_stream_of_ones_own() {
    bounded_by(LIMIT, || {
        let target = ([127, 0, 0, 1], broker().tls_port()).into();
        // The host is what the certificate must bear; nothing is connected to.
        let parameters = ConnectionParameters::new("rabbit.example").tls(trusting());

        let (ours, theirs) = streams::pair();
        streams::bridge(theirs, target);
        let connection = Connection::open_stream(parameters.clone(), ours).unwrap();
        assert_works(&connection);
        connection.close().unwrap();

        #[cfg(unix)]
        {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            streams::bridge(theirs, target);
            let connection = Connection::open_stream(parameters.clone(), ours).unwrap();
            assert_works(&connection);
            connection.close().unwrap();
        }

        let (ours, theirs) = streams::pair();
        streams::bridge(theirs, target);
        let wrong = parameters.host("wrong.example");
        let error = Connection::open_stream(wrong, ours).unwrap_err();
        assert_matches!(error, Error::Tls(_));
        assert_eq!(error.address(), Some("wrong.example:5671"));
    });
}

#[test]
fn nothing_secret_shows() {
    bounded_by(LIMIT, || {
        capture::capture();
        let password = "p/s w0rd%:@\u{fc}&hush-hush";
        let user = unique("user");
        broker().rabbitmqctl(&["add_user", &user, password]);
        broker().rabbitmqctl(&["set_permissions", &user, ".*", ".*", ".*"]);
        let client = authority().client(&user);
        let key = client.key.clone();
        let tls = trusting().client_certificate_pem(client.certificate, client.key);
        let parameters = parameters()
            .tls(tls.clone())
            .credentials(PlainCredentials::new(&user, password));
        let connection = open(parameters.clone());
        assert_works(&connection);
        let shown = format!("{parameters:?}{tls:?}{connection:?}");
        connection.close().unwrap();
        let error = Connection::open(parameters.tls(TlsOptions::new())).unwrap_err();
        let shown = format!("{shown}{error}{error:?}");

        // of the key, its lines
        let mut secrets: Vec<&str> = key.lines().filter(|line| line.len() > 40).collect();
        assert!(!secrets.is_empty());
        secrets.push(password);
        capture::assert_none_of(&secrets, &shown, "Debug and errors");
        let logged = capture::logged();
        assert!(logged.contains("rustls"), "what TLS logs is in there");
        capture::assert_none_of(&secrets, &logged, "the log");
    });
}
