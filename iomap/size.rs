// SPDX-License-Identifier: GPL-2.0

//! Files that grow, on mounts whose server wants that (`FUSE_DAX_FMAP_RESIZE`).
//!
//! The size is the kernel's: `i_size` of FUSE's inode, which FUSE leaves alone as it caches writes.
//! The map bounds it: the mapped size is the *capacity* of the file. I/O ends at the smaller one.
//!
//! # Zeros
//!
//! A byte comes below the size only if it was zeroed, or written by the task that changes the size.
//! Zeros are written under `i_rwsem`, held exclusively, and have left the CPU before the size
//! changes. A page is mapped as a whole, so what is behind the end in the last page is zeroed, too:
//! when the map is published, and after that whenever the size changes, as a mapping may have
//! stored there.
//!
//! # The report
//!
//! The server learns the size by SETATTR, a *report*. The inode is marked dirty, and the VFS calls
//! `->write_inode()`: in fsync(2), by FUSE at each close(2), and by the flusher. The VFS admits one
//! report of an inode at a time. It clears the dirty marks first, so a size that changes meanwhile
//! is reported again.
//!
//! A size that has not been reported is lost if the machine crashes. So a file whose stores must
//! survive a crash without fsync(2) (MAP_SYNC) is only mapped so once its size is reported, and
//! reports each change from then on.

use core::sync::atomic::{
    fence,
    Ordering::{
        Relaxed,
        SeqCst, //
    }, //
};

use kernel::{
    error::to_result,
    prelude::*, //
};

use crate::{
    abstractions::fs::{
        dax,
        inode, //
    },
    compat::EOPNOTSUPP,
    fuse::{
        set_size,
        Inode, //
    }, //
};

use super::{
    mapped_inode::{
        Header,
        MappedInode, //
    },
    ownership::Flushing,
    resolve::{
        page_end,
        IOMAP_OPS, //
    },
    writeback::drain, //
};

/// A flag of a mapped inode: the size has changed since the last report that the server accepted.
const UNREPORTED: u32 = 1 << 0;
/// A flag of a mapped inode: it may be mapped with MAP_SYNC.
const MAPPED_SYNC: u32 = 1 << 1;

/// `i_rwsem` of a file whose size may change, held exclusively by the VFS or by the caller.
///
/// # Invariants
///
/// The lock is held, and the mount's files can grow.
pub(super) struct Resizing<'a>(MappedInode<'a>);

impl<'a> Resizing<'a> {
    /// Returns `None` if the files of the mount cannot change their size.
    ///
    /// # Safety
    ///
    /// `i_rwsem` must be held exclusively as long as the result exists.
    pub(super) unsafe fn new(inode: MappedInode<'a>) -> Option<Self> {
        // INVARIANT: By the safety requirements.
        inode.sbi().resizes.then_some(Self(inode))
    }

    /// Returns the largest size that the file can have.
    pub(super) fn capacity(&self) -> u64 {
        self.0.header.mapped_size
    }

    /// Writes zeros from byte `start` to `end`, which is inside the capacity, or in its last page.
    ///
    /// # Errors
    ///
    /// [`EIO`] if a device or memory has failed, or for a mapping error.
    fn zero(&self, start: u64, end: u64) -> Result {
        /// The number of bytes that a memory failure waits for.
        const STEP: u64 = 1 << 20;
        let header = self.0.header;
        let mut pos = start;

        while pos < end {
            let step = STEP.min(end - pos);
            let users = header.sbi().ownership.users_of_mapped().ok_or(EIO)?;
            let reader = users.read_lock();
            // SAFETY: `inode` is mapped, and the operations are for such an inode.
            unsafe { dax::zero_range(self.0.inode, pos, step, &IOMAP_OPS) }.map_err(|_| EIO)?;
            drop(reader);
            pos += step;
        }
        Ok(())
    }

    /// Makes the bytes from the end of the file to `pos` zeros, for a write that begins there.
    ///
    /// # Errors
    ///
    /// Those of [`Self::zero`].
    pub(super) fn fill_gap(&self, pos: u64) -> Result {
        let size = self.0.inode.size();

        self.zero(size, pos.max(size))
    }

    /// Sets the size to `size`, which is more than it was, and inside the capacity. All bytes up to
    /// there are zeroed or written.
    ///
    /// # Errors
    ///
    /// Those of [`Self::zero`]; the size is the same then.
    pub(super) fn grown_to(&self, size: u64) -> Result {
        let MappedInode { inode, header } = self.0;

        self.zero(size, page_end(size))?;
        drain();
        inode.set_size(size);
        // In this order: a report that is under way has an old size, or sees this flag cleared
        // after that, and compares sizes.
        header.flags().fetch_or(UNREPORTED, Relaxed);
        inode.mark_dirty();
        Ok(())
    }

    /// Makes the file grow to `size`, with zeros.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] beyond the capacity; those of [`Self::zero`].
    pub(super) fn grow(&self, size: u64) -> Result {
        if size > self.capacity() {
            return Err(ENOSPC);
        }
        self.fill_gap(size)?;
        self.grown_to(size)
    }
}

/// Zeroes what is behind the end of the file in its last page, for a map that is about to be
/// published. Does not sleep.
///
/// Nothing is mapped yet, and no task reads or writes. If the memory has failed, or the program
/// gives an error, no task can map the page either.
pub(super) fn zero_behind_end(header: &Header, size: u64) {
    let end = page_end(size);

    if size > header.mapped_size || end == size {
        return;
    }
    // A memory failure waits until this is dropped.
    let _flushing = Flushing::new(header.sbi());
    let Ok(mapping) = header.resolve_any(size, end - size) else {
        return;
    };
    if let Some(device) = mapping.device {
        let addr = mapping.addr + (size - mapping.offset);
        device.zero_part(addr, (end - size) as usize);
    }
}

impl MappedInode<'_> {
    /// Returns true if the server does not know the size of the file.
    pub(super) fn is_unreported(self) -> bool {
        self.header.flags().load(Relaxed) & UNREPORTED != 0
    }

    /// Returns true if the file may be mapped with MAP_SYNC.
    pub(super) fn is_mapped_sync(self) -> bool {
        self.header.flags().load(Relaxed) & MAPPED_SYNC != 0
    }

    /// Makes the next report have the size, after one that failed.
    pub(super) fn report_again(self) {
        if self.is_unreported() {
            self.inode.mark_dirty();
        }
    }

    /// Records that the file is about to be mapped with MAP_SYNC.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` if its size has not been reported: mmap(2) cannot wait for the server.
    pub(super) fn will_be_mapped_sync(self) -> Result {
        let flags = self.header.flags().fetch_or(MAPPED_SYNC, Relaxed);

        if flags & UNREPORTED != 0 {
            return Err(EOPNOTSUPP);
        }
        Ok(())
    }

    /// Reports a size that has changed, if a file that is mapped with MAP_SYNC requires that. Waits
    /// for the server.
    pub(super) fn report_if_sync(self) -> Result {
        if self.header.flags().load(Relaxed) & (MAPPED_SYNC | UNREPORTED)
            != MAPPED_SYNC | UNREPORTED
        {
            return Ok(());
        }
        self.report()
    }

    /// Reports the size if it has changed. Waits for the server.
    pub(super) fn report(self) -> Result {
        self.report_again();
        to_result(self.inode.sync_metadata())
    }
}

/// `->write_inode()`: sends the size and the times of a file whose size has changed. Returns `None`
/// if it has not; then FUSE sends the times. Waits for the server.
///
/// # Errors
///
/// The server's; ENOTCONN without a server; [`ENOMEM`].
pub(crate) fn write_inode(inode: &inode::Inode) -> Option<Result> {
    // SAFETY: The superblock is that of an fmap mount, and so of FUSE.
    let mapped = MappedInode::of(unsafe { Inode::of(inode) })?;
    if !mapped.is_unreported() {
        return None;
    }
    let size = mapped.inode.size();
    let flags = mapped.header.flags();

    Some(set_size(mapped.inode, size).map(|()| {
        flags.fetch_and(!UNREPORTED, Relaxed);
        fence(SeqCst);
        // It has changed since: the inode is dirty.
        if mapped.inode.size() != size {
            flags.fetch_or(UNREPORTED, Relaxed);
        }
    }))
}
