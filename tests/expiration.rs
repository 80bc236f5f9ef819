//! How long a message may live: what RabbitMQ takes, and what is refused before it is sent.

mod support;

use std::time::Duration;

use haypile::{BasicProperties, Error};
use support::{bounded, channel, exclusive_queue};

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
        // The channel is as it was, and so is the broker's limit.
        assert_eq!(channel.queue_purge(&queue).unwrap(), 2);
        let soon = publish(BasicProperties::new().expiration("soon")).unwrap_err();
        assert_eq!(soon.reply_code(), Some(406), "{soon}");
        channel.connection().close().unwrap();
    });
}
