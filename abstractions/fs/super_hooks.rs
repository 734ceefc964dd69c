// SPDX-License-Identifier: GPL-2.0

//! Superblocks of another file system, some of whose operations go through hooks.
//!
//! The superblock gets a copy of its `super_operations` with functions that call the hooks first,
//! and then the file system's own. The copy is the first member of a [`Hooked`]: that is the way
//! from the superblock to what belongs to the hooks.
//!
//! C header: [`include/linux/fs/super_types.h`](srctree/include/linux/fs/super_types.h)

use core::{
    mem::MaybeUninit,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    error::{
        from_result,
        to_result, //
    },
    ffi,
    prelude::*, //
};

use crate::bindings::kernel as c;

use super::{
    inode::Inode,
    super_block::SuperBlock, //
};

/// Hooks, and what belongs to them.
pub(crate) trait SuperHooks: Sized + Send + Sync + 'static {
    /// An inode is about to be made, by the file system's own function.
    ///
    /// # Errors
    ///
    /// Any: then it is not made.
    fn alloc_inode(this: &Hooked<Self>) -> Result;

    /// An inode is about to be evicted, by the file system's own function.
    ///
    /// # Safety
    ///
    /// `inode` is being evicted by the VFS.
    unsafe fn evict_inode(inode: *mut c::inode);

    /// Everything is about to be written back and waited for, by the file system's own function.
    /// The superblock stays mounted meanwhile.
    ///
    /// # Errors
    ///
    /// Any: they are passed on after the file system's own function has been called.
    fn sync_fs(this: &Hooked<Self>) -> Result;

    /// The superblock has been put: there are no inodes any more, and none of these hooks is
    /// called.
    fn put_super(this: Pin<KBox<Hooked<Self>>>);
}

/// A superblock with hooks.
///
/// # Invariants
///
/// - `s_op` is the first member, and `sb->s_op` points to it from [`Self::attach`] on until the
///   superblock is put.
/// - `orig` are the operations the superblock had, and `sb` outlives `self`.
#[pin_data]
#[repr(C)]
pub(crate) struct Hooked<T: SuperHooks> {
    s_op: c::super_operations,
    orig: &'static c::super_operations,
    sb: NonNull<SuperBlock>,
    #[pin]
    data: T,
}

// SAFETY: A superblock belongs to no task, and `data` may be sent.
unsafe impl<T: SuperHooks> Send for Hooked<T> {}
// SAFETY: A superblock is used by several tasks at once, and `data` may be.
unsafe impl<T: SuperHooks> Sync for Hooked<T> {}

impl<T: SuperHooks> Deref for Hooked<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.data
    }
}

type PutSuper = unsafe extern "C" fn(*mut c::super_block);

impl<T: SuperHooks> Hooked<T> {
    /// Makes it in `memory`, to be attached. Does not sleep.
    ///
    /// # Safety
    ///
    /// The operations of `sb` stay as long as this module is loaded. `sb` outlives the result.
    pub(crate) unsafe fn new(
        memory: KBox<MaybeUninit<Self>>,
        sb: &SuperBlock,
        data: impl PinInit<T>,
    ) -> NonNull<Self> {
        // SAFETY: These operations stay, by the safety requirements.
        let orig: &'static c::super_operations = unsafe { sb.operations().as_ref() };
        let s_op = c::super_operations {
            alloc_inode: Some(Self::alloc_inode),
            evict_inode: Some(Self::evict_inode),
            put_super: Some(Self::put_super),
            sync_fs: Some(Self::sync_fs),
            ..*orig
        };

        let made = memory.write_pin_init(pin_init!(Self {
            s_op,
            orig,
            sb: NonNull::from(sb),
            data <- data,
        }));
        match made {
            // SAFETY: It stays where it is until `put_super()` pins it again.
            Ok(made) => NonNull::from(KBox::leak(unsafe { Pin::into_inner_unchecked(made) })),
            Err(never) => match never {},
        }
    }

    /// Gives the superblock these operations; it owns `this` from now on, until it is put.
    ///
    /// # Safety
    ///
    /// `this` is from [`Self::new`], and this is called once, while the superblock is being
    /// mounted. The module stays loaded until `put_super()` has returned: `T` keeps a reference to
    /// it, and what unloads it waits for the last instructions (`synchronize_rcu_tasks()`).
    pub(crate) unsafe fn attach(this: NonNull<Self>) {
        // SAFETY: `this` is valid, by the safety requirements.
        let sb = unsafe { this.as_ref() }.sb();

        // SAFETY: The first member of `this` is a table whose functions call the present ones.
        unsafe { sb.set_operations(this.as_ptr().cast()) };
    }

    /// That of a superblock, if it has these hooks. It stays until the superblock is put.
    fn at(sb: &SuperBlock) -> Option<NonNull<Self>> {
        let s_op = sb.operations();
        // SAFETY: A superblock's operations are valid: its file system's own, or ones that stay as
        // long as the superblock has inodes.
        let theirs = unsafe { s_op.as_ref() }.put_super;
        let ours =
            theirs.is_some_and(|theirs| ptr::fn_addr_eq(theirs, Self::put_super as PutSuper));

        // Only `attach()` hands out tables with this function, each the first member of a `Self`.
        ours.then(|| s_op.cast())
    }

    /// That of a superblock, if it has these hooks.
    ///
    /// # Safety
    ///
    /// `sb` is not put as long as the result is used.
    unsafe fn of(sb: *mut c::super_block) -> Option<NonNull<Self>> {
        // SAFETY: `sb` is valid, by the safety requirements.
        Self::at(unsafe { SuperBlock::from_raw(sb) })
    }

    /// That of an inode's superblock, if it has these hooks.
    pub(crate) fn of_inode(inode: &Inode) -> Option<&Self> {
        // SAFETY: An inode in use keeps its superblock, and that what `at()` returns.
        Self::at(inode.super_block()).map(|this| unsafe { this.as_ref() })
    }

    pub(crate) fn sb(&self) -> &SuperBlock {
        // SAFETY: By the type invariants the superblock outlives `self`.
        unsafe { self.sb.as_ref() }
    }

    /// # Safety
    ///
    /// Called by the VFS, for a superblock that is mounted and has these hooks.
    unsafe extern "C" fn alloc_inode(sb: *mut c::super_block) -> *mut c::inode {
        // SAFETY: `sb` is mounted as long as the VFS makes inodes for it.
        let Some(this) = (unsafe { Self::of(sb) }) else {
            return ptr::null_mut();
        };
        // SAFETY: `sb` is mounted, and owns `this`.
        let this = unsafe { this.as_ref() };
        if T::alloc_inode(this).is_err() {
            return ptr::null_mut();
        }
        match this.orig.alloc_inode {
            // SAFETY: The function is the file system's own, and `sb` the VFS's argument.
            Some(alloc_inode) => unsafe { alloc_inode(sb) },
            None => ptr::null_mut(),
        }
    }

    /// # Safety
    ///
    /// Called by the VFS, for an inode of a superblock that has these hooks, which is being
    /// evicted.
    unsafe extern "C" fn evict_inode(inode: *mut c::inode) {
        // SAFETY: `inode` is not freed before the file system's own function has returned.
        let Some(this) = Self::of_inode(unsafe { Inode::from_raw(inode) }) else {
            return;
        };
        let orig = this.orig;

        // SAFETY: `inode` is being evicted.
        unsafe { T::evict_inode(inode) };
        if let Some(evict_inode) = orig.evict_inode {
            // SAFETY: The function is the file system's own, and `inode` the VFS's argument.
            unsafe { evict_inode(inode) };
        }
    }

    /// # Safety
    ///
    /// Called by the VFS, for a superblock that stays mounted and has these hooks.
    unsafe extern "C" fn sync_fs(sb: *mut c::super_block, wait: ffi::c_int) -> ffi::c_int {
        // SAFETY: `sb` stays mounted meanwhile, as the VFS holds `s_umount`.
        let this = unsafe { Self::of(sb) };

        from_result(|| {
            // SAFETY: `sb` is mounted, and owns what it points to.
            let this = unsafe { this.ok_or(EIO)?.as_ref() };
            let hooked = if wait != 0 { T::sync_fs(this) } else { Ok(()) };
            let synced = match this.orig.sync_fs {
                // SAFETY: The function is the file system's own, with the VFS's arguments.
                Some(sync_fs) => to_result(unsafe { sync_fs(sb, wait) }),
                None => Ok(()),
            };
            hooked.and(synced).map(|()| 0)
        })
    }

    /// # Safety
    ///
    /// Called by the VFS, for a superblock that is being shut down and has these hooks.
    unsafe extern "C" fn put_super(sb: *mut c::super_block) {
        // SAFETY: `sb` is valid until this returns.
        let Some(this) = (unsafe { Self::of(sb) }) else {
            return;
        };
        // SAFETY: `new()` made `this` of a box, and the superblock, which owns it, gives it up.
        let this = unsafe { Pin::new_unchecked(KBox::from_raw(this.as_ptr())) };
        // SAFETY: These are the file system's own, and the superblock is used by this task alone.
        unsafe { this.sb().set_operations(this.orig) };
        if let Some(put_super) = this.orig.put_super {
            // SAFETY: The function is the file system's own, and `sb` the VFS's argument.
            unsafe { put_super(sb) };
        }
        T::put_super(this);
    }
}
