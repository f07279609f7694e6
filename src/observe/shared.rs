//! The memfd that tools read: its making, and the parts of it that the control thread writes.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::sys::Errno;
use crate::sys::memfd::{self, Seals};
use outboard_wire::page::{Access, BlockRef, Blocks};
use outboard_wire::stats::read::{Snapshot, Vm, read_vm};
use outboard_wire::stats::{Header, STRIDE, VcpuStats};

/// The counters of a VM.
#[derive(Debug)]
pub struct SharedStats {
    /// What tools find under `/proc/PID/fd`.
    file: File,
    blocks: Arc<Blocks<VcpuStats>>,
}

impl SharedStats {
    /// Makes the counters of a VM, all zero. Nobody but this mapping can write them.
    ///
    /// # Errors
    /// What memfd_create(2), fcntl(2) and mmap(2) say.
    pub fn new(header: &Header<'_>) -> Result<SharedStats, Errno> {
        let vcpus = header.vcpus as usize;
        let fd: OwnedFd = memfd::create(c"outboard-stats")?;
        memfd::set_size(fd.as_fd(), (vcpus * STRIDE) as u64)?;
        memfd::add_seals(fd.as_fd(), Seals::SHRINK | Seals::GROW)?;
        let blocks = Arc::new(Blocks::map(fd.as_fd(), vcpus, Access::Write)?);
        // The owner of a memfd may open it for writing through /proc; the seal is what keeps it from changing the counters.
        memfd::add_seals(fd.as_fd(), Seals::FUTURE_WRITE | Seals::SEAL)?;
        let stats = SharedStats { file: fd.into(), blocks };
        stats.block(0).begin(header);
        Ok(stats)
    }

    /// The block of a vCPU.
    ///
    /// # Panics
    /// Past the last vCPU.
    pub fn block(&self, vcpu: usize) -> BlockRef<VcpuStats> {
        BlockRef::new(&self.blocks, vcpu).expect("a block per vCPU")
    }

    /// Inode number of the memfd: no other VM of this host has the same.
    pub fn number(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.ino())
    }

    /// Says how the VM as a whole is: one of [`outboard_wire::stats::state`].
    pub fn set_state(&self, state: u64) {
        self.block(0).vm.state.store(state, Ordering::Release);
    }

    /// Trace records that the vCPUs have lost.
    pub fn dropped(&self) -> u64 {
        let of = |vcpu| self.block(vcpu).vcpu.dropped.load(Ordering::Relaxed);
        (0..self.blocks.count()).map(of).sum()
    }

    /// What the VM says about itself.
    pub fn vm(&self) -> Vm {
        read_vm(&self.file).unwrap_or_default()
    }

    /// All counters as they are now; empty if they cannot be read, which does not happen to a file of one's own.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::read(&self.file).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::memfd;
    use outboard_wire::stats::Sample;
    use outboard_wire::stats::buckets::Part;
    use outboard_wire::stats::cell::{Cell, INSIDE, Kind};
    use std::io::Write;

    fn header() -> Header<'static> {
        Header { vcpus: 2, pid: 7, tsc_khz: 2_000_000, start_tsc: 1, start_time: 2, name: "one\n", path: b"/bin/p" }
    }

    #[test]
    fn what_is_counted_is_read_back() {
        let stats = SharedStats::new(&header()).unwrap();
        let (first, second) = (stats.block(0), stats.block(1));
        first.set_range(0, true, false, 0x1000, 16);
        let cell = Cell::of_range(0, true, false);
        let sample = |exit| Sample { cell, exit, published: exit + 100, answered: exit + 1100, entered: exit + 1150 };
        first.count(&sample(5));
        second.count(&sample(1 << 40));
        second.count(&Sample { cell: INSIDE, exit: 10, published: 0, answered: 0, entered: 30 });
        let read = stats.snapshot();
        assert_eq!((read.vm.name.as_str(), read.vm.path.as_str(), read.vm.vcpus), ("one?", "/bin/p", 2));
        let kinds = read.kinds();
        let counts = &kinds[&Kind::MmioWrite];
        assert_eq!((counts.count, counts.sums), (2, [200, 2000, 100, 2300]));
        assert_eq!((counts.max, counts.max_plugin), (1150, 1000));
        assert!(counts.part(Part::Plugin).quantile(0.5).abs_diff(1000) <= 16);
        assert_eq!(counts.part(Part::Enter).quantile(1.0), 50);
        assert_eq!(read.inside().sums, [0, 0, 0, 20]);
        assert_eq!(read.range(cell).unwrap().start, 0x1000);
        first.release_range(0);
        assert!(stats.snapshot().range(cell).unwrap().released);
        let earlier = read;
        first.count(&sample(7));
        let since = stats.snapshot().since(&earlier);
        assert_eq!((since.kinds()[&Kind::MmioWrite].count, since.vcpus[1].cells.len()), (1, 0));
    }

    #[test]
    fn nobody_else_can_write_the_counters() {
        let stats = SharedStats::new(&header()).unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&stats.file));
        let mut again = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        assert_eq!(again.write(&[1]).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(memfd::seals(again.as_fd()).unwrap().contains(Seals::FUTURE_WRITE | Seals::SHRINK | Seals::GROW));
    }
}
