//! What errors say: lower case, without a full stop, and what the peer said escaped.

use std::fmt;
use std::time::Duration;

use super::{hints, Error, GaveUp, CANCEL_CAUSES};
use crate::escaped::Escaped;
use crate::ReturnedMessage;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Connection(failure)
            | Error::Dns(failure)
            | Error::Tls(failure)
            | Error::IncompatibleProtocol(failure)
            | Error::Authentication(failure)
            | Error::ProbableAuthentication(failure)
            | Error::ProbableAccessDenied(failure) => write!(f, "{failure}"),

            Error::StreamLost(lost) => write!(f, "{lost}"),
            Error::HeartbeatTimeout {
                address,
                heartbeat,
                silent_for,
            } => write!(
                f,
                "heartbeat timeout: nothing came from {address} for {} s, at a heartbeat of {} s",
                silent_for.as_secs(),
                heartbeat.as_secs()
            ),
            Error::ConnectionClosedByBroker {
                reply_code,
                reply_text,
                method,
                address,
                while_closing,
            } => write!(
                f,
                "connection to {address} closed by the broker: {reply_code} {}{}{}",
                Escaped(reply_text),
                Cause(*method, *reply_code, reply_text),
                WhileClosing(*while_closing)
            ),
            Error::ConnectionClosedByClient {
                reply_code,
                reply_text,
            } => write!(
                f,
                "connection closed by this program: {reply_code} {}",
                Escaped(reply_text)
            ),
            Error::ConnectionWrongState { reason, .. } => {
                write!(f, "the connection is not open: {reason}")
            }
            Error::ConnectionBlockedTimeout {
                address,
                timeout,
                reason,
            } => write!(
                f,
                "{address} blocked the connection for more than {} ({})",
                Span(*timeout),
                Escaped(reason)
            ),
            Error::NoFreeChannels { channel_max } => {
                write!(f, "no free channels: channel_max is {channel_max}, and so many are in use")
            }

            Error::ChannelClosedByBroker {
                reply_code,
                reply_text,
                channel,
                method,
            } => write!(
                f,
                "channel {channel} closed by the broker: {reply_code} {}{}",
                Escaped(reply_text),
                Cause(*method, *reply_code, reply_text)
            ),
            Error::ChannelClosedByClient {
                reply_code,
                reply_text,
                channel,
            } => write!(
                f,
                "channel {channel} closed by this program: {reply_code} {}",
                Escaped(reply_text)
            ),
            Error::MessageTooLarge { channel, size, max } => write!(
                f,
                "channel {channel} closed by this program: 311 CONTENT_TOO_LARGE - a message of {size} bytes came, where \
                 max_message_size is {max}"
            ),
            Error::ChannelWrongState {
                channel, reason, ..
            } => write!(f, "channel {channel} is not open: {reason}"),
            Error::DuplicateConsumerTag { consumer_tag } => {
                write!(f, "consumer tag {consumer_tag:?} is in use on this channel")
            }
            Error::Unroutable(returned) => write!(f, "{}", Returned("unroutable", returned)),
            Error::Nack(returned) => write!(f, "{}", Returned("refused by the broker", returned)),
            Error::Unconfirmed(report) => write!(f, "{report}"),

            Error::UnexpectedFrame { detail } => write!(f, "unexpected frame: {detail}"),
            Error::InvalidFrame(error) => write!(f, "protocol syntax: {error}"),
            Error::InvalidChannelNumber {
                number,
                problem,
                channel_max,
            } => write!(
                f,
                "channel number {number} is {problem}; 1 to {channel_max} were negotiated"
            ),
            Error::MethodNotImplemented { capability } => {
                write!(f, "the server does not support {capability}")
            }
            Error::ShortStringTooLong { field, length } => {
                write!(f, "{field} is {length} bytes long; AMQP allows 255")
            }
            Error::InvalidParameter {
                field,
                value,
                expected,
                ..
            } => write!(f, "{field}: {value} was given; {expected}"),

            Error::Reentrancy { call } => {
                write!(f, "{call} cannot be called from inside a callback")
            }
            Error::Timeout {
                waiting_for,
                after,
                channel,
                channel_closed,
                blocked,
            } => {
                if let Some(channel) = channel {
                    write!(f, "channel {channel}: ")?;
                }
                let after = Span(*after);
                write!(f, "timed out after {after} waiting for {waiting_for}")?;
                write_blocked(f, blocked.as_deref())?;
                if *channel_closed {
                    f.write_str(CLOSED_THEN)?;
                }
                Ok(())
            }
            Error::Stopped { waiting_for } => {
                write!(f, "stopped by this program while waiting for {waiting_for}")
            }
            Error::ConsumerCancelled {
                consumer_tag,
                delivery_tag,
            } => {
                let tag = Escaped(consumer_tag);
                write!(
                    f,
                    "the broker cancelled the consumer '{tag}': {CANCEL_CAUSES}"
                )?;
                match delivery_tag {
                    Some(delivery_tag) => write!(
                        f,
                        "; message {delivery_tag} was acknowledged only after that, and may have gone to another consumer"
                    ),
                    None => Ok(()),
                }
            }
            Error::Rpc(error) => write!(f, "{error}"),
            Error::GaveUp(gave_up) => write!(f, "{gave_up}"),
            Error::Other(error) => write!(f, "{error}"),
        }
    }
}

/// What a call that waited in vain has done to its channel; later calls say it again.
const CLOSED_THEN: &str =
    "; the channel was closed then, since a late reply could be taken for another";

/// Why the broker does not read what is sent to it, if it said so.
pub(crate) fn write_blocked(f: &mut fmt::Formatter<'_>, reason: Option<&str>) -> fmt::Result {
    match reason {
        Some(reason) => {
            let reason = Escaped(reason);
            write!(f, "; the broker blocks the connection ({reason})")
        }
        None => Ok(()),
    }
}

impl fmt::Display for GaveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "gave up after {} {} in {}",
            self.attempts,
            if self.attempts == 1 {
                "attempt"
            } else {
                "attempts"
            },
            Span(self.after)
        )?;
        for (n, (error, count)) in self.errors.iter().rev().enumerate() {
            write!(f, "{} {error}", if n == 0 { ":" } else { ";" })?;
            if *count > 1 {
                write!(f, " ({count} times)")?;
            }
        }
        Ok(())
    }
}

/// A time to the millisecond. `Debug` of a duration is exact to the nanosecond, and much code.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.as_secs(), self.0.subsec_millis()) {
            (0, millis) => write!(f, "{millis} ms"),
            (seconds, 0) => write!(f, "{seconds} s"),
            (seconds, millis) => write!(f, "{seconds}.{millis:03} s"),
        }
    }
}

/// What caused a closure, and what to do about it where that is known.
struct Cause<'a>(Option<&'static str>, u16, &'a str);

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cause(method, reply_code, reply_text) = self;
        if let Some(method) = method {
            write!(f, " (caused by {method})")?;
        }
        match hints::of_refusal(*reply_code, reply_text) {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// What is not known when a connection ended, and the broker had not confirmed that it is closed.
pub(crate) const FATE_UNKNOWN: &str =
    "whether the broker received what was published last is unknown";

struct WhileClosing(bool);

impl fmt::Display for WhileClosing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 {
            write!(f, "; {FATE_UNKNOWN}")?;
        }
        Ok(())
    }
}

/// How many returned messages an error text shows.
const RETURNS_SHOWN: usize = 5;

struct Returned<'a>(&'static str, &'a [ReturnedMessage]);

impl fmt::Display for Returned<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Returned(what, messages) = self;
        f.write_str(what)?;
        for ReturnedMessage { method, .. } in messages.iter().take(RETURNS_SHOWN) {
            write!(
                f,
                ": {} {} (exchange {:?}, routing key {:?})",
                method.reply_code,
                Escaped(&method.reply_text),
                method.exchange,
                method.routing_key
            )?;
        }
        match messages.len().checked_sub(RETURNS_SHOWN) {
            Some(more @ 1..) => write!(f, "; and {more} more"),
            _ => Ok(()),
        }
    }
}
