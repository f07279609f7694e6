//! The ACPI tables of the machine, as one piece of bytes that lies anywhere below 4 GiB.
//!
//! Where firmware runs it fetches the tables and the instructions how to place them ([`Tables::loader`], a script of QEMU's
//! `etc/table-loader`); a kernel without firmware finds them placed already ([`Tables::place`]).

mod about;
mod dsdt;
mod loader;

use acpi_tables::Aml;
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags, PmProfile};
use acpi_tables::madt::{EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic};
use acpi_tables::sdt::Sdt;

use crate::device::pm;

pub use about::{About, Virtio};
use about::{HEADER, OEM, REVISION, TABLE};

/// Interrupt of ACPI itself: the one that PIIX4 parts use.
const SCI: u8 = 9;
const LOCAL_APIC: u32 = 0xfee0_0000;
const IO_APIC: u32 = 0xfec0_0000;
/// Where firmware of this kind of machine puts the ports of power management (SeaBIOS, `PORT_ACPI_PM_BASE`).
pub const PM_BASE: u16 = 0x600;
/// Port and value that reset the machine.
const RESET_PORT: u16 = 0xcf9;
const RESET_VALUE: u8 = 6;

/// Bytes of the root pointer, and where its pointers are (ACPI specification 6.5, 5.2.5 to 5.2.9).
const RSDP_LENGTH: usize = 36;
const RSDP_RSDT: usize = 16;
const RSDP_XSDT: usize = 24;
const FADT_FACS: usize = 36;
const FADT_DSDT: usize = 40;
/// Where every table has its checksum.
const CHECKSUM: usize = 9;

/// A place in the tables that holds the address of another place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointer {
    at: usize,
    size: usize,
}

/// The tables, with addresses counted from their own beginning, and the root pointer.
#[derive(Clone, Debug)]
pub struct Tables {
    bytes: Vec<u8>,
    rsdp: [u8; RSDP_LENGTH],
    pointers: Vec<Pointer>,
    /// First byte and length of each table with a checksum.
    tables: Vec<(usize, usize)>,
}

impl Tables {
    /// The tables of this machine.
    pub fn new(about: &About) -> Tables {
        let mut tables = Tables { bytes: Vec::new(), rsdp: [0; RSDP_LENGTH], pointers: Vec::new(), tables: Vec::new() };
        let mut facs = Vec::new();
        FACS::new().to_aml_bytes(&mut facs);
        tables.bytes.extend(facs); // first, because it has to lie on a multiple of 64
        let dsdt = tables.add(dsdt::dsdt(about));
        let fadt = tables.add(fadt(dsdt));
        tables.pointers.extend([FADT_FACS, FADT_DSDT].map(|at| Pointer { at: fadt + at, size: 4 }));
        let madt = tables.add(madt(about.cpus));
        let rsdt = tables.add_root(*b"RSDT", &[fadt, madt], 4);
        let xsdt = tables.add_root(*b"XSDT", &[fadt, madt], 8);
        tables.rsdp[..8].copy_from_slice(b"RSD PTR ");
        tables.rsdp[9..15].copy_from_slice(&OEM);
        tables.rsdp[15] = 2; // with an XSDT
        tables.rsdp[RSDP_RSDT..RSDP_RSDT + 4].copy_from_slice(&(rsdt as u32).to_le_bytes());
        tables.rsdp[20..24].copy_from_slice(&(RSDP_LENGTH as u32).to_le_bytes());
        tables.rsdp[RSDP_XSDT..RSDP_XSDT + 8].copy_from_slice(&(xsdt as u64).to_le_bytes());
        tables
    }

    fn add(&mut self, table: Vec<u8>) -> usize {
        let at = self.bytes.len().next_multiple_of(8);
        self.bytes.resize(at, 0);
        self.tables.push((at, table.len()));
        self.bytes.extend(table);
        at
    }

    /// A table of addresses of tables, each of `size` bytes.
    fn add_root(&mut self, signature: [u8; 4], entries: &[usize], size: usize) -> usize {
        let mut table = Sdt::new(signature, HEADER as u32, 1, OEM, TABLE, REVISION);
        for entry in entries {
            table.append_slice(&(*entry as u64).to_le_bytes()[..size]);
        }
        let at = self.add(table.as_slice().to_vec());
        self.pointers.extend((0..entries.len()).map(|index| Pointer { at: at + HEADER + index * size, size }));
        at
    }

    /// The tables as they lie at `base`, and the root pointer to them.
    pub fn place(&self, base: u32) -> (Vec<u8>, [u8; RSDP_LENGTH]) {
        let (mut bytes, mut rsdp) = (self.bytes.clone(), self.rsdp);
        for pointer in &self.pointers {
            add_to(&mut bytes[pointer.at..pointer.at + pointer.size], base);
        }
        for (at, length) in &self.tables {
            set_checksum(&mut bytes[*at..at + length], CHECKSUM);
        }
        add_to(&mut rsdp[RSDP_RSDT..RSDP_RSDT + 4], base);
        add_to(&mut rsdp[RSDP_XSDT..RSDP_XSDT + 8], base);
        set_checksum(&mut rsdp[..20], 8);
        set_checksum(&mut rsdp, 32);
        (bytes, rsdp)
    }

    /// Files for firmware: name and content. The last one says what to do with the others.
    pub fn files(&self) -> [(&'static str, Vec<u8>); 3] {
        [(loader::TABLES, self.bytes.clone()), (loader::RSDP, self.rsdp.to_vec()), ("etc/table-loader", self.loader())]
    }

    /// The script by which firmware places the tables.
    fn loader(&self) -> Vec<u8> {
        use loader::{RSDP, TABLES};
        let mut script = loader::Script::default();
        script.allocate(TABLES, 64, false);
        script.allocate(RSDP, 16, true);
        for pointer in &self.pointers {
            script.add_pointer(TABLES, pointer.at, pointer.size);
        }
        for (at, length) in &self.tables {
            script.add_checksum(TABLES, at + CHECKSUM, *at, *length);
        }
        script.add_pointer(RSDP, RSDP_RSDT, 4);
        script.add_pointer(RSDP, RSDP_XSDT, 8);
        script.add_checksum(RSDP, 8, 0, 20);
        script.add_checksum(RSDP, 32, 0, RSDP_LENGTH);
        script.into_bytes()
    }
}

/// Adds to a little-endian number.
fn add_to(number: &mut [u8], base: u32) {
    let mut wide = [0; 8];
    wide[..number.len()].copy_from_slice(number);
    let sum = u64::from_le_bytes(wide) + u64::from(base);
    number.copy_from_slice(&sum.to_le_bytes()[..number.len()]);
}

fn set_checksum(table: &mut [u8], at: usize) {
    table[at] = 0;
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[at] = sum.wrapping_neg();
}

fn fadt(dsdt: usize) -> Vec<u8> {
    let mut table = FADTBuilder::new(OEM, TABLE, REVISION)
        .dsdt_32(dsdt as u32)
        .firmware_ctrl_32(0)
        .preferred_pm_profile(PmProfile::Desktop)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    let port = |register: u64| u32::from(PM_BASE) + register as u32;
    table.sci_int = u16::from(SCI).into();
    table.pm1a_evt_blk = port(pm::EVENTS).into();
    table.pm1a_cnt_blk = port(pm::CONTROL).into();
    table.pm_tmr_blk = port(pm::TIMER).into();
    (table.pm1_evt_len, table.pm1_cnt_len, table.pm_tmr_len) = (4, 2, 4);
    // Longer than these, a processor's sleep states are not there (ACPI specification, 5.2.9).
    (table.p_lvl2_lat, table.p_lvl3_lat) = (0xfff.into(), 0xfff.into());
    table.century = 0x32;
    table.iapc_boot_arch = 0x3.into(); // devices of the AT, and a keyboard controller
    table.reset_reg = acpi_tables::gas::GAS::new(
        acpi_tables::gas::AddressSpace::SystemIo,
        8,
        0,
        acpi_tables::gas::AccessSize::ByteAccess,
        RESET_PORT.into(),
    );
    table.reset_value = RESET_VALUE;
    let mut bytes = Vec::new();
    table.finalize().to_aml_bytes(&mut bytes);
    bytes
}

fn madt(cpus: u32) -> Vec<u8> {
    let mut table = MADT::new(OEM, TABLE, REVISION, LocalInterruptController::Address(LOCAL_APIC));
    for cpu in 0..cpus.min(255) as u8 {
        table.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    table.add_structure(IoApic::new(0, IO_APIC, 0));
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    // Interrupt source override (ACPI specification, 5.2.12.5): ACPI's own interrupt is a level, active high.
    bytes.extend([2, 10, 0, SCI, SCI, 0, 0, 0, 0x0d, 0]);
    let length = bytes.len() as u32;
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    // There are two i8259 beside the APICs.
    bytes[40] = 1;
    set_checksum(&mut bytes, CHECKSUM);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> Tables {
        Tables::new(&About { cpus: 3, virtio: vec![Virtio { address: 0xfeb0_0000, length: 0x200, gsi: 5 }] })
    }

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn word(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    #[test]
    fn the_root_pointer_leads_to_every_table() {
        const BASE: usize = 0xe_1000;
        let (bytes, rsdp) = tables().place(BASE as u32);
        assert_eq!((sum(&rsdp[..20]), sum(&rsdp)), (0, 0));
        let table = |address: usize| {
            let at = address - BASE;
            let table = &bytes[at..at + word(&bytes, at + 4)];
            assert_eq!(sum(table), 0, "{:?}", std::str::from_utf8(&table[..4]));
            table
        };
        let (rsdt, xsdt) = (table(word(&rsdp, 16)), table(word(&rsdp, 24)));
        assert_eq!((&rsdt[..4], &xsdt[..4]), (&b"RSDT"[..], &b"XSDT"[..]));
        assert_eq!((word(rsdt, 36), word(rsdt, 40)), (word(xsdt, 36), word(xsdt, 44)));
        let fadt = table(word(rsdt, 36));
        assert_eq!(&fadt[..4], b"FACP");
        let facs = word(fadt, FADT_FACS);
        assert_eq!((facs % 64, &bytes[facs - BASE..facs - BASE + 4]), (0, &b"FACS"[..]));
        let dsdt = table(word(fadt, FADT_DSDT));
        assert_eq!(&dsdt[..4], b"DSDT");
        assert!(dsdt.windows(8).any(|bytes| bytes == b"LNRO0005"));
        let madt = table(word(rsdt, 40));
        assert_eq!((&madt[..4], madt.len()), (&b"APIC"[..], 44 + 3 * 8 + 12 + 10));
    }

    #[test]
    fn firmware_gets_what_the_script_speaks_of() {
        let files = tables().files();
        assert_eq!(files[0].1.len(), tables().place(0).0.len());
        assert_eq!(files[2].1.len() % 128, 0);
        // Two files, nine pointers, seven checksums.
        assert_eq!(files[2].1.len() / 128, 2 + 2 + 4 + 2 + 5 + 2);
    }
}
