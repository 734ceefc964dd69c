// SPDX-License-Identifier: GPL-2.0
//! What holds for any bytes: nothing panics, what is answered is well-formed, and
//! [`encode()`] makes a map of exactly those extents that the rules of
//! `bpf/striped.h`, read again and with 128 bits, allow.
//!
//! PROPTEST_CASES=1000000 makes it long, PROPTEST_RNG_SEED gives it other numbers.

use std::path::{Path, PathBuf};

use fuse_dax_fmap::striped::{ALIGN, Error, Extent, Strip, encode};
use fuse_dax_fmap::{
    FileMaps, Intercepted, Offer, OpsName, accept, accept_map_in_open, complete_open, errno,
    error_reply, intercept, opcode, unique,
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
    fn map(&self, _nodeid: u64) -> Result<Vec<u8>, i32> {
        self.map.clone()
    }

    fn device(&self, _index: u32) -> Result<&Path, i32> {
        self.device.as_deref().map_err(|errno| *errno)
    }
}

fn server() -> impl Strategy<Value = Server> {
    let map = prop_oneof![
        vec(any::<u8>(), 0..200).prop_map(Ok),
        (500_usize..510).prop_map(|len| Ok(vec![7; len])),
        (4090_usize..4110).prop_map(|len| Ok(vec![7; len])),
        (1_i32..512).prop_map(Err)
    ];
    let device = prop_oneof![
        (0_usize..300).prop_map(|len| Ok(format!("/{}", "x".repeat(len)).into())),
        (1_i32..512).prop_map(Err)
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
        let seen = intercept(&request, &server);

        if request.len() < 24 {
            prop_assert_eq!(&seen, &Intercepted::Other);
        }
        match opcode(&request) {
            Some(26) if request.len() >= 24 => {
                let version = match request.len() {
                    len if len < 104 => Offer::None,
                    _ if word(&request, 96) == 0x5041_4d46 => Offer::Version(word(&request, 100)),
                    _ => Offer::None,
                };
                prop_assert_eq!(seen, Intercepted::Init(version));
            }
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
                        Ok(_) => prop_assert_eq!(error, errno::ERANGE),
                        Err(errno) => prop_assert_eq!(error, *errno),
                    }
                } else {
                    let index = asked.map_or(long(&request, 16), u64::from);
                    match &server.device {
                        _ if index >= 64 => prop_assert_eq!(error, errno::ENODEV),
                        Ok(path) if path.as_os_str().len() < 256 => {
                            prop_assert_eq!(reply.len(), 16 + 280);
                            let name = path.to_str().unwrap().as_bytes();
                            prop_assert_eq!(&reply[40..40 + name.len()], name);
                            prop_assert!(reply[40 + name.len()..].iter().all(|byte| *byte == 0));
                        }
                        Ok(_) => prop_assert_eq!(error, errno::ENAMETOOLONG),
                        Err(errno) => prop_assert_eq!(error, *errno),
                    }
                }
            }
            Some(14) if request.len() >= 48 && word(&request, 44) >> 31 == 1 => {
                prop_assert_eq!(seen, Intercepted::Open);
            }
            _ => prop_assert_eq!(seen, Intercepted::Other),
        }
    }

    #[test]
    fn any_reply_to_open(
        request in request(),
        server in server(),
        mut reply in prop_oneof![vec(any::<u8>(), 32), vec(any::<u8>(), 0..600)],
        good in any::<bool>(),
    ) {
        if good && reply.len() >= 8 {
            reply[4..8].fill(0);
        }
        let before = reply.clone();
        complete_open(&request, &mut reply, &server);

        let wanted = intercept(&request, &server) == Intercepted::Open;
        if !wanted || before.len() != 32 || before[4..8] != [0; 4] {
            prop_assert_eq!(reply, before);
            return Ok(());
        }
        prop_assert_eq!((reply.len(), word(&reply, 0)), (544, 544));
        prop_assert_eq!(&reply[4..32], &before[4..]);
        prop_assert_eq!(word(&reply, 36), 0);
        let (size, mut room) = match &server.map {
            Ok(map) if map.len() <= 504 => (map.len() as i32, map.clone()),
            Ok(_) => (-errno::ERANGE, vec![]),
            Err(errno) => (-errno, vec![]),
        };
        room.resize(504, 0);
        prop_assert_eq!((word(&reply, 32) as i32, &reply[40..]), (size, &room[..]));
    }

    #[test]
    fn any_reply_to_init(
        mut reply in vec(any::<u8>(), 0..120),
        good in any::<bool>(),
        name in "[A-Za-z0-9_.-]{1,15}",
    ) {
        if good && reply.len() >= 8 {
            reply[4..8].fill(0);
        }
        let before = reply.clone();
        let room = reply.len() >= 80 && reply[4..8] == [0; 4];
        let parsed: OpsName = name.parse().unwrap();

        prop_assert_eq!(accept(&mut reply, &parsed).is_ok(), room);
        if room {
            let mut padded = name.clone().into_bytes();
            padded.resize(16, 0);
            prop_assert_eq!(&reply[64..80], &padded[..]);
            prop_assert_eq!(&reply[80..], &before[80..]);
        }
        let kept = if room { 64 } else { reply.len() };
        prop_assert_eq!(&reply[..kept], &before[..kept]);

        let named = reply.clone();
        prop_assert_eq!(accept_map_in_open(&mut reply).is_ok(), room);
        if room {
            prop_assert_eq!(word(&reply, 60), 1);
            prop_assert_eq!(&reply[64..], &named[64..]);
        }
        let kept = if room { 60 } else { reply.len() };
        prop_assert_eq!(&reply[..kept], &named[..kept]);
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
    fn any_error(number in any::<u64>(), errno in 1_i32..4096) {
        let reply = error_reply(number, errno);
        prop_assert_eq!(reply.len(), 16);
        prop_assert_eq!(word(&reply, 4) as i32, -errno);
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
        .prop_map(|(device, offset)| Strip { device, offset });
    let chunk = prop_oneof![3 => Just(0), 3 => (1_u64..9).prop_map(|n| n * ALIGN), 1 => bytes()];
    (bytes(), chunk, vec(strip, 0..4)).prop_map(|(length, chunk, mut strips)| {
        if chunk == 0 && length % 3 != 0 {
            strips.truncate(1);
        }
        Extent {
            length,
            chunk,
            strips,
        }
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
        }
    }

    #[test]
    fn many_extents(n in 0_usize..4000, strips in 1_usize..4) {
        let extents: Vec<_> = (0..n).map(|at| {
            let offset = (at * strips) as u64 * ALIGN;
            let strips = (0..strips).map(|device| Strip { device: device as u32, offset });
            Extent::interleaved(ALIGN, ALIGN, strips.collect())
        }).collect();
        let encoded = encode(n as u64 * ALIGN, &extents);

        let strips = if strips == 1 { 0 } else { n * strips };
        let fits = n <= 3840 && 64 + 17 * 64 + 192 * n.div_ceil(15) + 8 * strips <= 65528;
        prop_assert_eq!(encoded.is_ok(), fits);
        prop_assert!(fits || encoded == Err(Error::TooBig));
    }
}
