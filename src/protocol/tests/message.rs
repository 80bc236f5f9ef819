//! What a broker says, in bytes.

use crate::protocol::frame::{write_body, write_header, write_method};
use crate::protocol::method::Method;

pub(super) fn method(channel: u16, method: &Method<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    write_method(&mut out, channel, method).unwrap();
    out
}

/// A method with its message behind it, in one body frame.
pub(super) fn with_content(channel: u16, announces: &Method<'_>, body: &[u8]) -> Vec<u8> {
    let mut out = method(channel, announces);
    write_header(&mut out, channel, body.len() as u64, &Default::default()).unwrap();
    if !body.is_empty() {
        write_body(&mut out, channel, body);
    }
    out
}

pub(super) fn deliver(channel: u16, consumer_tag: &str, delivery_tag: u64, body: &[u8]) -> Vec<u8> {
    let deliver = Method::BasicDeliver {
        consumer_tag: consumer_tag.into(),
        delivery_tag,
        redelivered: false,
        exchange: "".into(),
        routing_key: "k".into(),
    };
    with_content(channel, &deliver, body)
}

pub(super) fn returned(channel: u16, body: &[u8]) -> Vec<u8> {
    let returned = Method::BasicReturn {
        reply_code: 312,
        reply_text: "NO_ROUTE".into(),
        exchange: "x".into(),
        routing_key: "k".into(),
    };
    with_content(channel, &returned, body)
}

pub(super) fn cancel(channel: u16, consumer_tag: &str) -> Vec<u8> {
    let cancel = Method::BasicCancel {
        consumer_tag: consumer_tag.into(),
        no_wait: true,
    };
    method(channel, &cancel)
}

pub(super) fn close(channel: u16) -> Vec<u8> {
    let close = Method::ChannelClose {
        reply_code: 404,
        reply_text: "NOT_FOUND".into(),
        class_id: 60,
        method_id: 40,
    };
    method(channel, &close)
}
