// SPDX-License-Identifier: GPL-2.0

//! The fsnotify mark of a superblock: it reports opens, and is freed before the inodes.

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

/// The group of all marks. Opens are its only events.
pub(super) static GROUP: SetOnce<Group<Marked>> = SetOnce::new();

/// The data of a mark: the `SbInfo` of the superblock.
///
/// # Invariants
///
/// The pointer is valid: a mark is freed before its superblock, which keeps the `SbInfo`.
pub(super) struct Marked(NonNull<SbInfo>);

// SAFETY: An `SbInfo` belongs to no task.
unsafe impl Send for Marked {}
// SAFETY: Several tasks may use an `SbInfo` at once.
unsafe impl Sync for Marked {}

impl Marked {
    pub(super) fn sbi(&self) -> &SbInfo {
        // SAFETY: By the type invariants the pointer is valid.
        unsafe { self.0.as_ref() }
    }
}

/// Puts a mark on a superblock, which reports opens until the superblock is shut down. May sleep.
///
/// # Safety
///
/// The superblock keeps `sbi` valid.
pub(super) unsafe fn report_opens(sb: &SuperBlock, sbi: &SbInfo) -> Result {
    let group = GROUP.as_ref().ok_or(EIO)?;

    // INVARIANT: The mark is freed before the superblock, which keeps `sbi` valid.
    group.mark_opens(sb, Marked(NonNull::from(sbi)))
}
