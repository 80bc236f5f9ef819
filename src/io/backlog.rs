//! What is read off the stream while the program has enough: kept as it came.
//!
//! RabbitMQ closes a connection when one of its own sends does not come to its end within 30 seconds (`send_timeout` in
//! `rabbit.tcp_listen_options`). A send is a whole message, and its end is that all of it is in the socket's buffers. Those
//! take more only in large steps: Linux tells a sender of room when a third of its buffer is free (a MiB and more), and a
//! receiver tells its peer of room in sixteenths of its own. Measured with RabbitMQ 3.10, 4.0 and 4.3 on one machine: with
//! messages of up to a megabyte a connection lives if 1 MB is read every 8 seconds, and dies of 1 MB every 10; with messages
//! of 5 and 10 MB it lives on most of a message every 8 seconds, and dies of less than half a message.
//!
//! So while reading pauses, once or again and again, [`QUOTA`] bytes are read in each [`PERIOD`], or the size of the largest
//! message that is on its way, if that is more. They stay what they are on the wire, because a small message takes several
//! times as much once it is taken in.

use std::collections::VecDeque;
use std::time::Duration;

use crate::protocol::skim::Skim;

/// How often a paused connection is read, so that there are three times within the broker's 30 seconds.
pub(crate) const PERIOD: Duration = Duration::from_secs(8);

/// How much is read each time, at least: four times what brokers were seen to need.
const QUOTA: usize = 4 << 20;

/// Still twice what brokers were seen to need: as good as the quota when reading pauses anew.
pub(crate) const HALF_QUOTA: usize = QUOTA / 2;

const CHUNK: usize = 64 * 1024;

/// Bytes in the order they came.
pub(crate) struct Backlog {
    chunks: VecDeque<Chunk>,
    skim: Skim,
}

struct Chunk {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Backlog {
    pub(crate) fn new() -> Self {
        Backlog {
            chunks: VecDeque::new(),
            skim: Skim::new(0),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What follows goes on in the middle of a frame, of which `rest` bytes are still to come, and then with `unhandled`. `largest`
    /// is the size of the largest message before.
    pub(crate) fn begin(&mut self, rest: usize, largest: u64, unhandled: &[u8]) {
        self.skim = Skim::new(rest);
        self.skim.largest = largest;
        self.skim.follow(unhandled);
    }

    /// Whether the peer closes the connection somewhere in here.
    pub(crate) fn is_closed(&self) -> bool {
        self.skim.is_closed
    }

    /// Room for more; what was read into it must be `add`ed.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        if self
            .chunks
            .back()
            .is_none_or(|last| last.end == last.bytes.len())
        {
            self.chunks.push_back(Chunk {
                bytes: vec![0; CHUNK].into_boxed_slice(),
                start: 0,
                end: 0,
            });
        }
        match self.chunks.back_mut() {
            Some(last) => &mut last.bytes[last.end..],
            None => &mut [],
        }
    }

    /// `count` bytes were read into the room.
    pub(crate) fn add(&mut self, count: usize) {
        if let Some(last) = self.chunks.back_mut() {
            self.skim.follow(&last.bytes[last.end..last.end + count]);
            last.end += count;
        }
        // Room that nothing came for.
        if self
            .chunks
            .back()
            .is_some_and(|last| last.start == last.end)
        {
            self.chunks.pop_back();
        }
    }

    /// Moves the oldest bytes to where they are handled; returns how many.
    pub(crate) fn take(&mut self, into: &mut [u8]) -> usize {
        let Some(first) = self.chunks.front_mut() else {
            return 0;
        };
        let count = into.len().min(first.end - first.start);
        into[..count].copy_from_slice(&first.bytes[first.start..first.start + count]);
        first.start += count;
        if first.start == first.end {
            self.chunks.pop_front();
        }
        count
    }

    /// How much is to be read in a period. What is larger than `max_message_size` is not waited for.
    pub(crate) fn quota(&self, max_message_size: u64) -> usize {
        let message = self.skim.largest.min(max_message_size);
        usize::try_from(message).unwrap_or(usize::MAX).max(QUOTA)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut backlog = Backlog::new();
        backlog.begin(0, 0, &[]);
        let (mut put, mut taken) = (0_usize, 0_usize);
        let mut out = vec![0; 10_007];
        while taken < 1_000_000 {
            if put < 1_000_000 {
                let room = backlog.room();
                let count = room.len().min(30_011).min(1_000_000 - put);
                for byte in &mut room[..count] {
                    *byte = (put % 251) as u8;
                    put += 1;
                }
                backlog.add(count);
            }
            let count = backlog.take(&mut out);
            for byte in &out[..count] {
                assert_eq!(*byte, (taken % 251) as u8);
                taken += 1;
            }
        }
        assert!(backlog.is_empty());
        assert_eq!(backlog.take(&mut out), 0);
        backlog.room();
        backlog.add(0);
        assert!(backlog.is_empty(), "a read that brought nothing");
    }

    #[test]
    fn the_quota_follows_the_largest_message() {
        let mut backlog = Backlog::new();
        assert_eq!(backlog.quota(1 << 40), QUOTA);
        let mut header = Vec::new();
        let none = crate::BasicProperties::new();
        crate::protocol::frame::write_header(&mut header, 1, 50 << 20, &none).unwrap();
        backlog.begin(0, 0, &header);
        assert_eq!(backlog.quota(1 << 40), 50 << 20);
        assert_eq!(backlog.quota(20 << 20), 20 << 20);
        // The largest may have come before.
        backlog.begin(0, 60 << 20, &header);
        assert_eq!(backlog.quota(1 << 40), 60 << 20);
        // What is left of a frame goes before what is looked at, and is none itself.
        backlog.begin(header.len() - 1, 0, &header[1..]);
        assert_eq!(backlog.quota(1 << 40), QUOTA);
        // What is read later counts as well.
        backlog.room()[..header.len()].copy_from_slice(&header);
        backlog.add(header.len());
        assert_eq!(backlog.quota(1 << 40), 50 << 20);
        assert!(!backlog.is_closed());
        // At first nothing is left of a frame.
        let mut fresh = Backlog::new();
        fresh.room()[..header.len()].copy_from_slice(&header);
        fresh.add(header.len());
        assert_eq!(fresh.quota(1 << 40), 50 << 20);
    }

    #[test]
    fn small_reads_share_a_chunk() {
        let mut backlog = Backlog::new();
        for _ in 0..10 {
            backlog.room();
            backlog.add(100);
        }
        assert_eq!(backlog.chunks.len(), 1);
        assert_eq!(backlog.room().len(), CHUNK - 1000);
    }
}
