//! What a vCPU delivers, and how it is answered.

use core::ops::{Deref, DerefMut};

use outboard_wire::{posted, words};

use crate::exit::Exit;
use crate::registers::Registers;
use crate::space::Space;
use crate::stopped::Stopped;

/// What [`Vcpu::wait`](crate::Vcpu::wait) delivers.
///
/// Except for [`Event::Posted`] and [`Event::Shutdown`], the vCPU stands still until the event is answered. Dropping
/// such an event answers it too (reads give what [`Read`] says), so that a forgotten one cannot hang the guest.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The vCPU exists and has not run; always the first event. The plugin sets its registers now.
    Init(Stopped<'a>),
    /// The guest reads from a reserved range.
    Read(Read<'a>),
    /// The guest writes to a reserved range and waits.
    Write(Write<'a>),
    /// The guest wrote to a range of [`Connection::reserve_posted`](crate::Connection::reserve_posted) and runs on.
    Posted(PostedWrite),
    /// A pause of [`Connection::pause_vcpus`](crate::Connection::pause_vcpus).
    Paused(Paused<'a>),
    /// The vCPU stopped for another reason than an access; see [`Exit`](crate::Exit).
    Exit(Exited<'a>),
    /// The VM ends. Every further wait delivers this again.
    Shutdown,
}

/// An event without ties to its vCPU, for event loops and language bindings that keep the two apart, see
/// [`Vcpu::next_event`](crate::Vcpu::next_event).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RawEvent {
    /// As [`Event::Init`].
    Init,
    /// As [`Event::Read`]; the answer is [`Vcpu::data_mut`](crate::Vcpu::data_mut), zero bytes at first.
    Read(Access),
    /// As [`Event::Write`]; the value is [`Vcpu::data`](crate::Vcpu::data).
    Write(Access),
    /// As [`Event::Posted`]; not to be resumed.
    Posted(PostedWrite),
    /// As [`Event::Paused`].
    Paused {
        /// What the pause was asked for with.
        cookie: u64,
    },
    /// As [`Event::Exit`]; [`Registers::exit`] says which. Of a hypercall or the read of an MSR,
    /// [`Vcpu::data_mut`](crate::Vcpu::data_mut) is the result, eight bytes, lowest first.
    Exit,
    /// As [`Event::Shutdown`]; not to be resumed.
    Shutdown,
}

/// Where and how the guest reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Address space.
    pub space: Space,
    /// Address of the first byte. String port I/O stays at one port.
    pub address: u64,
    /// Bytes altogether: 1 to 8, up to 4096 for string port I/O.
    pub length: u32,
    /// Bytes of one item of string port I/O; for all else the same as the length.
    pub width: u8,
}

/// A posted write: the guest wrote this and did not wait.
///
/// ```
/// use outboard_plugin::{PostedWrite, Space};
///
/// let write = PostedWrite { space: Space::Port, address: 0xe9, length: 2, data: 0x6948, tsc: 0 };
/// assert_eq!(write.bytes(), b"Hi");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostedWrite {
    /// Address space.
    pub space: Space,
    /// Address of the first byte.
    pub address: u64,
    /// Bytes written, 1 to 8.
    pub length: u8,
    /// The value; bytes past the length are zero.
    pub data: u64,
    /// TSC when the guest left for this write.
    pub tsc: u64,
}

impl PostedWrite {
    #[inline]
    pub(crate) fn from_wire(write: &posted::PostedWrite) -> PostedWrite {
        let space = if write.mmio { Space::Mmio } else { Space::Port };
        PostedWrite { space, address: write.address, length: write.length, data: write.data, tsc: write.tsc }
    }

    /// The bytes written, lowest address first.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // x86-64 keeps the lowest byte first, so the value's own bytes are the ones written.
        &bytemuck::bytes_of(&self.data)[..usize::from(self.length.min(8))]
    }
}

impl Access {
    /// Bytes of one item, never 0, whatever the VMM said.
    #[inline]
    fn item(&self) -> usize {
        if self.length <= 8 && self.width == 0 {
            (self.length as usize).max(1)
        } else {
            usize::from(self.width).clamp(1, 8)
        }
    }
}

/// Lets an event be used like the [`Stopped`] inside it.
macro_rules! stopped {
    ($event:ident) => {
        impl<'a> Deref for $event<'a> {
            type Target = Stopped<'a>;

            #[inline]
            fn deref(&self) -> &Stopped<'a> {
                &self.stopped
            }
        }

        impl<'a> DerefMut for $event<'a> {
            #[inline]
            fn deref_mut(&mut self) -> &mut Stopped<'a> {
                &mut self.stopped
            }
        }
    };
}
stopped!(Read);
stopped!(Write);
stopped!(Paused);
stopped!(Exited);

/// The guest reads. Without an answer it reads zero bytes.
///
/// ```no_run
/// use outboard_plugin::Event;
///
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// # let mut vm = outboard_plugin::connect()?;
/// # let mut vcpu = vm.vcpu(0)?;
/// match vcpu.wait()? {
///     Event::Read(read) if read.address() == 0x3fd => read.answer_u64(0x60),
///     Event::Read(read) => read.answer_u64(u64::MAX),
///     _ => {}
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Read<'a> {
    stopped: Stopped<'a>,
    access: Access,
}

impl<'a> Read<'a> {
    #[inline]
    pub(crate) fn new(vcpu: &'a mut Registers, access: Access) -> Read<'a> {
        Read { stopped: Stopped::new(vcpu), access }
    }

    /// Where and how the guest reads.
    #[inline]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Address space.
    #[inline]
    pub fn space(&self) -> Space {
        self.access.space
    }

    /// Address of the first byte.
    #[inline]
    pub fn address(&self) -> u64 {
        self.access.address
    }

    /// Bytes that the guest reads: 1 to 8, up to 4096 for string port I/O.
    #[inline]
    pub fn length(&self) -> usize {
        self.access.length as usize
    }

    /// Sets the answer's bytes, lowest address first, and lets the vCPU run on. Bytes that are missing are zero, bytes too
    /// many are left out.
    #[inline]
    pub fn answer(mut self, bytes: &[u8]) {
        let data = self.stopped.data_mut();
        let length = bytes.len().min(data.len());
        data[..length].copy_from_slice(&bytes[..length]);
    }

    /// Answers with the low bytes of a value and lets the vCPU run on. In string port I/O every item reads this value.
    #[inline]
    pub fn answer_u64(mut self, value: u64) {
        let (item, data) = (self.access.item(), self.stopped.data_mut());
        if item >= data.len() {
            words::put_low_bytes(data, value);
        } else {
            self.answer_items(|| value);
        }
    }

    /// Answers each item of string port I/O with the next value, as a FIFO does, and lets the vCPU run on. A simple access
    /// takes one value.
    #[inline]
    pub fn answer_items(mut self, mut next: impl FnMut() -> u64) {
        let width = self.access.item();
        for item in self.stopped.data_mut().chunks_mut(width) {
            words::put_low_bytes(item, next());
        }
    }
}

/// The guest writes and waits.
///
/// ```no_run
/// use outboard_plugin::Event;
///
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// # let mut vm = outboard_plugin::connect()?;
/// # let mut vcpu = vm.vcpu(0)?;
/// if let Event::Write(write) = vcpu.wait()? {
///     println!("{} {:#x} <- {:x?}", write.space(), write.address(), write.data());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Write<'a> {
    stopped: Stopped<'a>,
    access: Access,
}

impl<'a> Write<'a> {
    #[inline]
    pub(crate) fn new(vcpu: &'a mut Registers, access: Access) -> Write<'a> {
        Write { stopped: Stopped::new(vcpu), access }
    }

    /// Where and how the guest writes.
    #[inline]
    pub fn access(&self) -> Access {
        self.access
    }

    /// Address space.
    #[inline]
    pub fn space(&self) -> Space {
        self.access.space
    }

    /// Address of the first byte.
    #[inline]
    pub fn address(&self) -> u64 {
        self.access.address
    }

    /// The bytes that the guest writes, lowest address first: a private copy that does not change.
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.stopped.data()
    }

    /// The value that the guest writes; of string port I/O, up to the first eight bytes.
    #[inline]
    pub fn value(&self) -> u64 {
        let data = self.data();
        words::low_bytes(&data[..data.len().min(8)])
    }

    /// The items of string port I/O in order, or the one value of a simple access.
    #[inline]
    pub fn items(&self) -> impl Iterator<Item = u64> {
        self.data().chunks(self.access.item()).map(words::low_bytes)
    }
}

/// The vCPU paused because [`Connection::pause_vcpus`](crate::Connection::pause_vcpus) asked for it.
#[derive(Debug)]
pub struct Paused<'a> {
    stopped: Stopped<'a>,
    cookie: u64,
}

impl<'a> Paused<'a> {
    #[inline]
    pub(crate) fn new(vcpu: &'a mut Registers, cookie: u64) -> Paused<'a> {
        Paused { stopped: Stopped::new(vcpu), cookie }
    }

    /// What the pause was asked for with.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }
}

/// The vCPU stopped for another reason than an access, and waits for an answer.
///
/// ```no_run
/// use outboard_plugin::{Event, Exit};
///
/// # fn main() -> Result<(), outboard_plugin::Error> {
/// # let mut vm = outboard_plugin::connect()?;
/// # let mut vcpu = vm.vcpu(0)?;
/// if let Event::Exit(exited) = vcpu.wait()? {
///     match exited.exit() {
///         Exit::ReadMsr { index: 0x1234, .. } => exited.answer(7),
///         Exit::WriteMsr { index: 0x1234, .. } => exited.accept(),
///         other => println!("{other:?}"), // what is not answered is refused to the guest
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Exited<'a> {
    stopped: Stopped<'a>,
    exit: Exit,
}

impl<'a> Exited<'a> {
    pub(crate) fn new(vcpu: &'a mut Registers, exit: Exit) -> Exited<'a> {
        Exited { stopped: Stopped::new(vcpu), exit }
    }

    /// Why the vCPU stopped.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// Sets the result of a hypercall or the value of an MSR, and lets the vCPU run on.
    pub fn answer(mut self, result: u64) {
        self.stopped.set_result(result);
    }

    /// Accepts the write of an MSR, or says that the instruction which KVM cannot emulate was carried out, and lets the vCPU run
    /// on. The same as dropping it for all else.
    pub fn accept(mut self) {
        self.stopped.set_fault(false);
    }

    /// Gives the guest a general protection fault for its access to an MSR; ends the VM if it is about an instruction that KVM
    /// cannot emulate.
    pub fn fault(mut self) {
        self.stopped.set_fault(true);
    }
}
