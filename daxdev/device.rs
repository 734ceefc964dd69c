// SPDX-License-Identifier: GPL-2.0

//! A device that a slot holds: its memory, its health, and how it is given back.

use core::{
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicU32,
        Ordering, //
    }, //
};

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    str::CString,
    sync::atomic::{
        Atomic,
        Relaxed, //
    }, //
};

use crate::{
    abstractions::{
        dax::{
            BusDevice,
            DaxDevice,
            ReadLock, //
        },
        module::ModuleRef, //
    },
    stats::DeviceStats, //
};

use super::{
    frames::{
        frames_at,
        Frames, //
    },
    holder::{
        self,
        Cookie, //
    },
    poison::{
        self,
        forget,
        settled, //
    }, //
};

/// The health of a slot's device.
pub(super) struct Health(pub(super) AtomicU32);

impl Health {
    /// The device is being removed, or has been.
    pub(super) const FAILED: u32 = 1 << 0;
    /// Memory has failed, maybe of this device: see [`poison`].
    pub(super) const POISONED: u32 = 1 << 1;

    pub(super) const fn new() -> Self {
        Self(AtomicU32::new(0))
    }

    /// Returns true if the device, or some of its memory, may have failed.
    fn is_doubtful(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    pub(super) fn has_failed(&self) -> bool {
        self.0.load(Ordering::Relaxed) & Self::FAILED != 0
    }
}

/// A held device.
///
/// # Invariants
///
/// `dax_dev` sits on the dax bus, is held with `holder` and stays valid until
/// [`Device::release`] has given it back.
pub(crate) struct Device {
    dax_dev: NonNull<DaxDevice>,
    /// The size in bytes, a multiple of the page size.
    size: u64,
    /// The same if the device is in one piece, else 0.
    one_piece: u64,
    /// The first page frame, if the device is in one piece.
    first_pfn: Option<u64>,
    /// Its memory, in the order of addresses.
    pieces: KVec<Piece>,
    holder: Cookie,
    /// True once it has been given back.
    is_released: Atomic<bool>,
    /// That of its slot, which is valid as long as the device is held.
    health: NonNull<Health>,
    /// True if the device reported a write cache before it was held.
    write_cache: bool,
    pub(crate) stats: DeviceStats,
    /// The module of its driver, if there is one.
    _driver: Option<ModuleRef>,
    /// Its own name, as in /sys/bus/dax/devices.
    name: CString,
}

// SAFETY: A held device belongs to no task.
unsafe impl Send for Device {}
// SAFETY: Nothing of it changes while it is held.
unsafe impl Sync for Device {}

impl Device {
    #[inline]
    pub(crate) fn dax_dev(&self) -> &DaxDevice {
        // SAFETY: By the type invariants the device is valid.
        unsafe { self.dax_dev.as_ref() }
    }

    /// Returns true if the device, or some of its memory, may have failed.
    pub(crate) fn may_be_unhealthy(&self) -> bool {
        // SAFETY: A slot stays as long as its device is held.
        unsafe { self.health.as_ref() }.is_doubtful()
    }

    /// Makes a [`Device`] of a device that has just been taken with `holder`, and is locked. It is
    /// not measured yet.
    ///
    /// # Safety
    ///
    /// `found` must be held with `holder`, and `health` stay valid as long as it is.
    pub(super) unsafe fn new(
        found: &BusDevice<'_>,
        health: &Health,
        holder: Cookie,
        name: CString,
        stats: DeviceStats,
    ) -> Self {
        // There are CPU caches in front of the memory, although the driver reports no write cache.
        // With this, DAX flushes them when it writes back. (On the dax bus, write(2) bypasses
        // them.)
        let write_cache = found.dax_dev().has_write_cache();
        found.dax_dev().set_write_cache(true);

        // INVARIANT: Held with `holder`; it is on the dax bus.
        Self {
            dax_dev: NonNull::from(found.dax_dev()),
            size: 0,
            one_piece: 0,
            first_pfn: None,
            pieces: KVec::new(),
            holder,
            is_released: Atomic::new(false),
            health: NonNull::from(health),
            write_cache,
            stats,
            _driver: found.driver().map(|driver| {
                // SAFETY: The device is open, which keeps its driver's module.
                unsafe { driver.get() }
            }),
            name,
        }
    }

    /// Returns its own name, as in /sys/bus/dax/devices.
    pub(super) fn name(&self) -> &CStr {
        &self.name
    }

    /// Returns the size in bytes, a multiple of the page size.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// Memory of a device in one piece.
struct Piece {
    /// Where it begins and ends, in bytes of the device.
    start: u64,
    end: u64,
    /// Its first page frame.
    pfn: u64,
}

impl Device {
    /// Returns the page frame at `addr`, which may have been removed with the device.
    #[inline]
    pub(crate) fn frame(&self, addr: u64) -> Option<u64> {
        match self.first_pfn {
            Some(first) => Some(first + addr / PAGE_SIZE as u64),
            None => {
                let piece = self.piece_at(addr)?;
                Some(piece.pfn + (addr - piece.start) / PAGE_SIZE as u64)
            }
        }
    }

    /// Returns how many of `length` bytes from `addr` on are in one piece; `None` if they are not
    /// all inside the device.
    #[inline]
    pub(crate) fn in_one_piece(&self, addr: u64, length: u64) -> Option<u64> {
        let end = addr.checked_add(length)?;

        if end <= self.one_piece {
            return Some(length);
        }
        self.in_a_piece(addr, end)
    }

    #[cold]
    fn in_a_piece(&self, addr: u64, end: u64) -> Option<u64> {
        if end > self.size {
            return None;
        }
        Some(self.piece_at(addr)?.end.min(end) - addr)
    }

    #[cold]
    fn piece_at(&self, addr: u64) -> Option<&Piece> {
        self.pieces
            .iter()
            .find(|piece| (piece.start..piece.end).contains(&addr))
    }

    /// Calls `look` with the frames of `pages` pages from `addr` on, which do not change until it
    /// returns. Returns `None` if the device is being removed.
    pub(crate) fn with_frames<T>(
        &self,
        addr: u64,
        pages: u64,
        look: impl FnOnce(Frames) -> T,
    ) -> Option<T> {
        let lock = ReadLock::new();
        // SAFETY: By the type invariants the device sits on the dax bus.
        unsafe { self.dax_dev().dev_dax(&lock) }?;

        // Not from the device's own ranges: root can add some while a task reads them.
        let length = pages * PAGE_SIZE as u64;
        let in_one_piece = self.in_one_piece(addr, length) == Some(length);
        let pfn = self.frame(addr).filter(|_| in_one_piece);
        Some(look(Frames { pfn, pages }))
    }
}

impl Device {
    /// Returns true if a page frame is of this device.
    pub(crate) fn has_frame(&self, pfn: u64) -> bool {
        self.pieces.iter().any(|piece| {
            let pages = (piece.end - piece.start) / PAGE_SIZE as u64;
            (piece.pfn..piece.pfn + pages).contains(&pfn)
        })
    }

    /// Returns the number of its pages that are known to have failed.
    pub(super) fn poisoned_pages(&self) -> usize {
        let of_piece = |piece: &Piece| {
            let pages = (piece.end - piece.start) / PAGE_SIZE as u64;
            poison::known(piece.pfn, pages)
        };
        self.pieces.iter().map(of_piece).sum()
    }

    /// Reads the ranges and the size of the device; leaves it empty if it is not alive. The size
    /// stays the same: fsdev_dax sets it before it makes the device available, and refuses to
    /// resize a device that is bound to it.
    ///
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn measure(&mut self) -> Result {
        let page = PAGE_SIZE as u64;
        let lock = ReadLock::new();
        // SAFETY: By the type invariants the device is valid.
        let dax_dev = unsafe { self.dax_dev.as_ref() };
        // SAFETY: By the type invariants the device sits on the dax bus.
        let Some(dev_dax) = (unsafe { dax_dev.dev_dax(&lock) }) else {
            return Ok(());
        };

        // Reads survive unknown poison, as those of pmem do.
        dax_dev.set_nomc();
        for range in dev_dax.ranges() {
            let start = range.pgoff * page;
            self.pieces.push(
                Piece {
                    start,
                    end: start + (range.len - range.len % page),
                    pfn: range.start / page,
                },
                GFP_KERNEL,
            )?;
        }
        let size = dev_dax.size();
        self.size = size - size % page;
        self.first_pfn = frames_at(dev_dax, 0, self.size / page).pfn;
        self.one_piece = self.first_pfn.map_or(0, |_| self.size);
        Ok(())
    }
}

impl Device {
    /// Returns how many of `pages` pages from `addr` on come before the first one that has failed;
    /// `None` if the device is being removed.
    #[cold]
    pub(crate) fn healthy_pages(&self, addr: u64, pages: u64) -> Option<u64> {
        let healthy = self.with_frames(addr, pages, |frames| {
            frames.pfn.is_some().then(|| frames.healthy())
        })?;
        match healthy {
            Some(healthy) => Some(healthy),
            // The pages are not in one piece, but the first page is.
            None => self.with_frames(addr, 1, |frames| frames.healthy()),
        }
    }

    /// Rewrites a page that has failed, and takes it back into use.
    ///
    /// The driver's stores bypass the caches. They replace whole cache lines, and with them the
    /// poison, if the hardware can do that; if not, the next access reports the poison again.
    ///
    /// # Errors
    ///
    /// [`EIO`] if the device is being removed, or cannot be written; [`EJUKEBOX`] if a report of
    /// the failure has not settled: the caller retries, with no locks held in between.
    ///
    /// # Safety
    ///
    /// The caller must have validated a mapping of the device, and not have slept since (see
    /// `failure`).
    pub(crate) unsafe fn rewrite(&self, addr: u64, page: &mut [u8; PAGE_SIZE]) -> Result {
        let lock = ReadLock::new();
        let pgoff = addr / PAGE_SIZE as u64;
        // SAFETY: By the safety requirements the device was alive when the task last slept.
        let failed = unsafe { self.dax_dev().recovery_page(pgoff, &lock) }?;
        let report = settled(&failed)?;

        failed.write(page)?;
        forget(&failed, report)?;
        pr_info!(
            "{}: {:#x} was written anew and is in use again\n",
            &*self.name,
            addr
        );
        Ok(())
    }
}

impl Device {
    /// Gives the device back, unless that has been done. It is not used after that. May sleep.
    pub(super) fn release(&self) {
        if self.is_released.xchg(true, Relaxed) {
            return;
        }
        holder::unregister(self.holder, || {
            let dax_dev = self.dax_dev();
            // As long as the device is alive under the lock, `kill_dax()` does not clear its
            // holder. Once it is not, the dax core no longer calls the holder's operations, and
            // clears them: the device was alive when `hold()` had stored them.
            let lock = ReadLock::new();
            // SAFETY: By the type invariants the device sits on the dax bus.
            let is_alive = unsafe { dax_dev.dev_dax(&lock) }.is_some();
            // If it has been unbound, and bound again, another mount may hold it.
            let held = is_alive && dax_dev.holder() == self.holder.as_ptr();
            if held && !self.write_cache {
                dax_dev.set_write_cache(false);
            }
            let holder = if held {
                self.holder.as_ptr()
            } else {
                ptr::null_mut()
            };
            // SAFETY: By the type invariants `self` owns this reference, and only the first call of
            // `release()` drops it.
            unsafe { dax_dev.put(holder) };
            drop(lock);
        });
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        self.release();
    }
}
