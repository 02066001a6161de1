//! PostgreSQL's md5 passwords. Source: `pg_md5_encrypt` and PostgreSQL documentation, "AuthenticationMD5Password".

use md5::{Digest as _, Md5};

/// Length of what is stored.
pub const STORED_LENGTH: usize = 35;

/// What is stored: `md5` and the hash of password and user name.
pub fn stored(password: &str, user: &str) -> String {
    prefixed(&[password.as_bytes(), user.as_bytes()])
}

/// Whether a stored secret is an md5 hash. As in PostgreSQL, digits are in lower case.
pub fn is_stored(secret: &str) -> bool {
    let digits = secret.strip_prefix("md5").filter(|digits| digits.len() == STORED_LENGTH - 3);
    digits.is_some_and(|digits| digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// What a client answers to AuthenticationMD5Password.
pub fn response(stored: &str, salt: [u8; 4]) -> String {
    prefixed(&[stored.get(3..).unwrap_or_default().as_bytes(), &salt])
}

fn prefixed(parts: &[&[u8]]) -> String {
    let mut hash = Md5::new();
    for part in parts {
        hash.update(part);
    }
    let mut text = String::with_capacity(STORED_LENGTH);
    text.push_str("md5");
    for byte in hash.finalize() {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_postgresql_stores_it() {
        // SELECT 'md5' || md5('secret' || 'alice')
        assert_eq!(stored("secret", "alice"), "md54a0a68b43b6cd5cf266fa02f196e2371");
        assert!(is_stored(&stored("secret", "alice")));
        assert_eq!(response(&stored("secret", "alice"), [1, 2, 3, 4]), "md598a0412b9c31436fc53776e863350083");
        assert!(!is_stored("md5"));
        assert!(!is_stored("md54A0a68b43b6cd5cf266fa02f196e2371"));
    }
}
