//! What comes goes on as it came: bytes that are no UTF-8 in properties, header names, keys and names, and the order of headers.

mod support;

use haypile::{
    BasicProperties, Channel, Connection, ExchangeDeclare, ExchangeType, FieldTable, FieldValue,
    QueueDeclare, ShortString, Supervisor,
};
use support::peer::{m, Args, Frame, Peer};
use support::{bounded, channel, exclusive_queue, pump_until, unique, Log};

/// A text that no encoding of Unicode gives.
const BINARY: &[u8] = b"\x00\xff\xfe key \xc3";

fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

fn long(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text].concat()
}

/// A table out of order, with a key that comes twice, binary keys and texts, and tables like it inside.
fn headers() -> Vec<u8> {
    let inner = [short(b"z"), b"V".to_vec(), short(BINARY), b"t\x01".to_vec()].concat();
    let table = [
        short(b"zulu"),
        [b"S", &long(BINARY)[..]].concat(),
        short(BINARY),
        b"I\0\0\0\x07".to_vec(),
        short(b"inner"),
        [b"F", &long(&inner)[..]].concat(),
        short(b"alpha"),
        b"l\0\0\0\0\0\0\0\x01".to_vec(),
        short(b"array"),
        [b"A", &long(&[b"F", &long(&inner)[..]].concat())[..]].concat(),
        short(b"alpha"),
        b"l\0\0\0\0\0\0\0\x02".to_vec(),
    ];
    long(&table.concat())
}

/// Flags and values of all properties, the short strings binary.
fn properties() -> Vec<u8> {
    let mut bytes = vec![0xff, 0xfc];
    for part in [
        short(BINARY),                           // content_type
        short(BINARY),                           // content_encoding
        headers(),                               // headers
        vec![2, 9],                              // delivery_mode, priority
        short(BINARY),                           // correlation_id
        short(BINARY),                           // reply_to
        short(BINARY),                           // expiration
        short(BINARY),                           // message_id
        1_700_000_000u64.to_be_bytes().to_vec(), // timestamp
        short(BINARY),                           // type
        short(BINARY),                           // user_id
        short(BINARY),                           // app_id
        short(BINARY),                           // cluster_id
    ] {
        bytes.extend(part);
    }
    bytes
}

/// Moves each message to where it came from, as a program would.
fn move_messages(channel: &Channel) {
    channel
        .basic_consume("q", |channel, method, properties, body| {
            channel.basic_publish_with(&method.exchange, &method.routing_key, body, &properties)?;
            channel.basic_ack(method.delivery_tag)
        })
        .unwrap();
}

#[test]
fn a_message_that_is_moved_keeps_every_byte() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            let tag = session.accept_consumer(1);
            let deliver = Args::new()
                .shortstr(&tag)
                .longlong(1)
                .octet(0)
                .raw(&short(BINARY))
                .raw(&short(BINARY));
            session.send_raw(&Frame::encode_content(
                1,
                m::BASIC_DELIVER,
                &deliver,
                &properties(),
                b"x",
            ));
            let publish = session.frame();
            assert!(publish.is(1, m::BASIC_PUBLISH), "{publish:?}");
            let expected = [
                &[0, 60, 0, 40, 0, 0],
                &short(BINARY)[..],
                &short(BINARY),
                &[0],
            ]
            .concat();
            assert_eq!(publish.payload, expected);
            let header = session.frame();
            assert_eq!(
                header.payload[12..],
                properties(),
                "flags, and behind them the values"
            );
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        move_messages(&channel);
        connection.process_data_events(None).unwrap();
        connection.close().unwrap();
        peer.finish();
    });
}

#[test]
fn what_came_can_be_read() {
    bounded(|| {
        let peer = Peer::start(|session| {
            session.handshake();
            session.open_channel(1);
            session.expect(1, m::BASIC_GET);
            let got = Args::new()
                .longlong(1)
                .octet(0)
                .raw(&short(BINARY))
                .raw(&short(b"text"))
                .long(0);
            session.send_raw(&Frame::encode_content(
                1,
                m::BASIC_GET_OK,
                &got,
                &properties(),
                b"x",
            ));
            session.serve_until_end();
        });
        let connection = Connection::open(peer.url()).unwrap();
        let channel = connection.channel().unwrap();
        let (method, properties, _) = channel.basic_get("q").unwrap().unwrap();
        assert_eq!(method.exchange.as_bytes(), BINARY);
        assert_eq!(&*method.exchange, String::from_utf8_lossy(BINARY));
        assert_eq!(method.routing_key, "text");
        let id = properties.correlation_id.as_ref().unwrap();
        assert_eq!(id.as_bytes(), BINARY);
        assert_eq!(properties.correlation_id.as_deref(), Some(id.as_str()));

        let headers = properties.headers.as_ref().unwrap();
        assert_eq!(headers.len(), 5, "{headers:?}");
        assert_eq!(headers.get(BINARY).and_then(FieldValue::as_i64), Some(7));
        assert_eq!(
            headers.get("alpha").and_then(FieldValue::as_i64),
            Some(2),
            "the last one counts"
        );
        let copied: FieldTable = headers.iter().collect();
        assert_eq!(&copied, headers);
        assert!(headers.keys().any(|key| key.as_bytes() == BINARY));
        connection.close().unwrap();
        peer.finish();
    });
}

/// A requester finds its reply by an id that is no text, whichever server sends it.
#[test]
fn a_binary_correlation_id_comes_back() {
    bounded(|| {
        let channel = channel();
        let connection = channel.connection();
        let (requests, replies) = (exclusive_queue(&channel), exclusive_queue(&channel));
        channel
            .basic_consume(&requests, |channel, method, properties, body| {
                let same_id = properties.correlation_id.unwrap_or_default();
                channel.basic_publish_with(
                    "",
                    properties.reply_to.unwrap_or_default(),
                    body,
                    BasicProperties::new().correlation_id(same_id),
                )?;
                channel.basic_ack(method.delivery_tag)
            })
            .unwrap();
        let seen = Log::new();
        let log = seen.clone();
        channel
            .basic_consume(&replies, move |_, _, properties: BasicProperties, _| {
                log.push(properties.correlation_id.map(ShortString::into_bytes))
            })
            .unwrap();
        let request = BasicProperties::new()
            .reply_to(&replies)
            .correlation_id(BINARY);
        channel
            .basic_publish_with("", &requests, "?", request)
            .unwrap();
        pump_until(&connection, || !seen.is_empty());
        assert_eq!(seen.take(), [Some(BINARY.to_vec())]);
        connection.close().unwrap();
    });
}

/// On a real broker, which binds by texts only but routes any key: out of one queue, through its exchange, and out of another.
#[test]
fn a_broker_gets_what_it_sent() {
    bounded(|| {
        let channel = channel();
        let exchange = unique("bytes");
        let declare = ExchangeDeclare::new(&exchange, ExchangeType::Fanout).auto_delete(true);
        channel.exchange_declare(declare).unwrap();
        let (first, second) = (exclusive_queue(&channel), exclusive_queue(&channel));
        channel.queue_bind(&first, &exchange, "").unwrap();
        let sent = BasicProperties::new()
            .content_type(BINARY)
            .content_encoding(BINARY)
            .correlation_id(BINARY)
            .reply_to(BINARY)
            .message_id(BINARY)
            .message_type(BINARY)
            .app_id(BINARY)
            .header(BINARY, FieldValue::Text(BINARY.to_vec()))
            .header("table", FieldTable::from([(BINARY, 1)]));
        channel
            .basic_publish_with(&exchange, BINARY, "x", &sent)
            .unwrap();
        let get = |queue: &str| {
            let mut got = None;
            support::wait_until(support::SOON, || {
                got = channel.basic_get(queue).unwrap();
                got.is_some()
            });
            got.unwrap()
        };
        let (method, properties, body) = get(&first);
        assert_eq!(
            (method.routing_key.as_bytes(), &properties),
            (BINARY, &sent)
        );
        channel.queue_bind(&second, &exchange, "").unwrap();
        channel.queue_unbind(&first, &exchange, "").unwrap();
        channel
            .basic_publish_with(&method.exchange, &method.routing_key, body, properties)
            .unwrap();
        let (method, properties, _) = get(&second);
        assert_eq!((method.routing_key.as_bytes(), properties), (BINARY, sent));
        assert_eq!(
            channel
                .queue_declare(QueueDeclare::new(&first).passive(true))
                .unwrap()
                .message_count,
            0
        );
        channel.connection().close().unwrap();
    });
}

#[test]
fn a_returned_message_too() {
    bounded(|| {
        let channel = channel();
        channel.confirm_delivery().unwrap();
        let exchange = unique("bytes");
        let declare = ExchangeDeclare::new(&exchange, ExchangeType::Direct);
        channel.exchange_declare(declare).unwrap();
        let sent = BasicProperties::new().correlation_id(BINARY);
        let mandatory = haypile::BasicPublish::new()
            .mandatory(true)
            .properties(&sent);
        let error = channel
            .basic_publish_with(&exchange, BINARY, "x", mandatory)
            .unwrap_err();
        channel.exchange_delete(&exchange).unwrap();
        let haypile::Error::Unroutable(returned) = error else {
            panic!("{error:?}");
        };
        assert_eq!(returned[0].method.routing_key.as_bytes(), BINARY);
        assert_eq!(returned[0].properties, sent);
        channel.connection().close().unwrap();
    });
}

/// RabbitMQ closes the connection over such a name, except in `basic.publish`.
#[test]
fn a_name_that_is_no_text_is_refused_before_it_is_sent() {
    bounded(|| {
        let channel = channel();
        let connection = channel.connection();
        let queue = exclusive_queue(&channel);
        let name = || ShortString::from(BINARY);
        let declare = |exchange| ExchangeDeclare::new(exchange, ExchangeType::Fanout);
        let refused = [
            ("queue", channel.queue_declare(name()).map(drop)),
            ("queue", connection.queue_exists(BINARY).map(drop)),
            ("queue", channel.queue_delete(name()).map(drop)),
            ("queue", channel.queue_purge(BINARY).map(drop)),
            ("queue", channel.basic_get(name()).map(drop)),
            ("queue", channel.consume(name()).map(drop)),
            (
                "queue",
                channel.basic_consume(name(), |_, _, _, _| ()).map(drop),
            ),
            ("queue", channel.queue_bind(BINARY, "amq.topic", "k")),
            ("exchange", channel.queue_bind(&queue, BINARY, "k")),
            (
                "routing_key",
                channel.queue_bind(&queue, "amq.topic", BINARY),
            ),
            ("queue", channel.queue_unbind(BINARY, "amq.topic", "k")),
            ("exchange", channel.queue_unbind(&queue, BINARY, "k")),
            (
                "routing_key",
                channel.queue_unbind(&queue, "amq.topic", BINARY),
            ),
            ("exchange", channel.exchange_declare(declare(name()))),
            ("exchange", connection.exchange_exists(BINARY).map(drop)),
            ("exchange", channel.exchange_delete(name())),
            (
                "destination",
                channel.exchange_bind(BINARY, "amq.topic", "k"),
            ),
            ("source", channel.exchange_bind("amq.topic", BINARY, "k")),
            (
                "routing_key",
                channel.exchange_bind("amq.fanout", "amq.topic", BINARY),
            ),
            ("source", channel.exchange_unbind("amq.topic", BINARY, "k")),
        ];
        for (named, result) in refused {
            match result {
                Err(haypile::Error::InvalidParameter { field, value, .. }) => {
                    assert_eq!((&*field, &*value), (named, r#"b"\x00\xff\xfe key \xc3""#));
                }
                other => panic!("{named}: {other:?}"),
            }
        }
        // Nothing was sent: connection and channel are as they were.
        channel
            .queue_declare(QueueDeclare::new(&queue).passive(true))
            .unwrap();
        connection.close().unwrap();
    });
}

#[test]
fn a_reliable_publisher_keeps_the_bytes_of_names_too() {
    bounded(|| {
        let channel = channel();
        let connection = channel.connection();
        let queue = exclusive_queue(&channel);
        let exchange = unique("bytes");
        let fanout = ExchangeDeclare::new(&*exchange, ExchangeType::Fanout).auto_delete(true);
        channel.exchange_declare(fanout).unwrap();
        channel.queue_bind(&queue, &exchange, "").unwrap();
        let url = std::env::var("AMQP_URL").expect("AMQP_URL");
        let mut publisher = Supervisor::new(url).publisher(10, |_| Ok(())).unwrap();
        publisher.publish(&exchange, BINARY, "bytes").unwrap();
        publisher
            .publish(&exchange, ShortString::from(BINARY), "a name")
            .unwrap();
        publisher.wait_for_confirms(support::SOON).unwrap();
        for body in ["bytes", "a name"] {
            let (method, _, received) = channel.basic_get(&queue).unwrap().unwrap();
            assert_eq!(method.routing_key.as_bytes(), BINARY);
            assert_eq!(received, body.as_bytes());
        }
        connection.close().unwrap();
    });
}
