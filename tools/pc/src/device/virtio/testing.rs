//! A driver for tests: sets a device up by its registers and lays requests into its first queue.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use outboard_plugin::EventFd;
use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress};

use super::mmio::Mmio;
use super::{Backend, Kind};
use crate::bus::Device;
use crate::host::tests::counted;
use crate::memory::Map;

const DESCRIPTORS: u64 = 0x1000;
const AVAILABLE: u64 = 0x2000;
const USED: u64 = 0x3000;
const SIZE: u16 = 16;
/// Bytes of the tests' memory.
pub const MEMORY: u64 = 0x2_0000;
/// Flags of a descriptor.
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A part of a request: address, length, and whether the device writes it.
pub type Part = (u64, u32, bool);

/// A device with its driver.
pub struct Driver {
    pub device: Mmio,
    pub memory: Map,
    pub interrupts: Arc<AtomicUsize>,
    pub doorbells: Vec<Arc<EventFd>>,
    given: u16,
}

impl Driver {
    /// The device as it is before a driver finds it.
    pub fn new(kind: Kind, backend: Box<dyn Backend>) -> Driver {
        let memory = Map::from_ranges(&[(GuestAddress(0), MEMORY as usize)]).unwrap();
        let (irq, interrupts) = counted();
        let eventfd = || EventFd::from(rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap());
        let doorbells: Vec<_> = kind.queues.iter().map(|_| Arc::new(eventfd())).collect();
        let device = Mmio::new(kind, backend, memory.clone(), irq, doorbells.clone());
        Driver { device, memory, interrupts, doorbells, given: 0 }
    }

    pub fn read(&mut self, register: u32) -> u32 {
        self.device.read(register.into(), 4) as u32
    }

    pub fn write(&mut self, register: u32, value: u32) {
        self.device.write(register.into(), 4, value.into());
    }

    /// Accepts these features and makes the first queue ready.
    pub fn begin(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.write(reg::VIRTIO_MMIO_STATUS, status);
        }
        for half in [0, 1] {
            self.write(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.write(reg::VIRTIO_MMIO_STATUS, 0xb);
        self.write(reg::VIRTIO_MMIO_QUEUE_SEL, 0);
        self.write(reg::VIRTIO_MMIO_QUEUE_NUM, SIZE.into());
        for (low, address) in [
            (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, DESCRIPTORS),
            (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, AVAILABLE),
            (reg::VIRTIO_MMIO_QUEUE_USED_LOW, USED),
        ] {
            self.write(low, address as u32);
            self.write(low + 4, 0);
        }
        self.write(reg::VIRTIO_MMIO_QUEUE_READY, 1);
        self.write(reg::VIRTIO_MMIO_STATUS, 0xf);
        self.given = 0;
    }

    /// Gives the device a request and lets it work; bytes that it says it wrote, if it gave the request back.
    pub fn request(&mut self, parts: &[Part]) -> Option<u32> {
        for (number, (address, length, write)) in (0u64..).zip(parts) {
            let last = number as usize + 1 == parts.len();
            let flags = if *write { WRITE } else { 0 } | if last { 0 } else { NEXT };
            let at = DESCRIPTORS + number * 16;
            self.put(at, &address.to_le_bytes());
            self.put(at + 8, &length.to_le_bytes());
            self.put(at + 12, &flags.to_le_bytes());
            self.put(at + 14, &(number as u16 + 1).to_le_bytes());
        }
        self.put(AVAILABLE + 4 + u64::from(self.given % SIZE) * 2, &0u16.to_le_bytes());
        self.given += 1;
        self.put(AVAILABLE + 2, &self.given.to_le_bytes());
        self.device.live().serve(0);
        let used: u16 = self.memory.read_obj(GuestAddress(USED + 2)).unwrap();
        (used == self.given).then(|| {
            let entry = USED + 4 + u64::from((used - 1) % SIZE) * 8;
            self.memory.read_obj(GuestAddress(entry + 4)).unwrap()
        })
    }

    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }

    pub fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}
