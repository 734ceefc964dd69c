// SPDX-License-Identifier: GPL-2.0

//! Inodes that FUSE has marked bad: their maps end, even if their files are open.

use kernel::{
    sync::aref::ARef,
    workqueue::WorkItem, //
};

use crate::sb_info::{
    ActiveSb,
    SbInfo,
    LOOKING, //
};

use super::{
    invalidate::try_break_layout, //
    mapped_inode::MappedFile,
    no_faults::NoFaults,
};

impl WorkItem<LOOKING> for SbInfo {
    type Pointer = ARef<Self>;

    fn run(sbi: ARef<Self>) {
        sbi.look(|| end_bad_maps(&sbi));
    }
}

/// Ends the maps of inodes that FUSE has marked bad: unmaps their files and drops their memory,
/// except pinned pages. Returns true if some memory is pinned.
///
/// FUSE marks an inode bad when the server answers that its node id is another file now. There is
/// no callback for that, but reads, writes and faults check the mark themselves, so nothing is
/// mapped again. Those that have not seen it are waited for, each step of 1 MiB, before memory is
/// dropped that the server may give to the next file.
fn end_bad_maps(sbi: &SbInfo) -> bool {
    let is_bad = |file: &MappedFile| file.has_bad_inode() && !file.mapping().is_empty();

    sbi.mapped_files.clear(|| {
        // Without a bad inode, do not take an active reference.
        if !sbi.mapped_files.any(is_bad) {
            return false;
        }
        let Some(active) = ActiveSb::new(sbi) else {
            return false;
        };
        let mut busy = false;
        sbi.mapped_files
            .for_each((&active).into(), false, is_bad, |file| {
                sbi.ownership.wait_for_users();
                // A fault that begins after this sees the mark.
                let no_faults = NoFaults::lock(file);
                busy |= !try_break_layout(&no_faults, None);
            });
        busy
    })
}
