//! Text files that people write: UTF-8, with or without a byte order mark. What else they are is said.

use std::io;
use std::path::Path;

/// Reads a text file; the error of one in another encoding says which one it seems to be, and where.
pub fn read(path: &Path) -> io::Result<String> {
    decode(std::fs::read(path)?).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))
}

fn decode(bytes: Vec<u8>) -> Result<String, String> {
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err("it is UTF-16: save it as UTF-8".to_owned());
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let bytes = error.as_bytes();
        let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let byte = bytes.get(at).copied().unwrap_or_default();
        format!("line {line} has the byte 0x{byte:02X}, which is not UTF-8, but Latin-1 or the like: save it as UTF-8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_encodings_are_told_by_name_and_line() {
        let fault = |bytes: &[u8]| decode(bytes.to_vec()).expect_err("not UTF-8");
        assert_eq!(fault(b"\xff\xfe[\0p\0"), "it is UTF-16: save it as UTF-8");
        let latin = fault(b"# a\n# b\n# gr\xfc\xdfe\n");
        assert!(latin.starts_with("line 3 has the byte 0xFC"), "{latin}");
        assert_eq!(decode("grün".into()).as_deref(), Ok("grün"));
    }
}
