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
