//! Firmware images: read, and looked at before they are believed.

use std::io::Read as _;
use std::path::Path;

use crate::error::PcError;
use crate::files::{self, Files};

/// Most bytes of firmware: what a PC maps below 4 GiB.
const MAX: u64 = 16 << 20;
/// Memory comes in pages, and flash chips in more than one.
const PAGE: u64 = 4096;
/// The processor begins at the last 16 bytes (Intel SDM volume 3, 9.1.4).
const RESET_VECTOR: usize = 16;

/// Reads a firmware image.
///
/// # Errors
/// It cannot be read, or it is none: a sentence that says why.
pub fn read(path: &Path, files: &mut Files) -> Result<Vec<u8>, PcError> {
    let unfit = |why: String| PcError::Unfit { path: path.to_owned(), why: format!("as firmware, {why}") };
    let mut file = files.open(path, false)?;
    let length = files::length(&mut file, path)?;
    if length > MAX {
        return Err(unfit(format!("it has {length} bytes, and a PC has room for {MAX}")));
    }
    let mut image = Vec::with_capacity(length as usize);
    file.take(MAX + 1).read_to_end(&mut image).map_err(|error| PcError::Open { path: path.to_owned(), error })?;
    check(&image).map_err(unfit)?;
    Ok(image)
}

/// What keeps these bytes from being firmware.
fn check(image: &[u8]) -> Result<(), String> {
    let length = image.len() as u64;
    if length == 0 {
        return Err("it is empty".to_owned());
    }
    if length > MAX {
        return Err(format!("it has more than {MAX} bytes, for which a PC has no room"));
    }
    if !length.is_multiple_of(PAGE) {
        return Err(format!("its {length} bytes are no multiple of {PAGE}; it may have been cut short"));
    }
    let vector = &image[image.len() - RESET_VECTOR..];
    if vector.iter().all(|byte| *byte == 0) || vector.iter().all(|byte| *byte == 0xff) {
        return Err(
            "its last 16 bytes, where the processor begins, hold no code; it may have been cut short".to_owned()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_firmware_is_refused_by_name() {
        for (image, said) in [
            (vec![], "empty"),
            (vec![0x90; 4095], "multiple of 4096"),
            (vec![0; 8192], "hold no code"),
            (vec![0xff; 8192], "hold no code"),
            (vec![0x90; (16 << 20) + 4096], "no room"),
        ] {
            let why = check(&image).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
        assert!(check(&[0x90; 4096]).is_ok());
    }

    #[test]
    fn files_are_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        std::fs::write(&path, vec![0x90; 8192]).unwrap();
        let mut files = Files::default();
        assert_eq!(read(&path, &mut files).unwrap().len(), 8192);
        std::fs::write(&path, vec![0x90; 8191]).unwrap();
        let short = read(&path, &mut files).unwrap_err().to_string();
        assert!(short.contains("as firmware, its 8191 bytes"), "{short}");
    }
}
