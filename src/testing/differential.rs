//! The broker for tests against a real RabbitMQ: random sequences of operations, applied to both, and
//! everything that comes back compared. Needs `AMQP_URL`. It runs for some seconds, or for as long as `HAYPILE_DIFFERENTIAL_SECONDS` says.
//!
//! After each operation everything is waited for, so that what RabbitMQ does on the side has happened. Not compared is what
//! RabbitMQ does not promise: the order of deliveries from several queues, and how confirms are put together.

mod client;
mod driver;
mod methods;
mod operations;
mod scripts;
mod shown;
mod transcript;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::Broker;
use driver::{Pair, Side};
use operations::sequence;

/// How many sequences are tried when no time is given.
const SEQUENCES: u32 = 20;

#[test]
fn everything_comes_back_as_from_rabbitmq() {
    let rabbitmq =
        std::env::var("AMQP_URL").expect("AMQP_URL: run the tests by scripts/with-broker");
    let seconds = std::env::var("HAYPILE_DIFFERENTIAL_SECONDS").ok();
    let seconds: Option<u64> = seconds.map(|seconds| seconds.parse().expect("a number of seconds"));
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let tried = RefCell::new(0);
    while {
        let mut runner = TestRunner::new(Config {
            cases: SEQUENCES,
            failure_persistence: None,
            max_shrink_iters: 400,
            ..Config::default()
        });
        let outcome = runner.run(&sequence(), |operations| {
            *tried.borrow_mut() += 1;
            let rabbitmq = Side::new(&rabbitmq, None);
            let version = rabbitmq.version();
            let broker = Broker::builder()
                .global_qos(version < (4, 3))
                .start()
                .unwrap();
            let own = Side::new(&broker.url(), Some(version));
            let mut pair = Pair::new(rabbitmq, own);
            for operation in &operations {
                let operation = match pair.is_rabbitmq_3() {
                    true => operation.for_rabbitmq_3(),
                    false => Some(operation.clone()),
                };
                let Some(operation) = operation else {
                    continue;
                };
                pair.apply(&operation);
                if let Some(difference) = pair.difference() {
                    let text = format!("after {operation:?}:\n{difference}");
                    return Err(TestCaseError::fail(text));
                }
            }
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
        deadline.is_some_and(|deadline| Instant::now() < deadline)
    } {}
    println!("{} sequences agreed", tried.borrow());
}
