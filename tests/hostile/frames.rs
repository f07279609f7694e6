//! Control messages that break the protocol end the plugin with a sentence that names the breach. Requests that are merely
//! wrong are refused, and life goes on.

use outboard_wire::block::LAYOUT;
use outboard_wire::control::{CheckExtension, Hello, HelloReply, Kind, NewConnection, Start};
use outboard_wire::frame::{FLAG_REPLY, Header, MAGIC};
use outboard_wire::limits::{MAX_FRAME, VERSION_MAJOR, VERSION_MINOR};
use std::os::fd::AsRawFd;
use zerocopy::{FromBytes, IntoBytes};

use crate::around::{breach, ends};
use crate::common::suite::{Case, Tested};
use crate::raw::{Raw, wait_for_death};

pub const CASES: &[Case] = &[
    breach!(garbage: "a control message starts with 0x55555555, which is not the magic number"),
    breach!(one_byte: "a control message of 1 bytes is shorter than its 32-byte header"),
    breach!(thirty_one_bytes: "a control message of 31 bytes is shorter than its 32-byte header"),
    breach!(a_body_that_is_announced_and_missing: "announces a body of 8 bytes and carries 0"),
    breach!(a_body_that_is_not_announced: "announces a body of 0 bytes and carries 8"),
    breach!(a_body_of_four_gigabytes: "announces a body of 4294967295 bytes and carries 4"),
    breach!(an_oversized_message: "a control message is longer than the 4096 bytes that one may have"),
    breach!(a_wrong_magic: "a control message starts with 0x4452424e, which is not the magic number"),
    breach!(a_reserved_field: "a reserved field that is not zero"),
    breach!(another_reserved_field: "a reserved field that is not zero"),
    breach!(an_unknown_flag: "a reserved field that is not zero"),
    breach!(a_request_with_a_status: "a reserved field that is not zero"),
    breach!(a_reply_as_a_request: "a reserved field that is not zero"),
    breach!(a_repeated_sequence_number: "has sequence number 1, 2 was due"),
    breach!(a_skipped_sequence_number: "has sequence number 3, 2 was due"),
    breach!(sequence_number_zero: "has sequence number 0, 1 was due"),
    breach!(descriptors_that_are_not_announced: "announces 0 file descriptors and carries 1"),
    breach!(descriptors_that_are_announced_and_missing: "announces 2 file descriptors and carries 0"),
    breach!(too_many_descriptors: "carries more than the 4 file descriptors that one may have"),
    breach!(very_many_descriptors: "carries more than the 4 file descriptors that one may have"),
    breach!(a_request_before_hello: "it made a request before it said hello"),
    breach!(an_unknown_request_before_hello: "it made a request before it said hello"),
    breach!(a_hello_of_the_wrong_size: "its hello has a body of the wrong size"),
    breach!(garbage_and_gone: "a control message starts with 0x55555555, which is not the magic number"),
    breach!(requests_and_garbage_and_gone: "which is not the magic number"),
    breach!(garbage_on_another_connection: "which is not the magic number"),
    breach!(a_frame_of_another_version: "is of protocol version 2, this side speaks 1"),
    breach!(another_major_version: "it speaks version 2.1 with layout 0x2f8ea273, this VMM speaks 1.1 with layout 0x2f8ea273"),
    breach!(a_later_minor_version: "it speaks version 1.2 with layout", "this VMM speaks 1.1 with layout"),
    breach!(another_layout: "it speaks version 1.1 with layout 0x2f8ea272, this VMM speaks 1.1 with layout 0x2f8ea273"),
    breach!(another_version_and_deaf: "it speaks version 7.7"),
    ends!(wrong_requests_are_refused_and_life_goes_on, 0),
    ends!(every_kind_survives_every_body_size, 0),
];

fn garbage() -> Tested {
    Raw::connect().send(&[0x55; 100]);
    wait_for_death()
}

fn garbage_and_gone() -> Tested {
    Raw::connect().send(&[0x55; 100]);
    std::process::exit(0)
}

fn requests_and_garbage_and_gone() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    for _ in 0..20 {
        let header = raw.next(Kind::CheckExtension as u16, 4, 0);
        raw.send_frame(&header, &[0; 4], &[]);
    }
    raw.send(&[0x55; 100]);
    std::process::exit(0)
}

fn one_byte() -> Tested {
    Raw::greeted().0.send(b"O");
    wait_for_death()
}

fn thirty_one_bytes() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    let header = raw.next(Kind::Start as u16, 0, 0);
    raw.send(&header.as_bytes()[..31]);
    wait_for_death()
}

/// Sends what would be the next request but for one change.
fn send_changed(change: impl FnOnce(&mut Header), body: &[u8]) -> Tested {
    let (mut raw, ..) = Raw::greeted();
    let mut header = raw.next(Kind::CheckExtension as u16, body.len(), 0);
    change(&mut header);
    raw.send_frame(&header, body, &[]);
    wait_for_death()
}

fn a_body_that_is_announced_and_missing() -> Tested {
    send_changed(|header| header.body_len = 8, &[])
}

fn a_body_that_is_not_announced() -> Tested {
    send_changed(|header| header.body_len = 0, &[0; 8])
}

fn a_body_of_four_gigabytes() -> Tested {
    send_changed(|header| header.body_len = u32::MAX, &[0; 4])
}

fn an_oversized_message() -> Tested {
    send_changed(|_| {}, &[0; MAX_FRAME - size_of::<Header>() + 1])
}

fn a_wrong_magic() -> Tested {
    send_changed(|header| header.magic = MAGIC - 1, &[0; 4])
}

fn a_reserved_field() -> Tested {
    send_changed(|header| header.reserved = 1, &[0; 4])
}

fn another_reserved_field() -> Tested {
    send_changed(|header| header.reserved2 = 1 << 31, &[0; 4])
}

fn an_unknown_flag() -> Tested {
    send_changed(|header| header.flags = 2, &[0; 4])
}

fn a_request_with_a_status() -> Tested {
    send_changed(|header| header.status = -1, &[0; 4])
}

fn a_reply_as_a_request() -> Tested {
    send_changed(|header| header.flags = FLAG_REPLY, &[0; 4])
}

fn a_repeated_sequence_number() -> Tested {
    send_changed(|header| header.sequence -= 1, &[0; 4])
}

fn a_skipped_sequence_number() -> Tested {
    send_changed(|header| header.sequence += 1, &[0; 4])
}

fn sequence_number_zero() -> Tested {
    Raw::connect().send(Header::request(Kind::Start as u16, 0, 0, 0).as_bytes());
    wait_for_death()
}

/// Sends a request that announces and carries so many descriptors.
fn send_descriptors(announced: u16, carried: usize) -> Tested {
    let (mut raw, _, fds) = Raw::greeted();
    let mut header = raw.next(Kind::CheckExtension as u16, 4, 0);
    header.fd_count = announced;
    raw.send_frame(&header, &[0; 4], &vec![fds[0].as_raw_fd(); carried]);
    wait_for_death()
}

fn descriptors_that_are_not_announced() -> Tested {
    send_descriptors(0, 1)
}

fn descriptors_that_are_announced_and_missing() -> Tested {
    send_descriptors(2, 0)
}

fn too_many_descriptors() -> Tested {
    send_descriptors(5, 5)
}

fn very_many_descriptors() -> Tested {
    send_descriptors(253, 253)
}

fn a_request_before_hello() -> Tested {
    Raw::connect().request(Kind::Start as u16, &[], &[]);
    wait_for_death()
}

fn an_unknown_request_before_hello() -> Tested {
    Raw::connect().request(0x7777, &[], &[]);
    wait_for_death()
}

fn a_hello_of_the_wrong_size() -> Tested {
    Raw::connect().request(Kind::Hello as u16, &[1, 0, 0, 0], &[]);
    wait_for_death()
}

fn garbage_on_another_connection() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    let second = raw.call(&NewConnection {}, &[]).fds.pop().expect("a connection");
    Raw::over(second).send(&[0; 64]);
    wait_for_death()
}

/// Another version is no attack: the plugin is answered, and has time to say so and end by itself.
fn a_frame_of_another_version() -> Tested {
    let mut raw = Raw::connect();
    let mut header = raw.next(Kind::Hello as u16, 12, 0);
    header.version = VERSION_MAJOR + 1;
    raw.send_frame(&header, &[0; 12], &[]);
    assert_eq!(raw.reply().status, -libc::EPROTONOSUPPORT);
    Ok(())
}

fn mismatch(hello: Hello) -> Tested {
    let reply = Raw::connect().call(&hello, &[]);
    let theirs = HelloReply::read_from_bytes(&reply.body).expect("a hello");
    assert_eq!((reply.status, reply.fds.len()), (0, 0));
    assert_eq!((theirs.major, theirs.minor, theirs.layout), (VERSION_MAJOR, VERSION_MINOR, LAYOUT));
    Ok(())
}

fn another_major_version() -> Tested {
    mismatch(Hello { major: VERSION_MAJOR + 1, ..Hello::ours() })
}

fn a_later_minor_version() -> Tested {
    mismatch(Hello { minor: VERSION_MINOR + 1, ..Hello::ours() })
}

fn another_layout() -> Tested {
    mismatch(Hello { layout: LAYOUT - 1, ..Hello::ours() })
}

fn another_version_and_deaf() -> Tested {
    mismatch(Hello { major: 7, minor: 7, layout: 7 })?;
    wait_for_death()
}

fn wrong_requests_are_refused_and_life_goes_on() -> Tested {
    let (mut raw, _, fds) = Raw::greeted();
    let fd = fds[0].as_raw_fd();
    for (kind, body, fds, errno) in [
        (0, &[][..], &[][..], libc::ENOTTY),
        (4000, &[], &[], libc::ENOTTY),
        (0xffff, &[0; MAX_FRAME - size_of::<Header>()], &[], libc::ENOTTY),
        (0xffff, &[], &[fd; 4], libc::ENOTTY),
        (Kind::Hello as u16, &[0; 8], &[], libc::EINVAL),
        (Kind::Start as u16, &[0], &[], libc::EINVAL),
        (Kind::Start as u16, &[], &[fd], libc::EINVAL),
        (Kind::NewConnection as u16, &[0], &[], libc::EINVAL),
        (Kind::NewConnection as u16, &[], &[fd], libc::EINVAL),
        (Kind::CheckExtension as u16, &[0; 3], &[], libc::EINVAL),
        (Kind::CheckExtension as u16, &[0; 5], &[], libc::EINVAL),
        (Kind::CheckExtension as u16, &[0; 4], &[fd; 4], libc::EINVAL),
        (Kind::CreateMemory as u16, &[0; 32], &[], libc::EBADF),
        (Kind::CreateMemory as u16, &[0; 32], &[fd; 2], libc::EINVAL),
        (Kind::CreateMemory as u16, &[0; 31], &[fd], libc::EINVAL),
    ] {
        raw.request(kind, body, fds);
        let reply = raw.reply();
        assert_eq!(
            (reply.status, reply.body.len(), reply.fds.len()),
            (-errno, 0, 0),
            "kind {kind}, {} bytes",
            body.len()
        );
    }
    raw.must(&CheckExtension { capability: 0 }, &[]);
    raw.must(&Start {}, &[]);
    Ok(())
}

/// Bodies of zeros and of ones, of every size around those that are known: whatever a request does with them, it answers.
fn every_kind_survives_every_body_size() -> Tested {
    let (mut raw, ..) = Raw::greeted();
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Start) {
        for size in (0..=48).chain([
            135,
            136,
            137,
            223,
            224,
            225,
            263,
            264,
            265,
            1311,
            1312,
            1313,
            1543,
            1544,
            1545,
            MAX_FRAME - size_of::<Header>(),
        ]) {
            for byte in [0x00, 0xff] {
                raw.request(kind as u16, &vec![byte; size], &[]);
                assert!(raw.reply().status <= 0);
            }
        }
    }
    raw.must(&Start {}, &[]);
    Ok(())
}
