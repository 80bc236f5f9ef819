//! Texts that come from elsewhere, made safe to show.

use std::fmt::{self, Write};

/// How many bytes of such a text are shown. All that a broker can say in one reply text fits.
const SHOWN: usize = 512;

/// Shows a text of the peer's in an error or a log: on one line, without control characters and whatever else would change
/// how the rest is shown, and cut if it is long.
///
/// Every text that contains something of the peer's is made with this; fields keep what came. What is escaped already is not
/// escaped again, so that a text made of such a text may pass through here too.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = SHOWN;
        for character in self.0.chars() {
            let escaped = match character {
                // What escape_debug would escape because Rust's literals need it.
                '\\' | '"' | '\'' => None,
                _ => Some(character.escape_debug()).filter(|escaped| escaped.len() > 1),
            };
            let size = match &escaped {
                Some(escaped) => escaped.len(),
                None => character.len_utf8(),
            };
            left = match left.checked_sub(size) {
                Some(left) => left,
                None => return write!(f, "... ({} bytes in all)", self.0.len()),
            };
            match escaped {
                Some(escaped) => write!(f, "{escaped}")?,
                None => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Shows bytes in a `Debug` text: as a text if they are one, else as a byte string, and cut.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shown(bytes) = self;
        let start = bytes.get(..SHOWN).unwrap_or(bytes);
        match std::str::from_utf8(start) {
            Ok(text) => fmt::Debug::fmt(text, f)?,
            // Cut within a character.
            Err(error) if error.error_len().is_none() && start.len() < bytes.len() => {
                let text = &start[..error.valid_up_to()];
                fmt::Debug::fmt(&String::from_utf8_lossy(text), f)?;
            }
            Err(_) => return fmt::Debug::fmt(&ShownBytes(bytes), f),
        }
        write_cut(f, start, bytes)
    }
}

/// Shows bytes in a `Debug` text as a byte string, and cut.
pub(crate) struct ShownBytes<'a>(pub(crate) &'a [u8]);

impl fmt::Debug for ShownBytes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShownBytes(bytes) = self;
        let start = bytes.get(..SHOWN).unwrap_or(bytes);
        write!(f, "b\"{}\"", start.escape_ascii())?;
        write_cut(f, start, bytes)
    }
}

/// Says how long the whole is, if this is only its start.
fn write_cut(f: &mut fmt::Formatter<'_>, start: &[u8], whole: &[u8]) -> fmt::Result {
    if start.len() < whole.len() {
        write!(f, "... ({} bytes in all)", whole.len())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn escaped(text: &str) -> String {
        Escaped(text).to_string()
    }

    #[test]
    fn ordinary_texts_stay_as_they_are() {
        let said = "PRECONDITION_FAILED - arg 'x' for queue \"größe\" in vhost '/': C:\\ 値 – done";
        assert_eq!(escaped(said), said);
    }

    #[test]
    fn what_changes_how_a_text_is_shown_is_escaped() {
        // Control characters of both sets, ends of lines, marks of direction, joiners, private use, tags.
        for character in [
            '\0',
            '\u{7}',
            '\u{8}',
            '\t',
            '\n',
            '\r',
            '\u{1b}',
            '\u{7f}',
            '\u{80}',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{200b}',
            '\u{200e}',
            '\u{202e}',
            '\u{2028}',
            '\u{2029}',
            '\u{2066}',
            '\u{feff}',
            '\u{e000}',
            '\u{e0041}',
            '\u{301}',
        ] {
            let shown = escaped(&format!("a{character}b"));
            assert!(shown.is_ascii() && shown.starts_with("a\\"), "{shown:?}");
            assert_eq!(escaped(&shown), shown, "escaped twice");
        }
        assert_eq!(escaped("\u{1b}[2J\nforged"), "\\u{1b}[2J\\nforged");
    }

    #[test]
    fn bytes_are_shown_as_what_they_are() {
        let shown = |bytes: &[u8]| format!("{:?}", Shown(bytes));
        assert_eq!(shown("gr\u{fc}n\u{1b}".as_bytes()), "\"gr\u{fc}n\\u{1b}\"");
        assert_eq!(shown(b"\xff\n\"a"), r#"b"\xff\n\"a""#);
        assert_eq!(shown(b""), "\"\"");
        let bytes = |bytes: &[u8]| format!("{:?}", ShownBytes(bytes));
        assert_eq!(bytes(b"a\x01\""), r#"b"a\x01\"""#);
        assert!(bytes(&[b'x'; 1000]).ends_with("x\"... (1000 bytes in all)"));
        for long in [
            vec![b'x'; 1000],
            vec![0xff; 1000],
            "x\u{fc}".repeat(500).into_bytes(),
        ] {
            let shown = shown(&long);
            assert!(
                shown.ends_with(&format!("\"... ({} bytes in all)", long.len())),
                "{shown}"
            );
            assert!(shown.len() < 4 * SHOWN + 32);
            assert_eq!(shown.starts_with('b'), long[0] == 0xff, "{shown}");
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let most = "x".repeat(SHOWN);
        assert_eq!(escaped(&most), most);
        let cut = escaped(&"y".repeat(130_000));
        assert_eq!(
            cut,
            format!("{}... (130000 bytes in all)", "y".repeat(SHOWN))
        );
        let cut = escaped(&"\u{1b}".repeat(255));
        assert!(
            cut.len() < SHOWN + 32 && cut.ends_with("... (255 bytes in all)"),
            "{cut}"
        );
        let cut = escaped(&"ü".repeat(1000));
        assert!(cut.starts_with("üü") && cut.len() < SHOWN + 32);
    }
}
