//! The write half of the stream.
//!
//! Nothing here knows the connection: what became of a write comes back as a value.

use std::io::{self, IoSlice, Write};
use std::time::Duration;

use super::stream::{is_timeout, Stream};
use super::sync::Instant;
use crate::protocol::frame;
use crate::protocol::publish::Outbox;

/// One system call is given no more than this. A call that does not fit into one segment of 64 KiB, as loopback has them,
/// makes a small one after it, and what the peer has not read yet outgrows the processor's cache: half as many bytes get
/// through.
const WRITE_MOST: usize = 60 * 1024;

/// A body is cut into slices of this size, so that several of them and what goes before come near `WRITE_MOST`.
const BODY_SLICE: usize = 16 * 1024;

/// The bound of one system call, so that the thread that writes can look at its deadline.
pub(super) const WRITE_SLICE: Duration = Duration::from_secs(1);

/// The write half of the stream: the right to write.
pub(super) struct WriteHalf {
    stream: Box<dyn Stream>,
    /// The bytes that were taken to be written.
    batch: Vec<u8>,
    /// How many of them are written.
    done: usize,
    /// All of the batch is written, but the stream may buffer and has not been flushed.
    unflushed: bool,
    /// How many bytes of a body could not be written because the stream was lost.
    lost: usize,
}

/// What became of a write.
pub(super) enum Written {
    All,
    /// The peer takes nothing at present; the rest stays in the batch.
    Stuck,
    Failed(io::Error),
}

/// What a failed system call means. `None` if it is to be made again.
fn stopped_by(error: io::Error) -> Option<Written> {
    match error.kind() {
        io::ErrorKind::Interrupted => None,
        _ if is_timeout(&error) => Some(Written::Stuck),
        _ => Some(Written::Failed(error)),
    }
}

impl WriteHalf {
    pub(super) fn new(stream: Box<dyn Stream>) -> Self {
        WriteHalf {
            stream,
            batch: Vec::new(),
            done: 0,
            unflushed: false,
            lost: 0,
        }
    }

    /// Whether nothing is left of an earlier write.
    pub(super) fn is_clear(&self) -> bool {
        self.done == self.batch.len() && !self.unflushed
    }

    /// How many of the bytes it has taken are not written. What the stream has not flushed counts as one of them.
    pub(super) fn left(&self) -> usize {
        self.batch.len() - self.done + self.lost + usize::from(self.unflushed)
    }

    /// Takes what has gathered, to write it.
    pub(super) fn take(&mut self, outbox: &mut Outbox) {
        outbox.take_bytes(&mut self.batch);
    }

    /// Writes what was taken, or what is left of it.
    pub(super) fn write(&mut self) -> Written {
        let mut began = None;
        while self.done < self.batch.len() {
            let rest = &self.batch[self.done..];
            match self.stream.write(&rest[..rest.len().min(WRITE_MOST)]) {
                Ok(0) => return Written::Failed(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.done += count,
                Err(error) => {
                    if let Some(stopped) = stopped_by(error) {
                        return stopped;
                    }
                }
            }
            // A peer that takes a little at a time must not hold a caller beyond its deadline.
            if self.done < self.batch.len()
                && began.get_or_insert_with(Instant::now).elapsed() >= WRITE_SLICE
            {
                return Written::Stuck;
            }
        }
        self.batch.clear();
        self.done = 0;
        self.flush()
    }

    /// Writes what was taken, of which nothing is written yet, and after it the frames of a body, without copying the body.
    pub(super) fn write_body(&mut self, channel: u16, body: &[u8], chunk: usize) -> Written {
        let head = std::mem::take(&mut self.batch);
        let mut left = head.len() + framed_size(body.len(), chunk);
        let began = Instant::now();
        let mut outcome = Written::All;
        let mut before = &head[..];
        // Groups bound the list of slices; 64 frames are 8 MiB at the usual frame size.
        for group in body.chunks(chunk * 64) {
            let prefixes: Vec<[u8; frame::PREFIX]> = group
                .chunks(chunk)
                .map(|part| frame::body_prefix(channel, part.len() as u32))
                .collect();
            let mut slices = slices(std::mem::take(&mut before), group, chunk, &prefixes);
            let mut rest = &mut slices[..];
            while matches!(outcome, Written::All) && !rest.is_empty() {
                match self.stream.write_vectored(first_slices(rest)) {
                    Ok(0) => outcome = Written::Failed(io::ErrorKind::WriteZero.into()),
                    Ok(count) => {
                        left -= count;
                        IoSlice::advance_slices(&mut rest, count);
                    }
                    Err(error) => outcome = stopped_by(error).unwrap_or(outcome),
                }
                if matches!(outcome, Written::All) && began.elapsed() >= WRITE_SLICE {
                    outcome = Written::Stuck;
                }
            }
            if let Written::Failed(_) = outcome {
                self.lost = left;
                return outcome;
            }
            // A message that has begun must be finished; the next write goes on with the rest.
            for slice in rest.iter() {
                self.batch.extend_from_slice(slice);
            }
        }
        if self.batch.is_empty() {
            self.batch = head;
            self.batch.clear();
            return self.flush();
        }
        outcome
    }

    /// Sends what the stream itself may have buffered.
    fn flush(&mut self) -> Written {
        self.unflushed = true;
        let mut began = None;
        while let Err(error) = self.stream.flush() {
            if let Some(stopped) = stopped_by(error) {
                return stopped;
            }
            if began.get_or_insert_with(Instant::now).elapsed() >= WRITE_SLICE {
                return Written::Stuck;
            }
        }
        self.unflushed = false;
        Written::All
    }
}

/// What goes before a group of frames, and the frames themselves, as one write is given them.
fn slices<'a>(
    before: &'a [u8],
    group: &'a [u8],
    chunk: usize,
    prefixes: &'a [[u8; frame::PREFIX]],
) -> Vec<IoSlice<'a>> {
    let mut slices: Vec<IoSlice<'_>> = Vec::new();
    slices.extend(before.chunks(BODY_SLICE).map(IoSlice::new));
    for (part, prefix) in group.chunks(chunk).zip(prefixes) {
        slices.push(IoSlice::new(prefix));
        slices.extend(part.chunks(BODY_SLICE).map(IoSlice::new));
        slices.push(IoSlice::new(&[frame::FRAME_END]));
    }
    slices
}

/// How many bytes the frames of a body are.
pub(super) fn framed_size(body: usize, chunk: usize) -> usize {
    body + body.div_ceil(chunk) * frame::FRAME_OVERHEAD
}

/// As many of the slices as one system call is given. None of them is larger than that.
fn first_slices<'a, 'b>(slices: &'a [IoSlice<'b>]) -> &'a [IoSlice<'b>] {
    let mut size = 0;
    let fits = |slice: &&IoSlice<'_>| {
        size += slice.len();
        size <= WRITE_MOST
    };
    &slices[..slices.iter().take_while(fits).count()]
}
