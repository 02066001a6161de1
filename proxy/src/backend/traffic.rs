//! Bytes that went through sockets: gathered without sharing, added to the thread's sum now and then.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of one connection that nobody has counted yet.
#[derive(Debug, Clone, Copy, Default)]
pub struct Moved {
    /// Read.
    pub read: u64,
    /// Written.
    pub written: u64,
    /// Times that bytes were read or written: the system calls that moved them.
    pub calls: u64,
}

/// Bytes moved by one session thread.
#[derive(Debug, Default)]
pub struct Traffic {
    read: AtomicU64,
    written: AtomicU64,
}

impl Traffic {
    /// Counts.
    pub fn add(&self, moved: Moved) {
        self.read.fetch_add(moved.read, Ordering::Relaxed);
        self.written.fetch_add(moved.written, Ordering::Relaxed);
    }

    /// Read so far.
    pub fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}
