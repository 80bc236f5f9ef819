//! A stream that the program made, which is not trusted to do what [`Stream`] asks of it.

use std::io::{self, IoSlice, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::thread;
use std::time::Duration;

use super::stream::{Stream, BEFORE_NEXT_CALL};
use crate::error::panic_text;

/// What the methods of the stream return is checked, and a panic of theirs becomes an error: it would end a thread without
/// which the connection is open and does nothing.
pub(crate) struct Guarded {
    stream: Box<dyn Stream>,
    /// How many calls in a row came to nothing.
    fruitless: u32,
}

impl Guarded {
    /// How many calls in a row may come to nothing before they are slowed down: a signal may come, or a time be up.
    const AT_ONCE: u32 = 8;

    pub(crate) fn new(stream: Box<dyn Stream>) -> Self {
        Guarded {
            stream,
            fruitless: 0,
        }
    }

    /// Waits a little after calls that came to nothing, since they will be made again, and perhaps returned at once. After an
    /// error that ends the connection there are no more.
    fn paced<T>(
        &mut self,
        result: io::Result<T>,
        is_fruitless: impl Fn(&io::Error) -> bool,
    ) -> io::Result<T> {
        match &result {
            Err(error) if is_fruitless(error) => {
                self.fruitless = self.fruitless.saturating_add(1);
                if self.fruitless > Self::AT_ONCE {
                    thread::sleep(BEFORE_NEXT_CALL);
                }
            }
            _ => self.fruitless = 0,
        }
        result
    }
}

impl Read for Guarded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let given = buffer.len();
        let result = checked("read", given, || self.stream.read(buffer));
        // One that does not wait is an error, see `EarlyReturns`.
        self.paced(result, |error| error.kind() == io::ErrorKind::Interrupted)
    }
}

impl Write for Guarded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = checked("write", bytes.len(), || self.stream.write(bytes));
        self.paced(result, |_| true)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let given = slices.iter().map(|slice| slice.len()).sum();
        let write = || self.stream.write_vectored(slices);
        let result = checked("write_vectored", given, write);
        self.paced(result, |_| true)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = caught("flush", || self.stream.flush());
        self.paced(result, |_| true)
    }
}

impl Stream for Guarded {
    fn try_clone(&self) -> io::Result<Box<dyn Stream>> {
        let clone = caught("try_clone", || self.stream.try_clone())?;
        Ok(Box::new(Guarded::new(clone)))
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        caught("set_read_timeout", || self.stream.set_read_timeout(timeout))
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        caught("set_write_timeout", || {
            self.stream.set_write_timeout(timeout)
        })
    }

    fn shutdown(&self) -> io::Result<()> {
        caught("shutdown", || self.stream.shutdown())
    }
}

fn caught<T>(method: &str, call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    panic::catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let text = panic_text(&*payload);
        Err(io::Error::other(format!(
            "the stream's {method} panicked: {text}"
        )))
    })
}

/// It may claim more than it was given, and a slice with such an end is a panic.
fn checked(
    method: &str,
    given: usize,
    call: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    let count = caught(method, call)?;
    if count <= given {
        return Ok(count);
    }
    Err(io::Error::other(format!(
        "the stream's {method} returned {count} bytes where it was given {given}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_claims_more_than_it_was_given_is_refused() {
        assert_eq!(checked("read", 8, || Ok(7)).unwrap(), 7);
        assert_eq!(checked("read", 8, || Ok(8)).unwrap(), 8);
        let error = checked("read", 8, || Ok(9)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the stream's read returned 9 bytes where it was given 8"
        );
    }
}
