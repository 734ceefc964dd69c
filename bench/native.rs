// SPDX-License-Identifier: GPL-2.0

//! What the benchmark compares a BPF program with: `iomap_begin()` of `bpf/striped.bpf.c` in Rust,
//! in the module, as in a file system that knows its format.
//!
//! Only a module that is built with `--cfg fmap_native` has this (see `bench/`); the released
//! module knows no format. The metadata is what the parser of the BPF program made, the lookup is
//! that of `bpf/extent_map.bpf.h`, line by line, and each access is checked against the size of the
//! metadata, as the kfunc does.

use kernel::{
    page::PAGE_SHIFT,
    prelude::*, //
};

use super::RawMapping;

const FANOUT: usize = 16;
const LEAF_EXTENTS: usize = 15;
const PAGE_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// `map_extent`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Extent(u64);

impl Extent {
    /// `extent_of_tree()`.
    const fn of_tree(levels: u64) -> u64 {
        1 << 63 | (2 - levels)
    }

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

/// `struct map_head`, without the strips.
#[repr(C, align(64))]
struct Head {
    size: u64,
    extent: Extent,
}

/// `struct map_node`.
#[repr(C)]
struct Node {
    first: [u32; FANOUT],
}

/// `struct map_leaf`.
#[repr(C)]
struct Leaf {
    first: [u32; LEAF_EXTENTS + 1],
    extent: [Extent; LEAF_EXTENTS],
    _reserved: u64,
}

/// `struct map_tree_1`, without the leaves.
#[repr(C)]
struct Tree1 {
    _head: Head,
    node: Node,
}

/// `struct map_tree_2`, without the leaves.
#[repr(C)]
struct Tree2 {
    _head: Head,
    top: Node,
    node: [Node; FANOUT],
}

/// Returns the `T` at `offset` in the metadata.
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

/// Where a page of an interleaved extent is: the strip, the offset in it, and for how many pages.
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

/// Returns the mapping of `length` bytes of a strip, from `offset` on.
#[inline]
fn report(strip: u64, offset: u64, length: u64) -> RawMapping {
    let dev_index = strip & PAGE_MASK;

    RawMapping {
        addr: (strip - dev_index).wrapping_add(offset),
        length,
        dev_index: dev_index as u32,
        type_: 0,
    }
}

#[inline]
fn report_place(strip: u64, place: &Place) -> RawMapping {
    report(
        strip,
        u64::from(place.page) << PAGE_SHIFT,
        u64::from(place.left) << PAGE_SHIFT,
    )
}

/// Returns the last entry that does not begin behind `page`, in four steps.
#[inline]
fn find(first: &[u32; FANOUT], page: u32) -> usize {
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
pub(super) fn resolve(meta: &[u8], offset: u64) -> Result<RawMapping> {
    let head = meta_at::<Head>(meta, 0)?;
    let left = head.size.wrapping_sub(offset);
    if left as i64 <= 0 {
        return Err(ERANGE);
    }
    if head.extent.is_linear() {
        return Ok(report(head.extent.0, offset, left));
    }
    resolve_any(meta, offset >> PAGE_SHIFT, head)
}

/// `map_resolve_any()`.
#[inline(never)]
fn resolve_any(meta: &[u8], page: u64, head: &Head) -> Result<RawMapping> {
    let page32 = page as u32;

    let leaf = if head.extent.chunk() == 0 {
        let tree = meta_at::<Tree2>(meta, 0)?;
        let i = find(&tree.top.first, page32);
        let leaf = i * FANOUT + find(&tree.node[i].first, page32);
        size_of::<Tree2>() + leaf * size_of::<Leaf>()
    } else if head.extent.nr_strips() != 0 {
        let end = (head.size >> PAGE_SHIFT) as u32;
        return resolve_interleaved(meta, head.extent, page32, end.wrapping_sub(page32));
    } else if head.extent.0 == Extent::of_tree(1) {
        let leaf = find(&meta_at::<Tree1>(meta, 0)?.node.first, page32);
        size_of::<Tree1>() + leaf * size_of::<Leaf>()
    } else {
        size_of::<Head>()
    };
    let leaf = meta_at::<Leaf>(meta, leaf as u32)?;
    let i = find(&leaf.first, page32).min(LEAF_EXTENTS - 1);
    let (first, end, extent) = (leaf.first[i], leaf.first[i + 1], leaf.extent[i]);
    if extent.is_linear() {
        return Ok(report(
            extent.0,
            page.wrapping_sub(first.into()) << PAGE_SHIFT,
            u64::from(end).wrapping_sub(page) << PAGE_SHIFT,
        ));
    }
    resolve_interleaved(
        meta,
        extent,
        page32.wrapping_sub(first),
        end.wrapping_sub(page32),
    )
}

#[inline]
fn resolve_interleaved(meta: &[u8], extent: Extent, page: u32, left: u32) -> Result<RawMapping> {
    let place = place_in_extent(extent, page, left)?;
    let strip = extent.first_strip().wrapping_add(place.strip);
    let strip = meta_at::<u64>(meta, strip.wrapping_mul(8))?;
    Ok(report_place(*strip, &place))
}
