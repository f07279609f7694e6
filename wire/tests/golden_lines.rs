//! Holds the vCPU lines, the ring's slots and the register areas to the bytes that PROTOCOL.md gives, as another process
//! would see them in the memfd.

#![cfg(not(miri))] // which knows no memfds
#![allow(unsafe_code, reason = "makes memfds")]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use outboard_wire::block::{STRIDE, ToPlugin, ToVmm};
use outboard_wire::line::{Answer, Event};
use outboard_wire::page::{Access, Block, BlockRef, Blocks};
use outboard_wire::posted::PostedWrite;
use outboard_wire::words;

/// A block, and the file to read its bytes from.
fn block<B: Block>() -> (BlockRef<B>, std::fs::File) {
    // SAFETY: plain calls with a valid name; the descriptor is new and ours.
    let fd = unsafe {
        let fd = libc::memfd_create(c"golden".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0);
        assert_eq!(libc::ftruncate(fd, STRIDE as i64), 0);
        assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK), 0);
        OwnedFd::from_raw_fd(fd)
    };
    let blocks = Arc::new(Blocks::map(fd.as_fd(), 1, Access::Write).unwrap());
    (BlockRef::new(&blocks, 0).unwrap(), fd.into())
}

fn bytes<const N: usize>(file: &std::fs::File, offset: u64) -> [u8; N] {
    let mut bytes = [0; N];
    file.read_exact_at(&mut bytes, offset).unwrap();
    bytes
}

#[test]
fn the_event_line() {
    let (block, file) = block::<ToPlugin>();
    block.event.doorbell.store(0x0102, Ordering::Relaxed);
    block.event.waiting.store(0x0304, Ordering::Relaxed);
    let event = Event {
        kind: 2,
        flags: 3,
        width: 4,
        files: 5,
        length: 0x0607,
        posted: 0x0809,
        address: 0x0a0b,
        data: 0x0c0d,
        tsc: 0x0e0f,
        cpu: 0x1011,
        status: -22,
        count: 0x1213,
    };
    block.event.publish(1, &event);
    #[rustfmt::skip]
    let golden = [
        1, 0, 0, 0,             // seq
        2, 1, 0, 0,             // doorbell
        4, 3, 0, 0,             // waiting
        2, 3, 4, 5,             // kind, flags, width, files
        7, 6, 0, 0,             // length
        9, 8, 0, 0,             // posted
        0xb, 0xa, 0, 0, 0, 0, 0, 0, // address
        0xd, 0xc, 0, 0, 0, 0, 0, 0, // data
        0xf, 0xe, 0, 0, 0, 0, 0, 0, // tsc
        0x11, 0x10, 0, 0,       // cpu
        0xea, 0xff, 0xff, 0xff, // status
        0x13, 0x12, 0, 0, 0, 0, 0, 0, // count
    ];
    assert_eq!(bytes::<64>(&file, 0), golden);
    assert_eq!(block.event.read(), event);
}

#[test]
fn the_answer_line() {
    let (block, file) = block::<ToVmm>();
    block.answer.doorbell.store(0x0102, Ordering::Relaxed);
    block.answer.waiting.store(0x0304, Ordering::Relaxed);
    let answer =
        Answer { kind: 2, flags: 3, files: 4, want: 5, length: 6, file: 7, count: 8, data: 0x0a0b, cpu: 0x0c0d };
    block.answer.publish(1, &answer);
    #[rustfmt::skip]
    let golden = [
        1, 0, 0, 0,             // seq
        2, 1, 0, 0,             // doorbell
        4, 3, 0, 0,             // waiting
        2, 3, 4, 5,             // kind, flags, files, want
        6, 0, 0, 0,             // length
        7, 0, 0, 0,             // file
        8, 0, 0, 0, 0, 0, 0, 0, // count
        0xb, 0xa, 0, 0, 0, 0, 0, 0, // data
        0xd, 0xc, 0, 0,         // cpu
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    assert_eq!(bytes::<64>(&file, 0), golden);
    assert_eq!(block.answer.read(), answer);
}

#[test]
fn the_progress_line() {
    let (block, file) = block::<ToVmm>();
    block.progress.taken.store(0x0102, Ordering::Relaxed);
    assert_eq!(bytes(&file, 0x80), [2, 1, 0, 0]);
}

#[test]
fn a_slot_of_the_posted_ring() {
    let (block, file) = block::<ToPlugin>();
    let write = PostedWrite { mmio: true, length: 4, address: 0x0102, data: 0x0304, tsc: 0x0506, cpu: 0x0908 };
    block.posted[3].publish(0x0708, &write);
    #[rustfmt::skip]
    let golden = [
        8, 7, 0, 0,             // seq
        1, 4, 9, 9,             // flags, length, CPU plus one
        2, 1, 0, 0, 0, 0, 0, 0, // address
        4, 3, 0, 0, 0, 0, 0, 0, // data
        6, 5, 0, 0, 0, 0, 0, 0, // tsc
    ];
    assert_eq!(bytes::<32>(&file, 0x1000 + 3 * 32), golden);
    assert_eq!(block.posted[3].take(0x0708), Some(write));
    assert_eq!(block.posted[3].take(0x0709), None);
}

#[test]
fn the_areas_behind_the_lines() {
    let (down, down_file) = block::<ToPlugin>();
    let (up, up_file) = block::<ToVmm>();
    for (block, file) in [(&down.files, &down_file), (&up.files, &up_file)] {
        words::store(&block.regs, b"general!");
        words::store(&block.sregs, b"segments");
        words::store(&block.debugregs, b"debugreg");
        assert_eq!(&bytes::<8>(file, 0x400), b"general!");
        assert_eq!(&bytes::<8>(file, 0x500), b"segments");
        assert_eq!(&bytes::<8>(file, 0x680), b"debugreg");
    }
    for (string, bulk, file) in [(&down.string, &down.bulk, &down_file), (&up.string, &up.bulk, &up_file)] {
        words::store(&string[511..], b"laststr!");
        words::store(&bulk[2047..], b"lastbulk");
        assert_eq!(&bytes::<8>(file, 0x4000 - 8), b"laststr!");
        assert_eq!(&bytes::<8>(file, 0x8000 - 8), b"lastbulk");
    }
}
