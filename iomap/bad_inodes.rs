// SPDX-License-Identifier: GPL-2.0

//! Inodes that FUSE has marked bad: their maps end, though their files may be open.

use kernel::{
    sync::aref::ARef,
    workqueue::WorkItem, //
};

use crate::sb_info::{
    Mount,
    Mounted,
    LOOKING, //
};

use super::{
    mapped_inode::MappedFile,
    no_faults::NoFaults,
    vacating::try_vacate, //
};

impl WorkItem<LOOKING> for Mount {
    type Pointer = ARef<Self>;

    fn run(mount: ARef<Self>) {
        mount.look(|| end_bad_maps(&mount));
    }
}

/// Ends the maps of inodes that FUSE has marked bad: their files are unmapped and give up what is
/// idle of their memory. Returns whether some of it is busy.
///
/// FUSE does that when the server answers that a node id is another file now. It tells no one; but
/// reads, writes and faults look at the mark themselves, so nothing is mapped anew.
fn end_bad_maps(mount: &Mount) -> bool {
    let is_bad = |file: &MappedFile| file.has_bad_inode() && !file.mapping().is_empty();

    mount.mapped_files.clear(|| {
        // Nearly always there is none, and then the mount must not be kept.
        if !mount.mapped_files.any(is_bad) {
            return false;
        }
        let Some(mounted) = Mounted::new(mount) else {
            return false;
        };
        let mut busy = false;
        mount
            .mapped_files
            .for_each((&mounted).into(), false, is_bad, |file| {
                // The next fault sees the mark.
                let no_faults = NoFaults::lock(file);
                busy |= !try_vacate(&no_faults, None);
            });
        busy
    })
}
