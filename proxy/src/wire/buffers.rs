//! Buffers that are lent while bytes are in flight.
//!
//! Each thread keeps some spare ones, as many as its traffic needs. Invariant: an idle session or conn owns no buffer, and what a
//! thread keeps is bounded by `SPARE_MAX` times `SPARE_BYTES_MAX`, and soon less when there is less to do ([`trim`]).

use std::cell::RefCell;

use bytes::BytesMut;

/// Bytes of a new buffer.
const BUFFER_BYTES: usize = 8 << 10;
/// A buffer that has grown beyond this is freed when it is given back.
const SPARE_BYTES_MAX: usize = 16 << 10;
/// Spare buffers of a thread: enough for 64 sessions and the conns that serve them.
const SPARE_MAX: usize = 128;

struct Spare {
    buffers: Vec<BytesMut>,
    /// The fewest that there were since the last look: so many nobody needs.
    fewest: usize,
}

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { buffers: Vec::new(), fewest: 0 }) };
}

/// Puts a buffer in place of one that owns no memory.
pub fn lend(buffer: &mut BytesMut) {
    if buffer.capacity() == 0 {
        let spare = SPARE.with_borrow_mut(|spare| {
            let buffer = spare.buffers.pop();
            spare.fewest = spare.fewest.min(spare.buffers.len());
            buffer
        });
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
            if spare.buffers.len() < SPARE_MAX {
                spare.buffers.push(buffer);
            }
        });
    }
}

/// Frees the spare buffers of this thread that nobody has needed since the last call.
pub fn trim() {
    SPARE.with_borrow_mut(|spare| {
        let kept = spare.buffers.len() - spare.fewest;
        spare.buffers.truncate(kept);
        spare.fewest = kept;
    });
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
    fn what_nobody_needs_is_freed() {
        let spare = || SPARE.with_borrow(|spare| spare.buffers.len());
        let mut lent: Vec<BytesMut> = (0..SPARE_MAX + 8).map(|_| BytesMut::new()).collect();
        lent.iter_mut().for_each(lend);
        lent.iter_mut().for_each(give_back);
        assert_eq!(spare(), SPARE_MAX);
        trim();
        assert_eq!(spare(), SPARE_MAX, "all were lent since the last look");
        lent[..5].iter_mut().for_each(lend);
        lent[..5].iter_mut().for_each(give_back);
        trim();
        assert_eq!(spare(), 5);
        trim();
        assert_eq!(spare(), 0);
    }

    #[test]
    fn a_buffer_that_has_grown_is_not_kept() {
        let mut buffer = BytesMut::with_capacity(SPARE_BYTES_MAX + 1);
        give_back(&mut buffer);
        lend(&mut buffer);
        assert_eq!(buffer.capacity(), BUFFER_BYTES);
    }
}
