//! What must be known of frames that are not taken in yet: how large the messages are, and whether the peer closes the
//! connection.

use super::frame::{FRAME_OVERHEAD, HEADER_TYPE, METHOD_TYPE, PREFIX};

/// What is looked at of a content header: the frame's prefix, class, weight and body size (specification 4.2.6.1). Of a
/// method it is less: class and method.
const HEAD: usize = PREFIX + 12;

/// Follows a stream of frames, and believes what it reads: bytes that are no frame are found when they are taken in.
pub(crate) struct Skim {
    /// How many bytes of the present frame are of no interest.
    skip: usize,
    head: [u8; HEAD],
    gathered: usize,
    /// The size of the largest body that was announced.
    pub(crate) largest: u64,
    /// `connection.close` has come.
    pub(crate) is_closed: bool,
}

impl Skim {
    /// The first `rest` bytes belong to a frame that has begun.
    pub(crate) fn new(rest: usize) -> Self {
        Skim {
            skip: rest,
            head: [0; HEAD],
            gathered: 0,
            largest: 0,
            is_closed: false,
        }
    }

    pub(crate) fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let missing = (self.wanted() - self.gathered).min(bytes.len());
            let (taken, rest) = bytes.split_at(missing);
            self.head[self.gathered..self.gathered + missing].copy_from_slice(taken);
            self.gathered += missing;
            bytes = rest;
            self.look();
        }
    }

    fn size(&self) -> usize {
        let [_, _, _, s0, s1, s2, s3, ..] = self.head;
        u32::from_be_bytes([s0, s1, s2, s3]) as usize
    }

    /// How many bytes of the present frame are to be looked at.
    fn wanted(&self) -> usize {
        if self.gathered < PREFIX {
            return PREFIX;
        }
        let looked_at = match self.head {
            [HEADER_TYPE, ..] => HEAD,
            [METHOD_TYPE, 0, 0, ..] => PREFIX + 4,
            _ => PREFIX,
        };
        looked_at.min(PREFIX + self.size())
    }

    fn look(&mut self) {
        if self.gathered < self.wanted() {
            return;
        }
        match self.head[..self.gathered] {
            [HEADER_TYPE, ..] if self.gathered == HEAD => {
                if let Some(size) = self.head.last_chunk() {
                    self.largest = self.largest.max(u64::from_be_bytes(*size));
                }
            }
            // connection.close
            [METHOD_TYPE, _, _, _, _, _, _, 0, 10, 0, 50] => self.is_closed = true,
            _ => {}
        }
        self.skip = self.size().saturating_add(FRAME_OVERHEAD) - self.gathered;
        self.gathered = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frame::{write_body, write_header, write_method, HEARTBEAT};
    use crate::protocol::method::Method;
    use crate::BasicProperties;

    #[test]
    fn the_largest_message_is_found_however_the_bytes_are_cut() {
        let mut bytes = vec![0xCE; 5];
        for (size, shown) in [(10, 10), (70_000, 70_000), (0, 0), (300, 200)] {
            let properties = BasicProperties::new().app_id("skim");
            write_header(&mut bytes, 1, size, &properties).unwrap();
            bytes.extend_from_slice(&HEARTBEAT);
            if shown > 0 {
                write_body(&mut bytes, 1, &vec![2; shown]);
            }
        }
        for cut in [1, 2, 3, 7, 19, 100, bytes.len()] {
            let mut skim = Skim::new(5);
            for part in bytes.chunks(cut) {
                skim.follow(part);
            }
            assert_eq!(skim.largest, 70_000, "cut into {cut}");
            assert_eq!((skim.skip, skim.gathered), (0, 0), "cut into {cut}");
            assert!(!skim.is_closed);
        }
    }

    #[test]
    fn the_close_of_the_connection_is_found() {
        let method = |channel, method: &Method<'_>| {
            let mut bytes = Vec::new();
            write_method(&mut bytes, channel, method).unwrap();
            bytes
        };
        let (reply_code, reply_text, class_id, method_id) = (320, "".into(), 0, 0);
        let close = Method::ConnectionClose {
            reply_code,
            reply_text,
            class_id,
            method_id,
        };
        for (bytes, closes) in [
            (method(0, &close), true),
            (method(0, &Method::ConnectionUnblocked {}), false),
            (method(1, &Method::ChannelCloseOk {}), false),
        ] {
            for cut in [1, 2, 10, 100] {
                let mut skim = Skim::new(0);
                for part in bytes.chunks(cut) {
                    skim.follow(part);
                }
                assert_eq!(skim.is_closed, closes, "cut into {cut}");
                assert_eq!((skim.skip, skim.gathered), (0, 0), "cut into {cut}");
            }
        }
    }

    /// A header that is too short to say how large its message is.
    #[test]
    fn a_header_that_is_cut_short_has_no_size() {
        let mut bytes = Vec::new();
        write_header(&mut bytes, 1, 70_000, &BasicProperties::new()).unwrap();
        let mut short = bytes[..PREFIX + 11].to_vec();
        short[3..PREFIX].copy_from_slice(&11u32.to_be_bytes());
        short.push(0xCE);
        let mut skim = Skim::new(0);
        skim.follow(&short);
        assert_eq!((skim.largest, skim.skip, skim.gathered), (0, 0, 0));
        skim.follow(&bytes);
        assert_eq!(skim.largest, 70_000);
        // A frame without a payload ends behind its own octets.
        for size in [0u32, 1, 2, 3] {
            let payload = vec![0; size as usize];
            let frame = [&[1, 0, 0][..], &size.to_be_bytes(), &payload, &[0xCE]].concat();
            skim.follow(&frame);
            assert_eq!((skim.skip, skim.gathered), (0, 0), "{size}");
        }
    }

    #[test]
    fn what_is_no_frame_does_no_harm() {
        let mut skim = Skim::new(0);
        skim.follow(&[0xFF; 100_000]);
        skim.follow(&[2; 100_000]);
    }
}
