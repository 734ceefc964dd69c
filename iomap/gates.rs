// SPDX-License-Identifier: GPL-2.0

//! Gates: ranges of files where access waits until a change of the map is over.
//!
//! The task that changes a map drops what the page caches have of a range, and closes a gate there
//! in the same critical section of `invalidate_lock`. From then on nothing reaches that memory: a
//! fault waits without its locks ([`wait_in_fault`]), a read or write without `i_rwsem`
//! ([`wait_in_io`]), and both look again afterwards. So a fault sees the state before the change or
//! the one after it.
//!
//! A server revokes a range the same way: its gate is open when the server has set a map, or never,
//! if the server is gone. Access fails then.
//!
//! A map knows only that it has gates (`Header::has_gates`), which costs a fault a comparison. The
//! ranges are in a tree of the mount.

use core::ptr;

use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode,
        RBTreeNodeReservation, //
    },
    sync::{
        atomic::Relaxed,
        Arc, //
    },
    time::msecs_to_jiffies, //
};

use crate::{
    abstractions::{
        mm::fault::VmFault,
        sync::completion::Completion,
        task, //
    },
    bindings::kernel as c,
    fuse::Inode,
    sb_info::{
        Gate,
        GateKey,
        SbInfo, //
    },
    single_flight::Flight, //
};

use super::{
    mapped_inode::{
        Header,
        MappedFile,
        MappedInode, //
    },
    no_faults::NoFaults, //
};

/// How long a task that waits sleeps at most before it looks again: nobody wakes it when FUSE marks
/// the inode bad, or when the server is gone.
const LOOK_MS: u32 = 100;

/// What is allocated for a gate before locks are taken.
pub(super) struct NewGate {
    node: RBTreeNodeReservation<GateKey, Gate>,
    opened: Arc<Completion>,
}

impl NewGate {
    /// # Errors
    ///
    /// [`ENOMEM`].
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            node: RBTreeNodeReservation::new(GFP_KERNEL)?,
            opened: Arc::pin_init(Completion::new(), GFP_KERNEL)?,
        })
    }

    /// Closes a gate from byte `start` to `end` of a map, which are neither mapped nor in use.
    /// There must be no other gate in this range.
    pub(super) fn close<'a>(
        self,
        no_faults: &NoFaults<'a>,
        map: &Header,
        (start, end): (u64, u64),
    ) -> ClosedGate<'a> {
        let file = no_faults.file();
        let key = (ptr::from_ref(map).addr(), end);
        let gate = Gate {
            start,
            is_revoked: false,
            opened: self.opened,
        };

        // With the ranges of a map in order, and none inside another, their ends are in order, too.
        file.sbi()
            .gates
            .lock()
            .insert(self.node.into_node(key, gate));
        map.has_gates.store(true, Relaxed);
        ClosedGate {
            file,
            key,
            is_open: false,
        }
    }
}

/// The most ranges of a file that may be revoked at a time.
const REVOKED_MAX: usize = 64;

/// Closes a gate from byte `start` to `end` of a map, which are neither mapped nor in use, until
/// the server sets another map. Ranges that were revoked before and touch this one become a part of
/// it. There must be no other gates.
///
/// # Errors
///
/// [`E2BIG`] if the file has too many of them.
pub(super) fn revoke_range(
    no_faults: &NoFaults<'_>,
    new: NewGate,
    (mut start, mut end): (u64, u64),
) -> Result {
    let (map, sbi) = (no_faults.map(), no_faults.file().sbi());
    let key_of = ptr::from_ref(map).addr();
    let mut gates = sbi.gates.lock();

    if count(&gates, key_of) >= REVOKED_MAX {
        return Err(E2BIG);
    }
    // The first gate that ends at `start`, or behind it.
    while let Some((key, _)) =
        next_gate(&gates, key_of, start.saturating_sub(1)).filter(|(_, gate)| gate.start <= end)
    {
        if let Some((key, gate)) = gates.remove_node(&key).map(RBTreeNode::to_key_value) {
            start = start.min(gate.start);
            end = end.max(key.1);
            // Its tasks look again, and wait for the new one.
            gate.opened.complete_all();
        }
    }
    let gate = Gate {
        start,
        is_revoked: true,
        opened: new.opened,
    };
    gates.insert(new.node.into_node((key_of, end), gate));
    map.has_gates.store(true, Relaxed);
    Ok(())
}

/// Returns the number of gates of a map, of which there are not many.
fn count(gates: &RBTree<GateKey, Gate>, map: usize) -> usize {
    let (mut pos, mut n) = (0, 0);

    while let Some((key, _)) = next_gate(gates, map, pos) {
        (pos, n) = (key.1, n + 1);
    }
    n
}

/// Opens the gates of a map that is not the file's any more, or is about to be freed.
pub(super) fn open_all(sbi: &SbInfo, map: &Header) {
    if !map.has_gates.load(Relaxed) {
        return;
    }
    let mut gates = sbi.gates.lock();

    while let Some((key, _)) = next_gate(&gates, ptr::from_ref(map).addr(), 0) {
        if let Some((_, gate)) = gates.remove_node(&key).map(RBTreeNode::to_key_value) {
            gate.opened.complete_all();
        }
    }
}

/// A gate that is closed. Dropping it opens the gate; the lock of [`NoFaults`] must not be held.
pub(super) struct ClosedGate<'a> {
    file: &'a MappedFile,
    key: GateKey,
    is_open: bool,
}

impl<'a> ClosedGate<'a> {
    pub(super) fn file(&self) -> &'a MappedFile {
        self.file
    }

    /// Opens the gate.
    pub(super) fn open(mut self, no_faults: &NoFaults<'a>) {
        self.open_once(no_faults);
    }

    /// Leaves it closed, as if the server had revoked the range.
    pub(super) fn stay_closed(mut self) {
        if let Some(gate) = self.file.sbi().gates.lock().get_mut(&self.key) {
            gate.is_revoked = true;
        }
        self.is_open = true;
    }

    fn open_once(&mut self, _no_faults: &NoFaults<'_>) {
        let sbi = self.file.sbi();
        // No other task puts a gate into the map now, or replaces the map.
        let mut gates = sbi.gates.lock();
        let gate: Option<RBTreeNode<GateKey, Gate>> = gates.remove_node(&self.key);
        let is_last = next_gate(&gates, self.key.0, 0).is_none();
        drop(gates);

        if is_last {
            // SAFETY: `invalidate_lock` is held.
            unsafe { self.file.present_map() }
                .has_gates
                .store(false, Relaxed);
        }
        if let Some((_, gate)) = gate.map(RBTreeNode::to_key_value) {
            gate.opened.complete_all();
        }
        self.is_open = true;
    }
}

impl Drop for ClosedGate<'_> {
    fn drop(&mut self) {
        if !self.is_open {
            self.open_once(&NoFaults::lock(self.file));
        }
    }
}

/// Returns the first gate of a map that ends behind `pos`.
fn next_gate(gates: &RBTree<GateKey, Gate>, map: usize, pos: u64) -> Option<(GateKey, &Gate)> {
    let key = *gates
        .cursor_lower_bound(&(map, pos.checked_add(1)?))?
        .current()
        .0;
    let gate = gates.get(&key).filter(|_| key.0 == map)?;

    Some((key, gate))
}

impl Header {
    /// Returns how many of `length` bytes from `pos` on come before a gate; `None` if `pos` is in
    /// one.
    #[cold]
    pub(super) fn before_gate(&self, pos: u64, length: u64) -> Option<u64> {
        let gates = self.sbi().gates.lock();

        match next_gate(&gates, ptr::from_ref(self).addr(), pos) {
            Some((_, gate)) if gate.start <= pos => None,
            Some((_, gate)) => Some(length.min(gate.start - pos)),
            None => Some(length),
        }
    }

    /// Returns the first gate that has a part of the bytes from `start` to `end`, if there is one.
    ///
    /// # Errors
    ///
    /// [`EIO`] if it stays closed: FUSE has marked the inode bad, or the server is gone that could
    /// set a map.
    #[cold]
    fn gate_in(&self, inode: &Inode, start: u64, end: u64) -> Option<Result<Arc<Completion>>> {
        if !self.has_gates.load(Relaxed) {
            return None;
        }
        let gates = self.sbi().gates.lock();

        next_gate(&gates, ptr::from_ref(self).addr(), start)
            .filter(|(_, gate)| gate.start < end)
            .map(|(_, gate)| gate.opened_for(inode))
    }
}

impl Gate {
    /// Returns what a task that uses `inode` waits for.
    fn opened_for(&self, inode: &Inode) -> Result<Arc<Completion>> {
        if inode.is_bad() || self.is_revoked && !inode.conn().is_connected() {
            return Err(EIO);
        }
        Ok(self.opened.clone())
    }
}

/// Waits for a gate for a moment, with no lock held.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed.
fn wait_a_moment(opened: &Completion) -> Result {
    opened.wait_killable_timeout(msecs_to_jiffies(LOOK_MS));
    if task::fatal_signal_pending() {
        return Err(EINTR);
    }
    Ok(())
}

/// Takes the flight of an inode, whose map then has no gates. Waits for the server to set a map, if
/// it has revoked some of it.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed; [`EIO`] if the server is gone, or FUSE has marked the
/// inode bad; [`ENOMEM`].
pub(super) fn alone_without_gates<'a>(
    inode: MappedInode<'a>,
    done: impl Fn() -> bool,
) -> Result<Option<Flight<'a>>> {
    loop {
        let flight = inode.sbi().opening.flight(inode.inode.key(), &done)?;
        if flight.is_none() || !inode.map().has_gates.load(Relaxed) {
            return Ok(flight);
        }
        drop(flight);
        wait_in_io(inode, 0, u64::MAX)?;
    }
}

/// Returns what a fault has to wait for, if it is in a gate that will be opened.
///
/// # Safety
///
/// The fault is of `inode`, whose mapped file is `file`, and holds its `invalidate_lock`.
pub(super) unsafe fn gate_of_fault(
    vmf: &VmFault,
    inode: MappedInode<'_>,
    file: &MappedFile,
) -> Option<Arc<Completion>> {
    // SAFETY: `invalidate_lock` is held, by the safety requirements.
    let map = unsafe { file.present_map() };
    // mremap(2) lets a VMA begin at any page, even beyond the largest file.
    let pos = vmf.pgoff().checked_mul(super::mapped_inode::PAGE)?;

    map.gate_in(inode.inode, pos, pos + 1)?.ok()
}

/// Waits until a gate is open, with no lock held, and makes the memory manager retry the fault. The
/// caller must have dropped `invalidate_lock`.
///
/// `->page_mkwrite()` and `->pfn_mkwrite()` may not drop the lock of the VMA, and need not wait:
/// the page has been unmapped, so the access faults again.
#[cold]
pub(super) fn wait_in_fault(
    vmf: &VmFault,
    inode: MappedInode<'_>,
    opened: &Completion,
) -> c::vm_fault_t {
    let flags = vmf.flags();

    if vmf.is_mkwrite() {
        return c::vm_fault_reason_VM_FAULT_NOPAGE;
    }
    if flags & c::fault_flag_FAULT_FLAG_ALLOW_RETRY == 0 {
        return c::vm_fault_reason_VM_FAULT_SIGBUS;
    }
    if flags & c::fault_flag_FAULT_FLAG_RETRY_NOWAIT != 0 {
        return c::vm_fault_reason_VM_FAULT_RETRY;
    }
    let interruptible = flags & c::fault_flag_FAULT_FLAG_INTERRUPTIBLE != 0;

    let wait = || loop {
        let done = opened.wait_timeout(interruptible, msecs_to_jiffies(LOOK_MS));
        if done != Ok(false) || inode.inode.is_bad() || !inode.inode.conn().is_connected() {
            break;
        }
    };
    // SAFETY: The result is returned to the memory manager.
    unsafe { vmf.wait_unlocked(wait) }
}

/// Waits until no gate is between byte `start` and `end`, with no lock that the server may need.
/// Returns at once if there is none.
///
/// # Errors
///
/// [`EINTR`] if the task is being killed; [`EIO`] if the gate stays closed.
pub(super) fn wait_in_io(inode: MappedInode<'_>, start: u64, end: u64) -> Result {
    loop {
        // The map is not borrowed during the wait.
        let gate = inode.map().gate_in(inode.inode, start, end);
        match gate {
            Some(opened) => wait_a_moment(&*opened?)?,
            None => return Ok(()),
        }
    }
}
