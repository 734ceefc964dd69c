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

const FANOUT: usize = 16;
const HEAD_STRIPS: usize = 6;
const PAGE_MASK: u64 = (1 << PAGE_SHIFT) - 1;

/// `map_extent`.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Extent(u64);

const EXTENT_OF_TREE: u64 = 1 << 63;

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
    size: u64,
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
    levels: u32,
    leaves: u32,
    strips: u32,
    _unused: [u32; 2 * HEAD_STRIPS - 3],
}

/// `struct map_node`.
#[repr(C)]
struct Node {
    first: [u32; FANOUT],
}

/// `struct map_nodes`.
#[repr(C)]
struct Nodes {
    top: Node,
    below: [Node; FANOUT],
}

/// `struct map_leaf`.
#[repr(C)]
struct Leaf {
    pages: Node,
    extent: [Extent; FANOUT],
}

/// `struct map_leaf_and_end`.
#[repr(C)]
struct LeafAndEnd {
    leaf: Leaf,
    end: u32,
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

/// `length` bytes of a strip, from `offset` on.
#[inline]
fn report(strip: u64, offset: u64, length: u64) -> Claim {
    let dev_index = strip & PAGE_MASK;

    Claim {
        addr: (strip - dev_index).wrapping_add(offset),
        length,
        dev_index: dev_index as u32,
        type_: 0,
    }
}

#[inline]
fn report_place(strip: u64, place: &Place) -> Claim {
    report(
        strip,
        u64::from(place.page) << PAGE_SHIFT,
        u64::from(place.left) << PAGE_SHIFT,
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
    let left = line.head.size.wrapping_sub(offset);
    if left as i64 <= 0 {
        return Err(ERANGE);
    }
    if line.head.extent.is_linear() {
        return Ok(report(line.head.extent.0, offset, left));
    }
    resolve_any(meta, offset, line)
}

/// `map_resolve_any()`.
#[inline(never)]
fn resolve_any(meta: &[u8], offset: u64, line: &Line) -> Result<Claim> {
    let page = (offset >> PAGE_SHIFT) as u32;

    if line.head.extent.0 != EXTENT_OF_TREE {
        let end = (line.head.size >> PAGE_SHIFT) as u32;
        let place = place_in_extent(line.head.extent, page, end.wrapping_sub(page))?;
        let strip = line.strip.get(place.strip as usize).ok_or(EIO)?;
        return Ok(report_place(*strip, &place));
    }

    let tree = meta_at::<Tree>(meta, 0)?;
    let nodes = size_of::<Tree>() as u32;
    let index = match tree.levels {
        2 => {
            let nodes = meta_at::<Nodes>(meta, nodes)?;
            let i = node_find(&nodes.top, page);
            i * FANOUT + node_find(&nodes.below[i], page)
        }
        1 => node_find(meta_at::<Node>(meta, nodes)?, page),
        _ => 0,
    };
    let leaf = index as u32 * size_of::<Leaf>() as u32;
    let at = meta_at::<LeafAndEnd>(meta, tree.leaves.wrapping_add(leaf))?;
    let i = node_find(&at.leaf.pages, page);
    let first = at.leaf.pages.first[i];
    let end = match i {
        15 => at.end,
        _ => at.leaf.pages.first[i + 1],
    };
    let extent = at.leaf.extent[i];
    if extent.is_linear() {
        let start = u64::from(first) << PAGE_SHIFT;
        let end = u64::from(end) << PAGE_SHIFT;
        return Ok(report(
            extent.0,
            offset.wrapping_sub(start),
            end.wrapping_sub(offset),
        ));
    }
    let place = place_in_extent(extent, page.wrapping_sub(first), end.wrapping_sub(page))?;
    let strip = extent.first_strip().wrapping_add(place.strip);
    let strip = meta_at::<u64>(meta, tree.strips.wrapping_add(strip.wrapping_mul(8)))?;
    Ok(report_place(*strip, &place))
}
