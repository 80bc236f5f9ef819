//! Values written as Python's literals, as pika reads them in a URL: dictionaries, lists, texts, numbers.

use super::{is_digits, whole_number, Read};
use crate::{FieldTable, FieldValue};

pub(super) const DICTIONARY: &str = "a dictionary is expected";

/// A Python or JSON dictionary; nothing for Python's `None`, which is the default there.
pub(super) fn dictionary(text: &str) -> Read<Option<FieldTable>> {
    match LiteralReader::read(text)? {
        FieldValue::Void => Ok(None),
        FieldValue::Table(table) => Ok(Some(table)),
        _ => Err(DICTIONARY),
    }
}

/// How deep lists and dictionaries may be nested, so that no text can exhaust the stack.
const DEPTH: usize = 16;

/// Reads Python and JSON literals, as values of a table.
pub(super) struct LiteralReader<'a> {
    rest: &'a str,
}

impl<'a> LiteralReader<'a> {
    /// The literal that is the whole text.
    pub(super) fn read(text: &str) -> Read<FieldValue> {
        let mut reader = LiteralReader { rest: text };
        let value = reader.value(DEPTH)?;
        match reader.next() {
            None => Ok(value),
            Some(_) => Err("the end is expected after the closing bracket"),
        }
    }

    /// What comes next, after spaces.
    fn next(&mut self) -> Option<u8> {
        self.rest = self.rest.trim_ascii_start();
        self.rest.bytes().next()
    }

    /// Takes this ASCII character, if it comes next.
    fn take(&mut self, byte: u8) -> bool {
        let found = self.next() == Some(byte);
        if found {
            self.rest = self.rest.get(1..).unwrap_or_default();
        }
        found
    }

    /// Takes the next character.
    fn any(&mut self) -> Option<char> {
        let mut chars = self.rest.chars();
        let next = chars.next();
        self.rest = chars.as_str();
        next
    }

    /// Takes all that belongs together, by its bytes.
    fn run(&mut self, belongs: fn(u8) -> bool) -> &'a str {
        let end = self.rest.bytes().position(|byte| !belongs(byte));
        let run = end.and_then(|end| self.rest.split_at_checked(end));
        let (run, rest) = run.unwrap_or((self.rest, ""));
        self.rest = rest;
        run
    }

    fn value(&mut self, depth: usize) -> Read<FieldValue> {
        if depth == 0 {
            return Err("at most 16 levels of nesting are expected");
        }
        match self.next() {
            Some(b'{') => self.dictionary(depth),
            Some(b'[') => self.list(b'[', b']', depth),
            Some(b'(') => self.list(b'(', b')', depth),
            Some(b'\'' | b'"') => Ok(self.text()?.into()),
            Some(b'-' | b'+' | b'.' | b'0'..=b'9') => self.number(),
            Some(_) => self.word(),
            None => Err("a Python or JSON dictionary is expected"),
        }
    }

    fn dictionary(&mut self, depth: usize) -> Read<FieldValue> {
        self.take(b'{');
        let mut entries = FieldTable::new();
        while !self.take(b'}') {
            if !matches!(self.next(), Some(b'\'' | b'"')) {
                return Err("keys in quotes are expected");
            }
            let key = self.text()?;
            if !self.take(b':') {
                return Err("a ':' is expected after a key");
            }
            let value = self.value(depth - 1)?;
            if entries.insert(key, value).is_some() {
                return Err("each key is expected once");
            }
            if !self.take(b',') && self.next() != Some(b'}') {
                return Err("',' or '}' is expected after an entry");
            }
        }
        Ok(FieldValue::Table(entries))
    }

    fn list(&mut self, begin: u8, end: u8, depth: usize) -> Read<FieldValue> {
        self.take(begin);
        let mut values = Vec::new();
        while !self.take(end) {
            values.push(self.value(depth - 1)?);
            if !self.take(b',') && self.next() != Some(end) {
                return Err("',' or the closing bracket is expected after an item of a list");
            }
        }
        Ok(FieldValue::Array(values))
    }

    fn text(&mut self) -> Read<String> {
        const UNFINISHED: &str = "a closing quote is expected";
        const ESCAPE: &str =
            "of escapes, \\\\ \\' \\\" \\/ \\n \\r \\t \\xhh and \\uhhhh are expected";
        let quote = self.any();
        let mut text = String::new();
        loop {
            let next = self.any();
            if next == quote {
                return Ok(text);
            }
            text.push(match next.ok_or(UNFINISHED)? {
                '\\' => match self.any().ok_or(UNFINISHED)? {
                    c @ ('\\' | '\'' | '"' | '/') => c,
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'x' => self.code(2).ok_or(ESCAPE)?,
                    'u' => self.code(4).ok_or(ESCAPE)?,
                    _ => return Err(ESCAPE),
                },
                c => c,
            });
        }
    }

    /// The character whose code is so many hexadecimal digits.
    fn code(&mut self, digits: usize) -> Option<char> {
        let mut code = 0;
        for _ in 0..digits {
            code = code << 4 | self.any()?.to_digit(16)?;
        }
        char::from_u32(code)
    }

    fn number(&mut self) -> Read<FieldValue> {
        const TOO_LARGE: &str = "a number has more than 64 bits";
        let text = self.run(|byte| byte.is_ascii_alphanumeric() || b"+-._".contains(&byte));
        let (negative, text) = sign(text);
        if text.is_empty() || !is_digits(text) {
            return match fraction(text) {
                Some(number) => Ok(FieldValue::F64(if negative { -number } else { number })),
                None => Err("finite decimal numbers are expected"),
            };
        }
        let number = whole_number(text).ok_or(TOO_LARGE)?;
        let signed = if negative {
            0i64.checked_sub_unsigned(number).ok_or(TOO_LARGE)?
        } else {
            match i64::try_from(number) {
                Ok(number) => number,
                Err(_) => return Ok(number.into()),
            }
        };
        // the smallest type that holds it, as in pika
        Ok(match i32::try_from(signed) {
            Ok(small) => small.into(),
            Err(_) => signed.into(),
        })
    }

    fn word(&mut self) -> Read<FieldValue> {
        let belongs = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii();
        match self.run(belongs) {
            "True" | "true" => Ok(FieldValue::Bool(true)),
            "False" | "false" => Ok(FieldValue::Bool(false)),
            "None" | "null" => Ok(FieldValue::Void),
            _ => Err(
                "numbers, texts in quotes, True, False, None, lists and dictionaries are expected",
            ),
        }
    }
}

/// Whether the sign is a minus, and what follows the sign, which may be left out.
fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

/// A finite number with a point or an exponent, without a sign. `parse` would take `inf`, `nan` and a sign too.
fn fraction(text: &str) -> Option<f64> {
    let starts = text.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let number = text.parse().ok().filter(|number: &f64| number.is_finite());
    number.filter(|_| starts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_are_read_as_they_are_written() {
        for (text, number) in [
            ("1.5", 1.5),
            (".25", 0.25),
            ("7.", 7.0),
            ("3e2", 300.0),
            ("2.5E-3", 0.0025),
            ("1e+22", 1e22),
            ("1e300", 1e300),
            ("12345678901234567890.5", 12345678901234567890.5),
        ] {
            assert_eq!(fraction(text), Some(number), "{text}");
        }
        for text in [
            "", ".", "e1", "1e", "1.2.3", "1e999", "-1", "+1", "--1", "1_0", "0x1", "nan", "inf",
            "infinity",
        ] {
            assert_eq!(fraction(text), None, "{text}");
        }
    }

    #[test]
    fn literals() {
        let read = LiteralReader::read;
        assert_eq!(read(" {} "), Ok(FieldTable::new().into()));
        assert_eq!(read("-7"), Ok((-7).into()));
        assert_eq!(read("1e3"), Ok(1000.0.into()));
        assert_eq!(read(r#""\u00e9\x41\n""#), Ok("\u{e9}A\n".into()));
        assert_eq!(read("()"), Ok(FieldValue::Array(Vec::new())));
        for wrong in [
            "",
            "{",
            "{'a'",
            "{'a':",
            "{'a': 1",
            "{'a': 1 'b': 2}",
            "{'a': 1, 'a': 2}",
            "{1: 2}",
            "[1",
            "[1 2]",
            "'a",
            "'\\",
            "'\\q'",
            "'\\x4'",
            "'\\ud800'",
            "nan",
            "inf",
            "1e999",
            "1_000",
            "0x10",
            "Nonesuch",
            "{} {}",
            "[1)",
            "{,}",
            "-",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let deep = "[".repeat(100_000);
        assert!(read(&deep).is_err());
        assert!(read(&format!("{}{}", "[".repeat(16), "]".repeat(16))).is_ok());
        assert!(read(&format!("{}{}", "[".repeat(17), "]".repeat(17))).is_err());
    }
}
