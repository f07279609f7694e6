//! The mode of the terminal on standard input, kept to be put back.

#![allow(unsafe_code)]

use core::mem::MaybeUninit;

/// A terminal's mode; dropping this sets it again.
pub struct Mode(libc::termios);

impl Mode {
    /// The mode as it is now; `None` if standard input is no terminal.
    pub fn of_standard_input() -> Option<Mode> {
        let mut mode = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: `mode` is a valid place for the result.
        let known = unsafe { libc::tcgetattr(libc::STDIN_FILENO, mode.as_mut_ptr()) } == 0;
        // SAFETY: tcgetattr has filled it in.
        known.then(|| Mode(unsafe { mode.assume_init() }))
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        // SAFETY: the mode is one that tcgetattr gave. A terminal that is gone needs none.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, &self.0) };
    }
}
