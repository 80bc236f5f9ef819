//! A program's logger may touch the connection that logs.

mod support;

use haypile::Connection;
use std::sync::OnceLock;
use support::bounded;

struct Appender;
static CONNECTION: OnceLock<Connection> = OnceLock::new();

impl log::Log for Appender {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, _: &log::Record<'_>) {
        if let Some(connection) = CONNECTION.get() {
            let _ = connection.is_open();
        }
    }
    fn flush(&self) {}
}

#[test]
fn a_logger_may_use_the_connection_that_logs() {
    bounded(|| {
        log::set_logger(&Appender).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
        let connection = support::open();
        let _ = CONNECTION.set(connection.clone());
        let channel = connection.channel().unwrap();
        let queue = support::exclusive_queue(&channel);
        channel.basic_consume(&queue, |_, _, _, _| ()).unwrap();
        drop(channel);
    });
}
