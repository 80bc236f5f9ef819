//! Logging in: mechanisms, refusals, renewed secrets, and that no secret ever shows.

#[path = "support/broker.rs"]
mod broker;
#[path = "support/capture.rs"]
mod capture;
mod support;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use haypile::{
    AmqPlainCredentials, Connection, ConnectionParameters, Credentials, Error, ExternalCredentials,
    PlainCredentials, QueueDeclare, Stage,
};
use rcgen::{KeyPair, SigningKey};

use broker::{Broker, Folder};
use support::peer::{m, Args, Handshake, Peer};
use support::{
    assert_matches, assert_works, bounded, bounded_by, unique, url, wait_until, RefusedPort, SOON,
};

/// Parameters for the broker of `AMQP_URL`.
fn parameters() -> ConnectionParameters {
    ConnectionParameters::from_url(url()).unwrap()
}

// ---- mechanisms

#[test]
fn each_mechanism_lets_guest_in() {
    bounded(|| {
        for credentials in [
            Credentials::from(PlainCredentials::new("guest", "guest")),
            AmqPlainCredentials::new("guest", "guest").into(),
            Credentials::FirstOffered(vec![
                ExternalCredentials.into(),
                AmqPlainCredentials::new("guest", "guest").into(),
            ]),
        ] {
            let connection = Connection::open(parameters().credentials(credentials)).unwrap();
            assert_works(&connection);
            connection.close().unwrap();
        }
        for option in ["plain", "amqplain", "AMQPLAIN", "PLAIN"] {
            let url = support::url_with(&format!("auth_mechanism={option}"));
            Connection::open(&url).unwrap().close().unwrap();
        }
    });
}

#[test]
fn the_mechanism_is_chosen_from_what_is_offered() {
    bounded(|| {
        let login = || PlainCredentials::new("me", "mine");
        let plain: &[u8] = b"\0me\0mine";
        let amqplain: &[u8] = b"\x05LOGINS\0\0\0\x02me\x08PASSWORDS\0\0\0\x04mine";
        let either: Credentials =
            Credentials::FirstOffered(vec![ExternalCredentials.into(), login().into()]);
        let cases: [(_, Credentials, _, _); 6] = [
            ("AMQPLAIN PLAIN", login().into(), "PLAIN", plain),
            ("PLAIN AMQPLAIN EXTERNAL", login().into(), "PLAIN", plain),
            ("AMQPLAIN", login().into(), "AMQPLAIN", amqplain),
            (
                "PLAIN AMQPLAIN",
                AmqPlainCredentials::new("me", "mine").into(),
                "AMQPLAIN",
                amqplain,
            ),
            ("PLAIN EXTERNAL", either.clone(), "EXTERNAL", b""),
            ("GSSAPI PLAIN", either, "PLAIN", plain),
        ];
        for (offered, credentials, mechanism, response) in cases {
            let peer = Peer::start(move |session| {
                let handshake = Handshake {
                    mechanisms: offered,
                    ..Handshake::default()
                };
                let greeting = session.handshake_with(&handshake);
                assert_eq!(greeting.mechanism, mechanism);
                assert_eq!(greeting.response, response);
                session.serve_until_end();
            });
            let parameters = ConnectionParameters::from_url(peer.url())
                .unwrap()
                .credentials(credentials);
            Connection::open(parameters).unwrap().close().unwrap();
            peer.finish();
        }
    });
}

#[test]
fn the_error_of_a_refusal_lists_what_was_offered() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.expect_protocol_header();
            session.send_start(&Handshake {
                mechanisms: "GSSAPI SCRAM-SHA-256",
                ..Handshake::default()
            });
            session.expect_end();
        });
        let error = Connection::open(peer.url()).unwrap_err();
        let text = error.to_string();
        assert_matches!(error, Error::Authentication(_));
        assert_eq!(
            error.connect_failure().unwrap().stage,
            Stage::Authentication
        );
        assert_eq!(error.address(), Some(&*peer.address().to_string()));
        assert!(text.contains("GSSAPI SCRAM-SHA-256"), "{text}");
        peer.finish();

        // The real one offers EXTERNAL only with a plugin.
        let error = Connection::open(parameters().credentials(ExternalCredentials)).unwrap_err();
        let text = error.to_string();
        assert_matches!(error, Error::Authentication(_));
        for word in ["PLAIN", "AMQPLAIN", "EXTERNAL"] {
            assert!(text.contains(word), "{text}");
        }
    });
}

#[test]
fn a_wrong_password_is_refused_with_the_brokers_reason() {
    bounded(|| {
        for credentials in [
            Credentials::from(PlainCredentials::new("guest", "wrong")),
            AmqPlainCredentials::new("guest", "wrong").into(),
        ] {
            let error = Connection::open(parameters().credentials(credentials)).unwrap_err();
            assert_matches!(error, Error::ProbableAuthentication(_));
            assert_eq!(error.reply_code(), Some(403));
        }
    });
}

#[test]
fn a_login_that_is_too_large_has_an_error_that_names_the_limit() {
    bounded(|| {
        let token = "x".repeat(5000);
        let login = PlainCredentials::new("guest", &token);
        let error = Connection::open(parameters().credentials(login)).unwrap_err();
        assert_matches!(error, Error::ProbableAuthentication(_));
        // A broker may be set to take that much; then it is the wrong password.
        if error.reply_code() != Some(403) {
            assert!(error.to_string().contains("4096 bytes"), "{error}");
        }
    });
}

// ---- erase_on_connect

#[test]
fn credentials_are_erased_only_after_the_last_attempt() {
    bounded(|| {
        let refused = RefusedPort::new();
        let erased = PlainCredentials::new("guest", "guest").erase_on_connect(true);
        let good = parameters().credentials(erased.clone());
        let refused = parameters()
            .host("127.0.0.1")
            .port(refused.port())
            .credentials(erased.clone());
        let locked = good.clone().virtual_host(unique("no-such-host"));
        // Each of these has been tried, and one of them has logged in before it was turned away.
        let connection = Connection::open([refused.clone(), locked.clone(), good.clone()]).unwrap();
        assert_works(&connection);
        connection.close().unwrap();

        // Attempts that fail erase nothing.
        let again = [
            refused,
            locked.connection_attempts(3).retry_delay(Duration::ZERO),
        ];
        let error = Connection::open(&again).unwrap_err();
        assert_matches!(error, Error::ProbableAccessDenied(_));
        let attempts = &error.connect_failure().unwrap().attempts;
        let turned_away = attempts.iter().filter(|a| a.stage == Stage::VirtualHost);
        assert_eq!(turned_away.count(), 3, "{error}");

        // What the program keeps is its own.
        for _ in 0..2 {
            let connection = Connection::open(&good).unwrap();
            assert_works(&connection);
            connection.close().unwrap();
        }
    });
}

// ---- update_secret

#[test]
fn a_new_secret_is_sent() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            let mut arguments = session.expect(0, m::CONNECTION_UPDATE_SECRET);
            assert_eq!(arguments.longstr(), "t\u{f6}ken".as_bytes());
            assert_eq!(arguments.shortstr(), "the old one expires");
            session.send_method(0, m::CONNECTION_UPDATE_SECRET_OK, Args::new());
            let mut arguments = session.expect(0, m::CONNECTION_UPDATE_SECRET);
            assert_eq!(arguments.longstr(), b"refused");
            session.send_connection_close(530, "NOT_ALLOWED - no", m::CONNECTION_UPDATE_SECRET);
            session.expect(0, m::CONNECTION_CLOSE_OK);
        });
        let connection = Connection::open(peer.url()).unwrap();
        connection
            .update_secret("t\u{f6}ken", "the old one expires")
            .unwrap();
        let error = connection.update_secret("refused", "again").unwrap_err();
        assert_matches!(
            error,
            Error::ConnectionClosedByBroker {
                reply_code: 530,
                ..
            }
        );
        assert!(connection.is_closed());
        let error = connection.update_secret("late", "").unwrap_err();
        assert!(error.is_connection_error(), "{error:?}");
        peer.finish();
    });
}

#[test]
fn a_new_secret_waits_no_longer_than_other_calls() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.expect(0, m::CONNECTION_UPDATE_SECRET);
            session.serve_until_end();
        });
        let parameters = ConnectionParameters::from_url(peer.url()).unwrap();
        let connection =
            Connection::open(parameters.rpc_timeout(Duration::from_millis(300))).unwrap();
        let error = connection.update_secret("token", "").unwrap_err();
        assert_matches!(error, Error::Timeout { .. });
        let long = "x".repeat(256);
        let error = connection.update_secret("token", &long).unwrap_err();
        assert_matches!(error, Error::ShortStringTooLong { .. });
        drop(connection);
        peer.finish();
    });
}

#[test]
fn a_real_broker_takes_a_new_secret() {
    bounded(|| {
        let connection = Connection::open(parameters()).unwrap();
        let channel = connection.channel().unwrap();
        connection.update_secret("guest", "for a test").unwrap();
        let large = "x".repeat(connection.frame_max() as usize);
        let error = connection.update_secret(&large, "for a test").unwrap_err();
        assert_matches!(error, Error::InvalidParameter { .. });
        assert_works(&connection);
        channel.close().unwrap();
        connection.close().unwrap();
    });
}

/// A signed JSON web token for a user who may do everything, for so long.
fn token(key: &KeyPair, valid: Duration) -> String {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + valid;
    let header = r#"{"alg":"ES256","typ":"JWT","kid":"tests"}"#;
    let claims = format!(
        r#"{{"sub":"orders","aud":["rabbitmq"],"exp":{},"scope":["rabbitmq.configure:*/*","rabbitmq.read:*/*","rabbitmq.write:*/*"]}}"#,
        expires.as_secs()
    );
    let text = |bytes: &[u8]| capture::base64_of_urls(bytes);
    let signed = format!("{}.{}", text(header.as_bytes()), text(claims.as_bytes()));
    let signature = key.sign(signed.as_bytes()).unwrap();
    // ASN.1: a sequence of two integers, which the token wants as 32 bytes each.
    let mut rest = &signature[2..];
    let mut raw = Vec::new();
    for _ in 0..2 {
        let length = usize::from(rest[1]);
        let number = &rest[2..2 + length];
        let number = &number[length.saturating_sub(32)..];
        raw.resize(raw.len() + 32 - number.len(), 0);
        raw.extend_from_slice(number);
        rest = &rest[2 + length..];
    }
    format!("{signed}.{}", text(&raw))
}

#[test]
fn a_token_is_renewed_before_it_expires() {
    bounded_by(Duration::from_secs(120), || {
        let key = KeyPair::generate().unwrap();
        let folder = Folder::new();
        let key_file = folder.write("key.pem", &key.public_key_pem());
        let config = folder.write(
            "rabbitmq.conf",
            &format!(
                "auth_backends.1 = rabbit_auth_backend_oauth2\nauth_backends.2 = internal\n\
                 auth_oauth2.resource_server_id = rabbitmq\n\
                 auth_oauth2.default_key = tests\nauth_oauth2.signing_keys.tests = {key_file}\n"
            ),
        );
        let broker = Broker::start(&[
            ("BROKER_PLUGINS", "rabbitmq_auth_backend_oauth2"),
            ("BROKER_CONFIG", &config),
        ]);
        let with = |token: &str| {
            let parameters = ConnectionParameters::from_url(&broker.amqp).unwrap();
            Connection::open(parameters.credentials(PlainCredentials::new("orders", token)))
        };
        let valid = Duration::from_secs(5);
        let renewed = with(&token(&key, valid)).unwrap();
        let forgotten = with(&token(&key, valid)).unwrap();
        assert_works(&renewed);
        assert_works(&forgotten);
        let fresh = token(&key, Duration::from_secs(600));
        renewed
            .update_secret(&fresh, "the token expires soon")
            .unwrap();
        // Some brokers close the connection when its token expires, others refuse what is asked for from then on.
        let ask = || -> haypile::Result<()> {
            let channel = forgotten.channel()?;
            channel.queue_declare(QueueDeclare::new(unique("q")).exclusive(true))?;
            channel.close()
        };
        wait_until(SOON, || ask().is_err());
        assert_works(&renewed);

        // One that has expired, and one that another key has signed.
        let old = token(&key, Duration::ZERO);
        let foreign = token(&KeyPair::generate().unwrap(), Duration::from_secs(600));
        for bad in [&old, &foreign] {
            let error = with(bad).unwrap_err();
            assert_matches!(error, Error::ProbableAuthentication(_));
        }
        let error = renewed.update_secret(&foreign, "").unwrap_err();
        assert_matches!(error, Error::ConnectionClosedByBroker { .. });
        capture::assert_none_of(
            &[&foreign, &fresh],
            &format!("{error} {error:?}"),
            "the error",
        );
    });
}

// ---- nothing shows

#[test]
fn no_secret_shows_anywhere() {
    bounded(|| {
        capture::capture();
        const PASSWORD: &str = "p/s w0rd%:@\u{fc}&#?hush-hush";
        const ENCODED: &str = "p%2Fs%20w0rd%25%3A%40%C3%BC%26%23%3Fhush-hush";
        const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0LWNsYWltcw.hush-hush-signature";
        let secrets = [PASSWORD, TOKEN];
        let mut shown = String::new();
        let mut show =
            |what: &dyn std::fmt::Debug| shown.push_str(&format!("{what:?}\n{what:#?}\n"));

        // a login that works, and renewed secrets: taken and refused
        let peer = Peer::start(|session| {
            session.handshake();
            session.expect(0, m::CONNECTION_UPDATE_SECRET);
            session.send_method(0, m::CONNECTION_UPDATE_SECRET_OK, Args::new());
            session.expect(0, m::CONNECTION_UPDATE_SECRET);
            session.send_connection_close(530, "NOT_ALLOWED", m::CONNECTION_UPDATE_SECRET);
            session.expect(0, m::CONNECTION_CLOSE_OK);
        });
        let url = peer.url().replace("guest:guest", &format!("me:{ENCODED}"));
        assert!(url.contains(ENCODED));
        let parameters = ConnectionParameters::from_url(&url).unwrap();
        show(&parameters);
        let connection = Connection::open(&parameters).unwrap();
        show(&connection);
        connection.update_secret(TOKEN, "renewed").unwrap();
        let error = connection.update_secret(TOKEN, "renewed").unwrap_err();
        show(&error);
        show(&error.to_string());
        show(
            &connection
                .update_secret(TOKEN, &"x".repeat(300))
                .unwrap_err()
                .to_string(),
        );
        peer.finish();

        // a lost stream with a secret on its way
        let peer = Peer::start(|session| {
            session.handshake();
            session.expect(0, m::CONNECTION_UPDATE_SECRET);
            session.reset();
        });
        let connection = Connection::open(&*peer.url()).unwrap();
        let error = connection.update_secret(TOKEN, "renewed").unwrap_err();
        show(&(error.to_string(), error));
        peer.finish();

        // refused by the real one, by each mechanism, and by no other
        let refused = RefusedPort::new();
        let real = self::parameters();
        for credentials in [
            Credentials::from(PlainCredentials::new("me", PASSWORD)),
            AmqPlainCredentials::new("me", PASSWORD).into(),
            PlainCredentials::new("me", PASSWORD)
                .erase_on_connect(true)
                .into(),
            PlainCredentials::new("", TOKEN).into(),
            Credentials::FirstOffered(vec![
                ExternalCredentials.into(),
                PlainCredentials::new("me", PASSWORD).into(),
            ]),
            PlainCredentials::new("me", format!("{PASSWORD}\0")).into(),
        ] {
            show(&credentials);
            for parameters in [
                real.clone().credentials(credentials.clone()),
                ConnectionParameters::new("127.0.0.1")
                    .port(refused.port())
                    .credentials(credentials.clone()),
            ] {
                show(&parameters);
                let error = Connection::open(parameters).unwrap_err();
                show(&(error.to_string(), error));
            }
        }

        // URLs that are wrong in one way or another
        for url in [
            format!("amqp://me:{PASSWORD}@localhost"),
            format!("amqp://me:{ENCODED}@localhost:0"),
            format!("amqp://me:{ENCODED}%zz@localhost"),
            format!("amqp://me:{ENCODED}@local host"),
            format!("amqp://me:{ENCODED}@localhost/a/b"),
            format!("amqp://me:{ENCODED}@localhost?{ENCODED}"),
            format!("amqp://me:{ENCODED}@localhost?no_such=1"),
            format!("amqp://me:{ENCODED}@@localhost:1:2"),
            format!("me:{ENCODED}@localhost"),
            format!("me:{PASSWORD}://localhost"),
            format!("amqp://{PASSWORD}@localhost"),
        ] {
            match Connection::open(&url) {
                Err(error) => show(&(error.to_string(), error)),
                Ok(_) => panic!("it was taken"),
            }
            // where the host belongs
            let error = Connection::open(ConnectionParameters::new(&*url)).unwrap_err();
            show(&(error.to_string(), error));
        }

        capture::assert_none_of(&secrets, &shown, "Debug and errors");
        let logged = capture::logged();
        assert!(!logged.is_empty());
        capture::assert_none_of(&secrets, &logged, "the log");
    });
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let secret = "s\u{e9}cret/of ours";
    for text in [
        secret.to_owned(),
        format!("{secret:?}"),
        format!("{:?}", secret.as_bytes()),
        format!("{:02x?}", secret.as_bytes()),
        "amqp://me:s%C3%A9cret%2Fof%20ours@host".to_owned(),
        capture::base64_of_urls(format!("\0me\0{secret}").as_bytes()),
        capture::base64_of_urls(format!("\0you\0{secret}!").as_bytes()),
        capture::base64_of_urls(secret.as_bytes()),
    ] {
        let found = std::panic::catch_unwind(|| capture::assert_none_of(&[secret], &text, "this"));
        assert!(found.is_err(), "{text}");
    }
    capture::assert_none_of(&[secret], "no secret here", "this");
}
