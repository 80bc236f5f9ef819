//! Pika's exceptions, and what matches them here.
//!
//! Where pika raises, haypile returns an [`Error`](crate::Error). Its variants bear pika's names without the suffix, so that what
//! you searched for before is found here as well. Most programs need no `match`:
//!
//! | question | pika | haypile |
//! | --- | --- | --- |
//! | is the connection gone? | `except AMQPConnectionError` | [`is_connection_error()`](crate::Error::is_connection_error) |
//! | is it only the channel? | `except AMQPChannelError` | [`is_channel_error()`](crate::Error::is_channel_error) |
//! | can trying again help? | | [`is_retryable()`](crate::Error::is_retryable) |
//! | which code did the broker give? | `e.reply_code` | [`reply_code()`](crate::Error::reply_code) |
//! | which host was it? | `e.host`, `e.port` | [`address()`](crate::Error::address) |
//! | what was behind it? | `e.__cause__` | [`source()`](std::error::Error::source) |
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::{Connection, Error, QueueDeclare};
//!
//! let connection = Connection::open(url)?;
//! let channel = connection.channel()?;
//! channel.queue_declare(QueueDeclare::new("tasks").durable(true))?;
//!
//! // Another declaration of the same queue: the broker closes the channel with 406.
//! match channel.queue_declare("tasks") {
//!     Err(Error::ChannelClosedByBroker { reply_code: 406, reply_text, .. }) => {
//!         assert!(reply_text.contains("inequivalent arg 'durable'"));
//!     }
//!     other => panic!("{other:?}"),
//! }
//!
//! // The connection is still open, and the next channel works.
//! let channel = connection.channel()?;
//! channel.basic_publish("", "tasks", "dig")?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # One by one
//!
//! | pika | haypile | where the meaning differs |
//! | --- | --- | --- |
//! | `AMQPError` | [`Error`](crate::Error) | |
//! | `AMQPConnectionError` | [`Error::Connection`](crate::Error::Connection) | the error lists every attempt, how far it came, and a hint |
//! | `socket.gaierror` | [`Error::Dns`](crate::Error::Dns) | pika lets the foreign exception through |
//! | `ssl.SSLError` | [`Error::Tls`](crate::Error::Tls) | likewise |
//! | `IncompatibleProtocolError`, `ProtocolVersionMismatch` | [`Error::IncompatibleProtocol`](crate::Error::IncompatibleProtocol) | |
//! | `AuthenticationError` | [`Error::Authentication`](crate::Error::Authentication) | no mechanism in common |
//! | `ProbableAuthenticationError` | [`Error::ProbableAuthentication`](crate::Error::ProbableAuthentication) | a refused login |
//! | `ProbableAccessDeniedError` | [`Error::ProbableAccessDenied`](crate::Error::ProbableAccessDenied) | a refused or unknown virtual host |
//! | `StreamLostError` | [`Error::StreamLost`](crate::Error::StreamLost) | |
//! | `AMQPHeartbeatTimeout` | [`Error::HeartbeatTimeout`](crate::Error::HeartbeatTimeout) | never because of a long callback |
//! | `ConnectionClosedByBroker` | [`Error::ConnectionClosedByBroker`](crate::Error::ConnectionClosedByBroker) | the text says what to do, where that is known |
//! | `ConnectionClosedByClient` | [`Error::ConnectionClosedByClient`](crate::Error::ConnectionClosedByClient) | another thread closed it during the call |
//! | `ConnectionWrongStateError` | [`Error::ConnectionWrongState`](crate::Error::ConnectionWrongState) | see below |
//! | `ConnectionBlockedTimeout` | [`Error::ConnectionBlockedTimeout`](crate::Error::ConnectionBlockedTimeout) | |
//! | `NoFreeChannels` | [`Error::NoFreeChannels`](crate::Error::NoFreeChannels) | no `AMQPConnectionError`: the connection is fine |
//! | `ChannelClosedByBroker` | [`Error::ChannelClosedByBroker`](crate::Error::ChannelClosedByBroker) | repeated by each later call on this channel, and by none on another |
//! | `ChannelClosedByClient` | [`Error::ChannelClosedByClient`](crate::Error::ChannelClosedByClient) | |
//! | `ChannelWrongStateError` | [`Error::ChannelWrongState`](crate::Error::ChannelWrongState) | see below |
//! | `DuplicateConsumerTag` | [`Error::DuplicateConsumerTag`](crate::Error::DuplicateConsumerTag) | |
//! | `ConsumerCancelled` | [`ConsumingEnded::CancelledByBroker`](crate::ConsumingEnded::CancelledByBroker) | what `start_consuming` returns, and no error; the loop over `consume` ends without one, too. But [`Error::ConsumerCancelled`](crate::Error::ConsumerCancelled) is what an acknowledgement returns that comes after it, where pika says nothing |
//! | `UnroutableError` | [`Error::Unroutable`](crate::Error::Unroutable) | |
//! | `NackError` | [`Error::Nack`](crate::Error::Nack) | |
//! | `UnexpectedFrameError` | [`Error::UnexpectedFrame`](crate::Error::UnexpectedFrame) | |
//! | `InvalidFrameError`, `BodyTooLongError`, `InvalidFieldTypeException` | [`Error::InvalidFrame`](crate::Error::InvalidFrame) | what the peer sent |
//! | `UnsupportedAMQPFieldException`, `ValueError`, `TypeError` | [`Error::InvalidParameter`](crate::Error::InvalidParameter) | what the program gave; nothing was sent |
//! | `ShortStringTooLong` | [`Error::ShortStringTooLong`](crate::Error::ShortStringTooLong) | |
//! | `InvalidChannelNumber` | [`Error::InvalidChannelNumber`](crate::Error::InvalidChannelNumber) | |
//! | `MethodNotImplementedError` | [`Error::MethodNotImplemented`](crate::Error::MethodNotImplemented) | |
//! | `ReentrancyError` | [`Error::Reentrancy`](crate::Error::Reentrancy) | |
//!
//! Errors that pika does not have: [`Timeout`](crate::Error::Timeout) (each wait for the broker has a deadline),
//! [`MessageTooLarge`](crate::Error::MessageTooLarge), [`Unconfirmed`](crate::Error::Unconfirmed) (of a
//! [`Publisher`](crate::Publisher)), [`Stopped`](crate::Error::Stopped) (by a [`Stop`](crate::Stop)),
//! [`GaveUp`](crate::Error::GaveUp) (of a [`Supervisor`](crate::Supervisor)), [`Rpc`](crate::Error::Rpc) (a server's own error),
//! and [`Other`](crate::Error::Other): an error of your own on its way out of a callback.
//!
//! # After a loss
//!
//! In pika the call that meets a loss raises `StreamLostError`, and each later one `ChannelWrongStateError`, which says nothing of
//! why. Here **the cause is repeated**: each later call on a channel fails with the very error that ended the channel or the
//! connection. Calls on the connection fail with [`Error::ConnectionWrongState`](crate::Error::ConnectionWrongState), whose text
//! and `cause` are that error. `ChannelWrongState` is left for a channel that this program closed. So code that tells the first
//! failure from later ones by the type should ask [`Connection::is_open`](crate::Connection::is_open) or the predicates above.
//!
//! `is_open` turns false as soon as the broker's close has come, while pika finds out in its next call. So the habit of pika's programs,
//! to ask `channel.is_open` before each publish and to take another channel if it is not, **passes over the error** here: what
//! closed the channel, such as a missing exchange, would have come out of the call that is not made. It is in the log then, as a
//! warning. To have it, make the call, and take another channel when it fails:
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::Connection;
//!
//! let connection = Connection::open(url)?;
//! let mut channel = connection.channel()?;
//! channel.basic_publish("no such exchange", "key", "one")?; // handed over; the broker closes the channel
//! # while channel.is_open() { std::thread::yield_now(); }
//!
//! if let Err(error) = channel.basic_publish("", "tasks", "two") {
//!     eprintln!("{error}"); // ... 404 NOT_FOUND - no exchange 'no such exchange' ...
//! #   assert_eq!(error.reply_code(), Some(404));
//!     if !error.is_channel_error() {
//!         return Err(error);
//!     }
//!     channel = connection.channel()?;
//!     channel.basic_publish("", "tasks", "two")?;
//! }
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! Only a confirm shows whether "one" has arrived: see [publishing](super::publishing).
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::Connection;
//!
//! let connection = Connection::open(url)?;
//! let channel = connection.channel()?;
//! broker.connections()[0].cut();
//!
//! let first = channel.queue_declare("tasks").unwrap_err();
//! let second = channel.queue_declare("tasks").unwrap_err();
//! assert!(first.is_connection_error() && second.is_connection_error());
//! assert!(first.is_retryable() && second.is_retryable());
//! assert!(connection.is_closed());
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # In callbacks
//!
//! A callback returns nothing or a [`Result`](crate::Result). Its error comes out of `start_consuming` or `process_data_events`, as an
//! exception does in pika: consumers, channel and connection stay as they are, and the next call goes on. The common errors of
//! the standard library (of input and output, UTF-8, parsing) and boxed ones convert by `?`; others, such as `serde_json`'s, by
//! `.map_err(haypile::Error::other)?` ([`Error::other`](crate::Error::other)).
