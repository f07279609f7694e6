//! System calls that a hostile plugin makes and the standard library does not.

#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;

/// Makes a system call by number.
pub fn call(number: i64, args: [u64; 6]) -> io::Result<i64> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: callers pass numbers, and pointers to strings and memory that live through the call.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Asserts that a system call fails with one of these error numbers.
#[track_caller]
pub fn refused(number: i64, args: [u64; 6], errnos: &[i32]) {
    match call(number, args) {
        Ok(result) => panic!("system call {number} gave {result}"),
        Err(error) => {
            let errno = error.raw_os_error().expect("a system call");
            assert!(errnos.contains(&errno), "system call {number}: {error}");
        }
    }
}

/// The address of a C string, which is never freed.
pub fn text(text: &str) -> u64 {
    CString::new(text).expect("no zero byte").into_raw() as u64
}

/// Forks; the child runs `child` and ends.
pub fn fork(child: impl FnOnce()) -> io::Result<i32> {
    // SAFETY: the plugin half has one thread, so the child is a whole copy of it.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            child();
            std::process::exit(0)
        }
        pid => Ok(pid),
    }
}

/// Waits for the end of a child.
pub fn wait(pid: i32) {
    // SAFETY: no place for a status is passed.
    unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
}

/// Ignores every signal that can be ignored, and leaves the session.
pub fn become_a_daemon() {
    // SAFETY: takes numbers.
    unsafe {
        for signal in (1..32).filter(|signal| *signal != libc::SIGCHLD) {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::setsid();
        libc::prctl(libc::PR_SET_PDEATHSIG, 0);
    }
}
