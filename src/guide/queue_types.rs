//! Quorum queues and streams, and what RabbitMQ 4 refuses. All that is said here was seen on RabbitMQ 3.10, 4.0 and 4.3.
//!
//! # Which type
//!
//! | | classic | quorum | stream |
//! | --- | --- | --- | --- |
//! | `x-queue-type` | none, or `"classic"` | `"quorum"` | `"stream"` |
//! | for | short-lived, private, fast | work that must not be lost when a node is | many readers, reading again |
//! | copies on other nodes | none, from RabbitMQ 4.0 on | yes | yes |
//! | durable | as you say | must be | must be |
//! | exclusive, auto-delete | yes | no (406) | no (406) |
//! | `x-max-priority` | yes | no (406). Without it: up to 4 and above 4 from 4.0 on, each number up to 31 on 4.3 | no (406) |
//! | `x-message-ttl`, dead letters | yes | yes | no (406) |
//! | `basic_get`, `auto_ack`, `queue_purge` | yes | yes | no (540, which closes the connection) |
//!
//! ```no_run
//! # fn main() -> haypile::Result<()> {
//! # let channel = haypile::Connection::open("amqp://localhost")?.channel()?;
//! use haypile::QueueDeclare;
//!
//! channel.queue_declare(
//!     QueueDeclare::new("orders")
//!         .durable(true)
//!         .argument("x-queue-type", "quorum")
//!         .argument("x-delivery-limit", 5)
//!         .argument("x-dead-letter-exchange", "")
//!         .argument("x-dead-letter-routing-key", "orders.failed"),
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! The type of a queue is fixed when it is declared. A virtual host can have a default type, so that a plain declaration makes a
//! quorum queue: after a change of that default, programs that declare what was there before are refused with 406 `inequivalent
//! arg 'x-queue-type'`. Say the type in the declaration and both agree.
//!
//! # Delivery limits
//!
//! A quorum queue counts in the header `x-delivery-count` how often a message came back. When it has come back more often than
//! the limit, it is dead-lettered with the reason `delivery_limit`, or, **without a dead letter exchange, dropped**.
//!
//! | | 3.10 | 4.0 | 4.3 |
//! | --- | --- | --- | --- |
//! | limit without `x-delivery-limit` | none | 20 | 20 |
//! | counted: consumer, channel or connection lost | yes | yes | yes |
//! | counted: `basic_reject` with requeue | yes | yes | yes |
//! | counted: `basic_nack` with requeue | yes | yes | **no**: such a message can go round for ever; `x-acquired-count` counts it |
//!
//! So a consumer that gives back what it cannot do uses `basic_reject(tag)`, or refuses it for good after some tries:
//!
//! ```no_run
//! # fn main() -> haypile::Result<()> {
//! # let channel = haypile::Connection::open("amqp://localhost")?.channel()?;
//! use haypile::BasicReject;
//!
//! channel.basic_qos(10)?;
//! channel.basic_consume("orders", |channel, method, properties, body| {
//!     let tries = properties.get_header("x-delivery-count").and_then(|count| count.as_i64()).unwrap_or(0);
//!     if body.is_empty() {
//!         return channel.basic_reject(BasicReject::new(method.delivery_tag).requeue(tries < 3));
//!     }
//!     channel.basic_ack(method.delivery_tag)
//! })?;
//! # Ok(())
//! # }
//! ```
//!
//! # Streams
//!
//! A stream keeps its messages when they are read, and each reader says where to begin. Over AMQP 0-9-1 it is read with a
//! prefetch limit and by acks, which ask for more:
//!
//! ```no_run
//! # fn main() -> haypile::Result<()> {
//! # let channel = haypile::Connection::open("amqp://localhost")?.channel()?;
//! use haypile::{BasicConsume, QueueDeclare};
//!
//! channel.queue_declare(
//!     QueueDeclare::new("history")
//!         .durable(true)
//!         .argument("x-queue-type", "stream")
//!         .argument("x-max-age", "7D"),
//! )?;
//! channel.basic_qos(100)?; // refused without: 406
//! channel.basic_consume(
//!     BasicConsume::new("history").argument("x-stream-offset", "first"),
//!     |channel, method, properties, _body| {
//!         let offset = properties.get_header("x-stream-offset").and_then(|offset| offset.as_i64());
//!         println!("{offset:?}"); // keep it to go on from there next time
//!         channel.basic_ack(method.delivery_tag)
//!     },
//! )?;
//! # Ok(())
//! # }
//! ```
//!
//! | `x-stream-offset` | begins with |
//! | --- | --- |
//! | `"first"` | the oldest message there is |
//! | `"last"` | the last chunk written: one message or many |
//! | `"next"`, or none | what comes from now on |
//! | a number, such as `7i64` | the message with this offset |
//! | `FieldValue::timestamp(seconds)` | the chunk of that time |
//! | `"5m"`, `"1h"`, `"7D"` | so long ago |
//! | any other text | refused: 406 on 4.3; 3.10 and 4.0 close the connection with a bare 541 |
//!
//! To give a message of a stream back is of no use: it is there (and 3.10 ends the connection that tries). Its `x-stream-offset`
//! numbers the messages, so a reader that keeps the last one it has done goes on from there, with `x-stream-offset` one higher,
//! after a restart.
//!
//! # What RabbitMQ 4 refuses, and what to declare instead
//!
//! | what | what happens | instead |
//! | --- | --- | --- |
//! | a queue neither durable nor exclusive, such as pika's `queue_declare("q")` | deprecated. 4.0 and 4.3 still make it, and haypile logs one warning for each connection; where the operator denies it (`deprecated_features.permit.transient_nonexcl_queues = false`) 541 closes the connection | `.durable(true)`, or `.exclusive(true)` for a queue of the program's own |
//! | `basic_qos` with `global` | on quorum queues 540 closes the connection (3.10, 4.0); on 4.3 each consumer has the limit for itself, on classic queues as well | `basic_qos(n)` |
//! | a message above 16 MiB | 406 from 4.0 on; before, the limit was 128 MiB | parts, or a reference; `max_message_size` in the broker's configuration |
//! | `frame_max` below 8192 | refused from 4.1 on; haypile refuses to ask for it | leave it out |
//! | mirrored classic queues (`ha-mode` policies) | gone in 4.0 | quorum queues |
//! | `x-ha-policy` | taken, and means nothing since 3.0 | quorum queues |
//! | `x-queue-mode: lazy` | taken; means nothing to the queues of RabbitMQ 4 | leave it out |
//! | exchange type `x-delayed-message` without its plugin | 406 from 4.0 on; 503 on 3.10, which closes the connection | [delays by expiry](super::recipes#delays) |
//!
//! Each error of this table says what to do, in its text.
