// SPDX-License-Identifier: GPL-2.0

//! Lists of entries on the stacks of waiting tasks.
//!
//! The kernel crate's `List` owns its entries, so each would have to be allocated.
//!
//! # Examples
//!
//! ```ignore
//! let mut entry = Entry::new(task);
//! let entry = NonNull::from(&mut entry);
//! // SAFETY: It is removed below, and not used before.
//! unsafe { LIST.lock().push(entry) };
//! // Other tasks find it here.
//! LIST.lock().remove(entry);
//! ```

use core::ptr::{
    self,
    NonNull, //
};

/// An entry, which may be in a list.
pub(crate) struct Entry<T> {
    value: T,
    next: *mut Entry<T>,
}

impl<T> Entry<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value,
            next: ptr::null_mut(),
        }
    }
}

/// A list in which the latest entry is the first.
///
/// # Invariants
///
/// All entries are valid, and nothing else uses them ([`StackList::push`]).
pub(crate) struct StackList<T> {
    first: *mut Entry<T>,
    len: usize,
}

// SAFETY: Only the owner of the list uses the entries.
unsafe impl<T: Send> Send for StackList<T> {}

impl<T> StackList<T> {
    pub(crate) const fn new() -> Self {
        // INVARIANT: The list is empty.
        Self {
            first: ptr::null_mut(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Inserts an entry at the front.
    ///
    /// # Safety
    ///
    /// `entry` must be valid, in no list, and used by nothing else until it is removed.
    pub(crate) unsafe fn push(&mut self, entry: NonNull<Entry<T>>) {
        // SAFETY: By the safety requirements `entry` is valid, and in no list.
        unsafe { (*entry.as_ptr()).next = self.first };
        // INVARIANT: By the safety requirements `entry` is valid, and used by nothing else.
        self.first = entry.as_ptr();
        self.len += 1;
    }

    /// Removes the first entry for which `matches` returns true.
    fn take(&mut self, matches: impl Fn(*mut Entry<T>, &T) -> bool) -> Option<NonNull<Entry<T>>> {
        let mut link = &raw mut self.first;

        loop {
            // SAFETY: `link` is the head of the list, or part of an entry in it.
            let entry = NonNull::new(unsafe { *link })?;
            // SAFETY: By the type invariants `entry` is valid.
            if matches(entry.as_ptr(), unsafe { &(*entry.as_ptr()).value }) {
                // SAFETY: By the type invariants `entry` is valid.
                let next = unsafe { (*entry.as_ptr()).next };
                // SAFETY: `link` is the head of the list, or part of an entry in it.
                unsafe { *link = next };
                self.len -= 1;
                return Some(entry);
            }
            // SAFETY: By the type invariants `entry` is valid.
            link = unsafe { &raw mut (*entry.as_ptr()).next };
        }
    }

    /// Removes an entry, if it is in the list.
    pub(crate) fn remove(&mut self, entry: NonNull<Entry<T>>) {
        self.take(|other, _| ptr::eq(other, entry.as_ptr()));
    }

    /// Removes the first entry for which `matches` returns true, and returns its value.
    pub(crate) fn remove_first(&mut self, matches: impl Fn(&T) -> bool) -> Option<T>
    where
        T: Copy,
    {
        let entry = self.take(|_, value| matches(value))?;

        // SAFETY: The entry is still valid: the task that pushed it has to remove it first, and
        // cannot do so while the list is borrowed.
        Some(unsafe { (*entry.as_ptr()).value })
    }
}
