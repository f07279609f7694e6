//! Putting threads on CPUs.

#![allow(unsafe_code)]

/// CPUs that the calling thread may run on.
pub fn allowed() -> Vec<usize> {
    // SAFETY: `cpu_set_t` is plain data; the call fills it.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set);
        (0..libc::CPU_SETSIZE as usize).filter(|cpu| libc::CPU_ISSET(*cpu, &set)).collect()
    }
}

/// Keeps the calling thread on these CPUs.
pub fn pin(cpus: &[usize]) {
    // SAFETY: as above; CPU_SET checks nothing, but the numbers come from `allowed`.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        for cpu in cpus {
            libc::CPU_SET(*cpu, &mut set);
        }
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}
