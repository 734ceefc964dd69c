// SPDX-License-Identifier: GPL-2.0

//! The fsnotify mark of a superblock, by which opens are reported, and which goes before its
//! inodes.

use core::ptr::NonNull;

use kernel::{
    prelude::*,
    sync::SetOnce, //
};

use crate::{
    abstractions::{
        fs::super_block::SuperBlock,
        fsnotify::Group, //
    },
    sb_info::SbInfo, //
};

/// The group of all marks. It only ever sees opens.
pub(super) static GROUP: SetOnce<Group<Marked>> = SetOnce::new();

/// The mount of a superblock that is marked.
///
/// # Invariants
///
/// The mount is valid: a mark goes before its superblock, which keeps the mount.
pub(super) struct Marked(NonNull<SbInfo>);

// SAFETY: A mount belongs to no task.
unsafe impl Send for Marked {}
// SAFETY: A mount is used by several tasks at once.
unsafe impl Sync for Marked {}

impl Marked {
    pub(super) fn sbi(&self) -> &SbInfo {
        // SAFETY: By the type invariants the mount is valid.
        unsafe { self.0.as_ref() }
    }
}

/// Has opens on a superblock reported, until it is shut down. May sleep.
///
/// # Safety
///
/// The superblock keeps `sbi`.
pub(super) unsafe fn report_opens(sb: &SuperBlock, sbi: &SbInfo) -> Result {
    let group = GROUP.as_ref().ok_or(EIO)?;

    // INVARIANT: The superblock, which keeps the mount, loses its mark before.
    group.mark_opens(sb, Marked(NonNull::from(sbi)))
}
