//! The same methods sent to RabbitMQ and to the broker for tests, topic by topic: the same must come back.

mod closing;
mod consuming;
mod contents;
mod dead_letters;
mod edges;
mod handshake;
mod limits;
mod lives;
mod publishing;
mod redelivery;
mod replies;
mod routing;
mod times;
mod turns;
