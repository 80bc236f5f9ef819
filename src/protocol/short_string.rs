//! Short strings (specification 4.2.5.3): names, keys, and the texts among a message's properties.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use crate::escaped::Shown;

/// A name, a key, or a text among a message's properties: up to 255 bytes (AMQP 0-9-1, section 4.2.5.3), nearly always UTF-8.
///
/// It is used like a `str`, which it derefs to, and made from any text with `into()`. What another client sent need not be UTF-8,
/// a binary correlation id for instance: then the text shows U+FFFD in place of what is not, while
/// [`as_bytes`](ShortString::as_bytes), comparing, and passing the value on keep every byte (pika gives `bytes` in place of `str`
/// there). So give the value itself on, rather than its text:
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// # channel.queue_declare("from")?;
/// if let Some((method, properties, body)) = channel.basic_get("from")? {
///     println!("moving {} ({:?})", method.routing_key, properties.correlation_id.as_deref());
///     channel.basic_publish_with("moved", &method.routing_key, body, &properties)?;
/// }
/// # Ok(()) }) }
/// ```
///
/// Bytes convert too. RabbitMQ takes those that are not UTF-8 among a message's properties and as the exchange and routing key of a
/// publish. Everywhere else, as the name of a queue for instance, it would close the connection over them, so they are refused there
/// before anything is sent ([`Error::InvalidParameter`](crate::Error::InvalidParameter)).
///
/// ```
/// use haypile::{BasicProperties, ShortString};
///
/// let text = ShortString::from("order.new");
/// assert!(text == "order.new" && text.starts_with("order."));
///
/// let properties = BasicProperties::new().correlation_id([0xff, 0x00]);
/// let id = properties.correlation_id.unwrap();
/// assert_eq!((id.as_bytes(), id.as_str()), (&[0xff, 0x00][..], "\u{fffd}\0"));
/// ```
#[derive(Clone)]
pub struct ShortString(Content);

#[derive(Clone)]
enum Content {
    Text(String),
    /// Not UTF-8, which is rare: shared, so that texts are no larger for it.
    Bytes(Arc<NotUtf8>),
}

#[derive(Clone)]
struct NotUtf8 {
    bytes: Vec<u8>,
    /// The same, with U+FFFD in place of what is not UTF-8.
    shown: String,
}

impl ShortString {
    /// The text. What is not UTF-8 in it is replaced by U+FFFD; see [`as_bytes`](ShortString::as_bytes).
    ///
    /// ```
    /// use haypile::ShortString;
    ///
    /// assert_eq!(ShortString::from("tasks").as_str(), "tasks");
    /// assert_eq!(ShortString::from([b'a', 0xff]).as_str(), "a\u{fffd}");
    /// ```
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Content::Text(text) => text,
            Content::Bytes(other) => &other.shown,
        }
    }

    /// The bytes, as they came or will be sent.
    ///
    /// ```
    /// use haypile::ShortString;
    ///
    /// assert_eq!(ShortString::from([b'a', 0xff]).as_bytes(), [b'a', 0xff]);
    /// ```
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Content::Text(text) => text.as_bytes(),
            Content::Bytes(other) => &other.bytes,
        }
    }

    /// The bytes, as they came or will be sent.
    ///
    /// ```
    /// use haypile::ShortString;
    ///
    /// assert_eq!(ShortString::from("tasks").into_bytes(), b"tasks");
    /// ```
    pub fn into_bytes(self) -> Vec<u8> {
        match self.0 {
            Content::Text(text) => text.into_bytes(),
            Content::Bytes(other) => Arc::unwrap_or_clone(other).bytes,
        }
    }

    /// Whether all of it is text, so that [`as_str`](ShortString::as_str) shows every byte.
    ///
    /// ```
    /// use haypile::ShortString;
    ///
    /// assert!(ShortString::from("größe").is_utf8());
    /// assert!(!ShortString::from([0xff]).is_utf8());
    /// ```
    pub fn is_utf8(&self) -> bool {
        matches!(self.0, Content::Text(_))
    }
}

impl Deref for ShortString {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for ShortString {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

/// All bytes, those that are not UTF-8 included.
impl AsRef<[u8]> for ShortString {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Default for ShortString {
    fn default() -> Self {
        String::new().into()
    }
}

/// The text; see [`as_str`](ShortString::as_str).
impl fmt::Display for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.as_str(), f)
    }
}

/// A text like any text, and anything else as a byte string.
impl fmt::Debug for ShortString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&Shown(self.as_bytes()), f)
    }
}

// ---- comparing: by the bytes

impl PartialEq for ShortString {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for ShortString {}

impl PartialOrd for ShortString {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ShortString {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl Hash for ShortString {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

macro_rules! equal_to_text {
    ($($text:ty),+) => {$(
        impl PartialEq<$text> for ShortString {
            fn eq(&self, other: &$text) -> bool {
                self.as_bytes() == other.as_bytes()
            }
        }

        impl PartialEq<ShortString> for $text {
            fn eq(&self, other: &ShortString) -> bool {
                other == self
            }
        }
    )+};
}

equal_to_text!(str, &str, String);

// ---- converting

impl From<String> for ShortString {
    fn from(text: String) -> Self {
        ShortString(Content::Text(text))
    }
}

impl From<Vec<u8>> for ShortString {
    fn from(bytes: Vec<u8>) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(error) => {
                let bytes = error.into_bytes();
                let shown = String::from_utf8_lossy(&bytes).into_owned();
                ShortString(Content::Bytes(Arc::new(NotUtf8 { bytes, shown })))
            }
        }
    }
}

impl From<&[u8]> for ShortString {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => bytes.to_vec().into(),
        }
    }
}

impl<const N: usize> From<[u8; N]> for ShortString {
    fn from(bytes: [u8; N]) -> Self {
        bytes[..].into()
    }
}

impl<const N: usize> From<&[u8; N]> for ShortString {
    fn from(bytes: &[u8; N]) -> Self {
        bytes[..].into()
    }
}

macro_rules! from_text {
    ($($text:ty: $owned:ident),+) => {$(
        impl From<$text> for ShortString {
            fn from(text: $text) -> Self {
                text.$owned().into()
            }
        }
    )+};
}

from_text!(&str: to_owned, &String: clone, Cow<'_, str>: into_owned, Box<str>: into_string);

/// A copy, so that what came with one message can be given to another.
impl From<&ShortString> for ShortString {
    fn from(other: &ShortString) -> Self {
        other.clone()
    }
}

/// The text; see [`as_str`](ShortString::as_str).
impl From<ShortString> for String {
    fn from(text: ShortString) -> Self {
        match text.0 {
            Content::Text(text) => text,
            Content::Bytes(other) => Arc::unwrap_or_clone(other).shown,
        }
    }
}

/// The bytes; see [`as_bytes`](ShortString::as_bytes).
impl From<ShortString> for Vec<u8> {
    fn from(text: ShortString) -> Self {
        text.into_bytes()
    }
}

// ---- as an argument

/// What names an exchange, a queue, or a key in a call: any text, a [`ShortString`] that came with a message, or bytes, which must be
/// UTF-8 except in a publish.
///
/// The trait is not meant to be implemented elsewhere.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// let name = channel.queue_declare("")?.queue;   // a String
/// channel.queue_bind(&name, "amq.topic", "orders.#")?;
/// channel.basic_publish("amq.topic", b"orders.new", "7")?;
/// let (method, _properties, _body) = channel.basic_get(&name)?.unwrap();
/// channel.basic_publish("", &name, method.routing_key.as_bytes())?;
/// assert_eq!(channel.basic_get(name)?.unwrap().2, b"orders.new");
/// # Ok(()) }) }
/// ```
pub trait AsShortString: sealed::Sealed {
    #[doc(hidden)]
    fn as_short_string(&self) -> &[u8];
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! as_short_string {
    ($($type:ty: $bytes:ident),+) => {$(
        impl sealed::Sealed for $type {}

        impl AsShortString for $type {
            fn as_short_string(&self) -> &[u8] {
                self.$bytes()
            }
        }
    )+};
}

as_short_string!(str: as_bytes, String: as_bytes, ShortString: as_bytes, Cow<'_, str>: as_bytes);
as_short_string!([u8]: as_ref, Vec<u8>: as_ref);

impl<const N: usize> sealed::Sealed for [u8; N] {}

impl<const N: usize> AsShortString for [u8; N] {
    fn as_short_string(&self) -> &[u8] {
        self
    }
}

macro_rules! as_short_string_behind {
    ($($pointer:ty),+) => {$(
        impl<T: AsShortString + ?Sized> sealed::Sealed for $pointer {}

        impl<T: AsShortString + ?Sized> AsShortString for $pointer {
            fn as_short_string(&self) -> &[u8] {
                (**self).as_short_string()
            }
        }
    )+};
}

as_short_string_behind!(&T, &mut T, Box<T>, Rc<T>, Arc<T>);

#[cfg(test)]
// What is compared and borrowed here is what is tested.
#[allow(
    clippy::cmp_owned,
    clippy::needless_borrows_for_generic_args,
    clippy::nonminimal_bool
)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher;
    use std::mem::size_of;

    use super::*;

    const BINARY: [u8; 4] = [b'a', 0xff, 0xfe, b'"'];

    #[test]
    fn text_is_as_easy_as_text() {
        let text = ShortString::from("grün");
        let as_str: &str = &text;
        assert_eq!((as_str, text.len()), ("grün", 5));
        assert_eq!(Some(text.clone()).as_deref(), Some("grün"));
        let (borrowed, owned) = (&"grün", &String::from("grün"));
        assert!(text == **borrowed && text == *borrowed && text == *owned);
        assert!(**borrowed == text && *borrowed == text && *owned == text);
        assert_eq!(
            (text.to_string(), format!("{text:?}")),
            ("grün".to_owned(), "\"grün\"".to_owned())
        );
        assert_eq!(String::from(text.clone()), "grün");
        assert_eq!(format!("{:>6}", ShortString::from("x")), "     x");
        assert!(text.is_utf8());
        assert_eq!(AsRef::<str>::as_ref(&text), "grün");
        assert_eq!(AsRef::<[u8]>::as_ref(&text), "grün".as_bytes());
        let sent = crate::protocol::wire::ShortStr::from(&text);
        assert_eq!(*sent, *"grün".as_bytes());
    }

    #[test]
    fn other_bytes_are_kept_and_compared() {
        let bytes = ShortString::from(BINARY);
        assert_eq!(
            (bytes.as_bytes(), bytes.as_str()),
            (&BINARY[..], "a\u{fffd}\u{fffd}\"")
        );
        assert_eq!(format!("{bytes:?}"), r#"b"a\xff\xfe\"""#);
        assert!(!bytes.is_utf8());
        let shown = ShortString::from(bytes.as_str());
        assert!(bytes != shown && bytes != *bytes.as_str());
        assert_eq!(bytes, ShortString::from(BINARY.to_vec()));
        assert_eq!(HashSet::from([bytes.clone(), shown.clone()]).len(), 2);
        let hasher = std::hash::RandomState::new();
        assert_eq!(hasher.hash_one(&bytes), hasher.hash_one(&bytes.clone()));
        assert_ne!(hasher.hash_one(&bytes), hasher.hash_one(&shown));
        assert_eq!(ShortString::from(&BINARY), bytes);
        assert_eq!(bytes.cmp(&shown), BINARY[..].cmp(shown.as_bytes()));
        assert_eq!(bytes.into_bytes(), BINARY);
        let control = ShortString::from("\u{1b}[2J");
        assert_eq!(format!("{control:?}"), r#""\u{1b}[2J""#);
    }

    #[test]
    #[allow(clippy::needless_borrows_for_generic_args)]
    fn every_kind_of_text_is_a_name() {
        fn bytes(name: impl AsShortString) -> Vec<u8> {
            name.as_short_string().to_vec()
        }
        let owned = String::from("n");
        for name in [
            bytes("n"),
            bytes(&"n"),
            bytes(&owned),
            bytes(owned.clone()),
            bytes(Cow::from("n")),
            bytes(&Box::<str>::from("n")),
            bytes(Arc::<str>::from("n")),
            bytes(&Arc::new(owned)),
            bytes(b"n"),
            bytes(&b"n"[..]),
            bytes(ShortString::from("n")),
            bytes(Some(ShortString::from("n")).as_ref().unwrap()),
        ] {
            assert_eq!(name, b"n");
        }
        assert_eq!(bytes(&ShortString::from(BINARY)), BINARY);
    }

    #[test]
    fn it_is_no_larger_than_a_string() {
        assert_eq!(size_of::<ShortString>(), size_of::<String>());
        assert_eq!(size_of::<Option<ShortString>>(), size_of::<String>());
    }
}
