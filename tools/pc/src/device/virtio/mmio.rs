//! The register block of a virtio device in memory (specification, section 4.2.2).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use outboard_plugin::EventFd;
use virtio_bindings::virtio_config::{VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_F_VERSION_1};
use virtio_bindings::virtio_mmio as reg;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};

use super::{Backend, Kind};
use crate::bus::{Device, lock};
use crate::host::Irq;
use crate::memory::Map;

/// Bytes of the block, with the device's configuration.
pub const LENGTH: u64 = 0x200;
/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// Registers as of version 1.0 of the specification.
const VERSION: u32 = 2;
/// "OUTB": nobody's registered number.
const VENDOR: u32 = 0x4254_554f;
const CONFIG: u64 = reg::VIRTIO_MMIO_CONFIG as u64;
/// What every device here offers.
const FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX;

/// A device whose queues threads work on.
pub struct Live {
    queues: Vec<Mutex<Queue>>,
    backend: Mutex<Box<dyn Backend>>,
    memory: Map,
    irq: Irq,
    /// Interrupt status: bit 0, a queue has something for the guest.
    interrupts: AtomicU32,
    /// The driver is ready.
    running: AtomicBool,
}

impl Live {
    /// Works on a queue until it is empty, and interrupts the guest if it wants that.
    pub fn serve(&self, number: usize) {
        if !self.running.load(Ordering::Acquire) {
            return;
        }
        let Some(queue) = self.queues.get(number) else { return };
        let tell = {
            let mut queue = lock(queue);
            // Rings that lie outside of memory are the guest's loss.
            queue.is_valid(&self.memory) && lock(&self.backend).serve(number, &mut queue, &self.memory)
        };
        if tell {
            self.interrupts.fetch_or(1, Ordering::AcqRel);
            (self.irq)();
        }
    }
}

/// The registers.
pub struct Mmio {
    kind: Kind,
    live: Arc<Live>,
    /// The doorbell of each queue.
    doorbells: Vec<Arc<EventFd>>,
    status: u32,
    chosen_queue: usize,
    feature_word: [u32; 2],
    accepted: u64,
}

impl Mmio {
    /// A device of this kind with `backend` behind it. `doorbells` has one for each queue.
    pub fn new(kind: Kind, backend: Box<dyn Backend>, memory: Map, irq: Irq, doorbells: Vec<Arc<EventFd>>) -> Mmio {
        // Sizes are powers of two, so that a queue of each can be made.
        let queues = kind.queues.iter().filter_map(|size| Queue::new(*size).ok()).map(Mutex::new).collect();
        let live = Live {
            queues,
            backend: Mutex::new(backend),
            memory,
            irq,
            interrupts: AtomicU32::new(0),
            running: AtomicBool::new(false),
        };
        let live = Arc::new(live);
        Mmio { kind, live, doorbells, status: 0, chosen_queue: 0, feature_word: [0; 2], accepted: 0 }
    }

    /// The part that threads work on.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    fn offered(&self) -> u64 {
        FEATURES | self.kind.features
    }

    fn register(&self, offset: u32) -> u32 {
        let queue = self.live.queues.get(self.chosen_queue).map(|queue| lock(queue));
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.kind.id,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered(), self.feature_word[0]),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |queue| queue.max_size().into()),
            reg::VIRTIO_MMIO_QUEUE_READY => queue.map_or(0, |queue| queue.ready().into()),
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.live.interrupts.load(Ordering::Acquire),
            reg::VIRTIO_MMIO_STATUS => self.status,
            _ => 0, // among them: the generation of a configuration that never changes
        }
    }

    fn set_register(&mut self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.feature_word[0] = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.feature_word[1] = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => {
                let shift = if self.feature_word[1] == 0 { 0 } else { 32 };
                if self.feature_word[1] <= 1 {
                    self.accepted = self.accepted & !(0xffff_ffff << shift) | u64::from(value) << shift;
                }
            }
            reg::VIRTIO_MMIO_QUEUE_SEL => self.chosen_queue = value as usize,
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => {
                if let Some(doorbell) = self.doorbells.get(value as usize) {
                    doorbell.signal();
                }
            }
            reg::VIRTIO_MMIO_INTERRUPT_ACK => drop(self.live.interrupts.fetch_and(!value, Ordering::AcqRel)),
            reg::VIRTIO_MMIO_STATUS => self.set_status(value),
            _ => self.set_queue_register(offset, value),
        }
    }

    fn set_status(&mut self, value: u32) {
        self.status = value & 0xff;
        let runs = self.status & VIRTIO_CONFIG_S_DRIVER_OK != 0;
        if runs && !self.live.running.load(Ordering::Acquire) {
            for queue in &self.live.queues {
                lock(queue).set_event_idx(self.accepted & 1 << VIRTIO_RING_F_EVENT_IDX != 0);
            }
            self.live.running.store(true, Ordering::Release);
            // What the driver gave before it was ready, or rang for meanwhile.
            self.doorbells.iter().for_each(|doorbell| doorbell.signal());
        }
        if value == 0 {
            self.live.running.store(false, Ordering::Release);
            // Each lock waits for the thread that works on the queue now.
            self.live.queues.iter().for_each(|queue| lock(queue).reset());
            self.live.interrupts.store(0, Ordering::Release);
            (self.accepted, self.chosen_queue, self.feature_word) = (0, 0, [0; 2]);
        }
    }

    /// Where a queue lies is settled before the driver is ready.
    fn set_queue_register(&mut self, offset: u32, value: u32) {
        let running = self.live.running.load(Ordering::Acquire);
        let Some(queue) = self.live.queues.get(self.chosen_queue).filter(|_| !running) else { return };
        let mut queue = lock(queue);
        match offset {
            reg::VIRTIO_MMIO_QUEUE_NUM => queue.set_size(value as u16),
            reg::VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }
}

/// The low or high 32 bits, or none.
fn half(value: u64, which: u32) -> u32 {
    match which {
        0 => value as u32,
        1 => (value >> 32) as u32,
        _ => 0,
    }
}

impl Device for Mmio {
    fn reset(&mut self) {
        self.set_status(0);
    }

    fn read(&mut self, offset: u64, width: usize) -> u64 {
        if offset < CONFIG {
            return if width == 4 { self.register(offset as u32).into() } else { 0 };
        }
        let first = (offset - CONFIG) as usize;
        (0..width)
            .fold(0, |value, at| value | u64::from(self.kind.config.get(first + at).copied().unwrap_or(0)) << (8 * at))
    }

    fn write(&mut self, offset: u64, width: usize, value: u64) {
        // No device here has a configuration that the driver changes.
        if offset < CONFIG && width == 4 {
            self.set_register(offset as u32, value as u32);
        }
    }
}

#[cfg(test)]
#[path = "mmio_tests.rs"]
mod tests;
