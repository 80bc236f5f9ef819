//! Acknowledgements that speak for others acknowledge what the program acknowledged, in the same order, and nothing else.

use super::random::Random;
use crate::protocol::acks::Acks;
use crate::protocol::frame::{self, Frame};
use crate::protocol::method::Method;

const CHANNEL: u16 = 7;

/// What a broker makes of what it gets.
#[derive(Debug, Default, PartialEq)]
struct Broker {
    unacknowledged: Vec<u64>,
    acknowledged: Vec<(u64, &'static str)>,
    /// It got an acknowledgement of a message that it does not know, and closed the channel.
    failed: bool,
}

impl Broker {
    fn receive(&mut self, method: &Method<'_>) {
        let (tag, multiple) = match *method {
            Method::BasicAck {
                delivery_tag,
                multiple,
            }
            | Method::BasicNack {
                delivery_tag,
                multiple,
                ..
            } => (delivery_tag, multiple),
            Method::BasicReject { delivery_tag, .. } => (delivery_tag, false),
            Method::BasicRecover { .. } => {
                // It will come again, under other tags.
                self.unacknowledged.clear();
                return;
            }
            _ => return,
        };
        let everything = multiple && tag == 0;
        if self.failed || !everything && !self.unacknowledged.contains(&tag) {
            self.failed = true;
            return;
        }
        let concerned = |one: u64| one == tag || multiple && one < tag || everything;
        let acknowledged = self.unacknowledged.iter().filter(|one| concerned(**one));
        self.acknowledged
            .extend(acknowledged.map(|one| (*one, method.name())));
        self.unacknowledged.retain(|one| !concerned(*one));
    }
}

/// One channel, and what has gathered of it.
#[derive(Default)]
struct Client {
    acks: Acks,
    out: Vec<u8>,
    appended: u64,
    said: Vec<Method<'static>>,
    delivered: u64,
    /// By what the program said, and by what went over the wire.
    meant: Broker,
    got: Broker,
    calls: usize,
    frames: usize,
}

impl Client {
    fn deliver(&mut self) {
        self.deliver_automatic();
        self.meant.unacknowledged.push(self.delivered);
        self.got.unacknowledged.push(self.delivered);
    }

    /// A message that wants no acknowledgement has a tag too.
    fn deliver_automatic(&mut self) {
        self.delivered += 1;
        self.acks.note_received(self.delivered);
    }

    fn append(&mut self, write: impl FnOnce(&mut Vec<u8>, u64, &Acks)) {
        let before = self.out.len();
        write(&mut self.out, self.appended, &self.acks);
        self.appended += (self.out.len() - before) as u64;
    }

    fn say(&mut self, method: Method<'static>) {
        self.calls += 1;
        self.append(|out, appended, acks| acks.write(out, appended, CHANNEL, &method).unwrap());
        self.said.push(method);
    }

    fn ack(&mut self, delivery_tag: u64, multiple: bool) {
        self.say(Method::BasicAck {
            delivery_tag,
            multiple,
        });
    }

    /// A method that acknowledges nothing.
    fn call(&mut self, method: Method<'static>) {
        self.calls += 1;
        self.append(|out, _, acks| {
            frame::write_method(out, CHANNEL, &method).unwrap();
            acks.note_sent(&method);
        });
        self.said.push(method);
    }

    /// From here on there may be messages that want no acknowledgement.
    fn get_automatic(&mut self) {
        self.call(Method::BasicGet {
            queue: "q".into(),
            no_ack: true,
        });
    }

    fn flush(&mut self) {
        for method in self.said.drain(..) {
            self.meant.receive(&method);
        }
        let bytes = std::mem::take(&mut self.out);
        let mut rest = &bytes[..];
        while let Some((frame, length)) = frame::parse(rest, 0).unwrap() {
            rest = &rest[length..];
            if let Frame::Method {
                channel: CHANNEL,
                payload,
            } = frame
            {
                self.got.receive(&Method::decode(payload).unwrap());
                self.frames += 1;
            }
        }
        assert!(rest.is_empty());
    }

    #[track_caller]
    fn check(&mut self, frames: usize) {
        self.flush();
        assert_eq!(self.got, self.meant);
        assert_eq!(self.frames, frames);
    }
}

fn client(delivered: u64) -> Client {
    let mut client = Client::default();
    (0..delivered).for_each(|_| client.deliver());
    client
}

#[test]
fn acks_in_order_share_a_frame() {
    let mut client = client(1000);
    (1..=900).for_each(|tag| client.ack(tag, false));
    client.check(1);
    (901..=1000).for_each(|tag| client.ack(tag, false));
    client.check(2);
    assert_eq!(client.got.acknowledged.len(), 1000);
}

#[test]
fn one_ack_alone_stays_as_it_was_given() {
    let mut client = client(1);
    client.ack(1, false);
    let mut expected = Vec::new();
    let method = Method::BasicAck {
        delivery_tag: 1,
        multiple: false,
    };
    frame::write_method(&mut expected, CHANNEL, &method).unwrap();
    assert_eq!(client.out, expected);
}

/// A refusal is sent by itself, and what was acknowledged up to there is known as before.
#[test]
fn acks_share_a_frame_behind_a_refusal_too() {
    let reject = |delivery_tag| Method::BasicReject {
        delivery_tag,
        requeue: true,
    };
    let nack = |delivery_tag, multiple| Method::BasicNack {
        delivery_tag,
        multiple,
        requeue: true,
    };
    for (refusal, next) in [(reject(1), 2), (nack(1, false), 2), (nack(3, true), 4)] {
        let mut client = client(9);
        client.say(refusal);
        assert_eq!(client.acks.acknowledged_to(), Some(next - 1));
        (next..=9).for_each(|tag| client.ack(tag, false));
        client.check(2);
        assert_eq!(client.got.acknowledged.len(), 9);
    }
    let mut client = client(3);
    client.say(nack(2, false));
    client.ack(3, false);
    assert_eq!(client.acks.acknowledged_to(), None);
    client.check(2);
}

/// Else the message that the program still works on would be acknowledged.
#[test]
fn an_ack_does_not_speak_for_a_message_that_is_worked_on() {
    let mut client = client(4);
    for tag in [1, 3, 4] {
        client.ack(tag, false);
    }
    client.check(3);
    assert_eq!(client.got.unacknowledged, [2]);
    // The last acknowledgement is of a later message.
    client.ack(2, false);
    client.check(4);
}

#[test]
fn an_unknown_tag_takes_no_other_with_it() {
    for unknown in [3, 4, 2, 0] {
        let mut client = client(2);
        for tag in [1, 2, unknown] {
            client.ack(tag, false);
        }
        client.check(2);
        assert_eq!(client.got.acknowledged.len(), 2);
        assert!(client.got.failed);
    }
}

#[test]
fn what_is_taken_back_by_the_broker_is_known() {
    let acks = Acks::default();
    acks.note_received(1);
    assert!(!acks.is_recovered(1));
    let recover = Method::BasicRecover { requeue: true };
    acks.note_sent(&recover);
    acks.note_sent(&recover);
    assert!(acks.is_recovered(1));
    acks.note_received(2);
    acks.recovered();
    acks.note_received(3);
    assert!(acks.is_recovered(3));
    acks.recovered();
    acks.note_received(4);
    let known = (1..=4).map(|tag| acks.is_recovered(tag));
    assert_eq!(known.collect::<Vec<_>>(), [true, true, true, false]);
}

/// The messages between are still worked on, also where the refusal stands behind an acknowledgement.
#[test]
fn acks_behind_a_refusal_of_a_later_message_do_not_speak_for_those_before_it() {
    for refusal in [
        Method::BasicReject {
            delivery_tag: 5,
            requeue: true,
        },
        Method::BasicNack {
            delivery_tag: 5,
            multiple: false,
            requeue: true,
        },
    ] {
        let mut client = client(7);
        client.ack(1, false);
        client.say(refusal);
        client.ack(6, false);
        client.ack(7, false);
        client.check(4);
        assert_eq!(client.got.unacknowledged, [2, 3, 4]);
    }
}

#[test]
fn calls_that_concern_no_message_leave_acks_together() {
    for (method, frames) in [
        (
            Method::BasicGet {
                queue: "q".into(),
                no_ack: false,
            },
            3,
        ),
        (Method::TxCommit, 3),
        (Method::TxSelect, 5),
    ] {
        let mut client = client(4);
        client.ack(1, false);
        client.call(method);
        assert_eq!(client.acks.acknowledged_to().is_some(), frames == 3);
        (2..=4).for_each(|tag| client.ack(tag, false));
        client.check(frames);
    }
}

/// What is rolled back is unacknowledged again.
#[test]
fn in_a_transaction_each_ack_is_sent() {
    let mut client = client(4);
    client.ack(1, false);
    client.call(Method::TxSelect);
    for tag in 2..=4 {
        client.ack(tag, false);
    }
    client.check(5);
    client.deliver();
    client.ack(5, true);
    client.deliver();
    client.ack(6, false);
    client.check(7);
}

/// The program's own "all up to this one" takes the place of what stands before it, and is taken further.
#[test]
fn acks_of_many_share_a_frame_too() {
    let mut client = client(9);
    client.ack(1, false);
    client.ack(4, true);
    client.ack(5, false);
    client.check(1);
    assert_eq!(client.got.unacknowledged, [6, 7, 8, 9]);
}

/// Each would be hidden, or spoil the acknowledgements before it, if it shared their frame.
#[test]
fn mistakes_are_complained_of_by_themselves() {
    let automatic: fn(&mut Client) = |client| {
        client.get_automatic();
        client.deliver_automatic();
        client.deliver();
    };
    let recovered: fn(&mut Client) = |client| {
        client.deliver();
        client.call(Method::BasicRecover { requeue: true });
        client.deliver();
    };
    let all_settled: fn(&mut Client) = |client| {
        client.deliver();
        client.ack(0, true);
        client.flush();
        client.deliver();
    };
    for mistake in [automatic, recovered, all_settled] {
        for before in [0, 2] {
            let mut client = client(before);
            mistake(&mut client);
            for tag in 1..=client.delivered {
                client.ack(tag, false);
            }
            client.flush();
            assert_eq!(client.got, client.meant);
            assert!(client.got.failed);
        }
    }
}

#[test]
fn random_acks_come_to_the_same_together_and_one_by_one() {
    let mut random = Random(0x5EED_0009);
    let (mut calls, mut frames, mut failed) = (0, 0, 0);
    for _ in 0..4_000 {
        let mut client = Client::default();
        let careful = random.below(4) > 0;
        let mut automatic = false;
        // The next message that nothing was said of.
        let mut next = 1;
        for _ in 0..random.below(120) {
            let delivery_tag = match careful {
                true => next,
                false => random.below(client.delivered as usize + 2) as u64,
            };
            let known = delivery_tag <= client.delivered || !careful && random.below(20) == 0;
            match random.below(20) {
                0..=6 => client.deliver(),
                7..=12 if known => client.ack(delivery_tag, false),
                13 if known => client.ack(delivery_tag, true),
                14 if known => client.say(match random.below(3) {
                    0 => Method::BasicReject {
                        delivery_tag,
                        requeue: true,
                    },
                    multiple => Method::BasicNack {
                        delivery_tag,
                        multiple: multiple == 1,
                        requeue: false,
                    },
                }),
                // Another channel's, as long as one of this channel.
                15 => client.append(|out, _, _| {
                    let ack = Method::BasicAck {
                        delivery_tag,
                        multiple: false,
                    };
                    frame::write_method(out, CHANNEL + 1, &ack).unwrap();
                }),
                16 => client.flush(),
                17 if random.below(30) == 0 => {
                    client.ack(0, true);
                    next = client.delivered + 1;
                    continue;
                }
                18 if random.below(30) == 0 => {
                    client.call(Method::BasicRecover { requeue: true });
                    next = client.delivered + 1;
                    continue;
                }
                19 if automatic => client.deliver_automatic(),
                19 if random.below(10) == 0 => {
                    client.get_automatic();
                    automatic = true;
                }
                _ => {}
            }
            if let Some(
                Method::BasicAck { delivery_tag, .. }
                | Method::BasicNack { delivery_tag, .. }
                | Method::BasicReject { delivery_tag, .. },
            ) = client.said.last()
            {
                next = delivery_tag + 1;
            }
        }
        client.flush();
        assert_eq!(client.got, client.meant);
        calls += client.calls;
        frames += client.frames;
        failed += usize::from(client.got.failed);
    }
    // Many shared a frame and many did not, and some were mistakes.
    let counts = (calls, frames, failed);
    assert!(
        calls > frames + 10_000 && frames > 10_000 && failed > 100,
        "{counts:?}"
    );
}
