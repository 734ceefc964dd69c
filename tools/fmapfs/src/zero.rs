// SPDX-License-Identifier: GPL-2.0
//! Writes zeros to space that files are about to get.
//!
//! A device that is bound to fsdev_dax has no read(2), write(2) or mmap(2) of its own:
//! its memory is reached through a file of a mount. So while the mount is apart, and its
//! devices are held already, the tree has a hidden file for each range of new space. The
//! [`Visitor`] writes zeros to those, which go to memory past the CPU's caches. The whole
//! range is zeroed, not only the bytes of the file, since a mapping of its last page
//! shows the bytes behind its end.

use rustix::io::Errno;

use crate::say::say;
use crate::tree::Tree;
use crate::visitor::Visitor;

/// More bytes than this take so long that a message is printed.
const LONG: u64 = 1 << 30;

/// Zeroes the new space of a tree, durably.
pub fn zero(visitor: &mut Visitor, tree: &Tree) -> Result<(), String> {
    let all = tree.bytes_to_zero();
    if all >= LONG {
        say!("zeroing {} MiB of new space", all >> 20);
    }
    for name in tree.new_space() {
        let zeroed = visitor.fill(&name).and_then(|filled| {
            filled.map_err(|error: Errno| format!("{error}; the kernel log may say more"))
        });
        zeroed.map_err(|message| format!("new space could not be zeroed: {message}"))?;
    }
    Ok(())
}
