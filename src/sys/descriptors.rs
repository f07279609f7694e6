//! The table of descriptors of a thread, see `files_struct` in the kernel and `unshare(2)`.

#![allow(unsafe_code)]

use std::ffi::c_uint;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::errno::{Errno, check};

/// Gives the calling thread a table of descriptors of its own, with nothing in it but `keep`, under the same numbers
/// (`close_range(2)`, Linux 5.9). What other threads have stays as it is, and what they open from now on is not seen here.
///
/// Whatever owns another descriptor must not be used or dropped by this thread from then on: its number means nothing here.
/// What this thread owns of `keep` stays open in the others' table until it is closed there.
///
/// # Errors
/// `EMFILE` or `ENOMEM` if there is no room for a table; then the old one may be in use still.
pub fn keep_only(keep: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut numbers: Vec<c_uint> = keep.iter().map(|fd| fd.as_raw_fd() as c_uint).collect();
    numbers.sort_unstable();
    let above = numbers.last().map_or(0, |last| last + 1);
    // First, and for what is above: then the kernel need not copy it.
    close_range(above, c_uint::MAX, libc::CLOSE_RANGE_UNSHARE)?;
    let mut from = 0;
    for number in numbers {
        if number > from {
            close_range(from, number - 1, 0)?;
        }
        from = number + 1;
    }
    Ok(())
}

fn close_range(first: c_uint, last: c_uint, flags: c_uint) -> Result<(), Errno> {
    // SAFETY: takes numbers. Descriptors are closed in a table that belongs to this thread alone, and `keep_only` says what
    // this thread gives up by it.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } as i32).map(drop)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::eventfd::EventFd;

    fn open() -> Vec<String> {
        let all = std::fs::read_dir("/proc/thread-self/fd").expect("the descriptors of this thread");
        let link = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
        all.filter_map(link).map(|target| target.display().to_string()).collect()
    }

    #[test]
    fn a_thread_keeps_what_it_needs_and_the_others_keep_all() {
        let (kept, other) = (EventFd::new().expect("an eventfd"), EventFd::new().expect("an eventfd"));
        let mine = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                keep_only(&[kept.as_fd()]).expect("a table");
                kept.signal().expect("it is open here");
                assert_eq!(other.signal(), Err(Errno::EBADF));
                open()
            });
            thread.join().expect("no panic")
        });
        // The other one is what the list was read with, gone by the time its link is read, or of that folder.
        let kept_there = mine.iter().filter(|target| target.contains("eventfd")).count();
        assert_eq!((kept_there, mine.len()), (1, 2), "{mine:?}");
        other.signal().expect("it is open in this thread");
        assert_eq!((kept.drain(), other.drain()), (Ok(1), Ok(1)));
    }
}
