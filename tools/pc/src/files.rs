//! The files that the machine is made of: opened here, or found open because the cage hides them.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use crate::error::PcError;

/// A file that the machine is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The file, by absolute path.
    pub path: PathBuf,
    /// The machine writes to it.
    pub writable: bool,
}

/// Files that lie open.
#[derive(Debug, Default)]
pub struct Files(Vec<(Opened, File)>);

impl Files {
    /// These files, open as descriptors from `first` on; none without it.
    ///
    /// # Errors
    /// One of them is not open.
    pub fn inherited(files: Vec<Opened>, first: Option<i32>) -> Result<Files, PcError> {
        let Some(first) = first else { return Ok(Files::default()) };
        let take = |(number, wanted)| Ok((wanted, outboard_plugin::inherited_file(number)?));
        (first..).zip(files).map(take).collect::<Result<_, PcError>>().map(Files)
    }

    /// The file of this name, from its beginning. Each one that lies open is handed out once.
    ///
    /// # Errors
    /// It cannot be opened, or is of no kind that can be used: a sentence.
    pub fn open(&mut self, path: &Path, writable: bool) -> Result<File, PcError> {
        let known = self.0.iter().position(|(opened, _)| opened.path == path && opened.writable == writable);
        match known {
            Some(at) => Ok(self.0.remove(at).1),
            None => open(path, writable),
        }
    }
}

/// Opens a file.
///
/// # Errors
/// As [`Files::open`].
pub fn open(path: &Path, writable: bool) -> Result<File, PcError> {
    let failed = |error| PcError::Open { path: path.to_owned(), error };
    let unfit = |why: &str| PcError::Unfit { path: path.to_owned(), why: why.to_owned() };
    // Asked first, because opening a FIFO waits for its other end.
    let kind = path.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(unfit("it is a directory"));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(unfit("it is neither a regular file nor a block device"));
    }
    OpenOptions::new().read(true).write(writable).open(path).map_err(failed)
}

/// Bytes of a file or a block device; leaves it at its beginning.
///
/// # Errors
/// What the system says.
pub fn length(file: &mut File, path: &Path) -> Result<u64, PcError> {
    let failed = |error: io::Error| PcError::Open { path: PathBuf::from(path), error };
    let bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| open(path, false).unwrap_err().to_string();
        assert!(said(folder.path()).contains("it is a directory"));
        assert!(said(&folder.path().join("missing")).contains("No such file"));
        assert!(said(Path::new("/dev/null")).contains("neither"));
    }

    #[test]
    fn a_file_that_lies_open_is_handed_out_once() {
        let folder = tempfile::tempdir().unwrap();
        let (hidden, path) = (folder.path().join("hidden"), folder.path().join("path"));
        std::fs::write(&hidden, [0; 3]).unwrap();
        std::fs::write(&path, [0; 4]).unwrap();
        let opened = Opened { path: path.clone(), writable: false };
        let mut files = Files(vec![(opened, File::open(&hidden).unwrap())]);
        assert_eq!(
            length(&mut files.open(&path, true).unwrap(), &path).unwrap(),
            4,
            "not the one that cannot be written"
        );
        assert_eq!(length(&mut files.open(&path, false).unwrap(), &path).unwrap(), 3);
        assert_eq!(length(&mut files.open(&path, false).unwrap(), &path).unwrap(), 4);
    }
}
