//! The guide: what one needs every day, with examples that run.
//!
//! | page | read it when |
//! | --- | --- |
//! | [Exceptions](exceptions) | you know pika's exceptions and want to know what comes here |
//! | [Callback or iterator?](callback_or_iterator) | you write a consumer that has state of its own |
//! | [Publishing safely](publishing) | no message may be lost |
//! | [A consumer that survives](surviving) | the broker restarts, or Ctrl-C is pressed |
//! | [Prefetch and memory](prefetch) | you choose the number for `basic_qos` |
//! | [Threads](threads) | more than one thread uses a connection |
//! | [TLS](tls) | the broker is on another machine |
//! | [Testing your program](testing_programs) | you want tests that need no broker |
//! | [Streams and quorum queues](queue_types) | you move to RabbitMQ 4, or a queue must outlive a node |
//! | [Recipes](recipes) | JSON, headers, retry, delays, requests, batches, priorities, health checks, moving a queue |
//!
//! The examples run against the broker for tests (feature `testing`), so `cargo test --doc --all-features` needs
//! nothing else. In them `url` is that broker's; in your program it is something like `"amqp://user:password@host:5672/%2f"`.

pub mod callback_or_iterator;
pub mod exceptions;
pub mod prefetch;
pub mod publishing;
pub mod queue_types;
pub mod recipes;
pub mod surviving;
pub mod testing_programs;
pub mod threads;
pub mod tls;
