// SPDX-License-Identifier: GPL-2.0

//! Inodes that FUSE has marked bad: their maps end, though their files may be open.

use kernel::{
    sync::aref::ARef,
    workqueue::WorkItem, //
};

use crate::sb_info::{
    SbInfo,
    ActiveSb,
    LOOKING, //
};

use super::{
    mapped_inode::MappedFile,
    no_faults::NoFaults,
    invalidate::try_break_layout, //
};

impl WorkItem<LOOKING> for SbInfo {
    type Pointer = ARef<Self>;

    fn run(sbi: ARef<Self>) {
        sbi.look(|| end_bad_maps(&sbi));
    }
}

/// Ends the maps of inodes that FUSE has marked bad: their files are unmapped and give up what is
/// idle of their memory. Returns whether some of it is busy.
///
/// FUSE does that when the server answers that a node id is another file now. It tells no one; but
/// reads, writes and faults look at the mark themselves, so nothing is mapped anew.
fn end_bad_maps(sbi: &SbInfo) -> bool {
    let is_bad = |file: &MappedFile| file.has_bad_inode() && !file.mapping().is_empty();

    sbi.mapped_files.clear(|| {
        // Nearly always there is none, and then the mount must not be kept.
        if !sbi.mapped_files.any(is_bad) {
            return false;
        }
        let Some(active) = ActiveSb::new(sbi) else {
            return false;
        };
        let mut busy = false;
        sbi
            .mapped_files
            .for_each((&active).into(), false, is_bad, |file| {
                // The next fault sees the mark.
                let no_faults = NoFaults::lock(file);
                busy |= !try_break_layout(&no_faults, None);
            });
        busy
    })
}
