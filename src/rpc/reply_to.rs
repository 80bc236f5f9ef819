//! Addresses of direct replies, which RabbitMQ makes: `amq.rabbitmq.reply-to.`, a process of the broker, a dot, a key.
//!
//! RabbitMQ before 4.2 ends the connection (541) that publishes to such an address if the process in it is malformed. Since any
//! client may write what it likes into a request, a server must not reply to all of them.

const PREFIX: &[u8] = b"amq.rabbitmq.reply-to.";

/// Whether this is an address of a direct reply, well-formed or not.
pub(super) fn is_direct(address: &[u8]) -> bool {
    address.starts_with(PREFIX)
}

/// Whether a reply to this address may be published.
pub(super) fn is_well_formed(address: &[u8]) -> bool {
    let Some(rest) = address.strip_prefix(PREFIX) else {
        // The name of a queue, whether it exists or not.
        return true;
    };
    let mut parts = rest
        .split(|byte| *byte == b'.')
        .filter(|part| !part.is_empty());
    match (parts.next(), parts.next(), parts.next()) {
        // Otherwise the broker does not try to read it.
        (Some(process), Some(_key), None) => base64(process).is_some_and(|term| is_process(&term)),
        _ => true,
    }
}

/// Decodes base64 with its padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() % 4 != 0 {
        return None;
    }
    let padding = text.iter().rev().take_while(|byte| **byte == b'=').count();
    if padding > 2 {
        return None;
    }
    let digits = &text[..text.len() - padding];
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for digit in digits {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0xffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// Whether this is a process identifier in Erlang's external term format: a version, a tag, the node's name, numbers.
fn is_process(term: &[u8]) -> bool {
    let (numbers, node) = match term {
        [131, 88, node @ ..] => (12, node),
        [131, 103, node @ ..] => (9, node),
        _ => return false,
    };
    let rest = match node {
        [118 | 100, high, low, rest @ ..] => {
            rest.get(usize::from(u16::from_be_bytes([*high, *low]))..)
        }
        [119 | 115, length, rest @ ..] => rest.get(usize::from(*length)..),
        _ => None,
    };
    rest.is_some_and(|rest| rest.len() == numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(rest: &str) -> bool {
        is_well_formed(format!("amq.rabbitmq.reply-to.{rest}").as_bytes())
    }

    #[test]
    fn what_brokers_make_is_well_formed() {
        // Of RabbitMQ 3.10, 4.0, 4.3.
        for rest in [
            "g1h2AA9yZXBseUAxMjIwNjkxNTYAACc1AAAAAGsJNbE=.q0IXhqYK30msxhaP8h1PXg==",
            "g1h2AA9yZXBseUAxMDQ1MDY4NjgAAIwQAAAAAGsJNbE=.2pFurCUsOmIc5via8CzfKw==",
            "g1h2AA5yZXBseUA2ODUyNzQ5MgAUUp0AAAAAawk1sQ==.+vw6bDyIehUQoYUbeZoIdw==",
        ] {
            assert!(accepts(rest), "{rest}");
            assert!(is_direct(
                format!("amq.rabbitmq.reply-to.{rest}").as_bytes()
            ));
        }
        assert!(is_well_formed(b"amq.gen-abc") && !is_direct(b"amq.gen-abc"));
        assert!(is_well_formed(b"amq.rabbitmq.reply-to"));
    }

    #[test]
    fn what_ends_a_connection_is_not() {
        let process = "g1h2AA9yZXBseUAxMDQ1MDY4NjgAAIwQAAAAAGsJNbE=";
        for cut in 1..process.len() {
            assert!(!accepts(&format!("{}.key", &process[..cut])), "{cut}");
        }
        for rest in [
            " .k",
            "!!!.???",
            "g1hx.k",
            "g2EB.k",
            "====.k",
            "A===.k",
            "AAAA.k",
            "\u{fc}bel.k",
        ] {
            assert!(!accepts(rest), "{rest}");
        }
    }

    #[test]
    fn what_the_broker_does_not_read_may_be_anything() {
        for rest in ["", ".", "garbage", "garbage.", ".garbage", "a.b.c", "..."] {
            assert!(accepts(rest), "{rest:?}");
        }
    }
}
