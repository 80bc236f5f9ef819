//! The channels of a connection: their slots, their numbers, how they open and close.

use std::sync::Arc;

use super::Session;
use crate::error::Result;
use crate::protocol::channel::{ChannelState, Gate, Phase};
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::protocol::received::Content;
use crate::Error;

/// What a channel number stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Number {
    /// No channel had it yet.
    Unused,
    /// Its channel is closed. A broker that closes a channel may go on sending what was on its way: what it has delivered
    /// up to now ends with this tag.
    Closed { last: u64 },
    /// The channel in this slot has it.
    Taken(usize),
}

impl Session {
    pub(crate) fn channel(&mut self, slot: usize) -> Option<&mut ChannelState> {
        self.channels.get_mut(slot).and_then(Option::as_deref_mut)
    }

    #[cold]
    fn invalid_number(&self, number: u16, problem: &'static str) -> Error {
        Error::InvalidChannelNumber {
            number,
            problem,
            channel_max: self.channel_max,
        }
    }

    /// Chooses a number (the lowest free one, or the one asked for) and adds a channel; returns its slot and its number.
    pub(crate) fn add_channel(
        &mut self,
        number: Option<u16>,
        mut channel: ChannelState,
    ) -> Result<(usize, u16), Error> {
        let number = match number {
            Some(number) if number == 0 || number > self.channel_max => {
                return Err(self.invalid_number(number, "out of range"));
            }
            Some(number) if matches!(self.number(number), Number::Taken(_)) => {
                return Err(self.invalid_number(number, "in use"));
            }
            Some(number) => number,
            None => self.free_number()?,
        };
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.channels.push(None);
            self.channels.len() - 1
        });
        if self.numbers.len() <= number as usize {
            self.numbers.resize(number as usize + 1, Number::Unused);
        }
        channel.number = number;
        if let Number::Closed { last } = self.number(number) {
            channel.former = Some(last);
            channel.gate.set_phase(Phase::Reopening);
        }
        self.channels[slot] = Some(Box::new(channel));
        self.numbers[number as usize] = Number::Taken(slot);
        Ok((slot, number))
    }

    pub(super) fn number(&self, number: u16) -> Number {
        let known = self.numbers.get(number as usize);
        known.copied().unwrap_or(Number::Unused)
    }

    /// The lowest free number.
    fn free_number(&mut self) -> Result<u16, Error> {
        let channel_max = self.channel_max;
        let lowest = |numbers: &[Number]| {
            let free = numbers
                .iter()
                .position(|number| !matches!(number, Number::Taken(_)))
                .unwrap_or(numbers.len());
            u16::try_from(free)
                .ok()
                .filter(|number| *number <= channel_max)
        };
        if let Some(number) = lowest(&self.numbers) {
            return Ok(number);
        }
        // Rather than none at all, one whose close-ok is probably lost.
        for slot in 1..self.channels.len() {
            if self.channel(slot).is_some_and(|channel| channel.abandoned) {
                self.give_up_close_ok(slot);
            }
        }
        lowest(&self.numbers).ok_or_else(|| Error::NoFreeChannels { channel_max })
    }

    /// The handle is gone. A closed channel is forgotten now, another one when its closure is confirmed.
    pub(crate) fn abandon(&mut self, slot: usize) {
        let Some(channel) = self.channel(slot) else {
            return;
        };
        channel.abandoned = true;
        let closed = channel.phase() == Phase::Closed;
        self.clear_channel(slot);
        self.reported(slot);
        if closed {
            self.forget(slot);
        }
    }

    /// A closed channel without a handle: its slot is free for another.
    fn forget(&mut self, slot: usize) {
        self.channels[slot] = None;
        self.changed.retain(|changed| *changed != slot);
        self.vacant.push(slot);
    }

    /// The number is free again. What still comes for this channel is skipped.
    pub(super) fn release(&mut self, slot: usize) {
        let Some(channel) = self.channel(slot) else {
            return;
        };
        channel.gate.set_phase(Phase::Closed);
        channel.content = Content::None;
        let (number, abandoned) = (channel.number, channel.abandoned);
        let last = channel.gate.acks.last_received();
        self.numbers[number as usize] = Number::Closed { last };
        if abandoned {
            self.forget(slot);
            // The end of the process may wait for it.
            self.connection_changed = true;
        } else {
            self.note_change(slot);
        }
    }

    /// The threads that wait for a change of this channel are woken when what came has been handled.
    pub(crate) fn note_change(&mut self, slot: usize) {
        if self.changed.last() != Some(&slot) {
            self.changed.push(slot);
        }
    }

    /// A channel is over, and its number free.
    pub(super) fn end_channel(&mut self, slot: usize, why: Error) {
        if let Some(channel) = self.channel(slot) {
            channel.gate.finish(Phase::Closed, why);
            self.release(slot);
        }
    }

    /// This program closes a channel: what waits for the program is dropped, and the number is free when the broker has
    /// confirmed. Does nothing if the channel is over.
    pub(crate) fn close_channel(
        &mut self,
        slot: usize,
        reply_code: u16,
        reply_text: &str,
        why: Error,
    ) -> Result<(), Error> {
        let Some(channel) = self.channel(slot).filter(|channel| !channel.gate.is_over()) else {
            return Ok(());
        };
        channel.gate.finish(Phase::Closing, why);
        let number = channel.number;
        let close = Method::ChannelClose {
            reply_code,
            reply_text: reply_text.into(),
            class_id: 0,
            method_id: 0,
        };
        frame::write_method(&mut self.to_send, number, &close).map_err(Error::unsendable)?;
        self.clear_channel(slot);
        self.note_change(slot);
        Ok(())
    }

    /// The broker closes a channel, and gets the `close-ok` that it waits for.
    pub(super) fn closed_by_broker(
        &mut self,
        slot: usize,
        number: u16,
        why: Error,
    ) -> Result<(), Error> {
        frame::write_method(&mut self.to_send, number, &Method::ChannelCloseOk {})
            .map_err(Error::syntax)?;
        let is_closing = self.is_closing();
        let channel = self.at(slot)?;
        if channel.phase() == Phase::Closing {
            // Both ends closed at once. This end's close-ok is still to come, and until then the number is taken.
            let is_late = channel.abandoned || is_closing;
            channel.broker_close = Some(why.clone());
            if is_late {
                self.late_closures.push(why);
            }
            self.note_change(slot);
        } else {
            self.closures.push(slot);
            self.end_channel(slot, why);
        }
        Ok(())
    }

    /// The slots and numbers of the channels on which something may be sent.
    pub(crate) fn open_channels(&self) -> Vec<(usize, u16)> {
        let channels = self.channels.iter().enumerate().skip(1);
        channels
            .filter_map(|(slot, channel)| Some((slot, channel.as_deref()?)))
            .filter(|(_, channel)| channel.phase() == Phase::Open)
            .map(|(slot, channel)| (slot, channel.number))
            .collect()
    }

    /// The channels whose closure the broker has not confirmed yet.
    pub(crate) fn closing_channels(&self) -> Vec<Arc<Gate>> {
        let channels = self.channels.iter().skip(1).flatten();
        channels
            .filter(|channel| channel.phase() == Phase::Closing && channel.broker_close.is_none())
            .map(|channel| Arc::clone(&channel.gate))
            .collect()
    }

    /// Waits no longer for the close-ok of a channel that both ends closed at once. RabbitMQ may lose it: it ends the
    /// channel's process when it gets the other end's close-ok, perhaps before that process has sent its own.
    pub(crate) fn give_up_close_ok(&mut self, slot: usize) {
        if self.channel(slot).is_some_and(|channel| {
            channel.broker_close.is_some() && channel.phase() == Phase::Closing
        }) {
            self.release(slot);
        }
    }
}
