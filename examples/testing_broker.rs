//! Serves with the broker for tests (`haypile::testing`): prints its URL, and ends when its standard input does.
//!
//! `scripts/with-broker --testing COMMAND` runs a command with it. For programs in other languages.

use std::io::Read;

use haypile::testing::Broker;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let broker = Broker::start()?;
    println!("{}", broker.url());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
