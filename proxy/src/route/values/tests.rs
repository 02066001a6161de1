//! Bind messages, true and lying.

use proptest::prelude::*;

use super::*;
use crate::route::testing::bind;

#[test]
fn values_are_found_in_any_order() {
    let body = bind(&[(0, Some(b"one")), (1, None), (1, Some(b"\0\0\0\x03")), (0, Some(b""))]);
    let params = BindParams::parse(&body, &[25, 0, 23]).expect("well formed");
    assert_eq!(params.len(), 4);
    assert_eq!(params.get(3), Some(ParamValue::Binary(b"\0\0\0\x03")));
    assert_eq!(params.get(1), Some(ParamValue::Text(b"one")));
    assert_eq!(params.get(4), Some(ParamValue::Text(b"")));
    assert_eq!(params.get(2), Some(ParamValue::Null));
    assert_eq!((params.get(0), params.get(5)), (None, None));
    assert_eq!([1, 2, 3, 4].map(|n| params.type_oid(n)), [25, 0, 23, 0]);
}

#[test]
fn one_format_is_for_all_parameters() {
    let mut body = b"\0\x01\0\x01\0\x02".to_vec();
    body.extend(b"\0\0\0\x01a\0\0\0\x01b\0\0");
    let params = BindParams::parse(&body, &[]).expect("well formed");
    assert_eq!(
        [1, 2].map(|n| params.get(n)),
        [Some(ParamValue::Binary(b"a")), Some(ParamValue::Binary(b"b"))]
    );
}

#[test]
fn lies_are_errors() {
    let body = bind(&[(0, Some(b"one")), (1, Some(b"two"))]);
    // The two last bytes are the count of result formats, which is not looked at.
    for end in 0..body.len() - 2 {
        assert!(BindParams::parse(&body[..end], &[]).is_err(), "cut at {end}");
    }
    let parse = |body: &[u8]| BindParams::parse(body, &[]).map(|params| params.len());
    assert_eq!(parse(b"\0\x02\0\0\0\0\0\x01"), Err(BindError::Formats { formats: 2, params: 1 }));
    assert_eq!(parse(b"\0\x01\0\x02\0\0"), Err(BindError::FormatCode(2)));
    assert_eq!(parse(b"\0\0\0\x01\xff\xff\xff\xfe"), Err(BindError::Truncated));
    assert_eq!(parse(b"\0\0\0\x01\x7f\xff\xff\xff"), Err(BindError::Truncated));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..80), n in any::<u16>()) {
        if let Ok(params) = BindParams::parse(&body, &[]) {
            params.get(n);
            (0..=20).rev().for_each(|n| { params.get(n); });
        }
    }

    #[test]
    fn every_value_is_found(values in proptest::collection::vec(
        (0..2_i16, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9))), 0..20))
    {
        let borrowed: Vec<_> = values.iter().map(|(format, value)| (*format, value.as_deref())).collect();
        let body = bind(&borrowed);
        let params = BindParams::parse(&body, &[]).expect("well formed");
        for (n, (format, value)) in (1..).zip(&borrowed) {
            let expected = match (value, format) {
                (None, _) => ParamValue::Null,
                (Some(bytes), 0) => ParamValue::Text(bytes),
                (Some(bytes), _) => ParamValue::Binary(bytes),
            };
            prop_assert_eq!(params.get(n), Some(expected));
        }
    }
}
