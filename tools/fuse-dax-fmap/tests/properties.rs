// SPDX-License-Identifier: MIT OR Apache-2.0
//! What holds for any bytes: nothing panics, what is answered is well-formed, and
//! a map is made of exactly those extents that the rules of `bpf/striped.h` and
//! `bpf/famfs.h`, read again and with 128 bits, allow. What is decoded is what was
//! encoded; and a map of one format says the same as one of the other.
//!
//! PROPTEST_CASES=1000000 makes it long, PROPTEST_RNG_SEED gives it other numbers.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use fuse_dax_fmap::famfs::{self, Format};
use fuse_dax_fmap::striped::{ALIGN, Error, Extent, Strip, decode, encode};
use fuse_dax_fmap::{
    Accepted, Completion, Errno, FileMaps, Intercepted, Offer, OpsName, Wanted, error_reply,
    opcode, unique,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed};

/// The same numbers every time, unless told.
fn config() -> Config {
    let mut config = Config {
        failure_persistence: None,
        ..Config::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(20260419);
    }
    config
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

// --- The wire -----------------------------------------------------------------------------------

#[derive(Debug)]
struct Server {
    map: Result<Vec<u8>, i32>,
    device: Result<PathBuf, i32>,
}

impl FileMaps for Server {
    fn map(&self, _nodeid: u64) -> Result<Cow<'_, [u8]>, Errno> {
        let map = self.map.as_ref();
        map.map(Cow::from).map_err(|errno| Errno::from_raw(*errno))
    }

    fn device(&self, _index: u32) -> Result<Cow<'_, Path>, Errno> {
        let device = self.device.as_ref();
        device
            .map(Cow::from)
            .map_err(|errno| Errno::from_raw(*errno))
    }
}

/// What the kernel offers.
fn offer() -> Offer {
    let mut init = vec![0; 104];
    init[4] = 26;
    init[96..100].copy_from_slice(b"FMAP");
    init[100] = 1;
    Offer::of(&init).unwrap()
}

fn accepted() -> Accepted {
    let wanted = Wanted::ops("striped".parse().unwrap()).with_map_in_open();
    offer().accept(&mut [0; 80], &wanted).unwrap()
}

/// What a server says when something fails, right or wrong.
fn failure() -> impl Strategy<Value = i32> {
    prop_oneof![3 => 1_i32..512, 1 => -600_i32..600, 1 => any::<i32>()]
}

/// What the kernel gets of that.
fn sent(errno: i32) -> i32 {
    if (1..512).contains(&errno) { errno } else { 5 }
}

fn server() -> impl Strategy<Value = Server> {
    let map = prop_oneof![
        vec(any::<u8>(), 0..200).prop_map(Ok),
        (500_usize..510).prop_map(|len| Ok(vec![7; len])),
        (4090_usize..4110).prop_map(|len| Ok(vec![7; len])),
        failure().prop_map(Err)
    ];
    let device = prop_oneof![
        (0_usize..300).prop_map(|len| Ok(format!("/{}", "x".repeat(len)).into())),
        failure().prop_map(Err)
    ];
    (map, device).prop_map(|(map, device)| Server { map, device })
}

/// A request, mostly of an opcode that matters, cut anywhere.
fn request() -> impl Strategy<Value = Vec<u8>> {
    let opcodes = prop_oneof![
        Just(14_u32),
        Just(26),
        Just(54),
        Just(55),
        Just(53),
        Just(56),
        any::<u32>()
    ];
    let index = prop_oneof![0_u32..70, 4080_u32..4120, any::<u32>()];
    (
        opcodes,
        index,
        vec(any::<u8>(), 104),
        any::<bool>(),
        0_usize..=104,
    )
        .prop_map(|(opcode, index, mut bytes, whole, len)| {
            bytes[4..8].copy_from_slice(&opcode.to_le_bytes());
            bytes[40..44].copy_from_slice(&index.to_le_bytes());
            bytes.truncate(if whole { 104 } else { len });
            bytes
        })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_request(request in request(), server in server()) {
        let seen = accepted().intercept(&request, &server);

        if request.len() < 24 {
            prop_assert_eq!(&seen, &Intercepted::Other);
        }
        let offer = Offer::of(&request);
        prop_assert_eq!(offer.is_some(), request.len() >= 24 && opcode(&request) == Some(26));
        if let Some(offer) = offer {
            let magic = request.len() >= 104 && word(&request, 96) == 0x5041_4d46;
            prop_assert_eq!(offer.version(), magic.then(|| word(&request, 100)));
            prop_assert_eq!(unique(&offer.refuse()), unique(&request));
        }
        match opcode(&request) {
            Some(op @ (54 | 55)) if request.len() >= 24 => {
                let Intercepted::Answer(reply) = seen else {
                    return Err(TestCaseError::fail("no answer"));
                };
                prop_assert_eq!(word(&reply, 0) as usize, reply.len());
                prop_assert_eq!(long(&reply, 8), unique(&request));
                let error = -(word(&reply, 4) as i32);
                prop_assert!(error == 0 || reply.len() == 16);
                let asked = (request.len() >= 44).then(|| word(&request, 40));
                if op == 54 {
                    let room = asked.unwrap_or(4096) as usize;
                    match &server.map {
                        Ok(map) if map.len() <= room => prop_assert_eq!(&reply[16..], &map[..]),
                        Ok(_) => prop_assert_eq!(error, Errno::ERANGE.get()),
                        Err(errno) => prop_assert_eq!(error, sent(*errno)),
                    }
                } else {
                    let index = asked.map_or(long(&request, 16), u64::from);
                    match &server.device {
                        _ if index >= 64 => prop_assert_eq!(error, Errno::ENODEV.get()),
                        Ok(path) if path.as_os_str().len() < 256 => {
                            prop_assert_eq!(reply.len(), 16 + 280);
                            let name = path.to_str().unwrap().as_bytes();
                            prop_assert_eq!(&reply[40..40 + name.len()], name);
                            prop_assert!(reply[40 + name.len()..].iter().all(|byte| *byte == 0));
                        }
                        Ok(_) => prop_assert_eq!(error, Errno::ENAMETOOLONG.get()),
                        Err(errno) => prop_assert_eq!(error, sent(*errno)),
                    }
                }
            }
            Some(14) if request.len() >= 48 && word(&request, 44) >> 31 == 1 => {
                prop_assert!(matches!(seen, Intercepted::Open(_)), "{seen:?}");
            }
            _ => prop_assert_eq!(seen, Intercepted::Other),
        }
    }

    #[test]
    fn any_reply_to_open(
        mut request in vec(any::<u8>(), 48..60),
        server in server(),
        mut reply in prop_oneof![
            vec(any::<u8>(), 32),
            vec(any::<u8>(), 16),
            vec(any::<u8>(), 0..600)
        ],
        good in any::<bool>(),
    ) {
        request[4..8].copy_from_slice(&[14, 0, 0, 0]);
        request[47] |= 0x80;
        if good && reply.len() >= 8 {
            reply[4..8].fill(0);
        }
        let Intercepted::Open(open) = accepted().intercept(&request, &server) else {
            return Err(TestCaseError::fail("no OPEN"));
        };
        let before = reply.clone();
        let done = open.complete(&mut reply, &server);

        let failed = before.len() >= 8 && before[4..8] != [0; 4];
        let expected = match before.len() {
            16 if failed => Completion::Failed,
            32 if !failed => Completion::Done,
            _ => Completion::NoReply,
        };
        prop_assert_eq!(done, expected);
        if done != Completion::Done {
            prop_assert_eq!(reply, match done {
                Completion::Failed => before,
                _ => error_reply(unique(&request), Errno::EIO),
            });
            return Ok(());
        }
        prop_assert_eq!((reply.len(), word(&reply, 0)), (544, 544));
        prop_assert_eq!(&reply[4..32], &before[4..]);
        prop_assert_eq!(word(&reply, 36), 0);
        let (size, mut room) = match &server.map {
            Ok(map) if map.len() <= 504 => (map.len() as i32, map.clone()),
            Ok(_) => (-Errno::ERANGE.get(), vec![]),
            Err(errno) => (-sent(*errno), vec![]),
        };
        room.resize(504, 0);
        prop_assert_eq!((word(&reply, 32) as i32, &reply[40..]), (size, &room[..]));
    }

    #[test]
    fn any_reply_to_init(
        mut reply in vec(any::<u8>(), 0..120),
        good in any::<bool>(),
        promised in any::<bool>(),
        name in "[A-Za-z0-9_.-]{1,15}",
    ) {
        if good && reply.len() >= 8 {
            reply[4..8].fill(0);
        }
        let before = reply.clone();
        let room = reply.len() >= 80 && reply[4..8] == [0; 4];
        let parsed: OpsName = name.parse().unwrap();

        let mut wanted = Wanted::ops(parsed);
        if promised {
            wanted = wanted.with_map_in_open();
        }
        prop_assert_eq!(offer().accept(&mut reply, &wanted).is_ok(), room);
        if room {
            let mut padded = name.clone().into_bytes();
            padded.resize(16, 0);
            prop_assert_eq!(&reply[64..80], &padded[..]);
            prop_assert_eq!(&reply[80..], &before[80..]);
            let flags = if promised { &[1, 0, 0, 0] } else { &before[60..64] };
            prop_assert_eq!(&reply[60..64], flags);
        }
        let kept = if room { 60 } else { reply.len() };
        prop_assert_eq!(&reply[..kept], &before[..kept]);
    }

    #[test]
    fn any_name(name in prop_oneof![".{0,20}", "[A-Za-z0-9_.-]{0,18}", "[a-z]{3}.[a-z]{3}"]) {
        let valid = (1..16).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c));
        let parsed = name.parse::<OpsName>();

        prop_assert_eq!(parsed.is_ok(), valid);
        if let Ok(parsed) = parsed {
            prop_assert_eq!(parsed.to_string(), name);
        }
    }

    #[test]
    fn any_error(number in any::<u64>(), errno in failure()) {
        let reply = error_reply(number, Errno::from_raw(errno));
        prop_assert_eq!(reply.len(), 16);
        prop_assert_eq!(word(&reply, 4) as i32, -sent(errno));
        prop_assert_eq!(unique(&reply), number);
    }
}

// --- Maps ---------------------------------------------------------------------------------------

/// The rules, with numbers that cannot overflow.
fn valid(file_size: u64, extents: &[Extent]) -> bool {
    let wide = u128::from;
    let (mut total, mut last, mut strips) = (0_u128, 0, Vec::new());

    for extent in extents {
        let n = extent.strips.len() as u128;
        let row = wide(extent.chunk) * n;
        if extent.length == 0 || extent.length % ALIGN != 0 || extent.chunk % ALIGN != 0 {
            return false;
        }
        if n == 0 || (extent.chunk == 0 && n != 1) || extent.chunk >= 16 << 40 {
            return false;
        }
        let length = match row {
            0 => wide(extent.length),
            _ => wide(extent.length).div_ceil(row) * wide(extent.chunk),
        };
        for strip in &extent.strips {
            let end = wide(strip.offset) + length;
            if strip.device > 63 || strip.offset % ALIGN != 0 || end >= 1 << 63 {
                return false;
            }
            if strips.iter().any(|&(device, start, stop)| {
                device == strip.device && wide(strip.offset) < stop && start < end
            }) {
                return false;
            }
            strips.push((strip.device, wide(strip.offset), end));
        }
        last = total;
        total += wide(extent.length);
    }
    let size = wide(file_size);
    let leaves = extents.len().div_ceil(16);
    total < 16 << 40
        && 64 + 17 * 64 + 192 * leaves + 8 + 8 * strips.len() <= 65536
        && if extents.is_empty() {
            size == 0
        } else {
            last < size && size <= total
        }
}

/// Lengths and offsets: mostly small and aligned, some just beside a limit.
fn bytes() -> impl Strategy<Value = u64> {
    let limits = vec![
        0,
        ALIGN,
        2 << 20,
        16 << 40,
        1 << 62,
        (1 << 63) - (2 << 20),
        1 << 63,
        u64::MAX,
    ];
    prop_oneof![
        8 => (0_u64..64).prop_map(|pages| pages * ALIGN),
        2 => (proptest::sample::select(limits), -2_i64..3)
            .prop_map(|(limit, pages)| limit.wrapping_add_signed(pages * ALIGN as i64)),
        1 => any::<u64>(),
    ]
}

fn extent() -> impl Strategy<Value = Extent> {
    let strip = (prop_oneof![9 => 0_u32..4, 1 => 60_u32..70], bytes())
        .prop_map(|(device, offset)| Strip::new(device, offset));
    let chunk = prop_oneof![3 => Just(0), 3 => (1_u64..9).prop_map(|n| n * ALIGN), 1 => bytes()];
    (bytes(), chunk, vec(strip, 0..4)).prop_map(|(length, chunk, mut strips)| {
        if chunk == 0 && length % 3 != 0 {
            strips.truncate(1);
        }
        Extent::interleaved(length, chunk, strips)
    })
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn encoded_if_and_only_if_valid(
        extents in vec(extent(), 0..5),
        cut in prop_oneof![0_u64..3, 4095_u64..4098, any::<u64>()],
    ) {
        let total = extents.iter().fold(0_u64, |sum, e| sum.wrapping_add(e.length));
        let file_size = total.wrapping_sub(cut);
        let encoded = encode(file_size, &extents);

        prop_assert_eq!(encoded.is_ok(), valid(file_size, &extents), "{:?}", encoded);
        if let Ok(blob) = encoded {
            let strips: Vec<_> = extents.iter().flat_map(|e| &e.strips).collect();
            prop_assert_eq!(blob.len(), 32 + 24 * (extents.len() + strips.len()));
            prop_assert_eq!(long(&blob, 8), file_size);
            for (n, extent) in extents.iter().enumerate() {
                prop_assert_eq!(long(&blob, 32 + 24 * n), extent.length);
                prop_assert_eq!(long(&blob, 40 + 24 * n), extent.chunk);
                prop_assert_eq!(word(&blob, 48 + 24 * n) as usize, extent.strips.len());
            }
            // The chain leads through all strips, in order.
            let (mut at, mut before) = (word(&blob, 24), None);
            for _ in 0..strips.len() {
                let strip = 32 + 24 * (extents.len() + at as usize);
                let place = (word(&blob, strip + 16), long(&blob, strip));
                prop_assert_eq!(place, (strips[at as usize].device, strips[at as usize].offset));
                prop_assert!(before < Some(place));
                before = Some(place);
                at = word(&blob, strip + 20);
            }
            prop_assert_eq!(at, u32::MAX);
            let map = decode(&blob).unwrap();
            prop_assert_eq!((map.file_size, map.extents), (file_size, extents));
        }
    }

    /// A map with one byte changed, or cut: what is still one says what its bytes say.
    #[test]
    fn decoded_if_and_only_if_encoded(
        extents in vec(placed(ALIGN), 1..4),
        (at, byte) in (any::<proptest::sample::Index>(), any::<u8>()),
        cut in prop_oneof![4 => Just(0_usize), 1 => 0_usize..200],
    ) {
        let extents = apart(extents, ALIGN);
        let total = extents.iter().map(|e| e.length).sum();
        let mut blob = encode(total, &extents).unwrap();
        let at = at.index(blob.len());
        blob[at] = byte;
        blob.truncate(blob.len().saturating_sub(cut));

        if let Ok(map) = decode(&blob) {
            prop_assert_eq!(encode(map.file_size, &map.extents), Ok(blob));
        }
    }

    #[test]
    fn any_bytes(
        mut bytes in vec(any::<u8>(), 0..200),
        start in prop_oneof![Just(&b""[..]), Just(&b"STRP\x01\0\0\0"[..])],
    ) {
        let n = start.len().min(bytes.len());
        bytes[..n].copy_from_slice(&start[..n]);
        if let Ok(map) = decode(&bytes) {
            prop_assert_eq!(encode(map.file_size, &map.extents), Ok(bytes));
        }
    }

    #[test]
    fn many_extents(n in 0_usize..4000, strips in 1_usize..4) {
        let extents: Vec<_> = (0..n).map(|at| {
            let offset = (at * strips) as u64 * ALIGN;
            let strips = (0..strips).map(|device| Strip::new(device as u32, offset));
            Extent::interleaved(ALIGN, ALIGN, strips.collect())
        }).collect();
        let encoded = encode(n as u64 * ALIGN, &extents);

        let strips = if strips == 1 { 0 } else { n * strips };
        let fits = n <= 3840 && 64 + 17 * 64 + 192 * n.div_ceil(15) + 8 * strips <= 65528;
        prop_assert_eq!(encoded.is_ok(), fits);
        prop_assert!(fits || encoded == Err(Error::TooBig));
    }
}

// --- famfs --------------------------------------------------------------------------------------

const HUGE: u64 = famfs::ALIGN;

/// Extents that do not overlap: only their shape is drawn, [`apart()`] finds room.
fn placed(align: u64) -> impl Strategy<Value = Extent> {
    let shape = (1_u64..9, 0_u64..4, 1_usize..5, vec(0_u32..4, 4));
    shape.prop_map(move |(length, chunk, n, devices)| {
        let n = if chunk == 0 { 1 } else { n };
        let strips = devices[..n].iter();
        let strips = strips.map(|&device| Strip::new(device, 0));
        Extent::interleaved(length * align, chunk * align, strips.collect())
    })
}

fn apart(mut extents: Vec<Extent>, align: u64) -> Vec<Extent> {
    let mut free = 0;
    for extent in &mut extents {
        let length = extent.strip_length().unwrap().next_multiple_of(align);
        for strip in &mut extent.strips {
            strip.offset = free;
            free += length;
        }
    }
    extents
}

/// The rules, with numbers that cannot overflow, where strips take what their extent needs.
fn valid_famfs(file_size: u64, extents: &[Extent], format: Format) -> bool {
    let wide = u128::from;
    let simple = extents.iter().all(|e| e.chunk == 0);
    let (mut total, mut strips) = (0_u128, Vec::new());

    for (at, extent) in extents.iter().enumerate() {
        let n = extent.strips.len() as u128;
        if n == 0 || n > 32 || (extent.chunk == 0 && n != 1) || extent.length == 0 {
            return false;
        }
        if extent.chunk % HUGE != 0 || extent.chunk > u64::from(u32::MAX) {
            return false;
        }
        total += wide(extent.length);
        let last = at + 1 == extents.len();
        let with_the_file = format == Format::Next && total == wide(file_size);
        if extent.length % HUGE != 0 && !(last && (!simple || with_the_file)) {
            return false;
        }
        let chunk = wide(if extent.chunk == 0 {
            HUGE
        } else {
            extent.chunk
        });
        let need = match simple {
            true => wide(extent.length),
            false => wide(extent.length).div_ceil(chunk * n) * chunk,
        };
        for strip in &extent.strips {
            let (start, end) = (wide(strip.offset), wide(strip.offset) + need);
            let meets = |&(device, a, b): &(u32, u128, u128)| {
                device == strip.device && start < b && a < end
            };
            if strip.device > 63 || strip.offset % HUGE != 0 || end >= 1 << 63 {
                return false;
            }
            if strips.iter().any(meets) {
                return false;
            }
            strips.push((strip.device, start, end));
        }
    }
    let iexts = if simple { 0 } else { extents.len() };
    let size = 32 + 24 * (iexts + strips.len());
    let long = format == Format::Next && simple;
    let fits = if long {
        size <= 1 << 20
    } else {
        size <= 4096 && extents.len() <= 32
    };
    fits && total.next_multiple_of(4096) < 16 << 40 && wide(file_size) <= total
}

/// Reads a map by the offsets of the fields alone: where a byte of the file is.
fn famfs_place(map: &[u8], offset: u64) -> (u32, u64) {
    let (mut at, mut start) = (32, 0);
    for _ in 0..word(map, 8) {
        let (mut n, mut chunk, mut length) = (1, u64::MAX, 0);
        if word(map, 4) == 1 {
            n = u64::from(word(map, at));
            chunk = u64::from(word(map, at + 4));
            length = long(map, at + 8);
            at += 24;
        }
        if word(map, 4) == 0 {
            length = long(map, at + 16);
        }
        if offset < start + length {
            let (c, x) = ((offset - start) / chunk, (offset - start) % chunk);
            let strip = at + 24 * (c % n) as usize;
            let y = c / n * chunk + x;
            assert!(y < long(map, strip + 16), "beyond the strip");
            return (word(map, strip), long(map, strip + 8) + y);
        }
        start += length;
        at += 24 * n as usize;
    }
    panic!("{offset:#x} is nowhere");
}

/// The same of a map of the other format.
fn striped_place(extents: &[Extent], offset: u64) -> (u32, u64) {
    let mut start = 0;
    for extent in extents {
        let x = offset - start;
        if x < extent.length {
            let n = extent.strips.len() as u64;
            let chunk = if extent.chunk == 0 {
                extent.length
            } else {
                extent.chunk
            };
            let strip = extent.strips[(x / chunk % n) as usize];
            return (
                strip.device,
                strip.offset + x / chunk / n * chunk + x % chunk,
            );
        }
        start += extent.length;
    }
    panic!("{offset:#x} is nowhere");
}

fn format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(Format::V10), Just(Format::Next)]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn famfs_encoded_if_and_only_if_valid(
        extents in prop_oneof![
            vec(placed(HUGE), 0..5).prop_map(|extents| apart(extents, HUGE)),
            // Mostly too small for this format, and moved to where it may be right.
            vec(extent(), 0..4).prop_map(|mut extents| {
                for e in &mut extents {
                    (e.length, e.chunk) = (e.length.wrapping_mul(512), e.chunk.wrapping_mul(512));
                    for s in &mut e.strips {
                        s.offset = s.offset.wrapping_mul(512);
                    }
                }
                extents
            }),
        ],
        shorter in prop_oneof![3 => Just(0_u64), 1 => Just(4096), 1 => any::<u64>()],
        cut in prop_oneof![0_u64..3, any::<u64>()],
        format in format(),
    ) {
        let mut extents = extents;
        if let Some(last) = extents.last_mut() {
            last.length = last.length.saturating_sub(shorter);
        }
        let total = extents.iter().fold(0_u64, |sum, e| sum.wrapping_add(e.length));
        let file_size = total.wrapping_sub(cut);
        let encoded = famfs::encode(file_size, &extents, format);

        prop_assert_eq!(encoded.is_ok(), valid_famfs(file_size, &extents, format), "{:?}", encoded);
    }

    #[test]
    fn both_formats_say_the_same(
        extents in vec(placed(HUGE), 1..5),
        format in format(),
        page in any::<proptest::sample::Index>(),
    ) {
        let extents = apart(extents, HUGE);
        let total = extents.iter().map(|e| e.length).sum();
        let map = famfs::encode(total, &extents, format).unwrap();

        let field = if format == Format::V10 { 0 } else { map.len() };
        prop_assert_eq!(word(&map, 12) as usize, field);
        prop_assert_eq!(long(&map, 16), total);
        let striped = decode(&encode(total, &extents).unwrap()).unwrap();
        let offset = page.index((total / ALIGN) as usize) as u64 * ALIGN;
        prop_assert_eq!(famfs_place(&map, offset), striped_place(&striped.extents, offset));
    }
}
