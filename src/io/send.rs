//! What is sent: gathering, writing, and what follows when it cannot be sent.

use std::time::Duration;

use super::exit;
use super::link::Link;
use super::sync::after;
use super::writer::{Gathered, Patience, Refused, WriteResult};
use crate::error::Error;
use crate::protocol::publish::Outbox;

/// What a publisher waits for whose peer takes nothing.
const ROOM: &str = "room in the output buffer; nothing was sent";

impl Link {
    /// Gathers what no thread waits for, and returns what `write` does. Waits for room if there is none.
    #[inline]
    pub(crate) fn gather<T>(
        &self,
        channel: u16,
        patience: Patience<'_>,
        write: impl FnOnce(&mut Outbox) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let is_guarded = exit::guard_thread();
        let appended = match self.outgoing.gather(channel, patience, write) {
            Ok((appended, Gathered::Little)) => appended,
            Ok((appended, Gathered::Much)) => {
                self.write_gathered();
                appended
            }
            Err(refused) => return Err(self.not_appended(refused, patience, channel)),
        };
        if !is_guarded {
            // Nothing will wait for this when the thread has ended.
            self.flush(exit::LIMIT);
        }
        Ok(appended)
    }

    /// Writes one large message: `write` appends what comes before the body, and the body is written from where it lies. Nothing
    /// is written if `write` appended nothing and returned `None`.
    pub(crate) fn write_message<T>(
        &self,
        channel: u16,
        patience: Patience<'_>,
        body: &[u8],
        chunk: usize,
        write: impl FnOnce(&mut Outbox) -> Result<Option<T>, Error>,
    ) -> Result<Option<T>, Error> {
        let is_guarded = exit::guard_thread();
        if self.notice_fork() {
            return Err(self.end_reason());
        }
        let written = self
            .outgoing
            .write_message(patience, channel, body, chunk, write);
        let appended = match written {
            Ok(None) => return Ok(None),
            Ok(Some((appended, written))) => {
                self.check_write(written);
                appended
            }
            Err(refused) => return Err(self.not_appended(refused, patience, channel)),
        };
        if !is_guarded {
            self.flush(exit::LIMIT);
        }
        Ok(Some(appended))
    }

    /// Appends a call that its caller waits for. The caller goes on to wait, and so to write: the writer thread is not woken.
    pub(crate) fn append_call<T>(
        &self,
        write: impl FnOnce(&mut Outbox) -> Result<T, Error>,
    ) -> Result<T, Error> {
        exit::guard_thread();
        self.outgoing.append_call(write)
    }

    /// A thread that had to wait for a commit has sent what it had to, or waits no longer: another may be the first now.
    pub(crate) fn leave_send_queue(&self, slot: usize, entry: u64) {
        let mut shared = self.lock();
        if let Some(channel) = shared.session.channel(slot) {
            channel.send_queue.leave(entry);
            shared.session.note_change(slot);
            self.act_on_changes(&mut shared);
        }
    }

    #[cold]
    fn not_appended(&self, refused: Refused, patience: Patience<'_>, channel: u16) -> Error {
        match refused {
            Refused::Forked => {
                self.notice_fork();
                self.end_reason()
            }
            Refused::Ended => self.end_reason(),
            Refused::NoRoom => self.timed_out(ROOM, patience.limit, Some(channel)),
            Refused::Stopped => Error::Stopped { waiting_for: ROOM },
            Refused::Invalid(error) => error,
        }
    }

    /// Waits until there is room for a body of this size, or nothing can be sent any more, or the time is up.
    pub(crate) fn wait_for_room(&self, limit: Duration, body: usize) {
        self.outgoing.wait_for_room(limit, body);
    }

    /// Writes what has gathered, unless another thread is writing: then the writer thread writes it right afterwards.
    pub(super) fn write_gathered(&self) {
        self.check_write(self.outgoing.write_gathered());
    }

    /// Waits until everything appended so far is written. Returns whether it was, in time.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        self.write_gathered();
        let target = self.outgoing.appended();
        self.outgoing.wait_until_written(target, after(timeout))
    }

    pub(super) fn check_write(&self, written: WriteResult) {
        if let Err(error) = written {
            self.write_failed(error);
        }
    }
}
