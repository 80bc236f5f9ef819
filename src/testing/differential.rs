//! The broker for tests against a real RabbitMQ: random sequences of operations, applied to both, and
//! everything that comes back compared. Needs `AMQP_URL`. It runs for some seconds, or for `HAYPILE_DIFFERENTIAL_SECONDS`.
//!
//! After each operation everything is waited for, so that what RabbitMQ does on the side has happened. Not compared is what
//! RabbitMQ does not promise: the order of deliveries from several queues, and how confirms are put together.

mod client;
mod driver;
mod methods;
mod operations;
mod requests;
mod scripts;
mod shown;
mod transcript;

use std::cell::RefCell;
use std::time::{Duration, Instant};

use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use super::Broker;
use driver::{Pair, Side};
use operations::{sequence, Operation, What};

/// How many sequences are tried when no time is given.
const SEQUENCES: u32 = 20;

fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    }
}

/// Applies a sequence to both, and reports the first difference. `change` makes of each operation what the second one gets.
fn compare(
    sides: [Side; 2],
    operations: &[Operation],
    change: impl Fn(&Operation) -> Operation,
) -> Result<(), TestCaseError> {
    let mut pair = Pair::new(sides);
    for operation in operations {
        let operation = match pair.is_rabbitmq_3() {
            true => operation.for_rabbitmq_3(),
            false => Some(operation.clone()),
        };
        let Some(operation) = operation else {
            continue;
        };
        pair.apply(&operation, &change(&operation));
        if let Some(difference) = pair.difference() {
            let text = format!("after {operation:?}:\n{difference}");
            return Err(TestCaseError::fail(text));
        }
    }
    Ok(())
}

#[test]
fn everything_comes_back_as_from_rabbitmq() {
    let rabbitmq =
        std::env::var("AMQP_URL").expect("AMQP_URL: run the tests by scripts/with-broker");
    let seconds = std::env::var("HAYPILE_DIFFERENTIAL_SECONDS").ok();
    let seconds: Option<u64> = seconds.map(|seconds| seconds.parse().expect("a number of seconds"));
    let deadline = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let tried = RefCell::new(0);
    while {
        let outcome = TestRunner::new(config(SEQUENCES)).run(&sequence(), |operations| {
            *tried.borrow_mut() += 1;
            let rabbitmq = Side::new(&rabbitmq, None);
            let version = rabbitmq.version();
            let builder = Broker::builder().global_qos(version < (4, 3));
            let broker = builder.start().unwrap();
            let own = Side::new(&broker.url(), Some(version));
            compare([rabbitmq, own], &operations, Operation::clone)
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
        deadline.is_some_and(|deadline| Instant::now() < deadline)
    } {}
    println!("{} sequences agreed", tried.borrow());
}

/// Two brokers for tests, one of which drops what is to be requeued: that is found, and nearly all operations that have nothing to
/// do with it are taken out of the sequence.
#[test]
fn a_difference_is_found_and_shrunk_to_a_few_operations() {
    const SEQUENCES: u32 = 200;
    const VERSION: (u32, u32) = (4, 3);
    let drop_instead = |operation: &Operation| {
        let mut operation = operation.clone();
        if let What::Acknowledge { requeue, .. } = &mut operation.what {
            *requeue = false;
        }
        operation
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config(SEQUENCES), rng);
    let outcome = runner.run(&sequence(), |operations| {
        let brokers = [Broker::start().unwrap(), Broker::start().unwrap()];
        let sides = brokers
            .each_ref()
            .map(|broker| Side::new(&broker.url(), Some(VERSION)));
        compare(sides, &operations, drop_instead)
    });
    let Err(TestError::Fail(reason, operations)) = outcome else {
        panic!("{outcome:?}");
    };
    println!("{reason}\n{operations:#?}");
    // A queue, a message, its delivery and what becomes of it; and how one sees it.
    assert!(operations.len() <= 6, "{operations:#?}");
}
