//! Tests of the registers, with a device behind them that fills buffers.

use super::*;
use crate::device::virtio::testing::{Driver, MEMORY};

/// Writes sevens.
struct Sevens;

impl Backend for Sevens {
    fn serve(&mut self, _: usize, queue: &mut Queue, memory: &Map) -> bool {
        let mut tell = false;
        while let Some(chain) = queue.pop_descriptor_chain(memory) {
            let (head, mut written) = (chain.head_index(), 0);
            for part in chain.writable() {
                vm_memory::Bytes::write_slice(memory, &vec![7; part.len() as usize], part.addr()).unwrap();
                written += part.len();
            }
            queue.add_used(memory, head, written).unwrap();
            tell |= queue.needs_notification(memory).unwrap();
        }
        tell
    }
}

fn driver() -> Driver {
    let kind = Kind { id: 2, features: 1 << 5, queues: vec![16, 8], config: vec![1, 2, 3, 4, 5] };
    Driver::new(kind, Box::new(Sevens))
}

#[test]
fn the_registers_say_what_it_is() {
    let mut driver = driver();
    assert_eq!(driver.read(reg::VIRTIO_MMIO_MAGIC_VALUE).to_le_bytes(), *b"virt");
    assert_eq!(driver.read(reg::VIRTIO_MMIO_VERSION), 2);
    assert_eq!(driver.read(reg::VIRTIO_MMIO_DEVICE_ID), 2);
    let mut features = 0;
    for half in [0, 1, 2] {
        driver.write(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, half);
        let word = driver.read(reg::VIRTIO_MMIO_DEVICE_FEATURES);
        features |= u128::from(word) << (32 * half);
    }
    assert_eq!(features, u128::from(FEATURES | 1 << 5));
    for (queue, size) in [(0, 16), (1, 8), (2, 0), (u32::MAX, 0)] {
        driver.write(reg::VIRTIO_MMIO_QUEUE_SEL, queue);
        assert_eq!(driver.read(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), size);
    }
    assert_eq!(driver.device.read(CONFIG, 4), 0x0403_0201);
    assert_eq!(driver.device.read(CONFIG + 4, 1), 5);
    assert_eq!(driver.device.read(CONFIG + 0xff, 1), 0);
}

#[test]
fn a_request_is_worked_on_and_interrupts() {
    let mut driver = driver();
    assert_eq!(driver.request(&[(0x4000, 4, true)]), None, "no driver is ready");
    driver.begin(1 << VIRTIO_F_VERSION_1);
    assert_eq!(driver.request(&[(0x4000, 4, true), (0x5000, 2, true)]), Some(6));
    assert_eq!((driver.get(0x4000, 5), driver.get(0x5000, 3)), (vec![7, 7, 7, 7, 0], vec![7, 7, 0]));
    assert_eq!(driver.interrupts.load(Ordering::Relaxed), 1);
    assert_eq!(driver.read(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
    driver.write(reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
    assert_eq!(driver.read(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
}

#[test]
fn a_driver_may_ring_before_it_is_ready_or_by_an_access() {
    let mut driver = driver();
    driver.begin(1 << VIRTIO_F_VERSION_1);
    assert_eq!(driver.doorbells[0].drain().unwrap(), 1, "what was given before counts");
    driver.write(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    driver.write(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 2);
    assert_eq!(driver.doorbells[1].drain().unwrap(), 2);
}

#[test]
fn a_reset_forgets_the_driver() {
    let mut driver = driver();
    driver.begin(1 << VIRTIO_F_VERSION_1);
    driver.request(&[(0x4000, 4, true)]);
    driver.write(reg::VIRTIO_MMIO_STATUS, 0);
    for register in [reg::VIRTIO_MMIO_STATUS, reg::VIRTIO_MMIO_QUEUE_READY, reg::VIRTIO_MMIO_INTERRUPT_STATUS] {
        assert_eq!(driver.read(register), 0);
    }
    assert_eq!(driver.request(&[(0x4000, 4, true)]), None);
    driver.begin(1 << VIRTIO_F_VERSION_1);
    driver.put(0x3002, &[0; 2]);
    assert_eq!(driver.request(&[(0x6000, 1, true)]), Some(1));
}

#[test]
fn rings_outside_of_memory_are_the_drivers_loss() {
    for register in [reg::VIRTIO_MMIO_QUEUE_DESC_LOW, reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, reg::VIRTIO_MMIO_QUEUE_USED_LOW]
    {
        let mut driver = driver();
        driver.begin(1 << VIRTIO_F_VERSION_1);
        driver.write(register, MEMORY as u32);
        assert_eq!(driver.request(&[(0x4000, 1, true)]), Some(1), "a queue at work stays where it is");
        driver.write(reg::VIRTIO_MMIO_STATUS, 0);
        driver.begin(1 << VIRTIO_F_VERSION_1);
        driver.write(reg::VIRTIO_MMIO_STATUS, 0);
        driver.write(register, 0xffff_fff0);
        driver.write(reg::VIRTIO_MMIO_QUEUE_READY, 1);
        driver.write(reg::VIRTIO_MMIO_STATUS, 0xf);
        driver.device.live().serve(0);
    }
}
