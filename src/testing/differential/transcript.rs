//! Plays the same script to RabbitMQ and to the broker for tests, and compares the two transcripts line by line.

use std::sync::{Arc, Mutex, MutexGuard};

use super::client;
pub(super) use super::client::Client;
use super::shown::difference;
use crate::protocol::frame::PROTOCOL_HEADER;
use crate::protocol::method::Method;
use crate::testing::{Broker, Builder};
use crate::{FieldTable, FieldValue};

/// One performance of a script: the broker, and what it sent.
pub(super) struct Script {
    address: String,
    /// The release line of the RabbitMQ that the script is compared with, whichever side it is played to.
    pub(super) version: (u32, u32),
    prefix: String,
    record: Arc<Record>,
}

/// What the clients of a script write down.
#[derive(Default)]
pub(super) struct Record {
    lines: Mutex<Vec<String>>,
    /// Queues and exchanges to be deleted in the end; whether it is a queue.
    pub(super) declared: Mutex<Vec<(bool, String)>>,
}

impl Record {
    pub(super) fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap()
    }
}

/// Plays a script to the RabbitMQ of `AMQP_URL` and to a broker for tests, and compares what comes.
pub(super) fn compare(play: impl Fn(&Script)) {
    compare_with(Broker::builder(), play);
}

/// The same, with a broker for tests that is set up in some way. Compared with a release before 4.3, it limits
/// channels as that does.
pub(super) fn compare_with(builder: Builder, play: impl Fn(&Script)) {
    let url = std::env::var("AMQP_URL").expect("AMQP_URL: run the tests by scripts/with-broker");
    let rabbitmq = url.rsplit('@').next().unwrap();
    let rabbitmq = rabbitmq.split(['/', '?']).next().unwrap();
    let version = version(rabbitmq);
    let broker = builder.global_qos(version < (4, 3)).start().unwrap();
    let perform = |address: &str| {
        let script = Script::new(address, version);
        play(&script);
        script.clean_up();
        std::mem::take(&mut *script.record.lines())
    };
    let expected = perform(rabbitmq);
    let own = perform(&broker.address().to_string());
    if std::env::var_os("HAYPILE_TRANSCRIPT").is_some() {
        println!("{}", expected.join("\n"));
    }
    assert!(
        expected == own,
        "the broker for tests (+) is not like RabbitMQ {}.{} (-):\n{}",
        version.0,
        version.1,
        difference(&expected, &own)
    );
}

fn version(address: &str) -> (u32, u32) {
    let script = Script::new(address, (0, 0));
    let mut client = script.greet("version");
    let start = client.frame().unwrap().2;
    let Ok(Method::ConnectionStart {
        server_properties, ..
    }) = Method::decode(&start)
    else {
        panic!("{start:?}");
    };
    let properties = server_properties.values().unwrap();
    let version = properties.get("version").and_then(FieldValue::as_str);
    let mut parts = version
        .unwrap()
        .split('.')
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap(), parts.next().unwrap())
}

impl Script {
    fn new(address: &str, version: (u32, u32)) -> Script {
        Script {
            address: address.to_owned(),
            version,
            prefix: format!("hps-{}-", &uuid::Uuid::new_v4().simple().to_string()[..8]),
            record: Arc::default(),
        }
    }

    /// Plays parts that have nothing to do with each other, for each of the cases: side by side, since a broker may take long
    /// to refuse something, and written down one behind the other.
    pub(super) fn side_by_side<T: Sync>(&self, cases: &[T], play: impl Fn(&Script, &T) + Sync) {
        let part = |case| {
            let script = Script::new(&self.address, self.version);
            play(&script, case);
            script.clean_up();
            std::mem::take(&mut *script.record.lines())
        };
        let part = &part;
        let parts: Vec<Vec<String>> = std::thread::scope(|scope| {
            let parts: Vec<_> = cases
                .iter()
                .map(|case| scope.spawn(move || part(case)))
                .collect();
            parts.into_iter().map(|part| part.join().unwrap()).collect()
        });
        self.record.lines().extend(parts.into_iter().flatten());
    }

    /// A client that has only connected its socket.
    pub(super) fn connect(&self, name: &'static str) -> Client {
        Client::new(
            name,
            &self.address,
            self.version,
            &self.prefix,
            &self.record,
        )
    }

    /// A client that has sent the protocol header.
    pub(super) fn greet(&self, name: &'static str) -> Client {
        let mut client = self.connect(name);
        client.send_bytes(&PROTOCOL_HEADER);
        client
    }

    /// A client that has received `connection.tune`.
    pub(super) fn log_in(&self, name: &'static str) -> Client {
        let mut client = self.greet(name);
        client.until("ConnectionStart");
        client.start_ok("PLAIN", b"\0guest\0guest");
        client.until("ConnectionTune");
        client
    }

    /// A client with a connection, and channel 1.
    pub(super) fn open(&self, name: &'static str) -> Client {
        self.open_with(name, 131_072, 0)
    }

    pub(super) fn open_with(&self, name: &'static str, frame_max: u32, heartbeat: u16) -> Client {
        let kept = self.record.lines().len();
        let mut client = self.log_in(name);
        client.tune_ok(200, frame_max, heartbeat);
        client.open_vhost("/");
        client.until("ConnectionOpenOk");
        client.open_channel(1);
        self.record.lines().truncate(kept);
        client
    }

    /// Writes a line of its own.
    pub(super) fn note(&self, text: impl Into<String>) {
        self.record.lines().push(text.into());
    }

    /// The name of a queue or exchange as this performance has it.
    pub(super) fn name(&self, name: &str) -> String {
        client::full_name(&self.prefix, name)
    }

    fn clean_up(&self) {
        let declared = std::mem::take(&mut *self.record.declared.lock().unwrap());
        if declared.is_empty() {
            return;
        }
        let kept = self.record.lines().len();
        let mut client = self.open("janitor");
        for (is_queue, name) in declared {
            if is_queue {
                client.send(
                    1,
                    &Method::QueueDelete {
                        queue: name.as_str().into(),
                        if_unused: false,
                        if_empty: false,
                        no_wait: false,
                    },
                );
                client.until("QueueDeleteOk");
            } else {
                client.send(
                    1,
                    &Method::ExchangeDelete {
                        exchange: name.as_str().into(),
                        if_unused: false,
                        no_wait: false,
                    },
                );
                client.until("ExchangeDeleteOk");
            }
            if self
                .record
                .lines()
                .last()
                .is_some_and(|line| line.contains("ChannelClose"))
            {
                client.send(1, &Method::ChannelCloseOk {});
                client.open_channel(1);
            }
        }
        self.record.lines().truncate(kept);
    }
}

/// The header of a content of this size without properties, as a frame's payload.
pub(super) fn content_header(size: u64) -> Vec<u8> {
    let mut bytes = vec![0, 60, 0, 0];
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// Arguments, from an array.
pub(super) fn table<const N: usize>(fields: [(&str, FieldValue); N]) -> FieldTable {
    fields.into_iter().collect()
}
