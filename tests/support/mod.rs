//! What the tests against a broker share.
//!
//! - [`url`], [`open`], [`channel`]: the real broker that `AMQP_URL` names (`scripts/with-broker` sets it).
//! - [`unique`], [`Fixture`]: names of one's own, and their removal.
//! - [`bounded`], [`wait_until`]: no test hangs, none sleeps for a condition.
//! - [`peer`]: a scripted broker, for what a real one will not do.
//! - [`proxy`]: a forwarder in front of the real one that can be paused, cut or made to swallow bytes.
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros)]

pub mod peer;
pub mod proxy;

use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::process::Command;
use std::sync::{mpsc, Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use haypile::{
    BasicGet, BasicProperties, BasicPublish, Channel, Connection, Deliver, Error, FieldTable,
    QueueDeclare,
};

/// Asserts that a value, mostly an error, matches a pattern; shows the value if not.
macro_rules! assert_matches {
    ($value:expr, $($pattern:tt)+) => {
        match &$value {
            value => assert!(matches!(value, $($pattern)+), "{value:?}"),
        }
    };
}
pub(crate) use assert_matches;

/// How long anything that ought to happen at once may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(10);

/// The longest a test may run.
pub const TEST_LIMIT: Duration = Duration::from_secs(30);

/// The longest a test may run that calls [`rabbitmqctl`], which takes a second to start, and a quarter of a minute on a busy machine.
pub const OPERATOR_LIMIT: Duration = Duration::from_secs(120);

/// One consumed message.
pub type Message = (Deliver, BasicProperties, Vec<u8>);

/// The broker's URL, from `AMQP_URL`.
pub fn url() -> String {
    match std::env::var("AMQP_URL") {
        Ok(url) if !url.is_empty() => url,
        _ => panic!("AMQP_URL is not set: run the tests by scripts/with-broker"),
    }
}

/// The broker's URL with another host and port in it, such as a proxy's.
pub fn url_through(address: SocketAddr) -> String {
    let url = url();
    let (before, host_port, after) = split_url(&url);
    debug_assert!(!host_port.is_empty());
    format!("{before}{address}{after}")
}

/// [`url`] with the query options appended.
pub fn url_with(options: &str) -> String {
    let url = url();
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{options}")
}

/// The broker's URL with another virtual host in it, whose name needs no percent-encoding.
pub fn url_of_vhost(vhost: &str) -> String {
    let url = url();
    let (before, host_port, after) = split_url(&url);
    let query = after.find('?').map_or("", |at| &after[at..]);
    format!("{before}{host_port}/{vhost}{query}")
}

/// The user in the broker's URL.
pub fn user() -> String {
    let url = url();
    let (before, _, _) = split_url(&url);
    let login = before.split_once("://").map_or(before, |(_, login)| login);
    match login.trim_end_matches('@').split(':').next() {
        None | Some("") => "guest".to_owned(),
        Some(user) => user.to_owned(),
    }
}

/// A client in bytes of its own at that broker, with channel 1 open.
pub fn raw_client() -> peer::Session {
    let url = url();
    let (before, _, after) = split_url(&url);
    let login = before.split_once("://").map_or(before, |(_, login)| login);
    let (user, password) = login
        .trim_end_matches('@')
        .split_once(':')
        .unwrap_or(("guest", "guest"));
    let path = after.split('?').next().unwrap_or_default();
    let virtual_host = match path.strip_prefix('/') {
        Some(name) => name.replace("%2f", "/").replace("%2F", "/"),
        None => "/".to_owned(),
    };
    peer::Session::client(broker_address(), user, password, &virtual_host)
}

/// The broker's socket address.
pub fn broker_address() -> SocketAddr {
    let url = url();
    let (_, host_port, _) = split_url(&url);
    let host_port = if host_port.contains(':') {
        host_port.to_owned()
    } else {
        format!("{host_port}:5672")
    };
    host_port
        .to_socket_addrs()
        .unwrap_or_else(|error| panic!("AMQP_URL: {host_port}: {error}"))
        .find(|address| TcpStream::connect_timeout(address, SOON).is_ok())
        .unwrap_or_else(|| panic!("AMQP_URL: nothing listens at {host_port}"))
}

/// Splits a URL into what comes before host and port, these, and what comes behind.
fn split_url(url: &str) -> (&str, &str, &str) {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..]
        .find(['/', '?'])
        .map_or(url.len(), |at| authority + at);
    let host = url[authority..end]
        .rfind('@')
        .map_or(authority, |at| authority + at + 1);
    (&url[..host], &url[host..end], &url[end..])
}

/// Connects to the broker.
#[track_caller]
pub fn open() -> Connection {
    Connection::open(url().as_str()).unwrap_or_else(|error| panic!("{error}"))
}

/// A channel on a connection of its own, which lives as long as the channel (see [`Channel::connection`]).
#[track_caller]
pub fn channel() -> Channel {
    open().channel().unwrap()
}

/// The first two numbers of the broker's version, which compare. The broker for tests behaves like RabbitMQ 4.3.
pub fn rabbitmq_version(connection: &Connection) -> (u32, u32) {
    let properties = connection.server_properties();
    if properties.get("product").unwrap().as_str() != Some("RabbitMQ") {
        return (4, 3);
    }
    let version = properties.get("version").unwrap();
    let mut numbers = version.as_str().unwrap().split('.');
    let mut next = || numbers.next().unwrap().parse().unwrap();
    (next(), next())
}

/// A name that is used nowhere else.
pub fn unique(prefix: &str) -> String {
    format!("haypile-test-{prefix}-{}", uuid::Uuid::new_v4().simple())
}

/// Declares an exclusive queue of a name of its own, which goes with the channel's connection.
#[track_caller]
pub fn exclusive_queue(channel: &Channel) -> String {
    let name = unique("q");
    channel
        .queue_declare(QueueDeclare::new(&name).exclusive(true))
        .unwrap();
    name
}

/// A channel with confirms, so that a message is in its queue when `basic_publish` returns; and a queue with these bodies.
#[track_caller]
pub fn channel_and_queue_of(bodies: &[&str]) -> (Channel, String) {
    let channel = channel();
    channel.confirm_delivery().unwrap();
    let queue = exclusive_queue(&channel);
    let mandatory = BasicPublish::new().mandatory(true);
    for body in bodies {
        channel
            .basic_publish_with("", &queue, body, mandatory.clone())
            .unwrap();
    }
    (channel, queue)
}

/// Asserts that a connection carries a message there and back.
#[track_caller]
pub fn assert_works(connection: &Connection) {
    let channel = connection.channel().unwrap();
    let queue = exclusive_queue(&channel);
    channel.confirm_delivery().unwrap();
    channel.basic_publish("", &queue, "hello").unwrap();
    let request = BasicGet::new(&queue).auto_ack(true);
    let (_, _, body) = channel.basic_get(request).unwrap().expect("a message");
    assert_eq!(body, b"hello");
    channel.close().unwrap();
}

/// Asserts that a call failed because the broker closed its channel, with this code.
#[track_caller]
pub fn assert_closed_by_broker<T: std::fmt::Debug>(result: haypile::Result<T>, code: u16) {
    let error = result.unwrap_err();
    assert_matches!(error, Error::ChannelClosedByBroker { .. });
    assert_eq!(error.reply_code(), Some(code), "{error}");
}

/// A header table of one entry.
pub fn one_header(key: &str, value: &str) -> FieldTable {
    let mut table = FieldTable::new();
    table.insert(key, value);
    table
}

/// How many messages are ready in a queue.
#[track_caller]
pub fn message_count(channel: &Channel, queue: &str) -> u32 {
    channel
        .queue_declare(QueueDeclare::new(queue).passive(true))
        .unwrap()
        .message_count
}

/// Waits until exactly so many messages are ready in a queue.
#[track_caller]
pub fn assert_message_count(channel: &Channel, queue: &str, expected: u32) {
    let mut seen = 0;
    let met = met_within(SOON, || {
        seen = message_count(channel, queue);
        seen == expected
    });
    assert!(met, "queue {queue} has {seen} messages, not {expected}");
}

/// Takes queues and exchanges away again, through a connection of its own, also when the test fails.
#[derive(Default)]
pub struct Fixture {
    queues: Vec<String>,
    exchanges: Vec<String>,
}

impl Fixture {
    pub fn new() -> Self {
        Self::default()
    }

    /// A unique queue name, to be deleted in the end. The caller declares it.
    pub fn queue(&mut self, prefix: &str) -> String {
        let name = unique(prefix);
        self.queues.push(name.clone());
        name
    }

    /// A unique exchange name, to be deleted in the end. The caller declares it.
    pub fn exchange(&mut self, prefix: &str) -> String {
        let name = unique(prefix);
        self.exchanges.push(name.clone());
        name
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        // No panic here, which during another would end the whole program.
        let Ok(url) = std::env::var("AMQP_URL") else {
            return;
        };
        let Ok(connection) = Connection::open(url) else {
            return;
        };
        // A refused deletion closes its channel, so each has its own.
        for name in self.queues.drain(..) {
            if let Ok(channel) = connection.channel() {
                let _ = channel.queue_delete(&name);
            }
        }
        for name in self.exchanges.drain(..) {
            if let Ok(channel) = connection.channel() {
                let _ = channel.exchange_delete(&name);
            }
        }
        let _ = connection.close();
    }
}

/// Gives other threads, which are about to wait, a moment to begin. Nothing shows from outside that they have, so a test must
/// hold as well if they come too late; it is only likely that they do not.
pub fn let_others_wait() {
    thread::sleep(Duration::from_millis(100));
}

/// Runs a test's body with a time limit, so that a wait that never ends fails this test and no other.
#[track_caller]
pub fn bounded(body: impl FnOnce() + Send + 'static) {
    bounded_by(TEST_LIMIT, body);
}

/// [`bounded`] by another limit.
#[track_caller]
pub fn bounded_by(limit: Duration, body: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("test").to_owned();
    let runner = thread::Builder::new()
        .name(name)
        .spawn(move || {
            let _done = done;
            body();
        })
        .unwrap();
    match ended.recv_timeout(limit) {
        // The sender is dropped when the body has ended, one way or the other.
        Ok(()) | Err(mpsc::RecvTimeoutError::Disconnected) => {
            if let Err(panic) = runner.join() {
                std::panic::resume_unwind(panic);
            }
        }
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("the test did not end within {limit:?}"),
    }
}

/// Waits until a condition holds; fails when it does not within `limit`.
#[track_caller]
pub fn wait_until(limit: Duration, condition: impl FnMut() -> bool) {
    assert!(
        met_within(limit, condition),
        "the condition did not come true within {limit:?}"
    );
}

/// Whether a condition came true within `limit`.
pub fn met_within(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs `rabbitmqctl` (`$RABBITMQCTL`, which may hold arguments) and returns its output; `None` where the broker comes
/// without one.
#[track_caller]
pub fn rabbitmqctl(arguments: &[&str]) -> Option<String> {
    let command = std::env::var("RABBITMQCTL")
        .ok()
        .filter(|command| !command.is_empty())?;
    let mut words = command.split_whitespace();
    let output = Command::new(words.next()?)
        .args(words)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    assert!(
        output.status.success(),
        "{command} {arguments:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A port of 127.0.0.1 that refuses connections for as long as this lives, since it is bound and nothing listens.
pub struct RefusedPort(socket2::Socket);

impl RefusedPort {
    pub fn new() -> Self {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        RefusedPort(socket)
    }

    pub fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap().as_socket().unwrap()
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }
}

/// A list that callbacks push into and the test reads.
pub struct Log<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Log(Arc::clone(&self.0))
    }
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Log(Arc::new(Mutex::new(Vec::new())))
    }
}

impl<T> Log<T> {
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn push(&self, value: T) {
        self.lock().push(value);
    }

    pub fn len(&self) -> usize {
        self.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that came, leaving nothing.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.lock())
    }
}

impl<T: Clone> Log<T> {
    /// A copy of all that came.
    pub fn all(&self) -> Vec<T> {
        self.lock().clone()
    }
}

/// Runs `process_data_events` until the condition holds.
#[track_caller]
pub fn pump_until(connection: &Connection, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "no such event within {SOON:?}");
        connection
            .process_data_events(left.min(Duration::from_millis(100)))
            .unwrap();
    }
}
