//! What the user types, or a script sends.

use std::io::{self, Read};
use std::thread;

use crate::ending::{End, Ending};
use crate::error::PcError;

/// Ctrl-A: what follows is for the machine itself.
const ESCAPE: u8 = 0x01;

/// Takes the machine's own keys out of what a user types.
#[derive(Debug, Default)]
pub struct Escape {
    pressed: bool,
}

impl Escape {
    /// What is for the guest; `None` if the user leaves: Ctrl-A and x. Ctrl-A twice is one Ctrl-A for the guest.
    pub fn filter(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut guest = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if core::mem::take(&mut self.pressed) {
                match byte {
                    b'x' | b'X' => return None,
                    &ESCAPE => guest.push(ESCAPE),
                    other => guest.extend([ESCAPE, *other]),
                }
            } else if *byte == ESCAPE {
                self.pressed = true;
            } else {
                guest.push(*byte);
            }
        }
        Some(guest)
    }
}

/// Reads standard input in a thread of its own and hands it to `take`. A terminal has the escape key, and if it goes
/// away so does the machine; a pipe or a file just ends.
///
/// # Errors
/// The thread cannot be started.
pub fn read(terminal: bool, ending: Ending, mut take: impl FnMut(&[u8]) + Send + 'static) -> Result<(), PcError> {
    let work = move || {
        let (mut escape, mut buffer) = (Escape::default(), [0; 4096]);
        loop {
            let count = match io::stdin().lock().read(&mut buffer) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if terminal => return ending.end(End::Failed(format!("the terminal went away: {error}"))),
                Err(_) => return,
            };
            match (count, terminal) {
                (0, true) => return ending.end(End::Failed("the terminal went away".to_owned())),
                (0, false) => return,
                (_, false) => take(&buffer[..count]),
                (_, true) => match escape.filter(&buffer[..count]) {
                    Some(bytes) => take(&bytes),
                    None => return ending.end(End::Left),
                },
            }
        }
    };
    thread::Builder::new().name("input".into()).spawn(work).map(drop).map_err(PcError::Thread)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_leaves_and_is_not_lost() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"ab").unwrap(), b"ab");
        assert_eq!(escape.filter(b"a\x01").unwrap(), b"a");
        assert_eq!(escape.filter(b"\x01b").unwrap(), b"\x01b");
        assert_eq!(escape.filter(b"\x01c").unwrap(), b"\x01c");
        assert_eq!(escape.filter(b"x\x01"), Some(b"x".to_vec()));
        assert_eq!(escape.filter(b"x"), None);
    }
}
