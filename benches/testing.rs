//! Messages a second on the broker for tests, and beside it on the RabbitMQ of `AMQP_URL`, in turns: publishing, publishing with
//! confirms, and consuming with an ack each.

use std::time::{Duration, Instant};

use haypile::testing::Broker;
use haypile::{Channel, Connection, QueueDeclare};

const MESSAGES: u32 = 100_000;
const ROUNDS: usize = 5;
const BODY: [u8; 16] = [b'x'; 16];

fn count(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclare::new(queue).passive(true);
    channel.queue_declare(passive).unwrap().message_count
}

/// Messages a second: published, published and confirmed, consumed.
fn round(url: &str) -> [f64; 3] {
    let connection = Connection::open(url).unwrap();
    let channel = connection.channel().unwrap();
    let queue = channel
        .queue_declare(QueueDeclare::new("").exclusive(true))
        .unwrap()
        .queue
        .to_string();
    let rate = |begun: Instant| f64::from(MESSAGES) / begun.elapsed().as_secs_f64();

    let begun = Instant::now();
    for _ in 0..MESSAGES {
        channel.basic_publish("", &queue, BODY).unwrap();
    }
    while count(&channel, &queue) < MESSAGES {
        std::thread::sleep(Duration::from_millis(1));
    }
    let published = rate(begun);
    channel.queue_purge(queue.as_str()).unwrap();

    let confirming = connection.channel().unwrap();
    let begun = Instant::now();
    let mut publisher = confirming.publisher(1000).unwrap();
    for _ in 0..MESSAGES {
        publisher.publish("", &queue, BODY).unwrap();
    }
    publisher
        .wait_for_confirms(Duration::from_secs(60))
        .unwrap();
    let confirmed = rate(begun);

    let consuming = connection.channel().unwrap();
    consuming.basic_qos(200).unwrap();
    let begun = Instant::now();
    for message in consuming
        .consume(queue.as_str())
        .unwrap()
        .take(MESSAGES as usize)
    {
        let (method, ..) = message.unwrap();
        consuming.basic_ack(method.delivery_tag).unwrap();
    }
    [published, confirmed, rate(begun)]
}

fn main() {
    let broker = Broker::start().unwrap();
    let rabbitmq = std::env::var("AMQP_URL").ok();
    println!("messages a second: published, published with confirms, consumed with acks");
    for _ in 0..ROUNDS {
        for (name, url) in [
            ("RabbitMQ", rabbitmq.clone()),
            ("testing", Some(broker.url())),
        ] {
            if let Some(url) = url {
                println!("{name:10} {:10.0?}", round(&url));
            }
        }
    }
}
