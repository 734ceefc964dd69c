// SPDX-License-Identifier: GPL-2.0

//! The file operations of an open mapped file.

use crate::bindings::kernel as c;

use super::{
    fallocate::fallocate,
    io::{
        read_iter,
        write_iter, //
    },
    mmap::mmap,
    seek_fiemap::llseek, //
};

/// Returns the operations of an open mapped file: FUSE's where they concern the server (locks,
/// ioctls), the module's where they concern memory. The caller sets those that concern both (FSYNC,
/// FLUSH, RELEASE).
///
/// Operations that are left out fail as for any file without them: copy_file_range(2) falls back to
/// reading and writing.
pub(crate) fn file_operations(orig: &c::file_operations) -> c::file_operations {
    c::file_operations {
        llseek: Some(llseek),
        read_iter: Some(read_iter),
        write_iter: Some(write_iter),
        mmap: Some(mmap),
        mmap_prepare: None,
        get_unmapped_area: Some(c::thp_get_unmapped_area),
        splice_read: Some(c::copy_splice_read),
        splice_write: Some(c::iter_file_splice_write),
        fallocate: Some(fallocate),
        copy_file_range: None,
        remap_file_range: None,
        // A write with IOCB_NOWAIT does not wait, as there is no device to wait for.
        fop_flags: orig.fop_flags | c::FOP_BUFFER_WASYNC | c::FOP_MMAP_SYNC,
        ..*orig
    }
}
