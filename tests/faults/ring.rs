//! Lets one operation of an io_uring of another process end with an error (`io_uring(7)`).
//!
//! The entry of the operation becomes an `IORING_OP_NOP` with a result of ours, before the kernel takes it. So nothing was
//! done and nothing is lost, the error comes the way of every completion, and the order of a link is kept. The entries are
//! reached by a mapping of our own of the ring, which is gone before the other process goes on.

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use io_uring::{IoUring, opcode, squeue};
use memmap2::{MmapOptions, MmapRaw};
use outboard::sys::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

/// `IORING_REGISTER_RESTRICTIONS` of `io_uring_register(2)`.
pub const REGISTER_RESTRICTIONS: u64 = 11;

/// Size of an entry.
const ENTRY: usize = 64;
/// Size of `struct io_uring_params`.
const PARAMS: usize = 120;
/// Size of `struct io_uring_restriction`.
const RESTRICTION: usize = 16;
/// `IORING_OFF_SQES`.
const ENTRIES_AT: u64 = 0x1000_0000;
/// `IORING_SETUP_NO_SQARRAY`.
const NO_ARRAY: u32 = 1 << 16;
/// `IORING_NOP_INJECT_RESULT` (Linux 6.10): the result of a `IORING_OP_NOP` is in its field `len`.
const INJECT_RESULT: u32 = 1;

/// Makes an entry one that does nothing and ends with this error. It keeps its flags, by which it may be the first of a
/// link, and its `user_data`.
fn replace(entry: &mut [u8; ENTRY], errno: Errno) {
    let (flags, user_data): (u8, [u8; 8]) = (entry[1], core::array::from_fn(|at| entry[32 + at]));
    *entry = [0; ENTRY];
    (entry[0], entry[1]) = (opcode::Nop::CODE, flags);
    entry[4..8].copy_from_slice(&(-1_i32).to_ne_bytes());
    entry[24..28].copy_from_slice(&(-errno.0).to_ne_bytes());
    entry[28..32].copy_from_slice(&INJECT_RESULT.to_ne_bytes());
    entry[32..40].copy_from_slice(&user_data);
}

/// Whether this kernel can do that.
pub fn is_possible() -> bool {
    let mut bytes = [0; ENTRY];
    replace(&mut bytes, Errno(libc::EDOM));
    // SAFETY: an entry of this crate is the kernel's structure of this size, made of numbers alone.
    let entry: squeue::Entry = unsafe { core::mem::transmute(bytes) };
    let Ok(mut ring) = IoUring::new(1) else { return false };
    // SAFETY: the entry points to nothing.
    let pushed = unsafe { ring.submission().push(&entry) };
    let done = pushed.is_ok() && ring.submit_and_wait(1).is_ok();
    done && ring.completion().next().is_some_and(|cqe| cqe.result() == -libc::EDOM)
}

/// The ring of a process that is traced, as `io_uring_setup(2)` told it.
#[derive(Debug)]
pub struct Ring {
    pid: i32,
    params: [u8; PARAMS],
}

fn memory(pid: i32) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(format!("/proc/{pid}/mem"))
}

/// Copies the list of what a ring may do, and adds to the copy what [`replace`] needs. `list` and `count` are the arguments
/// of `io_uring_register(2)`; those for the copy are returned. The copy lies below the stack, where a function that was
/// interrupted keeps nothing.
pub fn allow_nop(pid: i32, stack: u64, list: u64, count: u64) -> io::Result<(u64, u64)> {
    const RED_ZONE: u64 = 128;
    const SQE_OP: u16 = 1;
    let memory = memory(pid)?;
    let mut copy = vec![0; count as usize * RESTRICTION];
    memory.read_exact_at(&mut copy, list)?;
    let mut more = [0; RESTRICTION];
    more[..2].copy_from_slice(&SQE_OP.to_ne_bytes());
    more[2] = opcode::Nop::CODE;
    copy.extend_from_slice(&more);
    let at = (stack - RED_ZONE - copy.len() as u64) & !15;
    memory.write_all_at(&copy, at)?;
    Ok((at, count + 1))
}

impl Ring {
    /// A ring that has been set up, from the second argument of `io_uring_setup(2)`.
    pub fn new(pid: i32, params: u64) -> io::Result<Ring> {
        let mut ring = Ring { pid, params: [0; PARAMS] };
        memory(pid)?.read_exact_at(&mut ring.params, params)?;
        Ok(ring)
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_ne_bytes(core::array::from_fn(|byte| self.params[at + byte]))
    }

    /// Looks at the entries that a call of `io_uring_enter(2)` with this descriptor and this number is about to submit. The
    /// one that is the `number`-th after the `count` that came before ends with what `error` says of its operation; that
    /// and the operation are returned. `count` counts on.
    pub fn fail(
        &self,
        fd: u64,
        submitted: u64,
        count: &mut usize,
        number: usize,
        error: impl Fn(u8) -> Option<Errno>,
    ) -> io::Result<Option<(u8, Errno)>> {
        let process = pidfd_open(Pid::from_raw(self.pid).expect("a process"), PidfdFlags::empty())?;
        let ring = pidfd_getfd(process, fd as i32, PidfdGetfdFlags::empty())?;
        let (total, [head, tail, mask, _, _, _, array]) =
            (self.number(0), core::array::from_fn(|at| self.number(40 + 4 * at)));
        let has_array = self.number(8) & NO_ARRAY == 0;
        let length = [head, tail, mask].into_iter().max().expect("three") as usize + 4;
        let length = if has_array { length.max(array as usize + 4 * total as usize) } else { length };
        let rings = MmapOptions::new().len(length).map_raw(&ring)?;
        let entries = MmapOptions::new().offset(ENTRIES_AT).len(total as usize * ENTRY).map_raw(&ring)?;
        let (first, last, mask) = (word(&rings, head), word(&rings, tail), word(&rings, mask));
        for place in (0..last.wrapping_sub(first).min(submitted as u32)).map(|at| first.wrapping_add(at) & mask) {
            let index = if has_array { word(&rings, array + 4 * place) } else { place };
            assert!(index < total, "entry {index} of {total}");
            let at = entries.as_mut_ptr().wrapping_add(index as usize * ENTRY).cast::<[u8; ENTRY]>();
            // SAFETY: it lies in the mapping, as was asserted. Its one other user stands before the call that submits it.
            let entry = unsafe { &mut *at };
            let operation = entry[0];
            let Some(errno) = error(operation) else { continue };
            *count += 1;
            if *count - 1 == number {
                replace(entry, errno);
                return Ok(Some((operation, errno)));
            }
        }
        Ok(None)
    }
}

/// A number of the mapping that the kernel and the process share.
fn word(mapping: &MmapRaw, at: u32) -> u32 {
    assert!(at as usize + 4 <= mapping.len() && at.is_multiple_of(4));
    // SAFETY: it lies in the mapping, aligned, as was asserted; others change it by atomic stores.
    unsafe { &*mapping.as_mut_ptr().wrapping_add(at as usize).cast::<AtomicU32>() }.load(Ordering::Acquire)
}
