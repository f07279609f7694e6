//! Numbers for objects that the plugin makes.

use std::collections::BTreeMap;

use crate::sys::errno::Errno;
use outboard_wire::limits::MAX_OBJECTS;

/// Objects of one kind by number. The smallest free number is given, so numbers stay below [`MAX_OBJECTS`].
#[derive(Debug)]
pub struct Objects<T> {
    objects: BTreeMap<u32, T>,
    /// No number below this one is free.
    hint: u32,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Objects { objects: BTreeMap::new(), hint: 0 }
    }
}

impl<T> Objects<T> {
    /// The number that [`Objects::insert`] gives next.
    ///
    /// # Errors
    /// `ENOSPC` when all numbers are taken.
    pub fn next_id(&self) -> Result<u32, Errno> {
        let mut id = self.hint;
        while self.objects.contains_key(&id) {
            id += 1;
        }
        if (id as usize) < MAX_OBJECTS { Ok(id) } else { Err(Errno(libc::ENOSPC)) }
    }

    /// Keeps an object under the number that [`Objects::next_id`] gave.
    pub fn insert(&mut self, id: u32, object: T) {
        self.objects.insert(id, object);
        if id == self.hint {
            self.hint += 1;
        }
    }

    /// The object with this number.
    ///
    /// # Errors
    /// `ENOENT` if there is none.
    pub fn get(&self, id: u32) -> Result<&T, Errno> {
        self.objects.get(&id).ok_or(Errno(libc::ENOENT))
    }

    /// Takes the object with this number out.
    ///
    /// # Errors
    /// `ENOENT` if there is none.
    pub fn remove(&mut self, id: u32) -> Result<T, Errno> {
        let object = self.objects.remove(&id).ok_or(Errno(libc::ENOENT))?;
        self.hint = self.hint.min(id);
        Ok(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_free_number_is_given() {
        let mut objects = Objects::default();
        for wanted in 0..3 {
            let id = objects.next_id().unwrap();
            assert_eq!(id, wanted);
            objects.insert(id, id);
        }
        assert_eq!(objects.remove(1), Ok(1));
        assert_eq!(objects.remove(1), Err(Errno(libc::ENOENT)));
        assert_eq!(objects.next_id(), Ok(1));
        objects.insert(1, 9);
        assert_eq!((objects.next_id(), objects.get(1)), (Ok(3), Ok(&9)));
    }

    #[test]
    fn the_number_of_objects_is_limited() {
        let mut objects = Objects::default();
        for id in 0..MAX_OBJECTS as u32 {
            objects.insert(objects.next_id().unwrap(), id);
        }
        assert_eq!(objects.next_id(), Err(Errno(libc::ENOSPC)));
    }
}
