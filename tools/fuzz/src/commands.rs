//! Commands and answers of a vCPU: a real vCPU of a real VM in this process, and a plugin's side that answers what the input
//! says.
//!
//! The first byte chooses the VM, the next the guest's code. Then come steps: sound answers and commands, answers whose every
//! field is the input's, words stored anywhere in the plugin's block.

use std::os::fd::AsFd;
use std::time::Duration;

use outboard::plugin::requests::{Host, Reply};
use outboard::vcpu::ended::Ended;
use outboard_plugin::GuestMemory;
use outboard_wire::control::{
    CreateMemory, EXITS, Hello, Kind, MSR_READ, MSR_WRITE, MsrRange, RANGE_POSTED, RANGE_SYNCHRONOUS, ReserveRange,
    SPACE_MMIO, SPACE_PORT, Subscribe,
};
use outboard_wire::line::{Answer, FILES, answer_kind};
use zerocopy::IntoBytes;

use crate::assert_sentence;
use crate::host::host;
use crate::input::Input;
use crate::lines::{self, CODE, GUEST, Heard, Lines, MEMORY, PATIENCE};

/// Most steps of an input.
const STEPS: usize = 200;

/// The target.
pub fn commands(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(choice) = input.op() else { return };
    let mut host = host(choice);
    let memory = GuestMemory::new(MEMORY).expect("memory");
    let code = match input.byte() {
        0 => GUEST.to_vec(),
        length => input.bytes(length.into()),
    };
    memory.write(CODE.into(), &code).expect("room for the guest");
    let mut lines = begin(&mut host, &memory, choice);
    drive(&mut host, &mut lines, &mut input);
    let mut ended = host.vcpus.take_ended();
    ended.extend(host.vcpus.stop());
    assert_eq!(ended.len(), host.vcpus.len(), "a thread has not said how it ended: {ended:?}");
    for ended in ended {
        assert_sentence(&ended.to_string());
        // What a plugin does is never a failure of the VMM.
        assert!(!matches!(ended, Ended::Run { .. } | Ended::Unconfined { .. }), "{ended}");
    }
}

/// Gives the VM what a guest needs and starts it.
fn begin(host: &mut Host, memory: &GuestMemory, choice: u8) -> Lines {
    let reply = host.welcome(Hello::ours().as_bytes()).expect("descriptors are left").0;
    let slot = CreateMemory { offset: 0, length: MEMORY as u64, start: 0, flags: 0, reserved: 0 };
    let fd = memory.as_fd().try_clone_to_owned().expect("descriptors are left");
    host.serve(Kind::CreateMemory, slot.as_bytes(), vec![fd]).expect("memory");
    for (space, kind, start, length) in [
        (SPACE_PORT, RANGE_SYNCHRONOUS, 0x10, 0x10),
        (SPACE_PORT, RANGE_POSTED, 0x30, 8),
        (SPACE_MMIO, RANGE_SYNCHRONOUS, MEMORY as u64, 0x1000),
    ] {
        serve(host, Kind::ReserveRange, ReserveRange { space, kind, start, length }.as_bytes());
    }
    if choice & 0x10 != 0 {
        let mut ranges = [MsrRange::default(); _];
        ranges[0] = MsrRange { first: 0x4b56_4d00, count: 32, access: MSR_READ | MSR_WRITE, reserved: 0 };
        // Not every VM has all of these exits; what it has not is refused, as one bit at a time shows.
        for bit in (0..32).map(|bit| 1 << bit).filter(|bit| EXITS & bit != 0) {
            let _ = host.serve(Kind::Subscribe, Subscribe { exits: bit, count: 1, ranges }.as_bytes(), Vec::new());
        }
    }
    serve(host, Kind::Start, &[]);
    Lines::map(&reply.fds, host.vcpus.len(), 0).expect("the blocks")
}

fn serve(host: &mut Host, kind: Kind, body: &[u8]) -> Reply {
    host.serve(kind, body, Vec::new()).unwrap_or_else(|errno| panic!("{kind:?}: {errno}"))
}

/// Takes the steps of the input until the VM has ended.
fn drive(host: &mut Host, lines: &mut Lines, input: &mut Input<'_>) {
    let Heard::Event(mut event) = lines.next(PATIENCE) else { panic!("a vCPU begins with an event") };
    for _ in 0..STEPS {
        let Some(op) = input.op() else { return };
        // Sound answers are owed an event; after any other there may be none for good.
        let mut owed = true;
        match op % 10 {
            0 => {
                if !lines.enter(PATIENCE) {
                    return;
                }
            }
            1 | 2 => lines.answer(&lines::answer_to(&event, input)),
            3 => {
                let command = lines::command(false, lines, input);
                lines.answer(&command);
            }
            4 => {
                let command = lines::command(true, lines, input);
                lines.answer(&command);
            }
            5 => {
                let [files, want] = input.array().map(|byte: u8| byte & FILES);
                lines.answer(&Answer { files, want, ..lines::answer_to(&event, input) });
            }
            6 => lines.answer(&lines::any_answer(input)),
            7 => {
                let (place, value) = (input.u16(), input.u64());
                lines.poke(place, value);
                owed = false;
            }
            8 => {
                let count = u64::from(input.byte());
                lines.answer(&Answer { kind: answer_kind::RESUME, count, ..lines::answer_to(&event, input) });
            }
            _ => {
                for _ in 0..input.byte() % 16 {
                    let (place, area) = (input.u16() << 4, u16::from(input.byte() % 6));
                    lines.poke(place + 10 + area, input.u64());
                }
                continue;
            }
        }
        // A guest that runs on for good, or sleeps, is brought to an event by this.
        host.vcpus.pause(&[1], u64::from(op));
        match lines.next(if owed { PATIENCE } else { Duration::from_millis(2) }) {
            Heard::Event(next) => event = next,
            Heard::End => return,
            Heard::Nothing => assert!(!owed, "the vCPU has not answered step {op}"),
            Heard::Violation => panic!("the VMM broke the protocol"),
        }
    }
}
