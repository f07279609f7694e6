//! The table that names the devices: those which a system cannot find by itself.

use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, Path,
    ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;

use super::about::{About, HEADER, OEM, REVISION, TABLE, Virtio};
use crate::device::pm;

/// The table.
pub fn dsdt(about: &About) -> Vec<u8> {
    let mut table = Sdt::new(*b"DSDT", HEADER as u32, 2, OEM, TABLE, REVISION);
    table.append_slice(&bytes(&|out| system(about, out)));
    table.as_slice().to_vec()
}

fn bytes(write: &dyn Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out);
    out
}

fn system(about: &About, out: &mut Vec<u8>) {
    Name::new("_S5_".into(), &Package::new(vec![&pm::SOFT_OFF, &pm::SOFT_OFF, &0u8, &0u8])).to_aml_bytes(out);
    let old = bytes(&|out| {
        at_device(out, "COM1", "PNP0501", 1, &[&IO::new(0x3f8, 0x3f8, 1, 8), &edge(4)]);
        at_device(out, "COM2", "PNP0501", 2, &[&IO::new(0x2f8, 0x2f8, 1, 8), &edge(3)]);
        at_device(out, "KBD_", "PNP0303", 0, &[&IO::new(0x60, 0x60, 1, 1), &IO::new(0x64, 0x64, 1, 1), &edge(1)]);
        at_device(out, "RTC_", "PNP0B00", 0, &[&IO::new(0x70, 0x70, 1, 2), &edge(8)]);
        for (number, device) in about.virtio.iter().enumerate() {
            virtio(out, number, device);
        }
    });
    let bus = bytes(&bus);
    out.extend(Scope::raw("_SB_".into(), [bus, old].concat()));
}

fn edge(number: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, number)
}

/// The PCI bus, and the addresses that lie behind it.
fn bus(out: &mut Vec<u8>) {
    Device::new(
        "PCI0".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0A03")),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &AddressSpace::new_bus_number(0u16, 0xffu16),
                    &IO::new(0xcf8, 0xcf8, 1, 8),
                    &AddressSpace::new_io(0u16, 0x0cf7u16, None),
                    &AddressSpace::new_io(0x0d00u16, 0xffffu16, None),
                    &AddressSpace::new_memory(
                        AddressSpaceCacheable::NotCacheable,
                        true,
                        0xe000_0000u32,
                        0xfe9f_ffffu32,
                        None,
                    ),
                ]),
            ),
        ],
    )
    .to_aml_bytes(out);
}

/// A device of the AT.
fn at_device(out: &mut Vec<u8>, name: &str, id: &str, number: u8, resources: &[&dyn Aml]) {
    Device::new(
        Path::new(name),
        vec![
            &Name::new("_HID".into(), &EISAName::new(id)),
            &Name::new("_UID".into(), &number),
            &Name::new("_CRS".into(), &ResourceTemplate::new(resources.to_vec())),
        ],
    )
    .to_aml_bytes(out);
}

/// A virtio device in memory, by the identity that Linux and SeaBIOS look for.
fn virtio(out: &mut Vec<u8>, number: usize, device: &Virtio) {
    let name = format!("VR{number:02}");
    Device::new(
        Path::new(&name),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &(number as u8)),
            &Name::new("_CCA".into(), &1u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, device.address, device.length),
                    &edge(device.gsi),
                ]),
            ),
        ],
    )
    .to_aml_bytes(out);
}
