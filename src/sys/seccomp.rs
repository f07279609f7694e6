//! Seccomp filters: `seccomp(2)`.

#![allow(unsafe_code)]

use std::ffi::{c_uint, c_ulong};

use super::errno::{Errno, check, check_long};

/// One instruction of classic BPF: `struct sock_filter` (`linux/filter.h`), eight bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Instruction {
    /// What it does.
    pub code: u16,
    /// For a conditional jump, how many instructions are skipped if the condition holds.
    pub yes: u8,
    /// How many if it does not.
    pub no: u8,
    /// The operand.
    pub k: u32,
}

const _: () = assert!(size_of::<Instruction>() == size_of::<libc::sock_filter>());

/// Which tasks a filter is loaded for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The calling thread.
    Thread,
    /// All threads of the process (`SECCOMP_FILTER_FLAG_TSYNC`).
    Process,
}

/// Gives up new privileges by `execve` for good (`PR_SET_NO_NEW_PRIVS`), without which an unprivileged thread may not load a
/// filter. Async-signal-safe.
///
/// # Errors
/// None on Linux 3.5 and later.
pub fn set_no_new_privs() -> Result<(), Errno> {
    let (on, none): (c_ulong, c_ulong) = (1, 0);
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, none, none, none) }).map(drop)
}

/// Loads a filter, which nothing takes away again. Refused calls are logged as the system is set up
/// (`SECCOMP_FILTER_FLAG_LOG`, sysctl `kernel.seccomp.actions_logged`). Async-signal-safe.
///
/// # Errors
/// `EINVAL` for a program that the kernel does not take, `EACCES` without [`set_no_new_privs`] and without `CAP_SYS_ADMIN`,
/// `ENOMEM` where filters are too long together, `ESRCH` if another thread cannot take the filter.
pub fn load(program: &[Instruction], scope: Scope) -> Result<(), Errno> {
    // With this flag a thread that cannot take the filter is ESRCH; without it its id is returned, a success by its sign.
    let threads = match scope {
        Scope::Thread => 0,
        Scope::Process => libc::SECCOMP_FILTER_FLAG_TSYNC | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH,
    };
    set_filter(program, libc::SECCOMP_FILTER_FLAG_LOG | threads).map(drop)
}

/// `SECCOMP_SET_MODE_FILTER` with these flags.
fn set_filter(program: &[Instruction], flags: c_ulong) -> Result<i32, Errno> {
    let len = u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let mode: c_uint = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program is of the length said, in the kernel's layout, and only read.
    let ret = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program) };
    check_long(ret).map(|fd| fd as i32)
}
