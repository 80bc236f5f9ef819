//! What a read has brought is handled, and the threads that it concerns are woken.

use super::link::{Link, Shared};
use super::reader::{Outcome, Reader};

impl Link {
    /// Handles what a read has brought.
    pub(super) fn receive(&self, shared: &mut Shared, reader: &mut Reader, outcome: Outcome) {
        match outcome {
            Outcome::Bytes => {
                shared.last_bytes = reader.last_bytes();
                // What came may be about any message that was published before it came.
                shared
                    .session
                    .expect_returns(self.outgoing.take_mandatory());
                if let Err(error) = reader.handle(&mut shared.session) {
                    self.end_for_violation(shared, error);
                }
            }
            Outcome::Nothing => self.check_silence(shared, reader.last_bytes()),
            Outcome::End(error) => self.end_for_lost_stream(shared, error),
        }
        self.act_on_changes(shared);
    }

    /// Handles a little of what has been read before, if no thread is reading. Returns whether there was any.
    pub(crate) fn receive_more(&self, shared: &mut Shared) -> bool {
        let Some(mut reader) = shared.reader.take_if(|reader| reader.more) else {
            return false;
        };
        self.receive(shared, &mut reader, Outcome::Bytes);
        shared.reader = Some(reader);
        true
    }
}
