//! Names as they came: bytes, nearly always UTF-8.

use std::borrow::Borrow;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::protocol::wire::Name;

/// The name of an exchange, a queue, a consumer, a user …, or a routing key. Clones share the bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Text(Arc<[u8]>);

impl Text {
    /// Without the line breaks, which RabbitMQ takes out of names.
    pub(super) fn without_line_breaks(name: Name<'_>) -> Text {
        if name.iter().any(|byte| matches!(byte, b'\r' | b'\n')) {
            let kept: Vec<u8> = name
                .iter()
                .copied()
                .filter(|byte| !matches!(byte, b'\r' | b'\n'))
                .collect();
            return Text(kept.into());
        }
        name.into()
    }

    /// As it stands in a method.
    pub(super) fn name(&self) -> Name<'_> {
        (&*self.0).into()
    }
}

impl From<&[u8]> for Text {
    fn from(bytes: &[u8]) -> Self {
        Text(bytes.into())
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl From<Name<'_>> for Text {
    fn from(name: Name<'_>) -> Self {
        (&*name).into()
    }
}

impl Deref for Text {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Text {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}
