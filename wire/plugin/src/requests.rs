//! The typed requests of a connection: memory, ranges, interrupts, doorbells, pauses and hints.

use core::ops::Range;
use std::os::fd::AsFd;

use outboard_wire::control as wire;
use outboard_wire::limits::{MAX_HINT_DETAILS, MAX_VCPUS};

use crate::connection::{Connection, one};
use crate::error::Error;
use crate::eventfd::EventFd;
use crate::guest::GuestMemory;
use crate::space::{Files, Space};

/// Which part of a memfd the guest sees, and where.
///
/// ```
/// use outboard_plugin::Region;
///
/// let rom = Region { start: 0xffff_0000, length: 0x1_0000, read_only: true, ..Region::default() };
/// assert_eq!(rom.offset, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte within the memfd, a multiple of 4096.
    pub offset: u64,
    /// Bytes, a positive multiple of 4096.
    pub length: u64,
    /// Guest physical address of the first byte, a multiple of 4096.
    pub start: u64,
    /// The guest cannot write: its writes become MMIO writes.
    pub read_only: bool,
    /// KVM notes which pages the guest writes, see [`Connection::dirty_log`].
    pub dirty_log: bool,
}

/// A memory slot of the guest. Dropping it changes nothing, [`Connection::destroy_memory`] removes it.
#[derive(Debug, PartialEq, Eq)]
pub struct MemorySlot {
    id: u32,
    length: u64,
}

impl MemorySlot {
    /// Bytes of a dirty bitmap of this slot: one bit per page of 4096 bytes, rounded up to whole bytes.
    pub fn bitmap_len(&self) -> usize {
        self.length.div_ceil(4096 * 8) as usize
    }
}

/// An eventfd that raises an interrupt. It works until [`Connection::destroy_irq_event`].
#[derive(Debug)]
pub struct IrqEvent {
    id: u32,
    trigger: EventFd,
    resample: Option<EventFd>,
}

impl IrqEvent {
    /// Raises the interrupt: an edge, or with resample a level that stays up until the guest ends the interrupt.
    pub fn trigger(&self) {
        self.trigger.signal();
    }

    /// The eventfd behind [`IrqEvent::trigger`].
    pub fn fd(&self) -> &EventFd {
        &self.trigger
    }

    /// With resample: the eventfd that KVM signals when the guest ends the interrupt. A device that still has a reason then
    /// triggers again.
    pub fn resample_fd(&self) -> Option<&EventFd> {
        self.resample.as_ref()
    }
}

/// A doorbell: an eventfd that KVM signals when the guest writes to an address, without an exit. It works until
/// [`Connection::destroy_io_event`].
#[derive(Debug)]
pub struct IoEvent {
    id: u32,
    event: EventFd,
}

impl IoEvent {
    /// The eventfd that is signalled.
    pub fn fd(&self) -> &EventFd {
        &self.event
    }

    /// The eventfd alone, for a thread that waits for nothing else. The doorbell then stays as long as the VM.
    pub fn into_fd(self) -> EventFd {
        self.event
    }
}

/// An access that registers ride along with, see [`Connection::set_hint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Space of the access.
    pub space: Space,
    /// Address of the access; not 0.
    pub address: u64,
    /// True for writes, false for reads.
    pub on_write: bool,
    /// At most 32. The first one that matches decides what rides along beside the general registers.
    pub details: Vec<HintDetail>,
}

/// Compares registers and names the files that ride along when all of them match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HintDetail {
    /// Values that rax, rbx, rcx and rdx must have; `None` matches any.
    pub registers: [Option<u64>; 4],
    /// Files that ride along on a match: [`Files::SREGS`] and [`Files::DEBUGREGS`].
    pub files: Files,
}

impl Connection {
    /// Gives the guest memory: a region of a [`GuestMemory`] or of any other memfd that is sealed with `F_SEAL_SHRINK`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EINVAL` if it is no memfd, something is not a multiple of 4096 or the region ends behind the
    /// end of the file, `EOVERFLOW` if a sum exceeds 2^64, `EPERM` without the seal, `EEXIST` on overlap with a slot.
    ///
    /// ```no_run
    /// use outboard_plugin::{GuestMemory, Region};
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let memory = GuestMemory::new(0x20_0000)?;
    /// let region = Region { length: memory.len(), dirty_log: true, ..Region::default() };
    /// let slot = vm.create_memory(&memory, &region)?;
    /// let dirty = vm.dirty_log(&slot)?;
    /// println!("page 9 was written: {}", dirty[1] & 2 != 0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_memory(&mut self, memory: &impl AsFd, region: &Region) -> Result<MemorySlot, Error> {
        let Region { offset, length, start, read_only, dirty_log } = *region;
        let flags = u32::from(read_only) * wire::MEMORY_READ_ONLY + u32::from(dirty_log) * wire::MEMORY_DIRTY_LOG;
        let request = wire::CreateMemory { offset, length, start, flags, reserved: 0 };
        let say = || format!("put memory at {start:#x}..{:#x}", u128::from(start) + u128::from(length));
        let (reply, _) = self.call(&request, &[memory.as_fd()]).map_err(|error| error.about(say))?;
        Ok(MemorySlot { id: reply.id, length })
    }

    /// Takes a memory slot out of the guest.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` the second time.
    pub fn destroy_memory(&mut self, slot: &MemorySlot) -> Result<(), Error> {
        self.call(&wire::DestroyMemory { id: slot.id }, &[]).map(drop)
    }

    /// The pages of a slot that the guest wrote since the last call: one bit per page of 4096 bytes, lowest bit first, in
    /// exactly [`MemorySlot::bitmap_len`] bytes.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` if the slot is gone or keeps no log.
    pub fn dirty_log(&mut self, slot: &MemorySlot) -> Result<Vec<u8>, Error> {
        let (reply, fds) = self.call(&wire::DirtyLog { id: slot.id }, &[])?;
        let mut bitmap = vec![0; slot.bitmap_len()];
        if reply.pages.div_ceil(8) != bitmap.len() as u64 {
            return Err(Error::Reply("it sent a dirty log for another number of pages"));
        }
        let file = std::fs::File::from(one(fds)?);
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bitmap, 0).map_err(Error::io("read a dirty log"))?;
        Ok(bitmap)
    }

    /// Reserves a range: every access that starts in it stops the vCPU and reaches the plugin as
    /// [`Event::Read`](crate::Event::Read) or [`Event::Write`](crate::Event::Write).
    ///
    /// # Errors
    /// [`Error::Refused`] with `EPERM` on overlap with any reservation, `EINVAL` for an empty range (it would mean release
    /// and is caught here).
    ///
    /// ```no_run
    /// use outboard_plugin::Space;
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// vm.reserve(Space::Port, 0x60..0x61)?;
    /// vm.reserve(Space::Mmio, 0xfed0_0000..0xfed0_1000)?;
    /// vm.reserve_posted(Space::Port, 0xe9..0xea)?;
    /// vm.release(Space::Port, 0x60)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn reserve(&mut self, space: Space, range: Range<u64>) -> Result<(), Error> {
        self.reserve_kind(space, wire::RANGE_SYNCHRONOUS, range)
    }

    /// Reserves a range for posted writes: the vCPU does not wait for the plugin, which gets each of them in order as
    /// [`Event::Posted`](crate::Event::Posted). Reads there do not reach the plugin.
    ///
    /// # Errors
    /// As [`Connection::reserve`].
    pub fn reserve_posted(&mut self, space: Space, range: Range<u64>) -> Result<(), Error> {
        self.reserve_kind(space, wire::RANGE_POSTED, range)
    }

    /// Reserves a range whose writes are posted as with [`Connection::reserve_posted`], and whose reads stop the vCPU and
    /// reach the plugin as [`Event::Read`](crate::Event::Read), behind the writes before them: a serial port's data
    /// register, or an index register beside its data.
    ///
    /// # Errors
    /// As [`Connection::reserve`].
    pub fn reserve_posted_writes(&mut self, space: Space, range: Range<u64>) -> Result<(), Error> {
        self.reserve_kind(space, wire::RANGE_POSTED_WRITES, range)
    }

    /// Releases the range of [`Connection::reserve`] that starts at `start`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` if there is none.
    pub fn release(&mut self, space: Space, start: u64) -> Result<(), Error> {
        self.range_request(space, wire::RANGE_SYNCHRONOUS, start, 0)
    }

    /// Releases the range of [`Connection::reserve_posted`] that starts at `start`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` if there is none.
    pub fn release_posted(&mut self, space: Space, start: u64) -> Result<(), Error> {
        self.range_request(space, wire::RANGE_POSTED, start, 0)
    }

    /// Releases the range of [`Connection::reserve_posted_writes`] that starts at `start`.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` if there is none.
    pub fn release_posted_writes(&mut self, space: Space, start: u64) -> Result<(), Error> {
        self.range_request(space, wire::RANGE_POSTED_WRITES, start, 0)
    }

    fn reserve_kind(&mut self, space: Space, kind: u32, range: Range<u64>) -> Result<(), Error> {
        let length = range.end.saturating_sub(range.start);
        if length == 0 {
            return Err(Error::Argument("an empty range cannot be reserved"));
        }
        self.range_request(space, kind, range.start, length)
    }

    fn range_request(&mut self, space: Space, kind: u32, start: u64, length: u64) -> Result<(), Error> {
        let request = wire::ReserveRange { space: space.number(), kind, start, length };
        let say = || match length {
            0 => format!("release {space} {start:#x}"),
            _ => format!("reserve {space} {start:#x}..{:#x}", start + length),
        };
        self.call(&request, &[]).map(drop).map_err(|error| error.about(say))
    }

    /// Decides what the guest reads where nothing is reserved: 0x00, as after the start, or 0xff, as an empty bus gives.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EINVAL` for any other byte.
    pub fn set_unclaimed(&mut self, byte: u8) -> Result<(), Error> {
        let say = || format!("let unclaimed reads give {byte:#04x}");
        self.call(&wire::SetUnclaimed { byte: byte.into() }, &[]).map(drop).map_err(|error| error.about(say))
    }

    /// Asks for a pause: each of these vCPUs delivers [`Event::Paused`](crate::Event::Paused) with the cookie as soon as
    /// KVM has finished an access in flight. A later request before that replaces the cookie. Numbers past the last vCPU are
    /// ignored.
    ///
    /// # Errors
    /// [`Error::Closed`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// vm.pause_vcpus(0..vm.vcpu_count(), 42)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn pause_vcpus(&mut self, vcpus: impl IntoIterator<Item = u32>, cookie: u64) -> Result<(), Error> {
        let mut mask = [0; MAX_VCPUS / 64];
        for vcpu in vcpus {
            if let Some(word) = mask.get_mut(vcpu as usize / 64) {
                *word |= 1 << (vcpu % 64);
            }
        }
        self.call(&wire::PauseVcpus { cookie, mask }, &[]).map(drop)
    }

    /// Sets the level of an interrupt line (GSI). A device that changes it often is better served by
    /// [`Connection::create_irq_event`].
    ///
    /// # Errors
    /// [`Error::Refused`] with what KVM says.
    pub fn set_irq(&mut self, gsi: u32, active: bool) -> Result<(), Error> {
        let say = || format!("set GSI {gsi}");
        self.call(&wire::IrqLine { gsi, level: active.into() }, &[]).map(drop).map_err(|error| error.about(say))
    }

    /// Makes an eventfd that raises a GSI when it is signalled, without the VMM's help.
    ///
    /// # Errors
    /// [`Error::Refused`] with what KVM says, `ENOSPC` past 16384 of them.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let irq = vm.create_irq_event(4, false)?;
    /// irq.trigger();
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_irq_event(&mut self, gsi: u32, resample: bool) -> Result<IrqEvent, Error> {
        let flags = u32::from(resample) * wire::IRQ_EVENT_RESAMPLE;
        let say = || format!("make an irq event for GSI {gsi}");
        let (reply, fds) = self.call(&wire::CreateIrqEvent { gsi, flags }, &[]).map_err(|error| error.about(say))?;
        let mut fds = fds.into_iter().map(EventFd::from);
        match (fds.next(), fds.next()) {
            (Some(trigger), second) if second.is_some() == resample => {
                Ok(IrqEvent { id: reply.id, trigger, resample: second })
            }
            _ => Err(Error::Reply("it sent an irq event without its descriptors")),
        }
    }

    /// Takes an irq event away.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` the second time.
    pub fn destroy_irq_event(&mut self, event: &IrqEvent) -> Result<(), Error> {
        self.call(&wire::DestroyIrqEvent { id: event.id }, &[]).map(drop)
    }

    /// Makes a doorbell: KVM signals an eventfd when the guest writes `length` bytes (1, 2, 4 or 8; 0 for any) to an
    /// address, with `datamatch` only if it writes that value.
    ///
    /// # Errors
    /// [`Error::Refused`] with `EINVAL` for another length, a match with length 0 or an address out of its space, `EEXIST` if
    /// the same doorbell exists.
    ///
    /// ```no_run
    /// use outboard_plugin::Space;
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let queue = vm.create_io_event(Space::Mmio, 0xd000_0050, 4, Some(1))?;
    /// queue.fd().wait()?; // the guest wrote 1
    /// # Ok(())
    /// # }
    /// ```
    pub fn create_io_event(
        &mut self,
        space: Space,
        address: u64,
        length: u32,
        datamatch: Option<u64>,
    ) -> Result<IoEvent, Error> {
        let request = wire::CreateIoEvent {
            space: space.number(),
            length,
            address,
            datamatch: datamatch.unwrap_or(0),
            flags: if datamatch.is_some() { wire::IO_EVENT_DATAMATCH } else { 0 },
            reserved: 0,
        };
        let say = || format!("make an io event for {space} {address:#x}");
        let (reply, fds) = self.call(&request, &[]).map_err(|error| error.about(say))?;
        Ok(IoEvent { id: reply.id, event: EventFd::from(one(fds)?) })
    }

    /// Takes a doorbell away.
    ///
    /// # Errors
    /// [`Error::Refused`] with `ENOENT` the second time.
    pub fn destroy_io_event(&mut self, event: &IoEvent) -> Result<(), Error> {
        self.call(&wire::DestroyIoEvent { id: event.id }, &[]).map(drop)
    }

    /// Sets the register hint, or clears it with `None`: when an access hits exactly this space, address and direction, the
    /// general registers ride along with its event, and the first matching detail decides which other files do.
    ///
    /// # Errors
    /// [`Error::Argument`] (`EINVAL`) for more than 32 details, [`Error::Refused`] with `EINVAL` for address 0 or files that
    /// cannot ride along.
    ///
    /// ```no_run
    /// use outboard_plugin::{Files, Hint, HintDetail, Space};
    ///
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let rax_is_7 = HintDetail { registers: [Some(7), None, None, None], files: Files::SREGS };
    /// let hint = Hint { space: Space::Port, address: 0xb2, on_write: true, details: vec![rax_is_7] };
    /// vm.set_hint(Some(&hint))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_hint(&mut self, hint: Option<&Hint>) -> Result<(), Error> {
        let empty = wire::Hint { space: 0, on_write: 0, address: 0, details: 0, reserved: 0 };
        let details = [wire::HintDetail::default(); MAX_HINT_DETAILS];
        let mut request = wire::SetHint { count: 0, reserved: 0, hint: empty, details };
        if let Some(hint) = hint {
            if hint.details.len() > MAX_HINT_DETAILS {
                return Err(Error::Argument("a hint has more than 32 details"));
            }
            request.count = 1;
            request.hint = wire::Hint {
                space: hint.space.number(),
                on_write: hint.on_write.into(),
                address: hint.address,
                details: hint.details.len() as u32,
                reserved: 0,
            };
            for (to, from) in request.details.iter_mut().zip(&hint.details) {
                *to = wire_detail(from);
            }
        }
        self.call(&request, &[]).map(drop).map_err(|error| error.about(|| "set the register hint".into()))
    }

    /// Makes memory of `length` bytes and gives it to the guest at `start`: [`GuestMemory::new`] and
    /// [`Connection::create_memory`] in one.
    ///
    /// # Errors
    /// As those two.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), outboard_plugin::Error> {
    /// let mut vm = outboard_plugin::connect()?;
    /// let memory = vm.add_memory(0, 0x10_0000)?;
    /// memory.write(0x1000, &[0xf4])?; // hlt
    /// # Ok(())
    /// # }
    /// ```
    pub fn add_memory(&mut self, start: u64, length: usize) -> Result<GuestMemory, Error> {
        let memory = GuestMemory::new(length)?;
        self.create_memory(&memory, &Region { start, length: memory.len(), ..Region::default() })?;
        Ok(memory)
    }
}

fn wire_detail(detail: &HintDetail) -> wire::HintDetail {
    let mut to = wire::HintDetail { files: detail.files.bits().into(), ..wire::HintDetail::default() };
    for (index, value) in detail.registers.iter().enumerate() {
        if let Some(value) = value {
            to.matching |= 1 << index;
            to.values[index] = *value;
        }
    }
    to
}
