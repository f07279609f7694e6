//! What the VMM says on standard error. The plugin writes to the same pipe and may fill it, and the one who reads may have
//! stopped: that must keep no thread of the VMM from serving a signal or the end of the VM.
//!
//! So a pipe is opened once more, by a description of our own that does not block. A line waits for a reader, but not for
//! ever; then lines are left out until somebody reads again, and what was lost is said.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

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

static VOICE: Mutex<Option<Voice<File>>> = Mutex::new(None);

fn voice() -> MutexGuard<'static, Option<Voice<File>>> {
    VOICE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens standard error once more if it is a pipe. Without that, lines wait as long as it takes.
pub fn open() {
    let pipe = || {
        let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        if !stderr.metadata()?.file_type().is_fifo() {
            return Err(ErrorKind::Unsupported.into());
        }
        File::options().write(true).custom_flags(libc::O_NONBLOCK).open("/proc/self/fd/2")
    };
    let opened: io::Result<File> = pipe();
    *voice() = opened.ok().map(|to| Voice { to, lost: 0 });
}

/// Says lines in one piece, as far as somebody listens.
pub fn say(lines: &str) {
    match &mut *voice() {
        Some(voice) => voice.say(lines),
        // A reader that went away, such as `head`, is no failure of the run.
        None => drop(io::stderr().write_all(lines.as_bytes())),
    }
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
