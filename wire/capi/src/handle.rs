//! Handles: what a plugin holds in its hands for a connection, a memory slot and so on.
//!
//! A handle looks like a pointer to C but is a number that is never followed: the kind of the object in the upper bits,
//! which makes it an address that no object of the plugin can have, and below it a serial number that is never used
//! again. So a handle that was destroyed, belongs to another kind or was made up is told from a good one by looking it up.

use core::marker::PhantomData;
use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::call::Errno;

/// Kinds, in bits 48 to 55. With bit 63 set this is no address of a process.
const KIND_SHIFT: u32 = 48;
const FOREIGN: usize = 1 << 63;

/// What C sees behind a handle of `T`: nothing.
#[repr(C)]
pub struct Opaque<T> {
    nothing: [u8; 0],
    of: PhantomData<T>,
}

/// The objects of one kind.
pub struct Table<T> {
    kind: usize,
    objects: RwLock<Objects<T>>,
}

struct Objects<T> {
    next: usize,
    by_handle: BTreeMap<usize, Arc<T>>,
}

impl<T> Table<T> {
    /// An empty table. No two tables have the same kind.
    pub const fn new(kind: u8) -> Table<T> {
        let objects = Objects { next: 0, by_handle: BTreeMap::new() };
        Table { kind: FOREIGN | (kind as usize) << KIND_SHIFT, objects: RwLock::new(objects) }
    }

    /// Keeps an object and makes its handle.
    pub fn add(&self, object: T) -> *mut Opaque<T> {
        // Every change under the lock is whole before anything could panic, here and below.
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        objects.next += 1;
        let handle = self.kind + objects.next;
        objects.by_handle.insert(handle, Arc::new(object));
        core::ptr::without_provenance_mut(handle)
    }

    /// The object of a handle; `EINVAL` if there is none.
    pub fn get(&self, handle: *const Opaque<T>) -> Result<Arc<T>, Errno> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.by_handle.get(&handle.addr()).cloned().ok_or(Errno::INVALID)
    }

    /// Ends a handle. Whoever holds the object at this moment keeps it until done.
    pub fn remove(&self, handle: *const Opaque<T>) {
        let removed = self.objects.write().unwrap_or_else(PoisonError::into_inner).by_handle.remove(&handle.addr());
        // What the object does when it goes away happens without the lock.
        drop(removed);
    }

    /// The oldest object, if there is any.
    pub fn any(&self) -> Option<Arc<T>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).by_handle.values().next().cloned()
    }

    /// True if no handle is left.
    pub fn is_empty(&self) -> bool {
        self.objects.read().unwrap_or_else(PoisonError::into_inner).by_handle.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_live_handle_of_the_own_kind_is_found() {
        let (one, other) = (Table::new(1), Table::new(2));
        let handle = one.add(5);
        assert_eq!(one.get(handle).as_deref(), Ok(&5));
        let foreign: *mut Opaque<i32> = other.add(6);
        assert_eq!(one.get(foreign), Err(Errno::INVALID));
        assert_eq!(one.get(core::ptr::null()), Err(Errno::INVALID));
        assert_eq!(one.get((&raw const one).cast()), Err(Errno::INVALID));
        one.remove(handle);
        assert!(one.is_empty() && !other.is_empty());
        assert_ne!(one.add(7), handle, "numbers are not used again");
        assert_eq!(one.get(handle), Err(Errno::INVALID));
    }
}
