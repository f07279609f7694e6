//! A vCPU as the C interface shows it: the events of the SDK, and string accesses item by item.

use core::ffi::c_void;

use outboard_plugin::{Access, Exit, PostedWrite, RawEvent, Registers, Space, Vcpu};

use crate::abi::{self, IoAccess, VcpuEvent};
use crate::call::Errno;

/// A vCPU as the SDK has it, and what is left to deliver of a string access.
pub struct Driver {
    vcpu: Vcpu,
    items: Option<Items>,
}

/// String port I/O: one event of the VMM that the plugin gets item by item, each as the access that the guest made. A
/// plugin that knows registers of up to eight bytes needs to know no more.
#[derive(Clone, Copy)]
struct Items {
    access: Access,
    is_write: bool,
    /// Where the item lies that the plugin has or gets next.
    offset: u32,
    /// The item before it was resumed, and the one at `offset` is not delivered yet.
    answered: bool,
}

impl Driver {
    /// Drives a vCPU.
    pub fn new(vcpu: Vcpu) -> Driver {
        Driver { vcpu, items: None }
    }

    /// The registers, unless the plugin is between two items of a string access: there the guest has not come to a halt for it.
    pub fn registers(&mut self) -> Result<&mut Registers, Errno> {
        if self.items.is_some_and(|items| items.answered) {
            return Err(Errno::PROTOCOL);
        }
        Ok(self.vcpu.registers())
    }

    /// Waits for the next event, or takes the next item of the one at hand.
    #[inline(always)]
    pub fn next(&mut self) -> Result<VcpuEvent, Errno> {
        if self.items.is_some() {
            return self.next_item();
        }
        match self.vcpu.next_event()? {
            RawEvent::Read(access) => Ok(self.accessed(access, false)),
            RawEvent::Write(access) => Ok(self.accessed(access, true)),
            RawEvent::Posted(write) => Ok(self.posted(&write)),
            RawEvent::Init => Ok(VcpuEvent::new(abi::EVENT_INIT)),
            RawEvent::Paused { cookie } => {
                let mut event = VcpuEvent::new(abi::EVENT_PAUSED);
                event.of.user = core::ptr::with_exposed_provenance_mut::<c_void>(cookie as usize);
                Ok(event)
            }
            RawEvent::Shutdown => Err(Errno(libc::ESHUTDOWN)),
            _ => self.exit(),
        }
    }

    #[inline(always)]
    fn accessed(&mut self, access: Access, is_write: bool) -> VcpuEvent {
        let width = u32::from(access.width);
        if width != 0 && width < access.length {
            self.items = Some(Items { access, is_write, offset: 0, answered: false });
            return self.event(access, 0, width, is_write);
        }
        self.event(access, 0, access.length, is_write)
    }

    /// The event of `length` bytes of the access, from `offset` on.
    #[inline(always)]
    fn event(&mut self, access: Access, offset: u32, length: u32, is_write: bool) -> VcpuEvent {
        let rest = self.vcpu.data_mut().get_mut(offset as usize..).unwrap_or_default();
        let length = length.min(rest.len() as u32);
        let io_access = IoAccess {
            address_space: space_number(access.space),
            padding: [0; 4],
            address: access.address,
            data: rest.as_mut_ptr(),
            length,
            is_write: is_write.into(),
            no_resume: 0,
            reserved: [0; 2],
        };
        let mut event = VcpuEvent::new(abi::EVENT_IO_ACCESS);
        event.of.io_access = io_access;
        event
    }

    /// The events of Hyper-V, which are the only other ones that come without being asked for.
    #[cold]
    fn exit(&mut self) -> Result<VcpuEvent, Errno> {
        let (kind, words) = match self.vcpu.registers().exit() {
            Some(Exit::HypervCall { input, params }) => {
                let result = self.vcpu.data_mut().as_mut_ptr().expose_provenance() as u64;
                (abi::EVENT_HYPERV_HCALL, [input, result, params[0], params[1]])
            }
            Some(Exit::HypervSynic { msr, control, event_page, message_page }) => {
                (abi::EVENT_HYPERV_SYNIC, [msr.into(), control, event_page, message_page])
            }
            _ => return Err(Errno::PROTOCOL),
        };
        let mut event = VcpuEvent::new(kind);
        let [a, b, c, d] = words;
        event.of.reserved = [a, b, c, d, 0, 0, 0, 0];
        Ok(event)
    }

    fn posted(&mut self, write: &PostedWrite) -> VcpuEvent {
        let (space, address) = (write.space, write.address);
        let access = Access { space, address, length: write.length.into(), width: write.length };
        let mut event = self.event(access, 0, access.length, true);
        event.of.io_access.no_resume = 1;
        event
    }

    #[cold]
    fn next_item(&mut self) -> Result<VcpuEvent, Errno> {
        let Some(items) = self.items.as_mut().filter(|items| items.answered) else { return Err(Errno::PROTOCOL) };
        items.answered = false;
        let items = *items;
        Ok(self.event(items.access, items.offset, items.access.width.into(), items.is_write))
    }

    /// Answers the event or item at hand.
    #[inline(always)]
    pub fn resume(&mut self) -> Result<(), Errno> {
        if self.items.is_some() && self.answer_item()? {
            return Ok(());
        }
        Ok(self.vcpu.resume()?)
    }

    /// Steps to the next item; false if this was the last one and the vCPU runs on.
    #[cold]
    fn answer_item(&mut self) -> Result<bool, Errno> {
        let Some(items) = &mut self.items else { return Ok(false) };
        if items.answered {
            return Err(Errno::PROTOCOL);
        }
        items.offset += u32::from(items.access.width);
        items.answered = true;
        let more = items.offset < items.access.length;
        if !more {
            self.items = None;
        }
        Ok(more)
    }
}

#[inline(always)]
fn space_number(space: Space) -> u32 {
    match space {
        Space::Port => abi::ADDRESS_SPACE_IOPORT,
        Space::Mmio => abi::ADDRESS_SPACE_MMIO,
    }
}
