//! How a connection ends in good order: it is closed and the broker's `close-ok` is waited for, or the process ends and the
//! broker is asked whether it has handled what was sent.

use std::sync::Arc;
use std::time::Duration;

use super::exit::{AtExit, Ending, PendingReplies};
use super::link::{Interest, Link, Shared};
use super::sync::{after, Instant};
use crate::error::{Source, StreamLost, FATE_UNKNOWN};
use crate::protocol::connection::HELD_BOUND;
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::{Error, FieldValue};

/// How long anything that still needs the broker's reply may wait after a stop: cancelling a consumer, closing.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(2);

/// How long the end of a thread leaves the broker to handle what was written last, where its reply cannot be waited for.
const GRACE: Duration = Duration::from_millis(5);

/// What a close has waited for that the broker has not confirmed.
const CLOSE_OK: &str =
    "connection.close-ok; whether the broker received what was published last is unknown";

impl Link {
    /// Closes the connection: sends `connection.close`, waits for `close-ok`, and ends the connection in any case. `Ok` means
    /// that the broker has confirmed.
    pub(crate) fn close(
        &self,
        reply_code: u16,
        reply_text: &str,
        timeout: Duration,
    ) -> Result<(), Error> {
        let mut shared = self.lock();
        if let Some(end) = shared.session.end().cloned() {
            let is_reported = std::mem::replace(&mut shared.session.end_reported, true);
            drop(shared);
            if self.is_inherited() {
                return Err(end);
            }
            let error = self.not_confirmed(&end);
            return Err(match end {
                Error::ConnectionClosedByClient { .. } => Error::connection_ended(&end),
                _ if is_reported => Error::connection_ended(&error),
                _ => error,
            });
        }
        if shared.session.is_closing() {
            return Err(Error::connection_closing(
                "it is being closed by another thread",
            ));
        }
        shared.session.close(reply_code, reply_text)?;
        self.act_on_changes(&mut shared);
        drop(shared);
        let deadline = after(timeout);
        let ended = self.wait(Interest::connection(), Some(deadline), |shared| {
            let end = shared.session.end().cloned();
            shared.session.end_reported |= end.is_some();
            end
        });
        drop(self.log_late_closures(self.lock()));
        match ended {
            Some(end) => self.check_confirmed(&end),
            None => {
                let mut shared = self.lock();
                shared.session.end_by_client();
                self.act_on_changes(&mut shared);
                self.outgoing.kill();
                drop(shared);
                self.shutdown_stream();
                Err(self.timed_out(CLOSE_OK, timeout, None))
            }
        }
    }

    /// Whether the end of the connection means that the broker has confirmed a close, and with it all that was sent before.
    pub(crate) fn check_confirmed(&self, end: &Error) -> Result<(), Error> {
        match end {
            Error::ConnectionClosedByClient { .. } => Ok(()),
            _ => Err(self.not_confirmed(end)),
        }
    }

    /// The error of a close that the broker has not confirmed: what ended the connection, and what that means for what was
    /// sent last.
    fn not_confirmed(&self, end: &Error) -> Error {
        let (cause, source) = match end {
            Error::ConnectionClosedByBroker {
                reply_code,
                reply_text,
                method,
                address,
                ..
            } => {
                return Error::ConnectionClosedByBroker {
                    reply_code: *reply_code,
                    reply_text: reply_text.clone(),
                    method: *method,
                    address: Arc::clone(address),
                    while_closing: true,
                };
            }
            Error::StreamLost(lost) => (lost.cause.clone(), lost.source.clone()),
            other => (format!("{other}"), Source::new(other.clone())),
        };
        let unsent = match self.outgoing.unsent() {
            0 => String::new(),
            bytes => format!("{bytes} bytes were not sent, and "),
        };
        let silent_for = match end {
            Error::StreamLost(lost) => lost.silent_for,
            _ => self.lock().last_bytes.elapsed(),
        };
        Error::StreamLost(Arc::new(StreamLost {
            address: Arc::clone(&self.address),
            cause: format!("{cause}; {unsent}{FATE_UNKNOWN}"),
            silent_for,
            source,
        }))
    }

    /// Logs how much of what was handed over was never written, when there is no call left to report it.
    pub(crate) fn log_unsent(&self) {
        let unsent = self.outgoing.unsent();
        if unsent > 0 {
            log::warn!(
                "{}: dropped after the connection had ended; {unsent} bytes were not sent, and {FATE_UNKNOWN}",
                self.address
            );
        }
    }

    /// How long closing may wait for the broker: less if something was stopped.
    pub(crate) fn closing_timeout(&self, usual: Duration) -> Duration {
        let usual = usual.min(self.rpc_timeout);
        if self.is_stopped() {
            usual.min(STOP_GRACE)
        } else {
            usual
        }
    }

    /// Ends the connection for every handle at once, without waiting. The writer thread sends what has gathered, and
    /// `connection.close`.
    pub(crate) fn abandon(&self, error: &Error) {
        let mut shared = self.lock();
        if shared.session.end().is_some() {
            return;
        }
        let close = Method::ConnectionClose {
            reply_code: 200,
            reply_text: "given up by this program".into(),
            class_id: 0,
            method_id: 0,
        };
        if !shared.session.is_closing() {
            // The text is short enough, so it can be encoded.
            let _ = frame::write_method(&mut shared.session.to_send, 0, &close);
        }
        let end = Error::ConnectionClosedByClient {
            reply_code: 200,
            reply_text: format!("its supervisor dropped it after: {error}"),
        };
        shared.session.end_all(end);
        self.act_on_changes(&mut shared);
    }

    /// Ends a channel from this side without waiting; its number is free when the broker has confirmed.
    pub(crate) fn end_channel(
        &self,
        shared: &mut Shared,
        slot: usize,
        code: u16,
        text: &str,
        why: Error,
    ) {
        // Its text was measured before, so it can be encoded.
        let _ = shared.session.close_channel(slot, code, text, why);
        self.act_on_changes(shared);
    }

    /// Why a thread that may be all that ends does not wait for the broker's reply: it is not RabbitMQ, of which alone it is
    /// known that it discards what it has not handled; the broker takes nothing at present; or the reply would come only behind
    /// what waits for the program.
    fn is_asked_in_vain(&self, shared: &Shared) -> bool {
        let product = self.negotiated.server_properties.get("product");
        product.and_then(FieldValue::as_str) != Some("RabbitMQ")
            || shared.session.blocked.is_some()
            || shared.session.undelivered > HELD_BOUND
            || shared.asked_in_vain == Some(shared.last_bytes)
    }

    /// Requests something of the broker that has no effect, on each channel where it may not have handled all: its reply means
    /// that it has.
    fn ask_on_channels(&self, shared: &mut Shared) -> Vec<Asked> {
        let mut asked = Vec::new();
        for (slot, number) in shared.session.open_channels() {
            let method = Method::ChannelFlow { active: true };
            let position = self.outgoing.append_if_unhandled(number, |out| {
                frame::write_method(&mut out.bytes, number, &method).map_err(Error::unsendable)
            });
            if let Some(position) = position {
                asked.push(Asked {
                    slot,
                    number,
                    call: shared.session.add_call(slot, method.reply_id(), None),
                    position,
                });
            }
        }
        asked
    }

    /// Waits until the broker has replied to all that it was asked, and until each channel that is being closed is closed, which
    /// says as much.
    fn wait_for_handled(&self, mut asked: Vec<Asked>, ending: Ending, deadline: Instant) {
        let mut closing = self.lock().session.closing_channels();
        let interest = match ending {
            Ending::Process => Interest::connection(),
            // Once too much waits for the program, nothing more is read for this.
            Ending::Thread => Interest::optional(),
        };
        let waited = self.wait(interest, Some(deadline), |shared| {
            asked.retain(|asked| !self.is_handled(shared, asked));
            let still = shared.session.closing_channels();
            closing.retain(|gate| still.iter().any(|other| Arc::ptr_eq(gate, other)));
            if ending == Ending::Thread && self.is_asked_in_vain(shared) {
                return Some(Waited::InVain);
            }
            (asked.is_empty() && closing.is_empty()).then_some(Waited::Handled)
        });
        let mut shared = self.lock();
        if waited.is_none() {
            shared.asked_in_vain = Some(shared.last_bytes);
        }
        for asked in &asked {
            if let Some(channel) = shared.session.channel(asked.slot) {
                channel.calls.forget(asked.call);
            }
        }
        drop(shared);
        match waited {
            Some(Waited::Handled) => {}
            Some(Waited::InVain) => self.leave_to_broker(deadline),
            None if ending == Ending::Process => log::warn!(
                "{}: the process ends, and the broker has not handled everything; {} bytes are not sent",
                self.address,
                self.outgoing.unsent()
            ),
            None => {}
        }
    }

    /// Whether the broker has handled what was sent on a channel before this was asked, or never will.
    fn is_handled(&self, shared: &mut Shared, asked: &Asked) -> bool {
        match shared.session.channel(asked.slot) {
            Some(channel) if channel.gate.end().is_none() => {
                let is_replied_to = channel.calls.take_reply(asked.call).is_some();
                if is_replied_to {
                    self.outgoing.note_handled(asked.number, asked.position);
                }
                is_replied_to
            }
            _ => true,
        }
    }

    /// Where the broker's reply cannot be waited for: waits until everything is written, and a moment longer.
    fn leave_to_broker(&self, deadline: Instant) {
        if let Some(target) = self.outgoing.request_write() {
            self.outgoing.wait_until_written(target, deadline);
        }
        let until = self.outgoing.last_write() + GRACE;
        std::thread::sleep(until.saturating_duration_since(Instant::now()));
    }
}

/// What ended the wait for the broker to handle what was sent.
enum Waited {
    Handled,
    /// The reply cannot come soon.
    InVain,
}

/// What the broker was asked on one channel.
struct Asked {
    slot: usize,
    number: u16,
    call: u64,
    /// How much had been appended when it was asked.
    position: u64,
}

impl AtExit for Link {
    fn process(&self) -> u32 {
        self.process.id()
    }

    fn may_have_unhandled(&self) -> bool {
        self.outgoing.may_have_unhandled() || !self.lock().session.closing_channels().is_empty()
    }

    fn ask_for_unhandled(self: Arc<Self>, ending: Ending) -> PendingReplies {
        let mut shared = self.lock();
        let asked = if ending == Ending::Thread && self.is_asked_in_vain(&shared) {
            Vec::new()
        } else {
            self.ask_on_channels(&mut shared)
        };
        drop(shared);
        self.outgoing.request_write();
        Box::new(move |deadline| self.wait_for_handled(asked, ending, deadline))
    }
}
