//! `execve(2)`.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char};
use std::ptr;

use super::errno::Errno;

/// All that `execve(2)` needs, laid out before the clone so that the child need not allocate.
#[derive(Debug)]
pub struct ExecImage {
    program: CString,
    argv: PointerArray,
    envp: PointerArray,
}

impl ExecImage {
    /// Prepares `program` with its arguments (the first is its name, by custom) and its environment (`KEY=value`).
    pub fn new(program: CString, argv: Vec<CString>, envp: Vec<CString>) -> ExecImage {
        ExecImage { program, argv: PointerArray::new(argv), envp: PointerArray::new(envp) }
    }

    /// The path of the program.
    pub fn program(&self) -> &CStr {
        &self.program
    }

    /// Becomes the program, with `secret` in the last argument register, which `execve` does not look at but a seccomp
    /// filter may. Returns only if that fails.
    pub fn exec_with(&self, secret: u64) -> Errno {
        let (program, argv, envp) = (self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr());
        let none = 0_u64;
        // SAFETY: as in `exec`; the others are only registers.
        unsafe { libc::syscall(libc::SYS_execve, program, argv, envp, none, none, secret) };
        Errno::last()
    }

    /// Becomes the program. Returns only if that fails.
    pub fn exec(&self) -> Errno {
        // SAFETY: a C string, and two null-terminated arrays of C strings that `self` owns.
        unsafe { libc::execve(self.program.as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        Errno::last()
    }
}

/// A null-terminated array of C strings.
#[derive(Debug)]
struct PointerArray {
    pointers: Vec<*const c_char>,
    /// What the pointers point to; never changed.
    _strings: Vec<CString>,
}

impl PointerArray {
    fn new(strings: Vec<CString>) -> PointerArray {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
        PointerArray { pointers, _strings: strings }
    }

    fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}
