//! How a transcript shows what brokers send, and how two transcripts differ.

use std::fmt::Write as _;

use crate::protocol::method::Method;

/// The lines that only one of them has, each group behind the line before it.
pub(super) fn difference(one: &[String], other: &[String]) -> String {
    // How many lines the rests have in common.
    let mut common = vec![vec![0; other.len() + 1]; one.len() + 1];
    for a in (0..one.len()).rev() {
        for b in (0..other.len()).rev() {
            common[a][b] = if one[a] == other[b] {
                common[a + 1][b + 1] + 1
            } else {
                common[a + 1][b].max(common[a][b + 1])
            };
        }
    }
    let (mut a, mut b) = (0, 0);
    let mut text = String::new();
    let mut before: Option<&String> = None;
    while a < one.len() || b < other.len() {
        if a < one.len() && b < other.len() && one[a] == other[b] {
            before = Some(&one[a]);
            (a, b) = (a + 1, b + 1);
            continue;
        }
        if let Some(line) = before.take() {
            let _ = writeln!(text, "  {line}");
        }
        if b == other.len() || a < one.len() && common[a + 1][b] >= common[a][b + 1] {
            let _ = writeln!(text, "- {}", one[a]);
            a += 1;
        } else {
            let _ = writeln!(text, "+ {}", other[b]);
            b += 1;
        }
    }
    text
}

/// A method, without what brokers report of themselves.
pub(super) fn shown(method: &Method<'_>) -> String {
    match method {
        Method::ConnectionStart {
            version_major,
            version_minor,
            server_properties,
            locales,
            ..
        } => {
            let properties = server_properties.values().unwrap();
            let capabilities = properties.get("capabilities");
            format!(
                "ConnectionStart {version_major} {version_minor} {capabilities:?} {:?}",
                String::from_utf8_lossy(locales)
            )
        }
        method => format!("{method:?}"),
    }
}

/// The names that a broker makes are cut where they begin to be random.
pub(super) fn without_made_names(text: &str) -> String {
    let mut rest = text;
    let mut kept = String::new();
    while let Some(at) = ["amq.gen-", "amq.ctag-", "amq.rabbitmq.reply-to."]
        .iter()
        .filter_map(|prefix| Some(rest.find(prefix)? + prefix.len()))
        .min()
    {
        kept.push_str(&rest[..at]);
        kept.push('*');
        rest = &rest[at..];
        let random = |letter: char| {
            letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '=' | '+' | '/')
        };
        rest = rest.trim_start_matches(random);
    }
    kept + rest
}

/// Properties as they stand on the wire, so that the order of fields in tables is seen.
pub(super) fn show_properties(out: &mut String, bytes: &[u8], sorted: bool) {
    let mut walk = Walk { bytes, sorted };
    let flags = walk.number(2) as u16;
    const NAMES: [&str; 14] = [
        "content_type",
        "content_encoding",
        "headers",
        "delivery_mode",
        "priority",
        "correlation_id",
        "reply_to",
        "expiration",
        "message_id",
        "timestamp",
        "type",
        "user_id",
        "app_id",
        "cluster_id",
    ];
    for (at, name) in NAMES.into_iter().enumerate() {
        if flags & (0x8000 >> at) == 0 {
            continue;
        }
        let _ = write!(out, " {name}=");
        match name {
            "headers" => walk.table(out),
            "delivery_mode" | "priority" => {
                let _ = write!(out, "{}", walk.number(1));
            }
            "timestamp" => {
                let _ = write!(out, "{}", walk.number(8));
            }
            _ => {
                let length = walk.number(1) as usize;
                let text = walk.take(length);
                let _ = write!(out, "{:?}", String::from_utf8_lossy(text));
            }
        }
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    /// Whether tables are shown in the order of their keys.
    sorted: bool,
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.bytes.split_at(count);
        self.bytes = rest;
        taken
    }

    fn number(&mut self, count: usize) -> u64 {
        self.take(count)
            .iter()
            .fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn table(&mut self, out: &mut String) {
        let length = self.number(4) as usize;
        let mut fields = Walk {
            bytes: self.take(length),
            sorted: self.sorted,
        };
        let mut shown = Vec::new();
        while !fields.bytes.is_empty() {
            let length = fields.number(1) as usize;
            let name = String::from_utf8_lossy(fields.take(length)).into_owned();
            let mut value = String::new();
            fields.value(&mut value);
            // The time of a death is the broker's own.
            if name == "time" {
                value = "now".into();
            }
            if !self.sorted || !name.starts_with("x-last-death") {
                shown.push(format!("{name}: {value}"));
            }
        }
        if self.sorted {
            shown.sort();
        }
        let _ = write!(out, "{{{}}}", shown.join(", "));
    }

    fn value(&mut self, out: &mut String) {
        let kind = self.number(1) as u8;
        out.push(char::from(kind));
        let width = match kind {
            b'S' | b'x' => {
                let length = self.number(4) as usize;
                let text = self.take(length);
                let _ = write!(out, "{:?}", String::from_utf8_lossy(text));
                return;
            }
            b'F' => return self.table(out),
            b'A' => {
                let length = self.number(4) as usize;
                let mut values = Walk {
                    bytes: self.take(length),
                    sorted: self.sorted,
                };
                out.push('[');
                while !values.bytes.is_empty() {
                    values.value(out);
                    out.push_str(", ");
                }
                out.push(']');
                return;
            }
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            _ => 8,
        };
        let _ = write!(out, "{}", self.number(width));
    }
}
