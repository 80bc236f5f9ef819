//! The arguments of a declaration: which are taken, what they mean, and when two declarations are the same.

use std::fmt;
use std::time::Duration;

use super::refusal::{refuse, Binary, Outcome};
use super::text::shown;
use crate::{FieldTable, FieldValue};

/// The highest that `x-max-priority` may be.
const PRIORITY_MAX: i64 = 255;

/// Ten years, in milliseconds: the longest time that a message or a queue may live.
const EXPIRY_MAX: i64 = 315_360_000_000;

/// What happens to a message for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Overflow {
    #[default]
    DropHead,
    Reject,
    RejectAndDeadLetter,
}

/// What a queue's arguments come to.
#[derive(Debug, Clone, Default)]
pub(super) struct QueueSettings {
    pub(super) expires: Option<Duration>,
    pub(super) message_ttl: Option<Duration>,
    pub(super) dead_letter_exchange: Option<Vec<u8>>,
    pub(super) dead_letter_key: Option<Vec<u8>>,
    pub(super) max_length: Option<u64>,
    pub(super) max_bytes: Option<u64>,
    pub(super) max_priority: Option<u8>,
    pub(super) overflow: Overflow,
    pub(super) single_active_consumer: bool,
}

/// The arguments of classic queues that a second declaration must repeat, in the order in which RabbitMQ compares them.
const COMPARED: &[&str] = &[
    "x-expires",
    "x-message-ttl",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-max-length",
    "x-max-length-bytes",
    "x-max-priority",
    "x-overflow",
    "x-queue-mode",
    "x-queue-version",
    "x-single-active-consumer",
    "x-queue-type",
    "x-queue-master-locator",
    "x-queue-leader-locator",
];

/// Arguments that only quorum queues and streams have.
const FOREIGN: &[&str] = &[
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-max-in-memory-length",
    "x-max-in-memory-bytes",
    "x-quorum-initial-group-size",
    "x-quorum-target-group-size",
    "x-max-age",
    "x-stream-max-segment-size-bytes",
    "x-stream-filter-size-bytes",
    "x-initial-cluster-size",
    "x-consumer-timeout",
    "x-consumer-disconnected-timeout",
];

/// Reads the arguments of `queue.declare`; `queue` is its name in the text of a refusal.
pub(super) fn queue_settings(
    arguments: &FieldTable,
    queue: &dyn fmt::Display,
) -> Outcome<QueueSettings> {
    if let Some(value) = arguments.get("x-dead-letter-exchange") {
        if !matches!(value, FieldValue::Text(_)) {
            let kind = type_name(value);
            refuse!(
                406,
                "invalid type '{kind}' for arg 'x-dead-letter-exchange' in {queue}"
            );
        }
    }
    check_queue_type(arguments, queue)?;
    let read = Reading { arguments, queue };
    let settings = QueueSettings {
        expires: read.time("x-expires", false)?,
        message_ttl: read.time("x-message-ttl", true)?,
        dead_letter_exchange: read.text("x-dead-letter-exchange")?,
        dead_letter_key: read.dead_letter_key()?,
        max_length: read.natural("x-max-length")?,
        max_bytes: read.natural("x-max-length-bytes")?,
        max_priority: read.priority()?,
        overflow: read.overflow()?,
        single_active_consumer: read.boolean("x-single-active-consumer")?,
    };
    if let Some(key) = FOREIGN.iter().find(|key| arguments.contains_key(**key)) {
        refuse!(
            406,
            "invalid arg '{key}' for {queue} of queue type rabbit_classic_queue"
        );
    }
    Ok(settings)
}

fn check_queue_type(arguments: &FieldTable, queue: &dyn fmt::Display) -> Outcome {
    match arguments.get("x-queue-type") {
        None => Ok(()),
        Some(FieldValue::Text(kind)) => match &kind[..] {
            b"classic" => Ok(()),
            b"quorum" | b"stream" => refuse!(
                540,
                "the broker for tests has no queues of type '{}'",
                shown(kind)
            ),
            _ => refuse!(
                406,
                "invalid arg 'x-queue-type' for {queue}: \"unsupported queue type '{}'\"",
                shown(kind)
            ),
        },
        Some(other) => refuse!(
            406,
            "invalid arg 'x-queue-type' for {queue}: {{unacceptable_type,{}}}",
            type_name(other)
        ),
    }
}

/// The priority of a consumer, from the arguments of `basic.consume`.
pub(super) fn consumer_priority(arguments: &FieldTable, queue: &dyn fmt::Display) -> Outcome<i64> {
    let read = Reading { arguments, queue };
    let priority = read.integer("x-priority")?.unwrap_or(0);
    for key in ["x-stream-offset", "x-stream-filter"] {
        if arguments.contains_key(key) {
            refuse!(
                406,
                "invalid arg '{key}' for {queue} of queue type rabbit_classic_queue"
            );
        }
    }
    Ok(priority)
}

/// The name of the alternate exchange, from the arguments of `exchange.declare`.
pub(super) fn alternate_exchange<'a>(
    arguments: &'a FieldTable,
    exchange: &dyn fmt::Display,
) -> Outcome<Option<&'a [u8]>> {
    match arguments.get("alternate-exchange") {
        None => Ok(None),
        Some(FieldValue::Text(name)) => Ok(Some(name)),
        Some(other) => refuse!(
            406,
            "invalid type '{}' for arg 'alternate-exchange' in {exchange}",
            type_name(other)
        ),
    }
}

struct Reading<'a> {
    arguments: &'a FieldTable,
    queue: &'a dyn fmt::Display,
}

impl Reading<'_> {
    fn invalid<T>(&self, key: &str, why: fmt::Arguments<'_>) -> Outcome<T> {
        refuse!(406, "invalid arg '{key}' for {}: {why}", self.queue)
    }

    fn integer(&self, key: &str) -> Outcome<Option<i64>> {
        match self.arguments.get(key) {
            None => Ok(None),
            Some(value) => match (value, value.as_i64()) {
                (FieldValue::Timestamp(_), _) | (_, None) => {
                    let kind = type_name(value);
                    self.invalid(key, format_args!("\"expected integer, got {kind}\""))
                }
                (_, number) => Ok(number),
            },
        }
    }

    fn natural(&self, key: &str) -> Outcome<Option<u64>> {
        match self.integer(key)? {
            Some(number) if number < 0 => {
                self.invalid(key, format_args!("{{value_negative,{number}}}"))
            }
            number => Ok(number.map(|number| number as u64)),
        }
    }

    fn time(&self, key: &str, may_be_zero: bool) -> Outcome<Option<Duration>> {
        match self.integer(key)? {
            None => Ok(None),
            Some(0) if !may_be_zero => self.invalid(key, format_args!("{{value_zero,0}}")),
            Some(number) => match expiry(number) {
                Ok(time) => Ok(Some(time)),
                Err(why) => self.invalid(key, format_args!("{why}")),
            },
        }
    }

    fn text(&self, key: &str) -> Outcome<Option<Vec<u8>>> {
        match self.arguments.get(key) {
            None => Ok(None),
            Some(FieldValue::Text(text)) => Ok(Some(text.clone())),
            Some(other) => self.invalid(
                key,
                format_args!("{{unacceptable_type,{}}}", type_name(other)),
            ),
        }
    }

    fn dead_letter_key(&self) -> Outcome<Option<Vec<u8>>> {
        const KEY: &str = "x-dead-letter-routing-key";
        let key = self.text(KEY)?;
        if key.is_some() && !self.arguments.contains_key("x-dead-letter-exchange") {
            return self.invalid(KEY, format_args!("routing_key_but_no_dlx_defined"));
        }
        Ok(key)
    }

    fn priority(&self) -> Outcome<Option<u8>> {
        const KEY: &str = "x-max-priority";
        match self.natural(KEY)? {
            Some(number) if number > PRIORITY_MAX as u64 => {
                self.invalid(KEY, format_args!("{{max_value_exceeded,{number}}}"))
            }
            number => Ok(number.map(|number| number as u8)),
        }
    }

    fn overflow(&self) -> Outcome<Overflow> {
        const KEY: &str = "x-overflow";
        match self.text(KEY)?.as_deref() {
            None | Some(b"drop-head") => Ok(Overflow::DropHead),
            Some(b"reject-publish") => Ok(Overflow::Reject),
            Some(b"reject-publish-dlx") => Ok(Overflow::RejectAndDeadLetter),
            Some(_) => self.invalid(KEY, format_args!("invalid_overflow")),
        }
    }

    fn boolean(&self, key: &str) -> Outcome<bool> {
        match self.arguments.get(key) {
            None => Ok(false),
            Some(FieldValue::Bool(value)) => Ok(*value),
            Some(other) => self.invalid(
                key,
                format_args!("{{unacceptable_type,{}}}", type_name(other)),
            ),
        }
    }
}

/// A time to live in milliseconds, or why RabbitMQ refuses it.
pub(super) fn expiry(milliseconds: i64) -> Result<Duration, String> {
    match u64::try_from(milliseconds) {
        Err(_) => Err(format!("{{value_negative,{milliseconds}}}")),
        Ok(_) if milliseconds > EXPIRY_MAX => Err(format!("{{value_too_large,{milliseconds}}}")),
        Ok(time) => Ok(Duration::from_millis(time)),
    }
}

/// A message's property `expiration`, or why RabbitMQ refuses it.
pub(super) fn expiration(text: &[u8]) -> Result<Duration, String> {
    let text_shown = || shown(text);
    let signed = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let digits = text[signed..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    if digits == 0 {
        return Err("no_integer".into());
    }
    let end = signed + digits;
    if end < text.len() {
        return Err(format!("{{leftover_string,{:?}}}", &text_shown()[end..]));
    }
    match text_shown().parse::<i64>() {
        Ok(number) => expiry(number),
        Err(_) if text[0] == b'-' => Err(format!("{{value_negative,{}}}", text_shown())),
        Err(_) => Err(format!("{{value_too_large,{}}}", text_shown())),
    }
}

/// A pair as Erlang prints it behind some text: what does not fit into a line of 80 goes on in the next one, below where the pair
/// begins.
pub(super) fn wrapped(before: &str, pair: String) -> String {
    const LINE: usize = 80;
    let column = before.chars().count() + 1;
    match pair.split_once(',') {
        Some((name, value)) if column + pair.len() >= LINE => {
            format!("{name},\n{}{value}", " ".repeat(column))
        }
        _ => pair,
    }
}

/// Refuses a second declaration of a queue that names other arguments.
pub(super) fn compare_queue(
    current: &FieldTable,
    received: &FieldTable,
    queue: &dyn fmt::Display,
) -> Outcome {
    for key in COMPARED {
        compare(key, current, received, queue)?;
    }
    Ok(())
}

/// Refuses a second declaration that names another value of this argument.
pub(super) fn compare(
    key: &str,
    current: &FieldTable,
    received: &FieldTable,
    what: &dyn fmt::Display,
) -> Outcome {
    // A queue without a type is of this one.
    let classic = FieldValue::from("classic");
    let default = (key == "x-queue-type").then_some(&classic);
    match (current.get(key).or(default), received.get(key).or(default)) {
        (None, None) => Ok(()),
        (Some(current), Some(received)) => {
            if same(current, received) {
                return Ok(());
            }
            let text = |value: &FieldValue| match value {
                FieldValue::Void => "none".to_owned(),
                value => format!("'{}'", Printed(value)),
            };
            let (current, received) = (text(current), text(received));
            inequivalent(
                key,
                what,
                format_args!("{received}"),
                format_args!("{current}"),
            )
        }
        (current, received) => inequivalent(
            key,
            what,
            format_args!("{}", Typed(received)),
            format_args!("{}", Typed(current)),
        ),
    }
}

/// Refuses a second declaration with another value of a field.
pub(super) fn compare_field(
    key: &str,
    current: impl fmt::Display + PartialEq,
    received: impl fmt::Display + PartialEq,
    what: &dyn fmt::Display,
) -> Outcome {
    let (current, received) = (current.to_string(), received.to_string());
    if current == received {
        return Ok(());
    }
    inequivalent(
        key,
        what,
        format_args!("'{received}'"),
        format_args!("'{current}'"),
    )
}

fn inequivalent(
    key: &str,
    what: &dyn fmt::Display,
    received: fmt::Arguments<'_>,
    current: fmt::Arguments<'_>,
) -> Outcome {
    refuse!(
        406,
        "inequivalent arg '{key}' for {what}: received {received} but current is {current}"
    )
}

fn same(one: &FieldValue, other: &FieldValue) -> bool {
    match (one, other) {
        (FieldValue::Timestamp(_), _) | (_, FieldValue::Timestamp(_)) => one == other,
        _ => match (one.as_i64(), other.as_i64()) {
            (Some(one), Some(other)) => one == other,
            _ => one == other || one.as_bytes().is_some() && one.as_bytes() == other.as_bytes(),
        },
    }
}

/// A value of an argument with its type, or `none`.
struct Typed<'a>(Option<&'a FieldValue>);

impl fmt::Display for Typed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("none"),
            Some(value) => write!(
                f,
                "the value '{}' of type '{}'",
                Printed(value),
                type_name(value)
            ),
        }
    }
}

/// RabbitMQ's name of a value's type.
pub(super) fn type_name(value: &FieldValue) -> &'static str {
    match value {
        FieldValue::Bool(_) => "bool",
        FieldValue::I8(_) => "byte",
        FieldValue::U8(_) => "unsignedbyte",
        FieldValue::I16(_) => "short",
        FieldValue::U16(_) => "unsignedshort",
        FieldValue::I32(_) => "signedint",
        FieldValue::U32(_) => "unsignedint",
        FieldValue::I64(_) | FieldValue::U64(_) => "long",
        FieldValue::F32(_) => "float",
        FieldValue::F64(_) => "double",
        FieldValue::Decimal { .. } => "decimal",
        FieldValue::Text(_) => "longstr",
        FieldValue::Bytes(_) => "binary",
        FieldValue::Array(_) => "array",
        FieldValue::Timestamp(_) => "timestamp",
        FieldValue::Table(_) => "table",
        FieldValue::Void => "void",
        FieldValue::Received(number) => type_name(&number.plain()),
    }
}

/// A value as RabbitMQ prints it in its texts.
pub(super) struct Printed<'a>(pub(super) &'a FieldValue);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            FieldValue::Bool(value) => write!(f, "{value}"),
            FieldValue::F32(value) => write!(f, "{value:?}"),
            FieldValue::F64(value) => write!(f, "{value:?}"),
            FieldValue::Decimal { scale, value } => write!(f, "{{{scale},{value}}}"),
            FieldValue::Text(bytes) | FieldValue::Bytes(bytes) => f.write_str(&shown(bytes)),
            FieldValue::Timestamp(seconds) => write!(f, "{seconds}"),
            FieldValue::Void => f.write_str("undefined"),
            FieldValue::Received(number) => Printed(&number.plain()).fmt(f),
            FieldValue::Array(values) => {
                f.write_str("[")?;
                for (at, value) in values.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    write!(f, "{comma}{{{},{}}}", type_name(value), Quoted(value))?;
                }
                f.write_str("]")
            }
            FieldValue::Table(table) => {
                f.write_str("[")?;
                for (at, (key, value)) in table.iter().enumerate() {
                    let comma = if at > 0 { "," } else { "" };
                    let key = Binary(key.as_bytes());
                    write!(f, "{comma}{{{key},{},{}}}", type_name(value), Quoted(value))?;
                }
                f.write_str("]")
            }
            other => write!(f, "{}", other.as_i64().unwrap_or_default()),
        }
    }
}

/// A value as RabbitMQ prints it inside another one.
struct Quoted<'a>(&'a FieldValue);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_bytes() {
            Some(bytes) => Binary(bytes).fmt(f),
            None => Printed(self.0).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expirations_are_whole_milliseconds() {
        assert_eq!(expiration(b"100"), Ok(Duration::from_millis(100)));
        assert_eq!(expiration(b"+1"), Ok(Duration::from_millis(1)));
        assert_eq!(expiration(b""), Err("no_integer".into()));
        assert_eq!(expiration(b"x"), Err("no_integer".into()));
        assert_eq!(expiration(b"1 s"), Err(r#"{leftover_string," s"}"#.into()));
        assert_eq!(expiration(b"-1"), Err("{value_negative,-1}".into()));
        let large = "99999999999999999999";
        assert_eq!(
            expiration(large.as_bytes()),
            Err(format!("{{value_too_large,{large}}}"))
        );
    }
}
