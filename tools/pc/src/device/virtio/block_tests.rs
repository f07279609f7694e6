//! Tests of the disk, through its registers.

use std::io::Write as _;

use tempfile::NamedTempFile;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;

use super::*;
use crate::device::virtio::testing::{Driver, MEMORY};

const HEADER_AT: u64 = 0x4000;
const STATUS_AT: u64 = 0x4100;
const DATA_AT: u64 = 0x5000;
const SECTORS: u64 = 8;

/// A disk whose sectors hold their numbers.
fn disk(read_only: bool) -> (Driver, NamedTempFile) {
    let mut file = NamedTempFile::new().unwrap();
    (0..SECTORS).for_each(|sector| file.write_all(&[sector as u8; 512]).unwrap());
    file.write_all(b"less than a sector").unwrap();
    let disk =
        Disk::open(&options::Disk { file: file.path().to_owned(), read_only }, 0, &mut Files::default()).unwrap();
    let mut driver = Driver::new(disk.kind(), Box::new(disk));
    driver.begin(1 << VIRTIO_F_VERSION_1);
    (driver, file)
}

/// Bytes written by the device, and the status.
fn request(driver: &mut Driver, kind: u32, sector: u64, data: &[(u64, u32, bool)]) -> (u32, u8) {
    let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
    driver.put(HEADER_AT, &header);
    driver.put(STATUS_AT, &[0xee]);
    let parts = [&[(HEADER_AT, 16, false)], data, &[(STATUS_AT, 1, true)]].concat();
    let written = driver.request(&parts).unwrap();
    (written, driver.get(STATUS_AT, 1)[0])
}

#[test]
fn sectors_are_read_in_parts_of_any_size() {
    let (mut driver, _file) = disk(false);
    assert_eq!(driver.device_sectors(), SECTORS);
    let parts = [(DATA_AT, 100, true), (DATA_AT + 0x1000, 412, true), (DATA_AT + 100, 512, true)];
    assert_eq!(request(&mut driver, blk::VIRTIO_BLK_T_IN, 6, &parts), (1025, 0));
    assert_eq!(driver.get(DATA_AT, 100), [6; 100]);
    assert_eq!(driver.get(DATA_AT + 0x1000, 412), [6; 412]);
    assert_eq!(driver.get(DATA_AT + 100, 512), [7; 512]);
}

#[test]
fn writes_reach_the_file() {
    let (mut driver, file) = disk(false);
    driver.put(DATA_AT, &[0xab; 1024]);
    assert_eq!(request(&mut driver, blk::VIRTIO_BLK_T_OUT, 3, &[(DATA_AT, 1024, false)]), (1, 0));
    assert_eq!(request(&mut driver, blk::VIRTIO_BLK_T_FLUSH, 0, &[]), (1, 0));
    let bytes = std::fs::read(file.path()).unwrap();
    assert_eq!((&bytes[3 * 512 - 1..3 * 512 + 1], &bytes[5 * 512 - 1..5 * 512 + 1]), (&[2, 0xab][..], &[0xab, 5][..]));
}

#[test]
fn a_read_only_disk_is_not_written() {
    let (mut driver, file) = disk(true);
    let before = std::fs::read(file.path()).unwrap();
    assert_eq!(request(&mut driver, blk::VIRTIO_BLK_T_OUT, 3, &[(DATA_AT, 512, false)]).1, 1);
    assert_eq!(std::fs::read(file.path()).unwrap(), before);
    assert_eq!(request(&mut driver, blk::VIRTIO_BLK_T_IN, 3, &[(DATA_AT, 512, true)]).1, 0);
}

#[test]
fn the_disk_has_a_name() {
    let (mut driver, _file) = disk(false);
    assert_eq!(request(&mut driver, blk::VIRTIO_BLK_T_GET_ID, 0, &[(DATA_AT, 20, true)]), (21, 0));
    assert_eq!(driver.get(DATA_AT, 20), *b"outboard-disk-0\0\0\0\0\0");
}

#[test]
fn what_cannot_be_done_has_its_status() {
    let (mut driver, _file) = disk(false);
    let (read, write) = (blk::VIRTIO_BLK_T_IN, blk::VIRTIO_BLK_T_OUT);
    for (kind, sector, data) in [
        (read, SECTORS, vec![(DATA_AT, 512, true)]),
        (read, SECTORS - 1, vec![(DATA_AT, 1024, true)]),
        (read, u64::MAX, vec![(DATA_AT, 512, true)]),
        (read, u64::MAX / 512 + 1, vec![(DATA_AT, 512, true)]),
        (read, 0, vec![(DATA_AT, 511, true)]),
        (read, 0, vec![(DATA_AT, 512, false)]),
        (read, 0, vec![(MEMORY - 256, 512, true)]),
        (write, 0, vec![(u64::MAX - 100, 512, false)]),
        (write, 0, vec![(DATA_AT, 512, true)]),
        (blk::VIRTIO_BLK_T_GET_ID, 0, vec![]),
    ] {
        assert_eq!(request(&mut driver, kind, sector, &data).1, 1, "{kind} {sector} {data:x?}");
    }
    assert_eq!(request(&mut driver, 77, 0, &[]).1, 2);
}

#[test]
fn requests_without_header_or_status_come_back_empty() {
    let (mut driver, _file) = disk(false);
    for parts in [
        vec![(HEADER_AT, 15, false), (STATUS_AT, 1, true)],
        vec![(HEADER_AT, 16, false)],
        vec![(HEADER_AT, 16, true), (STATUS_AT, 1, true)],
        vec![(HEADER_AT, 16, false), (STATUS_AT, 0, true)],
        vec![(MEMORY, 16, false), (MEMORY, 1, true)],
        vec![(u64::MAX, 16, false), (u64::MAX, 4, true)],
    ] {
        assert!(driver.request(&parts).unwrap() <= 1, "{parts:x?}");
    }
}

#[test]
fn a_file_without_a_sector_is_no_disk() {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), [0; 511]).unwrap();
    let disk = options::Disk { file: file.path().to_owned(), read_only: false };
    assert!(Disk::open(&disk, 0, &mut Files::default()).unwrap_err().to_string().contains("512 bytes"));
}

impl Driver {
    fn device_sectors(&mut self) -> u64 {
        let word = |driver: &mut Driver, at: u32| u64::from(driver.read(0x100 + at));
        word(self, 0) | word(self, 4) << 32
    }
}
