//! What is said to RabbitMQ and to the broker for tests in the same words, topic by topic, and must come out the same.

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
