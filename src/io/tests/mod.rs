//! The parts of a connection one by one, over a stream that does what a test tells it to: what a real peer does only now and
//! then, and what can be counted only here.

mod exit;
pub(super) mod link;
mod reader;
mod stream;
mod wait;
mod writer;
mod writer_thread;

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::{mpsc, Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::stream::Stream;
use crate::protocol::frame;
use crate::protocol::method::Method;

/// Much longer than anything here takes.
pub(super) const LONG: Duration = Duration::from_secs(40);

/// Within this a test notices that something does not end: before a wait of `LONG` has passed.
const SOON: Duration = Duration::from_secs(20);

/// A stream in memory. A read returns what the test has put in, and else that its time is up; a write takes all, unless the
/// test said how much the next ones take.
#[derive(Clone, Default)]
pub(super) struct Script(Arc<Mutex<Scripted>>);

#[derive(Default)]
pub(super) struct Scripted {
    /// What the next reads return.
    pub(super) reads: VecDeque<io::Result<Vec<u8>>>,
    /// How much each read had room for.
    pub(super) room: Vec<usize>,
    /// Called at the beginning of each read, without the lock.
    pub(super) before_read: Option<Arc<dyn Fn() + Send + Sync>>,
    /// How much the next writes take, or why they fail.
    pub(super) takes: VecDeque<io::Result<usize>>,
    /// When there are no more `takes`, writes take nothing.
    pub(super) is_stuck: bool,
    /// Why the next flushes fail.
    pub(super) flush_errors: VecDeque<io::ErrorKind>,
    /// Called at the beginning of each write, without the lock.
    pub(super) before_write: Option<Arc<dyn Fn() + Send + Sync>>,
    /// Called at the beginning of each flush, without the lock.
    pub(super) before_flush: Option<Arc<dyn Fn() + Send + Sync>>,
    /// What was taken.
    pub(super) written: Vec<u8>,
    /// For each write, the sizes of what it was given.
    pub(super) given: Vec<Vec<usize>>,
    pub(super) flushes: usize,
    pub(super) read_timeouts: Vec<Duration>,
    pub(super) write_timeouts: Vec<Duration>,
    /// Why no timeout can be set.
    pub(super) timeout_error: Option<io::ErrorKind>,
    pub(super) is_shut_down: bool,
}

impl Script {
    pub(super) fn lock(&self) -> MutexGuard<'_, Scripted> {
        self.0.lock().unwrap()
    }

    pub(super) fn transport(&self) -> Box<dyn Stream> {
        Box::new(self.clone())
    }

    pub(super) fn written(&self) -> Vec<u8> {
        self.lock().written.clone()
    }

    /// How many writes and how many flushes there were.
    pub(super) fn calls(&self) -> (usize, usize) {
        let script = self.lock();
        (script.given.len(), script.flushes)
    }
}

/// Runs this on another thread; its end must be waited for with `ends`.
pub(super) fn elsewhere<T: Send + 'static>(
    run: impl FnOnce() -> T + Send + 'static,
) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let _ = sender.send(run());
    });
    receiver
}

pub(super) fn ends<T>(receiver: &mpsc::Receiver<T>) -> T {
    receiver.recv_timeout(SOON).expect("it does not end")
}

/// Waits until this is so.
pub(super) fn until(is_so: impl Fn() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < SOON, "it does not come to that");
        thread::yield_now();
    }
}

/// Writes begin and do not end until what is returned first is dropped. The other receives something for each that begins.
pub(super) fn hold_writes(script: &Script) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (release, held) = mpsc::channel::<()>();
    let (begin, began) = mpsc::channel();
    let (held, begin) = (Mutex::new(held), Mutex::new(begin));
    script.lock().before_write = Some(Arc::new(move || {
        let _ = begin.lock().unwrap().send(());
        let _ = held.lock().unwrap().recv();
    }));
    (release, began)
}

/// What a broker sends that an operator shuts down.
pub(super) fn forced_close() -> Vec<u8> {
    let close = Method::ConnectionClose {
        reply_code: 320,
        reply_text: "CONNECTION_FORCED".into(),
        class_id: 0,
        method_id: 0,
    };
    let mut bytes = Vec::new();
    frame::write_method(&mut bytes, 0, &close).unwrap();
    bytes
}

/// Runs a test again in a process where no thread starts, since there is no memory for its stack. Returns whether this is that
/// process.
#[cfg(target_os = "linux")]
pub(super) fn is_where_no_thread_starts(test: &str) -> bool {
    const STACK: &str = "RUST_MIN_STACK";
    let too_large = (1_u64 << 60).to_string();
    if std::env::var(STACK).is_ok_and(|size| size == too_large) {
        return true;
    }
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env(STACK, too_large)
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && report.contains("1 passed"),
        "{report}"
    );
    false
}

impl Read for Script {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let before = self.lock().before_read.clone();
        if let Some(before) = before {
            before();
        }
        let mut script = self.lock();
        script.room.push(buffer.len());
        match script.reads.pop_front() {
            Some(Ok(mut bytes)) => {
                let count = bytes.len().min(buffer.len());
                buffer[..count].copy_from_slice(&bytes[..count]);
                let rest = bytes.split_off(count);
                if !rest.is_empty() {
                    script.reads.push_front(Ok(rest));
                }
                Ok(count)
            }
            Some(Err(error)) => Err(error),
            None => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for Script {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let before = self.lock().before_write.clone();
        if let Some(before) = before {
            before();
        }
        let mut script = self.lock();
        let bytes = slices
            .iter()
            .map(|slice| &**slice)
            .collect::<Vec<_>>()
            .concat();
        script
            .given
            .push(slices.iter().map(|slice| slice.len()).collect());
        let count = match script.takes.pop_front() {
            Some(takes) => takes?.min(bytes.len()),
            None if script.is_stuck => return Err(io::ErrorKind::WouldBlock.into()),
            None => bytes.len(),
        };
        script.written.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let before = self.lock().before_flush.clone();
        if let Some(before) = before {
            before();
        }
        let mut script = self.lock();
        script.flushes += 1;
        match script.flush_errors.pop_front() {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }
}

impl Stream for Script {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(self.clone()))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        let script = &mut *self.lock();
        script.read_timeouts.push(timeout);
        script.timeout_error.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        let script = &mut *self.lock();
        script.write_timeouts.push(timeout);
        script.timeout_error.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn shutdown(&self) -> io::Result<()> {
        self.lock().is_shut_down = true;
        Ok(())
    }
}
