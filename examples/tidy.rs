//! Deletes the queues and exchanges that the other examples declared with the same `--prefix`, and what is in them. No twin of
//! any program.

mod common;

use haypile::Connection;

const QUEUES: [&str; 9] = [
    "test",
    "queue_aoto_1",
    "queue_aoto_2",
    "anheng",
    "compute_queue",
    "hello",
    "hello1",
    "rpc_queue",
    "my_queue",
];
const EXCHANGES: [&str; 7] = [
    "aoto_test",
    "yanfa",
    "logs",
    "hello2",
    "log1",
    "log2",
    "my_headers",
];

fn main() -> Result<(), common::Failure> {
    let args =
        common::Usage::new("Deletes what the examples declared with the same --prefix.").parse();
    // Without one, these could be somebody else's.
    if args.get("prefix").unwrap_or_default().is_empty() {
        common::fail("--prefix is needed");
    }
    let connection = Connection::open(args.connection())?;
    let channel = connection.channel()?;
    for name in QUEUES {
        channel.queue_delete(args.name(name))?;
    }
    for name in EXCHANGES {
        channel.exchange_delete(args.name(name))?;
    }
    connection.close()?;
    Ok(())
}
