// SPDX-License-Identifier: GPL-2.0

//! Intrusive lists of elements that do not move and are owned elsewhere.
//!
//! The kernel crate's `List` owns its elements. Here a list only refers to them, and an element is
//! removed before it goes away. A marker is a position in a list, for a walk that drops the lock
//! from time to time.

use core::{
    marker::PhantomData,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::{
        AtomicPtr,
        Ordering::Relaxed, //
    }, //
};

use kernel::sync::SpinLock;

/// The link of an element or of a marker, which may be in a list.
///
/// # Invariants
///
/// If the link is in a list, `owner` is null for a marker, or else valid until the link is removed.
pub(crate) struct Link<T> {
    next: AtomicPtr<Link<T>>,
    prev: AtomicPtr<Link<T>>,
    owner: AtomicPtr<T>,
}

impl<T> Link<T> {
    pub(crate) fn new() -> Self {
        Self {
            next: AtomicPtr::new(ptr::null_mut()),
            prev: AtomicPtr::new(ptr::null_mut()),
            owner: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Returns the element that the link belongs to, or [`None`] for a marker.
    fn owner(&self) -> Option<&T> {
        // SAFETY: By the type invariants `owner` is null or valid.
        unsafe { self.owner.load(Relaxed).as_ref() }
    }
}

/// A list.
///
/// # Invariants
///
/// `first` is null, or the first of a chain of links, each with its next and its previous one.
pub(crate) struct List<T> {
    first: *mut Link<T>,
    _owners: PhantomData<*mut T>,
}

// SAFETY: A list is not tied to a task, and its elements may be shared.
unsafe impl<T: Send + Sync> Send for List<T> {}

impl<T> List<T> {
    pub(crate) const fn new() -> Self {
        // INVARIANT: The list is empty.
        Self {
            first: ptr::null_mut(),
            _owners: PhantomData,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_null()
    }

    /// Returns the link that a pointer refers to, if it is not null.
    ///
    /// # Safety
    ///
    /// `link` must be null, or in the list.
    unsafe fn next_of<'a>(link: *mut Link<T>) -> Option<&'a Link<T>> {
        // SAFETY: By the safety requirements `link` is null or valid.
        unsafe { link.as_ref() }
    }

    /// Inserts a link after `prev`, or at the front.
    ///
    /// # Safety
    ///
    /// `link` must be in no list, and not move until it is removed; `prev` must be in this list.
    unsafe fn insert(&mut self, link: &Link<T>, prev: Option<&Link<T>>) {
        let raw = ptr::from_ref(link).cast_mut();
        let next = match prev {
            Some(prev) => prev.next.swap(raw, Relaxed),
            None => core::mem::replace(&mut self.first, raw),
        };

        link.prev.store(
            prev.map_or(ptr::null_mut(), |prev| ptr::from_ref(prev).cast_mut()),
            Relaxed,
        );
        link.next.store(next, Relaxed);
        // SAFETY: By the type invariants `next` is null, or in this list.
        if let Some(next) = unsafe { Self::next_of(next) } {
            next.prev.store(raw, Relaxed);
        }
    }

    /// Inserts an element at the front.
    ///
    /// # Safety
    ///
    /// `link` must be that of `owner`, and in no list. Both must not move until `link` is removed.
    pub(crate) unsafe fn push(&mut self, owner: &T, link: &Link<T>) {
        link.owner.store(ptr::from_ref(owner).cast_mut(), Relaxed);
        // SAFETY: By the safety requirements `link` is in no list, and does not move.
        unsafe { self.insert(link, None) }
    }

    /// Removes a link.
    ///
    /// # Safety
    ///
    /// The link must be in this list.
    pub(crate) unsafe fn remove(&mut self, link: &Link<T>) {
        let (prev, next) = (link.prev.load(Relaxed), link.next.load(Relaxed));

        // SAFETY: By the type invariants `prev` is null, or in this list.
        match unsafe { Self::next_of(prev) } {
            Some(prev) => prev.next.store(next, Relaxed),
            None => self.first = next,
        }
        // SAFETY: By the type invariants `next` is null, or in this list.
        if let Some(next) = unsafe { Self::next_of(next) } {
            next.prev.store(prev, Relaxed);
        }
    }

    /// Removes the first element, and returns it. Markers before it stay in the list.
    pub(crate) fn pop(&mut self) -> Option<NonNull<T>> {
        let mut next = self.first;

        // SAFETY: By the type invariants `next` is null, or in this list.
        while let Some(link) = unsafe { Self::next_of(next) } {
            if let Some(owner) = NonNull::new(link.owner.load(Relaxed)) {
                // SAFETY: `link` is in this list.
                unsafe { self.remove(link) };
                return Some(owner);
            }
            next = link.next.load(Relaxed);
        }
        None
    }

    /// Returns an iterator over the elements, for a walk without the lock. Elements that are
    /// inserted later are not visited.
    ///
    /// # Safety
    ///
    /// For `'a` nothing may be removed.
    pub(crate) unsafe fn iter<'a>(&self) -> impl Iterator<Item = &'a T>
    where
        T: 'a,
    {
        let mut next = self.first;

        core::iter::from_fn(move || {
            // SAFETY: `next` is null, or in the list, from which nothing is removed.
            let link: &'a Link<T> = unsafe { Self::next_of(next) }?;

            next = link.next.load(Relaxed);
            Some(link)
        })
        .filter_map(Link::owner)
    }
}

/// A position in a list, for a walk.
///
/// # Invariants
///
/// `link` is in `list`, which is only accessed under its lock.
pub(crate) struct Marker<T> {
    link: Link<T>,
    list: *const List<T>,
}

impl<T> Marker<T> {
    /// Calls `walk` with a marker, which is inserted at the front of one of the lists that `lists`
    /// protects, and removed afterwards.
    ///
    /// # Safety
    ///
    /// `list_of` must always return the same list, which must be neither moved nor replaced during
    /// the call.
    pub(crate) unsafe fn with<L, R>(
        lists: &SpinLock<L>,
        list_of: fn(&mut L) -> &mut List<T>,
        walk: impl FnOnce(&Self) -> R,
    ) -> R
    where
        L: Unpin,
    {
        let mut marker = Self {
            link: Link::new(),
            list: ptr::null(),
        };
        let mut locked = lists.lock();
        let list = list_of(&mut locked);

        marker.list = list;
        // INVARIANT: The marker is inserted here, and nothing else removes it.
        // SAFETY: `marker` is in no list, and does not move until it is removed below.
        unsafe { list.insert(&marker.link, None) };
        drop(locked);
        let done = walk(&marker);
        // SAFETY: `marker` is in the list, which is the same by the safety requirements.
        unsafe { list_of(&mut lists.lock()).remove(&marker.link) };
        done
    }

    /// Returns what comes after the marker in `list`, which must be its list: nothing, another
    /// marker, or an element.
    pub(crate) fn next<'a>(&self, list: &'a List<T>) -> Option<Option<&'a T>> {
        if !ptr::eq(self.list, list) {
            return None;
        }
        // SAFETY: By the type invariants the next link is null, or in `list`.
        unsafe { List::next_of(self.link.next.load(Relaxed)) }.map(Link::owner)
    }

    /// Moves the marker one position further in `list`, which must be its list.
    pub(crate) fn advance(&self, list: &mut List<T>) {
        if !ptr::eq(self.list, list) {
            return;
        }
        // SAFETY: By the type invariants the next link is null, or in `list`.
        let next = unsafe { List::next_of(self.link.next.load(Relaxed)) };

        if next.is_some() {
            // SAFETY: By the type invariants the link is in `list`.
            unsafe { list.remove(&self.link) };
            // SAFETY: The link was removed just above; `next` is in `list`.
            unsafe { list.insert(&self.link, next) };
        }
    }
}
