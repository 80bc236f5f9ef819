//! Exchanges, bindings, and where a message goes.

use super::refusal::{refuse, Binary, Outcome};
use super::text::Text;
use crate::{FieldTable, FieldValue};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Kind {
    pub(super) fn from_name(name: &[u8]) -> Option<Kind> {
        Some(match name {
            b"direct" => Kind::Direct,
            b"fanout" => Kind::Fanout,
            b"topic" => Kind::Topic,
            b"headers" => Kind::Headers,
            _ => return None,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Direct => "direct",
            Kind::Fanout => "fanout",
            Kind::Topic => "topic",
            Kind::Headers => "headers",
        }
    }
}

pub(super) struct Exchange {
    pub(super) name: Text,
    pub(super) kind: Kind,
    pub(super) durable: bool,
    pub(super) auto_delete: bool,
    pub(super) internal: bool,
    pub(super) arguments: FieldTable,
    /// Where messages go that no binding takes.
    pub(super) alternate: Option<Text>,
    pub(super) bindings: Vec<Binding>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Destination {
    Queue(Text),
    Exchange(Text),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Binding {
    pub(super) destination: Destination,
    pub(super) key: Text,
    pub(super) arguments: FieldTable,
}

/// What a message is routed by.
pub(super) struct Route<'a> {
    /// The routing key, and those in the headers `CC` and `BCC`.
    pub(super) keys: &'a [Text],
    pub(super) headers: Option<&'a FieldTable>,
}

impl Exchange {
    pub(super) fn new(name: &str, kind: Kind) -> Exchange {
        Exchange {
            name: name.into(),
            kind,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments: FieldTable::new(),
            alternate: None,
            bindings: Vec::new(),
        }
    }

    /// The destinations of a message, as often as a binding takes it.
    pub(super) fn matches<'a>(
        &'a self,
        route: &'a Route<'_>,
    ) -> impl Iterator<Item = &'a Destination> {
        self.bindings
            .iter()
            .filter(move |binding| match self.kind {
                Kind::Direct => route.keys.contains(&binding.key),
                Kind::Fanout => true,
                Kind::Topic => route.keys.iter().any(|key| topic(&binding.key, key)),
                Kind::Headers => headers(&binding.arguments, route.headers),
            })
            .map(|binding| &binding.destination)
    }

    /// Refuses arguments of a binding that this exchange could not route by.
    pub(super) fn check_binding(&self, arguments: &FieldTable) -> Outcome {
        if self.kind != Kind::Headers {
            return Ok(());
        }
        match arguments.get("x-match") {
            None => Ok(()),
            Some(FieldValue::Text(how)) => match &how[..] {
                b"all" | b"any" | b"all-with-x" | b"any-with-x" => Ok(()),
                other => refuse!(
                    406,
                    "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
                    Binary(other)
                ),
            },
            Some(other) => refuse!(
                406,
                "Invalid x-match field type {} (value {}); expected longstr",
                super::arguments::type_name(other),
                super::arguments::Printed(other)
            ),
        }
    }
}

/// Whether a topic exchange's pattern takes a routing key: words between dots, `*` for one word, `#` for any number.
fn topic(pattern: &[u8], key: &[u8]) -> bool {
    let pattern: Vec<&[u8]> = words(pattern);
    let key = words(key);
    // Where the last `#` stood, and what it has taken so far: enough to go back to, since an earlier one could take no less.
    let (mut at, mut word) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while word < key.len() {
        match pattern.get(at) {
            Some(&b"#") => {
                back = Some((at, word));
                at += 1;
            }
            Some(wanted) if *wanted == b"*" || *wanted == key[word] => {
                at += 1;
                word += 1;
            }
            _ => match back {
                Some((hash, taken)) => {
                    back = Some((hash, taken + 1));
                    at = hash + 1;
                    word = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|word| *word == b"#")
}

/// No words at all if there is no text, as in RabbitMQ.
fn words(text: &[u8]) -> Vec<&[u8]> {
    if text.is_empty() {
        return Vec::new();
    }
    text.split(|byte| *byte == b'.').collect()
}

/// Whether a headers exchange's binding takes a message.
fn headers(arguments: &FieldTable, headers: Option<&FieldTable>) -> bool {
    let how = arguments
        .get("x-match")
        .and_then(FieldValue::as_bytes)
        .unwrap_or(b"all");
    let any = how.starts_with(b"any");
    let with_x = how.ends_with(b"-with-x");
    let mut wanted = arguments.iter().filter(|(key, _)| {
        let key = key.as_bytes();
        key != b"x-match" && (with_x || !key.starts_with(b"x-"))
    });
    let mut met = |(key, value): (_, &FieldValue)| {
        let found = headers.and_then(|headers| headers.get(key));
        match (value, found) {
            (_, None) => false,
            (FieldValue::Void, Some(_)) => true,
            (value, Some(found)) => same(value, found),
        }
    };
    if any {
        wanted.any(&mut met)
    } else {
        wanted.all(&mut met)
    }
}

/// Whether a header has the value that a binding names. Integers are compared whatever their width.
fn same(wanted: &FieldValue, found: &FieldValue) -> bool {
    // RabbitMQ routes by the milliseconds of a time among the headers, but takes a binding's argument as it is.
    if let FieldValue::Timestamp(seconds) = found {
        let milliseconds = seconds.checked_mul(1000);
        return milliseconds.is_some() && wanted.as_u64() == milliseconds;
    }
    match (wanted, found) {
        (FieldValue::Text(_) | FieldValue::Bytes(_), _) => wanted.as_bytes() == found.as_bytes(),
        (FieldValue::F32(_) | FieldValue::F64(_), _) => {
            found.as_f64().is_some() && wanted.as_f64() == found.as_f64()
        }
        _ => match (wanted.as_i64(), found.as_i64()) {
            (Some(wanted), Some(found)) => wanted == found,
            _ => wanted == found,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_match_word_by_word() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("a.#", "a", true),
            ("a.#", "a.b.c", true),
            ("#", "", true),
            ("#", "a.b", true),
            ("*", "", false),
            ("", "", true),
            ("#.c", "a.b.c", true),
            ("#.b.#.c", "a.b.b.c", true),
            ("#.b.*", "b.b.b.a", true),
            ("*.#", "a", true),
            ("a.#.#", "a", true),
            ("a..b", "a..b", true),
            ("a.*.b", "a..b", true),
        ] {
            let matched = topic(pattern.as_bytes(), key.as_bytes());
            assert_eq!(matched, expected, "{pattern} {key}");
        }
    }
}
