// SPDX-License-Identifier: GPL-2.0

//! The files of a mount that have been mapped by mmap(2), and memory that outlives its file.
//!
//! When the last file of an inode is closed, pages of it may still be in use: by direct I/O to
//! another file system, or in a pipe. Then the mount holds the inode, and a work item of the mount
//! lets it go once they are idle. Nothing waits for that, no other file gets the memory meanwhile,
//! and the server is not told to forget the file.
//!
//! Unmounting evicts such an inode all the same. Eviction flushes all, gives up what is idle and
//! leaves the rest, the [`MappedFile`] with its DAX page cache, in the list of kept memory, which
//! the same work item gives up. Until then the mount's devices stay held.
//!
//! Who has a page in use may store there at any time, and fsync(2) may have flushed it before. So
//! what was in use is marked dirty once it is idle, before the memory is given up.

use core::{
    mem,
    ptr::{
        self,
        NonNull, //
    },
    sync::atomic::Ordering, //
};

use kernel::{
    new_mutex,
    new_spinlock,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Relaxed,
            Release, //
        },
        Mutex,
        SpinLock, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};

use crate::{
    bindings::kernel as c,
    daxdev::Device,
    fmap_ops::Mount,
    fuse::is_bad,
    lockless::{
        self,
        AsWritten, //
    }, //
};

use super::{
    tenancy::DaxEntry,
    vacating::{
        give_up_idle,
        mark_all_dirty, //
    },
    Header,
    MappedFile, //
};

/// How long kept memory is left alone before it is looked at again, at first and in the end.
const KEPT_MIN_MS: u32 = 10;
const KEPT_MAX_MS: u32 = 250;

/// The files of a mount that have been mapped by mmap(2): no others have DAX entries.
#[pin_data]
pub(crate) struct MappedFiles {
    #[pin]
    lists: SpinLock<Lists>,
    /// Held while a file gets its DAX page cache.
    #[pin]
    pub(super) making: Mutex<()>,
    /// Held while kept memory is given up.
    #[pin]
    giving_up: Mutex<()>,
    /// How many inodes are held, and how many files are in the list of kept memory.
    leftovers: Atomic<i64>,
    /// How often there was a reason to look for inodes that FUSE has marked bad.
    suspicions: Atomic<u64>,
    /// How many of those reasons are known to be none any more.
    cleared: Atomic<u64>,
    patience_ms: Atomic<u32>,
}

/// # Invariants
///
/// `mapped` is a list of links that know the one before. Each of a file is of one whose header is
/// published, and whose inode is in use or being evicted. The others are markers of
/// [`MappedFiles::walk`].
///
/// Each file in `kept` belongs to the list.
struct Lists {
    mapped: *mut Link,
    kept: *mut Link,
    /// No inode is held any more.
    shuts_down: bool,
}

// SAFETY: What is in the lists belongs to no task.
unsafe impl Send for Lists {}

/// A place in a list.
pub(super) struct Link {
    next: *mut Link,
    prev: *mut Link,
    /// Null for a marker.
    file: *mut MappedFile,
}

impl Link {
    pub(super) fn new(file: *mut MappedFile) -> Self {
        Self {
            next: ptr::null_mut(),
            prev: ptr::null_mut(),
            file,
        }
    }
}

impl Lists {
    /// Puts a link behind `prev`, or at the front.
    ///
    /// # Safety
    ///
    /// The link is in no list; `prev` is in `mapped`, or null. A file has an inode.
    unsafe fn insert(&mut self, link: *mut Link, prev: *mut Link) {
        // SAFETY: By the safety requirements, and the type invariants.
        unsafe {
            let place = if prev.is_null() {
                &raw mut self.mapped
            } else {
                &raw mut (*prev).next
            };
            (*link).prev = prev;
            (*link).next = mem::replace(&mut *place, link);
            if !(*link).next.is_null() {
                (*(*link).next).prev = link;
            }
        }
    }

    /// # Safety
    ///
    /// The link is in `mapped`.
    unsafe fn remove(&mut self, link: *mut Link) {
        // SAFETY: By the safety requirements, and the type invariants.
        unsafe {
            let (prev, next) = ((*link).prev, (*link).next);
            if prev.is_null() {
                self.mapped = next;
            } else {
                (*prev).next = next;
            }
            if !next.is_null() {
                (*next).prev = prev;
            }
        }
    }

    /// # Safety
    ///
    /// The file is in no list, has no inode, and is given to this one.
    unsafe fn keep(&mut self, file: *mut MappedFile) {
        // SAFETY: `file` is in no list, and ours to put into one, by the safety requirements.
        unsafe {
            let link = &raw mut (*file).link;
            (*link).next = mem::replace(&mut self.kept, link);
        }
    }
}

/// What becomes of a file in a walk.
enum Look {
    /// Nothing.
    Pass,
    /// Its inode is held, and the file handed on.
    Take,
    /// It was the last one.
    Stop,
}

/// A reference to the inode of a file in the list, which keeps it there.
struct Held(NonNull<MappedFile>);

impl Held {
    fn header(&self) -> &Header {
        // SAFETY: A file in the list is published.
        unsafe { MappedFile::header(self.0.as_ptr()) }
    }

    fn inode(&self) -> *mut c::inode {
        // SAFETY: `self.0` is in the list, as its inode is held.
        unsafe { (*self.0.as_ptr()).inode }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: The reference is ours to give up.
        unsafe { c::iput(self.inode()) }
    }
}

impl MappedFiles {
    /// How many files are looked at with the lock held.
    const BATCH: usize = 64;

    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            lists <- new_spinlock!(
                Lists {
                    mapped: ptr::null_mut(),
                    kept: ptr::null_mut(),
                    shuts_down: false,
                },
                "fuse_dax_fmap::MappedFiles::lists"
            ),
            making <- new_mutex!((), "fuse_dax_fmap::MappedFiles::making"),
            giving_up <- new_mutex!((), "fuse_dax_fmap::MappedFiles::giving_up"),
            leftovers: Atomic::new(0),
            suspicions: Atomic::new(0),
            cleared: Atomic::new(0),
            patience_ms: Atomic::new(KEPT_MIN_MS),
        })
    }

    /// Puts in a file that is about to be mapped by mmap(2) for the first time.
    pub(super) fn insert(&self, mapped: NonNull<MappedFile>) {
        // SAFETY: It was made just now, with its inode, which is in use.
        unsafe {
            let link = &raw mut (*mapped.as_ptr()).link;
            self.lists.lock().insert(link, ptr::null_mut());
        }
    }

    /// Takes out a file whose inode is being evicted, and frees it, or keeps its memory if that is
    /// busy.
    ///
    /// # Safety
    ///
    /// The file is in the list. Nothing but the memory management uses it any more, and not even
    /// that if it `is_idle`.
    pub(super) unsafe fn remove(&self, mount: &Mount, mapped: NonNull<MappedFile>, is_idle: bool) {
        let file = mapped.as_ptr();
        {
            let mut lists = self.lists.lock();
            // SAFETY: By the safety requirements the file is in the list, and ours then. Nothing
            // asks FUSE's superblock about kept memory, and tracepoints ask the host's superblock
            // for its number.
            unsafe {
                lists.remove(&raw mut (*file).link);
                (*file).inode = ptr::null_mut();
                if !is_idle {
                    let host = (&raw mut (*file).host).cast::<c::inode>();
                    if let Some(device) = MappedFile::header(file).any_device() {
                        (*host).i_sb = (*c::dax_inode(device.as_raw())).i_sb;
                    }
                    lists.keep(file);
                    self.leftovers.add(1, Relaxed);
                }
            }
        }
        if !is_idle {
            self.soon();
        }
        if is_idle {
            // SAFETY: By the safety requirements, and it was taken out of the list.
            unsafe { MappedFile::free(mapped) };
        } else {
            mount.give_up_later();
        }
    }

    /// Whether pages of a file are in use. What is mapped of it is unmapped.
    fn is_busy(header: &Header) -> bool {
        let mapping = header.dax_mapping();

        // SAFETY: A file in the list, or that is being closed, has a DAX page cache.
        !unsafe { c::dax_layout_busy_page_range(mapping, 0, c::loff_t::MAX) }.is_null()
    }

    /// Holds the inode of a file that is being closed, the last one of its inode, if pages of it
    /// are in use.
    pub(super) fn hold_if_busy(&self, mount: &Mount, file: NonNull<MappedFile>) {
        let file = file.as_ptr();
        // SAFETY: The inode is in use, as a file of it is being closed, so its mapped file and
        // header are there.
        let (header, may_be_busy) = unsafe { (MappedFile::header(file), &(*file).may_be_busy) };

        // What is mapped anew after this is looked at when that is closed. What was in use before
        // is yet to be marked dirty.
        if !lockless::may_be_left::<AsWritten>(may_be_busy)
            || !Self::is_busy(header) && !header.was_busy()
        {
            return;
        }
        lockless::left(may_be_busy);
        let lists = self.lists.lock();
        // SAFETY: As above, with the lock.
        let (is_held, inode) = unsafe { (&mut (*file).is_held, (*file).inode) };
        if !*is_held && !lists.shuts_down {
            *is_held = true;
            self.leftovers.add(1, Relaxed);
            // SAFETY: The inode is in use.
            unsafe { c::ihold(inode) };
            drop(lists);
            self.soon();
            mount.give_up_later();
        }
    }

    /// Lets inodes go that are held: those with no page in use any more and those that are open
    /// again, or all. Returns whether some are held still.
    ///
    /// The caller has `giving_up`.
    fn let_go(&self, all: bool) -> bool {
        let mut left = false;
        let is_held = |header: &Header, _: *mut c::inode| match header.file() {
            // SAFETY: It is in the list, and the lock is held.
            Some(file) if unsafe { (*file.as_ptr()).is_held } => Look::Take,
            _ => Look::Pass,
        };

        self.walk(false, is_held, |held| {
            let (header, file) = (held.header(), held.0.as_ptr());
            // SAFETY: The inode is held, so the file is there.
            let (may_be_busy, was_busy) = unsafe { (&(*file).may_be_busy, &(*file).was_busy) };
            let open_files = &header.published().open_files;

            // From here on, mmap(2) sets this again.
            let was_open = lockless::look::<AsWritten>(may_be_busy, open_files);
            if !all && !was_open && Self::is_busy(header) {
                lockless::left(may_be_busy);
                left = true;
                return;
            }
            // SAFETY: The inode is held. What was in use is idle, or is looked at once more.
            unsafe { mark_all_dirty(header) };
            let lists = self.lists.lock();
            // A task that has opened, used and closed the file since found it held, and did not
            // hold it again. One that closes it after this does so itself, if pages are in use.
            let was_used = was_open || may_be_busy.load(Ordering::Relaxed);
            let is_open = was_used && lockless::use_again::<AsWritten>(may_be_busy, open_files);
            if !all && was_used && !is_open {
                left = true;
                return;
            }
            // Who has pages in use still may store there after this mark.
            was_busy.store(all || was_used, Relaxed);
            // SAFETY: As above, with the lock.
            unsafe { (*file).is_held = false };
            self.leftovers.add(-1, Relaxed);
            drop(lists);
            self.soon();
            // SAFETY: The reference was the mount's.
            unsafe { c::iput(held.inode()) };
        });
        left
    }

    /// The superblock is being shut down: lets all inodes go, before it looks for any that are
    /// left.
    pub(crate) fn shut_down(&self) {
        let _alone = self.giving_up.lock();

        self.lists.lock().shuts_down = true;
        self.let_go(true);
    }

    /// Gives up what is idle of the memory that was busy when its file was closed. Returns whether
    /// some is left. May sleep, but not for pages.
    pub(crate) fn give_up_kept(&self) -> bool {
        let _alone = self.giving_up.lock();
        let holds = !self.lists.lock().shuts_down && self.let_go(false);
        let mut rest = mem::replace(&mut self.lists.lock().kept, ptr::null_mut());

        while !rest.is_null() {
            // SAFETY: By the type invariants of the list the file is ours now.
            unsafe {
                let file = (*rest).file;
                rest = (*rest).next;
                let header = MappedFile::header(file);
                if give_up_idle(header) {
                    self.leftovers.add(-1, Relaxed);
                    self.soon();
                    MappedFile::free(NonNull::new_unchecked(file));
                } else {
                    self.lists.lock().keep(file);
                }
            }
        }
        holds || !self.lists.lock().kept.is_null()
    }

    /// Gives up what is idle of the kept memory. Returns whether some is left of a device.
    pub(super) fn give_up_kept_of(&self, device: &Device) -> bool {
        self.give_up_kept();
        // With this held, nothing is missing from the list, and nothing leaves it; what comes is
        // put in front.
        let _alone = self.giving_up.lock();
        let mut link = self.lists.lock().kept;
        let mut found = false;

        while !link.is_null() && !found {
            // SAFETY: By the type invariants of the list, and as above; the memory is kept
            // meanwhile.
            unsafe {
                DaxEntry::for_each(
                    MappedFile::header((*link).file).dax_mapping(),
                    0,
                    u64::MAX,
                    c::XA_PRESENT,
                    |_, entry| {
                        found |= entry.frames().is_some_and(|(pfn, _)| device.has_frame(pfn));
                    },
                );
                link = (*link).next;
            }
        }
        found
    }

    /// Whether there may be memory that is in use though its file is closed: of inodes that are
    /// held, of those that FUSE has marked bad, and kept memory.
    #[inline]
    pub(super) fn has_leftovers(&self) -> bool {
        self.leftovers.load(Relaxed) != 0
            || self.suspicions.load(Relaxed) != self.cleared.load(Relaxed)
    }

    /// An inode may have been marked bad: until somebody has looked, its memory may be in use.
    pub(crate) fn suspect(&self) {
        self.suspicions.add(1, Relaxed);
    }

    /// Looks, and remembers if no memory of inodes that FUSE has marked bad is in use: what is not
    /// `busy`.
    pub(super) fn clear(&self, look: impl FnOnce() -> bool) -> bool {
        // What is bad by then is seen.
        let seen = self.suspicions.load(Acquire);
        let busy = look();

        if !busy {
            self.cleared.store(seen, Release);
        }
        busy
    }

    /// Whether a DAX page cache, which was found in a folio, is one of those.
    ///
    /// # Safety
    ///
    /// It was found there under RCU, which is still held.
    pub(super) unsafe fn is_leftover(mapping: *mut c::address_space) -> bool {
        // SAFETY: By the safety requirements it is not freed yet, nor is the inode.
        unsafe {
            let file = MappedFile::of_mapping(mapping);
            let inode = ptr::addr_of!((*file).inode).read_volatile();

            inode.is_null() || is_bad(inode) || ptr::addr_of!((*file).is_held).read_volatile()
        }
    }

    /// How long kept memory is to be left alone now, in milliseconds: longer each time.
    pub(crate) fn patience(&self) -> u32 {
        let ms = self.patience_ms.load(Relaxed);

        self.patience_ms.store((ms * 2).min(KEPT_MAX_MS), Relaxed);
        ms
    }

    /// Kept memory is to be looked at soon.
    fn soon(&self) {
        self.patience_ms.store(KEPT_MIN_MS, Relaxed);
    }

    /// Looks at one file after the other, with the lock held, which others get every now and then.
    /// A marker in the list says how far this is.
    ///
    /// What is to be taken and is being evicted is passed by, unless that is to be waited for: then
    /// it has given up its memory, or that is kept, when this returns. Files that are mapped
    /// meanwhile are passed by.
    fn walk(
        &self,
        wait_for_eviction: bool,
        mut look: impl FnMut(&Header, *mut c::inode) -> Look,
        mut each: impl FnMut(&Held),
    ) {
        let mut marker = Link::new(ptr::null_mut());
        let marker = &raw mut marker;
        let mut more = true;

        // SAFETY: The marker stays where it is until it is taken out below.
        unsafe { self.lists.lock().insert(marker, ptr::null_mut()) };
        while more {
            let mut held = None;
            let mut evicted = false;
            let mut lists = self.lists.lock();
            for _ in 0..Self::BATCH {
                // SAFETY: By the type invariants of the lists, with the lock held: a file in the
                // list is published, and its inode is not freed before it is out of the list.
                unsafe {
                    let link = (*marker).next;
                    let Some(at) = NonNull::new(link) else {
                        more = false;
                        break;
                    };
                    if let Some(mapped) = NonNull::new((*at.as_ptr()).file) {
                        let inode = (*mapped.as_ptr()).inode;
                        match look(MappedFile::header(mapped.as_ptr()), inode) {
                            Look::Pass => (),
                            Look::Take if !c::igrab(inode).is_null() => held = Some(Held(mapped)),
                            Look::Take => evicted = wait_for_eviction,
                            Look::Stop => more = false,
                        }
                    }
                    if evicted || !more {
                        break;
                    }
                    lists.remove(marker);
                    lists.insert(marker, link);
                    if held.is_some() {
                        break;
                    }
                }
            }
            drop(lists);
            if let Some(held) = held {
                each(&held);
            } else if evicted {
                fsleep(Delta::from_millis(1));
            }
        }
        // SAFETY: It was put in above.
        unsafe { self.lists.lock().remove(marker) };
    }

    /// Calls `each` with every file that is `wanted`, whose inode is held meanwhile. `wanted` is
    /// called with a spin lock held. See [`MappedFiles::walk`].
    ///
    /// # Safety
    ///
    /// The superblock is kept mounted by the caller.
    pub(super) unsafe fn for_each(
        &self,
        wait_for_eviction: bool,
        wanted: impl Fn(&Header, *mut c::inode) -> bool,
        mut each: impl FnMut(&Header, *mut c::inode),
    ) {
        let look = |header: &Header, inode: *mut c::inode| {
            if wanted(header, inode) {
                Look::Take
            } else {
                Look::Pass
            }
        };
        self.walk(wait_for_eviction, look, |held| {
            each(held.header(), held.inode())
        });
    }

    /// Whether a file is `wanted`, which is called with a spin lock held.
    pub(super) fn any(&self, wanted: impl Fn(&Header, *mut c::inode) -> bool) -> bool {
        let mut found = false;
        let look = |header: &Header, inode: *mut c::inode| {
            found = wanted(header, inode);
            if found {
                Look::Stop
            } else {
                Look::Pass
            }
        };
        self.walk(false, look, |_| ());
        found
    }

    /// Takes a reference to the inode of a mapped file, unless that is being evicted, or its memory
    /// is kept.
    ///
    /// # Safety
    ///
    /// The file is not freed meanwhile. The superblock is kept mounted by the caller.
    pub(super) unsafe fn grab(&self, mapped: *mut MappedFile) -> *mut c::inode {
        let _lists = self.lists.lock();

        // SAFETY: By the safety requirements. A file has an inode as long as it is in the list.
        unsafe {
            let inode = (*mapped).inode;
            if inode.is_null() {
                return inode;
            }
            c::igrab(inode)
        }
    }
}
