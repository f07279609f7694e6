//! Blocks in ordinary memory.

use core::ops::Deref;
use std::sync::Arc;

/// A block that both ends have.
#[derive(Debug)]
pub struct BlockRef<B>(Arc<B>);

impl<B: Default> BlockRef<B> {
    /// A block of zeros.
    pub fn fresh() -> BlockRef<B> {
        BlockRef(Arc::new(B::default()))
    }
}

impl<B> Clone for BlockRef<B> {
    fn clone(&self) -> BlockRef<B> {
        BlockRef(Arc::clone(&self.0))
    }
}

impl<B> Deref for BlockRef<B> {
    type Target = B;

    fn deref(&self) -> &B {
        &self.0
    }
}
