//! A ring of records with one writer and one reader, which never wait for each other.

use core::sync::atomic::{AtomicU64, Ordering};

use super::RECORD;

/// Records of a ring: 1 MiB, about 80 ms of the busiest guest.
pub const SLOTS: usize = if cfg!(miri) { 128 } else { 8192 };

/// Most records of a piece of [`Ring::drain_in_pieces`]: 64 KiB.
pub const PIECE: usize = SLOTS / 16;

const WORDS: usize = RECORD / 8;

/// A position in a cache line of its own, which only one side writes.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Position(AtomicU64);

/// The ring.
#[derive(Debug)]
pub struct Ring {
    words: Box<[AtomicU64]>,
    written: Position,
    read: Position,
}

impl Default for Ring {
    fn default() -> Ring {
        let words = (0..SLOTS * WORDS).map(|_| AtomicU64::new(0)).collect();
        Ring { words, written: Position::default(), read: Position::default() }
    }
}

impl Ring {
    /// Writes a group of records, whole or not at all. Returns whether there was room. Only one thread calls this.
    pub fn push(&self, group: &[[u64; WORDS]]) -> bool {
        let written = self.written.0.load(Ordering::Relaxed);
        let used = written.wrapping_sub(self.read.0.load(Ordering::Acquire)) as usize;
        if group.len() > SLOTS.saturating_sub(used) {
            return false;
        }
        for (at, record) in (written as usize..).zip(group) {
            let place = &self.words[at % SLOTS * WORDS..][..WORDS];
            place.iter().zip(record).for_each(|(word, value)| word.store(*value, Ordering::Relaxed));
        }
        self.written.0.store(written.wrapping_add(group.len() as u64), Ordering::Release);
        true
    }

    /// Appends everything that was written to `out`. Only one thread calls this, or [`Ring::drain_in_pieces`].
    pub fn drain(&self, out: &mut Vec<u8>) {
        self.drain_in_pieces(out, |_| {});
    }

    /// Throws away everything that was written. For the thread that drains.
    pub fn discard(&self) {
        self.read.0.store(self.written.0.load(Ordering::Acquire), Ordering::Release);
    }

    /// As [`Ring::drain`], and calls `piece` each time that [`PIECE`] records have come, and at the end. It may empty `out`, so that
    /// this never holds much. Groups that are written meanwhile are left for the next time.
    pub fn drain_in_pieces(&self, out: &mut Vec<u8>, mut piece: impl FnMut(&mut Vec<u8>)) {
        let written = self.written.0.load(Ordering::Acquire);
        let mut read = self.read.0.load(Ordering::Relaxed);
        while read != written {
            let place = &self.words[read as usize % SLOTS * WORDS..][..WORDS];
            place.iter().for_each(|word| out.extend(word.load(Ordering::Relaxed).to_le_bytes()));
            read = read.wrapping_add(1);
            if read == written || (read as usize).is_multiple_of(PIECE) {
                piece(out);
                self.read.0.store(read, Ordering::Release);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_written_whole_or_not_at_all() {
        let ring = Ring::default();
        let group = |value, records| vec![[value; WORDS]; records];
        assert!(ring.push(&group(1, SLOTS - 1)));
        assert!(!ring.push(&group(2, 2)));
        assert!(ring.push(&group(3, 1)));
        let mut out = Vec::new();
        ring.drain(&mut out);
        assert_eq!(out.len(), SLOTS * RECORD);
        assert_eq!(out[out.len() - 8..], 3u64.to_le_bytes());
        assert!(ring.push(&group(2, 2)));
        ring.discard();
        out.clear();
        ring.drain(&mut out);
        assert!(out.is_empty() && ring.push(&group(4, SLOTS)));
    }

    #[test]
    fn pieces_are_bounded_and_whole_together() {
        let ring = Ring::default();
        let records = 2 * PIECE + 3;
        (0..records as u64).for_each(|number| assert!(ring.push(&[[number; WORDS]])));
        let (mut piece, mut all, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        ring.drain_in_pieces(&mut piece, |piece| {
            sizes.push(piece.len() / RECORD);
            all.append(piece);
        });
        assert_eq!(sizes, [PIECE, PIECE, 3]);
        let firsts = all.chunks_exact(RECORD).map(|record| u64::from_le_bytes(record[..8].try_into().unwrap()));
        assert!(firsts.eq(0..records as u64));
        ring.drain_in_pieces(&mut piece, |_| panic!("there is nothing"));
    }

    #[test]
    fn nothing_is_lost_or_torn_between_two_threads() {
        let ring = Ring::default();
        const GROUPS: u64 = if cfg!(miri) { 100 } else { 20_000 };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0..GROUPS {
                    while !ring.push(&[[number; WORDS], [number; WORDS]]) {
                        std::thread::yield_now();
                    }
                }
            });
            let (mut out, mut next) = (Vec::new(), 0);
            while next < 2 * GROUPS {
                ring.drain(&mut out);
                for record in out.chunks_exact(RECORD) {
                    let words = record.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
                    assert!(words.into_iter().all(|word| word == next / 2));
                    next += 1;
                }
                out.clear();
            }
        });
    }
}
