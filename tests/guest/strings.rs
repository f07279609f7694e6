//! String port I/O. How many exits KVM makes of it differs from host to host, what it carries does not.

use outboard_plugin::{Event, Space, Vcpu};

use crate::common::guest::real_mode;
use crate::common::machine::{begin_with, connect};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(a_thousand_bytes_out_arrive_in_order),
    case!(a_thousand_bytes_in_arrive_in_order).options(&["--json"]).around(strings_are_counted_apart),
    case!(items_of_two_and_four_bytes_keep_their_width),
    case!(posted_strings_are_one_write_per_item),
];

const FROM: u64 = 0x4000;
const TO: u64 = 0x5000;
const COUNT: u64 = 1000;

/// Bytes without a period of a power of two, so that no piece is mistaken for another.
fn pattern() -> Vec<u8> {
    (0..4 * COUNT).map(|at| (at % 251) as u8 ^ (at / 251) as u8).collect()
}

real_mode!(bytes_out:
    "rep outsb",
    "out 0x11, al", // the end
    "hlt",
);

fn a_thousand_bytes_out_arrive_in_order() -> Tested {
    let (mut vm, memory) = connect(bytes_out())?;
    memory.write(FROM, &pattern())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    let mut vcpu = begin_with(&vm, 0, |regs| (regs.rsi, regs.rcx, regs.rdx) = (FROM, COUNT, 0x10))?;
    assert_eq!(bytes_until_the_end(&mut vcpu, 1)?, pattern()[..COUNT as usize]);
    Ok(())
}

/// What the guest writes to port 0x10, in items of `width`, before it writes to port 0x11.
fn bytes_until_the_end(vcpu: &mut Vcpu, width: u8) -> Result<Vec<u8>, outboard_plugin::Error> {
    let mut bytes = Vec::new();
    loop {
        match vcpu.wait()? {
            Event::Write(write) if write.address() == 0x10 => {
                assert_eq!(write.access().width, width);
                assert_eq!(write.items().count() * usize::from(width), write.data().len());
                bytes.extend_from_slice(write.data());
            }
            Event::Write(write) if write.address() == 0x11 => return Ok(bytes),
            other => panic!("{other:?} instead of a write"),
        }
    }
}

real_mode!(bytes_in:
    "rep insb",
    "out 0x11, al",
    "hlt",
);

fn a_thousand_bytes_in_arrive_in_order() -> Tested {
    let (mut vm, memory) = connect(bytes_in())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    let mut vcpu = begin_with(&vm, 0, |regs| (regs.rdi, regs.rcx, regs.rdx) = (TO, COUNT, 0x10))?;
    let pattern = pattern();
    let mut bytes = pattern.iter();
    let (mut strings, mut singles) = (0, 0);
    loop {
        match vcpu.wait()? {
            Event::Read(read) => {
                *if read.length() > 1 { &mut strings } else { &mut singles } += 1;
                read.answer_items(|| (*bytes.next().expect("no more than a page is read ahead")).into())
            }
            Event::Write(write) => {
                assert_eq!(write.address(), 0x11);
                break;
            }
            other => panic!("{other:?} instead of a read or the end"),
        }
    }
    let mut read = vec![0; COUNT as usize + 1];
    memory.read(TO, &mut read)?;
    assert_eq!(read[..COUNT as usize], pattern[..COUNT as usize]);
    assert_eq!(read[COUNT as usize], 0, "nothing behind the last byte is touched");
    println!("{strings} {singles}");
    Ok(())
}

/// The report counts exits of more than one item under a name of their own.
fn strings_are_counted_apart(case: &Case) -> Tested {
    let done = case.program().start().ended();
    done.expect(0);
    let report = done.report();
    let exits = report["exits"].as_array().expect("a list of exits");
    let count =
        |name: &str| exits.iter().find(|exit| exit["exit"] == name).map_or(0, |exit| exit["count"].as_u64().unwrap());
    let said = format!("{} {}", count("port string read"), count("port read"));
    assert_eq!(done.stdout.lines().rev().skip(1).collect::<Vec<_>>(), [said.as_str()], "what the plugin said");
    assert!(count("port string read") > 0, "KVM reads ahead: {report}");
    Ok(())
}

real_mode!(words_out:
    "rep outsw",
    "out 0x11, al",
    "mov cx, 250",
    "rep outsd",
    "out 0x11, al",
    "hlt",
);

fn items_of_two_and_four_bytes_keep_their_width() -> Tested {
    let (mut vm, memory) = connect(words_out())?;
    memory.write(FROM, &pattern())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    let mut vcpu = begin_with(&vm, 0, |regs| (regs.rsi, regs.rcx, regs.rdx) = (FROM, 500, 0x10))?;
    assert_eq!(bytes_until_the_end(&mut vcpu, 2)?, pattern()[..1000]);
    assert_eq!(bytes_until_the_end(&mut vcpu, 4)?, pattern()[1000..2000]);
    Ok(())
}

fn posted_strings_are_one_write_per_item() -> Tested {
    let (mut vm, memory) = connect(bytes_out())?;
    memory.write(FROM, &pattern())?;
    vm.reserve_posted(Space::Port, 0x10..0x11)?;
    vm.reserve(Space::Port, 0x11..0x12)?;
    vm.start()?;
    let mut vcpu = begin_with(&vm, 0, |regs| (regs.rsi, regs.rcx, regs.rdx) = (FROM, COUNT, 0x10))?;
    let mut bytes = Vec::new();
    loop {
        match vcpu.wait()? {
            Event::Posted(write) => {
                assert_eq!((write.space, write.address, write.length), (Space::Port, 0x10, 1));
                bytes.extend_from_slice(write.bytes());
            }
            Event::Write(write) => {
                assert_eq!(write.address(), 0x11);
                break;
            }
            other => panic!("{other:?} instead of a posted write"),
        }
    }
    assert_eq!(bytes, pattern()[..COUNT as usize]);
    Ok(())
}
