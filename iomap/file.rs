// SPDX-License-Identifier: GPL-2.0

//! The operations of an open mapped file.

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

/// The operations of an open mapped file: FUSE's for what concerns the server (locks, ioctls), ours
/// for what concerns memory. What concerns both (FSYNC, FLUSH, RELEASE) is the caller's.
///
/// What is left out fails as it does for any file that cannot do it: copy_file_range falls back to
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
        // A write that is not to wait does not: there is no device that it would wait for.
        fop_flags: orig.fop_flags | c::FOP_BUFFER_WASYNC | c::FOP_MMAP_SYNC,
        ..*orig
    }
}
