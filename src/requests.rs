//! What pika passes as keyword arguments: one value for each call, with a setter for each argument that has a default.
//!
//! A name, or a delivery tag, converts into the request where it is enough.

use std::borrow::Cow;

pub use self::consuming::{
    BasicAck, BasicConsume, BasicGet, BasicNack, BasicQos, BasicReject, Consume,
};
pub use self::topology::{
    ExchangeDeclare, ExchangeDelete, ExchangeType, QueueDeclare, QueueDelete,
};
use crate::BasicProperties;

/// Setters for arguments that are yes or no.
macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $name: bool) -> Self {
                self.$name = $name;
                self
            }
        )*
    };
}

/// Setters for the table of arguments that brokers extend AMQP with.
macro_rules! arguments {
    ($request:ident, $key:literal, $value:literal) => {
        /// Adds one of the broker's own arguments, or replaces it (pika: an item of `arguments`). Default: none.
        ///
        /// ```
        #[doc = concat!("use haypile::", stringify!($request), ";")]
        ///
        #[doc = concat!("let request = ", stringify!($request), "::from(\"tasks\").argument(", $key, ", ", $value, ");")]
        #[doc = concat!("let whole = ", stringify!($request), "::from(\"tasks\").arguments([(", $key, ", ", $value, ")]);")]
        /// assert_eq!(request, whole);
        #[doc = concat!("assert_ne!(request, ", stringify!($request), "::from(\"tasks\"));")]
        /// ```
        #[must_use]
        pub fn argument(
            mut self,
            key: impl Into<ShortString>,
            value: impl Into<FieldValue>,
        ) -> Self {
            self.arguments.insert(key.into(), value.into());
            self
        }

        /// Gives the whole table of the broker's own arguments, in place of what was there (pika: `arguments`).
        ///
        /// ```
        #[doc = concat!("use haypile::{FieldTable, ", stringify!($request), "};")]
        ///
        #[doc = concat!("let usual = FieldTable::from([(", $key, ", ", $value, ")]);")]
        #[doc = concat!("let request = ", stringify!($request), "::from(\"tasks\").arguments(&usual);")]
        #[doc = concat!("assert_eq!(request, ", stringify!($request), "::from(\"tasks\").argument(", $key, ", ", $value, "));")]
        #[doc = concat!("assert_ne!(request, ", stringify!($request), "::from(\"tasks\"));")]
        /// ```
        #[must_use]
        pub fn arguments(mut self, arguments: impl Into<FieldTable>) -> Self {
            self.arguments = arguments.into();
            self
        }
    };
}

/// A name that is enough.
macro_rules! from_name {
    ($($request:ident)*) => {
        $(
            impl From<&str> for $request {
                fn from(name: &str) -> Self {
                    $request::named(name.into())
                }
            }

            impl From<&&str> for $request {
                fn from(name: &&str) -> Self {
                    $request::named((*name).into())
                }
            }

            impl From<&String> for $request {
                fn from(name: &String) -> Self {
                    $request::named(name.into())
                }
            }

            impl From<String> for $request {
                fn from(name: String) -> Self {
                    $request::named(name.into())
                }
            }

            impl From<ShortString> for $request {
                fn from(name: ShortString) -> Self {
                    $request::named(name)
                }
            }

            impl From<&ShortString> for $request {
                fn from(name: &ShortString) -> Self {
                    $request::named(name.clone())
                }
            }
        )*
    };
}

mod consuming;
mod topology;

/// What `basic_publish_with` takes beside exchange, routing key and body (pika: `basic_publish(…, properties=None,
/// mandatory=False)`; AMQP 0-9-1, `basic.publish`).
///
/// Properties alone convert. Borrowed ones are not copied, so that one value serves any number of messages:
///
/// ```
/// use haypile::{BasicProperties, BasicPublish, DeliveryMode};
///
/// let persistent = BasicProperties::new().delivery_mode(DeliveryMode::Persistent);
/// assert_eq!(BasicPublish::from(&persistent), BasicPublish::new().properties(persistent.clone()));
/// let must_arrive = BasicPublish::new().mandatory(true).properties(&persistent);
/// # let _ = must_arrive;
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct BasicPublish<'a> {
    pub(crate) properties: Cow<'a, BasicProperties>,
    pub(crate) mandatory: bool,
}

/// What a message without properties borrows.
static NO_PROPERTIES: BasicProperties = BasicProperties::NONE;

impl<'a> BasicPublish<'a> {
    /// No properties, not mandatory.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::BasicPublish;
    ///
    /// channel.queue_declare("tasks")?;
    /// channel.basic_publish_with("", "tasks", "dig", BasicPublish::new())?; // as basic_publish
    /// let (_method, properties, _body) = channel.basic_get("tasks")?.unwrap();
    /// assert_eq!(properties, haypile::BasicProperties::new());
    /// # Ok(()) }) }
    /// ```
    pub fn new() -> Self {
        BasicPublish {
            properties: Cow::Borrowed(&NO_PROPERTIES),
            mandatory: false,
        }
    }

    flags! {
        /// Whether the message comes back if no queue takes it: to the callbacks of `add_on_return_callback`, and, on
        /// a channel with confirms, as `Error::Unroutable`. Default: no.
        ///
        /// ```
        /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
        /// # fn main() { example(|_connection, channel| {
        /// use haypile::{BasicPublish, Error};
        ///
        /// channel.confirm_delivery()?;
        /// channel.basic_publish("", "nowhere", "lost")?;
        /// let error = channel.basic_publish_with("", "nowhere", "back", BasicPublish::new().mandatory(true)).unwrap_err();
        /// assert!(matches!(error, Error::Unroutable(_)), "{error}");
        /// # Ok(()) }) }
        /// ```
        mandatory
    }

    /// The message's properties: a [`BasicProperties`], or a reference to one. Default: none.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::{BasicProperties, BasicPublish};
    ///
    /// channel.queue_declare("tasks")?;
    /// let urgent = BasicProperties::new().priority(9);
    /// channel.basic_publish_with("", "tasks", "dig", BasicPublish::new().mandatory(true).properties(&urgent))?;
    /// assert_eq!(channel.basic_get("tasks")?.unwrap().1, urgent);
    /// # Ok(()) }) }
    /// ```
    #[must_use]
    pub fn properties(mut self, properties: impl Into<Cow<'a, BasicProperties>>) -> Self {
        self.properties = properties.into();
        self
    }
}

impl Default for BasicPublish<'_> {
    fn default() -> Self {
        BasicPublish::new()
    }
}

impl From<BasicProperties> for BasicPublish<'_> {
    fn from(properties: BasicProperties) -> Self {
        BasicPublish {
            properties: Cow::Owned(properties),
            mandatory: false,
        }
    }
}

impl<'a> From<&'a BasicProperties> for BasicPublish<'a> {
    fn from(properties: &'a BasicProperties) -> Self {
        BasicPublish {
            properties: Cow::Borrowed(properties),
            mandatory: false,
        }
    }
}

impl From<BasicProperties> for Cow<'_, BasicProperties> {
    fn from(properties: BasicProperties) -> Self {
        Cow::Owned(properties)
    }
}

impl<'a> From<&'a BasicProperties> for Cow<'a, BasicProperties> {
    fn from(properties: &'a BasicProperties) -> Self {
        Cow::Borrowed(properties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FieldTable, FieldValue};

    #[test]
    fn the_defaults_are_pikas() {
        let queue = QueueDeclare::new("q");
        assert!(!(queue.passive || queue.durable || queue.exclusive || queue.auto_delete));
        assert!(queue.arguments.is_empty());
        let delete = QueueDelete::new("q");
        assert!(!(delete.if_unused || delete.if_empty));
        let exchange = ExchangeDeclare::from("x");
        assert_eq!(exchange.exchange_type, ExchangeType::Direct);
        assert!(
            !(exchange.passive || exchange.durable || exchange.auto_delete || exchange.internal)
        );
        assert!(!ExchangeDelete::new("x").if_unused);
        let consume = BasicConsume::new("q");
        assert!(!(consume.auto_ack || consume.exclusive || consume.consumer_tag.is_some()));
        let consume = Consume::new("q");
        assert!(!(consume.auto_ack || consume.exclusive || consume.idle_exit.is_some()));
        assert!(!BasicGet::new("q").auto_ack);
        assert_eq!(
            BasicAck::default(),
            BasicAck {
                delivery_tag: 0,
                multiple: false
            }
        );
        assert_eq!(
            BasicNack::default(),
            BasicNack {
                delivery_tag: 0,
                multiple: false,
                requeue: true
            }
        );
        assert_eq!(
            BasicReject::default(),
            BasicReject {
                delivery_tag: 0,
                requeue: true
            }
        );
        assert_eq!(
            BasicQos::default(),
            BasicQos {
                prefetch_size: 0,
                prefetch_count: 0,
                global: false
            }
        );
        assert!(!BasicPublish::new().mandatory);
    }

    #[test]
    fn each_setter_sets_its_own_field() {
        let queue = QueueDeclare::new("q").durable(true);
        assert!(queue.durable && !queue.passive && !queue.exclusive && !queue.auto_delete);
        let queue = QueueDeclare::new("q")
            .passive(true)
            .exclusive(true)
            .auto_delete(true);
        assert!(!queue.durable && queue.passive && queue.exclusive && queue.auto_delete);
        let exchange = ExchangeDeclare::new("x", "topic").internal(true);
        assert!(
            exchange.internal && !exchange.durable && exchange.exchange_type == ExchangeType::Topic
        );
        let qos = BasicQos::new(3).prefetch_size(4).global(true);
        assert_eq!(
            qos,
            BasicQos {
                prefetch_size: 4,
                prefetch_count: 3,
                global: true
            }
        );
        assert_eq!(BasicConsume::new("q").consumer_tag("").consumer_tag, None);
        assert_eq!(
            BasicConsume::new("q")
                .consumer_tag("t")
                .consumer_tag
                .as_deref(),
            Some("t")
        );
    }

    #[test]
    fn arguments_are_added_or_given_whole() {
        let queue = QueueDeclare::new("q")
            .argument("x-max-length", 5)
            .argument("x-max-length", 6);
        assert_eq!(queue.arguments.len(), 1);
        assert_eq!(
            queue
                .arguments
                .get("x-max-length")
                .and_then(FieldValue::as_i64),
            Some(6)
        );
        assert!(queue.arguments(FieldTable::new()).arguments.is_empty());
    }

    #[test]
    fn borrowed_properties_are_not_copied() {
        let properties = BasicProperties::new();
        assert!(
            matches!(BasicPublish::from(&properties).properties, Cow::Borrowed(p) if std::ptr::eq(p, &properties))
        );
        assert!(matches!(
            BasicPublish::new().properties(&properties).properties,
            Cow::Borrowed(_)
        ));
        assert!(matches!(BasicPublish::new().properties, Cow::Borrowed(_)));
        assert!(matches!(
            BasicPublish::from(properties).properties,
            Cow::Owned(_)
        ));
    }
}
