//! Bytes, taken one after the other. Past their end there are zeros, so that every prefix of an input means something.

/// What is left of an input.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of the bytes.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    /// True past the last byte.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next byte that says what to do; `None` past the last.
    pub fn op(&mut self) -> Option<u8> {
        let (op, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*op)
    }

    /// As many bytes as there are, up to `count`.
    pub fn some(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        bytes
    }

    /// Exactly so many bytes.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = self.some(count).to_vec();
        bytes.resize(count, 0);
        bytes
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let some = self.some(N);
        array[..some.len()].copy_from_slice(some);
        array
    }

    /// One byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes, the lowest first.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes, the lowest first.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes, the lowest first.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// All that is left.
    pub fn all(&mut self) -> &'a [u8] {
        self.some(usize::MAX)
    }
}
