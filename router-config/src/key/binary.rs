//! Binary parameters.

use super::{KeyError, KeyType, KeyValue, numeric};

impl KeyType {
    /// Reads a binary parameter of the declared type (`0`: not declared, so the column's): the key that equals it.
    pub fn parse_binary(&self, type_oid: u32, bytes: &[u8]) -> Result<KeyValue, KeyError> {
        match self.declared(type_oid)? {
            Some(declared) => self.convert(declared, declared.receive(bytes)?),
            // An integer of another width than the column's is taken for what it is: the comparison is the same.
            None if self.is_integer() => self.convert(Self::Int8, self.receive(bytes)?),
            None => self.receive(bytes),
        }
    }

    /// What the type's receive function makes of the bytes.
    fn receive(self, bytes: &[u8]) -> Result<KeyValue, KeyError> {
        let malformed = KeyError::Malformed { type_name: self.type_name() };
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => match *bytes {
                [a, b] => Ok(KeyValue::Int(i16::from_be_bytes([a, b]).into())),
                [a, b, c, d] => Ok(KeyValue::Int(i32::from_be_bytes([a, b, c, d]).into())),
                _ => bytes
                    .try_into()
                    .map(|bytes| KeyValue::Int(i64::from_be_bytes(bytes)))
                    .map_err(|_| malformed),
            },
            Self::Text | Self::Bpchar => match std::str::from_utf8(bytes) {
                Ok(text) => self.parse_text(text),
                Err(_) => Err(KeyError::ambiguous("the parameter is not UTF-8")),
            },
            Self::Uuid => bytes.try_into().map(KeyValue::Uuid).map_err(|_| malformed),
            Self::Numeric => numeric::parse_binary(bytes).map(KeyValue::Numeric),
            Self::Date => {
                bytes.try_into().map(|bytes| KeyValue::Date(i32::from_be_bytes(bytes))).map_err(|_| malformed)
            }
            Self::Timestamptz => bytes
                .try_into()
                .map(|bytes| KeyValue::Timestamptz(i64::from_be_bytes(bytes)))
                .map_err(|_| malformed),
        }
    }
}
