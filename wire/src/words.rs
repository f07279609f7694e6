//! Copying bytes in and out of memory that another process may write at the same time.
//!
//! Such memory is only ever seen as atomic words: a plain load of bytes that change under way would be undefined
//! behaviour. Relaxed 64-bit accesses compile to plain moves, so nothing is lost by it. The caller decides the moment: the
//! bytes are meaningful only between the peer's publication and one's own answer, and even then they are an allegation.

use core::sync::atomic::{AtomicU64, Ordering};

/// Copies `bytes` into the words, lowest byte first; the rest of a last, partly filled word becomes zero.
///
/// # Panics
/// If the bytes do not fit. Callers have compared lengths before.
pub fn store(words: &[AtomicU64], bytes: &[u8]) {
    assert!(bytes.len() <= words.len() * 8, "{} bytes do not fit {} words", bytes.len(), words.len());
    let chunks = bytes.chunks_exact(8);
    let tail = chunks.remainder();
    let full = bytes.len() / 8;
    for (word, chunk) in words.iter().zip(chunks) {
        word.store(u64::from_le_bytes(chunk.try_into().expect("chunks of eight")), Ordering::Relaxed);
    }
    if !tail.is_empty() {
        words[full].store(low_bytes(tail), Ordering::Relaxed);
    }
}

/// Copies the first `bytes.len()` bytes of the words out.
///
/// # Panics
/// If the words hold fewer bytes. Callers have compared lengths before.
pub fn load(words: &[AtomicU64], bytes: &mut [u8]) {
    assert!(bytes.len() <= words.len() * 8, "{} words do not hold {} bytes", words.len(), bytes.len());
    for (word, chunk) in words.iter().zip(bytes.chunks_mut(8)) {
        let value = word.load(Ordering::Relaxed).to_le_bytes();
        chunk.copy_from_slice(&value[..chunk.len()]);
    }
}

/// The value of up to eight bytes, lowest first.
#[inline]
pub fn low_bytes(bytes: &[u8]) -> u64 {
    let mut value = [0; 8];
    value[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_length_comes_back() {
        for length in 0..=40usize {
            let words: Vec<AtomicU64> = (0..5).map(|_| AtomicU64::new(u64::MAX)).collect();
            let bytes: Vec<u8> = (0..length as u8).collect();
            store(&words, &bytes);
            let mut back = vec![0; length];
            load(&words, &mut back);
            assert_eq!(back, bytes);
        }
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn too_much_is_refused() {
        store(&[AtomicU64::new(0)], &[0; 9]);
    }
}
