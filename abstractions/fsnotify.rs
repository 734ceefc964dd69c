// SPDX-License-Identifier: GPL-2.0

//! fsnotify groups that are notified of opens on superblocks.
//!
//! C header: [`include/linux/fsnotify_backend.h`](srctree/include/linux/fsnotify_backend.h)
//!
//! # Examples
//!
//! ```ignore
//! struct Opens;
//!
//! impl Operations for Opens {
//!     type Data = &'static str;
//!
//!     fn open_perm(file: &OpeningFile) {
//!         pr_info!("inode {} is being opened\n", file.inode().number());
//!     }
//!
//!     fn freeing_mark(data: &Self::Data) {
//!         pr_info!("{data} is being shut down\n");
//!     }
//! }
//!
//! // SAFETY: `put()` is called when the module is unloaded, after the last mark was added.
//! let group = unsafe { Group::new::<Opens>(c::fsnotify_group_prio_FSNOTIFY_PRIO_NORMAL) }?;
//! group.mark_opens(inode.super_block(), "example")?;
//! ```

use core::{
    marker::PhantomData,
    mem::offset_of,
    ptr::NonNull, //
};

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi,
    prelude::*, //
};

use crate::bindings::kernel as c;

use super::fs::{
    file::OpeningFile,
    super_block::SuperBlock, //
};

/// The events of a mark.
const OPENS: u32 = c::FS_OPEN_PERM | c::FS_OPEN_EXEC_PERM;

/// Callbacks of a group.
pub(crate) trait Operations: 'static {
    /// The data of a mark.
    type Data: Send + Sync + 'static;

    /// Called for FS_OPEN_PERM, and for FS_OPEN_EXEC_PERM, which comes before it: a file on a
    /// marked superblock is being opened. It has its operations already, and has not been opened by
    /// them.
    fn open_perm(file: &OpeningFile);

    /// Called before a mark is freed. If that is because its superblock is being shut down, the
    /// superblock is still valid, and has not evicted its inodes yet.
    fn freeing_mark(data: &Self::Data);
}

/// A `struct fsnotify_group`.
///
/// # Invariants
///
/// `self` owns a reference to the group, whose operations are [`Vtable`]'s of a type with this
/// `Data`.
pub(crate) struct Group<D> {
    group: NonNull<c::fsnotify_group>,
    _marks: PhantomData<D>,
}

// SAFETY: A group is not tied to a task.
unsafe impl<D: Send> Send for Group<D> {}
// SAFETY: Adding a mark takes a lock of the group.
unsafe impl<D: Send> Sync for Group<D> {}

/// A mark, and its data.
///
/// # Invariants
///
/// `mark` is the first member: fsnotify passes the address of it.
#[repr(C)]
struct Mark<D> {
    mark: c::fsnotify_mark,
    data: D,
}

/// The functions that fsnotify calls.
struct Vtable<T: Operations>(PhantomData<T>);

impl<T: Operations> Vtable<T> {
    const TABLE: &'static c::fsnotify_ops = &Self::OPS;

    const OPS: c::fsnotify_ops = c::fsnotify_ops {
        handle_event: Some(Self::handle_event),
        freeing_mark: Some(Self::freeing_mark),
        free_mark: Some(Self::free_mark),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// Must only be called by fsnotify, with an event on a marked superblock.
    unsafe extern "C" fn handle_event(
        _group: *mut c::fsnotify_group,
        mask: u32,
        data: *const ffi::c_void,
        data_type: ffi::c_int,
        _dir: *mut c::inode,
        _file_name: *const c::qstr,
        _cookie: u32,
        _iter_info: *mut c::fsnotify_iter_info,
    ) -> ffi::c_int {
        const F_PATH: usize = offset_of!(c::file, __bindgen_anon_1);

        if mask & OPENS != 0 && data_type == c::fsnotify_data_type_FSNOTIFY_EVENT_PATH as ffi::c_int
        {
            // The data are `&file->f_path`.
            let file = data.wrapping_byte_sub(F_PATH).cast_mut().cast();
            // SAFETY: The current task is opening `file`, which has its operations already.
            T::open_perm(unsafe { OpeningFile::from_raw(file) });
        }
        0
    }

    /// # Safety
    ///
    /// Must only be called by fsnotify, with a mark of [`Group::mark_opens`].
    unsafe extern "C" fn freeing_mark(mark: *mut c::fsnotify_mark, _group: *mut c::fsnotify_group) {
        // SAFETY: `mark` is the first member of a `Mark`, which is freed later.
        T::freeing_mark(unsafe { &(*mark.cast::<Mark<T::Data>>()).data });
    }

    /// # Safety
    ///
    /// Must only be called by fsnotify, when nothing refers to the mark any more.
    unsafe extern "C" fn free_mark(mark: *mut c::fsnotify_mark) {
        // SAFETY: `mark` is the box that `mark_opens()` leaked.
        drop(unsafe { KBox::from_raw(mark.cast::<Mark<T::Data>>()) });
    }
}

impl<D: Send + Sync + 'static> Group<D> {
    /// Creates a group without marks. Higher priorities (`FSNOTIFY_PRIO_*`) are notified first.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    ///
    /// # Safety
    ///
    /// [`Self::put`] must be called before the code of `T` is unloaded, and no mark may be added
    /// after that: marks and their callbacks outlive the result.
    pub(crate) unsafe fn new<T: Operations<Data = D>>(
        priority: c::fsnotify_group_prio,
    ) -> Result<Self> {
        // SAFETY: The table is static.
        let group = from_err_ptr(unsafe { c::fsnotify_alloc_group(Vtable::<T>::TABLE, 0) })?;
        let group = NonNull::new(group).ok_or(ENOMEM)?;

        // SAFETY: `group` is used by nothing else, and has no marks yet.
        unsafe { (*group.as_ptr()).priority = priority };
        // INVARIANT: The reference is that of `fsnotify_alloc_group()`.
        Ok(Self {
            group,
            _marks: PhantomData,
        })
    }

    /// Requests notifications of opens on a superblock, until it is shut down. May sleep.
    ///
    /// # Errors
    ///
    /// - [`ENOMEM`].
    /// - [`EEXIST`] if the group has already marked the superblock.
    /// - Others of `fsnotify_add_mark()`.
    pub(crate) fn mark_opens(&self, sb: &SuperBlock, data: D) -> Result {
        const TYPE: u32 = c::fsnotify_obj_type_FSNOTIFY_OBJ_TYPE_SB as u32;

        let mark = Mark {
            mark: pin_init::zeroed(),
            data,
        };
        let mark = KBox::into_raw(KBox::new(mark, GFP_KERNEL)?).cast::<c::fsnotify_mark>();

        // SAFETY: `mark` is zeroed memory. By the type invariants the group is valid.
        unsafe { c::fsnotify_init_mark(mark, self.group.as_ptr()) };
        // SAFETY: `mark` is initialized, and used by nothing else yet.
        unsafe { (*mark).mask = OPENS };
        // SAFETY: `mark` is initialized, and attached to no object; `sb` is valid.
        let added = unsafe { c::fsnotify_add_mark(mark, sb.as_raw().cast(), TYPE, 0) };
        // SAFETY: This drops the reference of `fsnotify_init_mark()`. fsnotify has taken one of its
        // own, or else this frees the mark.
        unsafe { c::fsnotify_put_mark(mark) };
        to_result(added)
    }

    /// Drops the reference to the group. May sleep.
    ///
    /// This is not [`Drop`]: a group is stored in a static, for callbacks, and statics are not
    /// dropped.
    ///
    /// # Safety
    ///
    /// No superblock may be marked any more, and the group must not be used after this.
    pub(crate) unsafe fn put(&self) {
        // SAFETY: The only requirement is that the task may sleep. Marks that still exist are about
        // to be freed, and refer to the group.
        unsafe { c::fsnotify_wait_marks_destroyed() };
        // SAFETY: By the type invariants `self` owns this reference, which by the safety
        // requirements is not used any more.
        unsafe { c::fsnotify_put_group(self.group.as_ptr()) };
    }
}
