//! Which ends of a connection are mended by running the set-up again.

use crate::error::Result;
use crate::{Connection, ConsumingEnded, Error};

/// The loss that ended a run of the set-up which returned `result`, if running it again can mend that. `has_worked`: the set-up
/// was once at work for long, or had a consumer that the broker cancelled, so what it uses did exist.
pub(super) fn loss(
    connection: &Connection,
    has_worked: bool,
    result: &Result<ConsumingEnded>,
) -> Option<Error> {
    match result {
        Ok(ConsumingEnded::CancelledByBroker { consumer_tag, .. }) => {
            Some(Error::ConsumerCancelled {
                consumer_tag: consumer_tag.clone(),
                delivery_tag: None,
            })
        }
        Ok(ConsumingEnded::Cancelled) => {
            connection
                .iterator_cancelled_by_broker()
                .map(|consumer_tag| Error::ConsumerCancelled {
                    consumer_tag,
                    delivery_tag: None,
                })
        }
        Ok(_) => None,
        Err(error) => Some(cause(connection, error))
            .filter(|cause| cause.is_retryable() || may_come_back(cause, has_worked)),
    }
}

/// What an error comes from: after the end of a connection many calls report only that something is not open.
fn cause(connection: &Connection, error: &Error) -> Error {
    match error {
        Error::ConnectionWrongState { .. }
        | Error::ChannelWrongState { .. }
        | Error::ConnectionClosedByClient { .. } => connection.end(),
        _ => None,
    }
    .unwrap_or_else(|| error.clone())
}

/// Whether a missing queue or exchange may be there a little later: it was, before.
fn may_come_back(error: &Error, has_worked: bool) -> bool {
    has_worked
        && matches!(error, Error::ChannelClosedByBroker { .. })
        && error.reply_code() == Some(404)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(reply_code: u16, reply_text: &str) -> Error {
        Error::ChannelClosedByBroker {
            reply_code,
            reply_text: reply_text.into(),
            channel: 1,
            method: None,
        }
    }

    #[test]
    fn what_was_there_before_may_come_back() {
        let missing = closed(404, "NOT_FOUND - no queue 'q' in vhost '/'");
        assert!(!may_come_back(&missing, false));
        assert!(may_come_back(&missing, true));
        for refused in [
            closed(403, "ACCESS_REFUSED"),
            closed(406, "PRECONDITION_FAILED"),
        ] {
            assert!(!may_come_back(&refused, true));
        }
    }
}
