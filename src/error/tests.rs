//! What errors say of themselves and of what caused them.

use super::*;

#[test]
fn a_connection_that_is_not_open_gives_what_ended_it() {
    let end = Error::ConnectionClosedByBroker {
        reply_code: 320,
        reply_text: "CONNECTION_FORCED".to_owned(),
        method: None,
        address: "broker:5672".into(),
        while_closing: false,
    };
    let later = Error::connection_ended(&end);
    assert!(matches!(later, Error::ConnectionWrongState { .. }));
    assert_eq!(later.reply_code(), Some(320));
    assert_eq!(later.address(), Some("broker:5672"));
    assert!(later.is_connection_error() && !later.is_channel_error());
}

fn sourced(cause: &str) -> Box<Failure> {
    Failure::new(Error::Connection, Stage::Tcp, format_args!("{cause}"), None)
        .caused_by(io::Error::other(cause.to_owned()))
}

/// Every variant that may have a source, with one.
fn with_sources() -> Vec<Error> {
    let connection = || sourced("host unreachable").into_error("broker:5672".into(), vec![], 1);
    let lost = Error::StreamLost(Arc::new(StreamLost {
        address: "broker:5672".into(),
        cause: "reset".to_owned(),
        silent_for: Duration::ZERO,
        source: Source::new(io::Error::other("reset")),
    }));
    let report = UnconfirmedReport {
        cause: Some(lost.clone()),
        ..UnconfirmedReport::default()
    };
    vec![
        connection(),
        Error::connection_ended(&lost),
        lost,
        Error::Unconfirmed(Box::new(report)),
        Error::syntax(WireError::UnknownFrameType(9)),
        Error::GaveUp(Arc::new(GaveUp {
            after: Duration::from_secs(1),
            attempts: 3,
            errors: vec![(Error::other("first"), 1), (connection(), 2)],
        })),
        Error::other("of the program's own"),
    ]
}

/// The rule of the page "Printing an error".
#[test]
fn a_text_names_its_source_and_debug_names_it_once() {
    for error in with_sources() {
        let source = std::error::Error::source(&error).expect("a source");
        let (text, cause) = (error.to_string(), source.to_string());
        assert!(text.contains(&cause), "{text}: {cause}");
        assert_eq!(format!("{error:?}"), format!("{}: {text}", error.kind()));
    }
}

#[test]
fn giving_up_is_asked_like_the_last_error() {
    let error = with_sources()
        .into_iter()
        .find(|error| matches!(error, Error::GaveUp(_)))
        .unwrap();
    let source = std::error::Error::source(&error).unwrap();
    let last = source.downcast_ref::<Error>().unwrap();
    assert!(matches!(last, Error::Connection(_)));
    assert!(error.is_connection_error() && !error.is_channel_error());
    assert_eq!(error.address(), Some("broker:5672"));
    assert!(error.connect_failure().is_some() && !error.is_retryable());

    let refused = Error::ChannelClosedByBroker {
        reply_code: 404,
        reply_text: String::new(),
        channel: 1,
        method: None,
    };
    let error = Error::GaveUp(Arc::new(GaveUp {
        after: Duration::ZERO,
        attempts: 1,
        errors: vec![(refused, 1)],
    }));
    assert_eq!((error.reply_code(), error.address()), (Some(404), None));
    assert!(error.is_channel_error() && !error.is_connection_error());
}

#[test]
fn what_the_peer_said_is_not_named_twice() {
    let failure = sourced("a\u{1b}b");
    let error = failure.into_error("broker:5672".into(), vec![], 1);
    assert_eq!(
        format!("{error:?}").matches("a\\u{1b}b").count(),
        1,
        "{error:?}"
    );
}

#[test]
fn too_deep_a_table_is_named() {
    let error = Error::unsendable(WireError::NestedTooDeeply).to_string();
    assert!(error.contains("128 levels at most are expected"), "{error}");
}

#[test]
fn errors_are_small() {
    assert!(size_of::<Error>() <= 64, "{}", size_of::<Error>());
    assert!(size_of::<Result<()>>() <= 64);
}
