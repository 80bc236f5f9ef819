//! What the broker closes a channel or a connection with: reply codes and texts as RabbitMQ 4.3 has them.

use std::fmt::{self, Write};

/// The most bytes of a reply text. RabbitMQ cuts longer ones.
const TEXT_MAX: usize = 255;

/// A method that the broker refuses by closing the channel or the connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    /// `NAME - explanation`.
    pub(super) text: String,
    /// Class and method id of what was refused, where it is not the method at hand.
    pub(super) method: Option<(u16, u16)>,
}

/// What a method's handling comes to.
pub(super) type Outcome<T = ()> = Result<T, Refusal>;

impl Refusal {
    #[cold]
    pub(super) fn new(code: u16, explanation: fmt::Arguments<'_>) -> Refusal {
        Refusal {
            code,
            text: short(format!("{} - {explanation}", name(code))),
            method: None,
        }
    }

    /// Without an explanation.
    pub(super) fn bare(code: u16) -> Refusal {
        Refusal {
            code,
            text: name(code).to_owned(),
            method: None,
        }
    }

    /// A name that is not UTF-8, whatever the method.
    pub(super) fn not_utf8() -> Refusal {
        Refusal::new(501, format_args!("Malformed UTF-8 in shortstr"))
    }

    /// Whether the connection goes with it, and not only the channel.
    pub(super) fn ends_connection(&self) -> bool {
        !matches!(self.code, 311 | 313 | 403..=406)
    }

    pub(super) fn at(mut self, method: (u16, u16)) -> Refusal {
        self.method.get_or_insert(method);
        self
    }
}

/// A text that is no longer than AMQP has room for.
pub(super) fn short(mut text: String) -> String {
    if text.len() > TEXT_MAX {
        let mut end = TEXT_MAX - 3;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// Leaves the function with a refusal: `refuse!(404, "no queue '{name}'")`.
macro_rules! refuse {
    ($code:expr, $($format:tt)+) => {
        return Err($crate::testing::refusal::Refusal::new($code, format_args!($($format)+)))
    };
}
pub(super) use refuse;

/// The constants of the specification and of RabbitMQ.
pub(super) fn name(code: u16) -> &'static str {
    match code {
        311 => "CONTENT_TOO_LARGE",
        312 => "NO_ROUTE",
        313 => "NO_CONSUMERS",
        320 => "CONNECTION_FORCED",
        402 => "INVALID_PATH",
        403 => "ACCESS_REFUSED",
        404 => "NOT_FOUND",
        405 => "RESOURCE_LOCKED",
        406 => "PRECONDITION_FAILED",
        501 => "FRAME_ERROR",
        502 => "SYNTAX_ERROR",
        503 => "COMMAND_INVALID",
        504 => "CHANNEL_ERROR",
        505 => "UNEXPECTED_FRAME",
        506 => "RESOURCE_ERROR",
        530 => "NOT_ALLOWED",
        540 => "NOT_IMPLEMENTED",
        _ => "INTERNAL_ERROR",
    }
}

/// Bytes as RabbitMQ prints them in its texts: as text in quotes if all of it can be printed, else as numbers.
pub(super) struct Binary<'a>(pub(super) &'a [u8]);

impl fmt::Display for Binary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = match std::str::from_utf8(self.0) {
            Ok(text) => text.to_owned(),
            // Then each byte is a letter.
            Err(_) => self.0.iter().map(|byte| char::from(*byte)).collect(),
        };
        if self.0.is_empty() || !text.chars().all(is_printable) {
            f.write_str("<<")?;
            for (at, byte) in self.0.iter().enumerate() {
                if at > 0 {
                    f.write_str(",")?;
                }
                write!(f, "{byte}")?;
            }
            return f.write_str(">>");
        }
        f.write_str("<<\"")?;
        for letter in text.chars() {
            match letter {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                '\x08' => f.write_str("\\b")?,
                '\x0b' => f.write_str("\\v")?,
                '\x0c' => f.write_str("\\f")?,
                '\x1b' => f.write_str("\\e")?,
                letter => f.write_char(letter)?,
            }
        }
        let is_wide = text.len() == self.0.len() && !text.is_ascii();
        f.write_str(if is_wide { "\"/utf8>>" } else { "\">>" })
    }
}

/// As Erlang has it where it takes text for Latin-1.
fn is_printable(letter: char) -> bool {
    matches!(letter, ' '..='~' | '\u{a0}'..='\u{ff}' | '\x08'..='\r' | '\x1b')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut() {
        let refusal = Refusal::new(404, format_args!("{}", "x".repeat(300)));
        assert_eq!(refusal.text.len(), 255);
        assert!(refusal.text.ends_with("x..."));
        let refusal = Refusal::new(404, format_args!("{}", "é".repeat(150)));
        assert!(refusal.text.len() <= 255 && refusal.text.ends_with("é..."));
    }

    #[test]
    fn bytes_are_printed_as_text_or_numbers() {
        assert_eq!(Binary(b"a\"b").to_string(), r#"<<"a\"b">>"#);
        assert_eq!(Binary(b"\0a").to_string(), "<<0,97>>");
        assert_eq!(Binary(b"").to_string(), "<<>>");
        assert_eq!(
            Binary("\u{e9}".as_bytes()).to_string(),
            "<<\"\u{e9}\"/utf8>>"
        );
        assert_eq!(Binary(b"\xe9").to_string(), "<<\"\u{e9}\">>");
        assert_eq!(Binary("\u{20ac}".as_bytes()).to_string(), "<<226,130,172>>");
    }
}
