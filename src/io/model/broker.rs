//! A stream in memory, and at its other end a broker that does what the test says.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use shuttle::rand::Rng;

use super::sync::{Condvar, Instant, Mutex, MutexGuard};
use crate::io::link::Opened;
use crate::io::stream::Stream;
use crate::io::write_half::WRITE_SLICE;
use crate::protocol::frame::{self, Frame};
use crate::protocol::handshake::Negotiated;
use crate::protocol::method::Method;
use crate::{Connection, FieldTable};

pub(super) const FRAME_MAX: u32 = 16 * 1024;

/// No test waits that long for what does come: the time never passes.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// One of these, whichever the schedule says.
pub(crate) fn pick<T: Copy>(choices: &[T]) -> T {
    choices[shuttle::rand::thread_rng().gen_range(0..choices.len())]
}

/// What the stream does with what is written into it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behavior {
    /// So many bytes may be on their way to the broker.
    pub(crate) room: usize,
    /// A write call takes up to so many bytes, at random.
    pub(crate) write_most: usize,
    /// A write call may find that its time is up.
    pub(crate) times_out: bool,
    /// A read call brings up to so many bytes, at random.
    pub(crate) read_most: usize,
}

impl Behavior {
    pub(crate) const PROMPT: Behavior = Behavior {
        room: usize::MAX,
        write_most: usize::MAX,
        times_out: false,
        read_most: usize::MAX,
    };
}

/// One direction.
#[derive(Default)]
struct Lane {
    state: Mutex<LaneState>,
    changed: Condvar,
}

#[derive(Default)]
struct LaneState {
    bytes: Vec<u8>,
    /// How many were ever written, and how many when.
    total: usize,
    arrivals: Vec<(usize, Instant)>,
    /// What reading comes to behind the last byte.
    end: Option<End>,
}

/// How a stream ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    HungUp,
    Reset,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap()
    }

    fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Does `step` as soon as it gives something. `None` if the time is up; the time of one write call does pass, since a
    /// thread may rest on that.
    fn when<T>(
        &self,
        timeout: Duration,
        mut step: impl FnMut(&mut LaneState) -> Option<T>,
    ) -> Option<T> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            if let Some(value) = step(&mut state) {
                drop(state);
                self.changed.notify_all();
                return Some(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = if timeout <= WRITE_SLICE {
                self.changed.wait_until(state, deadline)
            } else {
                self.changed.wait_timeout(state, left).unwrap().0
            };
        }
    }
}

struct Wire {
    behavior: Behavior,
    to_broker: Lane,
    to_client: Lane,
    /// For reads and for writes. The standard library's lock, as taking it is no step of the model.
    timeouts: std::sync::Mutex<[Duration; 2]>,
}

/// The client's end.
struct ClientEnd(Arc<Wire>);

impl Read for ClientEnd {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = self.0.timeouts.lock().unwrap()[0];
        let read_most = self.0.behavior.read_most;
        let read = self.0.to_client.when(timeout, |lane| {
            if lane.bytes.is_empty() {
                return lane.end.map(|end| match end {
                    End::HungUp => Ok(0),
                    End::Reset => Err(io::ErrorKind::ConnectionReset.into()),
                });
            }
            let mut count = lane.bytes.len().min(buffer.len());
            if read_most < usize::MAX {
                count = count.min(shuttle::rand::thread_rng().gen_range(1..=read_most));
            }
            buffer[..count].copy_from_slice(&lane.bytes[..count]);
            lane.bytes.drain(..count);
            Some(Ok(count))
        });
        read.unwrap_or(Err(io::ErrorKind::WouldBlock.into()))
    }
}

impl Write for ClientEnd {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let timeout = self.0.timeouts.lock().unwrap()[1];
        let Behavior {
            room,
            write_most,
            times_out,
            ..
        } = self.0.behavior;
        if times_out && pick(&[true, false, false]) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let written = self.0.to_broker.when(timeout, |lane| {
            if lane.end.is_some() {
                return Some(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let room = room - lane.bytes.len().min(room);
            let mut count = bytes.len().min(room);
            if count == 0 {
                return None;
            }
            if write_most < usize::MAX {
                count = count.min(shuttle::rand::thread_rng().gen_range(1..=write_most));
            }
            lane.bytes.extend_from_slice(&bytes[..count]);
            lane.total += count;
            lane.arrivals.push((lane.total, Instant::now()));
            Some(Ok(count))
        });
        written.unwrap_or(Err(io::ErrorKind::WouldBlock.into()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for ClientEnd {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(ClientEnd(Arc::clone(&self.0))))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.timeouts.lock().unwrap()[0] = timeout;
        Ok(())
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.timeouts.lock().unwrap()[1] = timeout;
        Ok(())
    }

    fn shutdown(&self) -> io::Result<()> {
        self.0.to_broker.end(End::HungUp);
        self.0.to_client.end(End::HungUp);
        Ok(())
    }
}

fn server_properties() -> FieldTable {
    let mut capabilities = FieldTable::new();
    capabilities.insert("publisher_confirms", true);
    let mut properties = FieldTable::new();
    properties.insert("capabilities", capabilities);
    properties
}

/// An open connection and the broker at its other end. No thread plays the broker yet: see [`Broker::play`].
pub(crate) fn connect(behavior: Behavior) -> (Connection, Broker) {
    let wire = Arc::new(Wire {
        behavior,
        to_broker: Lane::default(),
        to_client: Lane::default(),
        timeouts: std::sync::Mutex::new([TIMEOUT; 2]),
    });
    let connection = Connection::start(Opened {
        stream: Box::new(ClientEnd(Arc::clone(&wire))),
        leftover: Vec::new(),
        negotiated: Negotiated {
            channel_max: 10,
            frame_max: FRAME_MAX,
            heartbeat: 0,
            server_properties: server_properties(),
        },
        address: "broker:5672".into(),
        rpc_timeout: TIMEOUT,
        max_message_size: u64::MAX,
        blocked_timeout: None,
    });
    let broker = Broker {
        wire,
        seen: Arc::default(),
    };
    (connection.unwrap(), broker)
}

/// A frame that came from the client: its channel, its bytes, and when it was there.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) channel: u16,
    pub(super) frame: Vec<u8>,
    pub(super) at: Instant,
}

/// The broker's end. Clones are the same broker.
#[derive(Clone)]
pub(crate) struct Broker {
    wire: Arc<Wire>,
    seen: Arc<(Mutex<Vec<Seen>>, Condvar)>,
}

impl Broker {
    /// Reads what the client sends until the stream ends, and replies to what opens and closes channels, consumers and the
    /// connection. All other methods are for `reply`.
    pub(crate) fn play(&self, reply: impl FnMut(&Broker, u16, &Method<'_>)) {
        self.play_with_content(reply, |_, _, _| {});
    }

    /// The same; `content` gets the frames of messages: headers and bodies.
    pub(crate) fn play_with_content(
        &self,
        mut reply: impl FnMut(&Broker, u16, &Method<'_>),
        mut content: impl FnMut(&Broker, u16, &[u8]),
    ) {
        let mut bytes: Vec<u8> = Vec::new();
        let mut taken = 0;
        loop {
            let Some((frame, length)) = frame::parse(&bytes, 0).expect("frames") else {
                let more = self.wire.to_broker.when(TIMEOUT, |lane| {
                    let more = std::mem::take(&mut lane.bytes);
                    (!more.is_empty() || lane.end.is_some()).then_some(more)
                });
                match more {
                    Some(more) if !more.is_empty() => bytes.extend_from_slice(&more),
                    _ => return,
                }
                continue;
            };
            let channel = match frame {
                Frame::Method { channel, .. }
                | Frame::Header { channel, .. }
                | Frame::Body { channel, .. } => channel,
                Frame::Heartbeat => 0,
            };
            taken += length;
            self.see(channel, &bytes[..length], taken);
            if let Frame::Method { payload, .. } = frame {
                match Method::decode(payload).expect("a method") {
                    Method::ChannelOpen => self.send(channel, &Method::ChannelOpenOk),
                    Method::ChannelClose { .. } => self.send(channel, &Method::ChannelCloseOk),
                    Method::BasicConsume { consumer_tag, .. } => {
                        self.send(channel, &Method::BasicConsumeOk { consumer_tag });
                    }
                    Method::ConnectionClose { .. } => self.send(0, &Method::ConnectionCloseOk),
                    method => reply(self, channel, &method),
                }
            } else if channel > 0 {
                content(self, channel, &bytes[..length]);
            }
            bytes.drain(..length);
        }
    }

    /// `end` is where the frame ends in all that the client has written.
    fn see(&self, channel: u16, frame: &[u8], end: usize) {
        let lane = self.wire.to_broker.lock();
        let arrival = lane.arrivals.iter().find(|(total, _)| *total >= end);
        let seen = Seen {
            channel,
            frame: frame.to_vec(),
            at: arrival.expect("it has come").1,
        };
        drop(lane);
        self.seen.0.lock().unwrap().push(seen);
        self.seen.1.notify_all();
    }

    /// Waits until so many frames have come, without limit of time, and replies to them.
    pub(super) fn await_frames(&self, count: usize) -> Vec<Seen> {
        let mut seen = self.seen.0.lock().unwrap();
        while seen.len() < count {
            seen = self.seen.1.wait_timeout(seen, TIMEOUT).unwrap().0;
        }
        seen.clone()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.0.lock().unwrap().clone()
    }

    /// When the frame that is being replied to was there: perhaps some time ago, if the broker paused.
    pub(super) fn arrival(&self) -> Instant {
        self.seen.0.lock().unwrap().last().expect("a frame").at
    }

    /// How many bytes the client has written.
    pub(super) fn written(&self) -> usize {
        self.wire.to_broker.lock().total
    }

    /// How many bytes the client has not read.
    pub(super) fn unread(&self) -> usize {
        self.wire.to_client.lock().bytes.len()
    }

    pub(crate) fn send(&self, channel: u16, method: &Method<'_>) {
        let mut bytes = Vec::new();
        frame::write_method(&mut bytes, channel, method).unwrap();
        self.send_bytes(&bytes);
    }

    pub(crate) fn send_bytes(&self, bytes: &[u8]) {
        self.wire.to_client.lock().bytes.extend_from_slice(bytes);
        self.wire.to_client.changed.notify_all();
    }

    /// Ends the direction that the client reads from.
    pub(crate) fn send_nothing_more(&self, end: End) {
        self.wire.to_client.end(end);
    }

    /// Ends the direction that the client writes into.
    pub(crate) fn take_nothing_more(&self) {
        self.wire.to_broker.end(End::Reset);
    }
}

/// The frames of a message, as a broker sends them.
pub(super) fn delivery(channel: u16, consumer_tag: &str, delivery_tag: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let method = Method::BasicDeliver {
        consumer_tag: consumer_tag.into(),
        delivery_tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "queue".into(),
    };
    frame::write_method(&mut bytes, channel, &method).unwrap();
    frame::write_header(&mut bytes, channel, 1, &crate::BasicProperties::default()).unwrap();
    frame::write_body(&mut bytes, channel, b"x");
    bytes
}
