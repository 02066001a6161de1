//! A statement that runs in words of the proxy's own: where positions in its errors lead.

use bytes::Bytes;

use crate::route::origins::Origins;

/// A text that was made from the application's. By default nothing is known of where it comes from.
#[derive(Debug, Default)]
pub struct Rewritten {
    /// What the server is sent.
    pub text: Bytes,
    /// The application's.
    pub whole: Bytes,
    /// Which pieces of the one are of the other.
    pub origins: Origins,
    /// Positions count characters of UTF-8; otherwise bytes.
    pub utf8: bool,
}

impl Rewritten {
    /// A position (from 1 on) in the application's text.
    pub fn place(&self, position: usize) -> Option<usize> {
        let at = self.byte(position.checked_sub(1)?)?;
        let origin = self.origins.of(at)?;
        Some(self.characters(self.whole.get(..origin)?) + 1)
    }

    fn byte(&self, characters: usize) -> Option<usize> {
        if !self.utf8 {
            return Some(characters);
        }
        let mut starts = self.text.iter().enumerate().filter(|(_, byte)| **byte & 0xC0 != 0x80);
        starts.nth(characters).map(|(at, _)| at)
    }

    fn characters(&self, text: &[u8]) -> usize {
        if !self.utf8 {
            return text.len();
        }
        text.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters_of_the_applications_text() {
        let mut origins = Origins::default();
        origins.copied(0, 7, 0);
        origins.copied(7, 3, 12);
        let (whole, text) = ("valué (1), (2)", "valué (2)!");
        let made =
            |utf8| Rewritten { text: text.into(), whole: whole.into(), origins: origins.clone(), utf8 };
        let placed: Vec<_> = [0, 1, 6, 8, 10, 99].iter().map(|at| made(true).place(*at)).collect();
        assert_eq!(placed, [None, Some(1), Some(6), Some(13), None, None]);
        assert_eq!(made(false).place(9), Some(14));
        assert_eq!(Rewritten::default().place(1), None);
    }
}
