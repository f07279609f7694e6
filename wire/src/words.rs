//! Copying bytes in and out of memory that another process may write at the same time.
//!
//! Such memory is only ever seen as atomic words: a plain load of bytes that change under way would be undefined
//! behaviour. Relaxed 64-bit accesses compile to plain moves, so nothing is lost by it. The caller decides the moment: the
//! bytes are meaningful only between the peer's publication and one's own answer, and even then they are an allegation.

use crate::sync::{AtomicU64, Ordering};

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
///
/// The usual lengths are single loads. That is more than the saved copy: a load which is longer than the store before it
/// waits until that has left the store buffer.
///
/// # Panics
/// If there are more than eight bytes.
#[inline]
pub fn low_bytes(bytes: &[u8]) -> u64 {
    match *bytes {
        [a] => u64::from(a),
        [a, b] => u64::from(u16::from_le_bytes([a, b])),
        [a, b, c, d] => u64::from(u32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => {
            let mut value = [0; 8];
            value[..bytes.len()].copy_from_slice(bytes);
            u64::from_le_bytes(value)
        }
    }
}

/// Stores the low bytes of a value, lowest first, as many as there is room for; room past the eighth becomes zero.
#[inline]
pub fn put_low_bytes(place: &mut [u8], value: u64) {
    let value = value.to_le_bytes();
    match place {
        [a] => *a = value[0],
        [_, _] => place.copy_from_slice(&value[..2]),
        [_, _, _, _] => place.copy_from_slice(&value[..4]),
        [_, _, _, _, _, _, _, _] => place.copy_from_slice(&value),
        _ => {
            let length = place.len().min(8);
            place[..length].copy_from_slice(&value[..length]);
            place[length..].fill(0);
        }
    }
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
    fn a_value_comes_back_in_as_many_bytes_as_it_has() {
        for length in 0..=8 {
            let mut place = vec![0xee; length];
            put_low_bytes(&mut place, 0x8877_6655_4433_2211);
            assert_eq!(place, 0x8877_6655_4433_2211u64.to_le_bytes()[..length]);
            let mask = u64::MAX.checked_shr(64 - 8 * length as u32).unwrap_or(0);
            assert_eq!(low_bytes(&place), 0x8877_6655_4433_2211 & mask);
        }
        let mut long = [0xee; 10];
        put_low_bytes(&mut long, u64::MAX);
        assert_eq!(long, [255, 255, 255, 255, 255, 255, 255, 255, 0, 0]);
    }

    #[test]
    #[should_panic(expected = "do not fit")]
    fn too_much_is_refused() {
        store(&[AtomicU64::new(0)], &[0; 9]);
    }
}
