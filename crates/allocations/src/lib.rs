//! How much memory something takes, for tests that bound it (T47): an allocator that counts by thread.
//!
//! A test program declares it, since a library must not choose the allocator of those that use it:
//!
//! ```
//! #[global_allocator]
//! static ALLOCATOR: highwater_allocations::Counting = highwater_allocations::Counting;
//! # assert!((1 << 20..2 << 20).contains(&highwater_allocations::peak_of(|| drop(vec![0u8; 1 << 20]))));
//! ```
#![warn(missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, which notes how much the current thread holds at most.
#[derive(Debug)]
pub struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

#[allow(unsafe_code, reason = "an allocator can't be written otherwise; each call is passed on as it came")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.with(|held| {
            held.set(held.get().saturating_add(layout.size()));
            PEAK.with(|peak| peak.set(peak.get().max(held.get())));
        });
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.with(|held| held.set(held.get().saturating_sub(layout.size())));
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// The most bytes that `run` held at a time beyond those held before, on this thread. Without [`Counting`] as the allocator: 0.
pub fn peak_of(run: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    run();
    PEAK.get() - before
}
