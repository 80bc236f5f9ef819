//! A logger that keeps everything, and the search for secrets in it.
#![allow(dead_code, unreachable_pub)]

use std::fmt::Write as _;
use std::sync::Mutex;

static LOGGED: Mutex<String> = Mutex::new(String::new());

struct Capture;

impl log::Log for Capture {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut logged = LOGGED.lock().unwrap();
        let (level, target) = (record.level(), record.target());
        let _ = writeln!(logged, "{level} {target} {}", record.args());
    }

    fn flush(&self) {}
}

/// From here on everything that is logged anywhere in this process is kept, at all levels.
pub fn capture() {
    let _ = log::set_logger(&Capture);
    log::set_max_level(log::LevelFilter::Trace);
}

/// All that was logged.
pub fn logged() -> String {
    LOGGED.lock().unwrap().clone()
}

/// Fails if any of these secrets is in this text, as it is or in a form in which it might hide.
#[track_caller]
pub fn assert_none_of(secrets: &[&str], text: &str, what: &str) {
    let folded = text.to_lowercase();
    for secret in secrets {
        for form in forms(secret) {
            // Forms differ by letter case in places where it does not matter.
            if let Some(at) = folded.find(&form.to_lowercase()) {
                // Not the text itself: what is around it is enough.
                let before: String = text.chars().take(at).collect();
                let tail = before.len().saturating_sub(80);
                let around = before.get(tail..).unwrap_or_default();
                panic!("{what}: a secret shows behind {around:?}");
            }
        }
    }
}

/// A secret as it is, and as it may look when it is encoded or shown byte by byte.
pub fn forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let percent = |all: bool| {
        bytes.iter().fold(String::new(), |mut text, byte| {
            if byte.is_ascii_alphanumeric() && !all {
                text.push(char::from(*byte));
            } else {
                let _ = write!(text, "%{byte:02x}");
            }
            text
        })
    };
    let joined = |separator: &str, hex: bool| {
        let each = |byte: &u8| match hex {
            true => format!("{byte:02x}"),
            false => byte.to_string(),
        };
        let each: Vec<String> = bytes.iter().map(each).collect();
        each.join(separator)
    };
    let mut forms = vec![
        secret.to_owned(),
        // the middle, where the ends are cut off
        secret[1..secret.len() - 1].to_owned(),
        percent(false),
        percent(true),
        format!("{secret:?}").trim_matches('"').to_owned(),
        secret.escape_default().to_string(),
        joined("", true),
        joined(" ", true),
        joined(", ", false),
        joined(",", false),
        joined(", ", true),
        joined(", 0x", true),
    ];
    // In base64 it depends on what goes before; the first and last digits depend on the neighbours.
    for lead in 0..3 {
        let mut padded = vec![0; lead];
        padded.extend_from_slice(bytes);
        let digits = base64(&padded);
        forms.push(digits[4..digits.len() - 4].to_owned());
        forms.push(
            digits[4..digits.len() - 4]
                .replace('+', "-")
                .replace('/', "_"),
        );
    }
    forms
}

/// Base64 as URLs and tokens have it.
pub fn base64_of_urls(bytes: &[u8]) -> String {
    let text = base64(bytes).replace('+', "-").replace('/', "_");
    text.trim_end_matches('=').to_owned()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut number = [0; 3];
        number[..chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes([0, number[0], number[1], number[2]]);
        for place in 0..4 {
            let digit = (number >> (18 - 6 * place)) & 63;
            text.push(match place <= chunk.len() {
                true => char::from(DIGITS[digit as usize]),
                false => '=',
            });
        }
    }
    text
}
