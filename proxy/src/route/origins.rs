//! Where the pieces of a text of the proxy's own come from in the application's text, so that an error in it is told where the
//! application has written it.

/// Pieces of a text that are copied from another one, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(Vec<Piece>);

/// Bytes of both texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    start: usize,
    len: usize,
    origin: usize,
}

impl Origins {
    /// `len` bytes of the text from `start` on are those of the other from `origin` on.
    pub fn copied(&mut self, start: usize, len: usize, origin: usize) {
        if len > 0 {
            self.0.push(Piece { start, len, origin });
        }
    }

    /// The byte of the other text that the byte `at` was copied from; `None` for one that was not.
    pub fn of(&self, at: usize) -> Option<usize> {
        let before = self.0.partition_point(|piece| piece.start <= at);
        let piece = self.0.get(before.checked_sub(1)?)?;
        (at - piece.start < piece.len).then(|| piece.origin + at - piece.start)
    }
}

#[cfg(test)]
mod tests {
    use super::Origins;

    #[test]
    fn bytes_are_found_where_they_were_copied_from() {
        let mut origins = Origins::default();
        origins.copied(0, 3, 0);
        origins.copied(3, 0, 7);
        origins.copied(5, 2, 10);
        let found: Vec<_> = (0..8).map(|at| origins.of(at)).collect();
        assert_eq!(found, [Some(0), Some(1), Some(2), None, None, Some(10), Some(11), None]);
        assert_eq!(Origins::default().of(0), None);
    }
}
