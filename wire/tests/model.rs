//! The ends of a vCPU's exchange under a model checker: every order in which two threads can take their steps, and every
//! value that the memory model lets a load see.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p outboard-wire --release --test model`, in a target directory of its own
//! (`CARGO_TARGET_DIR=target/loom`) so that nothing else is built anew. A thread that nobody wakes is a deadlock, which
//! fails the test. Schedules with at most two preemptions are tried, or as many as `LOOM_MAX_PREEMPTIONS` says.

#![cfg(loom)]

use std::sync::{Arc as StdArc, OnceLock};

use loom::model::Builder;
use loom::sync::Arc;
use loom::thread;
use outboard_wire::block::{ToPlugin, ToVmm};
use outboard_wire::error::Violation;
use outboard_wire::line::{Answer, Event, answer_kind, event_kind};
use outboard_wire::model::{futex, page::BlockRef};
use outboard_wire::plugin_end::{self, Incoming, PluginEnd};
use outboard_wire::posted::PostedWrite;
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::sync::{AtomicU32, Ordering};
use outboard_wire::vmm_end::{Ended, VmmEnd};

/// A clock of one tick a nanosecond.
const KHZ: u64 = 1_000_000;

/// Never spins.
const SLEEP: SpinMode = SpinMode::Off;
/// Looks a few times before it sleeps.
const LOOK: SpinMode = SpinMode::For(2);

fn check(body: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.check(body);
}

fn ends(vmm: SpinMode, plugin: SpinMode) -> (VmmEnd, PluginEnd) {
    let (down, up) = (BlockRef::<ToPlugin>::fresh(), BlockRef::<ToVmm>::fresh());
    let limit = || StdArc::new(SpinLimit::unlimited());
    let eventfd = StdArc::new(OnceLock::new());
    let vmm_end = VmmEnd::new(down.clone(), up.clone(), Spinner::new(vmm, KHZ), limit(), eventfd);
    (vmm_end, PluginEnd::new(down, up, Spinner::new(plugin, KHZ), limit()))
}

fn read(data: u64) -> Event {
    Event { kind: event_kind::READ, length: 8, data, ..Event::default() }
}

fn post(end: &mut VmmEnd, data: u64) -> Result<(), Ended> {
    let write = PostedWrite { mmio: false, length: 1, address: 0x10, data, tsc: 0, cpu: 0 };
    end.post(&write, 0, &AtomicU32::new(0))
}

/// Answers every event with its data and one until the VM ends; returns the data of the posted writes.
fn serve(end: &mut PluginEnd) -> Vec<u64> {
    let mut posted = Vec::new();
    loop {
        match end.wait().expect("the VMM keeps to the protocol") {
            Incoming::Posted(write) => posted.push(write.data),
            Incoming::Event(event) if event.kind == event_kind::SHUTDOWN => return posted,
            Incoming::Event(event) => {
                let answer = Answer { kind: answer_kind::RESUME, length: 8, data: event.data + 1, ..Answer::default() };
                end.answer(&answer);
            }
        }
    }
}

fn exchanges(vmm: SpinMode, plugin: SpinMode, rounds: u64) {
    check(move || {
        let (mut vmm_end, mut plugin_end) = ends(vmm, plugin);
        let plugin = thread::spawn(move || serve(&mut plugin_end));
        let stop = AtomicU32::new(0);
        for round in 0..rounds {
            vmm_end.publish(&read(10 * round));
            let answer = vmm_end.wait_answer(0, &stop).expect("nobody stops it");
            assert_eq!(answer.data, 10 * round + 1);
        }
        vmm_end.close();
        assert_eq!(plugin.join().unwrap(), [] as [u64; 0]);
    });
}

#[test]
fn both_sleep_and_none_is_left_asleep() {
    exchanges(SLEEP, SLEEP, 1);
}

#[test]
fn the_vmm_looks_and_the_plugin_sleeps() {
    exchanges(LOOK, SLEEP, 1);
}

#[test]
fn the_plugin_looks_and_the_vmm_sleeps() {
    exchanges(SLEEP, LOOK, 1);
}

#[test]
fn both_look_before_they_sleep() {
    exchanges(LOOK, LOOK, 1);
}

#[test]
fn a_wake_of_one_sleep_is_not_taken_for_one_of_the_next() {
    exchanges(SLEEP, SLEEP, 2);
}

#[test]
fn posted_writes_arrive_in_order_and_before_the_event_behind_them() {
    for mode in [SLEEP, LOOK] {
        check(move || {
            let (mut vmm_end, mut plugin_end) = ends(SLEEP, mode);
            let plugin = thread::spawn(move || {
                let mut seen = Vec::new();
                loop {
                    match plugin_end.wait().expect("the VMM keeps to the protocol") {
                        Incoming::Posted(write) => seen.push(write.data),
                        Incoming::Event(event) => {
                            seen.push(event.data);
                            plugin_end.answer(&Answer { kind: answer_kind::RESUME, ..Answer::default() });
                            return seen;
                        }
                    }
                }
            });
            post(&mut vmm_end, 1).unwrap();
            post(&mut vmm_end, 2).unwrap();
            vmm_end.publish(&read(3));
            vmm_end.wait_answer(0, &AtomicU32::new(0)).expect("nobody stops it");
            assert_eq!(plugin.join().unwrap(), [1, 2, 3]);
        });
    }
}

#[test]
fn a_posted_write_wakes_a_plugin_that_is_going_to_sleep() {
    for mode in [SLEEP, LOOK] {
        check(move || {
            let (mut vmm_end, mut plugin_end) = ends(SLEEP, mode);
            let plugin = thread::spawn(move || plugin_end.wait());
            // The guest runs on after this and may never leave again: nothing else wakes the plugin.
            post(&mut vmm_end, 7).unwrap();
            match plugin.join().unwrap() {
                Ok(Incoming::Posted(write)) => assert_eq!(write.data, 7),
                other => panic!("{other:?}"),
            }
        });
    }
}

#[test]
fn a_full_ring_holds_the_vcpu_until_there_is_room() {
    check(|| {
        let (mut vmm_end, mut plugin_end) = ends(SLEEP, SLEEP);
        let plugin = thread::spawn(move || serve(&mut plugin_end));
        let slots = outboard_wire::limits::POSTED_SLOTS as u64;
        for data in 0..=slots {
            post(&mut vmm_end, data).unwrap();
        }
        vmm_end.close();
        assert_eq!(plugin.join().unwrap(), (0..=slots).collect::<Vec<_>>());
    });
}

#[test]
fn the_end_of_the_vm_is_heard_whatever_came_before() {
    for posted in [0, 1] {
        check(move || {
            let (mut vmm_end, mut plugin_end) = ends(SLEEP, LOOK);
            let plugin = thread::spawn(move || serve(&mut plugin_end));
            (0..posted).for_each(|data| post(&mut vmm_end, data).unwrap());
            drop(vmm_end);
            assert_eq!(plugin.join().unwrap().len() as u64, posted);
        });
    }
}

#[test]
fn the_end_of_the_vm_may_come_while_an_event_is_read() {
    check(|| {
        let (mut vmm_end, mut plugin_end) = ends(SLEEP, SLEEP);
        let plugin = thread::spawn(move || plugin_end.wait());
        vmm_end.publish(&read(0x55));
        vmm_end.close();
        match plugin.join().unwrap() {
            Ok(Incoming::Event(event)) if event.kind == event_kind::SHUTDOWN => {}
            Ok(Incoming::Event(event)) => assert_eq!((event.kind, event.data), (event_kind::READ, 0x55)),
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn a_stop_ends_every_wait_for_the_plugin() {
    for mode in [SLEEP, LOOK] {
        check(move || {
            let (mut vmm_end, _silent) = ends(mode, SLEEP);
            let (stop, ended) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
            let (word, done) = (Arc::clone(&stop), Arc::clone(&ended));
            let vcpu = thread::spawn(move || {
                vmm_end.publish(&read(0));
                let result = vmm_end.wait_answer(0, &word);
                done.store(1, Ordering::Release);
                result
            });
            stop.store(1, Ordering::Release);
            // As the VMM does it: a signal that comes between the look and the sleep is lost, so it is repeated.
            while ended.load(Ordering::Acquire) == 0 {
                futex::interrupt();
                thread::yield_now();
            }
            assert_eq!(vcpu.join().unwrap(), Err(Ended::Stopped));
        });
    }
}

#[test]
fn an_answer_to_another_event_is_a_violation() {
    check(|| {
        let (down, up) = (BlockRef::fresh(), BlockRef::<ToVmm>::fresh());
        let limit = StdArc::new(SpinLimit::unlimited());
        let eventfd = StdArc::new(OnceLock::new());
        let mut vmm_end = VmmEnd::new(down, up.clone(), Spinner::new(LOOK, KHZ), limit, eventfd);
        let liar = thread::spawn(move || {
            up.answer.publish(7, &Answer::default());
            up.answer.doorbell.store(1, Ordering::Release);
            futex::wake(&up.answer.doorbell);
        });
        vmm_end.publish(&read(0));
        let result = vmm_end.wait_answer(0, &AtomicU32::new(0));
        assert_eq!(result, Err(Ended::Violation(Violation::Sequence { expected: 1, got: 7 })));
        liar.join().unwrap();
    });
}

#[test]
fn one_thread_waits_for_two_vcpus() {
    check(|| {
        let (mut first_vmm, first) = ends(SLEEP, SLEEP);
        let (mut second_vmm, second) = ends(SLEEP, SLEEP);
        let plugin = thread::spawn(move || {
            let (mut first, mut second) = (first, second);
            let mut heard = [false; 2];
            while heard != [true; 2] {
                let index = plugin_end::wait_any(&mut [&mut first, &mut second]).expect("two are not too many");
                let end = [&mut first, &mut second].into_iter().nth(index).unwrap();
                match end.try_next().expect("the VMM keeps to the protocol") {
                    Some(Incoming::Posted(_)) => heard[index] = true,
                    other => panic!("{other:?}"),
                }
            }
        });
        post(&mut first_vmm, 1).unwrap();
        post(&mut second_vmm, 2).unwrap();
        plugin.join().unwrap();
    });
}
