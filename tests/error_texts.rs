//! What errors about arguments say.

mod support;

use haypile::{Connection, ConnectionParameters};
use support::{bounded, url};

#[track_caller]
fn refused(url: &str) -> String {
    ConnectionParameters::from_url(url).unwrap_err().to_string()
}

#[test]
fn an_unknown_option_is_named_beside_the_known_ones() {
    let text = refused("amqp://localhost?heartbeet=30");
    assert!(
        text.starts_with("url option: heartbeet was given; the options are auth_mechanism, "),
        "{text}"
    );
    let text = refused("amqp://localhost?heartbeat=soon");
    assert_eq!(
        text,
        "url option heartbeat: \"soon\" was given; 0 (off) to 65535 seconds is expected"
    );
    let text = refused("amqp://orders@localhost");
    assert!(text.starts_with("url password: none was given; "), "{text}");
}

#[cfg(feature = "tls")]
#[test]
fn a_file_that_cannot_be_used_is_named() {
    bounded(|| {
        let missing = "amqps://127.0.0.1:1?cacertfile=/no/such/ca.pem";
        let text = Connection::open(missing).unwrap_err().to_string();
        let parts = [
            "\"/no/such/ca.pem\" was given; it cannot be read: ",
            "cacertfile",
        ];
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    });
}

#[test]
fn the_numbers_of_channels_are_named() {
    bounded(|| {
        let one = ConnectionParameters::from_url(url())
            .unwrap()
            .channel_max(1);
        let connection = Connection::open(one).unwrap();
        let error = connection.channel_with_number(9).unwrap_err();
        assert_eq!(
            error.to_string(),
            "channel number 9 is out of range; 1 to 1 were negotiated"
        );
        let channel = connection.channel().unwrap();
        let error = connection.channel_with_number(1).unwrap_err();
        assert_eq!(
            error.to_string(),
            "channel number 1 is in use; 1 to 1 were negotiated"
        );
        let error = connection.channel().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no free channels: channel_max is 1, and so many are in use"
        );
        channel.close().unwrap();
        connection.close().unwrap();
    });
}
