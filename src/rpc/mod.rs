//! Remote procedure calls over queues. See DESIGN.md, "Remote procedure calls".

mod client;
mod reply_to;
mod server;

use std::fmt;

pub use client::{RpcCall, RpcClient};
pub use server::RpcServer;

use crate::escaped::Shown;
use crate::BasicProperties;

/// The header that makes a reply an error: its value is the kind, and the body is the text.
const ERROR_HEADER: &str = "rpc-error";

/// A reply: what a handler of an [`RpcServer`] returns, and a call of an [`RpcClient`] gets.
///
/// A body alone converts, and so do properties with a body:
///
/// ```
/// use haypile::{BasicProperties, RpcReply};
///
/// assert_eq!(RpcReply::from("42").body, b"42");
/// let json = RpcReply::from((BasicProperties::new().content_type("application/json"), r#"{"n": 42}"#));
/// assert_eq!(json.properties.content_type.as_deref(), Some("application/json"));
/// ```
#[derive(Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct RpcReply {
    /// The reply's properties. The server sets the correlation id.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Vec<u8>,
}

/// The body reads as text if it is one, and is cut if it is long.
impl fmt::Debug for RpcReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcReply")
            .field("properties", &self.properties)
            .field("body", &Shown(&self.body))
            .finish()
    }
}

macro_rules! bodies {
    ($($body:ty),+) => {$(
        impl From<$body> for RpcReply {
            fn from(body: $body) -> Self {
                RpcReply {
                    properties: BasicProperties::new(),
                    body: body.into(),
                }
            }
        }
    )+};
}

bodies!(&str, String, &[u8], Vec<u8>);

/// An empty body: done.
impl From<()> for RpcReply {
    fn from((): ()) -> Self {
        RpcReply::default()
    }
}

impl<B: Into<Vec<u8>>> From<(BasicProperties, B)> for RpcReply {
    fn from((properties, body): (BasicProperties, B)) -> Self {
        RpcReply {
            properties,
            body: body.into(),
        }
    }
}
