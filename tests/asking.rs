//! Asking how things stand has no effects: none of the program's own `Drop`s runs.

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

use haypile::Connection;
use support::peer::Peer;
use support::{bounded, wait_until, SOON};

struct Witness(Arc<AtomicUsize>);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn asking_a_lost_connection_drops_no_callback() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.accept_consumer(1);
            session.accept_consumer(1);
        });
        let connection = Connection::open(peer.url().as_str()).unwrap();
        let channel = connection.channel().unwrap();
        let dropped = Arc::new(AtomicUsize::new(0));
        let witness = || Witness(Arc::clone(&dropped));
        let (one, two, three, four) = (witness(), witness(), witness(), witness());
        channel
            .basic_consume("q", move |_, _, _, _| drop_nothing(&one))
            .unwrap();
        channel.add_on_cancel_callback(move |_, _| drop_nothing(&two));
        connection
            .call_later(Duration::from_secs(3600), move || drop_nothing(&three))
            .unwrap();
        connection.add_on_connection_blocked_callback(move |_, _| drop_nothing(&four));
        let messages = channel.consume("q").unwrap();
        wait_until(SOON, || connection.is_closed());
        for _ in 0..3 {
            assert!(!connection.is_open() && !channel.is_open() && channel.is_closed());
            assert!(channel.consumer_tags().is_empty());
            assert!(messages.is_cancelled() && messages.ended().is_some());
            assert_eq!(channel.get_waiting_message_count(), 0);
            let _ = format!("{connection:?} {channel:?} {messages:?}");
            let _ = (connection.blocked(), channel.connection());
        }
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        // A call that reports the end lets them go.
        connection.process_data_events(Duration::ZERO).unwrap_err();
        assert_eq!(dropped.load(Ordering::SeqCst), 4);
        drop(peer);
    });
}

fn drop_nothing(_: &Witness) {}
