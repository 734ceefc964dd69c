// SPDX-License-Identifier: GPL-2.0

//! What users see of a mapped inode.

use core::{
    ptr,
    sync::atomic::Ordering, //
};

use kernel::{
    seq_file::SeqFile,
    seq_print, //
};

use crate::{
    abstractions::fs::dentry::write_path,
    sb_info::SbInfo, //
};

use super::mapped_inode::{
    private,
    Published, //
};

/// Writes a line about the mapped inode that has a number in its mount: `major:minor nodeid=number
/// ino=number`, its size and that of its metadata, its counters, and its path, from the root of the
/// mount, if it has one. Writes nothing if there is no such inode. Does not sleep.
pub(crate) fn show_inode(sbi: &SbInfo, number: u32, f: &SeqFile) {
    sbi.mapped_inodes.with(number, |listed| {
        let published = Published::of_listed(listed);
        let (inode, header) = (published.inode(), &published.header);

        // It may not be published yet, or not any more.
        if !ptr::eq(private(inode).load(Ordering::Acquire).cast(), header) {
            return;
        }
        seq_print!(
            f,
            "{} nodeid={} ino={} size={} meta_bytes={}",
            sbi.superblock.device,
            inode.nodeid(),
            inode.number(),
            inode.size(),
            header.meta_len
        );
        // A file that was never mapped by mmap(2) has no faults.
        match header.file().map(|file| &file.faults) {
            Some(faults) => seq_print!(
                f,
                " faults_2m={} faults_4k={} faults_failed={}",
                faults.huge,
                faults.pages,
                faults.failed
            ),
            None => seq_print!(f, " faults_2m=0 faults_4k=0 faults_failed=0"),
        }
        seq_print!(
            f,
            " read_bytes={} written_bytes={} mappings_refused={}",
            listed.read_bytes,
            listed.written_bytes,
            listed.refused_mappings
        );
        write_path(f, inode);
        seq_print!(f, "\n");
    });
}
