//! A twin and its original send the same message, byte by byte and property by property.

use super::*;

#[test]
fn in_a_queue() {
    for (program, arguments, queue) in [
        ("work_producer", &["a", "task"][..], "anheng"),
        ("send", &[], "hello"),
        ("send", &["--durable"], "hello"),
        ("simple_producer", &[], "hello1"),
        ("persistent_producer", &["--interval", "0"], "my_queue"),
    ] {
        let [rust, python] = [Rust, Python].map(|language| {
            let scene = Scene::new();
            scene.run(language, program, arguments);
            scene.take(queue)
        });
        assert_eq!(rust, python, "{program} {arguments:?}");
    }
}

#[test]
fn through_an_exchange() {
    for (program, exchange, exchange_type, durable, times) in [
        ("publish", "logs", ExchangeType::Fanout, false, false),
        (
            "fanout_producer",
            "aoto_test",
            ExchangeType::Fanout,
            false,
            true,
        ),
        (
            "broadcast_producer",
            "hello2",
            ExchangeType::Fanout,
            true,
            false,
        ),
        (
            "routing_producer",
            "log1",
            ExchangeType::Direct,
            true,
            false,
        ),
        ("topic_producer", "log2", ExchangeType::Topic, true, false),
        (
            "headers_producer",
            "my_headers",
            ExchangeType::Headers,
            true,
            false,
        ),
    ] {
        let [rust, python] = [Rust, Python].map(|language| {
            let scene = Scene::new();
            let channel = scene.connection.channel().unwrap();
            channel
                .exchange_declare(
                    ExchangeDeclare::new(scene.name(exchange), exchange_type.clone())
                        .durable(durable),
                )
                .unwrap();
            let queue = channel
                .queue_declare(QueueDeclare::new("").exclusive(true))
                .unwrap()
                .queue;
            for key in ["info", "europe.weather"] {
                channel
                    .queue_bind(&queue, scene.name(exchange), key)
                    .unwrap();
            }
            scene.run(language, program, &[]);
            let (method, properties, body) = scene.take(&queue);
            let body = String::from_utf8(body).unwrap();
            let body = if times {
                body.replace(|c: char| c.is_ascii_digit(), "0")
            } else {
                body
            };
            (method.exchange, method.routing_key, properties, body)
        });
        assert_eq!(rust, python, "{program}");
    }
}

#[test]
fn as_request() {
    for (program, queue) in [
        ("rpc_client", "rpc_queue"),
        ("compute_request", "compute_queue"),
        ("compute_center", "compute_queue"),
    ] {
        let [rust, python] = [Rust, Python].map(|language| {
            let scene = Scene::new();
            let channel = scene.connection.channel().unwrap();
            channel.queue_declare(scene.name(queue)).unwrap();
            let _client = scene.start(language, program, &[]);
            let (_, mut properties, body) = scene.take(queue);
            assert!(properties
                .reply_to
                .take()
                .is_some_and(|queue| queue.starts_with("amq.gen-")));
            let id = properties.correlation_id.take().map(|id| id.len());
            // Which of the centre's threads comes first is open.
            (
                properties,
                id,
                (program != "compute_center").then_some(body),
            )
        });
        assert_eq!(rust, python, "{program}");
    }
}

#[test]
fn as_reply() {
    for (program, queue, waiting) in [
        ("rpc_server", "rpc_queue", "Waiting RPC requests"),
        ("compute_node", "compute_queue", " [*] Waiting for n"),
    ] {
        for id in [None, Some("a-1")] {
            let [rust, python] = [Rust, Python].map(|language| {
                let scene = Scene::new();
                let server = scene.start(language, program, &["--count", "1"]);
                server.wait_for(waiting);
                let channel = scene.connection.channel().unwrap();
                let replies = channel
                    .queue_declare(QueueDeclare::new("").exclusive(true))
                    .unwrap()
                    .queue;
                let mut properties = BasicProperties::new().reply_to(&replies);
                properties.correlation_id = id.map(Into::into);
                channel
                    .basic_publish_with("", scene.name(queue), "41", properties)
                    .unwrap();
                server.finish();
                let (_, properties, body) = scene.take(&replies);
                assert_eq!(properties.correlation_id.as_deref(), id);
                (properties, body)
            });
            assert_eq!(rust, python, "{program}");
        }
    }
}
