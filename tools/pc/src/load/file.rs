//! Files as they come from the disk: read whole, and unpacked if they are compressed.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::error::LoadError;

/// Most bytes of a file, packed and unpacked: what no kernel or initrd reaches, and what can lie below 4 GiB.
pub const MAX_FILE: u64 = 2 << 30;

/// The first bytes of what gzip wrote (RFC 1952, 2.3.1), with the only method there is.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];

/// A file that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// How it was named, for messages.
    pub name: String,
    /// What it holds.
    pub bytes: Vec<u8>,
}

impl File {
    /// Reads a file as it is; `path` is what it is called.
    ///
    /// # Errors
    /// [`LoadError::Read`], [`LoadError::Empty`], [`LoadError::Oversized`].
    pub fn read(path: &Path, file: fs::File) -> Result<File, LoadError> {
        let name = path.display().to_string();
        let read = |error| LoadError::Read { name: name.clone(), error };
        let length = file.metadata().map_err(read)?.len();
        if length > MAX_FILE {
            return Err(LoadError::Oversized { name, bytes: length, limit: MAX_FILE });
        }
        let mut bytes = Vec::with_capacity(length as usize);
        // A block device says that it has no bytes, and ends somewhere all the same.
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(read)?;
        match bytes.len() as u64 {
            0 => Err(LoadError::Empty { name }),
            bytes if bytes > MAX_FILE => Err(LoadError::Oversized { name, bytes, limit: MAX_FILE }),
            _ => Ok(File { name, bytes }),
        }
    }

    /// Unpacks what gzip packed; other files stay as they are.
    ///
    /// # Errors
    /// [`LoadError::Empty`], [`LoadError::Unpack`], [`LoadError::UnpacksTooFar`].
    pub fn unpacked(self) -> Result<File, LoadError> {
        self.unpacked_up_to(MAX_FILE)
    }

    fn unpacked_up_to(self, limit: u64) -> Result<File, LoadError> {
        let File { name, bytes } = self;
        if !bytes.starts_with(&GZIP) {
            return if bytes.is_empty() { Err(LoadError::Empty { name }) } else { Ok(File { name, bytes }) };
        }
        let mut unpacked = Vec::new();
        match MultiGzDecoder::new(&bytes[..]).take(limit + 1).read_to_end(&mut unpacked) {
            Ok(0) => Err(LoadError::Empty { name }),
            Ok(length) if length as u64 > limit => Err(LoadError::UnpacksTooFar { name, limit }),
            Ok(_) => Ok(File { name, bytes: unpacked }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let error = io::Error::new(error.kind(), "the compressed data ends too early");
                Err(LoadError::Unpack { name, error })
            }
            Err(error) => Err(LoadError::Unpack { name, error }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn file(bytes: &[u8]) -> File {
        File { name: "xen.gz".into(), bytes: bytes.to_vec() }
    }

    #[test]
    fn packed_files_are_unpacked_and_others_left_alone() {
        assert_eq!(file(b"plain").unpacked().unwrap().bytes, b"plain");
        assert_eq!(file(&packed(b"kernel")).unpacked().unwrap().bytes, b"kernel");
        let two = [packed(b"ker"), packed(b"nel")].concat();
        assert_eq!(file(&two).unpacked().unwrap().bytes, b"kernel");
    }

    #[test]
    fn every_wrong_file_has_its_sentence() {
        let packed = packed(&[7; 5000]);
        let said = |bytes: &[u8]| file(bytes).unpacked().unwrap_err().to_string();
        assert_eq!(said(b""), "cannot load xen.gz: it is empty");
        let cut = said(&packed[..packed.len() - 4]);
        assert_eq!(
            cut,
            "cannot load xen.gz: it is compressed by gzip and does not unpack: the compressed data ends too early"
        );
        let mut wrong = packed.clone();
        let checksum = wrong.len() - 8;
        wrong[checksum] ^= 1;
        assert!(said(&wrong).contains("does not unpack"), "{}", said(&wrong));
        let far = file(&packed).unpacked_up_to(4999).unwrap_err().to_string();
        assert_eq!(far, "cannot load xen.gz: it unpacks to more than the 4999 bytes that can be loaded");
        assert_eq!(file(&packed).unpacked_up_to(5000).unwrap().bytes.len(), 5000);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| File::read(path, fs::File::open(path).unwrap()).unwrap_err().to_string();
        assert!(said(folder.path()).ends_with("Is a directory (os error 21)"));
        assert!(said(Path::new("/dev/null")).ends_with("it is empty"));
        let empty = folder.path().join("empty");
        fs::write(&empty, b"").unwrap();
        assert!(said(&empty).ends_with("it is empty"));
        let large = folder.path().join("large");
        fs::File::create(&large).unwrap().set_len(MAX_FILE + 1).unwrap();
        assert!(said(&large).contains("it has 2147483649 bytes, more than the 2147483648"), "{}", said(&large));
    }
}
