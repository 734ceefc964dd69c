// SPDX-License-Identifier: GPL-2.0

//! The page caches of a mapped file.
//!
//! `inode->i_data` and `inode->i_mapping` stay FUSE's for ever. FUSE fills, invalidates and
//! truncates them as its server says; a mapped file's bytes are never there. Beside it each mapped
//! file has two page caches of its own:
//!
//! - **The DAX page cache** holds the DAX entries, which are mapped memory and not copies. A file
//!   gets it when it is mapped by mmap(2) for the first time. It is the `f_mapping` of what a
//!   mapping holds (`vm_file`), and DAX goes by that alone. It is the `i_data` of an inode that
//!   only hosts it, with S_DAX and the mapped size. No superblock lists that inode, no path leads
//!   to it and nothing takes a reference to it. FUSE's inode never gets S_DAX: FUSE would take that
//!   for DAX of its own.
//! - **The shown page cache** is the `f_mapping` of descriptors, and empty. The kernel takes what
//!   is in a descriptor's `f_mapping` for pages: cachestat(2) follows a DAX entry as if it were a
//!   shadow entry. Its host is FUSE's inode, for the kernel goes that way: to a file's size, to the
//!   node id of FSYNC, and from `dax_iomap_rw()` to `i_rwsem`. Errors of writeback are recorded
//!   there (`wb_err`).
//!
//! Descriptors that were opened before the map came keep FUSE's page cache as their `f_mapping`.
//!
//! Who reaches `i_mapping` of a mapped file's inode finds FUSE's page cache, and cannot do harm
//! there; `docs/kernel-assumptions.md` lists them. One of them passes the file of a mapping along,
//! uprobes do, and so `->read_folio()` is not FUSE's ([`aops`]).

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
            file::FileExt,
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
        open_file,
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

/// The operations of a shown page cache.
static EMPTY_AOPS: Table<c::address_space_operations> = Table(c::address_space_operations {
    writepages: Some(write_dax_back),
    ..pin_init::zeroed()
});

/// The inode that hosts the DAX page cache of a file. It knows the header as FUSE's does.
fn dax_host(inode: MappedInode<'_>) -> impl PinInit<Host> + '_ {
    let (header, inode) = (inode.header, inode.inode);
    let (size, private) = (header.mapped_size, ptr::from_ref(header).cast_mut().cast());
    let lock = (LOCK, kernel::static_lock_class!());

    // SAFETY: The superblock is there until the inode is evicted, and `MappedFiles::evict()` moves
    // what outlives that. `writepages()` is for such a page cache.
    unsafe { Host::new(inode, size, private, &DAX_AOPS.0, lock) }
}

impl MappedFile {
    /// The one of an inode that is about to be mapped by mmap(2), which is made if there is none
    /// yet. May sleep.
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
        // SAFETY: `raw` was a box, which stays until `free()`: longer than the inode is in use.
        let file = unsafe { &*raw };
        // In this order: what can be faulted in is found in the list.
        // SAFETY: `file` is in no list, has an inode, and stays until it is taken out.
        unsafe { mapped_files.insert(file) };
        header.file.store(raw, Ordering::Release);
        Ok(file)
    }

    fn new(inode: MappedInode<'_>) -> impl PinInit<Self> + '_ {
        let header = inode.header;

        pin_init!(Self {
            host <- dax_host(inode),
            header: NonNull::from(header),
            // SAFETY: This is that part of a mapped file.
            listed: unsafe { ListedFile::new(inode.inode.as_raw()) },
            rcu: RcuHead::new(),
        })
    }
}

/// What lockdep calls the `invalidate_lock` of either page cache.
const LOCK: &CStr = c"fuse_dax_fmap::invalidate_lock";

/// Makes the page cache that descriptors of a mapped file show.
///
/// # Safety
///
/// `slot` is valid for writes and stays where it is until `inode` is evicted.
pub(super) unsafe fn init_empty(slot: *mut c::address_space, inode: &Inode) {
    let lock = (LOCK, kernel::static_lock_class!());

    // sync_file_range(2) looks no further if nothing claims to be dirty.
    // SAFETY: `slot` is valid until `inode` is evicted, by the safety requirements.
    unsafe { AddressSpace::init_dirty(slot, inode.as_raw(), &EMPTY_AOPS.0, lock) };
}

/// `->writepages()` of a shown page cache, for sync_file_range(2) and its kin: the DAX entries are
/// written back.
///
/// # Safety
///
/// Called by writeback, for the shown page cache of an open mapped file.
unsafe extern "C" fn write_dax_back(
    empty: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: The host of `empty` is the file's inode, which is in use.
    let inode = unsafe { inode::Inode::from_raw((*empty).host) };
    // SAFETY: The inode is mapped, by the safety requirements.
    let Some(file) = unsafe { header(inode) }.file() else {
        return 0;
    };
    // SAFETY: `wbc` is the caller's, which waits.
    let wbc = unsafe { &mut *wbc };

    writepages_of(file, wbc)
}

/// Makes a file of a mapped inode show its empty page cache.
///
/// # Safety
///
/// `file` is being opened by the current task, and its inode is mapped.
pub(crate) unsafe fn set_f_mapping(file: *mut c::file) {
    // SAFETY: `file` is being opened, and its inode mapped, by the safety requirements.
    let (file, inode) = unsafe { open_file(file) };

    // SAFETY: `file` is this task's, and keeps its inode, which keeps what is shown.
    unsafe { file.set_mapping(inode.header.empty()) };
}

/// FUSE's page cache operations, and a copy of them with `read_folio` ours.
static AOPS: SetOnce<Table<Aops>> = SetOnce::new();

struct Aops {
    orig: *const c::address_space_operations,
    orig_read_folio: Option<ReadFolio>,
    mapped: c::address_space_operations,
}

type ReadFolio = unsafe extern "C" fn(*mut c::file, *mut c::folio) -> ffi::c_int;

// SAFETY: Function pointers, and a pointer to a static table of FUSE's.
unsafe impl COperations for Aops {}

/// The operations for FUSE's page cache of an inode that is about to be mapped: FUSE's, but for
/// `->read_folio()` and `->bmap()`.
pub(super) fn aops(inode: &Inode) -> Result<*const c::address_space_operations> {
    let orig = inode.data().operations();

    if AOPS.as_ref().is_none() {
        let _making = MAKING_TABLES.lock();
        AOPS.populate(Table(Aops {
            orig,
            orig_read_folio: orig.read_folio,
            mapped: c::address_space_operations {
                read_folio: Some(read_folio),
                // FIBMAP is refused, as on any file system that could not say what the number
                // means.
                bmap: None,
                ..*orig
            },
        }));
    }
    let table = &AOPS.as_ref().ok_or(EIO)?.0;
    // All regular files of FUSE have the same, or ours, if they were nearly mapped before.
    if !ptr::eq(table.orig, orig) && !ptr::eq(&table.mapped, orig) {
        return Err(EIO);
    }
    Ok(&table.mapped)
}

/// `->read_folio()` of FUSE's page cache of a mapped file's inode.
///
/// Uprobes read an instruction that way, with the file that the mapping holds. They would get the
/// server's bytes and not the memory's; and they take a breakpoint out again by way of
/// `i_mapping->i_mmap`, where a mapping of memory is not. So such a file reads nothing, and no
/// breakpoint is ever put in.
///
/// # Safety
///
/// Called by the memory manager, with a locked folio of the page cache of a regular file.
unsafe extern "C" fn read_folio(file: *mut c::file, folio: *mut c::folio) -> ffi::c_int {
    // SAFETY: A `file` that is passed is open.
    let memory = !file.is_null() && is_vm_file(unsafe { LocalFile::from_raw_file(file) });
    let orig = AOPS.as_ref().and_then(|table| table.0.orig_read_folio);

    match orig {
        // SAFETY: This is FUSE's own, with the caller's arguments.
        Some(orig) if !memory => unsafe { orig(file, folio) },
        _ => {
            // SAFETY: `folio` is locked, by the safety requirements.
            unsafe { c::folio_unlock(folio) };
            EIO.to_errno()
        }
    }
}
