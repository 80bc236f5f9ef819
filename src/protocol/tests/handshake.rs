//! Opening a connection, step by step, and what each end may refuse.

use super::message::method;
use crate::error::{Failure, Stage};
use crate::protocol::frame::{self, Frame};
use crate::protocol::handshake::{capability, Handshake, Negotiated};
use crate::protocol::method::Method;
use crate::{ConnectionParameters, ExternalCredentials, FieldTable, FieldValue, PlainCredentials};

/// A method's own bytes, without the frame.
fn payload(of: &Method<'_>) -> Vec<u8> {
    let bytes = method(0, of);
    bytes[7..bytes.len() - 1].to_vec()
}

fn properties() -> FieldTable {
    let able = FieldTable::from([
        ("authentication_failure_close", true),
        ("basic.nack", false),
    ]);
    FieldTable::from([
        ("product", FieldValue::from("RabbitMQ")),
        ("capabilities", able.into()),
    ])
}

fn start<'a>(properties: &'a FieldTable, mechanisms: &'a str) -> Method<'a> {
    Method::ConnectionStart {
        version_major: 0,
        version_minor: 9,
        server_properties: properties.into(),
        mechanisms: mechanisms.as_bytes(),
        locales: b"en_US",
    }
}

fn tune(channel_max: u16, frame_max: u32, heartbeat: u16) -> Method<'static> {
    Method::ConnectionTune {
        channel_max,
        frame_max,
        heartbeat,
    }
}

fn close(reply_code: u16, reply_text: &'static str) -> Method<'static> {
    Method::ConnectionClose {
        reply_code,
        reply_text: reply_text.into(),
        class_id: 0,
        method_id: 0,
    }
}

/// What a client wrote: its methods, as they are shown.
fn written(mut bytes: &[u8]) -> Vec<String> {
    let mut methods = Vec::new();
    while let Some((frame, length)) = frame::parse(bytes, 0).unwrap() {
        let Frame::Method {
            channel: 0,
            payload,
        } = frame
        else {
            panic!("{frame:?}");
        };
        methods.push(format!("{:?}", Method::decode(payload).unwrap()));
        bytes = &bytes[length..];
    }
    assert!(bytes.is_empty());
    methods
}

/// Plays a server that sends these methods one after another, up to the first that fails. Returns what came out.
fn play(
    parameters: &ConnectionParameters,
    methods: &[Method<'_>],
) -> (Result<bool, Box<Failure>>, Negotiated, Vec<u8>) {
    let mut negotiated = Negotiated::default();
    let mut handshake = Handshake::new(parameters, &mut negotiated);
    let (mut out, mut last) = (Vec::new(), Ok(false));
    for method in methods {
        assert!(matches!(last, Ok(false)), "more than it needs");
        last = handshake.handle(&payload(method), &mut out);
    }
    (last, negotiated, out)
}

#[track_caller]
fn failure(parameters: &ConnectionParameters, methods: &[Method<'_>]) -> Box<Failure> {
    match play(parameters, methods).0 {
        Err(failure) => failure,
        Ok(opened) => panic!("no failure: {opened}"),
    }
}

#[test]
fn a_connection_is_opened_step_by_step() {
    let parameters = ConnectionParameters::new("broker.example")
        .virtual_host("orders")
        .credentials(PlainCredentials::new("sam", "secret"))
        .channel_max(20)
        .heartbeat(7);
    let mut negotiated = Negotiated::default();
    let mut handshake = Handshake::new(&parameters, &mut negotiated);
    assert_eq!(handshake.stage, Stage::ProtocolHeader);
    assert!(!handshake.server_gives_reasons());
    let mut out = Vec::new();
    let mut step = |handshake: &mut Handshake<'_>, method: &Method<'_>| {
        out.clear();
        let Ok(opened) = handshake.handle(&payload(method), &mut out) else {
            panic!("{method:?} failed");
        };
        (opened, written(&out))
    };
    let properties = properties();
    let (opened, said) = step(&mut handshake, &start(&properties, "AMQPLAIN PLAIN"));
    assert!(!opened && handshake.stage == Stage::Authentication);
    assert!(handshake.server_gives_reasons());
    assert_eq!(said.len(), 1);
    for part in ["ConnectionStartOk", "PLAIN", "publisher_confirms", "en_US"] {
        assert!(said[0].contains(part), "{said:?}");
    }
    let (opened, said) = step(&mut handshake, &tune(2047, 131_072, 60));
    assert!(!opened && handshake.stage == Stage::VirtualHost);
    assert_eq!(said.len(), 2);
    assert!(said[0].starts_with("ConnectionTuneOk") && said[1].contains("orders"));
    let (opened, said) = step(&mut handshake, &Method::ConnectionOpenOk {});
    assert!(opened && said.is_empty());
    let agreed = Negotiated {
        channel_max: 20,
        frame_max: 131_072,
        heartbeat: 7,
        server_properties: properties,
    };
    assert_eq!(negotiated, agreed);
}

/// The login is written into a buffer that does not grow, since growing would leave a copy of the password behind.
#[test]
fn the_buffer_of_the_login_is_as_large_as_it_must_be() {
    let password = "secret".repeat(1000);
    let parameters = ConnectionParameters::new("localhost")
        .credentials(PlainCredentials::new("sam", &*password));
    let (result, _, out) = play(&parameters, &[start(&properties(), "PLAIN")]);
    assert!(matches!(result, Ok(false)));
    let response = format!("\0sam\0{password}");
    let is_there = out
        .windows(response.len())
        .any(|part| part == response.as_bytes());
    assert!(is_there);
    assert_eq!(out.capacity(), out.len());
}

/// The server's 0 means no limit.
#[test]
fn the_lower_limit_counts() {
    for (ours, theirs, agreed) in [
        ((100, 8192), (200, 4096), (100, 4096)),
        ((200, 4096), (100, 8192), (100, 4096)),
        ((100, 8192), (0, 0), (100, 8192)),
        ((65_535, 131_072), (0, 131_072), (65_535, 131_072)),
    ] {
        let parameters = ConnectionParameters::new("localhost")
            .channel_max(ours.0)
            .frame_max(ours.1);
        let tune = tune(theirs.0, theirs.1, 60);
        let (result, negotiated, out) = play(&parameters, &[start(&properties(), "PLAIN"), tune]);
        assert!(matches!(result, Ok(false)));
        assert_eq!((negotiated.channel_max, negotiated.frame_max), agreed);
        let tune_ok = format!(
            "ConnectionTuneOk {{ channel_max: {}, frame_max: {}, heartbeat: 60 }}",
            agreed.0, agreed.1
        );
        assert_eq!(written(&out)[1], tune_ok);
    }
}

#[test]
fn a_limit_that_no_frame_fits_into_is_refused() {
    let parameters = ConnectionParameters::default();
    for (frame_max, is_accepted) in [
        (4095, false),
        (1, false),
        (4096, true),
        (4097, true),
        (0, true),
    ] {
        let properties = properties();
        let methods = [start(&properties, "PLAIN"), tune(0, frame_max, 0)];
        let (result, ..) = play(&parameters, &methods);
        match result {
            Ok(opened) => assert!(is_accepted && !opened, "{frame_max}"),
            Err(failure) => {
                assert!(!is_accepted, "{frame_max}");
                assert_eq!(failure.stage, Stage::Authentication);
                assert!(failure.cause.contains("frame_max"), "{}", failure.cause);
            }
        }
    }
}

#[test]
fn another_version_is_refused() {
    let properties = properties();
    for version in [(0, 8), (1, 0), (8, 0), (1, 9)] {
        let mut method = start(&properties, "PLAIN");
        if let Method::ConnectionStart {
            version_major,
            version_minor,
            ..
        } = &mut method
        {
            (*version_major, *version_minor) = version;
        }
        let failure = failure(&ConnectionParameters::default(), &[method]);
        let named = format!("AMQP {}-{}", version.0, version.1);
        assert!(failure.cause.contains(&named), "{}", failure.cause);
        assert_eq!(failure.stage, Stage::ProtocolHeader);
    }
}

#[test]
fn a_mechanism_that_neither_end_has_is_refused() {
    let properties = properties();
    let external = ConnectionParameters::default().credentials(ExternalCredentials);
    let refused = failure(&external, &[start(&properties, "PLAIN AMQPLAIN")]);
    assert!(
        refused.cause.contains("PLAIN AMQPLAIN"),
        "{}",
        refused.cause
    );
    assert_eq!(refused.stage, Stage::Authentication);
    let hint = "PlainCredentials need PLAIN or AMQPLAIN, ExternalCredentials need EXTERNAL";
    assert_eq!(refused.hint, Some(hint));
    let parameters = ConnectionParameters::default();
    let refused = failure(&parameters, &[start(&properties, "EXTERNAL PLAINER")]);
    assert!(refused.cause.contains("PLAINER"), "{}", refused.cause);
    let secure = Method::ConnectionSecure { challenge: b"" };
    let refused = failure(&parameters, &[start(&properties, "PLAIN"), secure]);
    assert!(refused.cause.contains("a second time"), "{}", refused.cause);
}

#[test]
fn a_method_that_is_not_due_is_refused() {
    let properties = properties();
    let parameters = ConnectionParameters::default();
    for methods in [
        &[tune(0, 0, 0)][..],
        &[Method::ConnectionOpenOk {}],
        &[start(&properties, "PLAIN"), start(&properties, "PLAIN")],
        &[start(&properties, "PLAIN"), Method::ConnectionOpenOk {}],
        &[start(&properties, "PLAIN"), tune(0, 0, 0), tune(0, 0, 0)],
    ] {
        let failure = failure(&parameters, methods);
        assert!(failure.cause.contains("at the stage"), "{}", failure.cause);
    }
}

/// What the server says is reported with its code, with what may help, and after a `close-ok`.
#[test]
fn a_refusal_is_reported_by_where_it_came() {
    let properties = properties();
    let (start, tune) = (start(&properties, "PLAIN"), tune(0, 0, 0));
    let refused = |host: &str, user: &str, methods: &[Method<'_>]| {
        let parameters =
            ConnectionParameters::new(host).credentials(PlainCredentials::new(user, "password"));
        let (result, _, out) = play(&parameters, methods);
        let Err(failure) = result else {
            panic!("not refused");
        };
        let said = written(&out);
        assert_eq!(said.last().unwrap(), "ConnectionCloseOk");
        failure
    };
    let at_once = refused("broker", "sam", &[close(320, "maintenance")]);
    assert_eq!(
        (at_once.stage, at_once.reply_code),
        (Stage::ProtocolHeader, Some(320))
    );
    assert_eq!((&*at_once.cause, at_once.hint), ("320 maintenance", None));

    let login = [start, close(403, "ACCESS_REFUSED")];
    for (host, user, is_afar) in [
        ("broker", "guest", true),
        ("10.0.0.1", "guest", true),
        ("localhost", "guest", false),
        ("127.0.0.1", "guest", false),
        ("127.3.0.1", "guest", false),
        ("::1", "guest", false),
        ("broker", "sam", false),
        ("localhost", "sam", false),
    ] {
        let failure = refused(host, user, &login);
        assert_eq!(failure.stage, Stage::Authentication);
        let hint = failure.hint.unwrap();
        assert_eq!(hint.contains("localhost only"), is_afar, "{user} at {host}");
        assert_eq!(hint.contains("the password"), !is_afar, "{user} at {host}");
    }
    for code in [402, 403, 530] {
        let methods = [start, tune, close(code, "NOT_ALLOWED")];
        let failure = refused("broker", "sam", &methods);
        assert_eq!(
            (failure.stage, failure.reply_code),
            (Stage::VirtualHost, Some(code))
        );
        assert!(failure.hint.unwrap().contains("virtual host"));
    }
}

#[test]
fn a_code_that_means_something_else_has_no_hint() {
    let properties = properties();
    let (start, tune) = (start(&properties, "PLAIN"), tune(0, 0, 0));
    let is_full =
        "NOT_ALLOWED - access to vhost '/' refused for user 'u': connection limit (1) is reached";
    for (code, text) in [
        (501, "FRAME_ERROR"),
        (320, "CONNECTION_FORCED"),
        (541, "INTERNAL_ERROR"),
        (530, is_full),
    ] {
        for begun in [vec![start], vec![start, tune]] {
            let methods = [begun, vec![close(code, text)]].concat();
            let failure = failure(&ConnectionParameters::default(), &methods);
            assert_eq!(failure.reply_code, Some(code));
            assert_eq!(failure.hint, None, "{code} at {}", failure.stage);
        }
    }
}

#[test]
fn a_capability_is_there_if_the_server_announces_it() {
    let properties = properties();
    assert!(capability(&properties, "authentication_failure_close"));
    assert!(!capability(&properties, "basic.nack") && !capability(&properties, "other"));
    assert!(!capability(&FieldTable::new(), "basic.nack"));
    let of_another_type = FieldTable::from([("capabilities", "authentication_failure_close")]);
    assert!(!capability(
        &of_another_type,
        "authentication_failure_close"
    ));
}
