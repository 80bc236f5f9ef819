//! What the broker sends, as plain values with pika's field names.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::error::write_blocked;
use crate::escaped::{Escaped, Shown};
use crate::protocol::size::{size_of_properties, ALLOCATION};
use crate::{BasicProperties, Error, ShortString};

/// A delivered message: what `consume` yields and `basic_cancel` gives back (pika: the tuple of `method, properties, body`).
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// use haypile::Message;
///
/// fn text((_method, _properties, body): &Message) -> String {
///     String::from_utf8_lossy(body).into_owned()
/// }
///
/// # channel.queue_declare("tasks")?;
/// # channel.basic_publish("", "tasks", "dig")?;
/// let message = channel.consume("tasks")?.next().unwrap()?;
/// assert_eq!(text(&message), "dig");
/// # Ok(()) }) }
/// ```
pub type Message = (Deliver, BasicProperties, Vec<u8>);

/// How a message came to a consumer: `basic.deliver` (pika: `spec.Basic.Deliver`; AMQP 0-9-1, class `basic`, method 60).
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// # channel.queue_declare("tasks")?;
/// # channel.basic_publish("", "tasks", "dig")?;
/// for message in channel.consume("tasks")? {
///     let (method, _properties, _body) = message?;
///     if method.redelivered {
///         println!("{} came before", method.delivery_tag);
///     }
///     channel.basic_ack(method.delivery_tag)?;
/// #   channel.cancel()?;
/// }
/// # Ok(()) }) }
/// ```
#[doc(alias = "Basic.Deliver")]
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Deliver {
    /// The consumer it is for.
    pub consumer_tag: String,
    /// The number to acknowledge it with, counted from 1 on each channel.
    pub delivery_tag: u64,
    /// Whether it was delivered before, to this consumer or another one.
    pub redelivered: bool,
    /// The exchange it was published to; empty for the default exchange.
    pub exchange: ShortString,
    /// The routing key it was published with.
    pub routing_key: ShortString,
}

/// How a message was fetched: `basic.get-ok` (pika: `spec.Basic.GetOk`; AMQP 0-9-1, class `basic`, method 71).
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// # channel.queue_declare("tasks")?;
/// # channel.basic_publish("", "tasks", "dig")?;
/// if let Some((method, _properties, _body)) = channel.basic_get("tasks")? {
///     println!("{} more", method.message_count);
/// }
/// # Ok(()) }) }
/// ```
#[doc(alias = "Basic.GetOk")]
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct GetOk {
    /// The number to acknowledge it with, counted from 1 on each channel.
    pub delivery_tag: u64,
    /// Whether it was delivered before.
    pub redelivered: bool,
    /// The exchange it was published to; empty for the default exchange.
    pub exchange: ShortString,
    /// The routing key it was published with.
    pub routing_key: ShortString,
    /// How many messages were ready in the queue after this one.
    pub message_count: u32,
}

/// Why a message came back: `basic.return` (pika: `spec.Basic.Return`; AMQP 0-9-1, class `basic`, method 50).
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|connection, channel| {
/// use haypile::BasicPublish;
///
/// channel.add_on_return_callback(|_channel, method, _properties, _body| {
///     println!("{} {}", method.reply_code, method.reply_text); // 312 NO_ROUTE
/// });
/// # channel.basic_publish_with("", "nowhere", "?", BasicPublish::new().mandatory(true))?;
/// # connection.process_data_events(std::time::Duration::from_secs(1))?;
/// # Ok(()) }) }
/// ```
#[doc(alias = "Basic.Return")]
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Return {
    /// The AMQP reply code, such as 312 (`NO_ROUTE`).
    pub reply_code: u16,
    /// The server's text.
    pub reply_text: String,
    /// The exchange it was published to; empty for the default exchange.
    pub exchange: ShortString,
    /// The routing key it was published with.
    pub routing_key: ShortString,
    /// Properties and body came and were not kept, because messages that had come back took more than 4 MiB, and the program
    /// had not asked about them. Not in pika.
    #[cfg_attr(feature = "serde", serde(default))]
    pub content_omitted: bool,
}

/// A message that the broker gave back, because it was mandatory and no queue took it (pika:
/// `blocking_connection.ReturnedMessage`).
///
/// Of those that have not been reported, a connection keeps 4 MiB for reports ([`UnconfirmedReport`]) and 4 MiB for
/// [callbacks](crate::Channel::add_on_return_callback). Of what comes back beyond that it keeps why and which it was: then
/// [`content_omitted`](Return::content_omitted) is set, and properties and body are empty.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// use haypile::{BasicPublish, Error};
///
/// channel.confirm_delivery()?;
/// let mandatory = BasicPublish::new().mandatory(true);
/// match channel.basic_publish_with("", "nowhere", "hello", mandatory) {
///     Err(Error::Unroutable(returned)) => assert_eq!(returned[0].body, b"hello"),
///     other => panic!("{other:?}"),
/// }
/// # Ok(()) }) }
/// ```
#[derive(Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ReturnedMessage {
    /// Why it came back.
    pub method: Return,
    /// The properties it was published with.
    pub properties: BasicProperties,
    /// Its body.
    #[cfg_attr(
        feature = "serde",
        serde(with = "crate::protocol::serialize::text_or_bytes")
    )]
    pub body: Vec<u8>,
}

/// The body reads as text if it is one, and is cut if it is long.
impl fmt::Debug for ReturnedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReturnedMessage")
            .field("method", &self.method)
            .field("properties", &self.properties)
            .field("body", &Shown(&self.body))
            .finish()
    }
}

/// What became of a declared queue: `queue.declare-ok` (pika: `spec.Queue.DeclareOk`; AMQP 0-9-1, class `queue`,
/// method 11).
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// use haypile::QueueDeclare;
///
/// # channel.queue_declare("tasks")?;
/// let found = channel.queue_declare(QueueDeclare::new("tasks").passive(true))?;
/// println!("{}: {} ready, {} consumers", found.queue, found.message_count, found.consumer_count);
/// # Ok(()) }) }
/// ```
#[doc(alias = "Queue.DeclareOk")]
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct QueueDeclareOk {
    /// The queue's name, which is the server's invention if the name asked for was empty.
    pub queue: String,
    /// How many messages are ready in it.
    pub message_count: u32,
    /// How many consumers it has.
    pub consumer_count: u32,
}

/// Why `start_consuming` came to an end (pika returns nothing).
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// use haypile::ConsumingEnded;
///
/// assert_eq!(channel.start_consuming()?, ConsumingEnded::NoConsumers);
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ConsumingEnded {
    /// This program cancelled the last consumer.
    Cancelled,
    /// The broker cancelled the last consumer. It does not send the reason: the queue was deleted, its node was lost, a permission
    /// was withdrawn, or, on a quorum queue from RabbitMQ 4.3 on, a message was held for too long (`consumer_timeout`,
    /// `x-consumer-timeout`; 30 minutes unless set). The log names the message that was held, and acknowledging a message
    /// of such a consumer is [`Error::ConsumerCancelled`](crate::Error::ConsumerCancelled). The tag can be used again.
    #[doc(alias = "ConsumerCancelled")]
    CancelledByBroker {
        /// The consumer it cancelled.
        consumer_tag: String,
    },
    /// There was no consumer to begin with.
    NoConsumers,
    /// This program closed the channel or the connection.
    Closed,
}

/// A message that a [`ReliablePublisher`](crate::ReliablePublisher) took and that is neither confirmed nor returned; see
/// [`take_unconfirmed`](crate::ReliablePublisher::take_unconfirmed).
///
/// ```
/// # #[cfg(feature = "testing")]
/// # fn main() -> haypile::Result<()> {
/// # let broker = haypile::testing::Broker::start()?;
/// use haypile::Supervisor;
/// use std::time::Duration;
///
/// # let url = broker.url();
/// let mut publisher = Supervisor::new(url).publisher(100, |channel| channel.queue_declare("q").map(drop))?;
/// # broker.withhold_next_confirm();
/// publisher.publish("", "q", "kept")?;
/// # let limit = Duration::from_millis(50);
/// if publisher.wait_for_confirms(limit).is_err() {
///     for message in publisher.take_unconfirmed() {
///         println!("{} to {:?}: {:?}", message.number, message.routing_key, message.body);
///     }
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Unconfirmed {
    /// The number that `publish` returned.
    pub number: u64,
    /// The exchange it was published to. What is not UTF-8 in this name or in the routing key is U+FFFD here; it was sent as it was
    /// given.
    pub exchange: String,
    /// Its routing key.
    pub routing_key: String,
    /// Its properties, with the `message_id` that it was sent with.
    pub properties: BasicProperties,
    /// Whether it was mandatory.
    pub mandatory: bool,
    /// Its body.
    pub body: Vec<u8>,
}

/// What became of a publisher's messages, when not all of them were confirmed; see
/// [`Error::Unconfirmed`](crate::Error::Unconfirmed).
///
/// The numbers are those that `publish` returned. Each message is reported once: in one of the four lists, or in two if the
/// broker both returned and refused it.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
/// # fn main() { example(|_connection, channel| {
/// use haypile::{BasicPublish, Error};
///
/// # channel.queue_declare("lines")?;
/// let mut publisher = channel.publisher(100)?;
/// let good = publisher.publish("", "lines", "first")?;
/// let lost = publisher.publish_with("", "nowhere", "?", BasicPublish::new().mandatory(true))?;
/// if let Err(Error::Unconfirmed(report)) = publisher.wait_for_confirms(None) {
///     println!("{report}");
///     assert!(report.is_confirmed(good) && report.returned[0].0 == lost);
/// }
/// # Ok(()) }) }
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UnconfirmedReport {
    /// Mandatory messages that no queue took, with their sequence numbers.
    pub returned: Vec<(u64, ReturnedMessage)>,
    /// Sequence numbers of those that the broker refused.
    pub nacked: Vec<u64>,
    /// Sequence numbers of those that had no confirmation when the time was up, or when the channel or the connection ended.
    /// The broker may have them all the same: a message whose confirmation was lost arrives twice if it is published again.
    pub pending: Vec<u64>,
    /// Runs of sequence numbers that the broker confirmed; see [`is_confirmed`](UnconfirmedReport::is_confirmed).
    pub confirmed: Vec<RangeInclusive<u64>>,
    /// What ended the channel or the connection. `None` if they go on.
    pub cause: Option<Error>,
    /// The broker's reason for blocking the connection, such as `low on memory`, if it did when the time was up: what is pending
    /// may be confirmed when it unblocks it, see [`Connection::blocked`](crate::Connection::blocked).
    pub blocked: Option<Arc<str>>,
}

impl UnconfirmedReport {
    /// Whether this report covers a message and the broker confirmed it.
    ///
    /// ```
    /// use haypile::UnconfirmedReport;
    ///
    /// fn again(report: &UnconfirmedReport, lines: &[(u64, String)]) -> Vec<String> {
    ///     let lost = lines.iter().filter(|(number, _)| !report.is_confirmed(*number));
    ///     lost.map(|(_, line)| line.clone()).collect()
    /// }
    /// # let lines = [(1, "first".to_owned())];
    /// # assert_eq!(again(&UnconfirmedReport::default(), &lines), ["first"]);
    /// ```
    pub fn is_confirmed(&self, sequence: u64) -> bool {
        let at = self.confirmed.partition_point(|run| *run.end() < sequence);
        self.confirmed
            .get(at)
            .is_some_and(|run| run.contains(&sequence))
    }
}

/// Errors have no equality of their own: two causes are equal if they read the same.
impl PartialEq for UnconfirmedReport {
    fn eq(&self, other: &Self) -> bool {
        let text = |report: &Self| report.cause.as_ref().map(|cause| format!("{cause:?}"));
        self.returned == other.returned
            && self.nacked == other.nacked
            && self.pending == other.pending
            && self.confirmed == other.confirmed
            && self.blocked == other.blocked
            && text(self) == text(other)
    }
}

impl fmt::Display for UnconfirmedReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.returned.len() + self.nacked.len() + self.pending.len();
        write!(f, "{total} not confirmed")?;
        let mut returned = Vec::new();
        for (number, _) in self.returned.iter().take(SHOWN) {
            returned.push(*number);
        }
        let groups = [
            (self.returned.len(), &returned[..], "returned"),
            (self.nacked.len(), &self.nacked[..], "refused"),
            (self.pending.len(), &self.pending[..], "pending"),
        ];
        let mut separator = ": ";
        for (count, numbers, what) in groups {
            if count == 0 {
                continue;
            }
            write!(f, "{separator}{count} {what} (")?;
            for (n, number) in numbers.iter().take(SHOWN).enumerate() {
                write!(f, "{}{number}", if n == 0 { "" } else { ", " })?;
            }
            f.write_str(if count > SHOWN { ", ...)" } else { ")" })?;
            separator = "; ";
        }
        if let Some((_, ReturnedMessage { method, .. })) = self.returned.first() {
            write!(
                f,
                "; first return: {} {}",
                method.reply_code,
                Escaped(&method.reply_text)
            )?;
        }
        if let Some(cause) = &self.cause {
            write!(f, "; {cause}")?;
        }
        write_blocked(f, self.blocked.as_deref())?;
        if !self.pending.is_empty() {
            f.write_str("; whether the broker has those pending is unknown")?;
        }
        Ok(())
    }
}

/// How many sequence numbers of a kind an error text shows; the report itself has them all.
const SHOWN: usize = 5;

impl ReturnedMessage {
    /// How much memory it takes, for the bound on what a connection holds.
    pub(crate) fn size(&self) -> usize {
        size_of::<ReturnedMessage>()
            + 5 * ALLOCATION
            + self.method.reply_text.len()
            + self.method.exchange.len()
            + self.method.routing_key.len()
            + size_of_properties(&self.properties)
            + self.body.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_and_shows_the_first_numbers() {
        let returned = ReturnedMessage {
            method: Return {
                reply_code: 312,
                reply_text: "NO_ROUTE".into(),
                ..Return::default()
            },
            properties: BasicProperties::new(),
            body: Vec::new(),
        };
        let report = UnconfirmedReport {
            returned: vec![(3, returned)],
            nacked: (10..20).collect(),
            pending: vec![4, 5],
            ..UnconfirmedReport::default()
        };
        assert_eq!(
            report.to_string(),
            "13 not confirmed: 1 returned (3); 10 refused (10, 11, 12, 13, 14, ...); 2 pending (4, 5); \
             first return: 312 NO_ROUTE; whether the broker has those pending is unknown"
        );
        assert_eq!(
            UnconfirmedReport {
                pending: vec![1],
                ..Default::default()
            }
            .to_string(),
            "1 not confirmed: 1 pending (1); whether the broker has those pending is unknown"
        );
        assert_eq!(
            UnconfirmedReport {
                pending: vec![1],
                cause: Some(Error::ConnectionWrongState {
                    reason: "it was lost".into(),
                    cause: None,
                }),
                ..Default::default()
            }
            .to_string(),
            "1 not confirmed: 1 pending (1); the connection is not open: it was lost; whether the broker has those pending is unknown"
        );
    }

    #[test]
    fn a_report_knows_which_numbers_it_confirms() {
        let report = UnconfirmedReport {
            confirmed: vec![1..=3, 5..=5, 9..=20],
            ..Default::default()
        };
        let confirmed: Vec<u64> = (0..25).filter(|n| report.is_confirmed(*n)).collect();
        let expected: Vec<u64> = (1..=3).chain([5]).chain(9..=20).collect();
        assert_eq!(confirmed, expected);
    }
}
