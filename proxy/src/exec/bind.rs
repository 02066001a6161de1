//! Bind messages for statements of the proxy's own: a choice of the application's parameters in a new order.

use bytes::{BufMut, Bytes, BytesMut};

use crate::wire::frame;

/// The parts of a Bind after its names, and the types of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebound {
    /// Formats, values, result formats.
    pub rest: Bytes,
    /// Parameter type OIDs, big-endian.
    pub types: Bytes,
}

/// A Bind with the parameters of `chosen` (1-based numbers of the original) and the original's result formats. `None` when the original is
/// malformed, which its reader has excluded.
pub fn choose(rest: &[u8], types: &[u8], chosen: &[u16]) -> Option<Rebound> {
    choose_for(rest, types, chosen, rest.get(results_at(rest)?..)?)
}

/// As [`choose`], with these formats of the results, in the form of the message.
pub fn choose_for(rest: &[u8], types: &[u8], chosen: &[u16], results: &[u8]) -> Option<Rebound> {
    let mut body = rest;
    let formats: Vec<i16> = counted(&mut body, frame::i16)?;
    let count = frame::i16(&mut body)? as u16;
    let mut values = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let len = frame::i32(&mut body)?;
        let value = match usize::try_from(len) {
            Ok(len) => {
                let value = body.get(..len)?;
                body = &body[len..];
                Some(value)
            }
            Err(_) => None,
        };
        values.push(value);
    }
    let mut out = BytesMut::with_capacity(rest.len());
    let format = |n: usize| match formats.as_slice() {
        [] => Some(0),
        [all] => Some(*all),
        each => each.get(n).copied(),
    };
    out.put_u16(chosen.len() as u16);
    for n in chosen {
        out.put_i16(format(usize::from(*n).checked_sub(1)?)?);
    }
    out.put_u16(chosen.len() as u16);
    let mut out_types = BytesMut::new();
    for n in chosen {
        let index = usize::from(*n) - 1;
        match values.get(index)? {
            Some(value) => {
                out.put_i32(value.len() as i32);
                out.put_slice(value);
            }
            None => out.put_i32(-1),
        }
        out_types.put_slice(types.get(index * 4..index * 4 + 4).unwrap_or(&[0; 4]));
    }
    out.put_slice(results);
    Some(Rebound { rest: out.freeze(), types: out_types.freeze() })
}

/// A Bind after its names with all results in text format.
pub fn with_text_results(rest: &[u8]) -> Bytes {
    let end = results_at(rest).unwrap_or(rest.len());
    let mut out = BytesMut::from(&rest[..end]);
    out.put_u16(0);
    out.freeze()
}

/// A Bind after its names with the same formats of results, and no parameters.
pub fn without_parameters(rest: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u16(0);
    out.put_u16(0);
    out.extend_from_slice(result_formats_as_sent(rest));
    out.freeze()
}

/// The formats of the results, with their number.
pub fn result_formats_as_sent(rest: &[u8]) -> &[u8] {
    results_at(rest).and_then(|at| rest.get(at..)).filter(|formats| !formats.is_empty()).unwrap_or(&[0, 0])
}

/// Number of values.
pub fn count(rest: &[u8]) -> Option<u16> {
    let mut body = rest;
    let formats = usize::from(frame::i16(&mut body)? as u16);
    Some(frame::i16(&mut body.get(2 * formats..)?)? as u16)
}

/// Where the formats of the results begin.
fn results_at(rest: &[u8]) -> Option<usize> {
    let mut body = rest;
    counted(&mut body, frame::i16)?;
    let count = frame::i16(&mut body)? as u16;
    for _ in 0..count {
        let len = frame::i32(&mut body)?;
        body = body.get(usize::try_from(len).unwrap_or(0)..)?;
    }
    Some(rest.len() - body.len())
}

/// Format codes of the rows that a Bind asks for; `rest` is its body after the names. None at all: text.
pub fn result_formats(rest: &[u8]) -> Option<Vec<i16>> {
    counted(&mut &rest[results_at(rest)?..], frame::i16)
}

fn counted<T>(body: &mut &[u8], read: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let count = frame::i16(body)? as u16;
    (0..count).map(|_| read(body)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_chosen_with_their_formats_and_types() {
        // Formats 1, 0; values "ab", NULL; result formats: one, binary.
        let rest = b"\0\x02\0\x01\0\0\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\x01\0\x01";
        let types = [0, 0, 0, 20, 0, 0, 0, 25];
        let got = choose(rest, &types, &[2, 1, 1]).expect("well formed");
        let want: &[u8] = b"\0\x03\0\0\0\x01\0\x01\0\x03\xff\xff\xff\xff\0\0\0\x02ab\0\0\0\x02ab\0\x01\0\x01";
        assert_eq!(&got.rest[..], want);
        assert_eq!(&got.types[..], [0, 0, 0, 25, 0, 0, 0, 20, 0, 0, 0, 20]);
        assert_eq!(choose(b"\0\0\0\0", &[], &[1]), None);
        assert_eq!((count(rest), count(b"\0\0\0\x07"), count(b"\0\x01\0")), (Some(2), Some(7), None));
        assert_eq!(&with_text_results(rest)[..], b"\0\x02\0\x01\0\0\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\0");
        assert_eq!(result_formats(rest), Some(vec![1]));
        assert_eq!(result_formats(b"\0\0\0\0\0\0"), Some(Vec::new()));
        assert_eq!(result_formats(b"\0\0\0\x01\0\0\0\x09ab"), None);
    }
}
