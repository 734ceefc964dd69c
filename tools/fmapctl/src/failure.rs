// SPDX-License-Identifier: GPL-2.0
//! How a command fails: in one sentence.

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
