//! How the program runs: spin policies, CPUs, threads, and that it costs nothing while nothing happens.

use std::fs;
use std::time::Duration;

use outboard::sys::affinity;
use outboard_plugin::{Event, Space, Vcpu, wait_any};

use crate::common::guest::real_mode;
use crate::common::machine::{begin, begin_with, connect, next_pause, next_posted, next_read, written};
use crate::common::program::Running;
use crate::common::suite::{Case, Tested, case};

pub const CASES: &[Case] = &[
    case!(every_spin_policy_runs_the_same_guest).around(with_every_spin_policy),
    case!(one_cpu_is_enough).options(&["--cpus", "2"]).around(on_one_cpu),
    case!(vcpu_threads_have_names_and_cpus).options(&["--cpus", "3"]).around(looks_at_the_threads),
    case!(idle_costs_no_cpu_time).options(&["--cpus", "6", "--spin", "auto"]).around(uses_no_cpu_time),
];

real_mode!(a_little_of_everything:
    "2: in eax, 0x10",
    "out 0x50, eax",
    "inc eax",
    "out 0x11, eax",
    "jmp 2b",
);

fn serve_a_little_of_everything(cpus: u32, rounds: u64) -> Tested {
    let (mut vm, _memory) = connect(a_little_of_everything())?;
    vm.reserve(Space::Port, 0x10..0x12)?;
    vm.reserve_posted(Space::Port, 0x50..0x51)?;
    vm.start()?;
    std::thread::scope(|scope| {
        for id in 0..cpus {
            let vm = &vm;
            scope.spawn(move || {
                let mut vcpu = begin_with(vm, id, |_| {}).expect("the vCPU begins");
                for round in 0..rounds {
                    next_read(&mut vcpu).expect("a read").answer_u64(round * 3);
                    assert_eq!(next_posted(&mut vcpu).expect("a posted write").data, round * 3);
                    assert_eq!(written(&mut vcpu, 0x11).expect("a write"), round * 3 + 1);
                }
            });
        }
    });
    Ok(())
}

fn every_spin_policy_runs_the_same_guest() -> Tested {
    serve_a_little_of_everything(1, 200)
}

fn with_every_spin_policy(case: &Case) -> Tested {
    // Policies, and whether the VMM may spin and sleep while it waits for the plugin.
    for (policy, spins, sleeps) in [
        ("auto", true, true),
        ("off", false, true),
        ("always", true, false),
        ("0", false, true),
        ("2000", true, true),
        ("60000000000", true, false), // longer than the run may take
    ] {
        let mut program = case.program();
        program.args(["--json", "--spin", policy]);
        let done = program.start().ended();
        let report: serde_json::Value = serde_json::from_str(&done.expect(0).stdout)?;
        let waits = |how: &str| report["waits"][how].as_u64().expect("a count");
        assert!(waits("spun") + waits("slept") > 200, "--spin {policy}: {report}");
        assert!(spins || waits("spun") == 0, "--spin {policy}: {report}");
        assert!(sleeps || waits("slept") == 0, "--spin {policy}: {report}");
    }
    Ok(())
}

fn one_cpu_is_enough() -> Tested {
    serve_a_little_of_everything(2, 20)
}

fn on_one_cpu(case: &Case) -> Tested {
    for policy in ["auto", "off", "always", "2000"] {
        let mut program = case.program();
        program.args(["--spin", policy]);
        program.start_on_one_cpu().ended().expect(0);
    }
    Ok(())
}

real_mode!(sleeps_for_ever: "2: hlt", "jmp 2b");

fn vcpu_threads_have_names_and_cpus() -> Tested {
    let (mut vm, _memory) = connect(sleeps_for_ever())?;
    vm.start()?;
    let vcpus = (0..3).map(|id| begin(&vm, id)).collect::<Result<Vec<_>, _>>()?;
    ready();
    wait_for_the_end(vcpus)
}

fn ready() {
    println!("ready");
}

/// Waits for the shutdown of one vCPU after the other.
fn wait_for_the_end(vcpus: Vec<Vcpu>) -> Tested {
    for mut vcpu in vcpus {
        match vcpu.wait()? {
            Event::Shutdown => {}
            other => panic!("{other:?} instead of the end"),
        }
    }
    Ok(())
}

fn looks_at_the_threads(case: &Case) -> Tested {
    let cpu = affinity::allowed()?.pop().expect("a CPU").to_string();
    let mut program = case.program();
    program.args(["--cpu-affinity", &format!("0={cpu}:2={cpu}")]);
    let mut running = program.start();
    running.says("ready");
    let everywhere = cpus_of(&format!("/proc/{}/status", running.pid()));
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", running.pid()))? {
        let task = task?.path().display().to_string();
        let name = fs::read_to_string(format!("{task}/comm"))?.trim().to_owned();
        if name.starts_with("vcpu") {
            threads.push((name, cpus_of(&format!("{task}/status"))));
        }
    }
    threads.sort();
    let expected = [("vcpu0", &cpu), ("vcpu1", &everywhere), ("vcpu2", &cpu)];
    assert_eq!(threads, expected.map(|(name, cpus)| (name.to_owned(), cpus.clone())));
    running.signal("TERM");
    running.ended().expect(0);
    Ok(())
}

/// The CPUs in a `status` file of /proc.
fn cpus_of(status: &str) -> String {
    let text = fs::read_to_string(status).expect("a status file");
    let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("a line of CPUs").trim().to_owned()
}

fn idle_costs_no_cpu_time() -> Tested {
    let (mut vm, _memory) = connect(sleeps_for_ever())?;
    vm.start()?;
    let mut vcpus = (0..6).map(|id| begin(&vm, id)).collect::<Result<Vec<_>, _>>()?;
    // Quick answers teach both sides to spin before the silence begins.
    for cookie in 0..200 {
        vm.pause_vcpus([0], cookie)?;
        next_pause(&mut vcpus[0])?;
    }
    let shutdown = vm.shutdown_event()?;
    let mut by_eventfd = vcpus.pop().expect("a vCPU");
    let fd = by_eventfd.event_fd(&mut vm)?;
    assert!(by_eventfd.arm()?);
    let mut several = vcpus.split_off(3);
    std::thread::scope(|scope| {
        for mut vcpu in vcpus {
            scope.spawn(move || vcpu.wait().map(drop).expect("the end"));
        }
        scope.spawn(|| wait_any(&mut several, 0).expect("the end"));
        scope.spawn(|| fd.wait().expect("the end"));
        scope.spawn(|| shutdown.wait().expect("the end"));
        ready();
    });
    Ok(())
}

fn uses_no_cpu_time(case: &Case) -> Tested {
    let mut running = case.program().start();
    running.says("ready");
    let plugin = running.plugin();
    let used = |running: &Running| cpu_ticks(running.pid()) + cpu_ticks(plugin);
    // It has settled once it used nothing for a while; a run that never settles never passes.
    let mut before = used(&running);
    for tries in 0.. {
        std::thread::sleep(Duration::from_millis(100));
        let now = used(&running);
        if now == before {
            break;
        }
        assert!(tries < 100, "VMM and plugin do not come to rest");
        before = now;
    }
    std::thread::sleep(Duration::from_secs(1));
    let ticks = used(&running) - before;
    assert!(ticks <= 2, "VMM and plugin used {ticks} ticks of CPU time in a second in which nothing happened");
    running.signal("TERM");
    running.ended().expect(0);
    Ok(())
}

/// User and system time of a process, in ticks.
fn cpu_ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, rest) = stat.rsplit_once(") ").expect("the end of its name");
    let mut fields = rest.split(' ').skip(11).map(|field| field.parse::<u64>().expect("a number"));
    fields.next().expect("utime") + fields.next().expect("stime")
}
