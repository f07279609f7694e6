//! A terminal line (specification, section 5.3): one queue for each direction.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Arc, Mutex};

use virtio_queue::{Queue, QueueT};
use vm_memory::Bytes;

use super::{Backend, Kind};
use crate::bus::lock;
use crate::memory::Map;

/// Queue towards the guest.
pub const RECEIVE: usize = 0;
/// Queue from the guest.
pub const TRANSMIT: usize = 1;
const QUEUE: u16 = 64;
/// Most bytes that are copied in one piece.
const PIECE: usize = 4096;

/// Input that waits for the guest's buffers.
pub type Input = Arc<Mutex<VecDeque<u8>>>;

/// A terminal line.
pub struct Console {
    out: Box<dyn Write + Send>,
    input: Input,
}

impl Console {
    /// A line whose output goes to `out`. Whoever adds to `input` rings the doorbell of [`RECEIVE`].
    pub fn new(out: Box<dyn Write + Send>, input: Input) -> Console {
        Console { out, input }
    }

    /// What the registers say about it.
    pub fn kind() -> Kind {
        Kind {
            id: virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE,
            features: 0,
            queues: vec![QUEUE; 2],
            config: vec![0; 12],
        }
    }

    fn receive(&mut self, queue: &mut Queue, memory: &Map) -> bool {
        let (mut tell, mut input) = (false, lock(&self.input));
        while !input.is_empty() {
            let Some(chain) = queue.pop_descriptor_chain(memory) else { break };
            let (head, mut written) = (chain.head_index(), 0);
            for part in chain.writable() {
                let now = (part.len() as usize).min(input.len()).min(PIECE);
                let bytes: Vec<u8> = input.iter().take(now).copied().collect();
                if memory.write_slice(&bytes, part.addr()).is_err() {
                    break; // the guest's buffer is no memory: it waits for input in vain
                }
                input.drain(..now);
                written += now as u32;
            }
            if queue.add_used(memory, head, written).is_err() {
                break;
            }
            tell |= queue.needs_notification(memory).unwrap_or(true);
        }
        // The guest need not ring for buffers while there is nothing to put into them.
        let _ = queue.enable_notification(memory);
        tell
    }

    fn transmit(&mut self, queue: &mut Queue, memory: &Map) -> bool {
        let mut tell = false;
        loop {
            let _ = queue.disable_notification(memory);
            while let Some(chain) = queue.pop_descriptor_chain(memory) {
                let head = chain.head_index();
                for part in chain.readable() {
                    self.print(part.addr().0, part.len() as usize, memory);
                }
                if queue.add_used(memory, head, 0).is_err() {
                    return tell;
                }
                tell |= queue.needs_notification(memory).unwrap_or(true);
            }
            if !queue.enable_notification(memory).unwrap_or(false) {
                return tell;
            }
        }
    }

    fn print(&mut self, mut address: u64, mut length: usize, memory: &Map) {
        let mut piece = [0; PIECE];
        while length > 0 {
            let now = length.min(PIECE);
            if memory.read_slice(&mut piece[..now], vm_memory::GuestAddress(address)).is_err() {
                return;
            }
            // Output without a reader is the terminal's matter.
            let _ = self.out.write_all(&piece[..now]);
            (address, length) = (address.saturating_add(now as u64), length - now);
        }
    }
}

impl Backend for Console {
    fn serve(&mut self, number: usize, queue: &mut Queue, memory: &Map) -> bool {
        if number == RECEIVE { self.receive(queue, memory) } else { self.transmit(queue, memory) }
    }
}
