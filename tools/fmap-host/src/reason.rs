// SPDX-License-Identifier: GPL-2.0
//! What an error means, in words.

use std::io;

/// What an error means, without its number.
pub fn reason(error: &io::Error) -> String {
    plain(&error.to_string())
}

/// A message without the numbers of the errors that it quotes: they stand behind their names.
pub fn plain(message: &str) -> String {
    let mut pieces = message.split(" (os error ");
    let mut text = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        match piece.split_once(')') {
            Some((number, rest)) if number.parse::<i32>().is_ok() => text += rest,
            _ => {
                text += " (os error ";
                text += piece;
            }
        }
    }
    text
}

/// Makes a text safe to print, in one line: users choose names, and a terminal obeys escape
/// sequences.
pub fn printable(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey() {
        assert_eq!(printable("it's \"\\\" ü"), "it's \"\\\" ü");
        assert_eq!(printable("/a\nb\x1b[2J"), "/a\\nb\\u{1b}[2J");
    }

    #[test]
    fn errors_without_numbers() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(reason(&full), "No space left on device");
        assert_eq!(reason(&io::Error::other("something")), "something");
        let twice = "x: No space left on device; y: No space left on device!";
        assert_eq!(plain(&format!("x: {full}; y: {full}!")), twice);
        for same in [
            "",
            "no (os error",
            "no (os error )",
            "no (os error x)",
            "(os error 2)",
        ] {
            assert_eq!(plain(same), same);
        }
    }
}
