//! JSON in and out with serde: orders come in, invoices go out, and what is no order goes to the dead letters instead of coming
//! back for ever.
//!
//! Mirrors: `json.loads(body)` and `json.dumps(…)` in a pika callback.
//! Run: `cargo run --example json_worker`. It sends itself two orders and something else, and ends when all are handled. For types
//! of your own instead of `Value`, `cargo add serde --features derive`.

use std::time::Duration;

use haypile::{
    BasicNack, BasicProperties, Connection, Consume, DeliveryMode, ExchangeDeclare, ExchangeType,
    QueueDeclare,
};
use serde_json::{json, Value};

/// The invoice of an order, or what is wrong with the order.
fn invoice(body: &[u8]) -> Result<Value, String> {
    let order: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let (Some(id), Some(items)) = (order["id"].as_u64(), order["items"].as_array()) else {
        return Err("an order has an id and items".to_owned());
    };
    let mut total = 0;
    for item in items {
        let (Some(price), Some(count)) = (item["price"].as_u64(), item["count"].as_u64()) else {
            return Err(format!("an item has a price and a count: {item}"));
        };
        total += price * count;
    }
    Ok(json!({ "order": id, "total": total }))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::var("AMQP_URL").unwrap_or_else(|_| "amqp://localhost".into());
    let channel = Connection::open(url)?.channel()?;
    let refused = ExchangeDeclare::new("orders.refused", ExchangeType::Fanout).durable(true);
    channel.exchange_declare(refused)?;
    channel.queue_declare(QueueDeclare::new("orders.refused").durable(true))?;
    channel.queue_bind("orders.refused", "orders.refused", "")?;
    let orders = QueueDeclare::new("orders").durable(true);
    channel.queue_declare(orders.argument("x-dead-letter-exchange", "orders.refused"))?;
    channel.queue_declare(QueueDeclare::new("invoices").durable(true))?;

    let json_message = BasicProperties::new()
        .content_type("application/json")
        .delivery_mode(DeliveryMode::Persistent);
    let apples = json!({ "id": 1, "items": [{ "price": 30, "count": 4 }] });
    let nothing = json!({ "id": 2, "items": [] });
    for body in [
        apples.to_string(),
        "{ no order".to_owned(),
        nothing.to_string(),
    ] {
        channel.basic_publish_with("", "orders", body, &json_message)?;
    }

    channel.basic_qos(10)?;
    for message in channel.consume(Consume::new("orders").idle_exit(Duration::from_secs(1)))? {
        let (method, _properties, body) = message?;
        match invoice(&body) {
            Ok(invoice) => {
                println!("{invoice}");
                let bytes = serde_json::to_vec(&invoice)?;
                channel.basic_publish_with("", "invoices", bytes, &json_message)?;
                channel.basic_ack(method.delivery_tag)?;
            }
            Err(error) => {
                println!("refused: {error}");
                channel.basic_nack(BasicNack::new(method.delivery_tag).requeue(false))?;
            }
        }
    }
    channel.cancel()?;
    Ok(())
}
