// SPDX-License-Identifier: GPL-2.0

//! What the benchmark compares a BPF program with: `iomap_begin()` of `bpf/striped.bpf.c` in Rust,
//! in the module itself, as a file system does that knows its format.
//!
//! Only a module that is built with `--cfg fmap_native` has this (see `bench/`); the one that is
//! shipped knows no format. Metadata is what the program's parser left, the lookup is that of
//! `bpf/extent_map.bpf.h`, line by line, and each access is checked against the metadata's size, as
//! the kfunc does it.

use kernel::{
    page::PAGE_SHIFT,
    prelude::*, //
};

use super::Claim;

const LEVELS: usize = 3;
const FANOUT: usize = 16;
const HEAD_STRIPS: usize = 6;
const PAGE_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// `map_extent`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Extent(u64);

impl Extent {
    #[inline]
    fn is_linear(self) -> bool {
        self.0 >> 63 == 0
    }

    #[inline]
    fn chunk(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    fn first_strip(self) -> u32 {
        (self.0 >> 32 & 0xffff) as u32
    }

    #[inline]
    fn nr_strips(self) -> u32 {
        (self.0 >> 48 & 0x7fff) as u32
    }
}

/// The beginning of `struct map_head`.
#[repr(C)]
struct Head {
    pages: u32,
    is_tree: u32,
    extent: Extent,
}

/// `struct map_head` of a file of one extent with few strips.
#[repr(C)]
struct Line {
    head: Head,
    strip: [u64; HEAD_STRIPS],
}

/// `struct map_head` of any other.
#[repr(C)]
struct Tree {
    head: Head,
    level: [u32; LEVELS],
    extents: u32,
    strips: u32,
}

/// `struct map_node`.
#[repr(C)]
struct Node {
    first: [u32; FANOUT],
}

/// What is at `offset` in the metadata.
#[inline]
fn meta_at<T>(meta: &[u8], offset: u32) -> Result<&T> {
    let end = u64::from(offset) + size_of::<T>() as u64;

    if end > meta.len() as u64 {
        return Err(EIO);
    }
    // SAFETY: Inside the metadata, as just checked. Metadata is aligned to a cache line, and the
    // parser aligns what it puts there; all types here are plain numbers.
    Ok(unsafe { &*meta.as_ptr().add(offset as usize).cast::<T>() })
}

/// A page of an interleaved extent: which strip, how deep in it, for how many pages.
struct Place {
    strip: u32,
    page: u32,
    left: u32,
}

#[inline]
fn place_in_extent(extent: Extent, page: u32, left: u32) -> Result<Place> {
    let (size, strips) = (extent.chunk(), extent.nr_strips());

    if size == 0 || strips == 0 {
        return Err(EIO);
    }
    let chunk = page / size;
    let row = chunk / strips;
    let in_chunk = page.wrapping_sub(chunk.wrapping_mul(size));

    Ok(Place {
        strip: chunk.wrapping_sub(row.wrapping_mul(strips)),
        page: row.wrapping_mul(size).wrapping_add(in_chunk),
        left: left.min(size.wrapping_sub(in_chunk)),
    })
}

/// Bytes `offset` to `end` of a strip.
#[inline]
fn report(strip: u64, offset: u64, end: u64) -> Claim {
    Claim {
        addr: (strip & !PAGE_MASK).wrapping_add(offset),
        length: end.wrapping_sub(offset),
        dev_index: (strip & PAGE_MASK) as u32,
        type_: 0,
    }
}

#[inline]
fn report_place(strip: u64, place: &Place) -> Claim {
    let offset = u64::from(place.page) << PAGE_SHIFT;

    report(
        strip,
        offset,
        offset.wrapping_add(u64::from(place.left) << PAGE_SHIFT),
    )
}

/// The last entry of a node that does not begin behind `page`: four steps.
#[inline]
fn node_find(node: &Node, page: u32) -> usize {
    let first = &node.first;
    let mut i = 0;

    if first[8] <= page {
        i = 8;
    }
    if first[i + 4] <= page {
        i += 4;
    }
    if first[i + 2] <= page {
        i += 2;
    }
    if first[i + 1] <= page {
        i += 1;
    }
    i
}

/// `map_resolve()`.
#[inline]
pub(super) fn resolve(meta: &[u8], offset: u64) -> Result<Claim> {
    let line = meta_at::<Line>(meta, 0)?;
    let end = u64::from(line.head.pages) << PAGE_SHIFT;
    if offset >= end {
        return Err(ERANGE);
    }
    if line.head.extent.is_linear() {
        return Ok(report(line.head.extent.0, offset, end));
    }
    resolve_any(meta, offset, line)
}

/// `map_resolve_any()`.
#[inline(never)]
fn resolve_any(meta: &[u8], offset: u64, line: &Line) -> Result<Claim> {
    let (page, mut end) = ((offset >> PAGE_SHIFT) as u32, line.head.pages);

    if line.head.is_tree == 0 {
        let place = place_in_extent(line.head.extent, page, end.wrapping_sub(page))?;
        let strip = line.strip.get(place.strip as usize).ok_or(EIO)?;
        return Ok(report_place(*strip, &place));
    }

    let tree = meta_at::<Tree>(meta, 0)?;
    let (mut first, mut index) = (0, 0u32);
    for level in tree.level.iter().rev() {
        if *level == 0 {
            continue;
        }
        let node = meta_at::<Node>(meta, level.wrapping_add(index.wrapping_mul(64)))?;
        let i = node_find(node, page);
        first = node.first[i];
        if i < FANOUT - 1 {
            end = node.first[i + 1];
        }
        index = index.wrapping_mul(FANOUT as u32).wrapping_add(i as u32);
    }
    let extent = meta_at::<Extent>(meta, tree.extents.wrapping_add(index.wrapping_mul(8)))?;
    if extent.is_linear() {
        let start = u64::from(first) << PAGE_SHIFT;
        let end = u64::from(end) << PAGE_SHIFT;
        return Ok(report(
            extent.0,
            offset.wrapping_sub(start),
            end.wrapping_sub(start),
        ));
    }
    let place = place_in_extent(*extent, page.wrapping_sub(first), end.wrapping_sub(page))?;
    let strip = extent.first_strip().wrapping_add(place.strip);
    let strip = meta_at::<u64>(meta, tree.strips.wrapping_add(strip.wrapping_mul(8)))?;
    Ok(report_place(*strip, &place))
}
