//! What the guest writes to its memory, for traces: KVM's dirty logs, compared with what was there before.
//!
//! The plugin's own writes are not in these logs. Where it writes to a page that the guest writes to as well, a change holds
//! both, as the page is when it is looked at.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::kvm::DirtyLogs;
use crate::sys::{Errno, PAGE};
use outboard_wire::control::CreateMemory;

/// Bytes that are compared at once: a cache line.
const LINE: usize = 64;

type Page = [u8; PAGE as usize];

/// Bytes that are not what they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Number of the memory slot.
    pub slot: u32,
    /// Guest physical address of the first byte.
    pub address: u64,
    /// The same as an offset in the slot.
    pub offset: u64,
    /// The bytes now, a multiple of 64.
    pub bytes: Vec<u8>,
}

/// A slot whose log is read here alone.
struct Watched {
    memory: File,
    /// Of the slot in the file.
    offset: u64,
    start: u64,
    pages: u64,
    /// Pages that were written since the plugin asked last, if it wants to know.
    for_plugin: Option<Vec<u64>>,
    /// Pages that were written since they were looked at last.
    written: Vec<u64>,
    /// Pages as they were then.
    before: BTreeMap<u64, Box<Page>>,
}

#[derive(Default)]
struct Slots {
    watched: BTreeMap<u32, Watched>,
    /// Changes of slots that are gone.
    left: Vec<Change>,
}

/// The slots that the guest can write to.
pub struct WrittenMemory {
    logs: DirtyLogs,
    slots: Mutex<Slots>,
}

impl WrittenMemory {
    /// Of a VM that has no slots yet.
    pub fn new(logs: DirtyLogs) -> WrittenMemory {
        WrittenMemory { logs, slots: Mutex::default() }
    }

    /// All changes since the last call.
    ///
    /// # Errors
    /// What KVM and pread(2) say.
    pub fn take(&self) -> Result<Vec<Change>, Errno> {
        let mut slots = self.lock();
        let mut changes = core::mem::take(&mut slots.left);
        for (id, slot) in &mut slots.watched {
            slot.fetch(&self.logs, *id)?;
            slot.compare(*id, &mut changes)?;
        }
        Ok(changes)
    }

    /// Watches a slot whose log was switched on; `wanted` says that the plugin asks for it too.
    pub(super) fn add(&self, id: u32, request: &CreateMemory, memory: OwnedFd, wanted: bool) {
        let pages = request.length / PAGE;
        let none = vec![0; pages.div_ceil(64) as usize];
        let slot = Watched {
            memory: memory.into(),
            offset: request.offset,
            start: request.start,
            pages,
            for_plugin: wanted.then(|| none.clone()),
            written: none,
            before: BTreeMap::new(),
        };
        self.lock().watched.insert(id, slot);
    }

    /// Lets go of a slot, which is still there. Its last changes are kept.
    pub(super) fn remove(&self, id: u32) -> Result<(), Errno> {
        let mut slots = self.lock();
        let Some(mut slot) = slots.watched.remove(&id) else { return Ok(()) };
        slot.fetch(&self.logs, id)?;
        slot.compare(id, &mut slots.left)
    }

    /// What the plugin's log of a slot is; `None` if the slot is not watched.
    pub(super) fn log_for_plugin(&self, id: u32) -> Result<Option<Vec<u64>>, Errno> {
        let mut slots = self.lock();
        let Some(slot) = slots.watched.get_mut(&id) else { return Ok(None) };
        slot.fetch(&self.logs, id)?;
        let log = slot.for_plugin.as_mut();
        Ok(log.map(|log| {
            let none = vec![0; log.len()];
            core::mem::replace(log, none)
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn fetch(&mut self, logs: &DirtyLogs, id: u32) -> Result<(), Errno> {
        let mut log = vec![0; self.written.len()];
        logs.read(id, &mut log).map_err(|error| error.errno)?;
        for to in [Some(&mut self.written), self.for_plugin.as_mut()].into_iter().flatten() {
            to.iter_mut().zip(&log).for_each(|(to, new)| *to |= new);
        }
        Ok(())
    }

    fn compare(&mut self, id: u32, changes: &mut Vec<Change>) -> Result<(), Errno> {
        for word in 0..self.written.len() {
            let mut bits = core::mem::take(&mut self.written[word]);
            while bits != 0 {
                let page = word as u64 * 64 + u64::from(bits.trailing_zeros());
                bits &= bits - 1;
                if page < self.pages {
                    self.compare_page(id, page, changes)?;
                }
            }
        }
        Ok(())
    }

    fn compare_page(&mut self, id: u32, page: u64, changes: &mut Vec<Change>) -> Result<(), Errno> {
        let mut now = Box::new([0; PAGE as usize]);
        self.memory.read_exact_at(&mut *now, self.offset + page * PAGE)?;
        let before = self.before.get(&page).map(|page| &**page);
        for (at, bytes) in differing(before, &now) {
            let offset = page * PAGE + at as u64;
            changes.push(Change { slot: id, address: self.start + offset, offset, bytes: bytes.to_vec() });
        }
        self.before.insert(page, now);
        Ok(())
    }
}

/// Runs of lines that differ, by their offset; the whole page if nobody knows what it was.
fn differing<'a>(before: Option<&Page>, now: &'a Page) -> Vec<(usize, &'a [u8])> {
    let Some(before) = before else { return vec![(0, now)] };
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for at in (0..now.len()).step_by(LINE) {
        if before[at..at + LINE] == now[at..at + LINE] {
            continue;
        }
        match runs.last_mut() {
            Some((_, end)) if *end == at => *end = at + LINE,
            _ => runs.push((at, at + LINE)),
        }
    }
    runs.into_iter().map(|(start, end)| (start, &now[start..end])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_differ_come_in_runs() {
        let (before, mut now) = ([0; PAGE as usize], [0; PAGE as usize]);
        assert_eq!(differing(Some(&before), &now), []);
        assert_eq!(differing(None, &now), [(0, &now[..])]);
        (now[63], now[64], now[4095]) = (1, 2, 3);
        let runs: Vec<_> = differing(Some(&before), &now).into_iter().map(|(at, bytes)| (at, bytes.len())).collect();
        assert_eq!(runs, [(0, 128), (4032, 64)]);
    }
}
