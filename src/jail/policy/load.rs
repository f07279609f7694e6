//! Policy files from the disk.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::error::{Fault, Place, PolicyError};
use super::{Mode, Policy, parse};
use crate::sys::Errno;

/// Bytes of the longest policy file that is read: hundreds of times the length of real ones.
const MAX_SIZE: u64 = 1 << 20;

/// Reads a policy file and those that it includes.
///
/// # Errors
/// [`PolicyError`]: the place and one sentence.
pub fn load(path: &Path, mode: Mode) -> Result<Policy, PolicyError> {
    let bytes = read_file(path).map_err(|errno| PolicyError {
        place: Place { file: path.to_owned(), line: 1, column: 1 },
        fault: Fault::Unreadable { path: path.to_owned(), errno },
    })?;
    parse(path, &bytes, mode, &read_file)
}

/// Reads a file that is not longer than a policy can be.
///
/// # Errors
/// Those of open(2) and read(2); `EFBIG` for a file of more than 1 MiB.
pub fn read_file(path: &Path) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_SIZE { Err(Errno::EFBIG) } else { Ok(bytes) }
}
