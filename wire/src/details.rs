//! Details of the exits that are no accesses: a few words each, in an order that their kind decides.
//!
//! The first three words travel in the event line itself (`address`, `data`, `count`), so that most exits cost one line; the
//! rest lies at the start of the string area. `length` says how many bytes there are altogether.

use crate::sync::AtomicU64;

use crate::line::Event;
use crate::words;

/// Most words of an exit: a system event has its type and 16 words of data.
pub const MAX_DETAILS: usize = 17;

/// Words in the event line.
const IN_LINE: usize = 3;

/// The details of one exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Details {
    words: [u64; MAX_DETAILS],
    count: usize,
}

impl Details {
    /// Details of these words.
    ///
    /// # Panics
    /// If there are more than [`MAX_DETAILS`].
    pub fn new(from: &[u64]) -> Details {
        let mut words = [0; MAX_DETAILS];
        words[..from.len()].copy_from_slice(from);
        Details { words, count: from.len() }
    }

    /// The words; those that did not come are zero.
    pub fn words(&self) -> &[u64; MAX_DETAILS] {
        &self.words
    }

    /// Number of words that came.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Lays the words into an event and, past the third, into the string area of the block that it is published in.
    pub fn put(&self, event: &mut Event, string: &[AtomicU64]) {
        event.length = 8 * self.count as u32;
        [event.address, event.data, event.count] = [self.words[0], self.words[1], self.words[2]];
        if self.count > IN_LINE {
            words::store(string, bytemuck::cast_slice(&self.words[IN_LINE..self.count]));
        }
    }

    /// Takes the words out of an event and the string area. Words past the limit are left out.
    pub fn take(event: &Event, string: &[AtomicU64]) -> Details {
        let count = (event.length as usize / 8).min(MAX_DETAILS);
        let mut words = [0; MAX_DETAILS];
        if count > IN_LINE {
            words::load(string, bytemuck::cast_slice_mut(&mut words[IN_LINE..count]));
        }
        for (word, value) in words.iter_mut().zip([event.address, event.data, event.count]).take(count) {
            *word = value;
        }
        Details { words, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_words_comes_back() {
        let string: Vec<AtomicU64> = (0..512).map(|_| AtomicU64::new(u64::MAX)).collect();
        for count in 0..=MAX_DETAILS as u64 {
            let details = Details::new(&(100..100 + count).collect::<Vec<u64>>());
            let mut event = Event::default();
            details.put(&mut event, &string);
            assert_eq!(u64::from(event.length), 8 * count);
            assert_eq!(Details::take(&event, &string), details);
        }
        let event = Event { length: u32::MAX, ..Event::default() };
        assert_eq!(Details::take(&event, &string).count(), MAX_DETAILS);
    }

    #[test]
    fn three_words_stay_in_the_line() {
        let mut event = Event::default();
        Details::new(&[1, 2, 3]).put(&mut event, &[]);
        assert_eq!((event.address, event.data, event.count, event.length), (1, 2, 3, 24));
    }
}
