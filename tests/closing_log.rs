//! A drop cannot fail; the log has what it could not send. In a process of its own, for its logger.

mod support;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;

use haypile::{Channel, Connection, ConnectionParameters, Error, Stream};
use support::peer::{m, scripted_channel, Args, Peer};
use support::proxy::Proxy;
use support::{assert_matches, bounded, wait_until, SOON};

#[path = "support/capture.rs"]
mod capture;

/// How many bytes were not sent, as the log has it, in the lines of this peer.
fn unsent(proxy: &Proxy) -> Vec<usize> {
    let address = proxy.address().to_string();
    let logged = capture::logged();
    logged
        .lines()
        .filter(|line| line.contains(&address))
        .filter_map(|line| {
            let (before, _) = line.split_once(" bytes were not sent")?;
            before.rsplit(' ').next()?.parse().ok()
        })
        .collect()
}

#[test]
fn a_drop_logs_how_much_was_not_sent() {
    bounded(|| {
        capture::capture();
        // Lost before the drop, and noticed; lost by the drop, which does not wait for ever.
        for is_lost in [true, false] {
            let proxy = Proxy::start();
            let parameters = ConnectionParameters::from_url(proxy.url()).unwrap();
            let connection =
                Connection::open(parameters.rpc_timeout(Duration::from_millis(300))).unwrap();
            let channel = connection.channel().unwrap();
            proxy.hold_client();
            let body = vec![0; 20_000];
            let error = (0..10_000)
                .find_map(|_| channel.basic_publish("", "nowhere", &body).err())
                .expect("nothing is read");
            assert_matches!(error, Error::Timeout { .. });
            if is_lost {
                proxy.reset();
                wait_until(SOON, || connection.is_closed());
            }
            drop((channel, connection));
            let unsent = unsent(&proxy);
            assert!(
                unsent.iter().any(|bytes| *bytes > 100_000),
                "{is_lost}: {}",
                capture::logged()
            );
        }
    });
}

#[test]
fn a_drop_that_sent_everything_logs_no_warning() {
    bounded(|| {
        capture::capture();
        let proxy = Proxy::start();
        let channel = Connection::open(proxy.url()).unwrap().channel().unwrap();
        channel.basic_publish("", "nowhere", "body").unwrap();
        drop(channel);
        assert_eq!(unsent(&proxy), [0; 0]);
        let address = proxy.address().to_string();
        let logged = capture::logged();
        let warnings: Vec<&str> = logged
            .lines()
            .filter(|line| line.starts_with("WARN") && line.contains(&address))
            .collect();
        assert!(warnings.is_empty(), "{warnings:?}");
    });
}

/// How many lines of the log have this level, this peer and this text.
fn lines(level: &str, proxy: &Proxy, text: &str) -> usize {
    let (address, logged) = (proxy.address().to_string(), capture::logged());
    let lines = logged.lines().filter(|line| line.starts_with(level));
    lines
        .filter(|line| line.contains(&address) && line.contains(text))
        .count()
}

#[test]
fn each_end_is_logged_once_and_only_a_loss_is_a_warning() {
    bounded(|| {
        capture::capture();
        let ends = [(false, true), (true, true), (false, false), (true, false)];
        let mut proxies = Vec::new();
        for (is_old, is_closed) in ends {
            let proxy = Proxy::start();
            let connection = Connection::open(proxy.url()).unwrap();
            if is_old {
                // The thread that reads has started by then.
                let moment = Duration::from_millis(50);
                connection.process_data_events(moment).unwrap();
            }
            if is_closed {
                connection.close().unwrap();
                wait_until(SOON, || lines("DEBUG haypile", &proxy, ": closed") > 0);
            } else {
                proxy.reset();
                wait_until(SOON, || lines("WARN haypile", &proxy, "") > 0);
            }
            drop(connection);
            proxies.push(proxy);
        }
        for ((_, is_closed), proxy) in ends.iter().zip(&proxies) {
            let closed = lines("DEBUG haypile", proxy, ": closed");
            let lost = lines("WARN haypile", proxy, "");
            let expected = if *is_closed { (1, 0) } else { (0, 1) };
            assert_eq!((closed, lost), expected, "{}", capture::logged());
        }
    });
}

/// A main thread's end is the process's; another's need not be, and is no reason to warn.
#[test]
fn the_end_of_the_process_warns_of_what_the_broker_has_not_handled() {
    bounded(|| {
        capture::capture();
        let warnings = |name: &str| {
            let proxy = Proxy::start();
            let channel = Connection::open(proxy.url()).unwrap().channel().unwrap();
            proxy.hold_client();
            let thread = std::thread::Builder::new().name(name.to_owned());
            let publish = move || {
                channel.basic_publish("", "nowhere", "body").unwrap();
                channel
            };
            let channel = thread.spawn(publish).unwrap().join().unwrap();
            let warnings = || lines("WARN haypile", &proxy, "the process ends, and the broker");
            if name == "main" {
                // The thread ends at the moment when it is logged.
                wait_until(SOON, || warnings() > 0);
            }
            let warnings = warnings();
            proxy.reset();
            drop(channel);
            warnings
        };
        assert_eq!((warnings("main"), warnings("some")), (1, 0));
    });
}

/// A program that drops its last handle must not hang on a broker that hangs.
#[test]
fn a_drop_waits_five_seconds_for_the_broker() {
    bounded(|| {
        capture::capture();
        let peer = Peer::start(|session| {
            session.handshake();
            session.silent_until_end();
        });
        drop(Connection::open(peer.url()).unwrap());
        let address = peer.address().to_string();
        let logged = capture::logged();
        let waited = logged.lines().any(|line| {
            line.contains(&address)
                && line.contains("timed out after 5 s waiting for connection.close-ok")
        });
        assert!(waited, "{logged}");
        peer.finish();
    });
}

/// A channel that the broker has closed while no call waited, because of a message for an exchange that does not exist.
fn closed_by_a_publish(connection: &Connection, exchange: &str) -> Channel {
    let channel = connection.channel().unwrap();
    channel.basic_publish(exchange, "key", "lost").unwrap();
    wait_until(SOON, || channel.is_closed());
    channel
}

fn warnings_about(exchange: &str) -> usize {
    let logged = capture::logged();
    let about = logged.lines().filter(|line| line.contains(exchange));
    about
        .filter(|line| line.starts_with("WARN haypile"))
        .count()
}

/// A program that asks `is_open` and takes another channel would get no report of what became of its messages.
#[test]
fn a_closure_that_no_call_reported_is_logged_when_the_channel_is_dropped() {
    bounded(|| {
        capture::capture();
        let connection = support::open();
        let exchange = support::unique("unreported");
        drop(closed_by_a_publish(&connection, &exchange));
        assert_eq!(warnings_about(&exchange), 1, "{}", capture::logged());
    });
}

/// The same of one that comes later: no call is left to report it.
#[test]
fn a_closure_that_comes_after_the_last_handle_was_dropped_is_logged() {
    bounded(|| {
        capture::capture();
        let connection = support::open();
        let exchange = support::unique("dropped");
        let channel = connection.channel().unwrap();
        channel.basic_publish(&exchange, "key", "lost").unwrap();
        drop(channel);
        wait_until(SOON, || warnings_about(&exchange) > 0);
        // Other calls read it in passing.
        for _ in 0..10 {
            let channel = connection.channel().unwrap();
            channel.basic_publish(&exchange, "key", "lost").unwrap();
            drop(channel);
            connection.channel().unwrap().basic_qos(1).unwrap();
        }
        wait_until(SOON, || warnings_about(&exchange) == 11);
        let logged = capture::logged();
        let line = logged.lines().find(|line| line.contains(&exchange));
        assert!(line.unwrap().contains("404 NOT_FOUND"), "{logged}");
    });
}

/// The process may end when the connection is closed.
#[test]
fn it_is_logged_before_the_connection_is_closed() {
    bounded(|| {
        capture::capture();
        // A handle that is kept makes no difference: the connection's close ends its channel.
        for is_kept in [false, true] {
            let exchange = support::unique("dropped");
            let text = format!("NOT_FOUND - no exchange '{exchange}' in vhost '/'");
            let (channel, peer) = scripted_channel(move |session| {
                session.wait_for(1, m::CHANNEL_CLOSE);
                session.expect(0, m::CONNECTION_CLOSE);
                session.send_channel_close(1, 404, &text, m::BASIC_PUBLISH);
                session.send_method(0, m::CONNECTION_CLOSE_OK, Args::new());
                session.expect_end();
            });
            let connection = channel.connection();
            channel.basic_publish(&exchange, "key", "lost").unwrap();
            let kept = Some(channel).filter(|_| is_kept);
            connection.close().unwrap();
            assert_eq!(warnings_about(&exchange), 1, "{}", capture::logged());
            drop(kept);
            assert_eq!(warnings_about(&exchange), 1, "{}", capture::logged());
            peer.finish();
        }
    });
}

#[test]
fn a_closure_that_a_call_reported_is_not_logged() {
    bounded(|| {
        capture::capture();
        let connection = support::open();
        let exchange = support::unique("reported");
        let channel = closed_by_a_publish(&connection, &exchange);
        let error = channel.basic_publish("", "key", "next").unwrap_err();
        assert_eq!(error.reply_code(), Some(404));
        drop(channel);
        // In a call that waits, too.
        let channel = connection.channel().unwrap();
        let error = channel.basic_get(&exchange).unwrap_err();
        assert_eq!(error.reply_code(), Some(404));
        drop(channel);
        assert_eq!(connection.queue_exists(&exchange).unwrap(), None);
        assert_eq!(warnings_about(&exchange), 0, "{}", capture::logged());
    });
}

/// A socket whose flush fails from some time on, so that what it may have kept is lost.
struct Unflushed(TcpStream, Arc<AtomicBool>);

impl Read for Unflushed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Unflushed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.1.load(Ordering::Acquire) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }
}

impl Stream for Unflushed {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        let clone = TcpStream::try_clone(&self.0)?;
        Ok(Box::new(Unflushed(clone, Arc::clone(&self.1))))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        Stream::set_read_timeout(&self.0, timeout)
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        Stream::set_write_timeout(&self.0, timeout)
    }

    fn shutdown(&self) -> io::Result<()> {
        Stream::shutdown(&self.0)
    }
}

#[test]
fn a_drop_logs_what_was_not_flushed_as_one_byte() {
    bounded(|| {
        capture::capture();
        let proxy = Proxy::start();
        let is_broken = Arc::new(AtomicBool::new(false));
        let socket = TcpStream::connect(proxy.address()).unwrap();
        let parameters = ConnectionParameters::from_url(proxy.url()).unwrap();
        let stream = Unflushed(socket, Arc::clone(&is_broken));
        let connection = Connection::open_stream(parameters, stream).unwrap();
        let channel = connection.channel().unwrap();
        is_broken.store(true, Ordering::Release);
        channel.basic_publish("", "nowhere", b"last").unwrap();
        let lost = format!("connection to {} lost", proxy.address());
        wait_until(SOON, || capture::logged().contains(&lost));
        assert_eq!(unsent(&proxy), []);
        drop((channel, connection));
        assert_eq!(unsent(&proxy), [1], "{}", capture::logged());
    });
}
