//! Opening a connection, and what is no frame.

use super::super::transcript::{compare, compare_with, table, Script};
use crate::protocol::frame::PROTOCOL_HEADER;
use crate::protocol::method::Method;
use crate::testing::Broker;
use crate::{FieldTable, FieldValue};

#[test]
fn other_protocols_are_refused_with_the_header() {
    compare(|script| {
        if script.version < (4, 0) {
            return script.note("RabbitMQ 3 speaks AMQP 0-8 as well, and sends another header");
        }
        for header in [
            *b"AMQP\0\0\x08\0",
            *b"AMQP\0\0\x0a\0",
            *b"AMQP\x01\x01\0\x0a",
            *b"HTTP/1.1",
            *b"\0\0\0\0\0\0\0\0",
        ] {
            let mut client = script.connect("other");
            client.send_bytes(&header);
            client.end();
        }
        // These are taken for 0-9-1, as RabbitMQ takes them.
        for header in [
            *b"AMQP\x01\x01\x09\x01",
            *b"AMQP\x01\x01\0\x09",
            *b"AMQP\x01\x01\x08\0",
        ] {
            let mut client = script.connect("old");
            client.send_bytes(&header);
            client.next();
        }
    });
}

#[test]
fn logins_are_refused_with_the_same_words() {
    compare(|script| {
        let amqplain = |user: &str, password: &str| {
            let mut bytes = Vec::new();
            let fields = table([("LOGIN", user.into()), ("PASSWORD", password.into())]);
            fields.encode(&mut bytes).unwrap();
            bytes.split_off(4)
        };
        let cases = [
            ("PLAIN", b"\0guest\0wrong".to_vec()),
            ("PLAIN", b"\0nobody\0guest".to_vec()),
            ("PLAIN", b"\0guest\0".to_vec()),
            ("PLAIN", b"\0\0".to_vec()),
            ("PLAIN", b"me\0guest\0guest".to_vec()),
            ("AMQPLAIN", amqplain("guest", "guest")),
            ("AMQPLAIN", amqplain("guest", "wrong")),
        ];
        script.side_by_side(&cases, |script, (mechanism, response)| {
            for capable in [true, false] {
                let mut client = script.greet("guest");
                client.until("ConnectionStart");
                let capabilities = table([("authentication_failure_close", capable.into())]);
                client.start_ok_with(mechanism, response, &capabilities);
                script.note(format!("{mechanism} {capable}"));
                let text = client.next().unwrap_or_default();
                if text.starts_with("ConnectionClose {") {
                    client.agree();
                } else if text.starts_with("ConnectionTune {") {
                    client.tune_ok(1, 8192, 0);
                    client.open_vhost("/");
                    client.until("ConnectionOpenOk");
                } else if !text.is_empty() {
                    client.end();
                }
            }
        });
    });
}

/// What the client sends in place of a login that can be read.
#[test]
fn what_is_no_login_ends_the_connection_the_same_way() {
    compare(|script| {
        let cases = [
            ("PLAIN", &b""[..]),
            ("PLAIN", b"guest"),
            ("PLAIN", b"\0guest"),
            ("AMQPLAIN", b""),
            ("AMQPLAIN", b"\x05LOGI"),
            ("EXTERNAL", b""),
            ("", b"\0guest\0guest"),
            ("plain", b"\0guest\0guest"),
        ];
        script.side_by_side(&cases, |script, (mechanism, response)| {
            script.note(format!("{mechanism} {response:?}"));
            let mut client = script.greet("guest");
            client.until("ConnectionStart");
            client.start_ok(mechanism, response);
            let text = client.next().unwrap_or_default();
            if text.starts_with("ConnectionClose {") {
                client.agree();
            } else if !text.is_empty() {
                client.end();
            }
        });
    });
}

#[test]
fn what_is_tuned_out_of_range_is_refused() {
    compare(|script| {
        let cases = [
            (0, 131_072),
            (1, 131_072),
            (2047, 131_072),
            (2048, 131_072),
            (65_535, 131_072),
            (10, 0),
            (10, 1),
            (10, 4095),
            (10, 8191),
            (10, 8192),
            (10, 131_073),
            (10, u32::MAX),
        ];
        script.side_by_side(&cases, |script, &(channel_max, frame_max)| {
            // Before 4.1 the least was 4096.
            if script.version < (4, 1) && frame_max == 8191 {
                return;
            }
            script.note(format!("{channel_max} {frame_max}"));
            let mut client = script.log_in("tuner");
            client.tune_ok(channel_max, frame_max, 0);
            client.open_vhost("/");
            let text = client.next().unwrap_or_default();
            if text.starts_with("ConnectionClose {") {
                client.agree();
            }
        });
    });
}

#[test]
fn an_unknown_virtual_host_is_refused() {
    compare(|script| {
        let vhosts = ["", "no such host", "no/such", "//", "n\u{e9}"];
        script.side_by_side(&vhosts, |script, vhost| {
            let mut client = script.log_in("guest");
            client.tune_ok(10, 131_072, 0);
            client.open_vhost(vhost);
            client.next();
            client.agree();
        });
    });
}

/// Methods that are right, at the wrong time.
#[test]
fn methods_out_of_turn_are_refused() {
    compare(|script| {
        let none = FieldTable::new();
        let start_ok = Method::ConnectionStartOk {
            client_properties: (&none).into(),
            mechanism: "PLAIN".into(),
            response: b"\0guest\0guest",
            locale: "en_US".into(),
        };
        let tune_ok = Method::ConnectionTuneOk {
            channel_max: 10,
            frame_max: 131_072,
            heartbeat: 0,
        };
        let virtual_host = "/".into();
        let open = Method::ConnectionOpen { virtual_host };
        let close_ok = Method::ConnectionCloseOk {};
        let secure_ok = Method::ConnectionSecureOk { response: b"" };
        let channel_open = Method::ChannelOpen {};
        let start = Method::ConnectionStart {
            version_major: 0,
            version_minor: 9,
            server_properties: (&none).into(),
            mechanisms: b"",
            locales: b"",
        };
        script.side_by_side(&[0, 1, 2, 3], |script, &stage| {
            for (on, method) in [
                (0, start_ok),
                (0, tune_ok),
                (0, open),
                (0, secure_ok),
                (0, close_ok),
                (0, channel_open),
                (0, start),
                (1, channel_open),
                (1, open),
            ] {
                if [
                    (0, "connection.start-ok"),
                    (1, "connection.tune-ok"),
                    (2, "connection.open"),
                ]
                .contains(&(stage, method.name()))
                    || stage == 3 && (on, method.name()) == (1, "channel.open")
                {
                    continue;
                }
                script.note(format!("stage {stage}: {} on {on}", method.name()));
                let mut client = script.greet("early");
                client.until("ConnectionStart");
                if stage > 0 {
                    client.start_ok("PLAIN", b"\0guest\0guest");
                    client.until("ConnectionTune");
                }
                if stage > 1 {
                    client.send(0, &tune_ok);
                }
                if stage > 2 {
                    client.send(0, &open);
                    client.until("ConnectionOpenOk");
                }
                client.send(on, &method);
                let text = client.next().unwrap_or_default();
                if text.starts_with("ConnectionClose {") {
                    client.agree();
                }
            }
        });
    });
}

fn frame_errors(script: &Script, opened: bool) {
    let begin = |script: &Script| {
        if opened {
            script.open("framer")
        } else {
            let mut client = script.greet("framer");
            client.until("ConnectionStart");
            client
        }
    };
    let long = [b'x'; 40];
    let cases = [
        ("a wrong end", &b"\x01\0\0\0\0\0\x04\0\x0a\0\x0b\xcd"[..]),
        ("a wrong end, short", b"\x01\0\x01\0\0\0\x01A\0"),
        ("type 0", b"\0\0\0\0\0\0\0\xce"),
        ("type 4", b"\x04\0\0\0\0\0\x03abc\xce"),
        ("type 5", b"\x05\0\x01\0\0\0\x03abc\xce"),
        ("type 9", b"\x09\0\0\0\0\0\0\xce"),
        ("type 255", b"\xff\0\0\0\0\0\0\xce"),
        ("a heartbeat on a channel", b"\x08\0\x01\0\0\0\0\xce"),
        ("a heartbeat with a payload", b"\x08\0\0\0\0\0\x01x\xce"),
        ("a header on 0", b"\x02\0\0\0\0\0\x02\0\x3c\xce"),
        ("a body on 0", b"\x03\0\0\0\0\0\x02hi\xce"),
        ("an empty method on 0", b"\x01\0\0\0\0\0\0\xce"),
        ("half a method on 0", b"\x01\0\0\0\0\0\x03\0\x0a\0\xce"),
        (
            "an unknown class on 0",
            b"\x01\0\0\0\0\0\x05\0\x63\0\x01x\xce",
        ),
        (
            "an unknown method on 0",
            b"\x01\0\0\0\0\0\x04\0\x0a\0\x63\xce",
        ),
        (
            "a cut method on 0",
            b"\x01\0\0\0\0\0\x06\0\x0a\0\x0b\0\0\xce",
        ),
        ("an empty method", b"\x01\0\x01\0\0\0\0\xce"),
        ("half a method", b"\x01\0\x01\0\0\0\x03\0\x0a\0\xce"),
        ("an unknown class", b"\x01\0\x01\0\0\0\x04\0\x63\0\x01\xce"),
        ("an unknown method", b"\x01\0\x01\0\0\0\x04\0\x3c\0\x63\xce"),
        ("a cut method", b"\x01\0\x01\0\0\0\x06\0\x32\0\x0a\0\0\xce"),
        (
            "a method with more",
            b"\x01\0\x01\0\0\0\x09\0\x5a\0\x0a\x01\x02\x03\x04\x05\xce",
        ),
        ("a body before its method", b"\x03\0\x01\0\0\0\x02hi\xce"),
        ("a header before its method", b"\x02\0\x01\0\0\0\x02hi\xce"),
        ("a frame of 1 MB", b"\x01\0\x01\0\x10\0\0"),
        ("a frame of 4 GB", b"\x03\0\x01\xff\xff\xff\xff"),
        ("a frame of 4 GB on 0", b"\x01\0\0\xff\xff\xff\xff"),
    ];
    script.side_by_side(&cases, |script, &(what, bytes)| {
        script.note(what);
        let mut client = begin(script);
        client.send_bytes(bytes);
        if bytes.len() == 7 {
            client.send_bytes(&long);
        }
        if what == "a heartbeat with a payload" {
            // It is taken, so that there is an end to see.
            client.raw(0, 0, b"");
        }
        let text = client.next().unwrap_or_default();
        if text.starts_with("ConnectionClose {") {
            client.agree();
        } else if !text.is_empty() {
            script.note("(open)");
        }
    });
}

#[test]
fn what_is_no_frame_is_refused_while_a_connection_opens() {
    compare(|script| frame_errors(script, false));
}

#[test]
fn what_is_no_frame_is_refused_on_an_open_connection() {
    compare(|script| frame_errors(script, true));
}

/// Just as large as was agreed, and one byte more.
#[test]
fn frames_may_be_as_large_as_agreed() {
    compare(|script| {
        for more in [0, 1, 2, 8, 9, 100] {
            script.note(format!("{more} more"));
            let mut client = script.open_with("large", 8192, 0);
            client.declare(1, "q");
            let queue = client.name("q");
            let size = 8192 - 8 + more;
            let publish = Method::BasicPublish {
                exchange: "".into(),
                routing_key: queue.as_str().into(),
                mandatory: false,
                immediate: false,
            };
            client.send(1, &publish);
            let mut header = vec![0, 60, 0, 0];
            header.extend_from_slice(&(size as u64).to_be_bytes());
            header.extend_from_slice(&[0, 0]);
            client.raw(2, 1, &header);
            client.raw(3, 1, &vec![b'x'; size]);
            client.sync(1);
        }
    });
}

/// Before a size is agreed on, another limit holds.
#[test]
fn a_large_frame_before_the_login_is_refused() {
    compare(|script| {
        for size in [4088, 4089, 8184, 8185, 8192, 8193] {
            // Before 4.1 nothing above 4096 was taken before the login.
            if script.version < (4, 1) && size > 4088 {
                break;
            }
            script.note(format!("{size} bytes"));
            let mut client = script.greet("large");
            client.until("ConnectionStart");
            let text = "x".repeat(size - 62);
            let properties = table([("p", text.as_str().into())]);
            let start_ok = Method::ConnectionStartOk {
                client_properties: (&properties).into(),
                mechanism: "PLAIN".into(),
                response: b"\0guest\0guest",
                locale: "en_US".into(),
            };
            let mut payload = Vec::new();
            start_ok.encode(&mut payload).unwrap();
            payload.resize(payload.len().max(size), 0);
            script.note(format!("{}", payload.len()));
            client.send(0, &start_ok);
            let text = client.next().unwrap_or_default();
            if text.starts_with("ConnectionClose {") {
                client.agree();
            }
        }
    });
}

/// The broker's end of tuning, where it is set up otherwise.
#[test]
fn no_more_channels_than_agreed() {
    compare(|script| {
        for channel_max in [1, 2] {
            let mut client = script.log_in("few");
            client.tune_ok(channel_max, 131_072, 0);
            client.open_vhost("/");
            client.until("ConnectionOpenOk");
            for channel in [channel_max + 5, 1, 2, 3] {
                client.send(channel, &Method::ChannelOpen {});
                let text = client.next().unwrap_or_default();
                if text.starts_with("ConnectionClose {") {
                    client.agree();
                    break;
                }
            }
        }
    });
}

#[test]
fn a_second_header_is_no_frame() {
    compare(|script| {
        let mut client = script.open("again");
        client.send_bytes(&PROTOCOL_HEADER);
        client.send_bytes(&[0; 20]);
        client.next();
        client.agree();
    });
}

#[test]
fn a_secret_is_updated() {
    compare_with(Broker::builder(), |script| {
        let mut client = script.open("secret");
        client.send(
            0,
            &Method::ConnectionUpdateSecret {
                new_secret: b"new",
                reason: "why not".into(),
            },
        );
        client.next();
        client.sync(1);
    });
}

/// A client's properties may be anything.
#[test]
fn client_properties_may_be_odd() {
    compare(|script| {
        for properties in [
            table([("capabilities", FieldValue::from("none"))]),
            table([("capabilities", FieldValue::Void)]),
            table([("connection_name", FieldValue::from(7))]),
            table([("product", FieldValue::array(["a"]))]),
        ] {
            script.note(format!("{properties:?}"));
            let mut client = script.greet("odd");
            client.until("ConnectionStart");
            client.send(
                0,
                &Method::ConnectionStartOk {
                    client_properties: (&properties).into(),
                    mechanism: "PLAIN".into(),
                    response: b"\0guest\0guest",
                    locale: "xx_YY".into(),
                },
            );
            client.next();
        }
    });
}
