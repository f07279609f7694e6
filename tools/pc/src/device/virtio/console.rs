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

#[cfg(test)]
mod tests {
    use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

    use super::*;
    use crate::device::virtio::testing::Driver;

    #[test]
    fn input_fills_the_guests_buffers_as_they_come() {
        let input = Input::default();
        let mut driver =
            Driver::new(Console::kind(), Box::new(Console::new(Box::new(std::io::sink()), Arc::clone(&input))));
        driver.begin(1 << VIRTIO_F_VERSION_1);
        assert_eq!(driver.request(&[(0x4000, 3, true), (0x5000, 10, true)]), None, "there is no input");
        lock(&input).extend(b"hello");
        driver.device.live().serve(RECEIVE);
        assert_eq!((driver.get(0x4000, 4), driver.get(0x5000, 3)), (b"hel\0".to_vec(), b"lo\0".to_vec()));
        lock(&input).extend(b"x");
        assert_eq!(driver.request(&[(0x4000, 3, true)]), Some(1));
        assert!(lock(&input).is_empty());
    }

    #[test]
    fn output_is_printed_and_buffers_outside_of_memory_are_not() {
        #[derive(Clone, Default)]
        struct Kept(Arc<Mutex<Vec<u8>>>);

        impl Write for Kept {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.lock().unwrap().extend(bytes);
                Ok(bytes.len())
            }

            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }

        let printed = Kept::default();
        let mut console = Console::new(Box::new(printed.clone()), Input::default());
        let memory = Map::from_ranges(&[(vm_memory::GuestAddress(0), 0x3000)]).unwrap();
        memory.write_slice(&[b'y'; 5000], vm_memory::GuestAddress(0x100)).unwrap();
        console.print(0x100, 5000, &memory);
        console.print(0x2fff, 5000, &memory);
        console.print(u64::MAX, usize::MAX, &memory);
        assert_eq!(*printed.0.lock().unwrap(), [b'y'; 5000]);
    }
}
