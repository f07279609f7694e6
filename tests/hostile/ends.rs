//! Plugins that end, or do not, at the wrong moment.

use std::io::{BufRead, stdin};
use std::process::{Command, Stdio};

use outboard_plugin::{Event, Space};

use crate::around::{ends, run, start, start_program, verdict};
use crate::common::cage::Cage;
use crate::common::guest::real_mode;
use crate::common::machine::{begin, connect};
use crate::common::program::{is_alive, signal};
use crate::common::suite::{Case, Tested, case};
use crate::raw::{Raw, wait_for_death};
use crate::sys;

pub const CASES: &[Case] = &[
    ends!(exits_at_once, 0),
    ends!(exits_at_once_with_three, 3, "the plugin ended with status 3"),
    ends!(exits_at_once_with_255, 255, "the plugin ended with status 255"),
    ends!(exits_after_hello_with_five, 5, "the plugin ended with status 5"),
    case!(aborts_before_hello).around(dies_of_abort),
    case!(aborts_before_start).around(dies_of_abort),
    ends!(segfaults_with_a_vcpu_in_the_guest, 1, "the plugin was ended by signal 11"),
    ends!(is_terminated_with_an_exit_unanswered, 1, "the plugin was ended by signal 15").only(&[Cage::Uncaged]),
    ends!(exits_with_an_exit_unanswered, 9, "the plugin ended with status 9"),
    case!(never_connects).around(an_interrupt_gives_it_its_second),
    case!(never_connects_and_is_interrupted_twice).around(a_second_interrupt_kills_at_once),
    case!(is_stopped).around(stopped_and_terminated),
    case!(never_answers_an_exit).around(terminated_and_does_not_end),
    case!(closes_its_output_and_never_ends).around(terminated_and_does_not_end),
    case!(ends_when_it_is_told).around(every_signal_ends_it_in_order),
    case!(ends_with_four_when_it_is_told).around(a_signal_and_a_status),
    case!(leaves_a_child).around(a_child_of_the_plugin_is_not_ours).only(&[Cage::Uncaged]),
];

real_mode!(asks_for_ever:
    "2: in ax, 0x10",
    "jmp 2b",
);

fn exits_at_once() -> Tested {
    Ok(())
}

fn exits_at_once_with_three() -> Tested {
    std::process::exit(3)
}

fn exits_at_once_with_255() -> Tested {
    std::process::exit(255)
}

fn exits_after_hello_with_five() -> Tested {
    let _greeted = Raw::greeted();
    std::process::exit(5)
}

fn aborts_before_hello() -> Tested {
    std::process::abort()
}

fn aborts_before_start() -> Tested {
    let _machine = connect(asks_for_ever())?;
    std::process::abort()
}

/// Process 1 of a pid namespace does not die of its own SIGABRT; abort(3) goes on to an instruction that kills it.
fn dies_of_abort(case: &Case) -> Tested {
    let sentence =
        if case.cage.is_caged() { "the plugin was ended by signal 11" } else { "the plugin was ended by signal 6" };
    verdict(&run(case), 1, &[sentence]);
    Ok(())
}

fn segfaults_with_a_vcpu_in_the_guest() -> Tested {
    let (mut vm, _memory) = connect(asks_for_ever())?;
    vm.start()?;
    begin(&vm, 0)?;
    sys::segfault()
}

/// Starts a guest, waits for its first read, and leaves that unanswered.
fn with_an_exit_unanswered(what: impl FnOnce()) -> Tested {
    let (mut vm, _memory) = connect(asks_for_ever())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    let event = vcpu.wait()?;
    assert!(matches!(event, Event::Read(_)), "{event:?} instead of a read");
    what();
    drop(event);
    Ok(())
}

fn is_terminated_with_an_exit_unanswered() -> Tested {
    with_an_exit_unanswered(|| sys::die_of(libc::SIGTERM))
}

fn exits_with_an_exit_unanswered() -> Tested {
    with_an_exit_unanswered(|| std::process::exit(9))
}

fn never_answers_an_exit() -> Tested {
    with_an_exit_unanswered(|| {
        println!("ready");
        wait_for_death()
    })
}

fn never_connects() -> Tested {
    println!("ready");
    wait_for_death()
}

fn never_connects_and_is_interrupted_twice() -> Tested {
    never_connects()
}

fn is_stopped() -> Tested {
    let (mut vm, _memory) = connect(asks_for_ever())?;
    vm.start()?;
    begin(&vm, 0)?;
    println!("ready");
    wait_for_death()
}

fn stopped_and_terminated(case: &Case) -> Tested {
    let mut marked = start(case);
    marked.running.says("ready");
    signal(marked.running.plugin(), "STOP");
    marked.running.signal("TERM");
    verdict(&marked.ended(), 143, &["ended by SIGTERM; the plugin did not end within a second"]);
    Ok(())
}

fn closes_its_output_and_never_ends() -> Tested {
    println!("ready");
    sys::close_output();
    wait_for_death()
}

fn an_interrupt_gives_it_its_second(case: &Case) -> Tested {
    let mut marked = start(case);
    marked.running.says("ready");
    marked.running.signal("INT");
    let parts = ["ended by SIGINT; the plugin did not end within a second of the shutdown event and was killed"];
    verdict(&marked.ended(), 130, &parts);
    Ok(())
}

fn a_second_interrupt_kills_at_once(case: &Case) -> Tested {
    let mut marked = start_program(case.program().args(["-vv"]));
    marked.running.says("ready");
    marked.running.signal("INT");
    marked.running.complains("outboard: debug: Starting: Signal(2)");
    marked.running.signal("INT");
    // Not for its second: then the sentence would say so.
    marked.ended().expect(130).complained(&["ended by SIGINT; the plugin was ended by signal 9\n"]);
    Ok(())
}

fn terminated_and_does_not_end(case: &Case) -> Tested {
    let mut marked = start(case);
    marked.running.says("ready");
    marked.running.signal("TERM");
    verdict(&marked.ended(), 143, &["ended by SIGTERM; the plugin did not end within a second"]);
    Ok(())
}

/// Runs a guest until the VMM says that it is over.
fn serve_until_told() -> Tested {
    let (mut vm, _memory) = connect(asks_for_ever())?;
    vm.reserve(Space::Port, 0x10..0x11)?;
    vm.start()?;
    let mut vcpu = begin(&vm, 0)?;
    for round in 0.. {
        match vcpu.wait()? {
            Event::Read(read) => read.answer_u64(round),
            Event::Shutdown => return Ok(()),
            other => panic!("{other:?}"),
        }
        if round == 100 {
            println!("ready");
        }
    }
    Ok(())
}

fn ends_when_it_is_told() -> Tested {
    serve_until_told()
}

fn every_signal_ends_it_in_order(case: &Case) -> Tested {
    for name in ["INT", "TERM", "HUP"] {
        let mut marked = start(case);
        marked.running.says("ready");
        marked.running.signal(name);
        verdict(&marked.ended(), 0, &[]);
    }
    Ok(())
}

fn ends_with_four_when_it_is_told() -> Tested {
    serve_until_told()?;
    std::process::exit(4)
}

fn a_signal_and_a_status(case: &Case) -> Tested {
    for (name, status, sentence) in [
        ("INT", 130, "ended by SIGINT; the plugin ended with status 4"),
        ("TERM", 143, "ended by SIGTERM; the plugin ended with status 4"),
        ("HUP", 129, "ended by SIGHUP; the plugin ended with status 4"),
    ] {
        let mut marked = start(case);
        marked.running.says("ready");
        marked.running.signal(name);
        verdict(&marked.ended(), status, &[sentence]);
    }
    Ok(())
}

fn leaves_a_child() -> Tested {
    let silent = || Stdio::null();
    let child = Command::new("sleep").arg("1000").stdin(silent()).stdout(silent()).stderr(silent()).spawn()?;
    println!("child {}", child.id());
    stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// Without a jail nothing ties a child of the plugin to the run: the VMM neither waits for it nor ends it.
fn a_child_of_the_plugin_is_not_ours(case: &Case) -> Tested {
    let mut running = start(case).running;
    let child: i32 = running.says("child ").parse()?;
    running.tell("end");
    verdict(&running.ended(), 0, &[]);
    assert!(is_alive(child), "the VMM ended a process that it did not start");
    signal(child, "KILL");
    Ok(())
}
