//! Many vCPUs, and the ways to wait for them.

use outboard_plugin::{Connection, Error, Event, EventFd, Space, Vcpu, wait_any};

use crate::common::guest::real_mode;
use crate::common::machine::{connect, enter, refused};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(sixty_four_vcpus_with_a_thread_each).options(&["--cpus", "64"]),
    case!(sixty_four_vcpus_in_one_thread).options(&["--cpus", "64"]),
    case!(wait_any_is_fair).options(&["--cpus", "4"]),
    case!(a_vcpu_driven_by_its_eventfd),
    case!(eventfds_and_waits_mix).options(&["--cpus", "2"]),
    case!(arming_with_something_there_says_so),
    case!(eventfds_past_the_last_vcpu_do_not_exist).options(&["--cpus", "2"]),
];

const VCPUS: u32 = 64;
/// Reads each vCPU makes, and as many writes.
const ROUNDS: u64 = 50;

real_mode!(adds_what_it_reads:
    "2: in eax, 0x10",
    "add ebx, eax",
    "mov eax, ebx",
    "out 0x11, eax",
    "jmp 2b",
);

/// What the plugin knows of a vCPU that runs `adds_what_it_reads`, which starts with its own number.
struct Sum {
    sum: u64,
    reads: u64,
    writes: u64,
}

impl Sum {
    fn of(id: u32) -> Sum {
        Sum { sum: id.into(), reads: 0, writes: 0 }
    }

    /// Serves one event; true once the vCPU has done its rounds.
    fn serve(&mut self, event: Event<'_>) -> Result<bool, Error> {
        match event {
            Event::Init(mut init) => {
                let id = init.id();
                enter(&mut init, |regs| regs.rbx = id.into())?;
            }
            Event::Read(read) => {
                assert_eq!((read.address(), self.reads), (0x10, self.writes));
                self.reads += 1;
                self.sum += self.reads;
                read.answer_u64(self.reads);
            }
            Event::Write(write) => {
                assert_eq!((write.address(), write.value()), (0x11, self.sum));
                self.writes += 1;
            }
            other => panic!("{other:?} instead of an access"),
        }
        Ok(self.writes == ROUNDS)
    }
}

fn started() -> Result<Connection, Error> {
    let (mut vm, _memory) = connect(adds_what_it_reads())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.start()?;
    Ok(vm)
}

fn sixty_four_vcpus_with_a_thread_each() -> Tested {
    let vm = started()?;
    assert_eq!(vm.vcpu_count(), VCPUS);
    std::thread::scope(|scope| {
        for id in 0..VCPUS {
            let vm = &vm;
            scope.spawn(move || {
                let mut vcpu = vm.vcpu(id).expect("a vCPU");
                let mut sum = Sum::of(id);
                while !sum.serve(vcpu.wait().expect("an event")).expect("it is served") {}
            });
        }
    });
    Ok(())
}

fn sixty_four_vcpus_in_one_thread() -> Tested {
    let vm = started()?;
    let mut vcpus = (0..VCPUS).map(|id| vm.vcpu(id)).collect::<Result<Vec<_>, _>>()?;
    let mut sums: Vec<_> = (0..VCPUS).map(Sum::of).collect();
    let (mut first, mut done) = (0, 0);
    while done < VCPUS {
        let at = wait_any(&mut vcpus, first)?;
        let event = vcpus[at].try_wait()?.expect("wait_any names a vCPU that has something");
        // Those that have done their rounds go on, and are served all the same.
        if sums[at].serve(event)? {
            done += 1;
        }
        first = (at + 1) % vcpus.len();
    }
    Ok(())
}

/// Of several that have something, the first from where the search begins is named: so each gets its turn, however fast one
/// of them has something again.
fn wait_any_is_fair() -> Tested {
    let vm = started()?;
    let mut vcpus = (0..4).map(|id| vm.vcpu(id)).collect::<Result<Vec<_>, _>>()?;
    for _ in 0..1000 {
        // All of them stand in an exit, whoever was scheduled first.
        for at in 0..4 {
            assert_eq!(wait_any(&mut vcpus[at..=at], 0)?, 0);
        }
        for first in [3, 1, 0, 2] {
            assert_eq!(wait_any(&mut vcpus, first)?, first);
        }
        for turn in 0..4 {
            let at = wait_any(&mut vcpus, turn)?;
            assert_eq!(at, turn);
            match vcpus[at].try_wait()?.expect("wait_any names a vCPU that has something") {
                Event::Init(mut init) => enter(&mut init, |_| {})?,
                Event::Read(_) | Event::Write(_) => {}
                other => panic!("{other:?} instead of an access"),
            }
        }
    }
    Ok(())
}

/// Serves a vCPU by its eventfd alone, as somebody else's event loop would.
fn drive(vcpu: &mut Vcpu, fd: &EventFd) -> Result<u32, Error> {
    let mut sum = Sum::of(vcpu.id());
    let mut sleeps = 0;
    loop {
        while let Some(event) = vcpu.try_wait()? {
            if sum.serve(event)? {
                return Ok(sleeps);
            }
        }
        if vcpu.arm()? {
            fd.wait()?;
            sleeps += 1;
        }
    }
}

fn a_vcpu_driven_by_its_eventfd() -> Tested {
    let mut vm = started()?;
    let mut vcpu = vm.vcpu(0)?;
    assert_eq!(vcpu.arm().unwrap_err().errno(), libc::EBADF, "there is no eventfd yet");
    let fd = vcpu.event_fd(&mut vm)?;
    assert!(drive(&mut vcpu, &fd)? > 0, "the guest is never done before the plugin looks for it again");
    Ok(())
}

fn eventfds_and_waits_mix() -> Tested {
    let mut vm = started()?;
    let mut driven = vm.vcpu(0)?;
    let fd = driven.event_fd(&mut vm)?;
    let mut waited = vm.vcpu(1)?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sum = Sum::of(1);
            while !sum.serve(waited.wait().expect("an event")).expect("it is served") {}
        });
        drive(&mut driven, &fd).map(drop)
    })?;
    // Both at once, one of them with an eventfd that is not armed now.
    let mut vcpus = [driven, waited];
    let mut served = [0; 2];
    let mut first = 0;
    while served.iter().any(|count| *count < 20) {
        let at = wait_any(&mut vcpus, first)?;
        drop(vcpus[at].try_wait()?.expect("wait_any names a vCPU that has something"));
        served[at] += 1;
        first = 1 - at;
    }
    Ok(())
}

real_mode!(writes_when_told:
    "2: in al, 0x10",
    "out 0x11, al",
    "jmp 2b",
);

fn arming_with_something_there_says_so() -> Tested {
    let (mut vm, _memory) = connect(writes_when_told())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    let mut vcpu = vm.vcpu(0)?;
    let fd = vcpu.event_fd(&mut vm)?;
    assert!(vcpu.arm()?, "nothing can be there before the start");
    assert_eq!(fd.drain()?, 0);
    vm.start()?;
    fd.wait()?;
    assert!(!vcpu.arm()?, "INIT is there");
    match vcpu.try_wait()? {
        Some(Event::Init(mut init)) => enter(&mut init, |_| {})?,
        other => panic!("{other:?} instead of INIT"),
    }
    while vcpu.arm()? {
        fd.wait()?;
    }
    match vcpu.try_wait()? {
        Some(Event::Read(read)) => assert_eq!(read.address(), 0x10),
        other => panic!("{other:?} instead of a read"),
    }
    Ok(())
}

fn eventfds_past_the_last_vcpu_do_not_exist() -> Tested {
    use outboard_wire::control::VcpuEventFd;
    let mut vm = outboard_plugin::connect()?;
    for vcpu in [2, 1024, u32::MAX] {
        let asked: Result<_, Error> = vm.call(&VcpuEventFd { vcpu }, &[]);
        refused(asked.map(drop), libc::ENOENT);
    }
    Ok(())
}
