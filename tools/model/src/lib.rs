// SPDX-License-Identifier: GPL-2.0
//! What the module does without locks, run over all interleavings.
//!
//! `lockless.rs` of the module is compiled here with loom's atomics. loom runs each test for each
//! interleaving of its tasks, and for each value that the C11 memory model lets a load return,
//! including those that x86 never returns. The rest is a model of what is around that file, with
//! the names of the kernel: locks, DAX entries, folios, page tables (`files`), slots of devices
//! (`devices`), inodes (`publishing`, `holding`). Two tasks are run over all interleavings; three,
//! where a test says so, with at most three preemptions.
//!
//! What holds: a page that is writable, or has data that are not flushed, is marked dirty; a page
//! is mapped only where DAX has an entry for it; a folio without an association has no cookie; a
//! header and a device are seen whole; a device that has failed is not mapped once its files were
//! unmapped; an inode is held as long as a page of it is in use; validities differ.
//!
//! A test whose name says what goes wrong weakens one ordering, or leaves out one step, and expects
//! that failure.
//!
//! | ordering or step                         | without it                                    |
//! |------------------------------------------|-----------------------------------------------|
//! | `WRITTEN_BACK`, `QUIET`                  | a store is lost                               |
//! | look for writers, then read the validity | a store is lost                               |
//! | wait for the lock, then a new validity   | a store is lost                               |
//! | `SET_COOKIE`, `COOKIE`                   | memory is mapped where it does not belong     |
//! | read the cookie, then what the folio is  | memory is mapped where it does not belong     |
//! | `ENTRY`; the entry, then the folio again | a cookie is stored in another file's folio    |
//! | entries are dropped with the lock        | a page is mapped that has no entry            |
//! | dropping an entry clears the cookie      | the next owner of the folio finds a cookie    |
//! | `PUBLISH`, `STATE`                       | a header is torn                              |
//! | operations of an inode look for a header | a null pointer is dereferenced                |
//! | `FILL`, `HEALTHY`                        | a device is torn                              |
//! | `FILLED`, `MARKED`: full fences          | a device that has failed is taken for healthy |
//! | mark the device, then take the lock      | a page of a failed device is mapped           |
//! | a fault looks for a bad inode, locked    | a file that has gone bad is mapped            |
//! | `USED`, `LOOKING`, `COUNTED`, `OPEN`     | an inode is let go with a page in use         |
//! | `CLOSED`, `USED_AGAIN`                   | an inode is let go with a page in use         |
//! | flags of use are swapped, never stored   | an inode is let go with a page in use         |
//!
//! What does not matter, and is relaxed for that reason: announcing a writer, storing and reading a
//! validity, and taking a device away, as the lock or the pair above orders them; loading the
//! header's address later on. What does not matter, and is kept: the check that an entry is not
//! locked, which relies on less of DAX; a new validity when entries are dropped, as their cookies
//! are cleared, too; the new validity after flushing rather than before.
//!
//! Not modelled: what is done under a lock of the module or of a page table (`fault_uffd_wp`,
//! `mapped_files`, DAX itself).

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
mod validity;
