//! Channels and connections at their end, and what is sent behind it.

use super::super::transcript::{compare, content_header, Client};
use crate::protocol::method::Method;
use crate::FieldTable;

/// What closes a channel, and is sent on one that is closed already.
fn mistake(client: &mut Client) {
    client.queue(1, "missing", "passive", &FieldTable::new());
}

#[test]
fn frames_behind_a_channel_error_are_ignored() {
    compare(|script| {
        let mut client = script.open("a");
        client.declare(1, "q");
        client.publish(1, "q", "before");
        mistake(&mut client);
        client.publish(1, "q", "behind");
        mistake(&mut client);
        client.send(1, &Method::ConfirmSelect { no_wait: false });
        client.until("ChannelClose");
        client.open_channel(2);
        client.await_count(2, "q", 1);
        // Agreeing makes the number free.
        client.send(1, &Method::ChannelCloseOk {});
        client.open_channel(1);
        client.count(1, "q");
    });
}

#[test]
fn a_channel_is_not_opened_before_its_end_is_agreed_to() {
    compare(|script| {
        let mut client = script.open("a");
        mistake(&mut client);
        client.until("ChannelClose");
        client.open_channel(1);
        client.agree();
    });
}

#[test]
fn both_ends_may_close_a_channel() {
    compare(|script| {
        let mut client = script.open("a");
        mistake(&mut client);
        client.until("ChannelClose");
        // Not agreed to, but closed from this side as well: it is agreed to, and still not free.
        client.close_channel(1);
        client.send(1, &Method::ChannelCloseOk {});
        client.open_channel(1);
        client.sync(1);
    });
}

#[test]
fn half_a_message_behind_a_channel_error_is_content_all_the_same() {
    compare(|script| {
        for cut in 0..3 {
            script.note(format!("after {cut} frames"));
            let mut client = script.open("a");
            let publish = Method::BasicPublish {
                exchange: "".into(),
                routing_key: "".into(),
                mandatory: false,
                immediate: false,
            };
            mistake(&mut client);
            client.until("ChannelClose");
            client.send(1, &publish);
            if cut > 0 {
                client.raw(2, 1, &content_header(4));
            }
            if cut > 1 {
                client.raw(3, 1, b"ab");
            }
            client.send(1, &Method::ChannelCloseOk {});
            client.open_channel(2);
            client.agree_if_asked();
        }
    });
}

#[test]
fn methods_on_a_channel_that_is_not_open_end_the_connection() {
    compare(|script| {
        let close = Method::ChannelClose {
            reply_code: 200,
            reply_text: "".into(),
            class_id: 0,
            method_id: 0,
        };
        let (delivery_tag, multiple) = (1, false);
        let methods = [
            Method::ConfirmSelect { no_wait: false },
            Method::BasicAck {
                delivery_tag,
                multiple,
            },
            close,
            Method::ChannelCloseOk {},
            Method::ChannelFlow { active: true },
        ];
        for method in methods {
            script.note(method.name());
            let mut client = script.open("a");
            client.send(5, &method);
            client.until("ConnectionClose");
            client.agree();
        }
        for kind in [2, 3] {
            script.note(format!("a frame of type {kind}"));
            let mut client = script.open("a");
            client.raw(kind, 5, &content_header(4));
            client.until("ConnectionClose");
            client.agree();
        }
    });
}

#[test]
fn a_channel_is_opened_once_and_closed_once() {
    compare(|script| {
        let mut client = script.open("a");
        client.send(1, &Method::ChannelOpen {});
        client.until("ConnectionClose");
        client.agree();
        let mut client = script.open("a");
        client.close_channel(1);
        client.send_channel_close(1);
        client.until("ConnectionClose");
        client.agree();
        let mut client = script.open("a");
        client.send(1, &Method::ChannelCloseOk {});
        client.sync(1);
    });
}

/// Content that does not come as it should.
#[test]
fn content_out_of_order_ends_the_connection() {
    compare(|script| {
        type Frames = Vec<(u8, u16, Vec<u8>)>;
        let cases: Vec<(&str, Frames)> = vec![
            ("a body", vec![(3, 1, b"ab".to_vec())]),
            (
                "another class",
                vec![(2, 1, {
                    let mut bytes = content_header(4);
                    bytes[1] = 50;
                    bytes
                })],
            ),
            (
                "weight",
                vec![
                    (2, 1, {
                        let mut bytes = content_header(2);
                        bytes[3] = 1;
                        bytes
                    }),
                    (3, 1, b"ab".to_vec()),
                ],
            ),
            (
                "two headers",
                vec![(2, 1, content_header(4)), (2, 1, content_header(4))],
            ),
            (
                "too much",
                vec![(2, 1, content_header(3)), (3, 1, b"abcd".to_vec())],
            ),
            (
                "more than nothing",
                vec![(2, 1, content_header(0)), (3, 1, b"abcd".to_vec())],
            ),
            (
                "an empty body first",
                vec![
                    (2, 1, content_header(2)),
                    (3, 1, Vec::new()),
                    (3, 1, b"ab".to_vec()),
                ],
            ),
            (
                "a method",
                vec![(2, 1, content_header(3)), (1, 1, vec![0, 20, 0, 10, 0])],
            ),
            ("a method at once", vec![(1, 1, vec![0, 20, 0, 10, 0])]),
            (
                "a heartbeat in between",
                vec![
                    (2, 1, content_header(2)),
                    (8, 0, Vec::new()),
                    (3, 1, b"ab".to_vec()),
                ],
            ),
            (
                "properties that cannot be read",
                vec![(2, 1, {
                    let mut bytes = content_header(0);
                    let flags = bytes.len() - 2;
                    bytes[flags] = 0x80;
                    bytes.push(9);
                    bytes
                })],
            ),
            (
                "a flag that means nothing",
                vec![(2, 1, {
                    let mut bytes = content_header(0);
                    let flags = bytes.len() - 1;
                    bytes[flags] = 2;
                    bytes
                })],
            ),
            (
                "more flags",
                vec![(2, 1, {
                    let mut bytes = content_header(0);
                    let flags = bytes.len() - 1;
                    bytes[flags] = 1;
                    bytes.extend_from_slice(&[0, 0]);
                    bytes
                })],
            ),
            (
                "bytes behind the properties",
                vec![(2, 1, {
                    let mut bytes = content_header(0);
                    bytes.extend_from_slice(b"rest");
                    bytes
                })],
            ),
        ];
        for (what, frames) in &cases {
            // Before 4.3 that was an unexpected frame (505).
            if script.version < (4, 3) && *what == "too much" {
                continue;
            }
            script.note(*what);
            let mut client = script.open("a");
            client.declare(1, "q");
            let key = client.name("q");
            let publish = Method::BasicPublish {
                exchange: "".into(),
                routing_key: key.as_str().into(),
                mandatory: false,
                immediate: false,
            };
            client.send(1, &publish);
            for (kind, channel, payload) in frames {
                client.raw(*kind, *channel, payload);
            }
            client.sync(1);
            client.count(1, "q");
            client.agree_if_asked();
        }
    });
}

#[test]
fn a_connection_is_closed_by_either_end() {
    compare(|script| {
        let close = Method::ConnectionClose {
            reply_code: 200,
            reply_text: "bye".into(),
            class_id: 0,
            method_id: 0,
        };
        script.note("by the client, with more behind it");
        let mut client = script.open("a");
        client.declare(1, "q");
        client.send(0, &close);
        client.publish(1, "q", "behind");
        client.until("ConnectionCloseOk");
        let mut client = script.open("b");
        client.count(1, "q");

        script.note("by the broker, with more behind it");
        client.send(9, &Method::BasicRecover { requeue: true });
        client.until("ConnectionClose");
        client.publish(1, "q", "behind");
        client.send(1, &Method::ConfirmSelect { no_wait: false });
        client.raw(8, 0, b"");
        client.agree();
        let mut client = script.open("c");
        client.count(1, "q");

        script.note("by both");
        client.send(9, &Method::BasicRecover { requeue: true });
        client.until("ConnectionClose");
        client.send(0, &close);
        client.until("ConnectionCloseOk");
        client.agree();
    });
}

/// Whichever side closed the connection, the client ends the stream, or the broker does after the heartbeats' interval.
#[test]
fn a_closed_stream_is_left_to_the_client() {
    compare(|script| {
        let close = Method::ConnectionClose {
            reply_code: 200,
            reply_text: "bye".into(),
            class_id: 0,
            method_id: 0,
        };
        script.note("closed by the client");
        let mut client = script.open("a");
        client.declare_as(1, "own", "exclusive", &FieldTable::new());
        client.consume(1, "own", "c");
        client.send(0, &close);
        client.until("ConnectionCloseOk");
        script.note(format!("left open: {}", client.is_left_open()));
        // Its channels have gone, and so has the queue that was its own.
        client.publish(1, "own", "m");
        client.send(1, &Method::ConfirmSelect { no_wait: false });
        let mut other = script.open("other");
        other.try_declare(1, "own", "passive", &FieldTable::new());
        client.send(0, &close);
        client.until("ConnectionCloseOk");
        script.note(format!("left open: {}", client.is_left_open()));
        client.send(0, &Method::ConnectionCloseOk {});
        client.end();

        script.note("closed by the broker");
        let mut client = script.open("b");
        client.send(9, &Method::BasicRecover { requeue: true });
        client.until("ConnectionClose");
        script.note(format!("left open: {}", client.is_left_open()));
        client.agree();

        script.note("and neither ends the stream");
        let mut client = script.open_with("c", 131_072, 1);
        let mut failed = script.open_with("d", 131_072, 1);
        client.send(0, &close);
        client.until("ConnectionCloseOk");
        failed.send(9, &Method::BasicRecover { requeue: true });
        failed.until("ConnectionClose");
        client.end();
        failed.end();
    });
}

/// What a channel had goes back when it closes, in whichever way it does.
#[test]
fn unacknowledged_messages_go_back_at_the_end() {
    compare(|script| {
        for way in 0..4 {
            script.note(format!("way {way}"));
            let mut watcher = script.open("watcher");
            let queue = format!("q{way}");
            watcher.declare(1, &queue);
            let mut client = script.open("a");
            client.publish_all(1, &queue, &["1", "2", "3"]);
            client.consume(1, &queue, "c");
            client.take(3);
            client.ack(1, 2, false);
            client.sync(1);
            match way {
                0 => {
                    client.close_channel(1);
                }
                1 => {
                    mistake(&mut client);
                    client.until("ChannelClose");
                }
                2 => client.close(),
                _ => drop(client),
            }
            watcher.take_all(1, &queue, 2);
        }
    });
}

#[test]
fn flow_and_access_have_replies() {
    compare(|script| {
        let mut client = script.open("a");
        client.send(1, &Method::ChannelFlow { active: true });
        client.sync(1);
        client.send(1, &Method::ChannelFlowOk { active: true });
        client.sync(1);
        let mut client = script.open("a");
        client.send(1, &Method::ChannelFlow { active: false });
        client.next();
        client.agree();
        let mut client = script.open("a");
        client.raw(1, 1, &[0, 30, 0, 10, 5, b'/', b'd', b'a', b't', b'a', 0]);
        client.sync(1);
        // What only a broker sends.
        client.send(1, &Method::BasicGetEmpty {});
        client.next();
        client.agree();
    });
}
