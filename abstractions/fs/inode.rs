// SPDX-License-Identifier: GPL-2.0

//! Inodes.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)
//!
//! # Examples
//!
//! ```ignore
//! // SAFETY: The file is open, so its inode is in use.
//! let inode = unsafe { Inode::from_raw((*file).f_inode) };
//! let _locked = inode.rwsem().read_killable()?;
//! let size = inode.size();
//! ```

use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering, //
    }, //
};

use kernel::{
    ffi,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};

use crate::{
    abstractions::{
        fs::{
            address_space::AddressSpace,
            super_block::SuperBlock, //
        },
        sync::rw_semaphore::RwSemaphore, //
    },
    bindings::kernel as c, //
};

/// A `struct inode` that is in use.
///
/// # Invariants
///
/// The inode is initialized, and a reference to it is kept as long as this is borrowed, by its
/// borrower or for it. Its superblock stays as long.
#[repr(transparent)]
pub(crate) struct Inode(Opaque<c::inode>);

// SAFETY: An inode belongs to no task.
unsafe impl Send for Inode {}
// SAFETY: Several tasks may use an inode at once; what changes is read once, or with its lock.
unsafe impl Sync for Inode {}

// SAFETY: `ihold()` and `iput()` count references to the inode.
unsafe impl AlwaysRefCounted for Inode {
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: By the type invariants there is a reference already.
        unsafe { c::ihold(self.as_raw()) }
    }

    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller gives up a reference to `obj`.
        unsafe { c::iput(obj.cast().as_ptr()) }
    }
}

impl Inode {
    /// # Safety
    ///
    /// `inode` is valid, and stays in use for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw<'a>(inode: *const c::inode) -> &'a Self {
        // SAFETY: `inode` is valid by the safety requirements, and `Self` is transparent.
        unsafe { &*inode.cast() }
    }

    /// The inode of a superblock's root.
    ///
    /// # Safety
    ///
    /// The superblock has a root, and is not being shut down, as long as the result is used.
    pub(crate) unsafe fn root_of(sb: &SuperBlock) -> &Self {
        // SAFETY: By the safety requirements there is a root, and its dentry is positive.
        let root = unsafe { (*(*sb.as_raw()).s_root).d_inode };

        // SAFETY: The dentry of the root keeps its inode, by the safety requirements for as long.
        unsafe { Self::from_raw(root) }
    }

    /// Takes a reference to an inode, unless it is being evicted.
    ///
    /// # Safety
    ///
    /// `inode` is valid: it is not freed meanwhile, though it may be being evicted. Its superblock
    /// stays mounted as long as the result.
    pub(crate) unsafe fn grab(inode: *mut c::inode) -> Option<ARef<Self>> {
        // SAFETY: `inode` is not freed meanwhile, by the safety requirements.
        let inode = NonNull::new(unsafe { c::igrab(inode) })?;

        // SAFETY: `igrab()` has taken the reference.
        Some(unsafe { ARef::from_raw(inode.cast()) })
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::inode {
        self.0.get()
    }

    /// What the file system notes in it. File systems that do so here access it atomically.
    #[inline]
    pub(crate) fn private(&self) -> &AtomicPtr<ffi::c_void> {
        // SAFETY: By the type invariants the inode is valid; the field is the file system's.
        unsafe { AtomicPtr::from_ptr(&raw mut (*self.as_raw()).i_private) }
    }

    /// Its number, for people.
    pub(crate) fn number(&self) -> u64 {
        // SAFETY: By the type invariants the inode is valid; its number does not change.
        unsafe { (*self.as_raw()).i_ino }
    }

    /// Its superblock, which stays mounted as long as the inode is in use.
    #[inline]
    pub(crate) fn super_block(&self) -> &SuperBlock {
        // SAFETY: By the type invariants the inode is valid. Its superblock does not change.
        let sb = unsafe { (*self.as_raw()).i_sb };

        // SAFETY: An inode in use keeps its superblock.
        unsafe { SuperBlock::from_raw(sb) }
    }

    /// `i_size_read()` on a 64-bit machine. Negative sizes do not occur.
    #[inline]
    pub(crate) fn size(&self) -> u64 {
        // SAFETY: By the type invariants the inode is valid; the size is read once.
        let size = unsafe { (&raw const (*self.as_raw()).i_size).read_volatile() };

        size.max(0) as u64
    }

    /// `S_NOSEC` and others.
    #[inline]
    pub(crate) fn flags(&self) -> u32 {
        // SAFETY: By the type invariants the inode is valid.
        unsafe { (*self.as_raw()).i_flags }
    }

    /// Type and permissions.
    #[inline]
    pub(crate) fn mode(&self) -> u32 {
        // SAFETY: By the type invariants the inode is valid. The permissions may change meanwhile.
        u32::from(unsafe { (&raw const (*self.as_raw()).i_mode).read_volatile() })
    }

    /// Whether it is a regular file.
    #[inline]
    pub(crate) fn is_regular(&self) -> bool {
        self.mode() & c::S_IFMT == c::S_IFREG
    }

    pub(crate) fn is_directory(&self) -> bool {
        self.mode() & c::S_IFMT == c::S_IFDIR
    }

    pub(crate) fn is_character_device(&self) -> bool {
        self.mode() & c::S_IFMT == c::S_IFCHR
    }

    /// `inode->i_rwsem`.
    #[inline]
    pub(crate) fn rwsem(&self) -> &RwSemaphore {
        // SAFETY: By the type invariants the inode is initialized, and stays as long as `self`.
        unsafe { RwSemaphore::from_raw(&raw mut (*self.as_raw()).i_rwsem) }
    }

    /// The page cache that is a part of it, `i_data`.
    #[inline]
    pub(crate) fn data(&self) -> &AddressSpace {
        // SAFETY: By the type invariants the inode is initialized, and stays as long as `self`.
        unsafe { AddressSpace::from_raw(&raw mut (*self.as_raw()).i_data) }
    }

    /// Its operations, which the inode has as long as it is in use, or longer.
    pub(crate) fn operations(&self) -> &c::inode_operations {
        // SAFETY: An inode in use has operations; a pointer is read once.
        unsafe { &*(&raw const (*self.as_raw()).i_op).read_volatile() }
    }

    /// Gives it other operations, which others load once.
    ///
    /// # Safety
    ///
    /// They are for this inode, and stay as long.
    pub(crate) unsafe fn set_operations(&self, operations: *const c::inode_operations) {
        // SAFETY: By the type invariants the inode is valid; the pointer is a word.
        let i_op = unsafe { AtomicPtr::from_ptr((&raw mut (*self.as_raw()).i_op).cast()) };

        i_op.store(operations.cast_mut(), Ordering::Release);
    }

    /// Gives files that are opened from now on other operations.
    ///
    /// # Safety
    ///
    /// The inode is what `operations` expect. Other tasks may do the same with the same ones.
    #[inline]
    pub(crate) unsafe fn set_file_operations(&self, operations: &'static c::file_operations) {
        // SAFETY: By the type invariants the inode is valid; the field is a word that others load
        // once.
        let i_fop: &AtomicPtr<c::file_operations> = unsafe {
            AtomicPtr::from_ptr((&raw mut (*self.as_raw()).__bindgen_anon_3.i_fop).cast())
        };

        // The cache line stays shared if nothing changes.
        if !ptr::eq(i_fop.load(Ordering::Relaxed), operations) {
            i_fop.store(ptr::from_ref(operations).cast_mut(), Ordering::Relaxed);
        }
    }
}
