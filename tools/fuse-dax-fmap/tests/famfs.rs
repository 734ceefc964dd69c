// SPDX-License-Identifier: MIT OR Apache-2.0
//! famfs's maps, byte by byte as its servers send them, and the limits of the format.

use fuse_dax_fmap::famfs::{ALIGN, Error, Extent, Format, HEADER_LEN, Strip, encode};

const MIB: u64 = 1 << 20;

/// Bytes in hexadecimal, with blanks anywhere.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    digits
        .chunks(2)
        .map(|d| ((d[0] << 4) | d[1]) as u8)
        .collect()
}

fn strip(device: u32, offset: u64) -> Strip {
    Strip::new(device, offset)
}

fn linear(length: u64, offset: u64) -> Extent {
    Extent::linear(length, 0, offset)
}

/// What both formats make of it: the same, but for four bytes.
fn both(file_size: u64, extents: &[Extent], golden: &str) {
    let v10 = hex(golden);
    let mut next = v10.clone();
    next[12..16].copy_from_slice(&(v10.len() as u32).to_le_bytes());
    assert_eq!(encode(file_size, extents, Format::V10), Ok(v10));
    assert_eq!(encode(file_size, extents, Format::Next), Ok(next));
}

#[test]
fn one_extent() {
    both(
        2 * MIB,
        &[linear(2 * MIB, 0)],
        "00 00 0100 00000000 01000000 00000000 0000200000000000 0000000000000000
         00000000 00000000 0000000000000000 0000200000000000",
    );
    let golden = hex(
        "00 00 01 00  00 00 00 00  01 00 00 00  38 00 00 00  00 00 20 00 00 00 00 00
         00 00 00 00 00 00 00 00
         00 00 00 00  00 00 00 00  00 00 20 00 00 00 00 00  00 00 20 00 00 00 00 00",
    );
    let made = encode(2 * MIB, &[linear(2 * MIB, 2 * MIB)], Format::Next);
    assert_eq!(made, Ok(golden));
}

#[test]
fn two_extents() {
    both(
        5_000_000,
        &[linear(4 * MIB, 0xa0_0000), linear(2 * MIB, 0x100_0000)],
        "00 00 0100 00000000 02000000 00000000 404b4c0000000000 0000000000000000
         00000000 00000000 0000a00000000000 0000400000000000
         00000000 00000000 0000000100000000 0000200000000000",
    );
}

#[test]
fn interleaved() {
    let strips = (1..5).map(|n| strip(0, n << 30)).collect();
    both(
        0x180_0000,
        &[Extent::interleaved(0x180_0000, 2 * MIB, strips)],
        "00 00 0100 01000000 01000000 00000000 0000800100000000 0000000000000000
         04000000 00002000 0000800100000000 0000000000000000
         00000000 00000000 0000004000000000 0000600000000000
         00000000 00000000 0000008000000000 0000600000000000
         00000000 00000000 000000c000000000 0000600000000000
         00000000 00000000 0000000001000000 0000600000000000",
    );
}

/// A file striped over four strips, as a newer server lists it: each chunk by itself.
#[test]
fn a_list_of_512() {
    let list = |n: u64| -> Vec<Extent> {
        (0..n)
            .map(|c| linear(2 * MIB, ((c % 4) << 36) + c / 4 * 2 * MIB))
            .collect()
    };
    let map = encode(1 << 30, &list(512), Format::Next).unwrap();
    let header = hex(
        "00 00 01 00  00 00 00 00  00 02 00 00  20 30 00 00  00 00 00 40 00 00 00 00
         00 00 00 00 00 00 00 00",
    );
    assert_eq!(map.len(), 12_320);
    assert_eq!(map[..HEADER_LEN], header);

    let older = |n| encode(n * 2 * MIB, &list(n), Format::V10);
    assert!(older(32).is_ok());
    assert_eq!(older(33), Err(Error::TooMany));
    let newer = |n| encode(n * 2 * MIB, &list(n), Format::Next);
    assert_eq!(newer(43_689).map(|map| map.len()), Ok(32 + 24 * 43_689));
    assert_eq!(newer(43_690), Err(Error::TooMany));
}

#[test]
fn the_last_one_may_end_with_the_file() {
    let list = [linear(2 * MIB, 0), linear(5000, 2 * MIB)];
    let unaligned = |extent| Error::Unaligned {
        extent,
        align: ALIGN,
    };
    let size = 2 * MIB + 5000;
    let map = encode(size, &list, Format::Next).unwrap();
    assert_eq!(map[map.len() - 8..], 5000_u64.to_le_bytes());
    assert_eq!(encode(size, &list, Format::V10), Err(unaligned(1)));
    assert_eq!(encode(size - 1, &list, Format::Next), Err(unaligned(1)));
    let middle = [linear(5000, 0), linear(2 * MIB, 2 * MIB)];
    assert_eq!(encode(size, &middle, Format::Next), Err(unaligned(0)));

    // An interleaved one always may; its strips are whole.
    let cut = [Extent::interleaved(
        2 * MIB + 1,
        2 * MIB,
        vec![strip(0, 0), strip(1, 0)],
    )];
    let map = encode(1, &cut, Format::V10).unwrap();
    assert_eq!(map[40..48], (2 * MIB + 1).to_le_bytes());
    assert_eq!(map[72..80], (2 * MIB).to_le_bytes());
}

/// A linear extent beside interleaved ones is one of a single strip.
#[test]
fn mixed() {
    both(
        6 * MIB,
        &[
            linear(2 * MIB, 8 * MIB),
            Extent::interleaved(4 * MIB, 2 * MIB, vec![strip(1, 0), strip(2, 0)]),
        ],
        "00 00 0100 01000000 02000000 00000000 0000600000000000 0000000000000000
         01000000 00002000 0000200000000000 0000000000000000
         00000000 00000000 0000800000000000 0000200000000000
         02000000 00002000 0000400000000000 0000000000000000
         01000000 00000000 0000000000000000 0000200000000000
         02000000 00000000 0000000000000000 0000200000000000",
    );
}

#[test]
fn refusals() {
    let strips = |n: u32| (0..n).map(|at| strip(at, 0)).collect::<Vec<_>>();
    let wide = |n| [Extent::interleaved(2 * MIB, 2 * MIB, strips(n))];
    for format in [Format::V10, Format::Next] {
        let made = |size, extents: &[Extent]| encode(size, extents, format);
        assert_eq!(made(0, &[]).map(|map| map.len()), Ok(HEADER_LEN));
        assert_eq!(made(1, &[]), Err(Error::TooShort { mapped: 0 }));
        assert_eq!(
            made(2 * MIB + 1, &[linear(2 * MIB, 0)]),
            Err(Error::TooShort { mapped: 2 * MIB })
        );
        // Unlike in the other format, whole extents may be room.
        assert!(made(1, &[linear(2 * MIB, 0), linear(2 * MIB, 2 * MIB)]).is_ok());

        assert_eq!(made(1, &[linear(0, 0)]), Err(Error::Empty { extent: 0 }));
        assert_eq!(
            made(1, &[linear(2 * MIB, MIB)]),
            Err(Error::Unaligned {
                extent: 0,
                align: ALIGN
            })
        );
        assert!(made(1, &wide(32)).is_ok());
        assert_eq!(made(1, &wide(33)), Err(Error::TooMany));
        assert_eq!(
            made(1, &[Extent::interleaved(2 * MIB, 4 << 30, strips(1))]),
            Err(Error::TooMany)
        );
        assert_eq!(
            made(1, &[Extent::interleaved(2 * MIB, 2 * MIB, vec![])]),
            Err(Error::StripCount { extent: 0 })
        );
        assert_eq!(
            made(1, &[Extent::linear(2 * MIB, 64, 0)]),
            Err(Error::Device {
                extent: 0,
                device: 64
            })
        );
        let below = (16 << 40) - 2 * MIB;
        assert!(made(1, &[linear(below, 0)]).is_ok());
        assert_eq!(made(1, &[linear(16 << 40, 0)]), Err(Error::TooMany));
        assert_eq!(
            made(1, &[linear(2 * MIB, (1 << 63) - 2 * MIB)]),
            Err(Error::BeyondDevice { extent: 0 })
        );
        assert_eq!(
            made(1, &[linear(4 * MIB, 0), linear(2 * MIB, 2 * MIB)]),
            Err(Error::Overlap {
                extents: (0, 1),
                device: 0,
                offset: 2 * MIB
            })
        );
    }
}
