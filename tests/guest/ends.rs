//! How a run ends, and what its exit status and its sentence say.

use std::time::{Duration, Instant};

use outboard_plugin::{Connection, Error, Event, Space, Vcpu, wait_any};
use outboard_wire::control::DestroyMemory;

use crate::common::guest::{long_mode, real_mode};
use crate::common::machine::{begin, connect, enter, enter_long_mode};
use crate::common::program::{Done, Running};
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(shutdown_wakes_every_kind_of_wait).options(&["--cpus", "6"]).around(sigterm_ends_it_well),
    case!(shutdown_ends_a_stop).around(sigterm_ends_it_well),
    case!(shutdown_meets_a_busy_guest).options(&["--cpus", "2"]).around(sigterm_ends_it_well),
    case!(shutdown_before_the_start).around(sigterm_ends_it_well),
    case!(a_triple_fault_ends_well_if_the_plugin_does).options(&["-v"]).around(says_triple_fault),
    case!(a_triple_fault_leaves_the_plugins_status).around(ends_with_42),
    case!(memory_taken_from_a_running_guest),
    case!(an_exit_that_nobody_serves).options(&["--cpus", "2"]).around(names_the_exit),
    case!(the_plugins_status_before_it_connects).around(ends_with_42),
    case!(the_plugins_status_before_the_start).around(ends_with_42),
    case!(the_plugins_status_while_the_guest_runs).around(ends_with_42),
    case!(a_plugin_that_aborts).around(dies_of_a_signal),
    case!(a_plugin_that_fails_after_sigterm).around(sigterm_and_failure),
    case!(a_plugin_that_outstays_a_triple_fault).around(is_killed_after_a_second),
    case!(a_plugin_that_outstays_sigterm).around(is_killed_after_a_second_of_sigterm),
];

real_mode!(idles: "2: hlt", "jmp 2b");
real_mode!(is_busy: "2: out 0x80, al", "jmp 2b");

/// Tells the other half that the plugin is where it shall be.
fn ready() {
    println!("ready");
}

fn expect_shutdown(event: Event<'_>) -> Tested {
    match event {
        Event::Shutdown => Ok(()),
        other => panic!("{other:?} instead of the end"),
    }
}

fn shutdown_wakes_every_kind_of_wait() -> Tested {
    let (mut vm, _memory) = connect(idles())?;
    vm.start()?;
    let mut vcpus = (0..5).map(|id| begin(&vm, id)).collect::<Result<Vec<_>, _>>()?;
    let mut never_resumed = vm.vcpu(5)?;
    let shutdown = vm.shutdown_event()?;
    let mut by_eventfd = vcpus.pop().expect("a vCPU");
    let fd = by_eventfd.event_fd(&mut vm)?;
    assert!(by_eventfd.arm()?);
    let mut alone = vcpus.pop().expect("a vCPU");
    std::thread::scope(|scope| {
        scope.spawn(move || expect_shutdown(alone.wait().expect("an event")).expect("the end"));
        scope.spawn(|| {
            let all = &mut vcpus[..];
            for _ in 0..3 {
                let at = wait_any(all, 0).expect("a vCPU has something");
                expect_shutdown(all[at].try_wait().expect("no error").expect("something")).expect("the end");
            }
        });
        scope.spawn(|| shutdown.wait().expect("the shutdown event fires"));
        ready();
    });
    fd.wait()?;
    expect_shutdown(by_eventfd.wait()?)?;
    drop(never_resumed.wait()?);
    expect_shutdown(never_resumed.wait()?)
}

fn sigterm_ends_it_well(case: &Case) -> Tested {
    let (running, plugin) = started(case);
    running.signal("TERM");
    running.ended().expect(0);
    gone(plugin);
    Ok(())
}

/// The program, with the plugin where it shall be; and the plugin's process number.
fn started(case: &Case) -> (Running, i32) {
    let mut running = case.program().start();
    running.says("ready");
    let plugin = running.plugin();
    (running, plugin)
}

fn gone(plugin: i32) {
    assert!(!std::path::Path::new(&format!("/proc/{plugin}")).exists(), "the plugin was left behind");
}

fn shutdown_ends_a_stop() -> Tested {
    let (mut vm, _memory) = connect(idles())?;
    vm.start()?;
    let shutdown = vm.shutdown_event()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    ready();
    shutdown.wait()?;
    assert!(matches!(init.fpu(), Err(Error::Shutdown)), "a vCPU that has ended has no registers");
    drop(init);
    expect_shutdown(vcpu.wait()?)?;
    // It stays that way.
    expect_shutdown(vcpu.wait()?)
}

fn shutdown_meets_a_busy_guest() -> Tested {
    let (mut vm, _memory) = connect(is_busy())?;
    vm.reserve_posted(Space::Port, 0x80..0x81)?;
    vm.start()?;
    let mut not_read = begin(&vm, 0)?;
    let mut vcpu = begin(&vm, 1)?;
    ready();
    loop {
        match vcpu.wait()? {
            Event::Posted(_) => {}
            other => break expect_shutdown(other)?,
        }
    }
    // The other one waits for room in its ring, and what it posted before comes first.
    loop {
        match not_read.wait()? {
            Event::Posted(_) => {}
            other => return expect_shutdown(other),
        }
    }
}

fn shutdown_before_the_start() -> Tested {
    let (mut vm, _memory) = connect(idles())?;
    let shutdown = vm.shutdown_event()?;
    let mut vcpu = vm.vcpu(0)?;
    ready();
    shutdown.wait()?;
    expect_shutdown(vcpu.wait()?)
}

long_mode!(touches_nothing_mapped:
    "mov rax, [rbx]", // a page fault without an interrupt table is a triple fault
    "hlt",
);

/// A guest that has ended in a triple fault, and what the plugin saw of it.
fn triple_fault() -> Result<(Connection, Vcpu), Box<dyn std::error::Error>> {
    let (mut vm, memory) = connect(touches_nothing_mapped())?;
    vm.start()?;
    let mut vcpu = vm.vcpu(0)?;
    let Event::Init(mut init) = vcpu.wait()? else { panic!("the first event is INIT") };
    enter_long_mode(&mut init, &memory, |regs| regs.rbx = 1 << 40)?;
    let mut sregs = init.sregs()?;
    sregs.idt.limit = 0;
    init.set_sregs(&sregs)?;
    drop(init);
    expect_shutdown(vcpu.wait()?)?;
    Ok((vm, vcpu))
}

/// A plugin that tidies up before it ends, while its guest still runs: what the guest meets then does not change the status.
fn memory_taken_from_a_running_guest() -> Tested {
    let (mut vm, _memory) = connect(is_busy())?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    vm.call(&DestroyMemory { id: 0 }, &[])?;
    expect_shutdown(vcpu.wait()?)
}

fn a_triple_fault_ends_well_if_the_plugin_does() -> Tested {
    triple_fault().map(drop)
}

fn says_triple_fault(case: &Case) -> Tested {
    for _ in 0..20 {
        // The plugin exits as soon as it learns of the end, on one CPU before the vCPU's thread goes on.
        let done = case.program().start_on_one_cpu().ended();
        done.expect(0).complained(&["outboard: the guest shut down (vCPU 0 left the guest with", "triple fault"]);
    }
    Ok(())
}

fn a_triple_fault_leaves_the_plugins_status() -> Tested {
    triple_fault()?;
    std::process::exit(42)
}

fn ends_with_42(case: &Case) -> Tested {
    case.program().start().ended().expect(42);
    Ok(())
}

fn an_exit_that_nobody_serves() -> Tested {
    let (mut vm, _memory) = connect(idles())?;
    vm.start()?;
    let mut idle = begin(&vm, 0)?;
    let mut vcpu = vm.vcpu(1)?;
    match vcpu.wait()? {
        // There is no memory to fetch an instruction from.
        Event::Init(mut init) => {
            enter(&mut init, |_| {})?;
            init.start_real_mode(0xf000, 0x1234)?;
        }
        other => panic!("the first event is {other:?}"),
    }
    expect_shutdown(vcpu.wait()?)?;
    expect_shutdown(idle.wait()?)
}

fn names_the_exit(case: &Case) -> Tested {
    for _ in 0..20 {
        let done = case.program().start_on_one_cpu().ended();
        done.expect(74).complained(&[
            "the guest ended in an exit that nobody serves: vCPU 1 left the guest with KVM_EXIT_INTERNAL_ERROR, suberror 1",
            "at address 0x1234\n",
        ]);
    }
    Ok(())
}

fn the_plugins_status_before_it_connects() -> Tested {
    std::process::exit(42)
}

fn the_plugins_status_before_the_start() -> Tested {
    let _vm = connect(idles())?;
    std::process::exit(42)
}

fn the_plugins_status_while_the_guest_runs() -> Tested {
    let (mut vm, _memory) = connect(is_busy())?;
    vm.start()?;
    let _vcpu = begin(&vm, 0)?;
    std::process::exit(42)
}

fn a_plugin_that_aborts() -> Tested {
    let (mut vm, _memory) = connect(is_busy())?;
    vm.start()?;
    let _vcpu = begin(&vm, 0)?;
    std::process::abort()
}

fn dies_of_a_signal(case: &Case) -> Tested {
    // Process 1 of a pid namespace does not die of its own SIGABRT; abort(3) goes on to an instruction that kills it.
    let signal =
        if case.cage.is_caged() { "the plugin was ended by signal 11" } else { "the plugin was ended by signal 6" };
    case.program().start().ended().expect(1).complained(&[signal]);
    Ok(())
}

fn a_plugin_that_fails_after_sigterm() -> Tested {
    let (mut vm, _memory) = connect(idles())?;
    let shutdown = vm.shutdown_event()?;
    ready();
    shutdown.wait()?;
    std::process::exit(42)
}

fn sigterm_and_failure(case: &Case) -> Tested {
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let (running, plugin) = started(case);
        running.signal(signal);
        running.ended().expect(status).complained(&["ended with status 42"]);
        gone(plugin);
    }
    Ok(())
}

fn a_plugin_that_outstays_a_triple_fault() -> Tested {
    let _held = triple_fault()?;
    ready();
    loop {
        std::thread::park();
    }
}

fn is_killed_after_a_second(case: &Case) -> Tested {
    let (running, plugin) = started(case);
    outstayed(running.ended().expect(1));
    gone(plugin);
    Ok(())
}

fn outstayed(done: &Done) {
    done.complained(&["did not end within a second of the shutdown event and was killed"]);
}

fn a_plugin_that_outstays_sigterm() -> Tested {
    let _vm = connect(idles())?;
    ready();
    loop {
        std::thread::park();
    }
}

fn is_killed_after_a_second_of_sigterm(case: &Case) -> Tested {
    let (running, plugin) = started(case);
    let signalled = Instant::now();
    running.signal("TERM");
    outstayed(running.ended().expect(143));
    assert!(signalled.elapsed() >= Duration::from_secs(1), "the plugin has a second");
    gone(plugin);
    Ok(())
}
