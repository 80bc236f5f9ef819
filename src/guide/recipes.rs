//! What is wanted most often, to copy.
//!
//! # JSON in and out
//!
//! With the crates `serde` and `serde_json`. A body that is no JSON will be none next time: it is refused for good, not put back.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::{BasicNack, BasicProperties, Connection};
//! use serde_json::{json, Value};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("orders")?;
//! let properties = BasicProperties::new().content_type("application/json").delivery_mode(2);
//! let order = json!({ "item": "hat", "count": 2 });
//! channel.basic_publish_with("", "orders", order.to_string(), &properties)?;
//! channel.basic_publish_with("", "orders", "{", &properties)?;
//!
//! let mut counted = 0;
//! for message in channel.consume("orders")?.take(2) {
//!     let (method, _properties, body) = message?;
//!     match serde_json::from_slice::<Value>(&body) {
//!         Ok(order) => {
//!             counted += order["count"].as_i64().unwrap_or(0);
//!             channel.basic_ack(method.delivery_tag)?;
//!         }
//!         Err(error) => {
//!             eprintln!("refused: {error}");
//!             channel.basic_nack(BasicNack::new(method.delivery_tag).requeue(false))?;
//!         }
//!     }
//! }
//! assert_eq!(counted, 2);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! A struct with `#[derive(Serialize, Deserialize)]` takes the place of `Value`. The feature `serde` is something else: with it,
//! haypile's own properties and tables can be serialized.
//!
//! # Headers, and `x-death`
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::{BasicProperties, BasicReject, Connection, QueueDeclare};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("failed")?;
//! channel.queue_declare(
//!     QueueDeclare::new("tasks")
//!         .argument("x-dead-letter-exchange", "")
//!         .argument("x-dead-letter-routing-key", "failed"),
//! )?;
//! let properties = BasicProperties::new().header("tenant", "acme").header("attempt", 1);
//! channel.basic_publish_with("", "tasks", "dig", &properties)?;
//!
//! let (method, properties, _body) = channel.basic_get("tasks")?.unwrap();
//! assert_eq!(properties.get_header("tenant").and_then(|tenant| tenant.as_str()), Some("acme"));
//! assert_eq!(properties.get_header("attempt").and_then(|attempt| attempt.as_i64()), Some(1));
//! channel.basic_reject(BasicReject::new(method.delivery_tag).requeue(false))?;
//!
//! // The dead letter says where it died, why, and how often: a list of tables, the latest first.
//! let (_method, properties, _body) = channel.basic_get("failed")?.unwrap();
//! let death = &properties.get_header("x-death").unwrap().as_array().unwrap()[0];
//! assert_eq!(death.get("queue").and_then(|queue| queue.as_str()), Some("tasks"));
//! assert_eq!(death.get("reason").and_then(|reason| reason.as_str()), Some("rejected"));
//! assert_eq!(death.get("count").and_then(|count| count.as_i64()), Some(1));
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Retry with dead letters
//!
//! A task that fails waits in `tasks.wait` until it expires, and so comes back to `tasks`. After three tries it stays in `tasks.failed`.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::{BasicProperties, BasicPublish, BasicReject, Connection, QueueDeclare};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare(QueueDeclare::new("tasks.failed").durable(true))?;
//! channel.queue_declare(
//!     QueueDeclare::new("tasks.wait")
//!         .durable(true)
//!         .argument("x-message-ttl", 20) // milliseconds; minutes in real life
//!         .argument("x-dead-letter-exchange", "")
//!         .argument("x-dead-letter-routing-key", "tasks"),
//! )?;
//! channel.queue_declare(
//!     QueueDeclare::new("tasks")
//!         .durable(true)
//!         .argument("x-dead-letter-exchange", "")
//!         .argument("x-dead-letter-routing-key", "tasks.wait"),
//! )?;
//! channel.basic_publish_with("", "tasks", "impossible", BasicProperties::new().delivery_mode(2))?;
//!
//! /// How often the message was rejected.
//! fn tries(properties: &BasicProperties) -> i64 {
//!     let deaths = properties.get_header("x-death").and_then(|deaths| deaths.as_array()).unwrap_or(&[]);
//!     let rejected = deaths.iter().find(|death| death.get("reason").and_then(|reason| reason.as_str()) == Some("rejected"));
//!     rejected.and_then(|death| death.get("count")?.as_i64()).unwrap_or(0)
//! }
//!
//! // What cannot be done is acknowledged only when the broker has its copy.
//! channel.confirm_delivery()?;
//! channel.basic_qos(10)?;
//! for message in channel.consume("tasks")? {
//!     let (method, properties, body) = message?;
//!     let done = false; // the work, which fails here
//!     if done {
//!         channel.basic_ack(method.delivery_tag)?;
//!     } else if tries(&properties) < 2 {
//!         channel.basic_reject(BasicReject::new(method.delivery_tag).requeue(false))?;
//!     } else {
//!         let kept = BasicPublish::new().mandatory(true).properties(&properties);
//!         channel.basic_publish_with("", "tasks.failed", body, kept)?;
//!         channel.basic_ack(method.delivery_tag)?;
//!         break;
//!     }
//! }
//! assert_eq!(channel.basic_get("tasks.failed")?.unwrap().2, b"impossible");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Delays
//!
//! A queue for each delay: what expires in it goes to the queue of the work. One queue with a delay of its own for each message
//! does not do, because a message expires only when it is the first: one of an hour holds up one of a minute behind it.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::{Connection, QueueDeclare};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("tasks")?;
//! channel.queue_declare(
//!     QueueDeclare::new("tasks.in-5m")
//!         .argument("x-message-ttl", 300_000)
//!         .argument("x-dead-letter-exchange", "")
//!         .argument("x-dead-letter-routing-key", "tasks"),
//! )?;
//! channel.basic_publish("", "tasks.in-5m", "remind me")?;
//! # channel.queue_declare("tasks")?;
//! # broker.expire_messages("tasks.in-5m");
//! # // Five minutes later:
//! assert_eq!(channel.basic_get("tasks")?.unwrap().2, b"remind me");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Replying to a request
//!
//! [`RpcServer`](crate::RpcServer) and [`RpcClient`](crate::RpcClient) do it whole: correlation, deadlines, errors. By hand, for
//! a client in another language, it is this:
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::{BasicProperties, BasicReject, Connection};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("rpc_queue")?;
//! # channel.queue_declare("replies")?;
//! # channel.basic_publish_with("", "rpc_queue", "20", BasicProperties::new().reply_to("replies").correlation_id("7"))?;
//! channel.basic_qos(1)?;
//! channel.basic_consume("rpc_queue", |channel, method, properties, body| {
//!     let number = std::str::from_utf8(&body).ok().and_then(|text| text.trim().parse::<i64>().ok());
//!     let (Some(reply_to), Some(number)) = (properties.reply_to, number) else {
//!         // Without an address, or no number: it will be the same next time.
//!         return channel.basic_reject(BasicReject::new(method.delivery_tag).requeue(false));
//!     };
//!     let mut reply = BasicProperties::new();
//!     reply.correlation_id = properties.correlation_id;
//!     channel.basic_publish_with("", reply_to, (number + 1).to_string(), reply)?;
//!     channel.basic_ack(method.delivery_tag)
//! })?;
//! # channel.connection().process_data_events(std::time::Duration::from_secs(5))?;
//! # assert_eq!(channel.basic_get("replies")?.unwrap().2, b"21");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Acks in batches
//!
//! One ack with `multiple` stands for all up to it. haypile gathers single acks that go out together by itself, so this is for
//! work that is done in batches, such as rows for a database.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::time::Duration;
//! use haypile::{BasicAck, Connection};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare("rows")?;
//! for n in 0..25 {
//!     channel.basic_publish("", "rows", n.to_string())?;
//! }
//! channel.basic_qos(20)?; // at least a batch
//! let (mut batch, mut last, mut written) = (Vec::new(), 0, 0);
//! for event in channel.consume("rows")?.inactivity_timeout(Duration::from_millis(200)) {
//!     let idle = match event? {
//!         Some((method, _properties, body)) => {
//!             last = method.delivery_tag;
//!             batch.push(body);
//!             false
//!         }
//!         None => true, // nothing came for a while: write what there is
//!     };
//!     if batch.len() == 10 || idle && !batch.is_empty() {
//!         written += batch.drain(..).count();
//!         channel.basic_ack(BasicAck::new(last).multiple(true))?;
//!     }
//!     if written == 25 {
//!         break;
//!     }
//! }
//! assert_eq!(written, 25);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Priorities
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use haypile::{BasicProperties, Connection, QueueDeclare};
//!
//! let channel = Connection::open(url)?.channel()?;
//! channel.queue_declare(QueueDeclare::new("tasks").argument("x-max-priority", 5))?; // classic queues; few levels cost less
//! channel.basic_publish_with("", "tasks", "some day", BasicProperties::new().priority(1))?;
//! channel.basic_publish_with("", "tasks", "at once", BasicProperties::new().priority(5))?;
//! assert_eq!(channel.basic_get("tasks")?.unwrap().2, b"at once");
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! With `basic_qos(1)`: what was prefetched already is not overtaken.
//!
//! # Health check
//!
//! A passive declaration of something missing closes its channel; [`queue_exists`](crate::Connection::queue_exists) asks on a
//! channel of its own, so that no other channel is closed.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::time::Duration;
//! use haypile::{Connection, ConnectionParameters};
//!
//! # Connection::open(url.as_str())?.channel()?.queue_declare("tasks")?;
//! let parameters = ConnectionParameters::from_url(&url)?
//!     .stack_timeout(Duration::from_secs(2))
//!     .rpc_timeout(Duration::from_secs(2));
//! let connection = Connection::open(parameters)?; // an error says how far it came
//! match connection.queue_exists("tasks")? {
//!     Some(queue) if queue.consumer_count == 0 => println!("{} messages and no consumer", queue.message_count),
//!     Some(queue) => println!("fine: {} consumers", queue.consumer_count),
//!     None => println!("there is no such queue"),
//! }
//! connection.close()?;
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
//!
//! # Moving a queue
//!
//! Message by message: published with confirms where it goes, acknowledged where it was. If it is interrupted, one message may be
//! in both, and none is lost.
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # fn main() -> haypile::Result<()> {
//! # let broker = haypile::testing::Broker::start()?;
//! # let url = broker.url();
//! use std::time::Duration;
//! use haypile::{BasicPublish, Connection, Consume};
//!
//! let connection = Connection::open(url)?;
//! let (from, to) = (connection.channel()?, connection.channel()?);
//! from.queue_declare("old")?;
//! to.queue_declare("new")?;
//! # for n in 0..3 { from.basic_publish("", "old", n.to_string())?; }
//! to.confirm_delivery()?;
//! from.basic_qos(100)?;
//! let mut moved = 0;
//! for message in from.consume(Consume::new("old").idle_exit(Duration::from_millis(300)))? {
//!     let (method, properties, body) = message?;
//!     to.basic_publish_with("", "new", body, BasicPublish::new().mandatory(true).properties(&properties))?;
//!     from.basic_ack(method.delivery_tag)?;
//!     moved += 1;
//! }
//! from.cancel()?;
//! assert_eq!(moved, 3);
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "testing"))]
//! # fn main() {}
//! ```
