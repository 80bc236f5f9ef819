//! Publishing: the frames of a message, its number in confirm mode, and what ties a returned message to its publish.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::channel::Gate;
use super::frame;
use super::method::Method;
use crate::error::Error;
use crate::{BasicProperties, BasicPublish, ReturnedMessage};

/// What is gathered to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    pub(crate) bytes: Vec<u8>,
    /// How many bytes were taken to be written before these came.
    taken: u64,
    /// The mandatory messages that were appended, until the session is given them: before anything is read that the broker
    /// says of them.
    pub(crate) mandatory: Vec<SentMandatory>,
}

impl Outbox {
    /// How many bytes were ever appended.
    #[inline]
    pub(crate) fn appended(&self) -> u64 {
        self.taken + self.bytes.len() as u64
    }

    /// How many of them were taken to be written.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Gives the bytes away to be written, in exchange for an empty buffer.
    pub(crate) fn take_bytes(&mut self, empty: &mut Vec<u8>) {
        debug_assert!(empty.is_empty());
        self.taken += self.bytes.len() as u64;
        std::mem::swap(&mut self.bytes, empty);
    }

    /// Counts bytes that are written from where they lie, behind those that were taken last.
    pub(crate) fn count_direct(&mut self, count: usize) {
        debug_assert!(self.bytes.is_empty());
        self.taken += count as u64;
    }

    /// Throws away what will never be written; returns how many bytes that is.
    pub(crate) fn discard(&mut self) -> usize {
        let mut discarded = Vec::new();
        self.take_bytes(&mut discarded);
        discarded.len()
    }
}

/// A mandatory message that was appended, and the channel that it was published on.
#[derive(Debug)]
pub(crate) struct SentMandatory {
    pub(crate) slot: usize,
    pub(crate) gate: Arc<Gate>,
    pub(crate) message: Mandatory,
}

/// What is remembered of a mandatory message until the broker has confirmed or refused it. `basic.return` carries no number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Mandatory {
    pub(crate) sequence: u64,
    pub(crate) print: Fingerprint,
}

/// Hashes of a message.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fingerprint {
    /// Of exchange, routing key and body, which a broker returns as they came.
    pub(crate) content: u64,
    /// Of the properties, to which a broker may add.
    pub(crate) properties: u64,
}

impl Fingerprint {
    fn of_content(exchange: &[u8], routing_key: &[u8], body: &[u8]) -> u64 {
        hash((exchange, routing_key, body))
    }

    pub(crate) fn of_returned(message: &ReturnedMessage) -> Self {
        let (exchange, routing_key) = (&message.method.exchange, &message.method.routing_key);
        let mut properties = Vec::new();
        // What cannot be encoded was not published here, and is tied by its content alone.
        let _ = message.properties.encode(&mut properties);
        Fingerprint {
            content: Self::of_content(exchange.as_bytes(), routing_key.as_bytes(), &message.body),
            properties: Self::of_properties(&message.properties, &properties),
        }
    }

    /// Without the one header that RabbitMQ takes out of what it returns.
    fn of_properties(properties: &BasicProperties, encoded: &[u8]) -> u64 {
        const TAKEN_OUT: &str = "BCC";
        if properties.get_header(TAKEN_OUT).is_none() {
            return hash(encoded);
        }
        let mut rest = properties.clone();
        if let Some(headers) = &mut rest.headers {
            headers.remove(TAKEN_OUT);
        }
        let mut encoded = Vec::new();
        let _ = rest.encode(&mut encoded);
        hash(&encoded[..])
    }
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Which of the messages on their way a returned one is. Returns come in the order of publishing, so it is the oldest that is
/// the same; where the broker has changed the properties, the oldest with the same content.
pub(crate) fn find_returned<'a>(
    on_their_way: impl Iterator<Item = &'a Mandatory> + Clone,
    print: Fingerprint,
) -> Option<usize> {
    let mut all = on_their_way.clone();
    all.position(|message| message.print == print).or_else(|| {
        let mut all = on_their_way;
        all.position(|message| message.print.content == print.content)
    })
}

/// A message of the program's, and where it is to go.
#[derive(Clone, Copy)]
pub(crate) struct OutgoingMessage<'a> {
    pub(crate) exchange: &'a [u8],
    pub(crate) routing_key: &'a [u8],
    pub(crate) body: &'a [u8],
    /// Its properties, and whether it is mandatory.
    pub(crate) publish: &'a BasicPublish<'a>,
}

impl OutgoingMessage<'_> {
    fn content(&self) -> u64 {
        Fingerprint::of_content(self.exchange, self.routing_key, self.body)
    }
}

/// A message that is about to be published on a channel.
pub(crate) struct Publishing<'a> {
    gate: &'a Arc<Gate>,
    slot: usize,
    number: u16,
    frame_max: usize,
    message: OutgoingMessage<'a>,
    /// Hash of the content, for a message that the broker may return.
    content: Option<u64>,
}

impl<'a> Publishing<'a> {
    /// Large bodies are hashed here, so that no lock is held meanwhile.
    pub(crate) fn new(
        gate: &'a Arc<Gate>,
        slot: usize,
        number: u16,
        frame_max: u32,
        message: OutgoingMessage<'a>,
    ) -> Self {
        // Or later, if confirms are turned on just now.
        let expected = message.publish.mandatory && gate.confirming.load(Ordering::Acquire);
        Publishing {
            gate,
            slot,
            number,
            frame_max: frame_max as usize,
            message,
            content: expected.then(|| message.content()),
        }
    }

    /// How much of the body one frame carries.
    pub(crate) fn chunk(&self) -> usize {
        self.frame_max - frame::FRAME_OVERHEAD
    }

    /// Appends the message and numbers it: returns its number in confirm mode, else 0, and `None` if nothing may be sent now.
    /// After an error nothing is appended, and the number is not used.
    #[inline]
    pub(crate) fn write(&self, outbox: &mut Outbox) -> Result<Option<u64>, Error> {
        let sequence = self.write_head(outbox)?;
        if sequence.is_some() {
            for part in self.message.body.chunks(self.chunk()) {
                frame::write_body(&mut outbox.bytes, self.number, part);
            }
        }
        Ok(sequence)
    }

    /// The same without the frames of the body, which must follow.
    #[inline]
    pub(crate) fn write_head(&self, outbox: &mut Outbox) -> Result<Option<u64>, Error> {
        if !self.gate.may_send() {
            return Ok(None);
        }
        let out = &mut outbox.bytes;
        let start = out.len();
        let header = self
            .write_method_and_header(out)
            .inspect_err(|_| out.truncate(start))?;
        if !self.gate.confirming.load(Ordering::Relaxed) {
            return Ok(Some(0));
        }
        let sequence = self.gate.published.load(Ordering::Relaxed) + 1;
        self.gate.published.store(sequence, Ordering::Release);
        let publish = self.message.publish;
        if publish.mandatory {
            let encoded = frame::properties_of(&outbox.bytes[header..]);
            let properties = Fingerprint::of_properties(&publish.properties, encoded);
            outbox.mandatory.push(self.mandatory(sequence, properties));
        }
        Ok(Some(sequence))
    }

    /// Returns where the header frame begins.
    #[inline]
    fn write_method_and_header(&self, out: &mut Vec<u8>) -> Result<usize, Error> {
        let OutgoingMessage {
            exchange,
            routing_key,
            body,
            publish,
        } = self.message;
        let method = Method::BasicPublish {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            mandatory: publish.mandatory,
            immediate: false,
        };
        publish
            .properties
            .check_expiration()
            .and_then(|()| frame::write_method(out, self.number, &method))
            .map_err(Error::unsendable)?;
        let header = out.len();
        frame::write_header(out, self.number, body.len() as u64, &publish.properties)
            .map_err(Error::unsendable)?;
        let size = out.len() - header;
        if size > self.frame_max {
            let all = "all properties and headers";
            return Err(Error::too_large("properties", size, all, self.frame_max));
        }
        Ok(header)
    }

    /// What ties this message to the broker's return of it.
    fn mandatory(&self, sequence: u64, properties: u64) -> SentMandatory {
        let content = self.content.unwrap_or_else(|| self.message.content());
        let print = Fingerprint {
            content,
            properties,
        };
        SentMandatory {
            slot: self.slot,
            gate: Arc::clone(self.gate),
            message: Mandatory { sequence, print },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::channel::Phase;
    use crate::protocol::frame::Frame;

    fn publish(gate: &Arc<Gate>, outbox: &mut Outbox, id: &str) -> Result<Option<u64>, Error> {
        let properties = BasicProperties::new().message_id(id);
        publish_with(gate, outbox, &properties)
    }

    fn publish_with(
        gate: &Arc<Gate>,
        outbox: &mut Outbox,
        properties: &BasicProperties,
    ) -> Result<Option<u64>, Error> {
        let message = OutgoingMessage {
            exchange: b"x",
            routing_key: b"k",
            body: b"body",
            publish: &BasicPublish::new().mandatory(true).properties(properties),
        };
        Publishing::new(gate, 3, 1, 4096, message).write(outbox)
    }

    #[test]
    fn a_message_that_cannot_be_sent_uses_no_number_and_leaves_nothing() {
        let gate = Gate::new(Phase::Open);
        gate.confirming.store(true, Ordering::Release);
        let mut outbox = Outbox::default();
        assert_eq!(publish(&gate, &mut outbox, "1").unwrap(), Some(1));
        let before = outbox.bytes.len();
        // Longer than a short string; and larger than a frame.
        publish(&gate, &mut outbox, &"2".repeat(256)).unwrap_err();
        let properties = BasicProperties::new().header("much", "m".repeat(5000));
        publish_with(&gate, &mut outbox, &properties).unwrap_err();
        assert_eq!(outbox.bytes.len(), before);
        assert_eq!(outbox.mandatory.len(), 1);
        assert_eq!(publish(&gate, &mut outbox, "2").unwrap(), Some(2));
        gate.set_phase(Phase::Closing);
        let before = outbox.bytes.len();
        assert_eq!(publish(&gate, &mut outbox, "3").unwrap(), None);
        assert_eq!(outbox.bytes.len(), before);
    }

    #[test]
    fn a_returned_message_is_the_one_with_its_properties_or_the_oldest() {
        let gate = Gate::new(Phase::Open);
        gate.confirming.store(true, Ordering::Release);
        let mut outbox = Outbox::default();
        for id in ["a", "b", "c", "b"] {
            publish(&gate, &mut outbox, id).unwrap();
        }
        let sent: Vec<Mandatory> = outbox.mandatory.iter().map(|sent| sent.message).collect();
        let found = |id: &str, body: &[u8]| {
            let method = crate::Return {
                exchange: "x".into(),
                routing_key: "k".into(),
                ..crate::Return::default()
            };
            let returned = ReturnedMessage {
                method,
                properties: BasicProperties::new().message_id(id),
                body: body.to_vec(),
            };
            find_returned(sent.iter(), Fingerprint::of_returned(&returned))
        };
        assert_eq!(found("c", b"body"), Some(2));
        assert_eq!(found("b", b"body"), Some(1));
        assert_eq!(found("unknown", b"body"), Some(0));
        assert_eq!(found("a", b"another"), None);
    }
    /// What was sent, frame by frame: its kind and its payload.
    fn sent(bytes: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
        let (mut frames, mut rest) = (Vec::new(), bytes);
        while let Some((frame, length)) = frame::parse(rest, 4096).unwrap() {
            assert!(length <= 4096);
            rest = &rest[length..];
            frames.push(match frame {
                Frame::Method {
                    channel: 1,
                    payload,
                } => ("method", payload.to_vec()),
                Frame::Header {
                    channel: 1,
                    payload,
                } => ("header", payload.to_vec()),
                Frame::Body {
                    channel: 1,
                    payload,
                } => ("body", payload.to_vec()),
                other => panic!("{other:?}"),
            });
        }
        assert!(rest.is_empty());
        frames
    }

    #[test]
    fn a_body_is_cut_into_frames_that_are_as_large_as_they_may_be() {
        const CHUNK: usize = 4096 - 8;
        for (size, chunks) in [
            (0, &[][..]),
            (1, &[1]),
            (CHUNK, &[CHUNK]),
            (CHUNK + 1, &[CHUNK, 1]),
            (3 * CHUNK, &[CHUNK; 3]),
        ] {
            for body_follows in [false, true] {
                let gate = Gate::new(Phase::Open);
                let body: Vec<u8> = (0..size).map(|at| at as u8).collect();
                let message = OutgoingMessage {
                    exchange: b"x",
                    routing_key: b"k",
                    body: &body,
                    publish: &BasicPublish::new(),
                };
                let publishing = Publishing::new(&gate, 3, 1, 4096, message);
                assert_eq!(publishing.chunk(), CHUNK);
                let mut outbox = Outbox::default();
                let sequence = if body_follows {
                    publishing.write_head(&mut outbox)
                } else {
                    publishing.write(&mut outbox)
                };
                assert_eq!(sequence.unwrap(), Some(0));
                let frames = sent(&outbox.bytes);
                assert_eq!((frames[0].0, frames[1].0), ("method", "header"));
                let announced = frame::read_header(&frames[1].1).unwrap().0;
                assert_eq!(announced, size as u64);
                let sizes: Vec<usize> = frames[2..].iter().map(|(_, it)| it.len()).collect();
                let expected = if body_follows { &[] } else { chunks };
                assert_eq!(sizes, expected);
                let written: Vec<u8> = frames.into_iter().skip(2).flat_map(|it| it.1).collect();
                assert!(body_follows || written == body);
            }
        }
    }

    /// RabbitMQ ends a connection that asks for what is no longer supported.
    #[test]
    fn only_what_is_mandatory_is_remembered_and_nothing_is_immediate() {
        for is_mandatory in [false, true] {
            let gate = Gate::new(Phase::Open);
            gate.confirming.store(true, Ordering::Release);
            let message = OutgoingMessage {
                exchange: b"x",
                routing_key: b"k",
                body: b"body",
                publish: &BasicPublish::new().mandatory(is_mandatory),
            };
            let mut outbox = Outbox::default();
            let number = Publishing::new(&gate, 3, 1, 4096, message).write(&mut outbox);
            assert_eq!(number.unwrap(), Some(1));
            assert_eq!(outbox.mandatory.len(), usize::from(is_mandatory));
            let frames = sent(&outbox.bytes);
            let expected = Method::BasicPublish {
                exchange: "x".into(),
                routing_key: "k".into(),
                mandatory: is_mandatory,
                immediate: false,
            };
            assert_eq!(Method::decode(&frames[0].1), Ok(expected));
        }
    }

    #[test]
    fn properties_that_just_fit_into_a_frame_are_sent() {
        let fits = |length: usize| {
            let gate = Gate::new(Phase::Open);
            let mut outbox = Outbox::default();
            let properties = BasicProperties::new().header("a", "m".repeat(length));
            let sent = publish_with(&gate, &mut outbox, &properties);
            sent.map(|_| outbox.bytes.len())
        };
        // A frame's 8 bytes, 14 of the header, and 11 of the table.
        let most = 4096 - 8 - 14 - 11;
        let without_header = fits(most).unwrap() - 4096;
        assert_eq!(fits(most - 1).unwrap(), 4095 + without_header);
        let refused = fits(most + 1).unwrap_err().to_string();
        assert!(
            refused.contains("4097") && refused.contains("4096"),
            "{refused}"
        );
        assert!(
            refused.starts_with("properties: ") && refused.contains("all properties and headers"),
            "{refused}"
        );
    }

    /// The bytes and their count are given away together.
    #[test]
    fn what_was_appended_is_counted_wherever_it_is() {
        let mut outbox = Outbox::default();
        outbox.bytes.extend_from_slice(b"12345");
        assert_eq!((outbox.appended(), outbox.taken()), (5, 0));
        let mut taken = Vec::new();
        outbox.take_bytes(&mut taken);
        assert_eq!((&taken[..], outbox.bytes.len()), (&b"12345"[..], 0));
        assert_eq!((outbox.appended(), outbox.taken()), (5, 5));
        outbox.count_direct(3);
        assert_eq!((outbox.appended(), outbox.taken()), (8, 8));
        outbox.bytes.extend_from_slice(b"12");
        assert_eq!((outbox.appended(), outbox.discard()), (10, 2));
        assert_eq!((outbox.appended(), outbox.taken()), (10, 10));
    }
}
