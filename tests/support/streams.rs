//! Streams that are no TCP: a pair in memory, and any stream bridged to an address.
#![allow(dead_code, unreachable_pub)]

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use haypile::Stream;

/// How many bytes one direction of a pair holds: few, so that writers meet its bound.
const ROOM: usize = 16 * 1024;

#[derive(Default)]
struct Direction {
    bytes: VecDeque<u8>,
    closed: bool,
}

#[derive(Default)]
struct Wire {
    /// From the first end to the second, and back.
    directions: Mutex<[Direction; 2]>,
    changed: Condvar,
}

/// One end of a stream in memory.
pub struct End {
    wire: Arc<Wire>,
    /// Which direction this end writes into.
    writes: usize,
    /// For reads and for writes, shared by all handles of this end.
    timeouts: Arc<Mutex<[Duration; 2]>>,
}

/// Two ends; what is written into one is read from the other.
pub fn pair() -> (End, End) {
    let wire = Arc::new(Wire::default());
    let end = |writes| End {
        wire: Arc::clone(&wire),
        writes,
        timeouts: Arc::new(Mutex::new([Duration::from_secs(3600); 2])),
    };
    (end(0), end(1))
}

impl End {
    /// Does `step` as soon as it gives something, or fails when the time is up.
    fn when<T>(
        &self,
        timeout: usize,
        mut step: impl FnMut(&mut [Direction; 2]) -> Option<T>,
    ) -> io::Result<T> {
        let deadline = Instant::now() + self.timeouts.lock().unwrap()[timeout];
        let mut directions = self.wire.directions.lock().unwrap();
        loop {
            if let Some(value) = step(&mut directions) {
                drop(directions);
                self.wire.changed.notify_all();
                return Ok(value);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            directions = self.wire.changed.wait_timeout(directions, left).unwrap().0;
        }
    }
}

impl Read for End {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let from = 1 - self.writes;
        self.when(0, |directions| {
            let Direction { bytes, closed } = &mut directions[from];
            if bytes.is_empty() && !*closed {
                return None;
            }
            Some(bytes.read(buf))
        })?
    }
}

impl Write for End {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let into = self.writes;
        self.when(1, |directions| {
            let Direction { bytes, closed } = &mut directions[into];
            if *closed {
                return Some(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = buf.len().min(ROOM - bytes.len());
            bytes.extend(&buf[..count]);
            (count > 0).then_some(Ok(count))
        })?
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for End {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(End {
            wire: Arc::clone(&self.wire),
            writes: self.writes,
            timeouts: Arc::clone(&self.timeouts),
        }))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.timeouts.lock().unwrap()[0] = timeout;
        Ok(())
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.timeouts.lock().unwrap()[1] = timeout;
        Ok(())
    }

    fn shutdown(&self) -> io::Result<()> {
        for direction in &mut *self.wire.directions.lock().unwrap() {
            direction.closed = true;
        }
        self.wire.changed.notify_all();
        Ok(())
    }
}

/// Hands on everything between a stream and an address, on threads of its own, until either ends.
pub fn bridge(stream: impl Stream + 'static, to: SocketAddr) {
    let peer = TcpStream::connect(to).unwrap();
    let (one, another) = (stream.try_clone().unwrap(), Box::new(stream));
    let (to_peer, from_peer) = (peer.try_clone().unwrap(), peer);
    thread::spawn(move || hand_on(one, Box::new(to_peer)));
    thread::spawn(move || hand_on(Box::new(from_peer), another));
}

fn hand_on(mut from: Box<dyn Stream>, mut to: Box<dyn Stream>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    let _ = from.shutdown();
    let _ = to.shutdown();
}
