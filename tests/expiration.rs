//! How long a message may live: what RabbitMQ takes, and what is refused before it is sent.

mod support;

use std::time::Duration;

use haypile::{BasicProperties, Error};
use support::peer::{m, Args, Frame};
use support::{bounded, channel, exclusive_queue, raw_client};

/// RabbitMQ's limit.
const TEN_YEARS: u64 = 315_360_000_000;

#[test]
fn ten_years_are_taken_and_more_are_refused_before_they_are_sent() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        let publish =
            |properties: BasicProperties| channel.basic_publish_with("", &queue, "x", properties);
        let lasting = |duration| BasicProperties::new().expiration(duration);
        publish(lasting(Duration::from_millis(TEN_YEARS))).unwrap();
        publish(BasicProperties::new().expiration("000315360000000")).unwrap();
        for too_long in [
            lasting(Duration::from_millis(TEN_YEARS + 1)),
            lasting(Duration::MAX),
            BasicProperties::new().expiration((TEN_YEARS + 1).to_string()),
        ] {
            let shown = too_long.expiration.clone().unwrap();
            match publish(too_long) {
                Err(Error::InvalidParameter { field, value, .. }) => {
                    assert_eq!((&*field, &*value), ("expiration", shown.as_str()));
                }
                other => panic!("{shown}: {other:?}"),
            }
        }
        // The channel is as it was.
        assert_eq!(channel.queue_purge(&queue).unwrap(), 2);
        channel.connection().close().unwrap();
    });
}

/// How a broker takes a message with this expiration that is sent to it as it is: the code by which it closes the channel, if it does.
fn refused_with(expiration: &[u8]) -> Option<u16> {
    let mut client = raw_client();
    client.send_method(1, m::CONFIRM_SELECT, Args::new().octet(0));
    client.expect(1, m::CONFIRM_SELECT_OK);
    let publish = Args::new()
        .short(0)
        .shortstr("")
        .shortstr("nobody")
        .octet(0);
    let length = u8::try_from(expiration.len()).unwrap();
    let properties = Args::new().short(1 << 8).octet(length).raw(expiration);
    let content = Frame::encode_content(1, m::BASIC_PUBLISH, &publish, properties.bytes(), b"x");
    client.send_raw(&content);
    let reply = client.frame();
    match reply.method() {
        Some(m::BASIC_ACK) => None,
        Some(m::CHANNEL_CLOSE) => Some(reply.arguments().short()),
        other => panic!("{other:?}"),
    }
}

/// What is refused here is what the broker would close the channel over.
#[test]
fn what_the_broker_refuses_is_refused_before_it_is_sent() {
    bounded(|| {
        let channel = channel();
        let queue = exclusive_queue(&channel);
        channel.confirm_delivery().unwrap();
        for (expiration, is_taken) in [
            (&b"0"[..], true),
            (b"60000", true),
            (b"00060000", true),
            (b"+60000", true),
            (b"-0", true),
            (b"", false),
            (b"soon", false),
            (b"60 000", false),
            (b"60000ms", false),
            (b" 60000", false),
            (b"60000\n", false),
            (b"1.5", false),
            (b"1e3", false),
            (b"0x1", false),
            (b"-1", false),
            (b"+", false),
            (b"+-1", false),
            ("\u{661}".as_bytes(), false),
            (b"9223372036854775808", false),
            (b"99999999999999999999999999999999999999999999999999", false),
        ] {
            let expected = if is_taken { None } else { Some(406) };
            assert_eq!(refused_with(expiration), expected, "{expiration:?}");
            let properties = BasicProperties {
                expiration: Some(expiration.into()),
                ..BasicProperties::new()
            };
            let published = channel.basic_publish_with("", &queue, "x", properties);
            match published {
                Ok(()) => assert!(is_taken, "{expiration:?}"),
                Err(Error::InvalidParameter { field, .. }) => {
                    assert!(!is_taken && &*field == "expiration", "{expiration:?}");
                }
                Err(error) => panic!("{expiration:?}: {error}"),
            }
        }
        channel.connection().close().unwrap();
    });
}

#[test]
fn an_expiration_that_is_no_number_is_shown() {
    let channel = channel();
    let later = BasicProperties::new().expiration("tomorrow");
    let error = channel.basic_publish_with("", "q", "x", later).unwrap_err();
    assert_eq!(
        error.to_string(),
        "expiration: \"tomorrow\" was given; milliseconds as decimal text are expected (\"60000\" is a minute)"
    );
    assert!(channel.is_open());
}
