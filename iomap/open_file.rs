// SPDX-License-Identifier: GPL-2.0

//! An open mapped file, and the file that its mappings hold.
//!
//! DAX keeps its entries where a mapping's file says (`f_mapping`): in `inode->i_data`. But what is in
//! `f_mapping` of a *descriptor's* file is taken for pages: cachestat(2) reads a DAX entry as the
//! shadow of an evicted page, and follows a wild pointer. So these are two files, and what a
//! descriptor shows is empty:
//!
//! ```text
//!   descriptor ---> user's file --f_mapping--> OpenFile: an empty page cache (host: the inode),
//!                     ^                          |       and where to find
//!                     | private_data             v
//!   mapping ----------+-------------------> vm file --f_mapping--> inode->i_data: DAX entries
//! ```
//!
//! An [`OpenFile`] belongs to the user's file, from open to `->release()`. It finds the vm file, but
//! does not keep it; the mappings do. The vm file keeps the user's file: the server gets RELEASE when
//! neither a descriptor nor a mapping is left, and may use the memory again.
//!
//! A file that a stacked file system has opened (FMODE_BACKING) never gets a descriptor. It uses
//! `i_data` itself, and so do the mappings that are made of it.
//!
//! A file that is open for neither reading nor writing (access mode 3) is FUSE's, and does not keep the
//! inode from being mapped later; but its descriptor must not show `i_data` then. So it has an
//! [`OpenFile`] as well, if nothing is known of the inode yet.
//!
//! # Opens that do not come to an end
//!
//! What an open of ours prepares is given up if it fails. A file that FUSE has opened itself, by
//! CREATE, is reported to us in the middle; what fails later (a lease, a listener that says no) is
//! reported to nobody. So what such a file has is in a list ([`Created`]) until it is released, and
//! what is still there when the inode is evicted belongs to nobody.

use core::{
    pin::Pin,
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
    container_of,
    error::from_err_ptr,
    ffi,
    new_spinlock,
    prelude::*,
    sync::SpinLock,
    types::Opaque, //
};

use crate::{
    bindings::kernel as c,
    fuse, //
};

use super::{
    file::{
        mmap,
        read_iter,
        AOPS, //
    },
    writeback::fsync,
    Table, //
};

/// A page cache that stays empty.
///
/// # Safety
///
/// `host` is valid as long as somebody can see the page cache.
pub(crate) unsafe fn empty_page_cache(
    host: *mut c::inode,
    a_ops: *const c::address_space_operations,
) -> impl PinInit<Opaque<c::address_space>> {
    Opaque::ffi_init(move |slot: *mut c::address_space| {
        // SAFETY: `slot` is valid for writes, and pinned.
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
    })
}

/// What an open mapped file has besides its `struct file`.
#[pin_data]
pub(crate) struct OpenFile {
    /// What the descriptor shows. Its host is the inode, as the kernel goes that way.
    #[pin]
    page_cache: Opaque<c::address_space>,
    /// What the mappings of this file hold, as long as there are any: not a reference.
    vm_file: AtomicPtr<c::file>,
    /// The list that it is in, and the next one there.
    created: Option<NonNull<Created>>,
    next: AtomicPtr<OpenFile>,
}

/// Null for a file that uses `i_data` itself.
pub(crate) struct Prepared(Option<Pin<KBox<OpenFile>>>);

impl OpenFile {
    /// What `file` will need once it is open. May sleep.
    ///
    /// # Safety
    ///
    /// `file` is being opened by the current task. If FUSE has opened it already, `created` is that of
    /// its mount.
    pub(crate) unsafe fn prepare(
        file: *const c::file,
        created: Option<&Created>,
    ) -> Result<Prepared> {
        // SAFETY: By the safety requirements.
        let (f_mode, inode) = unsafe { ((*file).f_mode, (*file).f_inode) };
        if f_mode & c::FMODE_BACKING != 0 {
            return Ok(Prepared(None));
        }
        let open_file = KBox::pin_init(
            pin_init!(Self {
                // SAFETY: The inode is in use as long as the file is open.
                page_cache <- unsafe { empty_page_cache(inode, &AOPS.0) },
                vm_file: AtomicPtr::new(ptr::null_mut()),
                created: created.map(NonNull::from),
                next: AtomicPtr::new(ptr::null_mut()),
            }),
            GFP_KERNEL_ACCOUNT,
        )?;
        // sync_file_range(2) looks no further if this says that nothing is dirty.
        // SAFETY: Nobody else has it yet.
        unsafe { (*open_file.page_cache.get()).i_pages.xa_flags |= c::XA_FLAGS_MARK_DIRTY };
        Ok(Prepared(Some(open_file)))
    }

    /// That of an open file; none if it uses `i_data` itself.
    ///
    /// # Safety
    ///
    /// `file` has been [prepared](Self::prepare) or is a vm file, and stays open as long as the result
    /// is used.
    unsafe fn of<'a>(file: *const c::file) -> Option<&'a Self> {
        // SAFETY: By the safety requirements.
        let (mapping, i_data) = unsafe { ((*file).f_mapping, &raw mut (*(*file).f_inode).i_data) };

        (mapping != i_data).then(|| {
            // SAFETY: `Prepared::give_to()` put it there, and only `release()` takes it away.
            unsafe { &*container_of!(mapping.cast::<Opaque<_>>(), Self, page_cache) }
        })
    }

    fn host(&self) -> *mut c::inode {
        // SAFETY: Written once, when it was made.
        unsafe { (*self.page_cache.get()).host }
    }
}

impl Prepared {
    /// # Safety
    ///
    /// It was prepared for `file`, which is being opened by the current task, and has [`release`].
    pub(crate) unsafe fn give_to(self, file: *mut c::file) {
        // SAFETY: By the safety requirements; a mount outlives its files.
        unsafe {
            let i_data = &raw mut (*(*file).f_inode).i_data;

            (*file).f_mapping = match self.0 {
                None => i_data,
                Some(open_file) => {
                    // It stays where it is.
                    let open_file = KBox::into_raw(Pin::into_inner_unchecked(open_file));
                    if let Some(created) = (*open_file).created {
                        created.as_ref().add(open_file);
                    }
                    (*open_file).page_cache.get()
                }
            };
            // Errors are those of the DAX entries, in either case (`writeback`).
            (*file).f_wb_err = c::filemap_sample_wb_err(i_data);
        }
    }
}

/// `->release()` of a user's file: FUSE's, and then what the file had.
///
/// # Safety
///
/// Called by the VFS, for an open file that was [prepared](OpenFile::prepare), and that nobody has any
/// more.
pub(crate) unsafe extern "C" fn release(inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: The VFS's arguments, passed on.
    let ret = unsafe { fuse::plain_release(inode, file) };

    // SAFETY: By the safety requirements; its vm file, which would keep it, is gone, too.
    if let Some(open_file) = unsafe { OpenFile::of(file) } {
        let open_file = ptr::from_ref(open_file).cast_mut();
        // SAFETY: As above. The VFS does not look at `f_mapping` after this.
        unsafe {
            (*file).f_mapping = &raw mut (*inode).i_data;
            if let Some(created) = (*open_file).created {
                created.as_ref().take(|other| ptr::eq(other, open_file));
            }
            drop(KBox::from_raw(open_file));
        }
    }
    ret
}

/// What files have that FUSE created, in a mount.
#[pin_data]
pub(crate) struct Created {
    #[pin]
    first: SpinLock<AtomicPtr<OpenFile>>,
}

impl Created {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            first <- new_spinlock!(
                AtomicPtr::new(ptr::null_mut()),
                "fuse_dax_fmap::Created::first"
            ),
        })
    }

    /// # Safety
    ///
    /// It is valid until it is taken.
    unsafe fn add(&self, open_file: *mut OpenFile) {
        let first = self.first.lock();

        // SAFETY: By the safety requirements.
        unsafe { &(*open_file).next }.store(first.load(Ordering::Relaxed), Ordering::Relaxed);
        first.store(open_file, Ordering::Relaxed);
    }

    fn take(&self, wanted: impl Fn(&OpenFile) -> bool) -> Option<NonNull<OpenFile>> {
        let first = self.first.lock();
        let mut link = &*first;

        loop {
            let here = NonNull::new(link.load(Ordering::Relaxed))?;
            // SAFETY: What is in the list is valid, as long as the lock is held.
            let open_file = unsafe { here.as_ref() };
            if wanted(open_file) {
                link.store(open_file.next.load(Ordering::Relaxed), Ordering::Relaxed);
                return Some(here);
            }
            link = &open_file.next;
        }
    }

    /// Frees what belongs to nobody, of an inode that nobody has open.
    pub(crate) fn free_of(&self, inode: *const c::inode) {
        while let Some(open_file) = self.take(|other| ptr::eq(other.host(), inode)) {
            // SAFETY: Nobody has the inode open, so this was taken for a file that was never opened.
            drop(unsafe { KBox::from_raw(open_file.as_ptr()) });
        }
    }
}

/// A reference to what a mapping holds.
///
/// # Invariants
///
/// `self` owns the reference.
pub(super) struct VmFile(NonNull<c::file>);

impl Drop for VmFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { c::fput(self.0.as_ptr()) }
    }
}

impl VmFile {
    /// What a new mapping of `file` has to hold; none if that is `file`. May sleep.
    ///
    /// All mappings of an open file hold the same, so that they can be merged. (Two that are made at
    /// the same time, and are the first, may not.)
    ///
    /// # Safety
    ///
    /// `file` is an open mapped file, or a vm file.
    pub(super) unsafe fn of(file: *mut c::file) -> Result<Option<Self>> {
        // SAFETY: By the safety requirements; a vm file uses `i_data` as well.
        let Some(open_file) = (unsafe { OpenFile::of(file) }) else {
            return Ok(None);
        };
        // SAFETY: The vm file takes itself out before it is freed, so what is there is one, with or
        // without references.
        let there = unsafe { c::get_file_active(open_file.vm_file.as_ptr()) };
        if let Some(there) = NonNull::new(there) {
            // INVARIANT: It was taken just now.
            return Ok(Some(Self(there)));
        }
        // SAFETY: By the safety requirements, and it has an `OpenFile`.
        let new = unsafe { Self::new(file) }?;
        // Pairs with the dependency in `get_file_active()`.
        open_file.vm_file.store(new.0.as_ptr(), Ordering::Release);
        Ok(Some(new))
    }

    /// # Safety
    ///
    /// `user_file` is an open mapped file with an [`OpenFile`].
    #[cold]
    unsafe fn new(user_file: *mut c::file) -> Result<Self> {
        // SAFETY: By the safety requirements; a file keeps its credentials.
        let file = from_err_ptr(unsafe {
            let flags = (*user_file).f_flags as ffi::c_int;
            c::alloc_empty_backing_file(flags, (*user_file).f_cred, user_file)
        })?;

        // SAFETY: The file is ours alone, and has a place for two references to a path: of the file,
        // and of what users are shown instead. The user's file has them, and an inode in use.
        unsafe {
            let inode = (*user_file).f_inode;
            let path = &raw const (*user_file).__bindgen_anon_1.f_path;

            c::path_get(path);
            (*file).__bindgen_anon_1.__f_path = *path;
            c::path_get(path);
            c::backing_file_set_user_path(file, path);
            (*file).f_inode = inode;
            (*file).f_mapping = &raw mut (*inode).i_data;
            (*file).f_iocb_flags = (*user_file).f_iocb_flags;
            (*file).private_data = c::get_file(user_file).cast();
            (*file).f_op = &VM_FILE_OPERATIONS.0;
            (*file).f_mode &= !c::FMODE_FSNOTIFY_MASK;
            (*file).f_mode |= c::FMODE_NONOTIFY | c::FMODE_CAN_READ | c::FMODE_OPENED;
        }
        // INVARIANT: The first reference is ours.
        Ok(Self(NonNull::new(file).ok_or(ENOMEM)?))
    }

    pub(super) fn as_raw(&self) -> *mut c::file {
        self.0.as_ptr()
    }
}

/// What the memory manager asks of a mapping's file; reading is for those who look for a build id.
///
/// A vm file keeps the user's file, and that keeps the mount: it needs no module.
static VM_FILE_OPERATIONS: Table<c::file_operations> = Table(c::file_operations {
    read_iter: Some(read_iter),
    // remap_file_pages(2) maps it once more.
    mmap: Some(mmap),
    get_unmapped_area: Some(c::thp_get_unmapped_area),
    fsync: Some(vm_file_fsync),
    release: Some(vm_file_release),
    ..pin_init::zeroed()
});

/// The user's file, of what a mapping holds.
///
/// # Safety
///
/// `file` is what a mapping of a mapped file holds.
pub(super) unsafe fn user_file(file: *mut c::file) -> *mut c::file {
    // SAFETY: By the safety requirements; the user's file is there since `VmFile::new()`.
    unsafe {
        if ptr::eq((*file).f_op, &VM_FILE_OPERATIONS.0) {
            (*file).private_data.cast()
        } else {
            file
        }
    }
}

/// msync(2).
///
/// # Safety
///
/// As `->fsync()`, for a vm file.
unsafe extern "C" fn vm_file_fsync(
    file: *mut c::file,
    start: c::loff_t,
    end: c::loff_t,
    datasync: ffi::c_int,
) -> ffi::c_int {
    // SAFETY: The VFS's arguments, passed on with an open mapped file.
    unsafe { fsync(user_file(file), start, end, datasync) }
}

/// The last mapping is gone.
///
/// # Safety
///
/// As `->release()`, for a vm file.
unsafe extern "C" fn vm_file_release(_inode: *mut c::inode, file: *mut c::file) -> ffi::c_int {
    // SAFETY: By the safety requirements nobody has the file any more; the user's file is its own to
    // give up, and an open mapped file with an `OpenFile` until then.
    unsafe {
        let user_file = user_file(file);

        if let Some(open_file) = OpenFile::of(user_file) {
            let _ = open_file.vm_file.compare_exchange(
                file,
                ptr::null_mut(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            );
        }
        // The inode counts its readers, for leases. This is none: the user's file is.
        (*file).f_mode &= !c::FMODE_READ;
        c::fput(user_file);
    }
    0
}
