#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod channel;
mod connection;
mod consumer;
mod credentials;
mod dispatch;
mod error;
mod escaped;
pub mod guide;
#[cfg(feature = "unstable-internals")]
#[doc(hidden)]
pub mod internals;
mod io;
mod messages;
mod parameters;
mod protocol;
mod publisher;
mod recovery;
mod requests;
mod rpc;
mod stop;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "tls")]
mod tls;
mod url;

pub mod field_table {
    //! The iterators of [`FieldTable`](crate::FieldTable).
    pub use crate::protocol::field_table::{IntoIter, Iter, Keys};
}

pub use channel::Channel;
pub use connection::Connection;
pub use consumer::{Messages, MessagesOrIdle};
pub use credentials::{AmqPlainCredentials, Credentials, ExternalCredentials, PlainCredentials};
pub use dispatch::{CallbackResult, TimerId};
pub use error::{
    Attempt, ConnectFailure, Error, GaveUp, Result, RpcError, Stage, StreamLost, SyntaxError,
};
pub use io::stream::Stream;
pub use messages::{
    ConsumingEnded, Deliver, GetOk, Message, QueueDeclareOk, Return, ReturnedMessage, Unconfirmed,
    UnconfirmedReport,
};
pub use parameters::{ConnectionParameters, Heartbeat, IntoParameters, TcpOptions};
pub use protocol::{
    AsShortString, BasicProperties, DeliveryMode, FieldTable, FieldValue, IntoExpiration,
    IntoTimestamp, ReceivedNumber, ShortString,
};
pub use publisher::Publisher;
pub use recovery::{ReliablePublisher, Retry, Supervisor, SupervisorEvent};
pub use requests::{
    BasicAck, BasicConsume, BasicGet, BasicNack, BasicPublish, BasicQos, BasicReject, Consume,
    ExchangeDeclare, ExchangeDelete, ExchangeType, QueueDeclare, QueueDelete,
};
pub use rpc::{RpcCall, RpcClient, RpcReply, RpcServer};
pub use stop::Stop;
#[cfg(feature = "tls")]
pub use tls::TlsOptions;
