// What the examples in the documentation begin with, hidden: a connection and a channel of the broker for tests, so that
// `cargo test --doc --all-features` needs nothing else. Without the feature `testing` they are compiled and not run.
// No part of the crate: each example includes this file.

type Body = fn(&haypile::Connection, &haypile::Channel) -> haypile::Result<()>;

#[cfg(feature = "testing")]
fn example(body: Body) {
    let broker = haypile::testing::Broker::start().unwrap();
    let connection = broker.connect(haypile::ConnectionParameters::default()).unwrap();
    let channel = connection.channel().unwrap();
    body(&connection, &channel).unwrap();
}

#[cfg(not(feature = "testing"))]
fn example(_body: Body) {}
