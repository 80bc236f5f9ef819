//! Retries with a delay, and gives up: a message that fails is rejected, waits in a queue of its own, and comes back; after
//! three times it goes to a queue for people to look at.
//!
//! Shows: dead letters, `x-message-ttl` as a delay, the header `x-death`. pika has no page for it; RabbitMQ's are "Dead Letter
//! Exchanges" and "Time-To-Live".
//! Run: `cargo run --example retry_with_dead_letters`. It sends itself three messages, and ends when all have come to their end.

use std::time::Duration;

use haypile::{BasicNack, BasicProperties, Connection, Consume, FieldValue, QueueDeclare};

const WORK: &str = "retry.work";
const WAIT: &str = "retry.wait";
const FAILED: &str = "retry.failed";
const TRIES: i64 = 3;

/// How often this queue has rejected the message, as the broker counts.
fn rejections(properties: &BasicProperties, queue: &str) -> i64 {
    let deaths = properties
        .get_header("x-death")
        .and_then(FieldValue::as_array);
    let text = |death: &FieldValue, key: &str| Some(death.get(key)?.as_str()?.to_owned());
    let of_queue = |death: &&FieldValue| {
        text(death, "queue").as_deref() == Some(queue)
            && text(death, "reason").as_deref() == Some("rejected")
    };
    let death = deaths.and_then(|deaths| deaths.iter().find(of_queue));
    death
        .and_then(|death| death.get("count")?.as_i64())
        .unwrap_or(0)
}

/// The work, which may fail.
fn handle(body: &[u8]) -> Result<(), String> {
    match body {
        b"good" => Ok(()),
        _ => Err(format!("cannot handle {:?}", String::from_utf8_lossy(body))),
    }
}

fn main() -> haypile::Result<()> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;

    // What is rejected in WORK goes to WAIT; what has waited there for long enough goes back to WORK.
    let dead_letters_to = |name: &str, to: &str| {
        QueueDeclare::new(name)
            .durable(true)
            .argument("x-dead-letter-exchange", "")
            .argument("x-dead-letter-routing-key", to)
    };
    channel.queue_declare(dead_letters_to(WORK, WAIT))?;
    channel.queue_declare(dead_letters_to(WAIT, WORK).argument("x-message-ttl", 200))?;
    channel.queue_declare(QueueDeclare::new(FAILED).durable(true))?;

    for body in ["good", "bad", "worse"] {
        channel.basic_publish("", WORK, body)?;
    }

    channel.confirm_delivery()?;
    channel.basic_qos(10)?;
    let messages = channel.consume(Consume::new(WORK).idle_exit(Duration::from_secs(2)))?;
    for message in messages {
        let (method, properties, body) = message?;
        let text = String::from_utf8_lossy(&body).into_owned();
        match handle(&body) {
            Ok(()) => {
                println!("{text}: done");
                channel.basic_ack(method.delivery_tag)?;
            }
            Err(error) => {
                let tries = rejections(&properties, WORK) + 1;
                println!("{text}: try {tries} of {TRIES} failed: {error}");
                if tries < TRIES {
                    channel.basic_nack(BasicNack::new(method.delivery_tag).requeue(false))?;
                } else {
                    // The broker has it (the channel confirms) before it is acknowledged here.
                    let properties = properties.header("error", error);
                    channel.basic_publish_with("", FAILED, body, properties)?;
                    channel.basic_ack(method.delivery_tag)?;
                    println!("{text}: given up, see {FAILED}");
                }
            }
        }
    }
    channel.cancel()?;
    Ok(())
}
