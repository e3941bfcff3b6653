//! Memory shared with the kernel, memory given back to it, and a descriptor to wait for: what no safe call does.
//!
//! Promises: the counters are mapped read-only and read without a system call, so that they can be read after the
//! process has given up its capabilities, on every kernel that has ring buffers.
//! Must never: hold anything but these calls.

#![expect(
    unsafe_code,
    reason = "mapping a table of the kernel, a call of the C library, a descriptor given to the runtime"
)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::layout::{COUNT_COLUMNS, COUNT_ROWS};

const CELLS: usize = COUNT_ROWS * COUNT_COLUMNS;
const BYTES: usize = CELLS * size_of::<u64>();

/// The table of counters that the programs write.
#[derive(Debug)]
pub(super) struct Counts {
    cells: NonNull<AtomicU64>,
}

// SAFETY: the pointer is to memory that lives as long as this value and that is only read, atomically.
unsafe impl Send for Counts {}

impl Counts {
    /// Maps the table.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn map(table: impl AsFd) -> io::Result<Self> {
        let flags = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: without an address of ours nothing that is mapped is replaced; neither rustix nor aya wraps this.
        let at = unsafe { mmap(std::ptr::null_mut(), BYTES, flags.0, flags.1, table, 0) }?;
        let cells = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { cells })
    }

    /// The sums of all columns.
    pub(super) fn read(&self) -> [u64; COUNT_COLUMNS] {
        // SAFETY: `map` mapped this many cells, page-aligned, and they are unmapped only by `drop`; the kernel writes
        // them while we read, which is what atomics are for, and a relaxed load needs no right to write.
        let cells = unsafe { std::slice::from_raw_parts(self.cells.as_ptr(), CELLS) };
        let mut sums = [0_u64; COUNT_COLUMNS];
        for row in cells.chunks_exact(COUNT_COLUMNS) {
            for (sum, cell) in sums.iter_mut().zip(row) {
                *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        sums
    }
}

impl Drop for Counts {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and nobody borrows from it any more.
        let unmapped = unsafe { munmap(self.cells.as_ptr().cast(), BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Registers a descriptor with the runtime, to be told when there is something to read.
///
/// # Errors
/// The system refuses.
pub(super) fn watch(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor until it is dropped, and it is moved into what is registered;
    // tokio has no safe constructor.
    let watched = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    Ok(watched?)
}

/// Gives freed memory back to the system: the kernel's type information takes 30 MB while programs are loaded.
pub(super) fn trim() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: may be called at any time by any thread; whether it found something to give back does not matter.
        let _gave_back = unsafe { malloc_trim(0) };
    }
}
