// SPDX-License-Identifier: GPL-2.0
//! What the module does without locks, run over all interleavings.
//!
//! `lockless.rs` of the module is compiled here with loom's atomic words. loom runs each test again
//! for each order in which its tasks can get on, and for each value that the memory model of C11
//! lets a load return: also for what x86 would never do. Beside that file, a model of what is
//! around it, with the names of the kernel: locks, DAX's entries, folios, page tables (`files`),
//! slots of devices (`devices`), inodes (`publishing`, `holding`). Two tasks are run over all
//! interleavings; three, where a test says so, with at most three interruptions.
//!
//! What holds: no store that fsync(2) does not know of is in memory that is not marked dirty; a
//! page is mapped only where DAX has an entry for it; memory without a tenant is blank; a header
//! and a device are seen whole; a device that has failed is not mapped once its files were
//! unmapped; an inode is held as long as a page of it is in use; stamps differ.
//!
//! A test whose name says what goes wrong weakens one ordering, or leaves out one step, and expects
//! that.
//!
//! | ordering or step                                | without it                                        |
//! |-------------------------------------------------|---------------------------------------------------|
//! | `WRITTEN_BACK`, `QUIET`                         | a store is lost                                   |
//! | look for writers, then read the stamp           | a store is lost                                   |
//! | writers wait for the lock; then a new stamp     | a store is lost                                   |
//! | `SET_COOKIE`, `COOKIE`                              | memory is mapped where it does not belong         |
//! | read the note, then what the folio is           | memory is mapped where it does not belong         |
//! | `ENTRY`; the entry, then the folio once more    | a fault notes something in another file's folio   |
//! | entries are dropped with the lock               | a page is mapped that has no entry                |
//! | the note is wiped when the entry goes           | memory is not blank for its next tenant           |
//! | `PUBLISH`, `STATE`                              | a header is torn                                  |
//! | operations of an inode look for a header        | a null pointer is followed                        |
//! | `FILL`, `HEALTHY`                                 | a device is torn                                  |
//! | `FILLED`, `MARKED`: full fences                 | a device that has failed is taken for sound       |
//! | mark the device, then take the lock             | a page of a failed device is mapped               |
//! | a fault looks for a bad inode with the lock     | a file that has gone bad is mapped                |
//! | `USED`, `LOOKING`, `COUNTED`, `OPEN`            | an inode is let go while a page of it is in use   |
//! | `CLOSED`, `USED_AGAIN`                          | an inode is let go while a page of it is in use   |
//! | flags of use are swapped, and never stored      | an inode is let go while a page of it is in use   |
//!
//! What does not matter, and is relaxed for that reason: announcing a writer, storing and reading a
//! stamp, and taking a device away, as the lock or the pair above orders them; loading the header's
//! address later on. What does not matter, and is kept: looking whether an entry is locked, as that
//! relies on less of DAX; a new stamp when entries are dropped, as their notes are wiped, too; the
//! stamp after flushing rather than before.
//!
//! Not here: what is done with a lock of ours or of a page table (`fault_uffd_wp`, `mapped_files`,
//! DAX itself).

#[cfg(test)]
use loom::sync::atomic as atomics;

#[cfg(test)]
#[path = "../../../lockless.rs"]
mod lockless;

#[cfg(test)]
mod check;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod files;
#[cfg(test)]
mod holding;
#[cfg(test)]
mod publishing;
#[cfg(test)]
mod stamps;
