// SPDX-License-Identifier: GPL-2.0

//! Inodes that FUSE has marked bad: their maps end, even if their files are open.

use core::cell::Cell;

use kernel::{
    sync::{
        aref::ARef,
        atomic::Relaxed, //
    },
    time::{
        Instant,
        Monotonic, //
    },
    workqueue::WorkItem, //
};

use crate::sb_info::{
    ActiveSb,
    Looked,
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
/// except pinned pages.
///
/// FUSE marks an inode bad when the server answers that its node id is another file now. There is
/// no callback for that, but reads, writes and faults check the mark themselves, so nothing is
/// mapped again. Those that have not seen it are waited for, each step of 1 MiB, before memory is
/// dropped that the server may give to the next file. An inode that is marked after that wait is
/// left to the next look.
fn end_bad_maps(sbi: &SbInfo) -> Looked {
    let is_bad = |file: &MappedFile| file.has_bad_inode() && !file.mapping().is_empty();
    let was_found = |file: &MappedFile| file.listed.found_bad.load(Relaxed) && is_bad(file);
    let waited_us = Cell::new(0);

    let busy = sbi.mapped_files.clear(|| {
        let found = Cell::new(false);
        sbi.mapped_files.any(|file| {
            if is_bad(file) {
                file.listed.found_bad.store(true, Relaxed);
                found.set(true);
            }
            false
        });
        // Without a bad inode, do not take an active reference.
        if !found.get() {
            return false;
        }
        let Some(active) = ActiveSb::new(sbi) else {
            return false;
        };
        let start = Instant::<Monotonic>::now();
        sbi.ownership.wait_for_users();
        waited_us.set(start.elapsed().as_micros_ceil());

        let mut busy = false;
        sbi.mapped_files
            .for_each((&active).into(), false, was_found, |file| {
                // A fault that begins after this sees the mark.
                let no_faults = NoFaults::lock(file);
                busy |= !try_break_layout(&no_faults, None);
            });
        busy
    });
    Looked {
        busy,
        waited_us: waited_us.get(),
    }
}
