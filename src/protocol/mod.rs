//! Bytes to values and back, and the rules of AMQP 0-9-1.
//!
//! Nothing here asks the time, waits, locks or touches a socket, so every rule can be tested with bytes alone.

pub(crate) mod acks;
pub(crate) mod calls;
pub(crate) mod channel;
pub(crate) mod confirms;
pub(crate) mod connection;
pub(crate) mod consumers;
pub(crate) mod field_table;
pub(crate) mod field_value;
pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod heartbeat;
mod held;
pub(crate) mod method;
pub(crate) mod properties;
pub(crate) mod publish;
pub(crate) mod received;
pub(crate) mod replies;
pub(crate) mod send_queue;
#[cfg(feature = "serde")]
pub(crate) mod serialize;
pub(crate) mod short_string;
pub(crate) mod size;
pub(crate) mod skim;
pub(crate) mod wire;

#[cfg(any(test, feature = "unstable-internals"))]
pub(crate) mod exercise;
#[cfg(test)]
mod tests;

pub use field_table::FieldTable;
pub use field_value::{FieldValue, ReceivedNumber};
pub use properties::{BasicProperties, DeliveryMode, IntoExpiration, IntoTimestamp};
pub use short_string::{AsShortString, ShortString};
pub(crate) use wire::WireError;
