//! Which errors may pass. The table is in DESIGN.md, "Errors, and whether to try again".

use super::Error;

impl Error {
    /// Whether trying again, on a fresh connection and after a while, can help.
    ///
    /// Yes for what may pass: a connection that was lost or could not be made, a handshake that was cut, a broker that shuts
    /// down (320) or has trouble of its own (506, 541), a queue that another connection holds (405), whatever took too long, a
    /// message that the broker refused ([`Error::Nack`]). No for what will be the same next time: a refused login, an unknown
    /// virtual host, a wrong argument, what the broker refuses for good (402, 403, 404, 406 and other codes), and
    /// what this program did or said itself: its own `close`, and errors of its own that came out of a callback.
    ///
    /// What a call on a closed connection returns ([`Error::ConnectionWrongState`]) is retryable if what closed it is, and
    /// [`Error::Unconfirmed`] if its cause is; without a cause, if any message was refused or has no confirmation. An error of the
    /// program's own ([`Error::Other`]) is retryable if an error of this crate is among its sources and is.
    ///
    /// ```
    /// use haypile::{Connection, Error};
    ///
    /// fn connect() -> haypile::Result<Connection> {
    ///     let mut pause = std::time::Duration::from_millis(200);
    ///     for _ in 0..5 {
    ///         match Connection::open("amqp://localhost") {
    ///             Err(error) if error.is_retryable() => std::thread::sleep(pause),
    ///             done => return done,
    ///         }
    ///         pause *= 2;
    ///     }
    ///     Connection::open("amqp://localhost")
    /// }
    /// # let refused = Connection::open("amqp://127.0.0.1:1").unwrap_err();
    /// # assert!(refused.is_retryable());
    /// ```
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Connection(failure)
            | Error::Dns(failure)
            | Error::Tls(failure)
            | Error::IncompatibleProtocol(failure)
            | Error::Authentication(failure)
            | Error::ProbableAuthentication(failure)
            | Error::ProbableAccessDenied(failure) => failure.retryable,

            Error::StreamLost(_)
            | Error::HeartbeatTimeout { .. }
            | Error::ConnectionBlockedTimeout { .. }
            | Error::UnexpectedFrame { .. }
            | Error::InvalidFrame(_)
            | Error::Timeout { .. }
            | Error::ConsumerCancelled { .. }
            | Error::Nack(_) => true,

            Error::ConnectionClosedByBroker {
                reply_code,
                reply_text,
                ..
            }
            | Error::ChannelClosedByBroker {
                reply_code,
                reply_text,
                ..
            } => may_pass(*reply_code, reply_text),

            Error::ConnectionWrongState { cause, .. } => {
                cause.as_ref().is_some_and(|cause| cause.is_retryable())
            }
            Error::Unconfirmed(report) => match &report.cause {
                Some(cause) => cause.is_retryable(),
                None => !report.nacked.is_empty() || !report.pending.is_empty(),
            },
            Error::Other(error) => {
                let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
                while let Some(error) = next {
                    if let Some(error) = error.downcast_ref::<Error>() {
                        return error.is_retryable();
                    }
                    next = error.source();
                }
                false
            }

            Error::ConnectionClosedByClient { .. }
            | Error::ChannelClosedByClient { .. }
            | Error::MessageTooLarge { .. }
            | Error::ChannelWrongState { .. }
            | Error::NoFreeChannels { .. }
            | Error::DuplicateConsumerTag { .. }
            | Error::Unroutable(_)
            | Error::InvalidChannelNumber { .. }
            | Error::MethodNotImplemented { .. }
            | Error::ShortStringTooLong { .. }
            | Error::InvalidParameter { .. }
            | Error::Reentrancy { .. }
            | Error::Stopped { .. }
            | Error::Rpc(_)
            | Error::GaveUp(_) => false,
        }
    }
}

/// Whether what the broker says with this code may be otherwise a little later.
pub(super) fn may_pass(reply_code: u16, reply_text: &str) -> bool {
    let says = |part| reply_text.contains(part);
    match reply_code {
        // RabbitMQ also says 541 to features that it has no more.
        541 => !says("deprecated"),
        // REPLY_SUCCESS, CONNECTION_FORCED, RESOURCE_LOCKED, RESOURCE_ERROR
        200 | 320 | 405 | 506 => true,
        // Another consumer has the queue for itself, as one's own lost connection may have until the broker notices.
        403 => says("in exclusive use"),
        // The queue is there, and its node is not.
        404 => says("down or inaccessible") || says("due to timeout"),
        // So many connections or channels of a user or a virtual host.
        530 => says("limit ("),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_codes_and_texts_are_retryable_or_not() {
        for (reply_code, reply_text, passes) in [
            (200, "Goodbye", true),
            (311, "CONTENT_TOO_LARGE", false),
            (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", true),
            (403, "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'u'", false),
            (403, "ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", true),
            (404, "NOT_FOUND - no queue 'q' in vhost '/'", false),
            (404, "NOT_FOUND - home node 'rabbit@a' of durable queue 'q' in vhost '/' is down or inaccessible", true),
            (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'", true),
            (406, "PRECONDITION_FAILED - inequivalent arg 'durable'", false),
            (501, "FRAME_ERROR", false),
            (504, "CHANNEL_ERROR - expected 'channel.open'", false),
            (530, "NOT_ALLOWED - vhost nowhere not found", false),
            (530, "NOT_ALLOWED - access to vhost '/' refused for user 'u': connection limit (1) is reached", true),
            (540, "NOT_IMPLEMENTED", false),
            (541, "INTERNAL_ERROR", true),
            (541, "INTERNAL_ERROR - Feature `transient_nonexcl_queues` is deprecated.", false),
        ] {
            assert_eq!(may_pass(reply_code, reply_text), passes, "{reply_text}");
        }
    }

    #[test]
    fn every_error_stands_in_the_table() {
        let design = include_str!("../../DESIGN.md");
        let (_, table) = design.split_once("## Errors, and whether").unwrap();
        let (table, _) = table.split_once("## Coming back").unwrap();
        let (_, kinds) = include_str!("../error.rs")
            .split_once("fn kind(&self)")
            .unwrap();
        let (kinds, _) = kinds.split_once("    }\n\n").unwrap();
        let names: Vec<&str> = kinds.split('"').skip(1).step_by(2).collect();
        assert!(names.len() > 30);
        for name in names {
            assert!(table.contains(&format!("`{name}`")), "{name}");
        }
    }
}
