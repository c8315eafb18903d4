//! The memory of tasks that are gone, kept for those to come.
//!
//! Tasks come and go by the hundred, and most are small. glibc keeps seven blocks of a size at hand; beyond those an
//! allocation costs as much as all the rest of a small task.

use std::{
    alloc::{Layout, alloc, dealloc, handle_alloc_error},
    cell::Cell,
    ptr::NonNull,
};

/// Blocks come in multiples of this size...
const STEP: usize = 64;
/// ...up to this many times; what is larger is not kept.
const SIZES: usize = 8;
/// How much memory is kept of each size.
const KEPT_BYTES: usize = 32 << 10;
const ALIGN: usize = 16;

/// See the module. It belongs to one thread.
pub(crate) struct Blocks([Kept; SIZES]);

/// Blocks of one size, each with the address of the next one in its first bytes.
///
/// Invariant: each was allocated with the layout of its size, and nobody else has it.
struct Kept {
    first: Cell<Option<NonNull<Block>>>,
    bytes: Cell<usize>,
}

struct Block {
    next: Option<NonNull<Block>>,
}

/// Which of the sizes it is, if it is one.
const fn size_of_layout(layout: Layout) -> Option<usize> {
    if layout.size() > STEP * SIZES || layout.size() == 0 || layout.align() > ALIGN {
        return None;
    }
    Some(layout.size().div_ceil(STEP) - 1)
}

/// That of the block in which there is room for `layout`.
const fn block_layout(layout: Layout) -> Layout {
    let Some(size) = size_of_layout(layout) else { return layout };
    match Layout::from_size_align((size + 1) * STEP, ALIGN) {
        Ok(block) => block,
        Err(_) => panic!("a small power of two, and a small size"),
    }
}

impl Default for Blocks {
    fn default() -> Self {
        Blocks([const { Kept { first: Cell::new(None), bytes: Cell::new(0) } }; SIZES])
    }
}

impl Blocks {
    /// Memory for a `T`, to be given back by [`Blocks::put`] or [`Blocks::free`] for the same type.
    #[inline]
    pub fn take<T>(&self) -> NonNull<T> {
        let layout = const { block_layout(Layout::new::<T>()) };
        if let Some(size) = const { size_of_layout(Layout::new::<T>()) } {
            let kept = &self.0[size];
            if let Some(block) = kept.first.get() {
                // SAFETY: by the invariant it is a block, and nobody else's.
                kept.first.set(unsafe { block.as_ref() }.next);
                kept.bytes.set(kept.bytes.get() - layout.size());
                return block.cast();
            }
        }
        const { assert!(size_of::<T>() > 0, "a task has a header") };
        // SAFETY: its size is not zero.
        let memory = unsafe { alloc(layout) };
        NonNull::new(memory.cast()).unwrap_or_else(|| handle_alloc_error(layout))
    }

    /// Keeps memory for the next one that needs as much, or frees it.
    ///
    /// # Safety
    ///
    /// It is from [`Blocks::take`] of any `Blocks` and this `T`, and not used any more.
    #[inline]
    pub unsafe fn put<T>(&self, memory: NonNull<T>) {
        let layout = const { block_layout(Layout::new::<T>()) };
        if let Some(size) = const { size_of_layout(Layout::new::<T>()) } {
            let kept = &self.0[size];
            if kept.bytes.get() < KEPT_BYTES {
                let block = memory.cast::<Block>();
                // SAFETY: a block has room for an address and is aligned for it, and it is not used.
                unsafe { block.write(Block { next: kept.first.get() }) };
                kept.first.set(Some(block));
                kept.bytes.set(kept.bytes.get() + layout.size());
                return;
            }
        }
        // SAFETY: promised by the caller.
        unsafe { Self::free(memory) };
    }

    /// Gives memory back to the allocator, in any thread.
    ///
    /// # Safety
    ///
    /// As for [`Blocks::put`].
    pub unsafe fn free<T>(memory: NonNull<T>) {
        // SAFETY: it was allocated with this layout, in `take`.
        unsafe { dealloc(memory.as_ptr().cast(), const { block_layout(Layout::new::<T>()) }) };
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        for (size, kept) in (1..).zip(&self.0) {
            while let Some(block) = kept.first.get() {
                // SAFETY: by the invariant it is a block, and nobody else's.
                kept.first.set(unsafe { block.as_ref() }.next);
                // SAFETY: of a size from 1 on, by a power of two: that of `block_layout`.
                let layout = unsafe { Layout::from_size_align_unchecked(size * STEP, ALIGN) };
                // SAFETY: by the invariant it was allocated with this layout.
                unsafe { dealloc(block.as_ptr().cast(), layout) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_serves_the_next_one_of_its_size() {
        let blocks = Blocks::default();
        let small = blocks.take::<[u8; 100]>();
        // SAFETY: from `take`, and not used.
        unsafe { blocks.put(small) };
        let large = blocks.take::<[u8; 200]>();
        assert_ne!(large.cast::<u8>(), small.cast::<u8>());
        let other = blocks.take::<[u64; 16]>();
        assert_eq!(other.cast::<u8>(), small.cast::<u8>(), "128 bytes, as 100 take");
        // SAFETY: from `take`, and not used.
        unsafe {
            Blocks::free(large);
            blocks.put(other);
        }
    }

    #[test]
    fn no_more_is_kept_than_the_limit() {
        let blocks = Blocks::default();
        let taken: Vec<_> = (0..2000).map(|_| blocks.take::<[u64; 8]>()).collect();
        for memory in taken {
            // SAFETY: from `take`, and not used.
            unsafe { blocks.put(memory) };
        }
        assert_eq!(blocks.0[0].bytes.get(), KEPT_BYTES);
    }

    #[test]
    fn what_is_large_or_aligned_is_not_kept() {
        #[repr(align(64))]
        struct Aligned([u8; 64]);

        let blocks = Blocks::default();
        let (large, aligned) = (blocks.take::<[u8; 1000]>(), blocks.take::<Aligned>());
        assert!(aligned.is_aligned());
        // SAFETY: from `take`, and not used.
        unsafe {
            aligned.write(Aligned([0; 64]));
            assert_eq!(aligned.as_ref().0, [0; 64]);
            blocks.put(large);
            blocks.put(aligned);
        }
        assert!(blocks.0.iter().all(|kept| kept.bytes.get() == 0));
    }
}
