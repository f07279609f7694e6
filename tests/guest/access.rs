//! Port and memory accesses of every width.

use outboard_plugin::{Event, Space};

use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[case!(port_accesses_of_every_width)];

real_mode!(ports:
    "mov dx, 0x10",
    "in al, dx",
    "out dx, al",
    "in ax, dx",
    "out dx, ax",
    "in eax, dx",
    "out dx, eax",
    "hlt",
);

fn port_accesses_of_every_width() -> Tested {
    let (mut vm, _memory) = connect(ports())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for width in [1, 2, 4] {
        let value = 0x8877_6655_4433_2211 & ((1u64 << (8 * width)) - 1);
        match vcpu.wait()? {
            Event::Read(read) => {
                assert_eq!((read.space(), read.address(), read.length()), (Space::Port, 0x10, width));
                read.answer_u64(value);
            }
            other => panic!("{other:?} instead of a read"),
        }
        match vcpu.wait()? {
            Event::Write(write) => {
                assert_eq!((write.space(), write.address(), write.data().len()), (Space::Port, 0x10, width));
                assert_eq!(write.value(), value);
            }
            other => panic!("{other:?} instead of a write"),
        }
    }
    Ok(())
}
