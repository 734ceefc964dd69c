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
    bindings::kernel as c,
    compat::EOPNOTSUPP,
    fuse::{
        set_size,
        Inode, //
    },
    patience::Patience,
    single_flight::Flight, //
};

use super::{
    drop_range::drop_range,
    gates::{
        alone_without_gates,
        wait_in_io,
        ClosedGate,
        NewGate, //
    },
    mapped_inode::{
        MappedFile,
        MappedInode, //
    },
    mapping_error::GATE,
    no_faults::NoFaults,
    resolve::{
        page_end,
        IOMAP_OPS, //
    },
    room::ask_for_room,
    writeback::drain, //
};

/// A flag of a mapped inode: the size has changed since the last report that the server accepted.
const UNREPORTED: u32 = 1 << 0;
/// A flag of a mapped inode: it may be mapped with MAP_SYNC.
const MAPPED_SYNC: u32 = 1 << 1;
/// A flag of a mapped inode: the server is about to be asked to make it smaller, so its size is not
/// reported.
const SHRINKING: u32 = 1 << 2;

/// `i_rwsem` of a file whose size may change, held exclusively by the VFS or by the caller.
///
/// # Invariants
///
/// The lock is held, and the mount's files can grow.
pub(super) struct Resizing<'a> {
    inode: MappedInode<'a>,
    /// How often the map had changed when the task began.
    changes: u32,
}

impl<'a> Resizing<'a> {
    /// Returns `None` if the files of the mount cannot change their size.
    ///
    /// # Safety
    ///
    /// `i_rwsem` must be held exclusively as long as the result exists.
    pub(super) unsafe fn new(inode: MappedInode<'a>) -> Option<Self> {
        let changes = changes(inode);

        // INVARIANT: By the safety requirements.
        inode.sbi().resizes.then_some(Self { inode, changes })
    }

    /// Returns the largest size that the file can have.
    pub(super) fn capacity(&self) -> u64 {
        self.inode.published.capacity()
    }

    /// Writes zeros from byte `start` to `end`, which is inside the capacity, or in its last page.
    ///
    /// # Errors
    ///
    /// [`GATE`] if it meets one; [`EIO`] if a device or memory has failed, or for a mapping error.
    fn zero(&self, start: u64, end: u64) -> Result {
        /// The number of bytes that a memory failure waits for.
        const STEP: u64 = 1 << 20;
        let sbi = self.inode.sbi();
        let mut pos = start;

        while pos < end {
            let step = STEP.min(end - pos);
            let users = sbi.ownership.users_of_mapped().ok_or(EIO)?;
            let reader = users.read_lock();
            // SAFETY: `inode` is mapped, and the operations are for such an inode.
            let zeroed = unsafe { dax::zero_range(self.inode.inode, pos, step, &IOMAP_OPS) };
            zeroed.map_err(|errno| if errno == GATE { GATE } else { EIO })?;
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
        let size = self.inode.inode.size();

        self.zero(size, pos.max(size))
    }

    /// Sets the size to `size`, which is more than it was, and inside the capacity. All bytes up to
    /// there are zeroed or written.
    ///
    /// # Errors
    ///
    /// [`GATE`] if the map has changed since the task began: the caller begins anew. Those of
    /// [`Self::zero`]. The size is the same then.
    pub(super) fn grown_to(&self, size: u64) -> Result {
        let MappedInode { inode, published } = self.inode;

        self.zero(size, page_end(size))?;
        drain();
        // A task that changes the map counts that, and then waits for `users`: it sees the new
        // size, and what was written is in the old memory; or this sees that the map has changed.
        let users = self.inode.sbi().ownership.users_of_mapped().ok_or(EIO)?;
        let reader = users.read_lock();
        if changes(self.inode) != self.changes {
            return Err(GATE);
        }
        inode.set_size(size);
        drop(reader);
        // In this order: a report that is under way has an old size, or sees this flag cleared
        // after that, and compares sizes.
        published.flags().fetch_or(UNREPORTED, Relaxed);
        inode.mark_dirty();
        Ok(())
    }

    /// Makes the file grow to `size`, with zeros. Waits for room and for gates, killably.
    ///
    /// # Errors
    ///
    /// [`ENOSPC`] beyond the capacity; those of [`ask_for_room`], [`wait_in_io`] and
    /// [`Self::zero`].
    pub(super) fn grow(mut self, size: u64) -> Result {
        loop {
            if size > self.capacity() {
                ask_for_room(self.inode, size)?;
            }
            if size > self.capacity() {
                return Err(ENOSPC);
            }
            self.changes = changes(self.inode);
            match self.fill_gap(size).and_then(|()| self.grown_to(size)) {
                Err(GATE) => wait_in_io(self.inode, self.inode.inode.size(), size)?,
                result => break result,
            }
        }
    }
}

/// Returns how often the map of a file has changed.
fn changes(inode: MappedInode<'_>) -> u32 {
    let file = inode.published.file();

    file.map_or(0, |file| file.changes.load(Relaxed))
}

/// A file that becomes smaller.
///
/// What is cut off belongs to the server once that has answered, so nothing must reach it before
/// the server is asked: it is unmapped, waited for, flushed and taken out of the page cache, and a
/// gate keeps faults out. They wait for the server, and then find that the file is smaller, or is
/// not. Reads and writes wait for `i_rwsem`.
///
/// No report is sent meanwhile: the server must not hear the old size after the new one.
pub(super) struct Shrinking<'a> {
    inode: MappedInode<'a>,
    size: u64,
    /// The gate, if anything is cut off.
    gate: Option<ClosedGate<'a>>,
    _alone: Flight<'a>,
}

impl<'a> Shrinking<'a> {
    /// Begins to make a file end at `size`. Waits for direct I/O and pipes that use what is cut
    /// off, and for a report, killably where the server is not asked.
    ///
    /// # Safety
    ///
    /// `i_rwsem` must be held exclusively as long as the result exists, and `size` must be less
    /// than the size of the file, whose size can change.
    ///
    /// # Errors
    ///
    /// [`EINTR`] if the task is being killed; [`ENOMEM`].
    pub(super) unsafe fn begin(inode: MappedInode<'a>, size: u64) -> Result<Self> {
        let alone = alone_without_gates(inode, || false)?.ok_or(EIO)?;
        let mut this = Self {
            inode,
            size,
            gate: None,
            _alone: alone,
        };

        inode.published.flags().fetch_or(SHRINKING, Relaxed);
        fence(SeqCst);
        // A report that began before is waited for. It may fail; there is another one afterwards.
        let _ = inode.inode.sync_metadata();
        if page_end(size) < inode.published.capacity() {
            this.gate = Some(cut_off(MappedFile::get_or_make(inode)?, page_end(size))?);
        }
        Ok(this)
    }

    /// Ends it: the server has agreed.
    pub(super) fn end(mut self) {
        let (inode, size) = (self.inode.inode, self.size);

        // FUSE has set it to what the server has answered.
        inode.set_size(size);
        self.inode.published.flags().fetch_and(!UNREPORTED, Relaxed);
        // What is behind the end in the last page. If the memory has failed, it cannot be mapped.
        let resizing = Resizing {
            inode: self.inode,
            changes: changes(self.inode),
        };
        let _ = resizing.zero(size, page_end(size).min(resizing.capacity()));
        drain();
        if let Some(gate) = self.gate.take() {
            let no_faults = NoFaults::lock(gate.file());

            gate.file()
                .mapping()
                .unmap_with_copies(page_end(size) as c::loff_t);
            no_faults.cut_map(page_end(size));
            gate.open(&no_faults);
        }
    }
}

impl Drop for Shrinking<'_> {
    fn drop(&mut self) {
        self.inode.published.flags().fetch_and(!SHRINKING, Relaxed);
        self.inode.report_again();
    }
}

/// Takes what a file has from byte `start` on out of use, and closes a gate there.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed; [`ENOMEM`]. Nothing has changed then.
fn cut_off(file: &MappedFile, start: u64) -> Result<ClosedGate<'_>> {
    let mut gate = Some(NewGate::new()?);

    Patience::Endless
        .until(|| {
            let no_faults = NoFaults::lock(file);

            drop_range(&no_faults, start, u64::MAX).then(|| {
                let map = no_faults.map();
                gate.take()
                    .map(|gate| gate.close(&no_faults, map, (start, u64::MAX)))
            })
        })?
        .ok_or(EIO)
}

impl MappedInode<'_> {
    /// Returns true if the server does not know the size of the file.
    pub(super) fn is_unreported(self) -> bool {
        self.published.flags().load(Relaxed) & UNREPORTED != 0
    }

    /// Returns true if the file may be mapped with MAP_SYNC.
    pub(super) fn is_mapped_sync(self) -> bool {
        self.published.flags().load(Relaxed) & MAPPED_SYNC != 0
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
        let flags = self.published.flags().fetch_or(MAPPED_SYNC, Relaxed);

        if flags & UNREPORTED != 0 {
            return Err(EOPNOTSUPP);
        }
        Ok(())
    }

    /// Reports a size that has changed, if a file that is mapped with MAP_SYNC requires that. Waits
    /// for the server.
    pub(super) fn report_if_sync(self) -> Result {
        if self.published.flags().load(Relaxed) & (MAPPED_SYNC | UNREPORTED)
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

/// Returns true if the size of the files of an fmap mount can change. The inode must be mapped.
pub(crate) fn resizes(inode: &Inode) -> bool {
    MappedInode::of(inode).is_some_and(|mapped| mapped.sbi().resizes)
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
    let flags = mapped.published.flags().load(Relaxed);
    if flags & UNREPORTED == 0 || flags & SHRINKING != 0 {
        return None;
    }
    let size = mapped.inode.size();
    let flags = mapped.published.flags();

    Some(set_size(mapped.inode, size).map(|()| {
        flags.fetch_and(!UNREPORTED, Relaxed);
        fence(SeqCst);
        // It has changed since: the inode is dirty.
        if mapped.inode.size() != size {
            flags.fetch_or(UNREPORTED, Relaxed);
        }
    }))
}
