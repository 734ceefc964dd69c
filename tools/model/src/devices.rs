// SPDX-License-Identifier: GPL-2.0
//! A device that fails while it is being acquired, or while files of it fault.

use std::ptr::null_mut;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex, RwLock};
use loom::thread;

use crate::atomics::{self, AtomicBool, AtomicPtr, AtomicU32, Ordering};
use crate::check::{fails, run, weaker};
use crate::lockless::{AsWritten, Orders, fill, healthy, mark};

const STILL_HEALTHY: &str = "a device that has failed is taken for healthy";
const STILL_MAPPED: &str = "a page of a device that has failed is mapped";
const TORN: &str = "Causality violation";

struct Device {
    size: UnsafeCell<u64>,
}

impl Device {
    fn new() -> &'static Self {
        Box::leak(Box::new(Self {
            size: UnsafeCell::new(0),
        }))
    }
}

/// A slot, and a file that uses its device.
struct World {
    healthy: AtomicPtr<Device>,
    health: AtomicU32,
    invalidate_lock: RwLock<()>,
    /// The list of mapped files: true if the file is in it.
    mapped_files: Mutex<bool>,
    pte: AtomicBool,
}

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            healthy: AtomicPtr::new(null_mut()),
            health: AtomicU32::new(0),
            invalidate_lock: RwLock::new(()),
            mapped_files: Mutex::new(false),
            pte: AtomicBool::new(false),
        })
    }

    fn fill<O: Orders>(&self, device: &'static Device) {
        // SAFETY: loom checks that no other task accesses it at the same time.
        device.size.with_mut(|size| unsafe { *size = 42 });
        fill::<O, _>(&self.healthy, &self.health, (&raw const *device).cast_mut());
    }

    fn mark<O: Orders>(&self) {
        mark::<O, _>(&self.healthy, &self.health, 1);
    }

    fn fault<O: Orders>(&self) {
        let _shared = self.invalidate_lock.read().unwrap();
        let device = healthy::<O, _>(&self.healthy);

        if !device.is_null() {
            // SAFETY: The device is leaked.
            let size = unsafe { &(*device).size };
            // SAFETY: loom checks that no other task writes it at the same time.
            assert_eq!(size.with(|size| unsafe { *size }), 42);
            self.pte.store(true, Ordering::Relaxed);
        }
    }

    /// Unmaps the file, as `invalidate_device()` and `memory_failure()` do.
    fn invalidate(&self) {
        let _no_faults = self.invalidate_lock.write().unwrap();

        self.pte.store(false, Ordering::Relaxed);
    }

    /// Opens the file: puts the device into its slot, and the file into the list before other tasks
    /// can find its header.
    fn open<O: Orders>(&self, device: &'static Device) {
        self.fill::<O>(device);
        *self.mapped_files.lock().unwrap() = true;
    }

    /// Makes the device fail, and unmaps each file that is in the list.
    fn fail<O: Orders>(&self) {
        self.mark::<O>();
        let mapped = *self.mapped_files.lock().unwrap();
        if mapped {
            self.invalidate();
        }
    }
}

fn at_once(one: impl FnOnce(&World) + 'static, two: impl FnOnce(&World) + 'static) -> Arc<World> {
    let world = World::new();
    let other = {
        let world = world.clone();
        thread::spawn(move || one(&world))
    };

    two(&world);
    other.join().unwrap();
    world
}

// --- Putting a device into its slot, and marking the slot ---------------------------------------

fn fails_while_it_is_acquired<O: Orders>() {
    let device = Device::new();
    let world = at_once(move |world| world.fill::<O>(device), World::mark::<O>);

    assert!(
        healthy::<AsWritten, _>(&world.healthy).is_null(),
        "{STILL_HEALTHY}"
    );
}

#[test]
fn a_device_that_fails_while_it_is_acquired_is_not_healthy() {
    run(fails_while_it_is_acquired::<AsWritten>);
}

#[test]
fn a_device_that_fails_while_it_is_acquired_stays_healthy_without_either_fence() {
    fails(STILL_HEALTHY, fails_while_it_is_acquired::<weaker::Filled>);
    fails(STILL_HEALTHY, fails_while_it_is_acquired::<weaker::Marked>);
}

#[test]
fn a_device_that_fails_while_it_is_acquired_stays_healthy_if_the_fences_are_not_full() {
    enum Halves {}
    impl Orders for Halves {
        const FILLED: Ordering = Ordering::AcqRel;
        const MARKED: Ordering = Ordering::AcqRel;
    }
    fails(STILL_HEALTHY, fails_while_it_is_acquired::<Halves>);
}

/// A sequentially consistent store does not order the load behind it, except on x86.
#[test]
fn a_device_that_fails_while_it_is_acquired_stays_healthy_with_seq_cst_accesses_instead_of_fences()
{
    fails(STILL_HEALTHY, || {
        let device = Device::new();
        let world = at_once(
            move |world| {
                world
                    .healthy
                    .store((&raw const *device).cast_mut(), Ordering::SeqCst);
                if world.health.load(Ordering::Relaxed) != 0 {
                    world.healthy.store(null_mut(), Ordering::Relaxed);
                }
            },
            |world| {
                world.health.fetch_or(1, Ordering::SeqCst);
                world.healthy.store(null_mut(), Ordering::Relaxed);
            },
        );
        assert!(
            world.healthy.load(Ordering::Relaxed).is_null(),
            "{STILL_HEALTHY}"
        );
    });
}

// --- Faults of a device that is being put in ----------------------------------------------------

fn is_acquired_during_a_fault<O: Orders>() {
    let device = Device::new();

    at_once(move |world| world.fill::<O>(device), World::fault::<O>);
}

#[test]
fn a_device_is_seen_whole() {
    run(is_acquired_during_a_fault::<AsWritten>);
}

#[test]
fn a_device_is_torn_if_putting_it_in_does_not_release_or_looking_does_not_acquire() {
    fails(TORN, is_acquired_during_a_fault::<weaker::Fill>);
    fails(TORN, is_acquired_during_a_fault::<weaker::Healthy>);
}

// --- Faults of a device that fails --------------------------------------------------------------

fn fails_during_a_fault(fail: fn(&World)) {
    let world = World::new();
    world.fill::<AsWritten>(Device::new());
    let other = {
        let world = world.clone();
        thread::spawn(move || world.fault::<AsWritten>())
    };

    fail(&world);
    other.join().unwrap();
    assert!(!world.pte.load(Ordering::Relaxed), "{STILL_MAPPED}");
}

#[test]
fn no_fault_maps_a_device_after_its_files_were_unmapped() {
    run(|| {
        fails_during_a_fault(|world| {
            world.mark::<AsWritten>();
            world.invalidate();
        })
    });
}

#[test]
fn a_fault_maps_a_failed_device_without_the_lock_or_if_the_mark_comes_after_it() {
    fails(STILL_MAPPED, || {
        fails_during_a_fault(|world| {
            world.mark::<AsWritten>();
            world.pte.store(false, Ordering::Relaxed);
        })
    });
    // Not even a fence helps.
    fails(STILL_MAPPED, || {
        fails_during_a_fault(|world| {
            world.mark::<AsWritten>();
            atomics::fence(Ordering::SeqCst);
            world.pte.store(false, Ordering::SeqCst);
        })
    });
    fails(STILL_MAPPED, || {
        fails_during_a_fault(|world| {
            world.invalidate();
            world.mark::<AsWritten>();
        })
    });
}

/// The lock alone orders the mark and the fault.
#[test]
fn once_a_device_is_there_the_fence_of_the_mark_does_not_matter() {
    run(|| {
        fails_during_a_fault(|world| {
            world.mark::<weaker::Marked>();
            world.invalidate();
        })
    });
}

// --- Both at once -------------------------------------------------------------------------------

fn fails_during_the_first_open<O: Orders>() {
    let world = World::new();
    let device = Device::new();
    let opener = {
        let world = world.clone();
        thread::spawn(move || {
            world.open::<O>(device);
            world.fault::<O>();
        })
    };

    world.fail::<O>();
    opener.join().unwrap();
    assert!(!world.pte.load(Ordering::Relaxed), "{STILL_MAPPED}");
}

#[test]
fn a_file_that_is_opened_while_its_device_fails_is_not_mapped() {
    run(fails_during_the_first_open::<AsWritten>);
}

#[test]
fn a_file_that_is_opened_while_its_device_fails_is_mapped_without_either_fence() {
    fails(STILL_MAPPED, fails_during_the_first_open::<weaker::Filled>);
    fails(STILL_MAPPED, fails_during_the_first_open::<weaker::Marked>);
}
