// SPDX-License-Identifier: GPL-2.0

//! The page caches of a mapped file.
//!
//! `inode->i_data`, to which `inode->i_mapping` points, remains FUSE's page cache. FUSE fills,
//! invalidates and truncates it as its server says; a mapped file's bytes are never there. Each
//! mapped file has two more page caches:
//!
//! - **The DAX page cache** has the DAX entries, which are mapped memory and not copies. A file
//!   gets it at its first mmap(2). It is the `f_mapping` of the vm file (`vm_file`), which is where
//!   DAX looks. It is the `i_data` of an inode that only hosts it, with S_DAX and the mapped size.
//!   No superblock lists that inode, no path leads to it, and no reference to it is taken. FUSE's
//!   inode never gets S_DAX, which FUSE would take for its own DAX.
//! - **The empty page cache** is the `f_mapping` of descriptors. The kernel expects folios in a
//!   descriptor's `f_mapping`: cachestat(2) treats a DAX entry as a shadow entry. Its host is
//!   FUSE's inode, where the kernel looks for a file's size, the node id of FSYNC, and `i_rwsem` in
//!   `dax_iomap_rw()`. Writeback errors are recorded in it (`wb_err`).
//!
//! The `f_mapping` of descriptors that were opened before the map was published stays FUSE's page
//! cache.
//!
//! Kernel code that uses the `i_mapping` of a mapped file's inode finds FUSE's page cache, and can
//! do no harm there; `docs/kernel-assumptions.md` lists it. Uprobes pass the vm file along, which
//! is why `->read_folio()` is not FUSE's ([`aops`]).

use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::Ordering, //
};

use kernel::{
    ffi,
    fs::LocalFile,
    prelude::*,
    str::CStr,
    sync::SetOnce,
    types::ForeignOwnable, //
};

use crate::{
    abstractions::{
        fs::{
            address_space::AddressSpace,
            dax::Host,
            inode, //
        },
        sync::rcu::RcuHead, //
    },
    bindings::kernel as c,
    fuse::{
        COperations,
        Inode,
        Table,
        MAKING_TABLES, //
    },
    sb_info::ListedFile, //
};

use super::{
    mapped_inode::{
        header,
        Faults,
        MappedFile,
        MappedInode, //
    },
    vm_file::is_vm_file,
    writeback::{
        writepages,
        writepages_of, //
    }, //
};

/// The operations of a DAX page cache.
static DAX_AOPS: Table<c::address_space_operations> = Table(c::address_space_operations {
    writepages: Some(writepages),
    dirty_folio: Some(c::noop_dirty_folio),
    ..pin_init::zeroed()
});

/// The operations of an empty page cache.
static EMPTY_AOPS: Table<c::address_space_operations> = Table(c::address_space_operations {
    writepages: Some(write_dax_back),
    ..pin_init::zeroed()
});

/// Initializes the inode that hosts the DAX page cache of a file. Its `i_private` is the header, as
/// in FUSE's inode.
fn dax_host(inode: MappedInode<'_>) -> impl PinInit<Host> + '_ {
    let (header, inode) = (inode.header, inode.inode);
    let (size, private) = (header.mapped_size, ptr::from_ref(header).cast_mut().cast());
    let lock = (LOCK, kernel::static_lock_class!());

    // SAFETY: The superblock is valid until `inode` is evicted, and `MappedFiles::evict()` moves a
    // host that outlives that. `writepages()` is for such a page cache.
    unsafe { Host::new(inode, size, private, &DAX_AOPS.0, lock) }
}

impl MappedFile {
    /// Returns the [`MappedFile`] of an inode that is about to be mapped by mmap(2), and creates it
    /// if there is none yet. May sleep.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn get_or_make(inode: MappedInode<'_>) -> Result<&Self> {
        let header = inode.header;
        if let Some(file) = header.file() {
            file.will_be_mapped();
            return Ok(file);
        }
        let mapped_files = &header.sbi().mapped_files;
        let _making = mapped_files.making.lock();
        if let Some(file) = header.file() {
            file.will_be_mapped();
            return Ok(file);
        }
        let file = KBox::pin_init(Self::new(inode), GFP_KERNEL_ACCOUNT)?;
        let raw = file.into_foreign().cast::<Self>();
        // SAFETY: `raw` was a box, which stays until `free()`, and so longer than `inode` is in
        // use.
        let file = unsafe { &*raw };
        // In this order: a walk of the list finds every file that can fault.
        // SAFETY: `file` is in no list, its inode is in use, and it stays until it is removed.
        unsafe { mapped_files.insert(file) };
        header.file.store(raw, Ordering::Release);
        Ok(file)
    }

    fn new(inode: MappedInode<'_>) -> impl PinInit<Self> + '_ {
        let header = inode.header;

        pin_init!(Self {
            host <- dax_host(inode),
            header: NonNull::from(header),
            faults: Faults::new(),
            // SAFETY: `listed` is a field of a `MappedFile`.
            listed: unsafe { ListedFile::new(inode.inode.as_raw()) },
            rcu: RcuHead::new(),
        })
    }
}

/// The name of the `invalidate_lock` of both page caches, for lockdep.
const LOCK: &CStr = c"fuse_dax_fmap::invalidate_lock";

/// Initializes the empty page cache of a mapped file.
///
/// # Safety
///
/// `slot` must be valid for writes, and stay where it is until `inode` is evicted.
pub(super) unsafe fn init_empty(slot: *mut c::address_space, inode: &Inode) {
    let lock = (LOCK, kernel::static_lock_class!());

    // sync_file_range(2) calls `->writepages()` only if a page cache is marked dirty.
    // SAFETY: `slot` is valid until `inode` is evicted, by the safety requirements.
    unsafe { AddressSpace::init_dirty(slot, inode.as_raw(), &EMPTY_AOPS.0, lock) };
}

/// `->writepages()` of an empty page cache, for sync_file_range(2) and its kin: writes back the DAX
/// entries.
///
/// # Safety
///
/// Called by writeback, for the empty page cache of an open mapped file.
unsafe extern "C" fn write_dax_back(
    empty: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: `empty` is valid, and its host is the file's inode, which is in use.
    let inode = unsafe { inode::Inode::from_raw((*empty).host) };
    // SAFETY: The inode is mapped, by the safety requirements.
    let Some(file) = unsafe { header(inode) }.file() else {
        return 0;
    };
    // SAFETY: `wbc` is the caller's, which waits for this function.
    let wbc = unsafe { &mut *wbc };

    writepages_of(file, wbc)
}

/// FUSE's page cache operations, and the copy of them that [`aops`] returns.
static AOPS: SetOnce<Table<Aops>> = SetOnce::new();

struct Aops {
    orig: *const c::address_space_operations,
    orig_read_folio: Option<ReadFolio>,
    mapped: c::address_space_operations,
}

type ReadFolio = unsafe extern "C" fn(*mut c::file, *mut c::folio) -> ffi::c_int;

// SAFETY: `Aops` has function pointers, and a pointer to a static table of FUSE.
unsafe impl COperations for Aops {}

/// Returns the operations for FUSE's page cache of an inode that is about to be mapped: FUSE's, but
/// with the module's `->read_folio()`, and no `->bmap()`.
///
/// # Errors
///
/// [`EIO`] if the inode's operations are not those of FUSE's other regular files.
pub(super) fn aops(inode: &Inode) -> Result<*const c::address_space_operations> {
    let orig = inode.data().operations();

    if AOPS.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
        AOPS.populate(Table(Aops {
            orig,
            orig_read_folio: orig.read_folio,
            mapped: c::address_space_operations {
                read_folio: Some(read_folio),
                // FIBMAP fails, as a block number has no meaning here.
                bmap: None,
                ..*orig
            },
        }));
    }
    let table = &AOPS.as_ref().ok_or(EIO)?.0;
    // All regular files of FUSE have the same operations, or already the module's, if publishing
    // their map was tried before.
    if !ptr::eq(table.orig, orig) && !ptr::eq(&table.mapped, orig) {
        return Err(EIO);
    }
    Ok(&table.mapped)
}

/// `->read_folio()` of FUSE's page cache of a mapped file's inode.
///
/// Uprobes read an instruction this way, with the vm file. They would get the server's bytes and
/// not those in memory; and they remove a breakpoint from the VMAs in `i_mapping->i_mmap`, where
/// those of a vm file are not. So reading fails for a vm file, and no breakpoint is ever inserted.
///
/// # Safety
///
/// Called by the memory manager, with a locked folio of the page cache of a regular file.
unsafe extern "C" fn read_folio(file: *mut c::file, folio: *mut c::folio) -> ffi::c_int {
    // SAFETY: `file` is open if it is not null.
    let memory = !file.is_null() && is_vm_file(unsafe { LocalFile::from_raw_file(file) });
    let orig = AOPS.as_ref().and_then(|table| table.0.orig_read_folio);

    match orig {
        // SAFETY: `orig` is FUSE's function, and the arguments are the caller's.
        Some(orig) if !memory => unsafe { orig(file, folio) },
        _ => {
            // SAFETY: `folio` is locked, by the safety requirements.
            unsafe { c::folio_unlock(folio) };
            EIO.to_errno()
        }
    }
}
