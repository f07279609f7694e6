//! Descriptors: their numbers, which of them `execve(2)` closes, and the table of them that a thread has (`files_struct` in the
//! kernel, see `unshare(2)`).

#![allow(unsafe_code)]

use std::ffi::c_uint;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::errno::{Errno, check};
use super::process::InChild;

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
    // this thread gives up by it; nothing is closed when they are marked only.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } as i32).map(drop)
}

/// A close-on-exec duplicate with a number of at least `least` (`F_DUPFD_CLOEXEC`).
///
/// # Errors
/// `EMFILE` if there is none.
pub fn dup_from(fd: BorrowedFd<'_>, least: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: takes numbers.
    let new = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, least) };
    check(new)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(new) })
}

/// Makes `target` a duplicate of `source` that stays open over `execve`, closing what `target` was (`dup3(2)`).
///
/// # Errors
/// `EINVAL` if both are the same number; `dup3`'s.
pub fn place_fd(_: &InChild, source: BorrowedFd<'_>, target: RawFd) -> Result<(), Errno> {
    // SAFETY: takes numbers. `InChild` says that no owner relies on `target` any more.
    check(unsafe { libc::dup3(source.as_raw_fd(), target, 0) }).map(drop)
}

/// Closes the child's copy of a descriptor (`close(2)`).
pub fn close_copy(_: &InChild, fd: BorrowedFd<'_>) {
    // SAFETY: takes a number. `InChild` says that its owner is never dropped here.
    let _ = unsafe { libc::close(fd.as_raw_fd()) };
}

/// Marks every descriptor from `first` on close-on-exec (`close_range(2)`, `CLOSE_RANGE_CLOEXEC`, Linux 5.11).
///
/// # Errors
/// `EINVAL` or `ENOSYS` on older kernels.
pub fn close_on_exec_from(first: RawFd) -> Result<(), Errno> {
    close_range(first as c_uint, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
}

/// Puts an open file in the place of standard error, for this process and those that it starts (`dup3(2)`). Returns what was
/// there before.
///
/// # Errors
/// `EMFILE`; those of `dup3`.
pub fn replace_stderr(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let before = dup_from(std::io::stderr().as_fd(), libc::STDERR_FILENO + 1)?;
    // SAFETY: takes numbers. Number 2 belongs to standard error and stays open without a gap.
    check(unsafe { libc::dup3(file.as_raw_fd(), libc::STDERR_FILENO, 0) })?;
    Ok(before)
}

#[cfg(test)]
mod tests {
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
