// SPDX-License-Identifier: GPL-2.0

//! The gates of a mount's files. See `iomap::gates` for their use.

use kernel::sync::Arc;

use crate::abstractions::sync::completion::Completion;

/// The key of a gate: the address of the map that it is in, and the byte of the file at which it
/// ends.
pub(crate) type GateKey = (usize, u64);

/// A gate that is closed.
pub(crate) struct Gate {
    /// The byte of the file at which it begins.
    pub(crate) start: u64,
    /// True if the server has revoked the range: it is open once the server has set a map.
    pub(crate) is_revoked: bool,
    /// Complete once it is open.
    pub(crate) opened: Arc<Completion>,
}
