//! `/etc/ld.so.cache`: which library of the system lies where, as `ldconfig(8)` wrote it down for the dynamic loader.
//!
//! Only the format of glibc 2.2 and later is read, which may stand behind a table of the older one.

use std::path::PathBuf;

use super::path::bytes_to_path;

/// The mark of the format, and its version.
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// Bytes of the header and of an entry.
const HEADER: usize = 48;
const ENTRY: usize = 24;
/// `FLAG_X8664_LIB64 | FLAG_ELF_LIBC6` of glibc's ldconfig: a library for programs of 64 bits on x86-64.
const X86_64: u32 = 0x0303;

/// The parsed table; a file that is none is an empty one.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    bytes: Vec<u8>,
    /// Where the table begins, and its entries.
    start: usize,
    count: usize,
}

impl Cache {
    /// Takes the bytes of the file.
    pub fn new(bytes: Vec<u8>) -> Cache {
        let Some(start) = bytes.windows(MAGIC.len()).position(|window| window == MAGIC) else {
            return Cache::default();
        };
        let count = word(&bytes, start + MAGIC.len()).unwrap_or(0) as usize;
        let room = bytes.len().saturating_sub(start + HEADER) / ENTRY;
        Cache { bytes, start, count: count.min(room) }
    }

    /// All places of a library. There may be several: builds for certain processors come first in the eyes of the loader.
    pub fn places(&self, name: &[u8]) -> Vec<PathBuf> {
        let table = self.bytes.get(self.start..).unwrap_or_default();
        let string = |at: u32| table.get(at as usize..)?.split(|byte| *byte == 0).next();
        let place = |index: usize| {
            let at = HEADER + index * ENTRY;
            let [flags, key, value] = [word(table, at)?, word(table, at + 4)?, word(table, at + 8)?];
            let found = flags == X86_64 && string(key)? == name;
            string(value).filter(|_| found).map(bytes_to_path)
        };
        (0..self.count).filter_map(place).collect()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A cache with these entries: flags, name, path.
    pub fn cache(entries: &[(u32, &str, &str)]) -> Vec<u8> {
        let mut strings = Vec::new();
        let base = HEADER + entries.len() * ENTRY;
        let mut add = |text: &str| {
            strings.extend(text.bytes().chain([0]));
            (base + strings.len() - text.len() - 1) as u32
        };
        let mut bytes = MAGIC.to_vec();
        bytes.extend((entries.len() as u32).to_le_bytes());
        bytes.resize(HEADER, 0);
        for (flags, name, path) in entries {
            let words = [*flags, add(name), add(path), 0, 0, 0];
            bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        }
        bytes.extend(strings);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_by_name_and_machine() {
        let bytes = testing::cache(&[
            (X86_64, "liba.so.1", "/lib/v3/liba.so.1"),
            (X86_64, "liba.so.1", "/lib/liba.so.1"),
            (0x0803, "liba.so.1", "/lib32/liba.so.1"),
            (X86_64, "libb.so.1", "/lib/libb.so.1"),
        ]);
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let mut behind_an_old_table = b"ld.so-1.7.0\0\0\0\0\0".to_vec();
        behind_an_old_table.extend(&bytes);
        for bytes in [bytes, behind_an_old_table] {
            let cache = Cache::new(bytes);
            assert_eq!(cache.places(b"liba.so.1"), paths(&["/lib/v3/liba.so.1", "/lib/liba.so.1"]));
            assert_eq!(cache.places(b"libb.so.1"), paths(&["/lib/libb.so.1"]));
            assert_eq!(cache.places(b"liba.so"), paths(&[]));
        }
    }

    #[test]
    fn broken_caches_are_harmless() {
        let bytes = testing::cache(&[(X86_64, "liba.so.1", "/lib/liba.so.1")]);
        for length in 0..bytes.len() {
            let _ = Cache::new(bytes[..length].to_vec()).places(b"liba.so.1");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] = 0xff;
            let _ = Cache::new(changed).places(b"liba.so.1");
        }
        assert!(Cache::new(b"no cache".to_vec()).places(b"x").is_empty());
    }

    #[test]
    fn the_system_s_own_cache_knows_its_libc() {
        let Ok(bytes) = std::fs::read("/etc/ld.so.cache") else { return };
        let places = Cache::new(bytes).places(b"libc.so.6");
        assert!(places.iter().any(|place| place.is_file()), "{places:?}");
    }
}
