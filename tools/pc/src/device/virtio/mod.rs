//! Virtio devices over MMIO (Virtual I/O Device specification 1.2).
//!
//! - [`mmio`]: the registers that all of them have.
//! - [`block`]: a disk from a file.
//! - [`console`]: a terminal line.
//!
//! The guest rings a doorbell without leaving the CPU: each queue has an eventfd and a thread that waits for it, and the
//! interrupt goes the other way by another eventfd.

pub mod block;
pub mod console;
pub mod mmio;
#[cfg(test)]
mod testing;

use virtio_queue::Queue;

use crate::memory::Map;

/// What is behind the registers.
pub trait Backend: Send {
    /// Does what lies in a queue, as far as that is possible now. True if something was given back to the guest that it
    /// wants to be told of.
    fn serve(&mut self, number: usize, queue: &mut Queue, memory: &Map) -> bool;
}

/// What the registers say about a device.
#[derive(Clone, Debug)]
pub struct Kind {
    /// Device number (specification, section 5).
    pub id: u32,
    /// Features offered, beside those of the transport.
    pub features: u64,
    /// Size of each queue, a power of two.
    pub queues: Vec<u16>,
    /// The device's configuration space.
    pub config: Vec<u8>,
}
