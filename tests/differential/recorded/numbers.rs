//! Numbers in what is sent and said: found by themselves in texts and in values, and replaced.

/// Digits that stand by themselves are a number; those of `t1`, `1.5` and `12:30` are none.
const fn is_part_of_more(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'$') || byte >= 0x80
}

/// The text with its numbers replaced, where `replace` has something else for them.
pub(crate) fn replaced(text: &[u8], replace: &mut dyn FnMut(u64) -> Option<String>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let digits = text[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            out.push(text[at]);
            at += 1;
            continue;
        }
        let end = at + digits;
        let alone = !at.checked_sub(1).is_some_and(|before| is_part_of_more(text[before]))
            && !text.get(end).is_some_and(|after| is_part_of_more(*after));
        let number = std::str::from_utf8(&text[at..end]).ok().and_then(|digits| digits.parse().ok());
        match number.filter(|_| alone).and_then(&mut *replace) {
            Some(other) => out.extend(other.bytes()),
            None => out.extend(&text[at..end]),
        }
        at = end;
    }
    out
}

/// The number that a value in binary format is, if it may be an integer.
pub(crate) fn of_binary(value: &[u8]) -> Option<u64> {
    match value.len() {
        2 => Some(u64::from(u16::from_be_bytes(value.try_into().ok()?))),
        4 => Some(u64::from(u32::from_be_bytes(value.try_into().ok()?))),
        8 => Some(u64::from_be_bytes(value.try_into().ok()?)),
        _ => None,
    }
}

/// Messages of a frontend with the numbers in texts, values and types of parameters replaced.
pub(crate) fn in_messages(bytes: &[u8], number: &mut dyn FnMut(u64) -> Option<u64>) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    for (tag, body) in messages(bytes) {
        let body = match tag {
            b'Q' | b'd' => replaced(body, &mut |found| number(found).map(|other| other.to_string())),
            b'P' => in_parse(body, number),
            b'B' => in_bind(body, number),
            _ => body.to_vec(),
        };
        out.extend(tests::wire_message::frame(tag, &body));
    }
    out
}

/// Tag and body of each message.
pub(crate) fn messages(bytes: &[u8]) -> Vec<(u8, &[u8])> {
    let mut all = Vec::new();
    let mut rest = bytes;
    while let Some(([tag, length @ ..], _)) = rest.split_first_chunk::<5>() {
        let end = 1 + u32::from_be_bytes(*length) as usize;
        all.push((*tag, &rest[5..end]));
        rest = &rest[end..];
    }
    all
}

/// The text up to the next zero, and what is behind it.
pub(crate) fn string(body: &[u8]) -> (&[u8], &[u8]) {
    let end = body.iter().position(|byte| *byte == 0).expect("a string ends");
    (&body[..end], &body[end + 1..])
}

fn in_parse(body: &[u8], number: &mut dyn FnMut(u64) -> Option<u64>) -> Vec<u8> {
    let (name, rest) = string(body);
    let (sql, types) = string(rest);
    let sql = replaced(sql, &mut |found| number(found).map(|other| other.to_string()));
    let mut out = [name, b"\0", &sql, b"\0", &types[..2]].concat();
    for oid in types[2..].as_chunks::<4>().0.iter().map(|oid| u32::from_be_bytes(*oid)) {
        let other = number(oid.into()).and_then(|other| u32::try_from(other).ok());
        out.extend(other.unwrap_or(oid).to_be_bytes());
    }
    out
}

/// A Bind as `tests::script` makes them, with a format for each value.
fn in_bind(body: &[u8], number: &mut dyn FnMut(u64) -> Option<u64>) -> Vec<u8> {
    let (_, rest) = string(body);
    let (_, rest) = string(rest);
    let mut at = body.len() - rest.len();
    let short = |at: &mut usize| {
        *at += 2;
        u16::from_be_bytes([body[*at - 2], body[*at - 1]])
    };
    let formats: Vec<_> = (0..short(&mut at)).map(|_| short(&mut at)).collect();
    let values = short(&mut at);
    let mut out = body[..at].to_vec();
    for format in formats.iter().take(values.into()) {
        let length = i32::from_be_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
        at += 4;
        let Ok(length) = usize::try_from(length) else {
            out.extend((-1_i32).to_be_bytes());
            continue;
        };
        let value = &body[at..at + length];
        at += length;
        let value = if *format == 0 {
            replaced(value, &mut |found| number(found).map(|other| other.to_string()))
        } else {
            match of_binary(value).and_then(&mut *number) {
                Some(other) => other.to_be_bytes()[8 - length..].to_vec(),
                None => value.to_vec(),
            }
        };
        out.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
        out.extend(value);
    }
    out.extend(&body[at..]);
    out
}

#[test]
fn a_number_stands_by_itself() {
    let mut twice = |number: u64| Some((number * 2).to_string());
    assert_eq!(replaced(b"id = 21, t1.c2 > 1.5 and $3 (4)", &mut twice), b"id = 42, t1.c2 > 1.5 and $3 (8)");
}

#[test]
fn values_of_both_formats_are_replaced() {
    use tests::wire_message::{Value, bind, parse};
    let bind = |number: u64| {
        let values = [
            Value::Text(number.to_string().into()),
            Value::Null,
            Value::Binary(number.to_be_bytes().to_vec()),
            Value::Binary(u32::try_from(number).expect("small").to_be_bytes().to_vec()),
        ];
        bind("p", "s", &values, &[1, 0])
    };
    let sent = |number: u64| {
        let sql = format!("select {number}");
        [parse("s", &sql, &[20, u32::try_from(number).expect("small")]), bind(number)].concat()
    };
    let mut found = |number| (number == 10_000_001).then_some(10_000_999);
    assert_eq!(in_messages(&sent(10_000_001), &mut found), sent(10_000_999));
}
