//! The two ends of a vCPU's exchange against each other, over real memfds and threads.

#![allow(unsafe_code)]

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use outboard_wire::block::{STRIDE, ToPlugin, ToVmm};
use outboard_wire::error::Violation;
use outboard_wire::line::{Answer, Event, answer_kind, event_kind};
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::plugin_end::{Incoming, PluginEnd, wait_any};
use outboard_wire::posted::PostedWrite;
use outboard_wire::spin::{SpinLimit, SpinMode, Spinner};
use outboard_wire::vmm_end::{Ended, VmmEnd};

const KHZ: u64 = 2_000_000;

/// So many rounds, or as many as Miri can be asked for.
const fn rounds(count: u64) -> u64 {
    if cfg!(miri) { count / 400 } else { count }
}

fn memfd(blocks: usize, seals: i32) -> OwnedFd {
    // SAFETY: plain calls with a valid name; the descriptor is new and ours.
    unsafe {
        let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0);
        assert_eq!(libc::ftruncate(fd, (blocks * STRIDE) as i64), 0);
        assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, seals), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

struct Pair {
    to_plugin: [Arc<Blocks<ToPlugin>>; 2],
    to_vmm: [Arc<Blocks<ToVmm>>; 2],
}

impl Pair {
    /// Miri knows no memfds, so both sides share what only this process has.
    #[cfg(miri)]
    fn new(count: usize) -> Pair {
        let (down, up) = (Arc::new(Blocks::anonymous(count).unwrap()), Arc::new(Blocks::anonymous(count).unwrap()));
        Pair { to_plugin: [Arc::clone(&down), down], to_vmm: [Arc::clone(&up), up] }
    }

    /// Two mappings of each memfd, as two processes have them.
    #[cfg(not(miri))]
    fn new(count: usize) -> Pair {
        let (a, b) = (memfd(count, libc::F_SEAL_SHRINK), memfd(count, libc::F_SEAL_SHRINK));
        let down = |access| Arc::new(Blocks::map(a.as_fd(), count, access).unwrap());
        let up = |access| Arc::new(Blocks::map(b.as_fd(), count, access).unwrap());
        Pair { to_plugin: [down(Access::Write), down(Access::Read)], to_vmm: [up(Access::Read), up(Access::Write)] }
    }

    fn ends(&self, index: usize, mode: SpinMode) -> (VmmEnd, PluginEnd) {
        let limit = || Arc::new(SpinLimit::for_mode(mode, 2, 1));
        let vmm = VmmEnd::new(
            BlockRef::new(&self.to_plugin[0], index).unwrap(),
            BlockRef::new(&self.to_vmm[0], index).unwrap(),
            Spinner::new(mode, KHZ),
            limit(),
            Arc::new(OnceLock::new()),
        );
        let plugin = PluginEnd::new(
            BlockRef::new(&self.to_plugin[1], index).unwrap(),
            BlockRef::new(&self.to_vmm[1], index).unwrap(),
            Spinner::new(mode, KHZ),
            limit(),
        );
        (vmm, plugin)
    }
}

fn ends(mode: SpinMode) -> (VmmEnd, PluginEnd) {
    Pair::new(1).ends(0, mode)
}

fn write(value: u64) -> PostedWrite {
    PostedWrite { mmio: true, length: 8, address: value * 2, data: value, tsc: 3, cpu: 1 }
}

/// Answers everything with the event's data plus one; returns the posted values once the VM ends.
fn serve(mut end: PluginEnd) -> Vec<u64> {
    let mut posted = Vec::new();
    loop {
        match end.wait().unwrap() {
            Incoming::Posted(write) => posted.push(write.data),
            Incoming::Event(event) if event.kind == event_kind::SHUTDOWN => return posted,
            Incoming::Event(event) => end.answer(&Answer {
                kind: answer_kind::RESUME,
                data: event.data + 1,
                count: posted.len() as u64,
                ..Answer::default()
            }),
        }
    }
}

#[test]
fn events_and_answers_alternate_in_every_mode() {
    for mode in [SpinMode::Auto, SpinMode::Off, SpinMode::Always, SpinMode::For(1000)] {
        let (mut vmm, plugin) = ends(mode);
        let stop = AtomicU32::new(0);
        let server = thread::spawn(move || serve(plugin));
        for data in 0..rounds(2000) {
            vmm.publish(&Event { kind: event_kind::READ, data, ..Event::default() });
            assert_eq!(vmm.wait_answer(0, &stop).unwrap().data, data + 1);
        }
        vmm.close();
        assert!(server.join().unwrap().is_empty());
    }
}

/// A million, and enough for Miri to go around the ring.
const MANY: u64 = if cfg!(miri) { 300 } else { 1_000_000 };

#[test]
fn a_million_posted_writes_keep_order_and_values() {
    for mode in [SpinMode::Auto, SpinMode::Off] {
        let (mut vmm, plugin) = ends(mode);
        let stop = AtomicU32::new(0);
        let server = thread::spawn(move || serve(plugin));
        for value in 0..MANY {
            vmm.post(&write(value), 0, &stop).unwrap();
        }
        vmm.close();
        assert!(server.join().unwrap().into_iter().eq(0..MANY));
    }
}

#[test]
fn a_synchronous_event_sees_all_posted_writes_before_it() {
    let (mut vmm, plugin) = ends(SpinMode::Auto);
    let stop = AtomicU32::new(0);
    let server = thread::spawn(move || serve(plugin));
    let mut posted = 0;
    for round in 0..rounds(3000) {
        for _ in 0..round % 7 {
            vmm.post(&write(posted), 0, &stop).unwrap();
            posted += 1;
        }
        vmm.publish(&Event { kind: event_kind::WRITE, ..Event::default() });
        assert_eq!(vmm.wait_answer(0, &stop).unwrap().count, posted);
    }
    vmm.close();
    assert_eq!(server.join().unwrap().len() as u64, posted);
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no futex_waitv")]
fn one_thread_serves_many_vcpus() {
    let pair = Pair::new(8);
    let (vmms, mut plugins): (Vec<_>, Vec<_>) = (0..8).map(|index| pair.ends(index, SpinMode::Auto)).unzip();
    let vcpus: Vec<_> = vmms
        .into_iter()
        .map(|mut vmm| {
            thread::spawn(move || {
                let stop = AtomicU32::new(0);
                for data in 0..500 {
                    vmm.publish(&Event { kind: event_kind::READ, data, ..Event::default() });
                    assert_eq!(vmm.wait_answer(0, &stop).unwrap().data, data + 1);
                }
                vmm.close();
            })
        })
        .collect();
    let mut open = 8;
    while open > 0 {
        let mut ends: Vec<&mut PluginEnd> = plugins.iter_mut().collect();
        let index = wait_any(&mut ends).unwrap();
        let end = &mut plugins[index];
        match end.try_next().unwrap() {
            Some(Incoming::Event(event)) if event.kind == event_kind::SHUTDOWN => {
                open -= 1;
                plugins.remove(index);
            }
            Some(Incoming::Event(event)) => end.answer(&Answer { kind: 1, data: event.data + 1, ..Answer::default() }),
            other => panic!("{other:?}"),
        }
    }
    for vcpu in vcpus {
        vcpu.join().unwrap();
    }
}

#[test]
fn a_stop_ends_a_wait_without_an_answer() {
    for mode in [SpinMode::Always, SpinMode::For(1000)] {
        let (mut vmm, _plugin) = ends(mode);
        vmm.publish(&Event { kind: event_kind::READ, ..Event::default() });
        assert_eq!(vmm.wait_answer(0, &AtomicU32::new(1)), Err(Ended::Stopped));
    }
}

#[test]
fn an_answer_to_another_event_is_a_violation() {
    let pair = Pair::new(1);
    let (mut vmm, _plugin) = pair.ends(0, SpinMode::Auto);
    let forged = BlockRef::new(&pair.to_vmm[1], 0).unwrap();
    let stop = AtomicU32::new(0);
    vmm.publish(&Event { kind: event_kind::READ, ..Event::default() });
    for got in [2, 7, u32::MAX] {
        forged.answer.seq.store(got, Ordering::Release);
        assert_eq!(vmm.wait_answer(0, &stop), Err(Ended::Violation(Violation::Sequence { expected: 1, got })));
    }
}

#[test]
fn a_ring_position_from_nowhere_is_a_violation() {
    for got in [257, 300, u32::MAX] {
        let pair = Pair::new(1);
        let (mut vmm, _plugin) = pair.ends(0, SpinMode::Auto);
        let forged = BlockRef::new(&pair.to_vmm[1], 0).unwrap();
        let stop = AtomicU32::new(0);
        for value in 0..256 {
            vmm.post(&write(value), 0, &stop).unwrap();
        }
        forged.progress.taken.store(got, Ordering::Release);
        assert_eq!(
            vmm.post(&write(256), 0, &stop),
            Err(Ended::Violation(Violation::PostedPosition { got, taken: 0, published: 256 }))
        );
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no memfds")]
fn a_memfd_that_may_shrink_or_is_too_short_is_not_mapped() {
    assert!(Blocks::<ToVmm>::map(memfd(1, 0).as_fd(), 1, Access::Read).is_err());
    assert!(Blocks::<ToVmm>::map(memfd(1, libc::F_SEAL_SHRINK).as_fd(), 2, Access::Read).is_err());
}
