//! Dispatch alone, with handles that write down what is run. There is a connection, but neither a broker nor threads of the
//! crate: what comes is handed to the session by the test, when it wants.

mod callbacks;
mod rounds;

use std::net::{TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::sync::{mpsc, Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use super::{ChannelCallbacks, ConnectionCallbacks, Consuming, Owner, Round};
use crate::error::Result;
use crate::io::link::{Link, Opened, Shared};
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::consumers::{Consumer, ConsumerState};
use crate::protocol::frame::{write_body, write_header, write_method};
use crate::protocol::handshake::Negotiated;
use crate::protocol::method::Method;
use crate::stop::Stop;
use crate::Error;

/// Far more than anything here takes, also on a busy machine.
const LONG: Duration = Duration::from_secs(10);

/// Runs a test in a thread of its own, so that a wait that never ends fails it.
#[track_caller]
fn bounded(test: impl FnOnce() + Send + 'static) {
    let (done, ended) = mpsc::channel::<()>();
    let running = thread::spawn(move || {
        let _done = done;
        test();
    });
    if ended.recv_timeout(3 * LONG) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("the test does not end");
    }
    if let Err(panic) = running.join() {
        resume_unwind(panic);
    }
}

/// What was run, in order.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn push(&self, text: impl Into<String>) {
        self.0.lock().unwrap().push(text.into());
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// A channel's handle.
struct Handle {
    number: u16,
    slot: usize,
    stop: OnceLock<Stop>,
    callbacks: ChannelCallbacks<Arc<Handle>>,
}

impl Owner for Handle {
    type Channel = Arc<Handle>;

    fn channel(self: &Arc<Self>) -> Arc<Handle> {
        Arc::clone(self)
    }

    fn callbacks(&self) -> &ChannelCallbacks<Arc<Handle>> {
        &self.callbacks
    }
}

impl Handle {
    fn consuming(&self) -> Option<Consuming<'_>> {
        Some(Consuming {
            slot: self.slot,
            stop: &self.stop,
        })
    }
}

/// An open connection. Clones are the same one.
#[derive(Clone)]
struct Rig {
    link: Arc<Link>,
    callbacks: Arc<ConnectionCallbacks<Handle>>,
    log: Log,
    /// The other end, which says and reads nothing by itself.
    broker: Arc<TcpStream>,
}

impl Rig {
    fn new() -> Rig {
        Rig::with_unhandled(Vec::new())
    }

    /// These bytes have been read and not been handled.
    fn with_unhandled(leftover: Vec<u8>) -> Rig {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (broker, _) = listener.accept().unwrap();
        let opened = Opened {
            stream: Box::new(stream),
            leftover,
            negotiated: Negotiated {
                channel_max: 10,
                frame_max: 131_072,
                ..Negotiated::default()
            },
            address: "broker:5672".into(),
            max_message_size: u64::MAX,
            rpc_timeout: LONG,
            blocked_timeout: None,
        };
        let link = Arc::new(Link::new(opened).unwrap());
        link.lock().session.wants_blocked = true;
        Rig {
            link,
            callbacks: Arc::new(ConnectionCallbacks::new()),
            log: Log::default(),
            broker: Arc::new(broker),
        }
    }

    /// The next channel: its number is 1 for the first, 2 for the second.
    fn channel(&self) -> Arc<Handle> {
        let state = ChannelState::new(Gate::new(Phase::Open));
        let added = self.link.lock().session.add_channel(None, state);
        let (slot, number) = added.unwrap();
        let handle = Arc::new(Handle {
            number,
            slot,
            stop: OnceLock::new(),
            callbacks: ChannelCallbacks::new(),
        });
        self.callbacks.set_owner(slot, Arc::downgrade(&handle));
        handle
    }

    /// Registers a consumer; returns its id.
    fn consume(
        &self,
        handle: &Handle,
        consumer_tag: &str,
        mut callback: impl FnMut(&Handle, &str) -> Result<()> + Send + 'static,
    ) -> u64 {
        let id = handle.callbacks.new_consumer_id();
        let mut shared = self.link.lock();
        let channel = shared.session.channel(handle.slot).unwrap();
        channel.consumers.registered.push(Consumer {
            consumer_tag: consumer_tag.into(),
            id,
            auto_ack: false,
            of_stream: false,
            state: ConsumerState::Active,
        });
        let callback = move |handle: &Arc<Handle>, _, _, body: Vec<u8>| {
            callback(handle, std::str::from_utf8(&body).unwrap())
        };
        let callbacks = &handle.callbacks;
        callbacks.add_consumer(consumer_tag, id, Box::new(callback));
        id
    }

    /// A channel with a consumer `c` that writes down what it is given.
    fn logging_channel(&self) -> Arc<Handle> {
        let (handle, log) = (self.channel(), self.log.clone());
        self.consume(&handle, "c", move |_, body| {
            log.push(body);
            Ok(())
        });
        handle
    }

    fn remove_consumer(&self, handle: &Handle, consumer_tag: &str, id: u64) -> bool {
        let mut shared = self.link.lock();
        let callbacks = &handle.callbacks;
        let removed = callbacks.remove_consumer(&mut shared, handle.slot, consumer_tag, id);
        drop(shared);
        removed.is_some()
    }

    /// This comes from the broker and is handled. No thread is woken.
    fn say(&self, bytes: &[u8]) {
        let mut shared = self.link.lock();
        let (mut at, mut more) = (0, true);
        while std::mem::take(&mut more) {
            let fed = shared.session.feed(&bytes[at..]).unwrap();
            at += fed.used;
            more = fed.more;
        }
        assert_eq!(at, bytes.len());
    }

    fn end(&self) {
        let reply_text = "maintenance".into();
        self.link
            .lock()
            .session
            .end_all(Error::ConnectionClosedByBroker {
                reply_code: 320,
                reply_text,
                method: None,
                address: "broker:5672".into(),
                while_closing: false,
            });
    }

    fn enter<'a>(&'a self, consuming: Option<Consuming<'a>>) -> Round<'a, Handle> {
        Round::enter(&self.link, &self.callbacks, consuming)
    }

    /// As `process_data_events` with a limit of 0.
    fn look(&self) -> Result<bool> {
        self.enter(None).run(Some(Duration::ZERO), |_| false)
    }

    /// Adds a timer, and wakes those that wait.
    fn add_timer(&self, delay: Duration, log: &'static str) {
        let (due, written) = (std::time::Instant::now() + delay, self.log.clone());
        let callback = move || {
            written.push(log);
            Ok(())
        };
        self.callbacks.timers.add(due, Box::new(callback));
        self.link.wake_all();
    }

    fn log_blocked(&self) {
        let (blocked, unblocked) = (self.log.clone(), self.log.clone());
        self.callbacks.add_blocked(Box::new(move |reason| {
            blocked.push(reason);
            Ok(())
        }));
        self.callbacks.add_unblocked(Box::new(move || {
            unblocked.push("unblocked");
            Ok(())
        }));
    }
}

/// For waits that only what happens ends.
fn never(_: &mut Shared) -> bool {
    false
}

fn frame(channel: u16, method: &Method<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    write_method(&mut bytes, channel, method).unwrap();
    bytes
}

/// A message for a consumer.
fn deliver(channel: u16, consumer_tag: &str, delivery_tag: u64, body: &str) -> Vec<u8> {
    let deliver = Method::BasicDeliver {
        consumer_tag: consumer_tag.into(),
        delivery_tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "k".into(),
    };
    let mut bytes = frame(channel, &deliver);
    write_header(&mut bytes, channel, body.len() as u64, &Default::default()).unwrap();
    write_body(&mut bytes, channel, body.as_bytes());
    bytes
}

fn blocked(reason: &str) -> Vec<u8> {
    let reason = reason.into();
    frame(0, &Method::ConnectionBlocked { reason })
}

fn unblocked() -> Vec<u8> {
    frame(0, &Method::ConnectionUnblocked {})
}

fn cancel(channel: u16, consumer_tag: &str) -> Vec<u8> {
    let cancel = Method::BasicCancel {
        consumer_tag: consumer_tag.into(),
        no_wait: true,
    };
    frame(channel, &cancel)
}

fn close(channel: u16) -> Vec<u8> {
    let close = Method::ChannelClose {
        reply_code: 404,
        reply_text: "NOT_FOUND".into(),
        class_id: 60,
        method_id: 40,
    };
    frame(channel, &close)
}
