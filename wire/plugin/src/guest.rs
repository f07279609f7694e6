//! Guest memory: a memfd that the plugin and the guest share.

use core::sync::atomic::{AtomicU64, Ordering};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytemuck::Pod;

use crate::error::Error;
use crate::sys::{self, Words};

/// Memory that [`Connection::create_memory`](crate::Connection::create_memory) can give to the guest, mapped here too.
///
/// The guest may change any byte at any time, so there is no `&[u8]` into it. All access goes by aligned 64-bit atomic
/// words: loads acquire and stores release (on x86-64 both are plain moves), and a word that is written only in part
/// is exchanged atomically, so that a neighbouring byte which the guest writes at that moment is not lost. One
/// access size throughout keeps this free of data races in Rust's terms too. What lies within one aligned 8-byte word
/// is read or written in one piece, longer data in words of ascending addresses.
///
/// ```
/// use outboard_plugin::GuestMemory;
///
/// let memory = GuestMemory::new(0x1000)?;
/// memory.write(3, b"hello")?;
/// let mut back = [0; 5];
/// memory.read(3, &mut back)?;
/// assert_eq!(&back, b"hello");
/// memory.write_obj(0xffc, &0x1234_5678u32)?;
/// assert_eq!(memory.read_obj::<u16>(0xffe)?, 0x1234);
/// assert!(memory.write(0xffd, &[0; 4]).is_err());
/// # Ok::<(), outboard_plugin::Error>(())
/// ```
#[derive(Debug)]
pub struct GuestMemory {
    file: File,
    words: Words,
}

impl GuestMemory {
    /// Makes a memfd of `length` bytes, all zero, which takes memory only where it is touched, and seals its size.
    ///
    /// # Errors
    /// `EINVAL` unless the length is a positive multiple of 4096; [`Error::Io`] if the kernel has no memory.
    pub fn new(length: usize) -> Result<GuestMemory, Error> {
        check_length(length as u64)?;
        let file = File::from(sys::memfd().map_err(Error::io("make a memfd"))?);
        file.set_len(length as u64).map_err(Error::io("size guest memory"))?;
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        sys::seal(file.as_fd(), seals).map_err(Error::io("seal guest memory"))?;
        let words = Words::map(file.as_fd(), length).map_err(Error::io("map guest memory"))?;
        Ok(GuestMemory { file, words })
    }

    /// Maps the whole of a memfd that exists already, and seals it against shrinking if it is not yet.
    ///
    /// # Errors
    /// `EINVAL` if it is no memfd or its length is no positive multiple of 4096, `EPERM` if it takes no seals.
    ///
    /// ```
    /// use outboard_plugin::GuestMemory;
    /// use std::os::fd::AsFd;
    ///
    /// let memory = GuestMemory::new(0x1000)?;
    /// let again = GuestMemory::from_file(memory.as_fd().try_clone_to_owned().unwrap())?;
    /// memory.write(0, &[7])?;
    /// assert_eq!(again.read_obj::<u8>(0)?, 7);
    /// # Ok::<(), outboard_plugin::Error>(())
    /// ```
    pub fn from_file(memfd: OwnedFd) -> Result<GuestMemory, Error> {
        let file = File::from(memfd);
        let length = file.metadata().map_err(Error::io("look at guest memory"))?.len();
        check_length(length)?;
        let words = Words::map(file.as_fd(), length as usize).map_err(Error::io("map guest memory"))?;
        Ok(GuestMemory { file, words })
    }

    /// Bytes of the memory, never 0.
    #[expect(clippy::len_without_is_empty, reason = "memory is never empty")]
    pub fn len(&self) -> u64 {
        self.words.len() as u64 * 8
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; then nothing is written.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let (words, skip) = self.span(offset, bytes.len())?;
        let first = bytes.len().min((8 - skip) % 8);
        let (head, rest) = bytes.split_at(first);
        let mut words = words.iter();
        if !head.is_empty() {
            write_part(words.next(), skip, head);
        }
        let chunks = rest.chunks_exact(8);
        let tail = chunks.remainder();
        for (chunk, word) in chunks.zip(words.by_ref()) {
            let mut value = [0; 8];
            value.copy_from_slice(chunk);
            word.store(u64::from_le_bytes(value), Ordering::Release);
        }
        if !tail.is_empty() {
            write_part(words.next(), 0, tail);
        }
        Ok(())
    }

    /// Copies bytes from `offset` on into `bytes`.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; then `bytes` is as before.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        let (words, mut skip) = self.span(offset, bytes.len())?;
        let mut rest = bytes;
        for word in words {
            let value = word.load(Ordering::Acquire).to_le_bytes();
            let (now, later) = rest.split_at_mut(rest.len().min(8 - skip));
            now.copy_from_slice(&value[skip..skip + now.len()]);
            (rest, skip) = (later, 0);
        }
        Ok(())
    }

    /// Writes a value of plain bytes: an integer, or a `#[repr(C)]` struct with [`bytemuck::Pod`].
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn write_obj<T: Pod>(&self, offset: u64, value: &T) -> Result<(), Error> {
        self.write(offset, bytemuck::bytes_of(value))
    }

    /// Reads a value of plain bytes.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`].
    pub fn read_obj<T: Pod>(&self, offset: u64) -> Result<T, Error> {
        let mut value = T::zeroed();
        self.read(offset, bytemuck::bytes_of_mut(&mut value))?;
        Ok(value)
    }

    /// Replaces the 8 bytes at `offset` in one step if they have this value. Returns what they had.
    ///
    /// # Errors
    /// [`Error::OutOfBounds`]; [`Error::Argument`] if the offset is no multiple of 8.
    ///
    /// ```
    /// let memory = outboard_plugin::GuestMemory::new(0x1000)?;
    /// assert_eq!(memory.compare_exchange(8, 0, 5)?, 0);
    /// assert_eq!(memory.compare_exchange(8, 0, 6)?, 5);
    /// assert_eq!(memory.read_obj::<u64>(8)?, 5);
    /// # Ok::<(), outboard_plugin::Error>(())
    /// ```
    pub fn compare_exchange(&self, offset: u64, current: u64, new: u64) -> Result<u64, Error> {
        let (words, skip) = self.span(offset, 8)?;
        match words {
            [word] if skip == 0 => {
                let exchanged = word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire);
                Ok(exchanged.unwrap_or_else(|found| found))
            }
            _ => Err(Error::Argument("the offset of an exchange of 8 bytes is no multiple of 8")),
        }
    }

    /// The same with 16 bytes.
    ///
    /// # Errors
    /// As [`GuestMemory::compare_exchange`], with 16; [`Error::Argument`] on a processor without `CMPXCHG16B`, which none that
    /// runs guests is.
    ///
    /// ```
    /// let memory = outboard_plugin::GuestMemory::new(0x1000)?;
    /// assert_eq!(memory.compare_exchange_16(16, 0, 5 << 64)?, 0);
    /// assert_eq!(memory.compare_exchange_16(16, 0, 6)?, 5 << 64);
    /// assert_eq!(memory.read_obj::<u64>(24)?, 5);
    /// # Ok::<(), outboard_plugin::Error>(())
    /// ```
    pub fn compare_exchange_16(&self, offset: u64, current: u128, new: u128) -> Result<u128, Error> {
        self.span(offset, 16)?;
        if !offset.is_multiple_of(16) {
            return Err(Error::Argument("the offset of an exchange of 16 bytes is no multiple of 16"));
        }
        let exchanged = self.words.compare_exchange_16((offset / 8) as usize, current, new);
        exchanged.ok_or(Error::Argument("this processor cannot exchange 16 bytes in one step"))
    }

    /// Address of the first byte in this process, for code that knows how to handle memory which changes by itself (C
    /// code, vector instructions). Valid as long as `self` lives.
    ///
    /// ```
    /// let memory = outboard_plugin::GuestMemory::new(0x1000)?;
    /// assert_eq!(memory.as_ptr() as usize % 4096, 0);
    /// # Ok::<(), outboard_plugin::Error>(())
    /// ```
    pub fn as_ptr(&self) -> *mut u8 {
        self.words.as_mut_ptr()
    }

    /// The words that hold `length` bytes from `offset` on, and the place of the first byte in the first of them.
    fn span(&self, offset: u64, length: usize) -> Result<(&[AtomicU64], usize), Error> {
        let end = offset.checked_add(length as u64).filter(|end| *end <= self.len());
        let Some(end) = end else { return Err(Error::OutOfBounds { offset, length, size: self.len() }) };
        if length == 0 {
            return Ok((&[], 0));
        }
        Ok((&self.words[(offset / 8) as usize..end.div_ceil(8) as usize], (offset % 8) as usize))
    }
}

impl AsFd for GuestMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn check_length(length: u64) -> Result<(), Error> {
    if length == 0 || !length.is_multiple_of(4096) || usize::try_from(length).is_err() {
        return Err(Error::Argument("the length of guest memory is no positive multiple of 4096"));
    }
    Ok(())
}

/// Replaces some bytes of a word and keeps the others, whoever writes them meanwhile.
fn write_part(word: Option<&AtomicU64>, skip: usize, bytes: &[u8]) {
    let Some(word) = word else { return };
    let replace = |now: u64| {
        let mut value = now.to_le_bytes();
        value[skip..skip + bytes.len()].copy_from_slice(bytes);
        Some(u64::from_le_bytes(value))
    };
    // The closure never returns `None`, so this cannot fail.
    let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, replace);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_offset_and_length_comes_back_and_touches_nothing_else() {
        for offset in 0..20u64 {
            for length in 0..30usize {
                let memory = GuestMemory::new(4096).unwrap();
                memory.write(0, &[0xee; 64]).unwrap();
                let bytes: Vec<u8> = (1..=length as u8).collect();
                memory.write(offset, &bytes).unwrap();
                let mut back = [0; 64];
                memory.read(0, &mut back).unwrap();
                let mut expected = [0xee; 64];
                expected[offset as usize..offset as usize + length].copy_from_slice(&bytes);
                assert_eq!(back, expected, "{length} bytes at {offset}");
                let mut part = vec![0; length];
                memory.read(offset, &mut part).unwrap();
                assert_eq!(part, bytes);
            }
        }
    }

    #[test]
    fn the_end_is_the_end() {
        let memory = GuestMemory::new(4096).unwrap();
        assert!(memory.write(4095, &[1]).is_ok());
        assert!(memory.write(4096, &[]).is_ok());
        for (offset, length) in [(4096, 1), (4095, 2), (u64::MAX, 2), (u64::MAX, 1)] {
            let error = memory.read(offset, &mut vec![0; length]).unwrap_err();
            assert_eq!(error.errno(), libc::EFAULT);
        }
        assert_eq!(GuestMemory::new(0).unwrap_err().errno(), libc::EINVAL);
        assert_eq!(GuestMemory::new(100).unwrap_err().errno(), libc::EINVAL);
    }

    #[test]
    fn exchanges_need_their_alignment_and_stay_inside() {
        let memory = GuestMemory::new(4096).unwrap();
        let errno = |result: Result<u128, Error>| result.unwrap_err().errno();
        assert_eq!(errno(memory.compare_exchange(4, 0, 1).map(u128::from)), libc::EINVAL);
        assert_eq!(errno(memory.compare_exchange(4096, 0, 1).map(u128::from)), libc::EFAULT);
        assert_eq!(errno(memory.compare_exchange_16(8, 0, 1)), libc::EINVAL);
        assert_eq!(errno(memory.compare_exchange_16(4096, 0, 1)), libc::EFAULT);
        assert_eq!(memory.compare_exchange_16(4080, 0, u128::MAX).unwrap(), 0);
    }

    #[test]
    fn exchanges_of_two_threads_do_not_get_lost() {
        let memory = GuestMemory::new(4096).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let mut seen = 0;
                        // Both halves count, so that a torn exchange shows.
                        let next = |value: u128| value + (1 << 64 | 1);
                        while let found = memory.compare_exchange_16(32, seen, next(seen)).unwrap()
                            && found != seen
                        {
                            seen = found;
                        }
                    }
                });
            }
        });
        assert_eq!(memory.compare_exchange_16(32, 0, 0).unwrap(), 40_000 << 64 | 40_000);
    }

    #[test]
    fn neighbouring_bytes_of_one_word_do_not_get_lost() {
        let memory = GuestMemory::new(4096).unwrap();
        std::thread::scope(|scope| {
            for byte in 0..2 {
                let memory = &memory;
                scope.spawn(move || {
                    for value in 0..20_000u32 {
                        memory.write_obj(byte * 4, &value).unwrap();
                        assert_eq!(memory.read_obj::<u32>(byte * 4).unwrap(), value);
                    }
                });
            }
        });
    }
}
