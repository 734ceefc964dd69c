// SPDX-License-Identifier: GPL-2.0

//! What a descriptor of a mapped file shows: a page cache that is empty.
//!
//! What is in `f_mapping` of a descriptor's file is taken for pages: cachestat(2) reads a DAX entry as
//! the shadow of an evicted page, and follows a wild pointer. So every file shows another page cache
//! than `i_data`, one for all files of an inode. Its host is that inode, for the kernel goes that way,
//! FUSE too: to a file's size, to the node id of FSYNC.
//!
//! It lies beside the header of a mapped inode, and is there as long: a file keeps its inode.
//!
//! A file that is open for neither reading nor writing (access mode 3) is FUSE's, and does not keep the
//! inode from being mapped later; but its descriptor must not show `i_data` then. So, if nothing is
//! known of the inode yet, it gets one that the mount has for the inode ([`IdlePageCaches`]).
//!
//! A file that a stacked file system has opened (FMODE_BACKING) never gets a descriptor. It uses
//! `i_data` itself, and so do the mappings that are made of it.

use core::pin::Pin;

use kernel::{
    ffi,
    new_spinlock,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::SpinLock,
    types::Opaque, //
};

use crate::{
    bindings::kernel as c,
    fuse::Inode, //
};

use super::{
    MappedFile,
    Table, //
};

/// Makes a page cache that nobody reads or writes.
///
/// # Safety
///
/// `slot` is valid for writes, and stays where it is; `host` is valid as long as somebody can see it.
unsafe fn init(
    slot: *mut c::address_space,
    host: *mut c::inode,
    a_ops: *const c::address_space_operations,
) {
    // SAFETY: By the safety requirements.
    unsafe {
        c::address_space_init_once(slot);
        c::__init_rwsem(
            &raw mut (*slot).invalidate_lock,
            c"fuse_dax_fmap::invalidate_lock".as_char_ptr(),
            kernel::static_lock_class!().as_ptr(),
        );
        (*slot).host = host;
        (*slot).gfp_mask = c::GFP_KERNEL;
        (*slot).a_ops = a_ops;
    }
}

/// What FUSE sees of all mapped files of a mount.
///
/// # Safety
///
/// `host` is valid as long as somebody can see the page cache.
pub(crate) unsafe fn empty_page_cache(
    host: *mut c::inode,
) -> impl PinInit<Opaque<c::address_space>> {
    static AOPS: Table<c::address_space_operations> = Table(pin_init::zeroed());

    Opaque::ffi_init(move |slot| {
        // SAFETY: `slot` is valid for writes, and pinned; the rest by the safety requirements.
        unsafe { init(slot, host, &AOPS.0) }
    })
}

/// Makes what files of an inode show.
///
/// # Safety
///
/// `slot` is valid for writes, and stays where it is, until `inode` is evicted.
pub(super) unsafe fn init_shown(slot: *mut c::address_space, inode: *mut c::inode) {
    static AOPS: Table<c::address_space_operations> = Table(c::address_space_operations {
        writepages: Some(write_host_back),
        ..pin_init::zeroed()
    });

    // SAFETY: By the safety requirements. Who has a file keeps the inode.
    unsafe {
        init(slot, inode, &AOPS.0);
        // sync_file_range(2) looks no further if this says that nothing is dirty.
        (*slot).i_pages.xa_flags |= c::XA_FLAGS_MARK_DIRTY;
    }
}

/// Writes back what the inode has, DAX entries or pages, and leaves waiting to those who wait.
///
/// # Safety
///
/// Called by writeback, for what an open file shows.
unsafe extern "C" fn write_host_back(
    mapping: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: By the safety requirements, and the host is the file's inode.
    unsafe {
        let i_data = &raw mut (*(*mapping).host).i_data;
        c::filemap_fdatawrite_range(i_data, (*wbc).range_start, (*wbc).range_end)
    }
}

/// Makes a file of a mapped inode show what belongs to that.
///
/// # Safety
///
/// `file` is being opened by the current task, and its inode is mapped.
pub(crate) unsafe fn show_page_cache(file: *mut c::file) {
    // SAFETY: By the safety requirements.
    unsafe {
        let mapped = MappedFile::of((*file).f_inode);
        show(file, (*mapped).page_cache.get());
    }
}

/// # Safety
///
/// `file` is being opened by the current task, and `page_cache` is one for files of its inode.
unsafe fn show(file: *mut c::file, page_cache: *mut c::address_space) {
    // SAFETY: By the safety requirements.
    unsafe {
        let i_data = &raw mut (*(*file).f_inode).i_data;

        (*file).f_mapping = if (*file).f_mode & c::FMODE_BACKING == 0 {
            page_cache
        } else {
            i_data
        };
        // Errors are those of what is in `i_data`, in either case (`writeback`).
        (*file).f_wb_err = c::filemap_sample_wb_err(i_data);
    }
}

/// What files that are open for neither reading nor writing show, of a mount: one for each inode that
/// has had such a file, until it is evicted.
#[pin_data]
pub(crate) struct IdlePageCaches {
    #[pin]
    by_inode: SpinLock<RBTree<usize, Pin<KBox<Opaque<c::address_space>>>>>,
}

impl IdlePageCaches {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            by_inode <- new_spinlock!(RBTree::new(), "fuse_dax_fmap::IdlePageCaches::by_inode"),
        })
    }

    /// Makes a file show the page cache of its inode. May sleep.
    ///
    /// # Safety
    ///
    /// `file` is being opened by the current task, and is of this mount.
    pub(crate) unsafe fn show(&self, file: *mut c::file) -> Result {
        // SAFETY: By the safety requirements.
        let inode = unsafe { Inode::new((*file).f_inode) };
        let init = Opaque::ffi_init(|slot| {
            // SAFETY: It is pinned, and `forget()` drops it when the inode is evicted.
            unsafe { init_shown(slot, inode.as_raw()) }
        });
        let new = KBox::pin_init(init, GFP_KERNEL_ACCOUNT)?;
        let node = RBTreeNode::new(inode.key(), new, GFP_KERNEL_ACCOUNT)?;

        let mut by_inode = self.by_inode.lock();
        if by_inode.get(&inode.key()).is_none() {
            by_inode.insert(node);
        }
        if let Some(page_cache) = by_inode.get(&inode.key()) {
            // SAFETY: By the safety requirements.
            unsafe { show(file, page_cache.get()) };
        }
        Ok(())
    }

    /// An inode is evicted: nobody has a file of it.
    pub(crate) fn forget(&self, inode: &Inode) {
        self.by_inode.lock().remove(&inode.key());
    }
}
