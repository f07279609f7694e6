//! What plugins write into the lines of a vCPU: what breaks the protocol, what is refused, and what does not matter.

use outboard::sys::affinity;
use outboard_plugin::bytemuck::{Zeroable, bytes_of};
use outboard_wire::control::{CheckExtension, PauseVcpus};
use outboard_wire::kvm_abi::{File, MpState, Sregs};
use outboard_wire::limits::{MAX_CPUID, MAX_MSRS, MAX_VCPUS};
use outboard_wire::line::{Answer, FILE_REGS, FILE_SREGS, FILES, FLAG_STRING, answer_kind, event_kind};
use outboard_wire::{futex, words};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use crate::around::{PROTOCOL, breach, ends, run, start_program, verdict};
use crate::common::guest::real_mode;
use crate::common::suite::{Case, Tested, case};
use crate::random::Random;
use crate::raw::{Bench, resume, wait_for_death, wake};

pub const CASES: &[Case] = &[
    breach!(answers_the_event_before_the_last: "on vCPU 0 the plugin answered event 2 while event 4 was waiting for an answer"),
    breach!(answers_an_event_to_come: "on vCPU 0 the plugin answered event 5 while event 4 was waiting for an answer"),
    breach!(answers_with_any_number: "on vCPU 0 the plugin answered event 3405691582 while event 4 was waiting"),
    breach!(an_unknown_answer: "on vCPU 0 the plugin sent answer kind 77, which does not exist"),
    breach!(answer_kind_zero: "on vCPU 0 the plugin sent answer kind 0, which does not exist"),
    breach!(unknown_flags: "sent flags 0x80 with register files 0x0, which do not fit an answer of kind 1"),
    breach!(unknown_files: "sent flags 0x0 with register files 0x8, which do not fit an answer of kind 1"),
    breach!(unknown_files_wanted: "sent flags 0x0 with register files 0xf0, which do not fit an answer of kind 1"),
    breach!(a_command_with_files: "sent flags 0x0 with register files 0x1, which do not fit an answer of kind 2"),
    breach!(a_command_with_flags: "sent flags 0x2 with register files 0x0, which do not fit an answer of kind 3"),
    breach!(a_read_too_short: "answered a read of 2 bytes with 1"),
    breach!(a_read_too_long: "answered a read of 2 bytes with 8"),
    breach!(a_read_of_nothing: "answered a read of 2 bytes with 0"),
    breach!(a_string_for_a_simple_read: "answered a read of 2 bytes with 4097"),
    breach!(a_string_too_long: "answered a read of 64 bytes with 4097"),
    breach!(a_string_of_the_largest_length: "answered a read of 64 bytes with 4294967295"),
    breach!(takes_posted_writes_that_there_are_not: "claims to have taken posted write 257, but only 256 were published"),
    breach!(takes_posted_writes_back: "claims to have taken posted write 4294967295, but only 256 were published"),
    ends!(an_answer_of_the_event_before_is_only_late, 0),
    ends!(unknown_register_files_are_refused, 0),
    ends!(wrong_counts_and_lengths_are_refused, 0),
    ends!(registers_that_kvm_refuses_are_refused, 0),
    case!(a_resume_with_registers_that_kvm_refuses).around(is_warned_of_and_goes_on),
    case!(garbage_for_registers).around(any_end_is_good),
    case!(garbage_for_everything).around(is_a_breach_or_the_guests_end),
    case!(every_event_names_the_cpu).around(the_vcpu_is_on_the_last_cpu),
    ends!(garbage_beside_the_answer_does_not_matter, 0),
    ends!(bells_and_announcements_by_another_thread_do_not_matter, 0),
];

real_mode!(echo:
    "2: in ax, 0x10",
    "out 0x11, ax",
    "jmp 2b",
);

real_mode!(reads_a_string:
    "mov ax, 0",
    "mov es, ax",
    "mov di, 0x4000",
    "mov dx, 0x10",
    "mov cx, 64",
    "cld",
    "rep insb",
    "hlt",
);

real_mode!(posts_for_ever:
    "2: out 0x30, ax",
    "inc ax",
    "jmp 2b",
);

/// Publishes an answer under any number.
fn answer_as(bench: &Bench, seq: u32, answer: &Answer) -> Tested {
    bench.to_vmm.answer.publish(seq, answer);
    wake(&bench.to_vmm);
    wait_for_death()
}

/// Answers the first read of [`echo`], which is event 4 behind INIT and two commands.
fn answer_the_read(answer: Answer) -> Tested {
    let (bench, event) = Bench::running(echo());
    assert_eq!((bench.seq, event.kind, event.length), (4, event_kind::READ, 2));
    answer_as(&bench, bench.seq, &answer)
}

fn answers_the_event_before_the_last() -> Tested {
    let (bench, _) = Bench::running(echo());
    answer_as(&bench, bench.seq - 2, &resume(Answer { length: 2, ..Answer::default() }))
}

fn answers_an_event_to_come() -> Tested {
    let (bench, _) = Bench::running(echo());
    answer_as(&bench, bench.seq + 1, &resume(Answer { length: 2, ..Answer::default() }))
}

fn answers_with_any_number() -> Tested {
    let (bench, _) = Bench::running(echo());
    answer_as(&bench, 0xcafe_babe, &resume(Answer { length: 2, ..Answer::default() }))
}

fn an_unknown_answer() -> Tested {
    answer_the_read(Answer { kind: 77, length: 2, ..Answer::default() })
}

fn answer_kind_zero() -> Tested {
    answer_the_read(Answer { kind: 0, length: 2, ..Answer::default() })
}

fn unknown_flags() -> Tested {
    answer_the_read(resume(Answer { flags: 0x80, length: 2, ..Answer::default() }))
}

fn unknown_files() -> Tested {
    answer_the_read(resume(Answer { files: 0x08, length: 2, ..Answer::default() }))
}

fn unknown_files_wanted() -> Tested {
    answer_the_read(resume(Answer { want: 0xf0, length: 2, ..Answer::default() }))
}

fn a_command_with_files() -> Tested {
    answer_the_read(Answer { kind: answer_kind::GET, files: FILE_REGS, count: 1, ..Answer::default() })
}

fn a_command_with_flags() -> Tested {
    answer_the_read(Answer { kind: answer_kind::SET, flags: FLAG_STRING, length: 144, count: 1, ..Answer::default() })
}

fn a_read_too_short() -> Tested {
    answer_the_read(resume(Answer { length: 1, ..Answer::default() }))
}

fn a_read_too_long() -> Tested {
    answer_the_read(resume(Answer { length: 8, ..Answer::default() }))
}

fn a_read_of_nothing() -> Tested {
    answer_the_read(resume(Answer::default()))
}

fn a_string_for_a_simple_read() -> Tested {
    answer_the_read(resume(Answer { flags: FLAG_STRING, length: 4097, ..Answer::default() }))
}

fn answer_the_string(length: u32) -> Tested {
    let (bench, event) = Bench::running(reads_a_string());
    assert_eq!((event.kind, event.length, event.flags & FLAG_STRING), (event_kind::READ, 64, FLAG_STRING));
    answer_as(&bench, bench.seq, &resume(Answer { flags: FLAG_STRING, length, ..Answer::default() }))
}

fn a_string_too_long() -> Tested {
    answer_the_string(4097)
}

fn a_string_of_the_largest_length() -> Tested {
    answer_the_string(u32::MAX)
}

/// Lets the ring fill, then claims to have taken this many.
fn claim_to_have_taken(taken: u32) -> Tested {
    let mut bench = Bench::at_init(posts_for_ever());
    bench.enter();
    let last = &bench.end.to_plugin().posted[0];
    while last.take(256).is_none() {
        thread::yield_now();
    }
    bench.to_vmm.progress.taken.store(taken, Ordering::Release);
    wake(&bench.to_vmm);
    wait_for_death()
}

fn takes_posted_writes_that_there_are_not() -> Tested {
    claim_to_have_taken(257)
}

fn takes_posted_writes_back() -> Tested {
    claim_to_have_taken(u32::MAX)
}

/// A sequence number that is one behind says that the answer has not come yet.
fn an_answer_of_the_event_before_is_only_late() -> Tested {
    let (mut bench, event) = Bench::running(echo());
    bench.to_vmm.answer.publish(bench.seq - 1, &Answer { kind: 99, flags: 99, files: 99, ..Answer::default() });
    wake(&bench.to_vmm);
    bench.raw.must(&CheckExtension { capability: 0 }, &[]);
    bench.serve_echo(event, 100);
    Ok(())
}

fn unknown_register_files_are_refused() -> Tested {
    let (mut bench, event) = Bench::running(echo());
    for kind in [answer_kind::GET, answer_kind::SET] {
        for file in [99, 0x100, u32::MAX] {
            let reply = bench.command(&Answer { kind, file, count: 1, length: 8, ..Answer::default() });
            assert_eq!((reply.status, reply.length, reply.count), (-libc::ENOTTY, 0, 0));
        }
    }
    bench.serve_echo(event, 10);
    Ok(())
}

fn wrong_counts_and_lengths_are_refused() -> Tested {
    let (mut bench, event) = Bench::running(echo());
    let (get, set) = (answer_kind::GET, answer_kind::SET);
    for (kind, file, count, length, errno) in [
        (set, File::Regs, 1, 143, libc::EINVAL),
        (set, File::Regs, 1, 145, libc::EINVAL),
        (set, File::Regs, 1, 0, libc::EINVAL),
        (set, File::Sregs, 1, u32::MAX, libc::EINVAL),
        (set, File::Fpu, 1, 0x8000_0000, libc::EINVAL),
        (get, File::Msrs, MAX_MSRS as u64 + 1, 16 * (MAX_MSRS as u32 + 1), libc::E2BIG),
        (set, File::Msrs, u64::MAX, 16, libc::E2BIG),
        (set, File::Msrs, 1 << 32, 16, libc::E2BIG),
        (get, File::Msrs, 2, 16, libc::EINVAL),
        (set, File::Msrs, 0, 16, libc::EINVAL),
        (set, File::Cpuid, MAX_CPUID as u64 + 1, 40, libc::E2BIG),
        (set, File::Cpuid, 1, 39, libc::EINVAL),
    ] {
        let reply = bench.command(&Answer { kind, file: file as u32, count, length, ..Answer::default() });
        assert_eq!((reply.status, reply.length, reply.count), (-errno, 0, 0), "{file:?}, {count} of {length} bytes");
    }
    bench.serve_echo(event, 10);
    Ok(())
}

/// Segment and control registers that no processor takes: reserved bits of CR4 and EFER, paging without protection.
fn refused_sregs(now: Sregs) -> [Sregs; 3] {
    let mut all = [now; 3];
    all[0].0.cr4 = 1 << 63;
    all[1].0.efer = u64::MAX;
    all[2].0.cr0 = 1 << 31;
    all
}

fn registers_that_kvm_refuses_are_refused() -> Tested {
    let (mut bench, event) = Bench::running(echo());
    let now: Sregs = bench.get(File::Sregs);
    let mut refused = 0;
    for sregs in refused_sregs(now) {
        let status = bench.set(File::Sregs, &sregs);
        assert!([0, -libc::EINVAL].contains(&status), "status {status}");
        refused += usize::from(status != 0);
        assert_eq!(bench.set(File::Sregs, &now), 0);
    }
    assert!(refused > 0, "this KVM takes everything");
    assert_eq!(bench.set(File::MpState, &MpState::zeroed()), 0);
    assert!(bench.set(File::MpState, &[u32::MAX]) < 0);
    bench.serve_echo(event, 10);
    Ok(())
}

fn a_resume_with_registers_that_kvm_refuses() -> Tested {
    let (mut bench, event) = Bench::running(echo());
    let sregs = refused_sregs(bench.get(File::Sregs))[0];
    words::store(&bench.to_vmm.files.sregs, bytes_of(&sregs));
    bench.end.answer(&resume(Answer { length: event.length, files: FILE_SREGS, ..Answer::default() }));
    let write = bench.event();
    assert_eq!(write.kind, event_kind::WRITE);
    Ok(())
}

fn is_warned_of_and_goes_on(case: &Case) -> Tested {
    let done = run(case);
    verdict(&done, 0, &[]);
    done.complained(&["outboard: warning: the plugin resumed a vCPU with registers that KVM refuses: "]);
    Ok(())
}

/// Seeds that are tried one after the other; a failure names its own.
const SEEDS: u64 = 20;

fn seed() -> u64 {
    std::env::var("SEED").expect("a seed").parse().expect("a number")
}

/// Resumes with files of any bytes, until the guest or the run has ended. Nothing says what such a guest does; it may run
/// for ever without an exit.
fn garbage_for_registers() -> Tested {
    let mut random = Random::new(seed());
    let (mut bench, event) = Bench::running(echo());
    random.fill(&bench.to_vmm.files.regs);
    random.fill(&bench.to_vmm.files.sregs);
    random.fill(&bench.to_vmm.files.debugregs);
    let files = random.next() as u8 & FILES;
    bench.end.answer(&resume(Answer { length: event.length, files, ..Answer::default() }));
    // The VMM still serves requests, whatever the vCPU does.
    for _ in 0..100 {
        bench.raw.must(&CheckExtension { capability: 0 }, &[]);
    }
    Ok(())
}

fn any_end_is_good(case: &Case) -> Tested {
    for seed in 1..=SEEDS {
        let mut program = case.program();
        program.args(["--plugin-env", &format!("SEED={seed}")]);
        let done = start_program(&mut program).ended();
        let code = done.status.code();
        assert!(matches!(code, Some(0 | 74)), "seed {seed}: {code:?}, {}", done.stderr);
    }
    Ok(())
}

/// Writes any bytes to any words of its block until it is killed.
fn garbage_for_everything() -> Tested {
    let mut random = Random::new(seed());
    let (bench, _) = Bench::running(echo());
    let line = &bench.to_vmm.answer;
    loop {
        let value = random.next() as u32;
        let small = value % 8;
        let words: [&AtomicU32; 8] = [
            &line.seq,
            &line.doorbell,
            &line.waiting,
            &line.head,
            &line.length,
            &line.file,
            &line.cpu,
            &bench.to_vmm.progress.taken,
        ];
        let word = words[(random.next() % 8) as usize];
        word.store(if random.next().is_multiple_of(2) { small } else { value }, Ordering::SeqCst);
        futex::wake(&line.doorbell);
        random.fill(&bench.to_vmm.files.regs[..1]);
    }
}

fn is_a_breach_or_the_guests_end(case: &Case) -> Tested {
    for seed in 1..=SEEDS {
        let mut program = case.program();
        program.args(["--plugin-env", &format!("SEED={seed}")]);
        let done = start_program(&mut program).ended();
        let code = done.status.code();
        assert!(matches!(code, Some(PROTOCOL | 74 | 1)), "seed {seed}: {code:?}, {}", done.stderr);
    }
    Ok(())
}

fn every_event_names_the_cpu() -> Tested {
    let cpu: u32 = std::env::var("CPU")?.parse()?;
    let mut bench = Bench::at_init(echo());
    // The line of the event at hand is still there.
    let same = |bench: &Bench, kind| {
        let event = bench.end.to_plugin().event.read();
        assert_eq!((event.kind, event.cpu), (kind, cpu));
    };
    same(&bench, event_kind::INIT);
    bench.enter();
    let read = bench.event();
    same(&bench, event_kind::READ);
    bench.get::<Sregs>(File::Sregs);
    same(&bench, event_kind::REPLY);
    let mut pause = PauseVcpus { cookie: 1, mask: [0; MAX_VCPUS / 64] };
    pause.mask[0] = 1;
    bench.raw.must(&pause, &[]);
    bench.answer_read(&read, 0);
    bench.event();
    same(&bench, event_kind::PAUSED);
    bench.end.answer(&resume(Answer::default()));
    bench.event();
    same(&bench, event_kind::WRITE);
    Ok(())
}

/// Not the first one, which is what no number at all looks like.
fn the_vcpu_is_on_the_last_cpu(case: &Case) -> Tested {
    let cpu = affinity::allowed()?.pop().expect("a CPU");
    let mut program = case.program();
    program.args(["--cpu-affinity", &format!("0={cpu}"), "--plugin-env", &format!("CPU={cpu}")]);
    verdict(&start_program(&mut program).ended(), 0, &[]);
    Ok(())
}

/// Another thread writes to everything that only counts when an answer says so.
fn garbage_beside_the_answer_does_not_matter() -> Tested {
    let (mut bench, event) = Bench::running(echo());
    let stop = AtomicU32::new(0);
    let raw = bench.another_view();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(1);
            while stop.load(Ordering::Relaxed) == 0 {
                random.fill(&raw.files.regs);
                random.fill(&raw.files.sregs);
                random.fill(&raw.files.debugregs);
                random.fill(&raw.string);
                random.fill(&raw.bulk);
                raw.progress.taken.store(random.next() as u32, Ordering::Relaxed);
            }
        });
        bench.serve_echo(event, 2000);
        stop.store(1, Ordering::Relaxed);
    });
    Ok(())
}

fn bells_and_announcements_by_another_thread_do_not_matter() -> Tested {
    let (mut bench, event) = Bench::running(echo());
    let stop = AtomicU32::new(0);
    let raw = bench.another_view();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = Random::new(2);
            while stop.load(Ordering::Relaxed) == 0 {
                raw.answer.doorbell.store(random.next() as u32, Ordering::Relaxed);
                futex::wake(&raw.answer.doorbell);
                // Never without an announcement: a sleep of this side would be its own fault then.
                raw.answer.waiting.store(random.next() as u32 | 4, Ordering::Relaxed);
                raw.answer.cpu.store(random.next() as u32, Ordering::Relaxed);
            }
        });
        bench.serve_echo(event, 500);
        stop.store(1, Ordering::Relaxed);
    });
    Ok(())
}
