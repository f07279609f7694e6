//! Register access against a VMM made of test code.

mod fake;

use std::thread;

use fake::{Fake, FakeVcpu, fake_vcpus};
use outboard_plugin::bytemuck::{bytes_of, bytes_of_mut};
use outboard_plugin::kvm_bindings::{kvm_cpuid_entry2, kvm_mp_state, kvm_msr_entry, kvm_regs};
use outboard_plugin::{Error, Event, Files, Stopped};
use outboard_wire::kvm_abi::{self as abi, File};
use outboard_wire::line::{self, Answer, FILE_REGS, FILE_SREGS, answer_kind, event_kind};
use outboard_wire::words;

/// Delivers one INIT event with `files` in it, runs `plugin` in the stop, and returns what `vmm` made of the first answer.
fn stop<T: Send + 'static>(
    files: u8,
    vmm: impl FnOnce(&mut FakeVcpu, Answer) -> T + Send + 'static,
    plugin: impl FnOnce(&mut Stopped<'_>),
) -> T {
    let Fake { connection, mut vcpus, .. } = fake_vcpus(1);
    let mut vcpu = connection.vcpu(0).unwrap();
    let vmm = thread::spawn(move || {
        words::store(&vcpus[0].end.to_plugin().files.regs, bytes_of(&regs(11)));
        words::store(&vcpus[0].end.to_plugin().files.sregs, bytes_of(&sregs(12)));
        let answer = vcpus[0].say(line::Event { kind: event_kind::INIT, files, ..line::Event::default() });
        vmm(&mut vcpus[0], answer)
    });
    let Event::Init(mut stopped) = vcpu.wait().unwrap() else { panic!() };
    plugin(&mut stopped);
    stopped.resume();
    vmm.join().unwrap()
}

fn regs(rip: u64) -> abi::Regs {
    abi::Regs(kvm_regs { rip, ..kvm_regs::default() })
}

fn sregs(cr0: u64) -> abi::Sregs {
    let mut sregs = abi::Sregs::default();
    sregs.0.cr0 = cr0;
    sregs
}

fn is(answer: &Answer, kind: u8, file: File) {
    assert_eq!((answer.kind, answer.file), (kind, file as u32), "{answer:?}");
}

fn file_regs(vcpu: &FakeVcpu) -> u64 {
    let mut value = abi::Regs::default();
    words::load(&vcpu.end.to_vmm().files.regs, bytes_of_mut(&mut value));
    value.0.rip
}

#[test]
fn what_rode_along_needs_no_answer() {
    let answer = stop(
        FILE_REGS | FILE_SREGS,
        |_, answer| answer,
        |stop| {
            assert_eq!(stop.files(), Files::REGS | Files::SREGS);
            assert_eq!(stop.regs().unwrap().rip, 11);
            assert_eq!(stop.sregs().unwrap().cr0, 12);
        },
    );
    assert_eq!((answer.kind, answer.files, answer.want), (answer_kind::RESUME, 0, 0));
}

#[test]
fn what_did_not_is_asked_for() {
    let vmm = |vcpu: &mut FakeVcpu, answer: Answer| {
        is(&answer, answer_kind::GET, File::Regs);
        assert_eq!((answer.count, answer.length), (1, 0));
        let answer = vcpu.reply(0, 1, bytes_of(&regs(5)));
        is(&answer, answer_kind::GET, File::MpState);
        vcpu.reply(0, 1, &4u32.to_le_bytes())
    };
    let answer = stop(0, vmm, |stop| {
        assert_eq!(stop.regs().unwrap().rip, 5);
        assert_eq!(stop.mp_state().unwrap().mp_state, 4);
    });
    assert_eq!(answer.kind, answer_kind::RESUME);
}

#[test]
fn general_registers_are_set_by_the_resume() {
    let vmm = |vcpu: &mut FakeVcpu, answer: Answer| (answer, file_regs(vcpu));
    let (answer, rip) = stop(FILE_REGS, vmm, |stop| {
        let mut regs = stop.regs().unwrap();
        regs.rip += 1;
        stop.set_regs(&regs).unwrap();
        stop.want_registers(Files::REGS | Files::DEBUGREGS);
    });
    assert_eq!((answer.kind, answer.files, answer.want, rip), (answer_kind::RESUME, FILE_REGS, 5, 12));
}

#[test]
fn a_get_after_a_set_sees_what_kvm_makes_of_it() {
    let vmm = |vcpu: &mut FakeVcpu, answer: Answer| {
        is(&answer, answer_kind::SET, File::Regs);
        assert_eq!((answer.count, answer.length, vcpu.bulk(144)), (1, 144, bytes_of(&regs(77)).to_vec()));
        let answer = vcpu.reply(0, 0, &[]);
        is(&answer, answer_kind::GET, File::Regs);
        vcpu.reply(0, 1, bytes_of(&regs(78)))
    };
    let answer = stop(FILE_REGS, vmm, |stop| {
        stop.set_regs(&regs(77).0).unwrap();
        assert_eq!(stop.regs().unwrap().rip, 78);
    });
    assert_eq!((answer.kind, answer.files), (answer_kind::RESUME, 0));
}

#[test]
fn a_refusal_of_kvm_is_seen() {
    let vmm = |vcpu: &mut FakeVcpu, answer: Answer| {
        is(&answer, answer_kind::SET, File::Sregs);
        vcpu.reply(-libc::EINVAL, 0, &[])
    };
    let answer = stop(FILE_SREGS, vmm, |stop| {
        let error = stop.set_sregs(&sregs(9).0).unwrap_err();
        assert_eq!(error.to_string(), "the VMM refused to set Sregs of vCPU 0: EINVAL (Invalid argument)");
    });
    assert_eq!(answer.kind, answer_kind::RESUME);
}

#[test]
fn deferred_sregs_go_ahead_of_a_command_that_may_see_them() {
    let vmm = |vcpu: &mut FakeVcpu, answer: Answer| {
        is(&answer, answer_kind::SET, File::Sregs);
        assert_eq!(vcpu.bulk(312), bytes_of(&sregs(9)));
        let answer = vcpu.reply(0, 1, &[]);
        is(&answer, answer_kind::SET, File::Fpu);
        assert_eq!((answer.length, vcpu.bulk(416)), (416, vec![0; 416]));
        vcpu.reply(0, 1, &[])
    };
    let answer = stop(FILE_SREGS, vmm, |stop| {
        stop.set_sregs_on_resume(&sregs(9).0).unwrap();
        stop.set_fpu(&Default::default()).unwrap();
        stop.set_sregs_on_resume(&sregs(10).0).unwrap();
        stop.set_debugregs_on_resume(&Default::default()).unwrap();
    });
    assert_eq!((answer.kind, answer.files), (answer_kind::RESUME, 6));
}

fn msrs(count: u32) -> Vec<kvm_msr_entry> {
    (0..count).map(|index| kvm_msr_entry { index, ..kvm_msr_entry::default() }).collect()
}

#[test]
fn msrs_travel_in_chunks_and_end_at_the_first_unknown_one() {
    let vmm = |vcpu: &mut FakeVcpu, mut answer: Answer| {
        let mut first = 0;
        for (asked, known) in [(255, 255), (45, 10)] {
            is(&answer, answer_kind::GET, File::Msrs);
            assert_eq!((answer.count, answer.length), (asked, asked as u32 * 16));
            assert_eq!(vcpu.bulk(4), u32::to_le_bytes(first));
            let filled: Vec<u8> = (first..first + known)
                .flat_map(|index| {
                    bytes_of(&abi::MsrEntry(kvm_msr_entry { index, data: u64::from(index) + 1, reserved: 0 })).to_vec()
                })
                .collect();
            answer = vcpu.reply(0, known.into(), &filled);
            first += known;
        }
        answer
    };
    let answer = stop(0, vmm, |stop| {
        let mut msrs = msrs(300);
        assert_eq!(stop.get_msrs(&mut msrs).unwrap(), 265);
        assert!(msrs[..265].iter().all(|msr| msr.data == u64::from(msr.index) + 1));
        assert!(msrs[265..].iter().all(|msr| msr.data == 0));
        assert_eq!(stop.get_msrs(&mut []).unwrap(), 0);
    });
    assert_eq!(answer.kind, answer_kind::RESUME);
}

#[test]
fn an_msr_that_is_not_taken_is_named() {
    let vmm = |vcpu: &mut FakeVcpu, answer: Answer| {
        is(&answer, answer_kind::SET, File::Msrs);
        assert_eq!((answer.count, answer.length), (255, 4080));
        let answer = vcpu.reply(0, 255, &[]);
        assert_eq!((answer.count, answer.length), (45, 720));
        vcpu.reply(0, 3, &[])
    };
    stop(0, vmm, |stop| {
        let error = stop.set_msrs(&msrs(300)).unwrap_err();
        assert_eq!(error.to_string(), "KVM refused to set MSR 0x102, after 258 others were set");
    });
}

#[test]
fn cpuid_is_set_whole_or_not_at_all() {
    let vmm = |vcpu: &mut FakeVcpu, answer: Answer| {
        is(&answer, answer_kind::SET, File::Cpuid);
        assert_eq!((answer.count, answer.length), (256, 10240));
        let entries = vcpu.bulk(10240);
        assert_eq!(entries[255 * 40..][..4], 7u32.to_le_bytes());
        let answer = vcpu.reply(0, 0, &[]);
        is(&answer, answer_kind::GET, File::Cpuid);
        vcpu.reply(0, 2, &entries[..80])
    };
    stop(0, vmm, |stop| {
        let entries = [kvm_cpuid_entry2 { function: 7, ..Default::default() }; 257];
        assert_eq!(stop.set_cpuid(&entries).unwrap_err().errno(), libc::E2BIG);
        stop.set_cpuid(&entries[..256]).unwrap();
        assert_eq!(stop.cpuid().unwrap(), entries[..2]);
    });
}

#[test]
fn every_plain_file_is_set_at_once() {
    let vmm = |vcpu: &mut FakeVcpu, mut answer: Answer| {
        for file in [File::Sregs, File::Debugregs, File::Fpu, File::MpState] {
            is(&answer, answer_kind::SET, file);
            assert_eq!(answer.length as usize, file.entry_size());
            answer = vcpu.reply(0, 1, &[]);
        }
        for file in [File::Sregs, File::Debugregs, File::Fpu, File::MpState] {
            is(&answer, answer_kind::GET, file);
            answer = vcpu.reply(0, 1, &vec![0; file.entry_size()]);
        }
        answer
    };
    let answer = stop(FILE_SREGS, vmm, |stop| {
        stop.set_sregs(&Default::default()).unwrap();
        stop.set_debugregs(&Default::default()).unwrap();
        stop.set_fpu(&Default::default()).unwrap();
        stop.set_mp_state(&kvm_mp_state::default()).unwrap();
        assert_eq!(stop.files(), Files::NONE, "what rode along is out of date");
        stop.sregs().unwrap();
        stop.debugregs().unwrap();
        stop.fpu().unwrap();
        stop.mp_state().unwrap();
    });
    assert_eq!(answer.kind, answer_kind::RESUME);
}

#[test]
fn a_reply_of_the_wrong_length_is_an_error() {
    let wrong: [(u64, usize); 4] = [(1, 100), (2, 288), (0, 0), (u64::MAX, 144)];
    for (count, length) in wrong {
        let vmm = move |vcpu: &mut FakeVcpu, _| vcpu.reply(0, count, &vec![0; length]);
        stop(0, vmm, |stop| {
            let error = stop.regs().unwrap_err();
            assert!(matches!(error, Error::Reply(_)), "{error}");
        });
    }
}

#[test]
fn a_real_mode_start_is_one_call() {
    let vmm = |vcpu: &mut FakeVcpu, answer: Answer| {
        is(&answer, answer_kind::SET, File::Sregs);
        let mut expected = sregs(12);
        (expected.0.cs.base, expected.0.cs.selector) = (0xf_0000, 0xf000);
        assert_eq!(vcpu.bulk(312), bytes_of(&expected));
        let answer = vcpu.reply(0, 1, &[]);
        (answer, file_regs(vcpu))
    };
    let (answer, rip) = stop(FILE_SREGS, vmm, |stop| stop.start_real_mode(0xf000, 0xfff0).unwrap());
    assert_eq!((answer.files, rip), (FILE_REGS, 0xfff0));
}
