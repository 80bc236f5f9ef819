//! The error that a server of remote procedure calls replied with.

use std::fmt;

use crate::escaped::Escaped;

/// What a server replied in place of a result: [`Error::Rpc`](crate::Error::Rpc).
///
/// A handler of an [`RpcServer`](crate::RpcServer) may return one, to say which kind of error it is; any other error has the kind `error`.
///
/// On the wire it is a reply with the header `rpc-error`, whose value is the kind, and the message as the body; so clients and
/// servers in other languages can take part. In Python: `BasicProperties(headers={'rpc-error': 'bad-request'}, …)`.
///
/// ```
/// use haypile::RpcError;
///
/// fn half(body: &[u8]) -> Result<String, RpcError> {
///     let text = std::str::from_utf8(body).map_err(|error| RpcError::new("bad-request", error))?;
///     let number: i64 = text.trim().parse().map_err(|error| RpcError::new("bad-request", error))?;
///     Ok((number / 2).to_string())
/// }
/// assert_eq!(half(b"42").unwrap(), "21");
/// assert_eq!(half(b"x").unwrap_err().kind, "bad-request");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RpcError {
    /// A word that a program can compare: `error` unless the handler said otherwise, `panic` if it panicked.
    pub kind: String,
    /// What happened, for people.
    pub message: String,
}

impl RpcError {
    /// An error of a kind of the program's own. At most 255 bytes of the kind are sent.
    ///
    /// ```
    /// use haypile::RpcError;
    ///
    /// let error = RpcError::new("bad-request", "not a number");
    /// assert_eq!((&*error.kind, &*error.message), ("bad-request", "not a number"));
    /// ```
    pub fn new(kind: impl Into<String>, message: impl fmt::Display) -> Self {
        RpcError {
            kind: kind.into(),
            message: message.to_string(),
        }
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, message) = (Escaped(&self.kind), Escaped(&self.message));
        write!(f, "the server replied with an error ({kind}): {message}")
    }
}

impl std::error::Error for RpcError {}
