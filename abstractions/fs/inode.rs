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
    ops::Deref,
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

/// A `struct inode` that is in use, or being evicted.
///
/// # Invariants
///
/// The inode is initialized, and neither it nor its superblock is freed as long as this is
/// borrowed. That says nothing of references: see [`InodeRef`].
#[repr(transparent)]
pub(crate) struct Inode(Opaque<c::inode>);

// SAFETY: An inode belongs to no task.
unsafe impl Send for Inode {}
// SAFETY: Several tasks may use an inode at once; what changes is read once, or with its lock.
unsafe impl Sync for Inode {}

/// A reference to an inode.
///
/// The kernel crate's `ARef` is no place for it: a reference to an inode does not keep its
/// superblock, and an inode that is being evicted must not get one.
///
/// # Invariants
///
/// `self` owns a reference to the inode, whose superblock stays mounted until that is dropped.
#[must_use = "the reference is put when it is dropped"]
pub(crate) struct InodeRef(NonNull<Inode>);

// SAFETY: An inode belongs to no task.
unsafe impl Send for InodeRef {}
// SAFETY: This gives nothing but `&Inode`.
unsafe impl Sync for InodeRef {}

impl InodeRef {
    /// Goes on without the value: the reference is to be put by [`Self::from_raw`].
    pub(crate) fn into_raw(self) -> NonNull<Inode> {
        core::mem::ManuallyDrop::new(self).0
    }

    /// # Safety
    ///
    /// `inode` is from [`Self::into_raw`], and is used once. Its superblock is still mounted, and
    /// stays so until the result is dropped.
    pub(crate) unsafe fn from_raw(inode: NonNull<Inode>) -> Self {
        // INVARIANT: The reference is that of the value that `into_raw()` took.
        Self(inode)
    }
}

impl Deref for InodeRef {
    type Target = Inode;

    #[inline]
    fn deref(&self) -> &Inode {
        // SAFETY: The inode stays, by the reference of the type invariants.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        // SAFETY: By the type invariants `self` owns this reference, and the superblock is mounted.
        unsafe { c::iput(self.0.as_ptr().cast()) }
    }
}

impl Inode {
    /// # Safety
    ///
    /// `inode` is initialized, and neither it nor its superblock is freed for `'a`.
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
    pub(crate) unsafe fn grab(inode: *mut c::inode) -> Option<InodeRef> {
        // SAFETY: `inode` is not freed meanwhile, by the safety requirements.
        let inode = NonNull::new(unsafe { c::igrab(inode) })?;

        // INVARIANT: `igrab()` has taken the reference; the superblock stays mounted, by the safety
        // requirements.
        Some(InodeRef(inode.cast()))
    }

    /// Takes another reference.
    ///
    /// # Safety
    ///
    /// There is a reference already: the inode is not being evicted. Its superblock stays mounted
    /// as long as the result.
    pub(crate) unsafe fn get(&self) -> InodeRef {
        // SAFETY: `self` has a reference, by the safety requirements.
        unsafe { c::ihold(self.as_raw()) };
        // INVARIANT: Taken just now; the superblock stays mounted, by the safety requirements.
        InodeRef(NonNull::from(self))
    }

    #[inline]
    pub(crate) fn as_raw(&self) -> *mut c::inode {
        self.0.get()
    }

    /// `i_private`, which a file system may use as it likes.
    ///
    /// # Safety
    ///
    /// The inode is of a file system that leaves the field to the caller. What is stored there is
    /// what the caller's module takes it for, and each access is atomic.
    #[inline]
    pub(crate) unsafe fn private(&self) -> &AtomicPtr<ffi::c_void> {
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
