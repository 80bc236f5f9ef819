//! A model checker walks the hand-offs of a reliable publisher between its caller, its thread, and what the broker sends or
//! fails to send. See `io/model.rs` for the checker, its clock and its two kinds of timing.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::mending::{self, Connections};
use super::{ReliablePublisher, Retry};
use crate::io::model::broker::{connect, pick, Behavior, Broker, End};
use crate::io::model::check;
use crate::io::model::sync::{is_exact, sleep};
use crate::io::sync::{self, thread, Instant};
use crate::protocol::frame;
use crate::protocol::method::Method;
use crate::stop::Stop;
use crate::{BasicPublish, Connection, Error, UnconfirmedReport};

/// After so many lost connections there is one that stays.
const LOSSES: usize = 2;

/// How often a message may be refused.
const REFUSALS: usize = 2;

/// The pause before the next attempt, and before a refused message is tried again.
const DELAY: Duration = Duration::from_millis(5);

/// What the broker does with a message.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Outcome {
    Ack,
    AckLater,
    /// With all that came before it on the channel.
    AckAllLater,
    Nack,
    NackLater,
    /// Returned, and then confirmed, perhaps later.
    Return,
    /// The connection ends before it is confirmed.
    Loss,
    Nothing,
}

use Outcome::{Ack, AckAllLater, AckLater, Loss, Nack, NackLater, Nothing, Return};

/// What all connections of a schedule have seen. The standard library's lock: taking it is no step of the model, so nothing
/// that is one may be done under it.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    connections: usize,
    /// Which message came on which connection, in order.
    arrived: Vec<(usize, u64)>,
    /// What the broker has confirmed without returning it, whether the publisher got to know it or not.
    confirmed: BTreeSet<u64>,
    returned: BTreeSet<u64>,
    refusals: BTreeMap<u64, usize>,
    /// After which connection the publisher knows what became of a message: that was sent before the connection's end.
    known: BTreeMap<u64, usize>,
    /// The lost connections.
    lost: BTreeSet<usize>,
}

impl World {
    fn look<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.0.lock().unwrap())
    }

    /// A publisher before brokers that choose among these outcomes for each message. It is not dropped by itself: a drop
    /// waits, and must not in a schedule that has failed.
    fn publisher(
        &self,
        window: usize,
        outcomes: &'static [Outcome],
    ) -> ManuallyDrop<ReliablePublisher> {
        let stop = Stop::new();
        let publisher = ReliablePublisher::new(window, stop.clone()).unwrap();
        let core = Arc::clone(&publisher.core);
        let connections = Scripted {
            world: self.clone(),
            outcomes,
            stop,
            retry: Retry::new().first(DELAY).most(DELAY * 4).jitter(0.0),
            pause: Duration::ZERO,
        };
        thread::spawn(move || mending::run(&core, || mending::mend(&core, connections)));
        ManuallyDrop::new(publisher)
    }

    /// Whatever came on one connection came in order, and nothing came after the publisher knew what had become of it.
    fn assert_in_order_and_without_needless_doubles(&self) {
        self.look(|seen| {
            for connection in 0..seen.connections {
                let of_this = seen.arrived.iter().filter(|(on, _)| *on == connection);
                let numbers: Vec<u64> = of_this.map(|(_, number)| *number).collect();
                let refused = numbers
                    .iter()
                    .any(|number| seen.refusals.contains_key(number));
                assert!(refused || numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
            }
            for (number, known) in &seen.known {
                let again = seen
                    .arrived
                    .iter()
                    .find(|(on, at)| at == number && on > known);
                assert!(
                    again.is_none(),
                    "{number} was known on {known}: {:?}",
                    seen.arrived
                );
            }
        });
    }
}

/// Connections in memory. The first may be lost, by an outcome or at any moment.
struct Scripted {
    world: World,
    outcomes: &'static [Outcome],
    stop: Stop,
    retry: Retry,
    pause: Duration,
}

impl Connections for Scripted {
    fn attempt(&mut self) -> crate::Result<Option<Connection>> {
        if !self.stop.sleep(std::mem::take(&mut self.pause), &|| false) {
            return Err(Error::Stopped {
                waiting_for: "the next attempt",
            });
        }
        let careful = Behavior {
            write_most: 20_000,
            times_out: true,
            read_most: 4_000,
            ..Behavior::PROMPT
        };
        let (connection, broker) = connect(pick(&[Behavior::PROMPT, careful]));
        connection.stopped_by(&self.stop);
        let number = self.world.look(|seen| {
            seen.connections += 1;
            seen.connections - 1
        });
        let served = Served {
            world: self.world.clone(),
            number,
            may_be_lost: number < LOSSES && self.outcomes.contains(&Loss),
            broker,
            open: Arc::default(),
        };
        let outcomes = self.outcomes;
        if served.may_be_lost && pick(&[true, false]) {
            let served = served.clone();
            thread::spawn(move || {
                sleep(a_moment());
                served.lose();
            });
        }
        thread::spawn(move || served.serve(outcomes));
        Ok(Some(connection))
    }

    fn ended(&mut self, connection: &Connection, error: Error, _: bool) -> crate::Result<()> {
        connection.abandon(&error);
        self.pause = pick(&[Duration::ZERO, DELAY]);
        Ok(())
    }

    fn retry(&self) -> &Retry {
        &self.retry
    }
}

fn a_moment() -> Duration {
    pick(&[
        Duration::ZERO,
        Duration::from_millis(1),
        Duration::from_millis(7),
    ])
}

/// The broker's end of one connection.
#[derive(Clone)]
struct Served {
    world: World,
    number: usize,
    may_be_lost: bool,
    broker: Broker,
    /// What is not acknowledged or refused, by its tag. Held until that is sent, as a broker sends acks and nacks in the order in which
    /// it makes them.
    open: Arc<sync::Mutex<BTreeMap<u64, u64>>>,
}

impl Served {
    fn serve(&self, outcomes: &[Outcome]) {
        let (mut tag, mut frames, mut left) = (0, Vec::new(), 0);
        self.broker.play_with_content(
            |broker, channel, method| {
                if let Method::ConfirmSelect { .. } = method {
                    broker.send(channel, &Method::ConfirmSelectOk);
                }
            },
            |_, channel, bytes| {
                let payload = &bytes[7..bytes.len() - 1];
                if bytes[0] == 2 {
                    left = u64::from_be_bytes(payload[4..12].try_into().unwrap());
                    frames = bytes.to_vec();
                    return;
                }
                left -= payload.len() as u64;
                frames.extend_from_slice(bytes);
                if left == 0 {
                    tag += 1;
                    let number = u64::from(payload[0]);
                    self.decide(channel, tag, number, outcomes, &frames);
                }
            },
        );
    }

    /// A message is here as a whole.
    fn decide(&self, channel: u16, tag: u64, number: u64, outcomes: &[Outcome], frames: &[u8]) {
        self.open.lock().unwrap().insert(tag, number);
        let refusals = self.world.look(|seen| {
            seen.arrived.push((self.number, number));
            seen.refusals.get(&number).copied().unwrap_or_default()
        });
        let outcome = match pick(outcomes) {
            Loss if !self.may_be_lost && outcomes.contains(&Nothing) => Nothing,
            Loss if !self.may_be_lost => Ack,
            Nack | NackLater if refusals >= REFUSALS => Ack,
            outcome => outcome,
        };
        match outcome {
            Ack => self.ack(channel, tag, false),
            AckLater => self.later(move |served| served.ack(channel, tag, false)),
            AckAllLater => self.later(move |served| served.ack(channel, tag, true)),
            Nack => self.nack(channel, tag),
            NackLater => self.later(move |served| served.nack(channel, tag)),
            Return => {
                let mut bytes = Vec::new();
                let method = Method::BasicReturn {
                    reply_code: 312,
                    reply_text: "NO_ROUTE".into(),
                    exchange: "".into(),
                    routing_key: "queue".into(),
                };
                frame::write_method(&mut bytes, channel, &method).unwrap();
                bytes.extend_from_slice(frames);
                self.open.lock().unwrap().remove(&tag);
                self.world.look(|seen| seen.returned.insert(number));
                self.broker.send_bytes(&bytes);
                self.note_known(&[number]);
                self.later(move |served| served.send_ack(channel, tag, false));
            }
            Loss => self.lose(),
            Nothing => {}
        }
    }

    /// On a thread of its own, so that it comes between any two steps of the others.
    fn later(&self, act: impl FnOnce(&Served) + Send + 'static) {
        let served = self.clone();
        thread::spawn(move || {
            sleep(a_moment());
            act(&served);
        });
    }

    fn ack(&self, channel: u16, tag: u64, multiple: bool) {
        let mut open = self.open.lock().unwrap();
        let numbers: Vec<u64> = if multiple {
            let above = open.split_off(&(tag + 1));
            std::mem::replace(&mut *open, above).into_values().collect()
        } else {
            open.remove(&tag).into_iter().collect()
        };
        if numbers.is_empty() {
            return;
        }
        self.world.look(|seen| seen.confirmed.extend(&numbers));
        self.send_ack(channel, tag, multiple);
        self.note_known(&numbers);
    }

    fn send_ack(&self, channel: u16, tag: u64, multiple: bool) {
        let ack = Method::BasicAck {
            delivery_tag: tag,
            multiple,
        };
        self.broker.send(channel, &ack);
    }

    fn nack(&self, channel: u16, tag: u64) {
        let mut open = self.open.lock().unwrap();
        let Some(number) = open.remove(&tag) else {
            return;
        };
        self.world
            .look(|seen| *seen.refusals.entry(number).or_default() += 1);
        let nack = Method::BasicNack {
            delivery_tag: tag,
            multiple: false,
            requeue: false,
        };
        self.broker.send(channel, &nack);
    }

    /// What was just sent comes before the connection's end, if that is still to come.
    fn note_known(&self, numbers: &[u64]) {
        self.world.look(|seen| {
            if !seen.lost.contains(&self.number) {
                for number in numbers {
                    seen.known.entry(*number).or_insert(self.number);
                }
            }
        });
    }

    /// The client still reads what was sent before.
    fn lose(&self) {
        self.world.look(|seen| seen.lost.insert(self.number));
        self.broker
            .send_nothing_more(pick(&[End::HungUp, End::Reset]));
    }
}

/// A small message, or one that is written from where it lies.
fn body(number: u64) -> Vec<u8> {
    vec![number as u8; pick(&[1, 1, 40_000])]
}

fn publish(publisher: &mut ReliablePublisher, number: u64) {
    let taken = publisher.publish("", "queue", body(number));
    assert_eq!(taken.unwrap(), number);
}

fn report(result: crate::Result<()>) -> Option<UnconfirmedReport> {
    match result {
        Ok(()) => None,
        Err(Error::Unconfirmed(report)) => Some(*report),
        Err(other) => panic!("{other:?}"),
    }
}

/// With exact timing nothing takes time but what the model's own threads do.
fn assert_at_once(began: Instant) {
    let most = Duration::from_millis(90);
    assert!(
        !is_exact() || began.elapsed() < most,
        "{:?}",
        began.elapsed()
    );
}

/// Confirms that come at any moment, alone or for several, belong to their messages, and wake a caller that waits for them.
#[test]
fn confirms_find_their_messages() {
    check(|| {
        let world = World::default();
        let began = Instant::now();
        let mut publisher = world.publisher(2, &[Ack, AckLater, AckAllLater]);
        for number in 1..=4 {
            publish(&mut publisher, number);
            assert!(publisher.unconfirmed() <= 2);
        }
        publisher.wait_for_confirms(None).unwrap();
        assert_eq!((publisher.unconfirmed(), publisher.republished()), (0, 0));
        drop(ManuallyDrop::into_inner(publisher));
        assert_at_once(began);
        world.look(|seen| {
            let once: Vec<_> = (1..=4).map(|number| (0, number)).collect();
            assert_eq!(seen.arrived, once);
        });
    });
}

/// A loss between any two steps: each message is confirmed in the end, in order, and none goes out again that was confirmed.
#[test]
fn a_loss_at_any_moment_loses_nothing() {
    check(|| {
        let world = World::default();
        let mut publisher = world.publisher(3, &[Ack, AckLater, AckAllLater, Loss]);
        for number in 1..=4 {
            publish(&mut publisher, number);
        }
        publisher.wait_for_confirms(None).unwrap();
        let republished = publisher.republished();
        world.look(|seen| {
            let all: BTreeSet<u64> = (1..=4).collect();
            assert_eq!(seen.confirmed, all);
            let doubles = seen.arrived.len() - all.len();
            assert!(doubles as u64 <= republished);
        });
        world.assert_in_order_and_without_needless_doubles();
        drop(ManuallyDrop::into_inner(publisher));
    });
}

/// A refusal and its next attempt beside a loss: what was refused is not taken for confirmed, nor is it forgotten.
#[test]
fn a_refused_message_is_tried_again_beside_a_loss() {
    check(|| {
        let world = World::default();
        let mut publisher = world.publisher(3, &[Ack, AckLater, Nack, NackLater, Loss]);
        for number in 1..=4 {
            publish(&mut publisher, number);
        }
        publisher.wait_for_confirms(None).unwrap();
        world.look(|seen| {
            let all: BTreeSet<u64> = (1..=4).collect();
            assert_eq!(seen.confirmed, all, "{:?}", seen.arrived);
        });
        world.assert_in_order_and_without_needless_doubles();
        drop(ManuallyDrop::into_inner(publisher));
    });
}

/// Whatever is taken back while confirms and a loss come is confirmed or handed back, and is not sent any more.
#[test]
fn what_is_taken_back_is_not_sent_any_more() {
    check(|| {
        let world = World::default();
        let mut publisher = world.publisher(4, &[Ack, AckLater, AckAllLater, NackLater, Loss]);
        for number in 1..=3 {
            publish(&mut publisher, number);
        }
        sleep(a_moment());
        let back: BTreeSet<u64> = publisher
            .take_unconfirmed()
            .into_iter()
            .map(|message| message.number)
            .collect();
        assert_eq!(publisher.unconfirmed(), 0);
        publish(&mut publisher, 4);
        publisher.wait_for_confirms(None).unwrap();
        assert!(publisher.take_unconfirmed().is_empty());
        drop(ManuallyDrop::into_inner(publisher));
        world.look(|seen| {
            for number in 1..=4 {
                assert!(back.contains(&number) || seen.confirmed.contains(&number));
            }
            // What would be sent again would be sent before 4.
            let behind = |on: usize| {
                let of_this = seen.arrived.iter().filter(move |(at, _)| *at == on);
                of_this.skip_while(|(_, number)| *number != 4)
            };
            let (first, _) = *seen
                .arrived
                .iter()
                .find(|(_, number)| *number == 4)
                .unwrap();
            let later = seen.arrived.iter().filter(|(on, _)| *on > first);
            for (on, number) in later.chain(behind(first)) {
                assert!(
                    !back.contains(number),
                    "{number} came on {on}: {:?}",
                    seen.arrived
                );
            }
        });
        world.assert_in_order_and_without_needless_doubles();
    });
}

/// A returned message is reported once, and not sent again once the publisher has it back.
#[test]
fn a_returned_message_is_reported_once_beside_a_loss() {
    check(|| {
        let world = World::default();
        let mut publisher = world.publisher(3, &[Ack, AckLater, Return, Loss]);
        let mut reported = Vec::new();
        let mut take = |report: Option<UnconfirmedReport>| {
            let report = report?;
            assert!(report.nacked.is_empty() && report.pending.is_empty());
            reported.extend(report.returned.iter().map(|(number, _)| *number));
            Some(())
        };
        for number in 1..=3 {
            let mandatory = || BasicPublish::new().mandatory(true);
            // What was returned and not reported takes room in the window.
            let taken = publisher.publish_with("", "queue", body(number), mandatory());
            assert_eq!(taken.unwrap(), number);
        }
        while take(report(publisher.wait_for_confirms(None))).is_some() {}
        drop(ManuallyDrop::into_inner(publisher));
        reported.sort_unstable();
        assert!(reported.is_sorted_by(|a, b| a < b), "{reported:?}");
        world.look(|seen| {
            for number in 1..=3 {
                let confirmed = seen.confirmed.contains(&number);
                assert!(
                    confirmed || reported.contains(&number),
                    "{number} is missing"
                );
            }
            for number in &reported {
                assert!(seen.returned.contains(number));
            }
        });
        world.assert_in_order_and_without_needless_doubles();
    });
}

/// A publisher that is dropped beside a loss still sees its messages through, and its thread ends.
#[test]
fn a_drop_sees_the_last_messages_through() {
    check(|| {
        let world = World::default();
        let mut publisher = world.publisher(4, &[Ack, AckLater, Loss]);
        for number in 1..=2 {
            publish(&mut publisher, number);
        }
        drop(ManuallyDrop::into_inner(publisher));
        world.look(|seen| assert_eq!(seen.confirmed, [1, 2].into()));
        world.assert_in_order_and_without_needless_doubles();
    });
}

/// A stop ends whatever the caller and the thread wait for, beside a loss as well, and all is handed back.
#[test]
fn a_stop_ends_what_waits_and_all_is_handed_back() {
    check(|| {
        let world = World::default();
        let mut publisher = world.publisher(2, &[Nothing, Loss]);
        let stop = publisher.stop_handle();
        thread::spawn(move || {
            sleep(a_moment());
            stop.stop();
        });
        let mut taken = 0;
        let stopped = loop {
            match publisher.publish("", "queue", body(taken + 1)) {
                Ok(number) => taken = number,
                Err(error) => break error,
            }
        };
        assert!(matches!(stopped, Error::Stopped { .. }), "{stopped:?}");
        let back = publisher.take_unconfirmed();
        let numbers: Vec<u64> = back.iter().map(|message| message.number).collect();
        world.look(|seen| {
            let open = (1..=taken).filter(|number| !seen.confirmed.contains(number));
            assert_eq!(numbers, open.collect::<Vec<u64>>());
        });
        drop(ManuallyDrop::into_inner(publisher));
    });
}
