//! Queues, exchanges, transactions: the calls of a channel that are a request and a reply.

use super::{done, Channel};
use crate::error::{hints, Result};
use crate::protocol::calls::Reply;
use crate::protocol::method::Method;
use crate::{
    AsShortString, ExchangeDeclare, ExchangeDelete, FieldTable, QueueDeclare, QueueDeclareOk,
    QueueDelete,
};

impl Channel {
    // ---- queues

    /// Declares a queue; `""` lets the server choose a name (pika: `queue_declare`; specification 1.7.2.1).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|connection, channel| {
    /// use haypile::QueueDeclare;
    ///
    /// channel.queue_declare(QueueDeclare::new("orders").durable(true))?;
    /// // A name of the server's making, for this connection only; it goes with the connection.
    /// let queue = channel.queue_declare(QueueDeclare::new("").exclusive(true))?.queue;
    /// assert!(queue.starts_with("amq.gen-"));
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`](crate::Error::ChannelClosedByBroker): 406 if the queue exists with other properties, 404 if a passive declaration finds
    /// none, 405 if it is another connection's exclusive queue; and as every call.
    pub fn queue_declare(&self, request: impl Into<QueueDeclare>) -> Result<QueueDeclareOk> {
        self.declare_queue(request.into())
    }

    /// The same, made once for all types of requests.
    fn declare_queue(&self, request: QueueDeclare) -> Result<QueueDeclareOk> {
        if let Some(hint) = hints::of_declaration(&request) {
            log::warn!("queue {:?}: {hint}", request.queue);
        }
        let connection = &self.handle.connection;
        if hints::is_deprecated(&request, connection.rabbitmq_version())
            && connection.is_first_transient_queue()
        {
            log::warn!("queue {:?}: {}", request.queue, hints::DEPRECATED);
        }
        let QueueDeclare {
            queue,
            passive,
            durable,
            exclusive,
            auto_delete,
            arguments,
        } = request;
        let method = Method::QueueDeclare {
            queue: (&queue).into(),
            passive,
            durable,
            exclusive,
            auto_delete,
            no_wait: false,
            arguments: (&arguments).into(),
        };
        match self.call(&method)? {
            Reply::Declared(declared) => Ok(declared),
            _ => Ok(QueueDeclareOk {
                queue: String::new(),
                message_count: 0,
                consumer_count: 0,
            }),
        }
    }

    /// Binds a queue to an exchange (pika: `queue_bind`; specification 1.7.2.3).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use haypile::{ExchangeDeclare, ExchangeType};
    /// channel.exchange_declare(ExchangeDeclare::new("logs", ExchangeType::Direct))?;
    /// channel.queue_declare("errors")?;
    /// channel.queue_bind("errors", "logs", "error")?;
    /// channel.basic_publish("logs", "error", "it burns")?;
    /// # assert!(channel.basic_get("errors")?.is_some());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`](crate::Error::ChannelClosedByBroker) (404) if either is missing, and as every call.
    pub fn queue_bind(
        &self,
        queue: impl AsShortString,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
    ) -> Result<()> {
        self.queue_bind_with(queue, exchange, routing_key, FieldTable::new())
    }

    /// Binds with arguments, such as those of a headers exchange (pika: `queue_bind(…, arguments)`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use haypile::{BasicProperties, ExchangeDeclare, ExchangeType};
    /// use haypile::FieldTable;
    ///
    /// channel.exchange_declare(ExchangeDeclare::new("documents", ExchangeType::Headers))?;
    /// channel.queue_declare("reports")?;
    /// let mut wanted = FieldTable::new();
    /// wanted.insert("x-match", "all");
    /// wanted.insert("type", "report");
    /// channel.queue_bind_with("reports", "documents", "", wanted)?;
    /// # let report = BasicProperties::new().header("type", "report");
    /// # channel.basic_publish_with("documents", "", "numbers", report)?;
    /// # assert!(channel.basic_get("reports")?.is_some());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`queue_bind`](Channel::queue_bind).
    pub fn queue_bind_with(
        &self,
        queue: impl AsShortString,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        arguments: impl Into<FieldTable>,
    ) -> Result<()> {
        let arguments = arguments.into();
        let method = Method::QueueBind {
            queue: queue.as_short_string().into(),
            exchange: exchange.as_short_string().into(),
            routing_key: routing_key.as_short_string().into(),
            no_wait: false,
            arguments: (&arguments).into(),
        };
        done(self.call(&method))
    }

    /// Unbinds a queue from an exchange (pika: `queue_unbind`; specification 1.7.2.5).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("errors")?;
    /// channel.queue_bind("errors", "amq.direct", "error")?;
    /// channel.queue_unbind("errors", "amq.direct", "error")?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn queue_unbind(
        &self,
        queue: impl AsShortString,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
    ) -> Result<()> {
        self.queue_unbind_with(queue, exchange, routing_key, FieldTable::new())
    }

    /// Unbinds with the arguments that it was bound with (pika: `queue_unbind(…, arguments)`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use haypile::FieldTable;
    /// # channel.queue_declare("reports")?;
    /// let mut wanted = FieldTable::new();
    /// wanted.insert("type", "report");
    /// channel.queue_bind_with("reports", "amq.headers", "", &wanted)?;
    /// channel.queue_unbind_with("reports", "amq.headers", "", &wanted)?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn queue_unbind_with(
        &self,
        queue: impl AsShortString,
        exchange: impl AsShortString,
        routing_key: impl AsShortString,
        arguments: impl Into<FieldTable>,
    ) -> Result<()> {
        let arguments = arguments.into();
        let method = Method::QueueUnbind {
            queue: queue.as_short_string().into(),
            exchange: exchange.as_short_string().into(),
            routing_key: routing_key.as_short_string().into(),
            arguments: (&arguments).into(),
        };
        done(self.call(&method))
    }

    /// Removes all messages that wait in a queue; returns how many (pika: `queue_purge`; specification 1.7.2.7).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("old")?;
    /// # channel.basic_publish("", "old", "news")?;
    /// let removed = channel.queue_purge("old")?;
    /// # assert_eq!(removed, 1);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`](crate::Error::ChannelClosedByBroker) (404) if it is missing, and as every call.
    pub fn queue_purge(&self, queue: impl AsShortString) -> Result<u32> {
        self.counted(&Method::QueuePurge {
            queue: queue.as_short_string().into(),
            no_wait: false,
        })
    }

    /// Deletes a queue; returns how many messages went with it (pika: `queue_delete`; specification 1.7.2.9).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::QueueDelete;
    ///
    /// # for queue in ["old", "orders"] {
    /// #     channel.queue_declare(queue)?;
    /// # }
    /// let lost = channel.queue_delete("old")?;
    /// // Only if it is empty and has no consumer; otherwise the channel is closed (406).
    /// channel.queue_delete(QueueDelete::new("orders").if_empty(true).if_unused(true))?;
    /// # assert_eq!(lost, 0);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`](crate::Error::ChannelClosedByBroker) (406) if it was to be unused or empty and is not; and as every call.
    pub fn queue_delete(&self, request: impl Into<QueueDelete>) -> Result<u32> {
        let QueueDelete {
            queue,
            if_unused,
            if_empty,
        } = request.into();
        self.counted(&Method::QueueDelete {
            queue: (&queue).into(),
            if_unused,
            if_empty,
            no_wait: false,
        })
    }

    fn counted(&self, method: &Method<'_>) -> Result<u32> {
        match self.call(method)? {
            Reply::Count(count) => Ok(count),
            _ => Ok(0),
        }
    }

    // ---- exchanges

    /// Declares an exchange (pika: `exchange_declare`; specification 1.6.2.1).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::{ExchangeDeclare, ExchangeType};
    ///
    /// // The name alone is a direct exchange, as in pika.
    /// channel.exchange_declare(ExchangeDeclare::new("events", ExchangeType::Topic).durable(true))?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`](crate::Error::ChannelClosedByBroker) (406) if it exists with other properties, and as every call.
    pub fn exchange_declare(&self, request: impl Into<ExchangeDeclare>) -> Result<()> {
        let ExchangeDeclare {
            exchange,
            exchange_type,
            passive,
            durable,
            auto_delete,
            internal,
            arguments,
        } = request.into();
        let method = Method::ExchangeDeclare {
            exchange: (&exchange).into(),
            exchange_type: exchange_type.as_str().into(),
            passive,
            durable,
            auto_delete,
            internal,
            no_wait: false,
            arguments: (&arguments).into(),
        };
        done(self.call(&method))
    }

    /// Deletes an exchange (pika: `exchange_delete`; specification 1.6.2.3).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// use haypile::ExchangeDelete;
    ///
    /// channel.exchange_declare("events")?;
    /// channel.exchange_delete(ExchangeDelete::new("events").if_unused(true))?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`](crate::Error::ChannelClosedByBroker) (406) if it was to be unused and is not, and as every call.
    pub fn exchange_delete(&self, request: impl Into<ExchangeDelete>) -> Result<()> {
        let ExchangeDelete {
            exchange,
            if_unused,
        } = request.into();
        done(self.call(&Method::ExchangeDelete {
            exchange: (&exchange).into(),
            if_unused,
            no_wait: false,
        }))
    }

    /// Binds an exchange to another, from which it receives (pika: `exchange_bind`; RabbitMQ's `exchange.bind`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use haypile::{ExchangeDeclare, ExchangeType};
    /// channel.exchange_declare(ExchangeDeclare::new("all", ExchangeType::Topic))?;
    /// channel.exchange_declare(ExchangeDeclare::new("audit", ExchangeType::Fanout))?;
    /// // What goes to "all" about payments goes on to "audit".
    /// channel.exchange_bind("audit", "all", "payment.#")?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`queue_bind`](Channel::queue_bind).
    pub fn exchange_bind(
        &self,
        destination: impl AsShortString,
        source: impl AsShortString,
        routing_key: impl AsShortString,
    ) -> Result<()> {
        self.exchange_bind_with(destination, source, routing_key, FieldTable::new())
    }

    /// Binds with arguments (pika: `exchange_bind(…, arguments)`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use haypile::{ExchangeDeclare, ExchangeType, FieldTable};
    /// # channel.exchange_declare(ExchangeDeclare::new("reports", ExchangeType::Fanout))?;
    /// let mut wanted = FieldTable::new();
    /// wanted.insert("type", "report");
    /// channel.exchange_bind_with("reports", "amq.headers", "", wanted)?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`queue_bind`](Channel::queue_bind).
    pub fn exchange_bind_with(
        &self,
        destination: impl AsShortString,
        source: impl AsShortString,
        routing_key: impl AsShortString,
        arguments: impl Into<FieldTable>,
    ) -> Result<()> {
        let arguments = arguments.into();
        let method = Method::ExchangeBind {
            destination: destination.as_short_string().into(),
            source: source.as_short_string().into(),
            routing_key: routing_key.as_short_string().into(),
            no_wait: false,
            arguments: (&arguments).into(),
        };
        done(self.call(&method))
    }

    /// Unbinds an exchange from another (pika: `exchange_unbind`; RabbitMQ's `exchange.unbind`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use haypile::{ExchangeDeclare, ExchangeType};
    /// # channel.exchange_declare(ExchangeDeclare::new("audit", ExchangeType::Fanout))?;
    /// channel.exchange_bind("audit", "amq.topic", "payment.#")?;
    /// channel.exchange_unbind("audit", "amq.topic", "payment.#")?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn exchange_unbind(
        &self,
        destination: impl AsShortString,
        source: impl AsShortString,
        routing_key: impl AsShortString,
    ) -> Result<()> {
        self.exchange_unbind_with(destination, source, routing_key, FieldTable::new())
    }

    /// Unbinds with the arguments that it was bound with (pika: `exchange_unbind(…, arguments)`).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # use haypile::{ExchangeDeclare, ExchangeType, FieldTable};
    /// # channel.exchange_declare(ExchangeDeclare::new("reports", ExchangeType::Fanout))?;
    /// let mut wanted = FieldTable::new();
    /// wanted.insert("type", "report");
    /// channel.exchange_bind_with("reports", "amq.headers", "", &wanted)?;
    /// channel.exchange_unbind_with("reports", "amq.headers", "", &wanted)?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn exchange_unbind_with(
        &self,
        destination: impl AsShortString,
        source: impl AsShortString,
        routing_key: impl AsShortString,
        arguments: impl Into<FieldTable>,
    ) -> Result<()> {
        let arguments = arguments.into();
        let method = Method::ExchangeUnbind {
            destination: destination.as_short_string().into(),
            source: source.as_short_string().into(),
            routing_key: routing_key.as_short_string().into(),
            no_wait: false,
            arguments: (&arguments).into(),
        };
        done(self.call(&method))
    }

    // ---- transactions, flow

    /// Begins to gather publishes and acknowledgements into transactions (pika: `tx_select`; specification 1.9.2.1).
    ///
    /// RabbitMQ 4.3 takes 10,000 publishes in one transaction (its setting `channel_tx_message_max`), and any number of
    /// acknowledgements. Over the next publish it closes the channel (406), and nothing of the transaction takes effect.
    /// RabbitMQ 3.10 and 4.0 know no limit.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("ledger")?;
    /// channel.tx_select()?;
    /// channel.basic_publish("", "ledger", "from A: 10")?;
    /// channel.basic_publish("", "ledger", "to B: 10")?;
    /// // Both or neither.
    /// channel.tx_commit()?;
    /// # assert!(channel.basic_get("ledger")?.is_some());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn tx_select(&self) -> Result<()> {
        done(self.call(&Method::TxSelect))
    }

    /// Makes them take effect (pika: `tx_commit`; specification 1.9.2.3).
    ///
    /// What other threads publish, acknowledge or call on this channel meanwhile waits until the broker has replied, since RabbitMQ
    /// takes nothing there while it commits and closes the connection over it (504). They wait for `rpc_timeout` at most, and fail
    /// with [`Error::Timeout`](crate::Error::Timeout) then, and nothing is sent. [`close`](Channel::close) does not wait. What
    /// they send belongs to the next transaction; threads that are not to share one need channels of their own.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("ledger")?;
    /// channel.tx_select()?;
    /// channel.basic_publish("", "ledger", "from A: 10")?;
    /// channel.tx_commit()?; // the next transaction begins with this
    /// # assert!(channel.basic_get("ledger")?.is_some());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`Error::ChannelClosedByBroker`](crate::Error::ChannelClosedByBroker) (406) if the channel has no transaction or this one has
    /// too many publishes (see [`tx_select`](Channel::tx_select)), and as every call.
    /// After any other error the broker may have committed or not: the channel or the connection ended, or the time was up, before
    /// it replied. So a program that publishes all of it again needs a way to recognise what came twice.
    pub fn tx_commit(&self) -> Result<()> {
        done(self.call(&Method::TxCommit))
    }

    /// Drops them (pika: `tx_rollback`; specification 1.9.2.5).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// # channel.queue_declare("ledger")?;
    /// channel.tx_select()?;
    /// channel.basic_publish("", "ledger", "from A: 10")?;
    /// channel.tx_rollback()?;
    /// assert!(channel.basic_get("ledger")?.is_none());
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`tx_commit`](Channel::tx_commit).
    pub fn tx_rollback(&self) -> Result<()> {
        done(self.call(&Method::TxRollback))
    }

    /// Asks the broker to pause or resume deliveries; returns whether they are active (pika: `flow`; specification
    /// 1.5.2.3). RabbitMQ knows only `true`; use [`basic_qos`](Channel::basic_qos) to limit what it sends.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/doc_example.rs"));
    /// # fn main() { example(|_connection, channel| {
    /// assert!(channel.flow(true)?);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As every call.
    pub fn flow(&self, active: bool) -> Result<bool> {
        match self.call(&Method::ChannelFlow { active })? {
            Reply::Active(active) => Ok(active),
            _ => Ok(active),
        }
    }
}
