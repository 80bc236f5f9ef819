//! Direct replies: whose they are, and what else may be done with their names.

use super::super::transcript::{compare, Client, Script};
use crate::protocol::method::Method;
use crate::{BasicProperties, FieldTable};

const REPLY_TO: &str = "amq.rabbitmq.reply-to";

#[test]
fn direct_replies_go_to_the_channel_that_asked() {
    compare(|script| {
        let mut client = script.open("client");
        let mut server = script.open("server");
        let none = FieldTable::new();
        server.declare(1, "rpc");
        script.note("no consumer");
        let key = client.name("rpc");
        let asks = BasicProperties::new()
            .reply_to(REPLY_TO)
            .correlation_id("1");
        client.publish_to(1, "", &key, &asks, "request", true);
        client.sync(1);
        script.note("with acks");
        client.consume(1, REPLY_TO, "c");
        client.open_again(1);
        script.note("a request");
        client.consume_with(1, REPLY_TO, "c", "no_ack", &none);
        client.publish_to(1, "", &key, &asks, "request", true);
        client.sync(1);
        server.await_count(1, "rpc", 1);
        let name = server.reply_to(1, "rpc");
        script.note("the reply");
        let reply = BasicProperties::new().correlation_id("1");
        server.confirms(1);
        // Before 4.3 each mandatory reply was returned, delivered or not.
        let mandatory = script.version >= (4, 3);
        server.publish_to(1, "", &name, &reply, "reply", mandatory);
        server.until("BasicAck");
        client.until("BasicDeliver");
        script.note("the queue is looked at");
        server.try_declare(1, &name, "passive", &none);
        server.try_declare(1, REPLY_TO, "passive", &none);
        server.try_declare(1, REPLY_TO, "", &none);
        script.note("other uses of the name");
        client.consume_with(1, REPLY_TO, "d", "no_ack", &none);
        client.open_again(1);
        client.get(1, REPLY_TO, true);
        client.open_again(1);
        client.purge(1, REPLY_TO);
        client.sync(1);
        client.delete_queue(1, REPLY_TO);
        client.sync(1);
        for queue in [REPLY_TO, "amq.rabbitmq.reply-to.x"] {
            // Only 4.3 has a text of its own for it.
            if script.version < (4, 3) && queue != REPLY_TO {
                continue;
            }
            client.bind(1, queue, "amq.topic", "k");
            client.open_again(1);
            let (exchange, routing_key, arguments) =
                ("amq.topic".into(), "k".into(), (&none).into());
            let queue = queue.into();
            client.send(
                1,
                &Method::QueueUnbind {
                    queue,
                    exchange,
                    routing_key,
                    arguments,
                },
            );
            client.sync(1);
        }
        script.note("the client has gone");
        server.confirms(1);
        server.publish_to(1, "", &name, &reply, "reply", mandatory);
        server.until("BasicAck");
        server.try_declare(1, &name, "passive", &none);
        script.note("cancelled and consumed again");
        client.consume_with(1, REPLY_TO, "c", "no_ack", &none);
        client.cancel(1, "c");
        client.publish_to(1, "", &key, &asks, "request", true);
        client.sync(1);
        client.consume_with(1, REPLY_TO, "", "no_ack exclusive", &none);
        client.sync(1);
    });
}

/// The name of a channel's replies; the channel goes on consuming them.
fn made_name(script: &Script, client: &mut Client) -> String {
    let none = FieldTable::new();
    client.declare(1, "rpc");
    client.consume_with(1, REPLY_TO, "c", "no_ack", &none);
    let key = client.name("rpc");
    let asks = BasicProperties::new().reply_to(REPLY_TO);
    client.publish_to(1, "", &key, &asks, "request", true);
    client.await_count(1, "rpc", 1);
    script.note("named");
    client.reply_to(1, "rpc")
}

/// All that can be done with a queue, done with this one, each time on a connection of its own.
fn use_in_all_ways(script: &Script, what: &str, name: &str) {
    let none = FieldTable::new();
    let (queue, exchange, routing_key) = (name.into(), "amq.topic".into(), "k".into());
    let (no_wait, arguments) = (false, (&none).into());
    let consume = |no_ack| Method::BasicConsume {
        queue,
        consumer_tag: "d".into(),
        no_local: false,
        no_ack,
        exclusive: false,
        no_wait,
        arguments,
    };
    let declare = |passive| Method::QueueDeclare {
        queue,
        passive,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait,
        arguments,
    };
    let delete = |if_unused, if_empty| Method::QueueDelete {
        queue,
        if_unused,
        if_empty,
        no_wait,
    };
    let bind = Method::QueueBind {
        queue,
        exchange,
        routing_key,
        no_wait,
        arguments,
    };
    let unbind = Method::QueueUnbind {
        queue,
        exchange,
        routing_key,
        arguments,
    };
    let methods = [
        declare(false),
        declare(true),
        consume(true),
        consume(false),
        Method::BasicGet {
            queue,
            no_ack: true,
        },
        Method::BasicGet {
            queue,
            no_ack: false,
        },
        Method::QueuePurge { queue, no_wait },
        delete(false, false),
        delete(true, true),
        bind,
        unbind,
    ];
    for method in methods {
        script.note(format!("{what}: {}", method.name()));
        let mut client = script.open("user");
        client.send(1, &method);
        client.sync(1);
    }
    script.note(format!("{what}: publish"));
    let mut client = script.open("user");
    client.confirms(1);
    client.publish_to(1, "", name, &BasicProperties::new(), "m", true);
    client.until("BasicAck");
}

#[test]
fn names_of_replies_are_no_queues_for_others() {
    compare(|script| {
        if script.version < (4, 3) {
            return script.note("they were names of nothing before 4.3");
        }
        let mut owner = script.open("owner");
        let live = made_name(script, &mut owner);
        use_in_all_ways(script, "consumed from", &live);
        // The last one was published to it.
        owner.until("BasicDeliver");
        for no_ack in ["no_ack", ""] {
            owner.consume_with(1, &live, "again", no_ack, &FieldTable::new());
            owner.open_again(1);
        }
        use_in_all_ways(script, "gone", &live);
    });
}

/// RabbitMQ 4.3 crashes over them in `queue.declare`; before, the names with a dot in them did that, in other methods as well.
#[test]
fn names_that_no_broker_made() {
    compare(|script| {
        if script.version < (4, 3) {
            return script.note("taken otherwise");
        }
        let names = [
            "amq.rabbitmq.reply-to.x",
            "amq.rabbitmq.reply-to.",
            "amq.rabbitmq.reply-to.x.y",
            "amq.rabbitmq.reply-to.g1h2AA5yZXBs.abc",
            "amq.rabbitmq.reply-tox",
            "amq.rabbitmq.reply-to\n.x",
            "amq.rabbitmq.reply-to\n",
            "amq.rabbitmq\n.reply-to",
        ];
        script.side_by_side(&names, |script, name| {
            use_in_all_ways(script, &format!("{name:?}"), name);
        });
    });
}
