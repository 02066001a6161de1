//! Keys in text and binary, the configuration file, secrets, stored slot maps.

use std::path::Path;

use proxy::secrets_file::{self, Use};
use router_config::file::load;
use router_config::key::KeyType;
use router_config::topology::StoredMap;

const TYPES: [KeyType; 9] = [
    KeyType::Int2,
    KeyType::Int4,
    KeyType::Int8,
    KeyType::Text,
    KeyType::Bpchar,
    KeyType::Uuid,
    KeyType::Numeric,
    KeyType::Date,
    KeyType::Timestamptz,
];

/// Values of keys: the first byte chooses the type, the second a type OID.
pub(crate) fn keys(data: &[u8]) {
    const OIDS: [u32; 14] = [0, 16, 20, 21, 23, 25, 1042, 1043, 1082, 1114, 1184, 1700, 2950, 705];
    const CASTS: [&str; 6] = ["int8", "text", "numeric(10, 2)", "uuid", "char(3)", "timestamptz"];
    let [kind, oid, value @ ..] = data else { return };
    let key_type = TYPES[usize::from(*kind) % TYPES.len()];
    let oid = OIDS[usize::from(*oid) % OIDS.len()];
    let topology = super::topology();
    let place = |key: Result<router_config::key::KeyValue, _>| {
        let key: Result<_, router_config::key::KeyError> = key;
        if let Ok(key) = key {
            let _ = topology.owner(&key);
            assert!(key.compare(&key).is_none_or(std::cmp::Ordering::is_eq));
        }
    };
    place(key_type.parse_binary(oid, value));
    let Ok(text) = std::str::from_utf8(value) else { return };
    place(key_type.parse_text(text));
    place(key_type.parse_text_as(oid, text));
    for cast in [None].into_iter().chain(CASTS.map(Some)) {
        place(key_type.coerce_literal(text, cast));
        place(key_type.coerce_number(text, cast));
    }
    // Integers: as PostgreSQL reads them, text and binary alike.
    if let (KeyType::Int8, Ok(number)) = (key_type, text.parse::<i64>()) {
        let by_text = key_type.parse_text(text).ok();
        assert_eq!(by_text, key_type.parse_binary(20, &number.to_be_bytes()).ok());
    }
}

/// Files that a proxy reads: the configuration, secrets, the stored slot map.
pub(crate) fn files(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |_: &str| None;
    let read = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
    if let Err(mistakes) = load(text, Path::new("gavel.toml"), &env, &read) {
        assert!(!mistakes.is_empty());
    }
    for purpose in [Use::Check, Use::Present] {
        let _ = secrets_file::parse(text, purpose);
    }
    if let Ok(map) = text.parse::<StoredMap>() {
        let again: StoredMap = map.to_string().parse().expect("what we write can be read");
        assert_eq!(map, again);
    }
}
