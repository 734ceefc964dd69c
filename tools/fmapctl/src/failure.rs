// SPDX-License-Identifier: GPL-2.0
//! How a command fails: in one sentence.

use std::io;

/// What a command failed with.
pub struct Failure {
    /// Printed before the message: the log of the verifier, for the author of the
    /// program.
    pub log: String,
    /// One sentence.
    pub message: String,
}

impl From<String> for Failure {
    fn from(message: String) -> Self {
        Self {
            log: String::new(),
            message,
        }
    }
}

/// What an error means, without its number.
pub fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error ") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_without_numbers() {
        let full = io::Error::from_raw_os_error(28);
        assert_eq!(reason(&full), "No space left on device");
        assert_eq!(reason(&io::Error::other("something")), "something");
    }
}
