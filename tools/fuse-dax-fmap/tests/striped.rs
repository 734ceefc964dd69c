// SPDX-License-Identifier: MIT OR Apache-2.0
//! The encoder against two models that share no code with it.
//!
//! * `deal()` lays the pages of a file out from the description of the extents,
//!   as one deals cards: a chunk to each strip in turn. No division.
//! * `Blob` reads the encoded bytes by the rules and the formula of
//!   `bpf/striped.h`.
//!
//! Both have to agree on each page.

use fuse_dax_fmap::striped::{ALIGN, DecodeError, Error, Extent, Strip, decode, encode};

const MIB: u64 = 1 << 20;

/// Where each page of the extents is, in file order: device, offset.
fn deal(extents: &[Extent]) -> Vec<(u32, u64)> {
    let mut pages = Vec::new();
    for extent in extents {
        let chunk = match extent.chunk {
            0 => extent.length,
            chunk => chunk,
        };
        let mut tops: Vec<u64> = extent.strips.iter().map(|strip| strip.offset).collect();
        let mut left = extent.length;
        'deal: loop {
            for (strip, top) in extent.strips.iter().zip(&mut tops) {
                for _ in 0..chunk / ALIGN {
                    if left == 0 {
                        break 'deal;
                    }
                    pages.push((strip.device, *top));
                    *top += ALIGN;
                    left -= ALIGN;
                }
            }
        }
    }
    pages
}

/// An encoded map, read field by field.
struct Blob<'a>(&'a [u8]);

impl Blob<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().unwrap())
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap())
    }

    fn nr_extents(&self) -> usize {
        self.u32(16) as usize
    }

    fn nr_strips(&self) -> usize {
        self.u32(20) as usize
    }

    fn strip(&self, at: usize) -> usize {
        32 + 24 * self.nr_extents() + 24 * at
    }

    fn resolve(&self, offset: u64) -> Option<(u32, u64)> {
        let (mut start, mut first) = (0, 0);
        for at in 0..self.nr_extents() {
            let extent = 32 + 24 * at;
            let (length, chunk) = (self.u64(extent), self.u64(extent + 8));
            let n = self.u32(extent + 16);
            if offset < start + length {
                let x = offset - start;
                let (index, y) = match chunk {
                    0 => (0, x),
                    _ => {
                        let c = x / chunk;
                        (c % u64::from(n), c / u64::from(n) * chunk + x % chunk)
                    }
                };
                let strip = self.strip(first + index as usize);
                assert!(y < self.u64(strip + 8), "beyond the strip");
                return Some((self.u32(strip + 16), self.u64(strip) + y));
            }
            start += length;
            first += n as usize;
        }
        None
    }

    /// The rules of the header that are about form and the chain.
    fn check(&self, file_size: u64) {
        assert_eq!(&self.0[..4], b"STRP");
        assert_eq!(&self.0[4..8], [1, 0, 0, 0]);
        assert_eq!(self.u64(8), file_size);
        assert_eq!(self.u32(28), 0);
        assert_eq!(self.0.len(), self.strip(self.nr_strips()));

        let mut at = self.u32(24);
        let mut seen = vec![false; self.nr_strips()];
        let mut last = None;
        while at != u32::MAX {
            let strip = self.strip(at as usize);
            let start = (self.u32(strip + 16), self.u64(strip));
            assert!(last < Some(start), "strips out of order, or overlapping");
            assert!(!std::mem::replace(&mut seen[at as usize], true));
            last = Some((start.0, start.1 + self.u64(strip + 8) - 1));
            at = self.u32(strip + 20);
        }
        assert!(seen.iter().all(|&seen| seen), "a strip outside the chain");
    }
}

fn check(file_size: u64, extents: &[Extent]) {
    let bytes = encode(file_size, extents).unwrap();
    let blob = Blob(&bytes);
    blob.check(file_size);
    let map = decode(&bytes).unwrap();
    assert_eq!((map.file_size, &map.extents[..]), (file_size, extents));

    let pages = deal(extents);
    for (page, &(device, start)) in pages.iter().enumerate() {
        let offset = page as u64 * ALIGN;
        assert_eq!(blob.resolve(offset), Some((device, start)), "{offset:#x}");
        let last = ALIGN - 1;
        assert_eq!(blob.resolve(offset + last), Some((device, start + last)));
    }
    assert_eq!(blob.resolve(pages.len() as u64 * ALIGN), None);
}

fn strip(device: u32, offset: u64) -> Strip {
    Strip::new(device, offset)
}

/// xorshift: the same patterns every run.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[test]
fn golden_example_of_the_header() {
    let extents = [Extent::interleaved(
        5 * 2 * MIB,
        2 * MIB,
        vec![strip(0, 0x4000_0000), strip(1, 0)],
    )];
    let golden: &[&[u8]] = &[
        b"STRP\x01\x00\x00\x00",
        &10_000_000_u64.to_le_bytes(),
        &[1, 0, 0, 0, 2, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0xa0, 0, 0, 0, 0, 0],
        &[0, 0, 0x20, 0, 0, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0x40, 0, 0, 0, 0],
        &[0, 0, 0x60, 0, 0, 0, 0, 0],
        &[0, 0, 0, 0, 1, 0, 0, 0],
        &[0, 0, 0, 0, 0, 0, 0, 0],
        &[0, 0, 0x60, 0, 0, 0, 0, 0],
        &[1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ];
    assert_eq!(encode(10_000_000, &extents).unwrap(), golden.concat());
    check(10_000_000, &extents);
}

#[test]
fn an_empty_file_is_a_header() {
    let mut golden = b"STRP\x01\x00".to_vec();
    golden.resize(32, 0);
    golden[24..28].fill(0xff);
    assert_eq!(encode(0, &[]).unwrap(), golden);
}

#[test]
fn linear_and_interleaved_in_one_file() {
    check(
        13 * MIB - 1,
        &[
            Extent::linear(2 * MIB, 1, 64 * MIB),
            Extent::interleaved(
                5 * MIB + ALIGN,
                MIB,
                vec![strip(2, 0), strip(0, 8 * MIB), strip(0, 0)],
            ),
            Extent::linear(6 * MIB, 0, 32 * MIB),
        ],
    );
}

#[test]
fn generated_maps() {
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for _ in 0..500 {
        // Strips never overlap: each takes the next free bytes of its device.
        let mut free = [0_u64; 5];
        let mut extents = Vec::new();
        for _ in 0..rng.below(9) + 1 {
            let length = (rng.below(96) + 1) * ALIGN;
            let n = rng.below(4) + 1;
            let chunk = match rng.below(3) {
                0 => 0,
                _ => (rng.below(7) + 1) * ALIGN,
            };
            let mut extent = {
                let strips = vec![strip(0, 0); if chunk == 0 { 1 } else { n as usize }];
                Extent::interleaved(length, chunk, strips)
            };
            let size = extent.strip_length().unwrap();
            for strip in &mut extent.strips {
                strip.device = rng.below(5) as u32;
                let top = &mut free[strip.device as usize];
                strip.offset = *top + rng.below(3) * ALIGN;
                *top = strip.offset + size;
            }
            extents.push(extent);
        }
        let mapped: u64 = extents.iter().map(|extent| extent.length).sum();
        let last = extents.last().unwrap().length;
        check(mapped - rng.below(last), &extents);
    }
}

#[test]
fn refusals() {
    let linear = |length, offset| Extent::linear(length, 0, offset);
    let pair = |b| Extent::interleaved(4 * MIB, MIB, vec![strip(0, 0), strip(0, b)]);
    let refused = |size, extents: &[Extent]| encode(size, extents).unwrap_err();

    assert_eq!(refused(1, &[linear(0, 0)]), Error::Empty { extent: 0 });
    assert_eq!(
        refused(1, &[linear(MIB, 0), linear(MIB + 1, MIB)]),
        Error::Unaligned {
            extent: 1,
            align: ALIGN
        }
    );
    assert_eq!(
        refused(1, &[linear(MIB, 512)]),
        Error::Unaligned {
            extent: 0,
            align: ALIGN
        }
    );
    assert_eq!(
        refused(1, &[Extent::interleaved(MIB, 100, vec![strip(0, 0)])]),
        Error::Unaligned {
            extent: 0,
            align: ALIGN
        }
    );
    for (chunk, strips) in [
        (0, vec![]),
        (MIB, vec![]),
        (0, vec![strip(0, 0), strip(1, 0)]),
    ] {
        assert_eq!(
            refused(1, &[Extent::interleaved(MIB, chunk, strips)]),
            Error::StripCount { extent: 0 }
        );
    }

    assert!(encode(1, &[Extent::linear(MIB, 63, 0)]).is_ok());
    assert_eq!(
        refused(1, &[Extent::linear(MIB, 64, 0)]),
        Error::Device {
            extent: 0,
            device: 64
        }
    );
    assert!(encode(1, &[linear(MIB, (1 << 63) - MIB - ALIGN)]).is_ok());
    for offset in [(1 << 63) - MIB, u64::MAX - ALIGN + 1] {
        assert_eq!(
            refused(1, &[linear(MIB, offset)]),
            Error::BeyondDevice { extent: 0 }
        );
    }
    // A huge chunk, of which a row may be more than a u64 holds.
    for (chunk, n) in [(16 << 40, 1), (1 << 62, 4)] {
        let strips = (0..n).map(|device| strip(device, 0)).collect();
        assert_eq!(
            refused(1, &[Extent::interleaved(MIB, chunk, strips)]),
            Error::TooBig
        );
    }

    assert!(encode(4 * MIB, &[pair(2 * MIB)]).is_ok());
    assert_eq!(
        refused(4 * MIB, &[pair(2 * MIB - ALIGN)]),
        Error::Overlap {
            extents: (0, 0),
            device: 0,
            offset: 2 * MIB - ALIGN
        }
    );
    assert!(encode(3 * MIB, &[linear(2 * MIB, MIB), linear(MIB, 0)]).is_ok());
    assert_eq!(
        refused(3 * MIB, &[linear(2 * MIB, 0), linear(MIB, MIB)]),
        Error::Overlap {
            extents: (0, 1),
            device: 0,
            offset: MIB
        }
    );

    let two = [linear(MIB, 0), linear(MIB, MIB)];
    for size in [MIB + 1, 2 * MIB] {
        assert!(encode(size, &two).is_ok());
    }
    for size in [0, MIB, 2 * MIB + 1] {
        assert_eq!(refused(size, &two), Error::FileSize { mapped: 2 * MIB });
    }
    assert_eq!(refused(1, &[]), Error::FileSize { mapped: 0 });
}

#[test]
fn limits_of_the_program() {
    let tib = 1_u64 << 40;
    let below = 16 * tib - ALIGN;
    assert!(encode(below, &[Extent::linear(below, 0, 0)]).is_ok());
    let at = [Extent::linear(16 * tib, 0, 0)];
    assert_eq!(encode(16 * tib, &at), Err(Error::TooBig));

    let many = |n: u64| -> Vec<Extent> {
        let extent = |at| {
            let strips = vec![strip(0, at * MIB), strip(1, at * MIB)];
            Extent::interleaved(2 * MIB, MIB, strips)
        };
        (0..n).map(extent).collect()
    };
    assert!(encode(4096 * MIB, &many(2048)).is_ok());
    assert_eq!(encode(6000 * MIB, &many(3000)), Err(Error::TooBig));

    let small =
        |n: u64| -> Vec<Extent> { (0..n).map(|at| Extent::linear(MIB, 0, at * MIB)).collect() };
    assert!(encode(3840 * MIB, &small(3840)).is_ok());
    assert_eq!(encode(3841 * MIB, &small(3841)), Err(Error::TooBig));
}

/// Each byte that says something, said wrongly.
#[test]
fn what_is_no_map() {
    let pair = vec![strip(0, 0), strip(1, 0)];
    let extents = [
        Extent::interleaved(4 * MIB, MIB, pair),
        Extent::linear(MIB, 0, 4 * MIB),
    ];
    let good = encode(5 * MIB, &extents).unwrap();
    let changed = |at: usize, bytes: &[u8]| {
        let mut map = good.clone();
        map[at..at + bytes.len()].copy_from_slice(bytes);
        decode(&map).unwrap_err()
    };
    assert!(decode(&good).is_ok());

    for len in 0..good.len() {
        let expected = if len < 32 { 32 } else { good.len() as u64 };
        assert_eq!(decode(&good[..len]), Err(DecodeError::Size { expected }));
    }
    let longer = [&good[..], &[0]].concat();
    let expected = good.len() as u64;
    assert_eq!(decode(&longer), Err(DecodeError::Size { expected }));

    assert_eq!(changed(0, b"T"), DecodeError::Magic);
    assert_eq!(changed(4, &[2, 0]), DecodeError::Version(2));
    for at in [6, 28, 52, 76] {
        assert_eq!(changed(at, &[1]), DecodeError::Reserved { at });
    }
    // Numbers of extents and strips that no memory would hold.
    let expected = 32 + 24 * (u64::from(u32::MAX) + 3);
    assert_eq!(changed(16, &[0xff; 4]), DecodeError::Size { expected });
    assert_eq!(changed(48, &[0xff; 4]), DecodeError::StripCount);
    assert_eq!(changed(48, &[1]), DecodeError::StripCount);
    assert_eq!(
        changed(8, &[0xff; 4]),
        DecodeError::Extents(Error::FileSize { mapped: 5 * MIB })
    );

    let table = 32 + 2 * 24;
    assert_eq!(
        changed(table + 24 + 9, &[0x10]),
        DecodeError::StripLength { strip: 1 }
    );
    // The first one; the next one, itself.
    assert_eq!(changed(24, &[1]), DecodeError::Chain);
    assert_eq!(changed(table + 20, &[0]), DecodeError::Chain);
    assert_eq!(
        changed(table + 24 + 16, &[64]),
        DecodeError::Extents(Error::Device {
            extent: 0,
            device: 64
        })
    );
}
