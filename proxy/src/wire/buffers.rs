//! Buffers that are lent while bytes are in flight.
//!
//! Each thread keeps a few spare ones. Invariant: an idle session or conn owns no buffer, and what a thread keeps is bounded by
//! `SPARE_MAX` times `SPARE_BYTES_MAX`.

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of a new buffer.
const BUFFER_BYTES: usize = 8 << 10;
/// A buffer that has grown beyond this is freed when it is given back.
const SPARE_BYTES_MAX: usize = 16 << 10;
/// Spare buffers of a thread.
const SPARE_MAX: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// Puts a buffer in place of one that owns no memory.
pub fn lend(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        let spare = SPARE.with_borrow_mut(Vec::pop);
        *buffer = spare.unwrap_or_else(|| BytesMut::with_capacity(BUFFER_BYTES));
    }
}

/// Takes the memory of a buffer back, and with it what was still in it. Bytes cut off it that somebody still holds keep the
/// memory for themselves.
pub fn give_back(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        return;
    }
    let mut buffer = std::mem::take(buffer);
    buffer.clear();
    if buffer.try_reclaim(BUFFER_BYTES) && buffer.capacity() <= SPARE_BYTES_MAX {
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < SPARE_MAX {
                spare.push(buffer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_goes_round_unless_somebody_still_reads_it() {
        let mut first = BytesMut::new();
        lend(&mut first);
        first.extend_from_slice(b"one");
        let at = first.as_ptr();
        give_back(&mut first);
        assert_eq!(first.capacity(), 0);

        let mut second = BytesMut::new();
        lend(&mut second);
        assert_eq!((second.as_ptr(), second.len()), (at, 0));
        second.extend_from_slice(b"two, three");
        let held = second.split_to(3).freeze();
        give_back(&mut second);

        let mut third = BytesMut::new();
        lend(&mut third);
        third.extend_from_slice(b"xxxxxxxxxx");
        assert_eq!(&held[..], b"two");
    }

    #[test]
    fn a_buffer_that_has_grown_is_not_kept() {
        let mut buffer = BytesMut::with_capacity(SPARE_BYTES_MAX + 1);
        give_back(&mut buffer);
        lend(&mut buffer);
        assert_eq!(buffer.capacity(), BUFFER_BYTES);
    }
}
