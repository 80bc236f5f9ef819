//! A health check: does the broker take a login, is the queue there, does it have a consumer, and how much waits? Ends with 0 if
//! all is well, and with 1 and the reason if not.
//!
//! Mirrors: `queue_declare(queue, passive=True)`, by which pika's users do this. A passive declaration changes nothing.
//! Run: `cargo run --example health_check -- QUEUE [MOST]`, where MOST is how many messages may wait (default 1000).

use std::process::ExitCode;
use std::time::Duration;

use haypile::{Connection, ConnectionParameters, QueueDeclare};

fn check(queue: &str, most: u32) -> Result<String, String> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    // A check that hangs is worth nothing.
    let parameters = ConnectionParameters::from_url(url)
        .map_err(|error| error.to_string())?
        .socket_timeout(Duration::from_secs(3))
        .stack_timeout(Duration::from_secs(5))
        .rpc_timeout(Duration::from_secs(5));
    let connection = Connection::open(parameters).map_err(|error| {
        let kind = match error.is_retryable() {
            true => "the broker cannot be reached",
            false => "the broker refuses this program",
        };
        format!("{kind}: {error}")
    })?;
    let channel = connection.channel().map_err(|error| error.to_string())?;
    let found = match channel.queue_declare(QueueDeclare::new(queue).passive(true)) {
        Ok(found) => found,
        Err(error) if error.reply_code() == Some(404) => {
            return Err(format!("there is no queue {queue:?}"))
        }
        Err(error) => return Err(error.to_string()),
    };
    let (waiting, consumers) = (found.message_count, found.consumer_count);
    if consumers == 0 {
        return Err(format!(
            "{queue:?} has no consumer; {waiting} messages wait"
        ));
    }
    if waiting > most {
        return Err(format!(
            "{waiting} messages wait in {queue:?}, more than {most}"
        ));
    }
    connection.close().map_err(|error| error.to_string())?;
    Ok(format!(
        "{queue:?}: {waiting} messages wait, {consumers} consumers"
    ))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (queue, most) = match &arguments[..] {
        [queue] => (queue, Ok(1000)),
        [queue, most] => (queue, most.parse()),
        _ => {
            eprintln!("usage: health_check QUEUE [MOST]");
            return ExitCode::from(2);
        }
    };
    let Ok(most) = most else {
        eprintln!("MOST must be a number");
        return ExitCode::from(2);
    };
    match check(queue, most) {
        Ok(text) => {
            println!("healthy: {text}");
            ExitCode::SUCCESS
        }
        Err(text) => {
            println!("unhealthy: {text}");
            ExitCode::FAILURE
        }
    }
}
