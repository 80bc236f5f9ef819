//! How a connection ends by force: the stream lost, the protocol violated, a silent peer, blocked for too long.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::link::{Link, Shared};
use super::reader::Outcome;
use super::stream::describe;
use super::sync::{Instant, MutexGuard, LONG};
use crate::error::{Source, StreamLost};
use crate::escaped::Escaped;
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::Error;

/// How long a read that has seen the end of the stream waits for the error of a write that is going on, and a call whose write
/// failed for what the reads say of it.
pub(super) const WRITE_ERROR_LIMIT: Duration = Duration::from_millis(250);

/// Whether an error only says that the connection is over.
fn says_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
            | io::ErrorKind::ConnectionAborted
    )
}

impl Link {
    /// The peer broke a rule: it gets `connection.close` with the reason, and the connection ends.
    pub(super) fn end_for_violation(&self, shared: &mut Shared, error: Error) {
        let (reply_code, text) = match error {
            Error::UnexpectedFrame { .. } => (505, "UNEXPECTED_FRAME"),
            _ => (501, "FRAME_ERROR"),
        };
        let close = Method::ConnectionClose {
            reply_code,
            reply_text: text.into(),
            class_id: 0,
            method_id: 0,
        };
        let _ = frame::write_method(&mut shared.session.to_send, 0, &close);
        shared.session.end_all(error);
    }

    /// The operating system reports an error of the stream once, to a read or to a write, and after it a read sees only the end.
    /// So when a read has seen the end, a write that is going on is given the time to return it.
    pub(super) fn wait_for_write_error(&self, outcome: &Outcome) {
        if matches!(outcome, Outcome::End(_)) {
            self.outgoing.wait_for_write(WRITE_ERROR_LIMIT);
        }
    }

    /// The stream has ended, or a read failed.
    pub(super) fn end_for_lost_stream(&self, shared: &mut Shared, error: io::Error) {
        // After a failed write this end shuts the stream down, so the write's error is the one that counts, unless it only
        // says that there is no connection any more and the read's says why. The thread that wrote may not have come to report it.
        let written = shared.write_error.take();
        let cause = match written.or_else(|| self.outgoing.error()) {
            Some(written) if !says_nothing(&written) || says_nothing(&error) => written,
            _ => Arc::new(error),
        };
        let lost = self.stream_lost(shared, Some(cause));
        self.end_now(&mut shared.session, lost);
    }

    /// A write failed. The broker may have said why before it hung up, so what it sent is read to the end first.
    pub(super) fn write_failed(&self, error: Arc<io::Error>) {
        let mut shared = self.lock();
        shared.write_error.get_or_insert(error);
        shared.session.is_draining = true;
        self.hand_over(&mut shared);
        drop(shared);
        self.shutdown_stream();
    }

    /// Whether the connection can be used.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().session.is_open() && self.outgoing.error().is_none()
    }

    /// Whether the connection has ended, or is about to because a write failed, which calls report already.
    pub(crate) fn is_over(&self) -> bool {
        self.lock().session.end().is_some() || self.outgoing.error().is_some()
    }

    /// What ended the connection, or is about to.
    ///
    /// After a failed write the stream is read to its end, which may say more than the write's error: why the broker hung up,
    /// or an error that the operating system has given to a read. That takes no time unless threads are slow.
    pub(crate) fn end_reason(&self) -> Error {
        if let Some(end) = self.lock().session.end() {
            return end.clone();
        }
        self.outgoing.wait_for_end(WRITE_ERROR_LIMIT);
        let shared = self.lock();
        if let Some(end) = shared.session.end() {
            return end.clone();
        }
        let cause = shared.write_error.clone();
        self.stream_lost(&shared, cause.or_else(|| self.outgoing.error()))
    }

    fn stream_lost(&self, shared: &Shared, cause: Option<Arc<io::Error>>) -> Error {
        let text = match &cause {
            Some(error) => Escaped(&describe(error)).to_string(),
            None => "it was shut down".to_owned(),
        };
        let text = match shared.describe_pause() {
            Some(pause) => format!("{text}; {pause}"),
            None => text,
        };
        Error::StreamLost(Arc::new(StreamLost {
            address: Arc::clone(&self.address),
            cause: text,
            silent_for: shared.last_bytes.elapsed(),
            source: cause.map(Source::from).unwrap_or_default(),
        }))
    }

    /// Ends a connection whose peer has been silent for too long, or that the broker has blocked for too long.
    pub(super) fn check_silence(&self, shared: &mut Shared, last_bytes: Instant) {
        let silent_for = last_bytes.elapsed();
        let limit = self.heartbeat.silence_limit();
        if limit.is_some_and(|limit| silent_for >= limit) {
            let error = Error::HeartbeatTimeout {
                address: Arc::clone(&self.address),
                heartbeat: self.heartbeat.interval(),
                silent_for,
            };
            self.end_now(&mut shared.session, error);
        }
        self.check_blocked(shared);
    }

    /// Ends a connection that the broker has blocked for too long.
    pub(super) fn check_blocked(&self, shared: &mut Shared) {
        let (Some(since), Some(timeout)) = (shared.blocked_since, self.blocked_timeout) else {
            return;
        };
        if since.elapsed() >= timeout && shared.session.end().is_none() {
            let reason = shared.session.blocked.clone().unwrap_or_else(|| "".into());
            let error = Error::ConnectionBlockedTimeout {
                address: Arc::clone(&self.address),
                timeout,
                reason,
            };
            self.end_now(&mut shared.session, error);
            self.act_on_changes(shared);
        }
    }

    /// How long the reader thread may block until it must look at a limit.
    pub(super) fn next_limit(&self, shared: &Shared, last_bytes: Instant) -> Duration {
        let silence = self.heartbeat.silence_limit();
        let silence = silence.map(|limit| limit.saturating_sub(last_bytes.elapsed()));
        let limit = silence.unwrap_or(LONG).min(self.blocked_limit(shared));
        limit.max(Duration::from_millis(1))
    }

    /// How long the connection may still be blocked.
    pub(super) fn blocked_limit(&self, shared: &Shared) -> Duration {
        match (shared.blocked_since, self.blocked_timeout) {
            (Some(since), Some(timeout)) => timeout.saturating_sub(since.elapsed()),
            _ => LONG,
        }
    }

    /// Logs why the broker closed channels that no call can report any more. Without the lock, since a logger is the program's own
    /// code.
    pub(super) fn log_late_closures<'a>(
        &'a self,
        mut shared: MutexGuard<'a, Shared>,
    ) -> MutexGuard<'a, Shared> {
        let closures = std::mem::take(&mut shared.session.late_closures);
        if closures.is_empty() {
            return shared;
        }
        drop(shared);
        for closure in closures {
            log::warn!(
                "{}: {closure}; no call was left to report this",
                self.address
            );
        }
        self.lock()
    }

    /// Logs why the connection ended. Called without a lock, since a logger is the program's own code.
    pub(super) fn log_end(&self) {
        drop(self.log_late_closures(self.lock()));
        match self.end_reason() {
            Error::ConnectionClosedByClient { .. } => log::debug!("{}: closed", self.address),
            end => log::warn!("{end}"),
        }
    }
}
