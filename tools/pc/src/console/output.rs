//! What the guest prints: collected here and written by a thread of its own, so that no vCPU waits for a slow terminal
//! before much has come together.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

use crate::ending::{End, Ending};
use crate::error::PcError;

/// Bytes that come together before the guest has to wait.
const LIMIT: usize = 64 << 10;

/// What the guest prints.
#[derive(Clone)]
pub struct Output(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something was printed, or written away.
    changed: Condvar,
    ending: Ending,
}

struct State {
    bytes: Vec<u8>,
    /// The thread writes bytes that it took.
    writing: bool,
    /// Nobody reads any more.
    lost: bool,
    wanted: Option<Wanted>,
}

impl Output {
    /// Writes to `to` from now on; `exit_on` ends the machine when it was printed.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn new(to: Box<dyn Write + Send>, exit_on: Option<&str>, ending: Ending) -> Result<Output, PcError> {
        let wanted = exit_on.map(Wanted::new);
        let state = State { bytes: Vec::new(), writing: false, lost: false, wanted };
        let output = Output(Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), ending }));
        let own = output.clone();
        thread::Builder::new().name("output".into()).spawn(move || own.work(to)).map_err(PcError::Thread)?;
        Ok(output)
    }

    fn work(&self, mut to: Box<dyn Write + Send>) {
        let mut state = self.lock();
        loop {
            while state.bytes.is_empty() {
                state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let bytes = core::mem::take(&mut state.bytes);
            state.writing = true;
            drop(state);
            let written = to.write_all(&bytes).and_then(|()| to.flush());
            state = self.lock();
            state.writing = false;
            if let Err(error) = written
                && !state.lost
            {
                state.lost = true;
                self.0.ending.end(End::Failed(format!("cannot write the guest's output: {error}")));
            }
            self.0.changed.notify_all();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints.
    pub fn print(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if let Some(wanted) = &mut state.wanted
            && wanted.push(bytes)
        {
            self.0.ending.end(End::Printed);
        }
        while state.bytes.len() >= LIMIT && !state.lost && !self.0.ending.ended() {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let first = state.bytes.is_empty();
        state.bytes.extend(bytes);
        if first {
            self.0.changed.notify_all();
        }
    }

    /// Waits until all that was printed is written.
    pub fn flush(&self) {
        let mut state = self.lock();
        while (!state.bytes.is_empty() || state.writing) && !state.lost {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.print(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // the thread does that
    }
}

/// Looks for a string in what is printed, piece by piece.
#[derive(Debug)]
pub struct Wanted {
    string: Vec<u8>,
    /// The last bytes that were printed, fewer than the string has.
    seen: Vec<u8>,
}

impl Wanted {
    /// Looks for this string.
    pub fn new(string: &str) -> Wanted {
        Wanted { string: string.as_bytes().to_vec(), seen: Vec::new() }
    }

    /// True if the string ends in these bytes.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        if self.string.is_empty() {
            return true;
        }
        self.seen.extend(bytes);
        let found = self.seen.windows(self.string.len()).any(|window| window == self.string);
        let keep = self.seen.len().saturating_sub(self.string.len() - 1);
        self.seen.drain(..keep);
        found
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::ending::Next;

    #[test]
    fn a_string_is_found_across_pieces() {
        let mut wanted = Wanted::new("No boot");
        assert!(!wanted.push(b"No "));
        assert!(!wanted.push(b"boo"));
        assert!(wanted.push(b"table"));
        assert!(!wanted.push(b" device"));
        assert!(wanted.push(b"xxNo bootyy"));
    }

    struct Sent(mpsc::Sender<Vec<u8>>);

    impl Write for Sent {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_that_is_printed_is_written_in_order() {
        let (sender, got) = mpsc::channel();
        let ending = Ending::default();
        let output = Output::new(Box::new(Sent(sender)), Some("4999."), ending.clone()).unwrap();
        let mut expected = Vec::new();
        for number in 0..5000 {
            let text = format!("{number}.");
            expected.extend(text.bytes());
            output.print(text.as_bytes());
        }
        output.flush();
        assert_eq!(got.try_iter().flatten().collect::<Vec<u8>>(), expected);
        assert_eq!(ending.reason(), Some(End::Printed));
    }

    #[test]
    fn a_reader_that_goes_away_ends_the_machine() {
        let (sender, got) = mpsc::channel();
        drop(got);
        let ending = Ending::default();
        let output = Output::new(Box::new(Sent(sender)), None, ending.clone()).unwrap();
        output.print(b"x");
        assert!(matches!(ending.wait(None), Some(Next::End(End::Failed(why))) if why.contains("output")));
        output.print(&[0; 2 * LIMIT]);
        output.print(b"x");
        output.flush();
    }
}
