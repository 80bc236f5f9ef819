//! Deletes the queues and exchanges that the other examples declared with the same `--prefix`, and what is in them. No twin of
//! any program.

mod common;
#[path = "common/names.rs"]
mod names;

use haypile::Connection;
use names::{EXCHANGES, QUEUES};

fn main() -> Result<(), common::Failure> {
    let args =
        common::Usage::new("Deletes what the examples declared with the same --prefix.").parse();
    // Without one, these could be another program's.
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
