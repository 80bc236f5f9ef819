//! Values printed as Python prints them, so that an example and its Python original show the same text.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// `repr` of bytes: `b'Hello World!'`.
pub fn repr_bytes(bytes: &[u8]) -> String {
    let quote = quote_for(bytes.contains(&b'\''), bytes.contains(&b'"'));
    let mut text = format!("b{quote}");
    for &byte in bytes {
        match byte {
            b' '..=b'~' => escape(&mut text, char::from(byte), quote),
            b'\t' | b'\n' | b'\r' => escape(&mut text, char::from(byte), quote),
            _ => _ = write!(text, "\\x{byte:02x}"),
        }
    }
    text.push(quote);
    text
}

/// `repr` of a string: `'Hello World!'`.
pub fn repr_str(string: &str) -> String {
    let quote = quote_for(string.contains('\''), string.contains('"'));
    let mut text = String::from(quote);
    for c in string.chars() {
        escape(&mut text, c, quote);
    }
    text.push(quote);
    text
}

/// Python quotes with ' unless that, and only that, occurs inside.
fn quote_for(single: bool, double: bool) -> char {
    if single && !double {
        '"'
    } else {
        '\''
    }
}

fn escape(text: &mut String, c: char, quote: char) {
    match c {
        '\t' => text.push_str("\\t"),
        '\n' => text.push_str("\\n"),
        '\r' => text.push_str("\\r"),
        '\\' => text.push_str("\\\\"),
        _ if c == quote => text.extend(['\\', c]),
        _ if c.is_control() => _ = write!(text, "\\x{:02x}", u32::from(c)),
        _ => text.push(c),
    }
}

/// The time as `2026-01-31 23:59:59`. The originals print local time; the standard library knows no time zones, so this
/// is UTC.
pub fn now() -> String {
    let (seconds, _) = since_1970();
    date_and_time(seconds)
}

/// The time with its microseconds, as `str(datetime.datetime.now())` has it; UTC again.
pub fn now_with_microseconds() -> String {
    let (seconds, microseconds) = since_1970();
    format!("{}.{microseconds:06}", date_and_time(seconds))
}

fn since_1970() -> (u64, u32) {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    (time.as_secs(), time.subsec_micros())
}

fn date_and_time(seconds: u64) -> String {
    let leap = |year: u64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let (mut days, mut year, mut month) = (seconds / 86_400, 1970, 0);
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let months = [
        31,
        28 + u64::from(leap(year)),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    while days >= months[month] {
        days -= months[month];
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!(
        "{year}-{:02}-{:02} {hour:02}:{minute:02}:{second:02}",
        month + 1,
        days + 1
    )
}
