// SPDX-License-Identifier: GPL-2.0

//! The lists of fmap mounts, of their devices and of their files, which users read in debugfs.
//!
//! Each line is written by itself, with the mount held and no lock of this directory. What goes
//! away between two lines is not shown.
//!
//! A line about a part of a mount has the mount's device number and, in the lower 32 bits, the
//! part's number. Device numbers have 31 bits, as there are less than 2^11 major ones.

use core::marker::PhantomData;

use kernel::{
    seq_file::SeqFile,
    seq_print,
    sync::{
        aref::ARef,
        atomic::Relaxed, //
    }, //
};

use crate::{
    abstractions::debugfs::Lines,
    iomap,
    sb_info::SbInfo, //
};

use super::connection::MOUNTS;

/// Returns the fmap mount with the lowest device number from `device` on.
fn mount_from(device: u64) -> Option<ARef<SbInfo>> {
    let mounts = MOUNTS.lock();
    let at = mounts.partition_point(|mount| u64::from(mount.device) < device);
    let conn = mounts.get(at)?.conn;

    // SAFETY: By the type invariants the connection is valid, as the lock is held.
    Some(ARef::from(unsafe { conn.as_ref() }.sbi()))
}

fn device_of(sbi: &SbInfo) -> u64 {
    sbi.superblock.device.0.into()
}

/// The list of fmap mounts.
pub(crate) struct MountList;

impl Lines for MountList {
    type Module = crate::LocalModule;

    fn next(from: u64) -> Option<u64> {
        mount_from(from).map(|sbi| device_of(&sbi))
    }

    /// Writes `major:minor ops=name map=id files=number devices=index:path,...`, and the mount's
    /// counters (`stats`), each as `name=number`.
    fn show(line: u64, f: &SeqFile) {
        let Some(sbi) = mount_from(line).filter(|sbi| device_of(sbi) == line) else {
            return;
        };
        seq_print!(
            f,
            "{} ops={} map={} files={} devices={}{}\n",
            sbi.superblock.device,
            sbi.ops.name(),
            sbi.ops.map_id(),
            sbi.files.load(Relaxed),
            sbi.devices,
            sbi.stats
        );
    }
}

/// What an fmap mount has several of.
pub(crate) trait Part: 'static {
    /// Returns the first number from `from` on that a part has.
    fn next(sbi: &SbInfo, from: u32) -> Option<u32>;

    /// Writes a line about a part, or nothing if it is not there any more.
    fn show(sbi: &SbInfo, number: u32, f: &SeqFile);
}

/// The list of the parts of all fmap mounts.
pub(crate) struct PartList<T>(PhantomData<T>);

impl<T: Part> Lines for PartList<T> {
    type Module = crate::LocalModule;

    fn next(from: u64) -> Option<u64> {
        let (mut device, mut number) = (from >> 32, from as u32);

        loop {
            let sbi = mount_from(device)?;
            if device_of(&sbi) != device {
                (device, number) = (device_of(&sbi), 0);
            }
            if let Some(number) = T::next(&sbi, number) {
                return Some(device << 32 | u64::from(number));
            }
            (device, number) = (device + 1, 0);
        }
    }

    fn show(line: u64, f: &SeqFile) {
        if let Some(sbi) = mount_from(line >> 32).filter(|sbi| device_of(sbi) == line >> 32) {
            T::show(&sbi, line as u32, f);
        }
    }
}

/// A device of a mount, by its index.
pub(crate) struct OneDevice;

/// The list of the devices of fmap mounts.
pub(crate) type DeviceList = PartList<OneDevice>;

impl Part for OneDevice {
    fn next(sbi: &SbInfo, from: u32) -> Option<u32> {
        sbi.devices.next_held(from)
    }

    /// Writes `major:minor` and what is known of the device.
    fn show(sbi: &SbInfo, index: u32, f: &SeqFile) {
        if let Some(record) = sbi.devices.record(index) {
            seq_print!(f, "{} {record}\n", sbi.superblock.device);
        }
    }
}

/// A mapped file of a mount, by its number in the list of the mount.
pub(crate) struct OneFile;

/// The list of the mapped files of fmap mounts.
pub(crate) type FileList = PartList<OneFile>;

impl Part for OneFile {
    fn next(sbi: &SbInfo, from: u32) -> Option<u32> {
        sbi.mapped_inodes.next(from)
    }

    fn show(sbi: &SbInfo, number: u32, f: &SeqFile) {
        iomap::show_inode(sbi, number, f);
    }
}
