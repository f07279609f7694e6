//! Which CPUs the calling thread may run on, see sched_setaffinity(2).

#![allow(unsafe_code)]

use std::mem::size_of_val;

use super::errno::{Errno, check};

/// CPUs per word of a mask.
const WORD: usize = u64::BITS as usize;

/// Words the first attempt offers: 1024 CPUs, the size of glibc's `cpu_set_t`.
const FIRST_WORDS: usize = 16;

/// Words after which a mask is not tried any larger: 2^20 CPUs, well over the 8192 of the largest kernel.
const MAX_WORDS: usize = 1 << 14;

/// The CPUs the calling thread may run on, ascending. Any number of CPUs: a mask smaller than the kernel's
/// is refused with `EINVAL`, and then a larger one is tried.
///
/// # Errors
/// Those of sched_getaffinity(2).
pub fn allowed() -> Result<Vec<usize>, Errno> {
    let mut words = FIRST_WORDS;
    loop {
        let mut mask = vec![0u64; words];
        // SAFETY: the mask is writable for the size given, which counts bytes.
        let ret = unsafe { libc::sched_getaffinity(0, size_of_val(&*mask), mask.as_mut_ptr().cast()) };
        match check(ret) {
            Ok(_) => return Ok(members(&mask)),
            Err(Errno::EINVAL) if words < MAX_WORDS => words *= 2,
            Err(errno) => return Err(errno),
        }
    }
}

/// Lets the calling thread run on these CPUs only. Those that do not exist, are offline or are outside the
/// thread's cpuset are left out by the kernel.
///
/// # Errors
/// `EINVAL` if none of them can be used, or if one is larger than any kernel supports.
pub fn allow(cpus: &[usize]) -> Result<(), Errno> {
    let mask = mask_of(cpus)?;
    // SAFETY: the mask is readable for the size given, which counts bytes.
    check(unsafe { libc::sched_setaffinity(0, size_of_val(&*mask), mask.as_ptr().cast()) }).map(drop)
}

fn members(mask: &[u64]) -> Vec<usize> {
    (0..mask.len() * WORD).filter(|cpu| mask[cpu / WORD] >> (cpu % WORD) & 1 == 1).collect()
}

fn mask_of(cpus: &[usize]) -> Result<Vec<u64>, Errno> {
    let words = cpus.iter().max().map_or(1, |cpu| cpu / WORD + 1);
    if words > MAX_WORDS {
        return Err(Errno::EINVAL);
    }
    let mut mask = vec![0u64; words];
    for cpu in cpus {
        mask[cpu / WORD] |= 1 << (cpu % WORD);
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks() {
        for cpus in [vec![], vec![0], vec![63, 64, 5000], vec![1, 2, 1023, 1024]] {
            assert_eq!(members(&mask_of(&cpus).unwrap()), cpus);
        }
        assert_eq!(mask_of(&[usize::MAX]), Err(Errno::EINVAL));
    }

    #[test]
    fn a_thread_moves() {
        std::thread::spawn(|| {
            let before = allowed().unwrap();
            let last = *before.last().unwrap();
            allow(&[last, last + 4096]).unwrap();
            assert_eq!(allowed(), Ok(vec![last]));
            assert_eq!(allow(&[]), Err(Errno::EINVAL));
            allow(&before).unwrap();
            assert_eq!(allowed(), Ok(before));
        })
        .join()
        .unwrap();
    }
}
