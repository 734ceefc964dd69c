// SPDX-License-Identifier: GPL-2.0

//! A mapped file: its header, `iomap_begin()`, and the operations of its file, its mappings and its
//! page cache.
//!
//! `inode->i_private`, which FUSE leaves alone, says what a file of a bound mount is ([`State`]). For
//! a mapped file it points to a [`Header`]: one load from the inode, and the first cache line has all
//! that the fault path needs before it calls the program; the program's metadata lies right behind.
//! A header is published once, with the inode lock held, and freed when the inode is evicted; nobody
//! can be inside an operation of an inode that is being evicted.
//!
//! # Two page caches
//!
//! FUSE invalidates and truncates the page cache of an inode whenever its server's attributes,
//! notifications or opens say so. It must not do that to DAX entries, which are mapped memory and not
//! copies. So a mapped file does what a block device does: its files and mappings use
//! `inode->i_data` (`file->f_mapping`), and `inode->i_mapping`, which is what FUSE works on, is an
//! empty page cache that all mapped files of the mount share.
//!
//! # Locks
//!
//! In this order: `inode->i_rwsem` (writes exclusively, reads shared, publishing exclusively),
//! `mmap_lock`, `i_data.invalidate_lock` (faults, shared), a DAX entry, `Devices::tenancy`. The last is
//! the only one of ours in the fault path, and only the first touch of a piece of memory takes it.
//!
//! # Who judges
//!
//! The program says where a byte is; [`Header::judge`] says whether it may be there. What is not
//! inside a held device that the file declared is refused with EIO; so is, in a fault, memory that is
//! mapped at another place already ([`Header::move_in`]).

use core::{
    alloc::Layout,
    mem::size_of,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    alloc::{
        allocator::KVmalloc,
        Allocator,
        NumaNode, //
    },
    container_of,
    error::to_result,
    ffi,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::Relaxed,
        lock::{
            mutex::MutexBackend,
            Guard, //
        },
        Mutex,
        SetOnce, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    bindings::kernel as c,
    bpf_struct_ops::{
        Claim,
        Parsed,
        Resolver, //
    },
    daxdev::Device,
    fmap_ops::Mount,
    fuse::{
        Connection,
        Inode,
        MAKING_TABLES, //
    },
    ratelimit::pr_warn_limited, //
};

const PAGE: u64 = PAGE_SIZE as u64;
const PMD_SIZE: u64 = 2 << 20;

/// What is known of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Nothing: nobody has opened it yet, or the opens failed.
    Unknown,
    /// It has no map and is served by FUSE alone.
    Plain,
    /// It is mapped.
    Mapped,
}

/// `i_private` of a file without a map. No header has this address.
const PLAIN: *mut ffi::c_void = ptr::without_provenance_mut(1);

/// What a mapped file costs besides its metadata, which follows immediately.
///
/// # Invariants
///
/// - `meta_len` bytes of metadata follow.
/// - `mount` outlives the inode: its connection is freed after the last inode.
#[repr(C, align(64))]
struct Header {
    resolver: Resolver,
    mount: NonNull<Mount>,
    dev_bitmap: u64,
    mapped_size: u64,
    meta_len: u32,
}

const _: () = assert!(size_of::<Header>() == 64);

/// A header that is not published yet: only the metadata is there.
///
/// # Invariants
///
/// The pointer owns an allocation of [`Fmap::layout`], zeroed or written.
pub(crate) struct Fmap {
    header: NonNull<Header>,
    meta_len: u32,
}

impl Fmap {
    fn layout(meta_len: u32) -> Result<Layout> {
        let size = size_of::<Header>() + meta_len as usize;
        Layout::from_size_align(size, align_of::<Header>()).map_err(|_| EINVAL)
    }

    /// Room for a header and `meta_len` zeroed bytes of metadata, accounted to the opener. May sleep.
    pub(crate) fn new(meta_len: u32) -> Result<Self> {
        let flags = GFP_KERNEL_ACCOUNT | __GFP_ZERO;
        let memory = KVmalloc::alloc(Self::layout(meta_len)?, flags, NumaNode::NO_NODE)?;

        // INVARIANT: Allocated just now.
        Ok(Self {
            header: memory.cast(),
            meta_len,
        })
    }

    pub(crate) fn meta_mut(&mut self) -> &mut [u8] {
        // SAFETY: By the type invariants this many bytes follow the header, they are initialized,
        // and `self` owns them.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.header.add(1).cast().as_ptr(),
                self.meta_len as usize,
            )
        }
    }

    fn into_header(self, header: Header) -> NonNull<Header> {
        let memory = self.header;

        core::mem::forget(self);
        // SAFETY: By the type invariants the allocation has room for a header, and was ours.
        unsafe { memory.write(header) };
        memory
    }
}

impl Drop for Fmap {
    fn drop(&mut self) {
        if let Ok(layout) = Self::layout(self.meta_len) {
            // SAFETY: By the type invariants; allocated with this layout.
            unsafe { KVmalloc::free(self.header.cast(), layout) };
        }
    }
}

/// Why a mapping is refused.
enum Refusal {
    Program(Error),
    BeyondFile,
    Empty,
    Unaligned,
    UndeclaredDevice,
    FailedDevice,
    BeyondDevice,
    SharedMemory,
    Moved,
}

impl Refusal {
    fn cause(&self) -> &'static str {
        match self {
            Self::Program(_) => "iomap_begin() returns an error",
            Self::BeyondFile => "beyond the end of the file",
            Self::Empty => "length 0",
            Self::Unaligned => "address or length are no multiples of the page size",
            Self::UndeclaredDevice => "a device that the file has not declared",
            Self::FailedDevice => "the device has failed",
            Self::BeyondDevice => "beyond the end of the device",
            Self::SharedMemory => "memory that is mapped at another place of a file",
            Self::Moved => "another place than the one that is mapped",
        }
    }
}

/// A mapping that may be used.
struct Mapping<'a> {
    device: &'a Device,
    addr: u64,
    offset: u64,
    length: u64,
}

impl Header {
    #[inline]
    fn meta(&self) -> &[u8] {
        // SAFETY: By the type invariants this many bytes follow, and nobody writes them any more.
        unsafe {
            core::slice::from_raw_parts(ptr::from_ref(self).add(1).cast(), self.meta_len as usize)
        }
    }

    #[inline]
    fn mount(&self) -> &Mount {
        // SAFETY: By the type invariants.
        unsafe { self.mount.as_ref() }
    }

    /// Asks the program where `pos` is, and judges the answer.
    #[inline]
    fn resolve(&self, pos: u64, length: u64, i_size: u64) -> Result<Mapping<'_>, Refusal> {
        if pos >= i_size.min(self.mapped_size) {
            return Err(Refusal::BeyondFile);
        }
        // Sizes and lengths are at most i64::MAX, so nothing overflows; `pos` is inside.
        let page_end = |byte: u64| (byte + (PAGE - 1)) & !(PAGE - 1);
        let end = page_end(self.mapped_size);
        let offset = pos & !(PAGE - 1);
        let wanted = page_end(pos - offset + length).min(end - offset);

        let claim = self
            .resolver
            .resolve(self.meta(), offset, wanted, self.mapped_size)
            .map_err(Refusal::Program)?;
        self.judge(claim, offset, end)
    }

    /// The kernel's own opinion of a claim about `offset`, in a file that ends at `end`.
    #[inline]
    fn judge(&self, claim: Claim, offset: u64, end: u64) -> Result<Mapping<'_>, Refusal> {
        let Claim {
            addr,
            length,
            dev_index,
        } = claim;

        if length == 0 {
            return Err(Refusal::Empty);
        }
        if (addr | length) % PAGE != 0 {
            return Err(Refusal::Unaligned);
        }
        if dev_index >= u64::BITS || self.dev_bitmap & (1 << dev_index) == 0 {
            return Err(Refusal::UndeclaredDevice);
        }
        let Some(device) = self.mount().devices.get(dev_index) else {
            return Err(Refusal::FailedDevice);
        };
        match addr.checked_add(length) {
            Some(end) if end <= device.size() => (),
            _ => return Err(Refusal::BeyondDevice),
        }
        Ok(Mapping {
            device,
            addr,
            offset,
            length: length.min(end - offset),
        })
    }

    /// Makes sure that a fault maps memory that this place of the file has, or may have.
    ///
    /// `pages` are the pages that the fault may map, from `pos` on. DAX has an entry for the first of
    /// them, and holds it locked: another fault does not change it meanwhile.
    ///
    /// If nobody has the memory yet, the result is a lock to be held until DAX has noted the tenant.
    #[inline]
    fn move_in(
        &self,
        inode: *const c::inode,
        mapping: &Mapping<'_>,
        pos: u64,
        pages: u64,
    ) -> Result<Option<Guard<'_, (), MutexBackend>>, Refusal> {
        let addr = mapping.addr + (pos - mapping.offset);
        // SAFETY: `inode` is in use, as we are called for it.
        let entry = unsafe { DaxEntry::at(inode, pos / PAGE) };

        if let Some(pfn) = entry.and_then(|entry| entry.pfn_of(pos / PAGE)) {
            return match mapping.device.with_frames(addr, 1, |frames| frames.pfn) {
                Some(claimed) if claimed == Some(pfn) => Ok(None),
                Some(_) => Err(Refusal::Moved),
                None => Err(Refusal::FailedDevice),
            };
        }
        let guard = self.mount().devices.tenancy.lock();
        let vacant = mapping.device.with_frames(addr, pages, |frames| {
            // SAFETY: We are inside.
            unsafe { frames.are_vacant() }
        });
        match vacant {
            Some(true) => Ok(Some(guard)),
            Some(false) => Err(Refusal::SharedMemory),
            None => Err(Refusal::FailedDevice),
        }
    }
}

/// What DAX has noted for a page of a file: the page frames that back it.
///
/// An entry is a value in the page cache. Its bits are DAX's own (fs/dax.c): from bit 4 on the page
/// frame, and below it whether it is locked (0), 2 MiB (1), a hole (2) or not backed yet (3).
#[derive(Clone, Copy)]
struct DaxEntry(usize);

impl DaxEntry {
    const PMD: usize = 1 << 1;
    const UNBACKED: usize = 1 << 2 | 1 << 3;
    const PFN_SHIFT: u32 = 4;

    /// The entry for page `index`, if there is one.
    ///
    /// # Safety
    ///
    /// `inode` is a mapped one, in use.
    #[inline]
    unsafe fn at(inode: *const c::inode, index: u64) -> Option<Self> {
        // SAFETY: By the safety requirements. The tree may change meanwhile, under RCU.
        let entry = unsafe {
            let pages = ptr::addr_of!((*inode).i_data.i_pages).cast_mut();
            c::xa_load(pages, index as ffi::c_ulong)
        };
        // What is not a value is no entry of DAX.
        let value = entry as usize;
        (value & 1 != 0).then_some(Self(value >> 1))
    }

    /// The page frame behind page `index` of the file, if it is backed.
    #[inline]
    fn pfn_of(self, index: u64) -> Option<u64> {
        if self.0 & Self::UNBACKED != 0 {
            return None;
        }
        let first = (self.0 >> Self::PFN_SHIFT) as u64;
        let within = if self.0 & Self::PMD != 0 {
            index % (PMD_SIZE / PAGE)
        } else {
            0
        };
        Some(first + within)
    }
}

// --- State of an inode --------------------------------------------------------------------------

/// The header of a mapped inode.
///
/// # Safety
///
/// The inode is mapped, and not being evicted.
#[inline]
unsafe fn header<'a>(inode: *const c::inode) -> &'a Header {
    // SAFETY: The inode is valid by the safety requirements, its header was published before anybody
    // got here, and it stays until eviction.
    unsafe {
        &*ptr::addr_of!((*inode).i_private)
            .read_volatile()
            .cast::<Header>()
    }
}

/// `i_size_read()` on a 64-bit machine; negative sizes do not occur.
///
/// # Safety
///
/// The inode is valid.
#[inline]
unsafe fn i_size(inode: *const c::inode) -> u64 {
    // SAFETY: By the safety requirements.
    unsafe { ptr::addr_of!((*inode).i_size).read_volatile() }.max(0) as u64
}

/// The pointer that says what is known of a file, as an atomic.
fn i_private(inode: &Inode) -> &core::sync::atomic::AtomicPtr<ffi::c_void> {
    // SAFETY: The inode is valid as long as `inode`, and the field is accessed atomically by all who
    // may race: here, and by single loads in the fault path.
    unsafe {
        core::sync::atomic::AtomicPtr::from_ptr(ptr::addr_of_mut!((*inode.as_raw()).i_private))
    }
}

pub(crate) fn state(inode: &Inode) -> State {
    // Pairs with the release in `publish()`.
    match i_private(inode).load(core::sync::atomic::Ordering::Acquire) {
        private if private.is_null() => State::Unknown,
        PLAIN => State::Plain,
        _ => State::Mapped,
    }
}

/// Remembers that a file has no map, until it is evicted.
pub(crate) fn remember_plain(inode: &Inode) {
    let _locked = inode.lock();

    i_private(inode).store(PLAIN, core::sync::atomic::Ordering::Release);
}

/// Makes a file a mapped one, if its page cache can be emptied, and returns what it is now: `Plain`
/// means for this open, not for ever.
///
/// The caller alone settles this file at the moment, and nobody else has it open.
///
/// # Errors
///
/// [`EBUSY`] if the server is in the middle of a notification for too long.
pub(crate) fn publish(inode: &Inode, parsed: Parsed, conn: &Connection) -> Result<State> {
    let file_i_op = inode_operations(inode)?;

    if inode.empty_page_cache().is_err() {
        return Ok(State::Plain);
    }
    // Nothing comes into the page cache then: pages that the server stores are a notification.
    let _silence = conn.hold_off_notifications()?;
    let _locked = inode.lock();

    if !inode.has_empty_page_cache() {
        return Ok(State::Plain);
    }
    // SAFETY: The connection, which owns the pin, is freed after the last inode.
    let resolver = unsafe { conn.mount().ops.resolver() }?;
    let raw = inode.as_raw();
    let meta_len = parsed.fmap.meta_len;
    // INVARIANT: `meta_len` is that of the allocation; the mount is the inode's.
    let header = parsed.fmap.into_header(Header {
        resolver,
        mount: NonNull::from(conn.mount()),
        dev_bitmap: parsed.dev_bitmap,
        mapped_size: parsed.file_size,
        meta_len,
    });

    // SAFETY: The inode is valid and locked, its page cache is empty, and nobody has it open: nobody
    // else looks at these fields in a way that could mind.
    unsafe {
        (*raw).i_data.a_ops = &AOPS.0;
        (*raw).i_mapping = conn.empty_page_cache();
        (*raw).i_op = file_i_op;
    }
    inode.change_flags(|flags| flags | c::S_DAX);
    i_private(inode).store(
        header.as_ptr().cast(),
        core::sync::atomic::Ordering::Release,
    );
    conn.mount().files.add(1, Relaxed);
    Ok(State::Mapped)
}

/// Takes everything of ours off an inode that is being evicted, so that FUSE finds its own.
///
/// # Safety
///
/// Called by `->evict_inode()` of a bound mount, before FUSE's.
pub(crate) unsafe fn evict(inode: *mut c::inode) {
    // SAFETY: The inode is valid and nobody else has it any more, by the safety requirements.
    let private = unsafe { ptr::replace(ptr::addr_of_mut!((*inode).i_private), ptr::null_mut()) };

    if private.is_null() || private == PLAIN {
        return;
    }
    let header = private.cast::<Header>();
    // SAFETY: `publish()` put it there, and by its type invariants the mount is still there.
    let (mount, meta_len) = unsafe { ((*header).mount.as_ref(), (*header).meta_len) };

    // SAFETY: As above, and the inode is mapped: it has DAX entries in `i_data` and nowhere else.
    // Without S_DAX FUSE does not look for DAX state of its own.
    unsafe {
        vacate(inode, mount);
        c::truncate_inode_pages_final(ptr::addr_of_mut!((*inode).i_data));
        (*inode).i_mapping = ptr::addr_of_mut!((*inode).i_data);
        (*inode).i_flags &= !c::S_DAX;
    }
    mount.files.add(-1, Relaxed);
    if let Some(header) = NonNull::new(header) {
        // INVARIANT: Nobody points to the allocation any more.
        drop(Fmap { header, meta_len });
    }
}

/// Unmaps a mapped inode and gives up the memory it has, once nobody does I/O to it any more.
///
/// # Safety
///
/// The inode is mapped, of this mount, and in use or being evicted.
unsafe fn vacate(inode: *mut c::inode, mount: &Mount) {
    // SAFETY: By the safety requirements. `dax_layout_busy_page()` unmaps everything first; what is
    // left then are short references for direct I/O.
    unsafe {
        let mapping = ptr::addr_of_mut!((*inode).i_data);

        while !c::dax_layout_busy_page(mapping).is_null() {
            fsleep(Delta::from_millis(1));
        }
        let _tenancy = mount.devices.tenancy.lock();
        c::dax_delete_mapping_range(mapping, 0, c::loff_t::MAX);
    }
}

/// Unmaps all files of a mount and gives up their memory. What they map again is judged again.
///
/// # Safety
///
/// `sb` is bound, and kept mounted by the caller.
pub(crate) unsafe fn vacate_all(sb: *mut c::super_block) {
    // SAFETY: By the safety requirements. An inode that is held stays in the list, so the next one
    // can be found from it once the lock has been given up.
    unsafe {
        let list = ptr::addr_of_mut!((*sb).s_inodes);
        let lock = ptr::addr_of_mut!((*sb).s_inode_list_lock);
        let mut held: *mut c::inode = ptr::null_mut();

        c::spin_lock(lock);
        let mut entry = (*list).next;
        while entry != list {
            let inode = container_of!(entry, c::inode, i_sb_list);

            if !c::igrab(inode).is_null() {
                c::spin_unlock(lock);
                if !held.is_null() {
                    c::iput(held);
                }
                held = inode;
                vacate_held(inode);
                c::spin_lock(lock);
            }
            entry = (*entry).next;
        }
        c::spin_unlock(lock);
        if !held.is_null() {
            c::iput(held);
        }
    }
}

/// # Safety
///
/// The inode is of a bound mount, and held by the caller.
unsafe fn vacate_held(inode: *mut c::inode) {
    // SAFETY: By the safety requirements; a header that is seen stays until eviction. With the lock
    // no fault is under way.
    unsafe {
        let private = ptr::addr_of!((*inode).i_private).read_volatile();

        if u32::from((*inode).i_mode) & c::S_IFMT != c::S_IFREG
            || private.is_null()
            || private == PLAIN
        {
            return;
        }
        let mount = (*private.cast::<Header>()).mount.as_ref();
        let invalidate_lock = ptr::addr_of_mut!((*inode).i_data.invalidate_lock);

        c::down_write(invalidate_lock);
        vacate(inode, mount);
        c::up_write(invalidate_lock);
    }
}

// --- iomap --------------------------------------------------------------------------------------

static IOMAP_OPS: c::iomap_ops = c::iomap_ops {
    iomap_begin: Some(iomap_begin),
    iomap_end: Some(iomap_end),
    ..pin_init::zeroed()
};

/// `iomap_begin()` of a mapped file.
///
/// # Safety
///
/// Called by the DAX core for a mapped inode that is in use.
unsafe extern "C" fn iomap_begin(
    inode: *mut c::inode,
    pos: c::loff_t,
    length: c::loff_t,
    flags: ffi::c_uint,
    iomap: *mut c::iomap,
    _srcmap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: By the safety requirements.
    let (header, i_size) = unsafe { (header(inode), i_size(inode)) };
    let (pos, length) = (pos as u64, length as u64);

    let resolved = header.resolve(pos, length, i_size).and_then(|mapping| {
        let moving_in = if flags & c::IOMAP_FAULT != 0 {
            let pages = length.min(mapping.length - (pos - mapping.offset)) / PAGE;
            header.move_in(inode, &mapping, pos, pages)?
        } else {
            None
        };
        Ok((mapping, moving_in))
    });
    match resolved {
        Ok((mapping, moving_in)) => {
            // SAFETY: `iomap` is the caller's, zeroed, to be filled in.
            unsafe {
                (*iomap).addr = mapping.addr;
                (*iomap).offset = mapping.offset as c::loff_t;
                (*iomap).length = mapping.length;
                (*iomap).type_ = c::IOMAP_MAPPED as u16;
                (*iomap).dax_dev = mapping.device.as_raw();
                (*iomap).private = moving_in
                    .map_or(ptr::null(), |guard| {
                        let lock = ptr::from_ref(guard.lock_ref());
                        core::mem::forget(guard);
                        lock
                    })
                    .cast_mut()
                    .cast();
            }
            0
        }
        // SAFETY: By the safety requirements.
        Err(refusal) => unsafe { refused(inode, header, pos, length, flags, refusal) }.to_errno(),
    }
}

/// `iomap_end()`: a first touch is over.
///
/// # Safety
///
/// Called by the DAX core after [`iomap_begin`], by the same task.
unsafe extern "C" fn iomap_end(
    _inode: *mut c::inode,
    _pos: c::loff_t,
    _length: c::loff_t,
    _written: isize,
    _flags: ffi::c_uint,
    iomap: *mut c::iomap,
) -> ffi::c_int {
    // SAFETY: `iomap_begin()` left null there, or a lock that this task holds.
    unsafe {
        if let Some(lock) = (*iomap).private.cast::<Mutex<()>>().as_ref() {
            drop(Guard::new(lock, ()));
        }
    }
    0
}

/// Logs a refusal, and turns it into the errno of the operation.
///
/// # Safety
///
/// The inode is valid.
#[cold]
unsafe fn refused(
    inode: *const c::inode,
    header: &Header,
    pos: u64,
    length: u64,
    flags: ffi::c_uint,
    refusal: Refusal,
) -> Error {
    let mount = header.mount();

    // A 2 MiB fault that is refused is tried again as one of 4 KiB.
    if flags & c::IOMAP_FAULT == 0 || length <= PAGE {
        pr_warn_limited!(
            mount.mappings,
            "ops {}: inode {} at {:#x}: {}\n",
            mount.ops.name(),
            // SAFETY: By the safety requirements.
            unsafe { (*inode).i_ino },
            pos,
            refusal.cause()
        );
    }
    match refusal {
        // A fault knows no errno but these: ENOMEM would be retried for ever, EHWPOISON believed.
        Refusal::Program(errno) if flags & c::IOMAP_FAULT == 0 => errno,
        _ => EIO,
    }
}

// --- Faults -------------------------------------------------------------------------------------

/// A page fault of any size. FUSE does not know freezing, so there is nothing to hold off.
///
/// # Safety
///
/// Called by the memory manager for a mapping of a mapped file.
unsafe fn fault(vmf: *mut c::vm_fault, order: ffi::c_uint) -> c::vm_fault_t {
    // SAFETY: The file of a mapping is open, so its inode is in use; it is a mapped one, because
    // only `mmap_prepare()` hands out these operations.
    unsafe {
        let vma = (*vmf).__bindgen_anon_1.vma;
        let file = (*vma).vm_file;
        let invalidate_lock = ptr::addr_of_mut!((*(*file).f_mapping).invalidate_lock);
        let mut pfn = 0;

        if (*vmf).flags & c::fault_flag_FAULT_FLAG_WRITE != 0
            && (*vma).__bindgen_anon_2.vm_flags & c::VM_SHARED as ffi::c_ulong != 0
            && (*(*file).f_inode).i_flags & c::S_NOCMTIME == 0
        {
            c::file_update_time(file);
        }
        c::down_read(invalidate_lock);
        let ret = c::dax_iomap_fault(vmf, order, &mut pfn, ptr::null_mut(), &IOMAP_OPS);
        c::up_read(invalidate_lock);
        ret
    }
}

/// A fault of 2^`order` pages.
///
/// # Safety
///
/// Called by the memory manager, for a mapping of a mapped file.
unsafe extern "C" fn huge_fault(vmf: *mut c::vm_fault, order: ffi::c_uint) -> c::vm_fault_t {
    // SAFETY: Called by the memory manager.
    unsafe { fault(vmf, order) }
}

/// A fault of one page.
///
/// # Safety
///
/// Called by the memory manager, for a mapping of a mapped file.
unsafe extern "C" fn page_fault(vmf: *mut c::vm_fault) -> c::vm_fault_t {
    // SAFETY: Called by the memory manager.
    unsafe { fault(vmf, 0) }
}

static VM_OPS: Table<c::vm_operations_struct> = Table(c::vm_operations_struct {
    fault: Some(page_fault),
    huge_fault: Some(huge_fault),
    page_mkwrite: Some(page_fault),
    pfn_mkwrite: Some(page_fault),
    ..pin_init::zeroed()
});

/// Maps in 2 MiB pieces where memory and addresses allow it.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
unsafe extern "C" fn mmap_prepare(desc: *mut c::vm_area_desc) -> ffi::c_int {
    const BITS: usize = usize::BITS as usize;
    const HUGEPAGE: usize = c::VMA_HUGEPAGE_BIT as usize;

    // SAFETY: The descriptor of a mapping that is being made is the caller's, to be filled in.
    unsafe {
        (*desc).vm_ops = &VM_OPS.0;
        (*desc).vma_flags.__vma_flags[HUGEPAGE / BITS] |= 1 << (HUGEPAGE % BITS);
    }
    0
}

// --- Reads and writes ---------------------------------------------------------------------------

/// `inode->i_rwsem`, held for I/O.
struct IoLock {
    sem: *mut c::rw_semaphore,
    exclusive: bool,
}

impl IoLock {
    /// # Safety
    ///
    /// The inode of `iocb` stays in use until the lock is dropped.
    unsafe fn new(iocb: *mut c::kiocb, exclusive: bool) -> Result<Self> {
        // SAFETY: The iocb and its file are valid.
        unsafe {
            let sem = ptr::addr_of_mut!((*(*(*iocb).ki_filp).f_inode).i_rwsem);
            let nowait = (*iocb).ki_flags & c::IOCB_NOWAIT != 0;

            let locked = match (nowait, exclusive) {
                (true, true) => c::down_write_trylock(sem) != 0,
                (true, false) => c::down_read_trylock(sem) != 0,
                (false, true) => {
                    c::down_write(sem);
                    true
                }
                (false, false) => {
                    c::down_read(sem);
                    true
                }
            };
            locked.then_some(Self { sem, exclusive }).ok_or(EAGAIN)
        }
    }
}

impl Drop for IoLock {
    fn drop(&mut self) {
        // SAFETY: `new()` took it in this mode, and the inode is still in use.
        unsafe {
            if self.exclusive {
                c::up_write(self.sem);
            } else {
                c::up_read(self.sem);
            }
        }
    }
}

/// I/O through DAX, cut at the end of the file: the smaller of its size and its mapped size.
///
/// Returns `None` if `ki_pos` is not before the end.
///
/// # Safety
///
/// `iocb` and `iter` are valid and for a mapped file; the inode lock is held as DAX asks for.
unsafe fn dax_rw(iocb: *mut c::kiocb, iter: *mut c::iov_iter) -> Option<isize> {
    // SAFETY: By the safety requirements.
    unsafe {
        let inode = (*(*iocb).ki_filp).f_inode;
        let end = i_size(inode).min(header(inode).mapped_size);
        let left = end.saturating_sub((*iocb).ki_pos.max(0) as u64);
        if left == 0 {
            return None;
        }

        let count = c::iov_iter_count(iter);
        let cut = count.saturating_sub(left as usize);
        c::iov_iter_truncate(iter, left);
        let done = c::dax_iomap_rw(iocb, iter, &IOMAP_OPS);
        c::iov_iter_reexpand(iter, c::iov_iter_count(iter) + cut);
        Some(done)
    }
}

/// read(2) and its kin.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
unsafe extern "C" fn read_iter(iocb: *mut c::kiocb, to: *mut c::iov_iter) -> isize {
    // SAFETY: The VFS passes valid arguments, and keeps the file open meanwhile.
    let _locked = match unsafe { IoLock::new(iocb, false) } {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    // SAFETY: As above; locked shared, as reads have to be.
    unsafe { dax_rw(iocb, to) }.unwrap_or(0)
}

/// write(2) and its kin.
///
/// # Safety
///
/// Called by the VFS, for an open mapped file.
unsafe extern "C" fn write_iter(iocb: *mut c::kiocb, from: *mut c::iov_iter) -> isize {
    // SAFETY: The VFS passes valid arguments, and keeps the file open meanwhile.
    let locked = match unsafe { IoLock::new(iocb, true) } {
        Ok(locked) => locked,
        Err(errno) => return errno.to_errno() as isize,
    };
    // SAFETY: As above.
    let checked = unsafe { c::generic_write_checks(iocb, from) };
    if checked <= 0 {
        return checked;
    }
    // SAFETY: As above, with the inode locked exclusively.
    if let Err(errno) = to_result(unsafe { modified(iocb) }) {
        return errno.to_errno() as isize;
    }
    // A file in memory that is all assigned does not grow: it is full, like a block device.
    // SAFETY: As above; locked exclusively, as writes have to be.
    let done = unsafe { dax_rw(iocb, from) }.unwrap_or(ENOSPC.to_errno() as isize);
    drop(locked);
    if done > 0 {
        // SAFETY: As above; without the inode lock, which fsync may take.
        return unsafe { c::generic_write_sync(iocb, done) };
    }
    done
}

/// Takes privileges off and updates times before a write.
///
/// FUSE asks its server for file capabilities before every write, unless the inode is known to have
/// none. Once asked, it is known, until somebody sets them through this mount or the server's
/// attributes change: both clear S_NOSEC again.
///
/// # Safety
///
/// `iocb` is valid and for a mapped file; the inode lock is held exclusively.
unsafe fn modified(iocb: *mut c::kiocb) -> ffi::c_int {
    // SAFETY: By the safety requirements.
    unsafe {
        let inode = (*(*iocb).ki_filp).f_inode;
        let ret = c::kiocb_modified(iocb);

        if ret == 0 && u32::from((*inode).i_mode) & (c::S_ISUID | c::S_ISGID) == 0 {
            Inode::new(inode).change_flags(|flags| flags | c::S_NOSEC);
        }
        ret
    }
}

// --- Tables -------------------------------------------------------------------------------------

/// A table of C operations.
#[repr(transparent)]
pub(crate) struct Table<T>(pub(crate) T);

// SAFETY: Function pointers and plain pointers to static tables: nothing belongs to a task, and
// nothing is written once the table is made.
unsafe impl<T> Send for Table<T> {}
// SAFETY: As above.
unsafe impl<T> Sync for Table<T> {}

/// Operations of a page cache that nobody reads or writes.
pub(crate) fn empty_aops() -> *const c::address_space_operations {
    static EMPTY: Table<c::address_space_operations> = Table(pin_init::zeroed());

    &EMPTY.0
}

static AOPS: Table<c::address_space_operations> = Table(c::address_space_operations {
    writepages: Some(writepages),
    dirty_folio: Some(c::noop_dirty_folio),
    ..pin_init::zeroed()
});

/// Flushes dirty DAX entries, if the device says that it has a write cache; fsdev_dax does not.
///
/// Entries do not know their device, and flushing does not depend on it: any device of the file will
/// do.
///
/// # Safety
///
/// Called by writeback, for the page cache of a mapped inode.
unsafe extern "C" fn writepages(
    mapping: *mut c::address_space,
    wbc: *mut c::writeback_control,
) -> ffi::c_int {
    // SAFETY: The host of a page cache that has these operations is a mapped inode in use; writeback
    // holds a reference to it.
    let header = unsafe { header((*mapping).host) };
    let index = header.dev_bitmap.trailing_zeros();

    match header.mount().devices.get(index) {
        // SAFETY: As above; the device is held until the last inode is gone.
        Some(device) => unsafe { c::dax_writeback_mapping_range(mapping, device.as_raw(), wbc) },
        None => EIO.to_errno(),
    }
}

/// The operations of an open mapped file: FUSE's for what concerns the server (FLUSH, FSYNC, RELEASE,
/// locks, ioctls), ours for what concerns memory.
///
/// What is left out fails as it does for any file that cannot do it: fallocate with EOPNOTSUPP;
/// copy_file_range falls back to reading and writing.
pub(crate) fn file_operations(
    plain: &c::file_operations,
    owner: *mut c::module,
) -> c::file_operations {
    c::file_operations {
        owner,
        llseek: Some(c::generic_file_llseek),
        read_iter: Some(read_iter),
        write_iter: Some(write_iter),
        mmap: None,
        mmap_prepare: Some(mmap_prepare),
        get_unmapped_area: Some(c::thp_get_unmapped_area),
        splice_read: Some(c::copy_splice_read),
        splice_write: Some(c::iter_file_splice_write),
        fallocate: None,
        copy_file_range: None,
        remap_file_range: None,
        ..*plain
    }
}

/// FUSE's operations of a regular file's inode, with `setattr` ours.
static INODE_OPERATIONS: SetOnce<(Table<c::inode_operations>, SetAttr)> = SetOnce::new();

type SetAttr = unsafe extern "C" fn(*mut c::mnt_idmap, *mut c::dentry, *mut c::iattr) -> ffi::c_int;

fn inode_operations(inode: &Inode) -> Result<*const c::inode_operations> {
    // SAFETY: An inode in use has operations.
    let plain = unsafe { &*(*inode.as_raw()).i_op };
    let plain_setattr = plain.setattr.ok_or(EIO)?;

    let _making = MAKING_TABLES.lock();
    INODE_OPERATIONS.populate((
        Table(c::inode_operations {
            setattr: Some(setattr),
            ..*plain
        }),
        plain_setattr,
    ));
    let (table, _) = INODE_OPERATIONS.as_ref().ok_or(EIO)?;
    Ok(&table.0)
}

/// Refuses to change the size of a mapped file, before FUSE sees it; the rest is FUSE's.
///
/// # Safety
///
/// Called by the VFS, for a mapped inode.
unsafe extern "C" fn setattr(
    idmap: *mut c::mnt_idmap,
    dentry: *mut c::dentry,
    attr: *mut c::iattr,
) -> ffi::c_int {
    // SAFETY: The VFS passes valid arguments.
    if unsafe { (*attr).ia_valid } & c::ATTR_SIZE != 0 {
        return EOPNOTSUPP.to_errno();
    }
    match INODE_OPERATIONS.as_ref() {
        // SAFETY: FUSE's own, with the VFS's arguments.
        Some((_, plain_setattr)) => unsafe { plain_setattr(idmap, dentry, attr) },
        None => EIO.to_errno(),
    }
}
