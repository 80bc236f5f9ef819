//! A compute node: takes numbers from the queue `compute_queue`, adds 1, and sends the result back.
//! Start as many as you like.
//!
//! Document: Python 操作 RabbitMQ 消息队列
//! Section: 远程结果返回 and 相互关联编号correlation id, compute.py of both

mod common;

use haypile::{BasicProperties, BasicReject, Connection};

/// `None` if the request is no number.
fn increase(request: &str) -> Option<i128> {
    let n: i128 = request.trim().parse().ok()?;
    n.checked_add(1)
}

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new(
        "Takes numbers from the queue `compute_queue` and replies to each with its successor.",
    )
    .count()
    .parse();
    let mut countdown = args.countdown();

    let queue_name = args.name("compute_queue");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.queue_declare(&queue_name)?;
    println!(" [*] Waiting for n");

    channel.basic_qos(1)?;
    channel.basic_consume(&queue_name, move |channel, method, properties, body| {
        let request = String::from_utf8_lossy(&body);
        println!(" [.] increase({request})");
        let Some(response) = increase(&request) else {
            // Not put back: it would come again, to each node in turn, and end it each time, as the original's does.
            eprintln!("{request:?} is no number; the request is rejected");
            channel.basic_reject(BasicReject::new(method.delivery_tag).requeue(false))?;
            if countdown.last() {
                channel.stop_consuming()?;
            }
            return Ok(());
        };

        // By the id the centre knows which of its requests this replies to. Without one in the request there is none here.
        match &properties.reply_to {
            Some(queue) => {
                let mut same_id = BasicProperties::new();
                same_id.correlation_id = properties.correlation_id.clone();
                channel.basic_publish_with("", queue, response.to_string(), same_id)?;
            }
            // Acknowledged all the same, or the request would come back at every start.
            None => eprintln!("the request has no reply_to"),
        }
        channel.basic_ack(method.delivery_tag)?;
        if countdown.last() {
            channel.stop_consuming()?;
        }
        Ok(())
    })?;
    channel.start_consuming()?;
    Ok(())
}
