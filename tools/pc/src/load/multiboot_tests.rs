//! Images of every kind, and what the guest is told.

use super::super::samples::*;
use super::super::{Format, LoadError, Module, Request, plan};
use super::*;

/// A header with these flags and address fields.
fn header_bytes(flags: u32, addresses: &[u32]) -> Vec<u8> {
    let checksum = 0u32.wrapping_sub(MAGIC).wrapping_sub(flags);
    [&[MAGIC, flags, checksum], addresses].concat().iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A flat image: 16 bytes before its header, 0x100 bytes in all, loaded to 1 MiB.
fn flat(addresses: [u32; 5]) -> Vec<u8> {
    let mut bytes = vec![0x90; 16];
    bytes.extend(header_bytes(ADDRESSES, &addresses));
    bytes.resize(0x100, 0xcc);
    bytes
}

const FLAT: [u32; 5] = [0x10_0010, 0x10_0000, 0x10_0100, 0x10_2000, 0x10_0040];

fn start_of(plan: &Plan) -> (u32, u32, u32) {
    let Start::Protected { entry, eax, ebx, .. } = plan.start else { panic!("{:?}", plan.start) };
    (entry, eax, ebx)
}

#[test]
fn a_header_is_found_on_a_multiple_of_four_within_its_bytes() {
    let at = |offset: usize| {
        let mut bytes = vec![0; offset];
        bytes.extend(header_bytes(0, &[]));
        header(&bytes).map(|header| header.offset)
    };
    assert_eq!((at(0), at(4), at(8180)), (Some(0), Some(4), Some(8180)));
    assert_eq!((at(2), at(8184), at(8192)), (None, None, None));
    let mut wrong = header_bytes(0, &[]);
    wrong[8] ^= 1;
    assert_eq!(header(&wrong), None, "the checksum");
    assert_eq!(header(&header_bytes(ADDRESSES, &[1, 2, 3, 4])), None, "the fields are cut");
    assert_eq!(header(b""), None);
}

#[test]
fn a_flat_image_goes_where_its_header_says() {
    let plan = planned(&request(&flat(FLAT))).unwrap();
    assert_eq!(plan.format, "a multiboot image");
    let loaded = Loaded::new(&plan);
    assert_eq!(loaded.bytes(0x10_0000, 16), [0x90; 16]);
    assert_eq!(loaded.bytes(0x10_0100, 0x1f00), [0; 0x1f00], "zeros behind the image");
    assert_eq!(start_of(&plan).0, 0x10_0040);
    assert_eq!(start_of(&plan).1, 0x2bad_b002);
}

#[test]
fn an_end_of_zero_is_the_end_of_the_file() {
    let plan = planned(&request(&flat([FLAT[0], FLAT[1], 0, 0, FLAT[4]]))).unwrap();
    assert_eq!(plan.pieces[0].bytes.len(), 0x100);
    assert_eq!(plan.pieces[0].zeros, 0);
}

#[test]
fn elf_images_of_both_classes_go_where_their_segments_say() {
    for is_64 in [false, true] {
        let mut code = header_bytes(ALIGN_MODULES | WANT_MEMORY, &[]);
        code.resize(0x40, 0x90);
        // The entry is given as the image sees itself.
        let mut load = part(&code, 0x20_0000, 0x1000);
        load.virtual_ = 0xc020_0000;
        let bytes = elf(is_64, 0xc020_0020, &[load, part(b"data", 0x30_0000, 8)], None);
        let plan = planned(&request(&bytes)).unwrap();
        assert_eq!(start_of(&plan).0, 0x20_0020);
        let loaded = Loaded::new(&plan);
        assert_eq!(loaded.bytes(0x20_0000, 0x40), code);
        assert_eq!(loaded.bytes(0x30_0000, 8), b"data\0\0\0\0");
    }
}

#[test]
fn the_guest_is_told_of_memory_modules_words_and_display() {
    let mut request = with_module(&flat(FLAT), &[7; 5000]);
    request.modules.push(Module { file: file("second", b"2"), command_line: String::new() });
    let plan = planned(&request).unwrap();
    let (loaded, info) = (Loaded::new(&plan), u64::from(start_of(&plan).2));
    let field = |at: u64| u64::from(loaded.u32(info + at));
    assert_eq!(field(0), 0x124d);
    assert_eq!((field(4), field(8)), (639, 63 << 10));
    assert_eq!(loaded.text(field(16)), "kernel console=ttyS0 quiet");
    assert_eq!(loaded.text(field(64)), "outboard");

    assert_eq!(field(20), 2);
    let (start, end) = (u64::from(loaded.u32(field(24))), u64::from(loaded.u32(field(24) + 4)));
    assert_eq!((start % 4096, end - start), (0, 5000));
    assert!(start >= 0x10_2000, "behind the image");
    assert_eq!(loaded.bytes(start, 5000), [7; 5000]);
    assert_eq!(loaded.text(loaded.u32(field(24) + 8).into()), "module words for it");
    assert_eq!(loaded.text(loaded.u32(field(24) + 24).into()), "second");

    assert_eq!(field(44), 72);
    let map: Vec<(u32, u64, u64, u32)> = (0..3)
        .map(|at| field(48) + 24 * at)
        .map(|at| (loaded.u32(at), loaded.u64(at + 4), loaded.u64(at + 12), loaded.u32(at + 20)))
        .collect();
    assert_eq!(map, [(20, 0, 0x9_fc00, 1), (20, 0x9_fc00, 0x6_0400, 2), (20, 0x10_0000, 63 << 20, 1)]);

    assert_eq!((loaded.u64(info + 88), field(96), field(100), field(104)), (0xb_8000, 160, 80, 25));
    assert_eq!(loaded.bytes(info + 108, 2), [16, 2]);
    assert_eq!((field(12), field(28), field(52), field(72)), (0, 0, 0, 0), "what there is not");
}

#[test]
fn without_display_and_modules_nothing_is_said_of_them() {
    let machine = Machine { text_display: false, ..machine() };
    let plan = plan(&request(&flat(FLAT)), &machine).unwrap();
    let (loaded, info) = (Loaded::new(&plan), u64::from(start_of(&plan).2));
    assert_eq!((loaded.u32(info), loaded.u32(info + 20), loaded.u32(info + 24)), (0x24d, 0, 0));
    assert_eq!(loaded.bytes(info + 88, 28), [0; 28]);
}

#[test]
fn every_wrong_image_has_its_sentence() {
    let said = |addresses| refused(&request(&flat(addresses)));
    let [header, start, end, zeros, entry] = FLAT;
    assert!(said([start - 1, start, end, zeros, entry]).ends_with("the image begins behind the header"));
    assert!(said([header + 0x100, start, end, zeros, entry]).ends_with("the image begins before the file"));
    assert!(said([header, start, start, zeros, entry]).ends_with("the image ends before it begins"));
    assert!(said([header, start, start - 1, zeros, entry]).ends_with("the image ends before it begins"));
    assert!(said([header, start, end, end - 1, entry]).ends_with("the zeros end before the image"));
    assert!(said([header, start, end, zeros, zeros]).ends_with("the entry lies outside of the image"));
    assert_eq!(
        said([header, start, end + 1, zeros, entry]),
        "cannot load kernel: the image of its multiboot header ends at byte 257 and the file at byte 256; it may have been \
         cut short"
    );
    assert!(said([0x9_0010, 0x9_0000, 0x9_0100, 0xa_0000, 0x9_0040]).contains("not all of that is memory"));
    assert!(said([header, start, end, u32::MAX, entry]).contains("give it more memory"));

    let unknown = refused(&request(&header_bytes(1 << 3, &[])));
    assert!(unknown.ends_with("features that are not known here (flags 0x8)"), "{unknown}");
    let neither = refused(&request(&header_bytes(0, &[])));
    assert!(neither.ends_with("its multiboot header gives no addresses, and it is not in ELF"), "{neither}");
    let mut high = header_bytes(0, &[]);
    high.resize(64, 0);
    let mut load = part(&high, 0x20_0000, 64);
    load.virtual_ = 0xffff_8000_0000_0000;
    let far = refused(&request(&elf(true, 0x1234, &[load], None)));
    assert!(far.ends_with("its entry 0x1234 is in none of its segments"), "{far}");
}

#[test]
fn what_was_said_to_be_multiboot_has_to_be_it() {
    let request = Request { format: Format::Multiboot, ..request(b"something else") };
    assert_eq!(refused(&request), "cannot load kernel as a multiboot image: it is not one");
}

#[test]
fn a_module_that_finds_no_room_is_named() {
    let error = planned(&with_module(&flat(FLAT), &vec![0; 63 << 20])).unwrap_err();
    assert!(matches!(error, LoadError::NoRoom { ref what, .. } if what == "module"), "{error}");
}
