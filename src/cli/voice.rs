//! What the VMM says on standard error. The plugin writes to the same pipe and may fill it, and the one who reads may have
//! stopped: that must keep no thread of the VMM from serving a signal or the end of the VM.
//!
//! So a pipe is opened once more, by a description of our own that does not block, and put in the place of standard error;
//! the plugin gets the one that was there. A line waits for a reader, but not for ever; then lines are left out until
//! somebody reads again, and what was lost is said.

use std::fs::File;
use std::io::{self, ErrorKind, Stderr, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::descriptors::replace_stderr;

/// How long a line may wait for a reader.
const PATIENCE: Duration = Duration::from_secs(1);
/// Time between two looks at a full pipe. There is nothing to sleep on that the filters of all threads allow.
const STEP: Duration = Duration::from_millis(10);

/// Where lines go.
struct Voice<W> {
    to: W,
    /// Lines left out since the last that was written; while there are some, none waits.
    lost: u64,
}

/// Held while a line waits, so that lines of other threads come behind it.
static VOICE: Mutex<Option<Voice<Stderr>>> = Mutex::new(None);

/// Makes standard error one that does not block, if it is a pipe, and returns the one that was there. Without that, lines
/// wait as long as it takes.
pub fn open() -> Option<OwnedFd> {
    let replace = || {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        if !stderr.metadata()?.file_type().is_fifo() {
            return Err(ErrorKind::Unsupported.into());
        }
        let own = File::options().write(true).custom_flags(libc::O_NONBLOCK).open("/proc/self/fd/2")?;
        replace_stderr(own.as_fd()).map_err(io::Error::from)
    };
    replace().ok()
}

/// Says lines in one piece, as far as somebody listens.
pub fn say(lines: &str) {
    let mut voice = VOICE.lock().unwrap_or_else(PoisonError::into_inner);
    voice.get_or_insert_with(|| Voice { to: io::stderr(), lost: 0 }).say(lines);
}

/// Says a line of the program's in one piece: the plugin writes to the same standard error.
pub fn say_line(what: &str) {
    say(&format!("outboard: {what}\n"));
}

impl<W: Write> Voice<W> {
    fn say(&mut self, lines: &str) {
        if self.lost > 0 {
            let notice = format!("outboard: warning: {} lines were left out here, as nobody read them\n", self.lost);
            if !self.write(&notice, Duration::ZERO) {
                self.lost += 1;
                return;
            }
            self.lost = 0;
        }
        if !self.write(lines, PATIENCE) {
            self.lost += 1;
        }
    }

    /// Writes it, and waits so long for a reader; false if there is none. An end that is closed takes everything.
    fn write(&mut self, text: &str, patience: Duration) -> bool {
        let (mut rest, mut since) = (text.as_bytes(), None);
        while !rest.is_empty() {
            match self.to.write(rest) {
                Ok(count) => (rest, since) = (&rest[count..], None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if since.get_or_insert_with(Instant::now).elapsed() >= patience {
                        return false;
                    }
                    thread::park_timeout(STEP);
                }
                Err(_) => return true,
            }
        }
        true
    }
}

/// The logger's way to [`say`].
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        say(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes this many bytes, and then none.
    struct Full(usize, Vec<u8>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.0);
            if count == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            self.0 -= count;
            self.1.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_lost_is_said() {
        let mut voice = Voice { to: Full(4, Vec::new()), lost: 0 };
        voice.say("one\n");
        voice.lost = 7;
        voice.say("two\n");
        voice.say("three\n");
        assert_eq!(voice.lost, 9);
        voice.to.0 = usize::MAX;
        voice.say("four\n");
        let said = "one\noutboard: warning: 9 lines were left out here, as nobody read them\nfour\n";
        assert_eq!((String::from_utf8_lossy(&voice.to.1).as_ref(), voice.lost), (said, 0));
    }
}
