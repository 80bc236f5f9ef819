//! The broker as a test holds it: starting, connecting, ending, and the threads in between.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::link::{self, Link, Next, Outbox, Transport};
use super::pipe::{self, Ending};
use super::session::{self, Greeting};
use super::state::{Connection as Served, Settings, State};
use crate::protocol::frame::HEARTBEAT;
use crate::{Connection, ConnectionParameters, Error, Result};

/// How many bytes are read at once.
const CHUNK: usize = 64 * 1024;

/// How often a condition is looked at that the broker knows nothing about.
const LOOK: Duration = Duration::from_millis(5);

/// A broker inside the process, for tests. See the [module](super) for what it does.
///
/// It ends when it is dropped: every connection is cut, and no thread is left.
///
/// ```
/// use haypile::testing::Broker;
///
/// # fn main() -> haypile::Result<()> {
/// let broker = Broker::start()?;
/// let connection = haypile::Connection::open(broker.url())?;
/// assert!(connection.is_open());
/// # Ok(())
/// # }
/// ```
pub struct Broker {
    pub(super) shared: Arc<Shared>,
    address: SocketAddr,
    threads: Vec<JoinHandle<()>>,
}

/// How a [`Broker`] is to be; from [`Broker::builder`].
///
/// ```
/// use haypile::testing::Broker;
///
/// # fn main() -> haypile::Result<()> {
/// let broker = Broker::builder().virtual_host("orders").user("me", "secret").start()?;
/// # drop(broker);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Builder {
    settings: Settings,
}

/// Without the passwords.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings {
            users,
            vhosts,
            frame_max,
            channel_max,
            heartbeat,
            global_qos,
        } = &self.settings;
        let users: Vec<&String> = users.iter().map(|(name, _)| name).collect();
        f.debug_struct("Builder")
            .field("users", &users)
            .field("vhosts", vhosts)
            .field("frame_max", frame_max)
            .field("channel_max", channel_max)
            .field("heartbeat", heartbeat)
            .field("global_qos", global_qos)
            .finish()
    }
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Something that a test can see has changed, or a connection is no longer blocked.
    changed: Condvar,
    /// Something is due earlier than the timer knows.
    tick: Condvar,
    /// The connections' threads, those of connections that have ended included until the next one comes.
    threads: Mutex<Vec<Serving>>,
}

/// A thread that serves a connection, and what makes it end.
struct Serving {
    thread: JoinHandle<()>,
    link: Arc<Link>,
    outbox: Arc<Outbox>,
}

/// A condition did not come true in time: what [`Broker::wait_until`] returns then. It shows how long was waited, and the
/// broker's log.
///
/// ```
/// use haypile::testing::Broker;
/// use std::time::Duration;
///
/// let broker = Broker::start()?;
/// let error = broker.wait_until(|| broker.queue("tasks").is_some(), Duration::ZERO).unwrap_err();
/// assert!(error.to_string().contains("did not come true"));
/// # Ok::<(), haypile::Error>(())
/// ```
#[derive(Clone)]
pub struct NotMet {
    limit: Duration,
    log: String,
}

impl fmt::Display for NotMet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NotMet { limit, log } = self;
        write!(
            f,
            "the condition did not come true within {limit:?}; the broker's log:\n{log}"
        )
    }
}

/// The same text, so that `unwrap` shows it.
impl fmt::Debug for NotMet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for NotMet {}

impl Builder {
    fn new() -> Builder {
        Builder {
            settings: Settings {
                users: Vec::new(),
                vhosts: BTreeSet::from(["/".to_owned()]),
                frame_max: 131_072,
                channel_max: 2047,
                heartbeat: 60,
                global_qos: false,
            },
        }
    }

    /// Adds a user with a password. Without any, there is the user `guest` with the password `guest`.
    ///
    /// ```
    /// use haypile::{testing::Broker, Connection};
    ///
    /// let broker = Broker::builder().user("worker", "secret").start()?;
    /// assert!(Connection::open(format!("amqp://worker:secret@{}", broker.address())).is_ok());
    /// assert!(Connection::open(format!("amqp://guest:guest@{}", broker.address())).is_err());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        let (name, password) = (name.into(), password.into());
        self.settings.users.retain(|(other, _)| *other != name);
        self.settings.users.push((name, password));
        self
    }

    /// Adds a virtual host. The one called `/` is always there.
    ///
    /// ```
    /// use haypile::{testing::Broker, Connection};
    ///
    /// let broker = Broker::builder().virtual_host("orders").start()?;
    /// assert!(Connection::open(format!("{}/orders", broker.url())).is_ok());
    /// assert!(Connection::open(format!("{}/other", broker.url())).is_err());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn virtual_host(mut self, name: impl Into<String>) -> Self {
        self.settings.vhosts.insert(name.into());
        self
    }

    /// The size of the largest frame, in bytes: from 4096, or 0 for no limit. 131,072 unless set, as in RabbitMQ. A client may
    /// ask for less, but not for less than 8192, unless this is less.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// let broker = Broker::builder().frame_max(8192).start()?;
    /// assert_eq!(broker.connect(ConnectionParameters::default())?.frame_max(), 8192);
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn frame_max(mut self, bytes: u32) -> Self {
        self.settings.frame_max = bytes;
        self
    }

    /// How many channels a connection may have; 0 is no limit. 2047 unless set, as in RabbitMQ.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters, Error};
    ///
    /// let broker = Broker::builder().channel_max(1).start()?;
    /// let connection = broker.connect(ConnectionParameters::default())?;
    /// let _only = connection.channel()?;
    /// assert!(matches!(connection.channel(), Err(Error::NoFreeChannels { channel_max: 1, .. })));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn channel_max(mut self, channels: u16) -> Self {
        self.settings.channel_max = channels;
        self
    }

    /// The interval of heartbeats that the broker proposes, in seconds; 0 proposes none. 60 unless set, as in RabbitMQ.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    /// use std::time::Duration;
    ///
    /// let broker = Broker::builder().heartbeat(7).start()?;
    /// assert_eq!(broker.connect(ConnectionParameters::default())?.heartbeat(), Duration::from_secs(7));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn heartbeat(mut self, seconds: u16) -> Self {
        self.settings.heartbeat = seconds;
        self
    }

    /// Whether `basic.qos` with `global` limits all consumers of the channel together, as in RabbitMQ before 4.3. From 4.3 on,
    /// and here unless set, it limits each consumer, as without `global`: RabbitMQ permits the deprecated feature `global_qos` only
    /// if it is configured so.
    ///
    /// ```
    /// use haypile::{testing::Broker, BasicQos, ConnectionParameters};
    ///
    /// let broker = Broker::builder().global_qos(true).start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// channel.basic_qos(BasicQos::new(1).global(true))?;
    /// for _ in 0..2 {
    ///     channel.basic_consume("tasks", |_channel, _method, _properties, _body| ())?;
    ///     channel.basic_publish("", "tasks", "sweep")?;
    /// }
    /// channel.queue_declare("tasks")?; // what came before has been handled
    /// assert_eq!(broker.queue("tasks").unwrap().unacknowledged.len(), 1); // one for both consumers
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn global_qos(mut self, permitted: bool) -> Self {
        self.settings.global_qos = permitted;
        self
    }

    /// Starts the broker.
    ///
    /// ```
    /// use haypile::testing::Broker;
    ///
    /// let (one, another) = (Broker::builder().heartbeat(0).start()?, Broker::builder().start()?);
    /// assert_ne!(one.address(), another.address());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    ///
    /// # Errors
    /// If the operating system has no port or thread for it.
    pub fn start(mut self) -> Result<Broker> {
        if self.settings.users.is_empty() {
            self = self.user("guest", "guest");
        }
        Broker::run(self.settings).map_err(Error::other)
    }
}

impl Broker {
    /// Starts a broker with RabbitMQ's defaults: the user `guest` with the password `guest`, the virtual host `/`.
    ///
    /// ```
    /// use haypile::{testing::Broker, Connection};
    ///
    /// # fn main() -> haypile::Result<()> {
    /// let broker = Broker::start()?;
    /// let connection = Connection::open(broker.url())?;
    /// # connection.close()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the operating system has no port or thread for it.
    pub fn start() -> Result<Broker> {
        Broker::builder().start()
    }

    /// A broker that is made to measure.
    ///
    /// ```
    /// use haypile::{testing::Broker, Connection};
    ///
    /// # fn main() -> haypile::Result<()> {
    /// let broker = Broker::builder()
    ///     .user("worker", "secret")
    ///     .virtual_host("orders")
    ///     .frame_max(4096)
    ///     .start()?;
    /// let connection = Connection::open(format!("amqp://worker:secret@{}/orders", broker.address()))?;
    /// assert_eq!(connection.frame_max(), 4096);
    /// # connection.close()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder() -> Builder {
        Builder::new()
    }

    fn run(settings: Settings) -> io::Result<Broker> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::new(State::new(settings)),
            changed: Condvar::new(),
            tick: Condvar::new(),
            threads: Mutex::default(),
        });
        let mut broker = Broker {
            shared,
            address,
            threads: Vec::new(),
        };
        // If the second one cannot be started, the first one ends with the broker.
        let shared = Arc::clone(&broker.shared);
        broker
            .threads
            .push(spawn("timer", move || shared.keep_time())?);
        let shared = Arc::clone(&broker.shared);
        broker
            .threads
            .push(spawn("listener", move || shared.accept(&listener))?);
        Ok(broker)
    }

    /// Where it listens: a free port of 127.0.0.1.
    ///
    /// ```
    /// use haypile::testing::Broker;
    ///
    /// let broker = Broker::start()?;
    /// assert!(broker.address().ip().is_loopback());
    /// assert!(broker.url().ends_with(&broker.address().to_string()));
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL to connect with, as the first user, to the virtual host `/`: `amqp://guest:guest@127.0.0.1:PORT`.
    ///
    /// ```
    /// use haypile::{testing::Broker, Connection};
    ///
    /// let broker = Broker::builder().user("me", "p@ss").start()?;
    /// assert!(Connection::open(broker.url())?.is_open());
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn url(&self) -> String {
        let state = self.shared.lock();
        let (user, password) = match state.settings.users.first() {
            Some((user, password)) => (encoded(user), encoded(password)),
            None => Default::default(),
        };
        format!("amqp://{user}:{password}@{}", self.address)
    }

    /// Connects in memory, without a socket. Of the parameters, host, port and TLS mean nothing here; user, password, virtual
    /// host, heartbeat and the timeouts do.
    ///
    /// ```
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// # fn main() -> haypile::Result<()> {
    /// let broker = Broker::start()?;
    /// let connection = broker.connect(ConnectionParameters::default())?;
    /// let channel = connection.channel()?;
    /// channel.queue_declare("tasks")?;
    /// channel.basic_publish("", "tasks", "sweep")?;
    /// assert!(channel.basic_get("tasks")?.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As of [`Connection::open_stream`].
    pub fn connect(&self, parameters: ConnectionParameters) -> Result<Connection> {
        let (client, broker) = pipe::pair();
        self.shared
            .serve(Transport::Memory(broker))
            .map_err(Error::other)?;
        Connection::open_stream(parameters, client)
    }

    /// Waits until a condition holds, so that a test needs no sleep. The condition is looked at whenever something changes in
    /// the broker, and every few milliseconds, so it may look at anything.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use haypile::{testing::Broker, ConnectionParameters};
    ///
    /// # fn main() -> haypile::Result<()> {
    /// let broker = Broker::start()?;
    /// let channel = broker.connect(ConnectionParameters::default())?.channel()?;
    /// channel.queue_declare("tasks")?;
    /// channel.basic_publish("", "tasks", "sweep")?;
    /// broker
    ///     .wait_until(|| broker.queue("tasks").is_some_and(|queue| queue.messages.len() == 1), Duration::from_secs(5))
    ///     .unwrap();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the condition does not hold when `limit` is over. The error shows the broker's [`log`](Broker::log).
    pub fn wait_until(
        &self,
        mut condition: impl FnMut() -> bool,
        limit: Duration,
    ) -> std::result::Result<(), NotMet> {
        let begun = Instant::now();
        loop {
            let version = self.shared.lock().version;
            if condition() {
                return Ok(());
            }
            if begun.elapsed() >= limit {
                let log = self.log();
                return Err(NotMet { limit, log });
            }
            let state = self.shared.lock();
            if state.version == version {
                drop(self.shared.wait(state, LOOK));
            }
        }
    }

    /// The methods that were sent and received, as text: a line for each, with the time since the start in seconds, the
    /// connection, the channel, and the sender. The last 2000 lines are kept. Passwords and the bodies of messages are not in it.
    ///
    /// ```
    /// use haypile::testing::Broker;
    ///
    /// let broker = Broker::start()?;
    /// haypile::Connection::open(broker.url())?.channel()?.queue_declare("tasks")?;
    /// let log = broker.log();
    /// assert!(log.contains("queue.declare"), "{log}");
    /// # Ok::<(), haypile::Error>(())
    /// ```
    pub fn log(&self) -> String {
        self.shared.lock().log.to_string()
    }
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.ended = true;
        drop(state);
        self.shared.tick.notify_all();
        // The listener looks up when a client connects.
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let threads = std::mem::take(&mut *self.shared.connection_threads());
        for serving in &threads {
            serving.link.end(Ending::Cut);
            serving.outbox.abandon();
        }
        for serving in threads {
            let _ = serving.thread.join();
        }
    }
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection_threads(&self) -> MutexGuard<'_, Vec<Serving>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state, and all that comes of it.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        state.now = Instant::now();
        let value = change(&mut state);
        state.run();
        state.flush();
        self.release(state);
        value
    }

    /// Ends the use of the state after a change.
    fn release(&self, mut state: MutexGuard<'_, State>) {
        let earlier = std::mem::take(&mut state.tick_earlier);
        let waiting = state.waiting > 0;
        drop(state);
        if earlier {
            self.tick.notify_one();
        }
        if waiting {
            self.changed.notify_all();
        }
    }

    /// Waits for a change, or until `limit` is over.
    fn wait<'a>(&self, mut state: MutexGuard<'a, State>, limit: Duration) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let waited = self.changed.wait_timeout(state, limit);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting -= 1;
        state
    }

    // ---- threads

    fn keep_time(&self) {
        let mut state = self.lock();
        while !state.ended {
            let now = Instant::now();
            state = match state.next_tick {
                None => self
                    .tick
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(at) if at > now => {
                    let waited = self.tick.wait_timeout(state, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    state.tick();
                    self.release(state);
                    self.lock()
                }
            };
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.lock().ended {
                return;
            }
            match stream {
                Ok(stream) => {
                    let _ = self.serve(Transport::Tcp(stream));
                }
                // Too many open files, for instance: that may pass.
                Err(_) => thread::sleep(LOOK),
            }
        }
    }

    /// Begins to serve a client.
    fn serve(self: &Arc<Self>, transport: Transport) -> io::Result<()> {
        let mut state = self.lock();
        let (id, link) = match state.reserved.pop_front() {
            Some(reserved) => reserved,
            None => (state.new_id(), Arc::default()),
        };
        link.attach(transport)?;
        if state.refused_connections > 0 {
            state.refused_connections -= 1;
            link.end(Ending::Reset);
        }
        if state.ended || link.has_ended() {
            link.end(Ending::Cut);
            return Ok(());
        }
        let outbox = Arc::new(Outbox::default());
        let served = Served::new(Arc::clone(&link), Arc::clone(&outbox));
        state.connections.insert(id, served);
        state.log.note(id, "came".into());
        self.release(state);

        let mut threads = self.connection_threads();
        threads.retain(|serving| !serving.thread.is_finished());
        let shared = Arc::clone(self);
        let (out, outgoing) = (Arc::clone(&link), Arc::clone(&outbox));
        let writer = spawn("writer", move || shared.write(id, &out, &outgoing));
        let shared = Arc::clone(self);
        let (incoming, outgoing) = (Arc::clone(&link), Arc::clone(&outbox));
        let reader = spawn("reader", move || shared.read(id, &incoming, &outgoing));
        for thread in [writer, reader] {
            match thread {
                Ok(thread) => threads.push(Serving {
                    thread,
                    link: Arc::clone(&link),
                    outbox: Arc::clone(&outbox),
                }),
                Err(error) => {
                    link.end(Ending::Cut);
                    outbox.abandon();
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn read(&self, id: u64, link: &Link, outbox: &Outbox) {
        self.read_frames(id, link, outbox);
        // What is still to be sent is sent, if the client reads it.
        outbox.finish();
        outbox.wake();
        let mut state = self.lock();
        state.now = Instant::now();
        state.forget_connection(id);
        state.flush();
        self.release(state);
    }

    fn read_frames(&self, id: u64, link: &Link, outbox: &Outbox) {
        let mut received = Vec::new();
        let mut chunk = vec![0; CHUNK];
        let mut greeted = false;
        loop {
            match link.read(&mut chunk) {
                Ok(0) => return,
                Ok(count) => received.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                // Two heartbeats are missing, or the stream has ended.
                Err(_) => return,
            }
            if !greeted {
                let Some(header) = received.first_chunk::<8>() else {
                    continue;
                };
                let header = *header;
                if let Greeting::Refused(other) = session::greeting(header) {
                    outbox.append(|out| out.extend_from_slice(&other));
                    return;
                }
                received.drain(..header.len());
                greeted = true;
                self.change(|state| state.start_connection(id));
            }
            loop {
                let mut state = self.lock();
                state.now = Instant::now();
                let used = state.handle(id, &received);
                received.drain(..used);
                let blocked = |state: &State| {
                    let connection = state.connections.get(&id);
                    connection.is_some_and(|connection| connection.blocked)
                };
                let was_blocked = blocked(&state);
                self.release(state);
                if !was_blocked {
                    break;
                }
                let mut state = self.lock();
                while blocked(&state) && !link.has_ended() {
                    // The stream may end meanwhile, which is no change of the state.
                    state = self.wait(state, LOOK * 20);
                }
                if link.has_ended() {
                    // What the client sent while it was blocked is never read.
                    return;
                }
            }
        }
    }

    fn write(&self, id: u64, link: &Link, outbox: &Outbox) {
        let mut bytes = Vec::new();
        loop {
            let next = outbox.next(&mut bytes);
            let written = match next {
                Next::Stop => return,
                Next::Heartbeat => link.write_all(&HEARTBEAT),
                Next::Write { .. } | Next::Finish => link.write_all(&bytes),
            };
            match (next, written) {
                (Next::Finish, _) | (_, Err(_)) => {
                    link.end(Ending::Cut);
                    outbox.abandon();
                    return;
                }
                (Next::Write { was_full: true }, _) => {
                    self.change(|state| state.drained(id));
                }
                _ => {}
            }
            if bytes.capacity() > 4 * link::FULL {
                bytes = Vec::new();
            }
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name(format!("haypile-testing-{name}"))
        .spawn(body)
}

/// A name or password as it stands in a URL.
fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02x}"));
        }
    }
    encoded
}
