//! The mode of a terminal: every key goes to the guest as it is typed.

use std::io;
use std::os::fd::AsFd;

use rustix::termios::{self, OptionalActions, Termios};

/// A terminal in raw mode; dropping this gives it back as it was.
#[derive(Debug)]
pub struct Raw {
    before: Termios,
}

impl Raw {
    /// Sets the terminal on standard input to raw mode; `None` if that is no terminal.
    ///
    /// # Errors
    /// What the system says.
    pub fn enter() -> io::Result<Option<Raw>> {
        let stdin = io::stdin();
        if !termios::isatty(stdin.as_fd()) {
            return Ok(None);
        }
        let before = termios::tcgetattr(stdin.as_fd())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(stdin.as_fd(), OptionalActions::Now, &raw)?;
        Ok(Some(Raw { before }))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _ = termios::tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &self.before);
    }
}
