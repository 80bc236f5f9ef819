//! Replies to the requests in the queue `rpc_queue`.
//!
//! Document: RabbitMQ (categories: Python)
//! Section: RPC(Remote Procedure Call), 服务端
//!
//! `direct_rpc_server` is such a server by the type that haypile has for it.

mod common;

use common::python;
use haypile::{BasicConsume, BasicProperties, Connection};

/// What the server does for its clients.
fn reply_to_request(request: &[u8]) -> Vec<u8> {
    [b"return ", request].concat()
}

fn main() -> Result<(), common::Failure> {
    let args = common::Usage::new("Replies to the requests in the queue `rpc_queue`.")
        .count()
        .parse();
    let mut countdown = args.countdown();

    let queue_name = args.name("rpc_queue");
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    channel.queue_declare(&queue_name)?;
    channel.basic_consume(
        BasicConsume::new(&queue_name).auto_ack(true),
        move |channel, _method, properties, body| {
            println!("Request content {}", python::repr_bytes(&body));
            // Bytes: the original ends with an error if a request is no UTF-8.
            let reply = reply_to_request(&body);

            // The request has the queue for the reply, and the id by which the client will know it.
            match &properties.reply_to {
                Some(queue) => {
                    let mut same_id = BasicProperties::new();
                    same_id.correlation_id = properties.correlation_id.clone();
                    channel.basic_publish_with("", queue, reply, same_id)?;
                }
                None => eprintln!("the request has no reply_to"),
            }
            if countdown.last() {
                channel.stop_consuming()?;
            }
            Ok(())
        },
    )?;
    println!("Waiting RPC requests");
    channel.start_consuming()?;
    Ok(())
}
