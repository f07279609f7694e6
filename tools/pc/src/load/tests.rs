//! Linux, PVH and flat binaries; files that are none of these; whatever bytes there are.

use proptest::prelude::*;

use super::samples::*;
use super::*;

const VERSION: usize = 0x206;

/// A bzImage: one setup sector and 0x400 bytes of code.
fn bzimage(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    bytes[0x1f1] = 1;
    bytes[0x1f4..0x1f8].copy_from_slice(&(0x400u32 / 16).to_le_bytes());
    bytes[0x1fe..0x202].copy_from_slice(&[0x55, 0xaa, 0xeb, 0x6a]);
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[VERSION..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    bytes[0x211] = 1;
    bytes[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    bytes[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    bytes[0x234] = 1;
    bytes[0x236] = 1;
    bytes[0x238..0x23c].copy_from_slice(&64u32.to_le_bytes());
    bytes[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    bytes[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
    bytes.resize(1024 + 0x400, 0xcc);
    change(&mut bytes);
    bytes
}

fn long(plan: &Plan) -> (u64, u64) {
    let Start::Long { entry, rsi, .. } = plan.start else { panic!("{:?}", plan.start) };
    (entry, rsi)
}

#[test]
fn a_bzimage_is_started_by_its_64_bit_entry_and_told_what_it_needs() {
    let plan = planned(&with_module(&bzimage(|_| {}), &[5; 9000])).unwrap();
    assert_eq!(plan.format, "a Linux bzImage");
    let (entry, parameters) = long(&plan);
    assert_eq!(entry, 0x100_0200);
    let loaded = Loaded::new(&plan);
    assert_eq!(loaded.bytes(0x100_0000, 0x400), [0xcc; 0x400]);
    let field = |at: u64| loaded.u32(parameters + at);
    assert_eq!(loaded.bytes(parameters + 0x202, 4), b"HdrS");
    assert_eq!(loaded.bytes(parameters + 0x210, 2), [0xff, 1]);
    assert_eq!(loaded.text(field(0x228).into()), "console=ttyS0 quiet");
    let (initrd, size) = (u64::from(field(0x218)), field(0x21c));
    assert_eq!((initrd, size), ((64 << 20) - 0x3000, 9000), "at the end of memory");
    assert_eq!(loaded.bytes(initrd, 9000), [5; 9000]);
    assert_eq!(loaded.u64(parameters + 0x70), 0xe_0000, "the ACPI root pointer");
    assert_eq!(loaded.bytes(parameters + 6, 2), [3, 80], "the text display");
    assert_eq!(loaded.bytes(parameters + 0x1e8, 1), [3]);
    let e820 = |at: u64| {
        let at = parameters + 0x2d0 + 20 * at;
        (loaded.u64(at), loaded.u64(at + 8), loaded.u32(at + 16))
    };
    assert_eq!((e820(0), e820(1), e820(2)), ((0, 0x9_fc00, 1), (0x9_fc00, 0x6_0400, 2), (0x10_0000, 63 << 20, 1)));
    assert_eq!(loaded.bytes(parameters + 0x1f0, 1), [0], "only the header is taken from the file");
}

#[test]
fn a_relocatable_bzimage_goes_elsewhere_if_it_must() {
    let far = bzimage(|bytes| bytes[0x258..0x260].copy_from_slice(&0x4000_0000u64.to_le_bytes()));
    assert_eq!(
        long(&planned(&request(&far)).unwrap()).0,
        0x20_0200,
        "the first multiple of its alignment from 1 MiB on"
    );
    let fixed = bzimage(|bytes| {
        bytes[0x258..0x260].copy_from_slice(&0x4000_0000u64.to_le_bytes());
        bytes[0x234] = 0;
    });
    assert!(refused(&request(&fixed)).contains("0x40000000 to 0x40100000, and not all of that is memory"));
}

#[test]
fn a_32_bit_bzimage_is_started_in_protected_mode() {
    let plan = planned(&request(&bzimage(|bytes| bytes[0x236] = 0))).unwrap();
    let Start::Protected { entry, esi, .. } = plan.start else { panic!("{:?}", plan.start) };
    assert_eq!(entry, 0x100_0000);
    assert_eq!(Loaded::new(&plan).bytes(u64::from(esi) + 0x202, 4), b"HdrS");
}

#[test]
fn wrong_bzimages_have_their_sentences() {
    let said = |change: fn(&mut Vec<u8>)| refused(&request(&bzimage(change)));
    let old = said(|bytes| bytes[VERSION..0x208].copy_from_slice(&0x204u16.to_le_bytes()));
    assert_eq!(old, "cannot load kernel: its boot protocol 2.04 is too old, or it is a zImage");
    assert!(said(|bytes| bytes[0x211] = 0).contains("zImage"));
    let cut = said(|bytes| bytes.truncate(1100));
    assert_eq!(
        cut,
        "cannot load kernel: the code of Linux ends at byte 2048 and the file at byte 1100; it may have been cut short"
    );
    assert!(said(|bytes| bytes.truncate(1024)).contains("the setup code of Linux ends at byte 1025"));
    assert!(said(|bytes| bytes[0x1f1] = 0xff).contains("the setup code of Linux"));
    let long_line = Request { command_line: "x".repeat(65), ..request(&bzimage(|_| {})) };
    assert_eq!(refused(&long_line), "cannot load kernel: its command line has 65 bytes, and it takes 64");
    let mut two = with_module(&bzimage(|_| {}), b"1");
    two.modules.push(two.modules[0].clone());
    assert_eq!(refused(&two), "cannot load kernel: Linux takes one other file along, the initrd");
    assert!(said(|bytes| bytes[0x260..0x264].copy_from_slice(&u32::MAX.to_le_bytes())).contains("find no room"));
}

#[test]
fn a_vmlinux_is_started_by_its_entry() {
    let mut high = part(&[0x90; 64], 0x100_0000, 0x2000);
    high.virtual_ = 0xffff_ffff_8100_0000;
    let plan = planned(&request(&elf(true, 0x100_0010, &[high], None))).unwrap();
    assert_eq!(plan.format, "a Linux kernel in ELF");
    let (entry, parameters) = long(&plan);
    assert_eq!(entry, 0x100_0010);
    let loaded = Loaded::new(&plan);
    assert_eq!(loaded.bytes(parameters + 0x1fe, 2), [0x55, 0xaa]);
    assert_eq!(loaded.bytes(parameters + 0x202, 4), b"HdrS");
    assert_eq!(loaded.text(loaded.u32(parameters + 0x228).into()), "console=ttyS0 quiet");
    assert_eq!(loaded.bytes(0x100_0040, 0x1fc0), [0; 0x1fc0]);
}

#[test]
fn a_kernel_with_a_pvh_note_is_started_by_it_and_told_by_its_structure() {
    for is_64 in [false, true] {
        let bytes = elf(is_64, 0x100_0000, &[part(&[0x90; 64], 0x100_0000, 64)], Some(0x100_0020));
        let plan = planned(&with_module(&bytes, b"initrd")).unwrap();
        assert_eq!(plan.format, "a kernel with a PVH entry");
        let Start::Protected { entry, ebx, .. } = plan.start else { panic!("{:?}", plan.start) };
        assert_eq!(entry, 0x100_0020);
        let (loaded, info) = (Loaded::new(&plan), u64::from(ebx));
        let head: Vec<u32> = (0..4).map(|at| loaded.u32(info + 4 * at)).collect();
        assert_eq!(head, [0x336e_c578, 1, 0, 1]);
        let (modules, line, rsdp, map) =
            (loaded.u64(info + 16), loaded.u64(info + 24), loaded.u64(info + 32), loaded.u64(info + 40));
        assert_eq!((loaded.text(line), rsdp, loaded.u32(info + 48)), ("console=ttyS0 quiet", 0xe_0000, 3));
        assert_eq!(loaded.bytes(loaded.u64(modules), 6), b"initrd");
        assert_eq!((loaded.u64(modules + 8), loaded.text(loaded.u64(modules + 16))), (6, "words for it"));
        assert_eq!((loaded.u64(map), loaded.u64(map + 8), loaded.u32(map + 16)), (0, 0x9_fc00, 1));
        // The same file can be asked to start by the other protocol.
        let linux = Request { format: Format::Linux, ..request(&bytes) };
        assert_eq!(planned(&linux).is_ok(), is_64);
    }
}

#[test]
fn a_flat_binary_begins_where_it_lies() {
    let flat = |address| Request { format: Format::Flat(address), ..request(&[0xf4; 512]) };
    let plan = planned(&flat(0x7c05)).unwrap();
    assert_eq!(plan.start, Start::Real { segment: 0x7c0, offset: 5 });
    assert_eq!((plan.pieces.len(), plan.pieces[0].address), (1, 0x7c05));
    let plan = planned(&flat(0x20_0000)).unwrap();
    assert!(matches!(plan.start, Start::Protected { entry: 0x20_0000, .. }));
    assert!(refused(&flat(0x9_fb00)).contains("not all of that is memory"));
    assert!(refused(&flat(64 << 20)).contains("not all of that is memory"));
    let mut along = with_module(&[0xf4], b"module");
    along.format = Format::Flat(0x7c00);
    assert_eq!(refused(&along), "cannot load kernel: a flat binary takes no other file along");
}

#[test]
fn formats_have_names_or_addresses() {
    let formats = [("detect", Format::Detect), ("linux", Format::Linux), ("0x7c00", Format::Flat(0x7c00))];
    for (word, format) in formats.into_iter().chain([("4096", Format::Flat(4096)), ("pvh", Format::Pvh)]) {
        assert_eq!(word.parse::<Format>().unwrap(), format);
    }
    for wrong in ["", "elf", "0x", "0xg", "-1", "0x1ffffffffffffffff"] {
        let said = wrong.parse::<Format>().unwrap_err().to_string();
        assert!(
            said.starts_with(&format!("cannot load a kernel by the format {wrong:?}: there are detect, ")),
            "{said}"
        );
    }
}

#[test]
fn files_of_no_known_kind_are_refused() {
    assert_eq!(refused(&request(b"")), "cannot load kernel: it is empty");
    let unknown = "it is neither a multiboot image, a Linux bzImage nor a kernel in ELF with a PVH or 64-bit entry; say an \
                   address to load it as a flat binary";
    assert!(refused(&request(b"MZ")).ends_with(unknown));
    let plain_32 = elf(false, 0x100_0000, &[part(b"code", 0x100_0000, 4)], None);
    assert!(refused(&request(&plain_32)).ends_with(unknown));
    let not_linux = Request { format: Format::Linux, ..request(b"MZ") };
    assert_eq!(refused(&not_linux), "cannot load kernel as a Linux kernel: it is not one");
    let not_pvh = Request { format: Format::Pvh, ..request(b"MZ") };
    assert_eq!(refused(&not_pvh), "cannot load kernel as a kernel with a PVH entry: it is not one");
}

#[test]
fn wrong_elf_files_have_their_sentences() {
    let good = || elf(true, 0x100_0000, &[part(&[0x90; 64], 0x100_0000, 64)], None);
    let said = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good();
        change(&mut bytes);
        refused(&request(&bytes))
    };
    assert!(said(&|bytes| bytes[4] = 3).ends_with("a class that is neither 32 nor 64 bits"));
    assert!(said(&|bytes| bytes.truncate(5)).contains("its ELF header is wrong"));
    assert!(said(&|bytes| bytes[18] = 183).ends_with("it is in ELF for machine 183, not for x86"));
    assert!(said(&|bytes| bytes[16] = 1).ends_with("it is in ELF and no executable"));
    assert!(said(&|bytes| bytes[56] = 0).ends_with("it is in ELF and has nothing to load"));
    assert!(said(&|bytes| bytes.truncate(100)).ends_with("its program headers lie outside of the file"));
    assert!(said(&|bytes| bytes.truncate(130)).contains("its segment for address 0x1000000 ends at byte 184"));
    assert!(said(&|bytes| bytes[64 + 40] = 1).ends_with("more bytes in the file than in memory"));
    assert!(said(&|bytes| bytes[24] = 0x80).ends_with("its entry 0x1000080 is in none of its segments"));
    let twice = [part(&[1; 64], 0x100_0000, 64), part(&[2; 64], 0x100_0020, 64)];
    assert!(refused(&request(&elf(true, 0x100_0000, &twice, None))).ends_with("to 0x1000060, where kernel lies"));
    let far = elf(true, 0x100_0000, &[part(&[0x90; 64], 0x100_0000, 1 << 40)], None);
    assert!(refused(&request(&far)).ends_with("give it more memory"));
}

#[test]
fn a_machine_that_is_too_small_is_named() {
    let memory = [MemoryRange { start: 0, length: 0x10_0000, kind: MemoryKind::Ram }];
    let small = Machine { memory: &memory, ..machine() };
    let error = plan(&request(&bzimage(|_| {})), &small).unwrap_err().to_string();
    assert!(error.contains("find no room below 0x100000000; give the machine more memory"), "{error}");
}

proptest! {
    /// Whatever a file holds, its pieces lie in memory and apart from each other, or there is a sentence.
    #[test]
    fn any_file_is_placed_or_refused(
        kind in 0..4usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        cut in any::<prop::sample::Index>(),
        whole in prop::bool::weighted(0.7),
    ) {
        let mut bytes = match kind {
            0 => bzimage(|_| {}),
            1 => elf(true, 0x100_0000, &[part(&[0x90; 64], 0x100_0000, 0x1000), part(b"x", 0x30_0000, 8)], Some(0x100_0000)),
            2 => elf(false, 0x100_0000, &[part(&[0x90; 64], 0x100_0000, 0x1000)], Some(0x100_0000)),
            _ => [&[2, 0xb0, 0xad, 0x1b, 0, 0, 1, 0, 0xfe, 0x4f, 0x51, 0xe4][..], &[0x10, 0, 0, 0].repeat(5), &[9; 100]].concat(),
        };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if !whole {
            bytes.truncate(cut.index(bytes.len()));
        }
        match planned(&with_module(&bytes, b"module")) {
            Err(error) => prop_assert!(!error.to_string().is_empty()),
            Ok(plan) => {
                let in_memory = |piece: &Piece| {
                    MEMORY.iter().any(|ram| ram.kind == MemoryKind::Ram && ram.start <= piece.address && piece.end() <= ram.end())
                };
                for (at, piece) in plan.pieces.iter().enumerate() {
                    prop_assert!(in_memory(piece), "{:?}", piece);
                    let apart = |other: &Piece| piece.end() <= other.address || other.end() <= piece.address;
                    prop_assert!(plan.pieces[..at].iter().all(apart), "{:?} in {:?}", piece, plan);
                }
            }
        }
    }
}
