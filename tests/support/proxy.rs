//! A forwarder in front of the real broker that can be paused, made to swallow bytes, or cut.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// What becomes of the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    Forward,
    /// Held back, and sent on after `resume`.
    Hold,
    /// Read and thrown away.
    Swallow,
}

struct State {
    to_client: Flow,
    to_broker: Flow,
    /// How many more bytes of a direction are forwarded before everything is cut.
    client_left: Option<usize>,
    broker_left: Option<usize>,
    stopped: bool,
    /// Counts the cuts, so that bytes held back from before one are not sent after it.
    cuts: u64,
    streams: Vec<Arc<TcpStream>>,
    client_bytes: u64,
    broker_bytes: u64,
    connections: usize,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn take_streams(&self) -> Vec<Arc<TcpStream>> {
        let mut state = self.lock();
        state.cuts += 1;
        (state.client_left, state.broker_left) = (None, None);
        self.changed.notify_all();
        state.streams.drain(..).collect()
    }
}

/// See the module's documentation.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// A forwarder to the broker that `AMQP_URL` names.
    pub fn start() -> Proxy {
        Proxy::to(super::broker_address())
    }

    /// A forwarder to this address.
    pub fn to(target: SocketAddr) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                to_client: Flow::Forward,
                to_broker: Flow::Forward,
                client_left: None,
                broker_left: None,
                stopped: false,
                cuts: 0,
                streams: Vec::new(),
                client_bytes: 0,
                broker_bytes: 0,
                connections: 0,
            }),
            changed: Condvar::new(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if accepting.lock().stopped {
                    return;
                }
                let Ok(broker) = TcpStream::connect(target) else {
                    continue;
                };
                client.set_nodelay(true).unwrap();
                broker.set_nodelay(true).unwrap();
                let (client, broker) = (Arc::new(client), Arc::new(broker));
                let cuts = {
                    let mut state = accepting.lock();
                    state.connections += 1;
                    state
                        .streams
                        .extend([Arc::clone(&client), Arc::clone(&broker)]);
                    state.cuts
                };
                for to_client in [true, false] {
                    let (from, to) = if to_client {
                        (&broker, &client)
                    } else {
                        (&client, &broker)
                    };
                    let (from, to, shared) =
                        (Arc::clone(from), Arc::clone(to), Arc::clone(&accepting));
                    thread::spawn(move || pump(&from, &to, to_client, cuts, &shared));
                }
            }
        });
        Proxy { address, shared }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The broker's URL, through this proxy.
    pub fn url(&self) -> String {
        super::url_through(self.address)
    }

    /// How many bytes the clients have sent, whatever became of them.
    pub fn client_bytes(&self) -> u64 {
        self.shared.lock().client_bytes
    }

    /// How many bytes the broker has sent, whatever became of them.
    pub fn broker_bytes(&self) -> u64 {
        self.shared.lock().broker_bytes
    }

    /// How many connections have come.
    pub fn connections(&self) -> usize {
        self.shared.lock().connections
    }

    /// Holds back what the broker sends.
    pub fn hold_broker(&self) {
        self.set(Some(Flow::Hold), None);
    }

    /// Holds back what the client sends. Its socket fills up in time.
    pub fn hold_client(&self) {
        self.set(None, Some(Flow::Hold));
    }

    /// Holds back both directions.
    pub fn pause(&self) {
        self.set(Some(Flow::Hold), Some(Flow::Hold));
    }

    /// Sends on what was held back, and forwards again.
    pub fn resume(&self) {
        self.set(Some(Flow::Forward), Some(Flow::Forward));
    }

    /// Throws away what the broker sends: it seems silent.
    pub fn swallow_broker(&self) {
        self.set(Some(Flow::Swallow), None);
    }

    /// Throws away both directions: the network is gone, and nothing reports that.
    pub fn swallow(&self) {
        self.set(Some(Flow::Swallow), Some(Flow::Swallow));
    }

    /// Forwards so many more bytes of what the client sends, and then cuts.
    pub fn cut_client_after(&self, bytes: usize) {
        self.shared.lock().client_left = Some(bytes);
    }

    /// Forwards so many more bytes of what the broker sends, and then cuts.
    pub fn cut_broker_after(&self, bytes: usize) {
        self.shared.lock().broker_left = Some(bytes);
    }

    fn set(&self, to_client: Option<Flow>, to_broker: Option<Flow>) {
        let mut state = self.shared.lock();
        state.to_client = to_client.unwrap_or(state.to_client);
        state.to_broker = to_broker.unwrap_or(state.to_broker);
        self.shared.changed.notify_all();
    }

    /// Ends every stream in order (FIN).
    pub fn cut(&self) {
        for stream in self.take_streams() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn take_streams(&self) -> Vec<Arc<TcpStream>> {
        self.shared.take_streams()
    }

    /// Ends every stream by a reset (RST).
    pub fn reset(&self) {
        let streams = self.take_streams();
        for stream in &streams {
            let _ = socket2::SockRef::from(&**stream).set_linger(Some(Duration::ZERO));
            // Ends the read of the pump, which holds the stream too, without a word to the peer.
            let _ = stream.shutdown(Shutdown::Read);
        }
        // The last holder's drop sends the reset: the pumps', which end now, or this one.
    }

    /// Resets every stream and takes no further connection.
    pub fn stop(&self) {
        let already = std::mem::replace(&mut self.shared.lock().stopped, true);
        if !already {
            // Wakes the accepting thread, which drops the listener.
            let _ = TcpStream::connect(self.address);
        }
        self.shared.changed.notify_all();
        self.reset();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Forwards one direction.
fn pump(mut from: &TcpStream, mut to: &TcpStream, to_client: bool, cuts: u64, shared: &Shared) {
    let mut chunk = [0; 64 * 1024];
    loop {
        let length = match from.read(&mut chunk) {
            Ok(length @ 1..) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            // An error is an end, too.
            _ => break,
        };
        let mut state = shared.lock();
        if to_client {
            state.broker_bytes += length as u64;
        } else {
            state.client_bytes += length as u64;
        }
        let flow = loop {
            if state.stopped || state.cuts != cuts {
                return;
            }
            let flow = if to_client {
                state.to_client
            } else {
                state.to_broker
            };
            if flow != Flow::Hold {
                break flow;
            }
            state = shared
                .changed
                .wait(state)
                .unwrap_or_else(|poisoned| poisoned.into_inner());
        };
        let left = if to_client {
            &mut state.broker_left
        } else {
            &mut state.client_left
        };
        let forwarded = length.min(left.unwrap_or(length));
        if let Some(left) = left {
            *left -= forwarded;
        }
        let is_last = *left == Some(0);
        drop(state);
        if flow == Flow::Forward && to.write_all(&chunk[..forwarded]).is_err() {
            break;
        }
        if is_last {
            for stream in shared.take_streams() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            return;
        }
    }
    let state = shared.lock();
    if !state.stopped && state.cuts == cuts {
        let _ = to.shutdown(Shutdown::Write);
    }
}
