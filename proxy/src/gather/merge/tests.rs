//! Merging against sorting, over random rows in random pieces.

use std::cmp::Ordering;

use bytes::{BufMut, BytesMut};
use proptest::prelude::*;

use super::*;
use crate::route::plan::GatherKey;
use crate::sql::gather_shape::{Comparable, Order};

/// A row: two values that it is ordered by, and one that tells it from others.
type Row = (Option<i32>, Option<String>, u32);

fn order(kind: Comparable, descending: bool, nulls_first: bool) -> Order {
    Order { kind, descending, nulls_first }
}

/// By the number, which the application sees, then by the text, which it does not.
fn gather(directions: [(bool, bool); 2], offset: u64, limit: Option<u64>) -> Gather {
    let [first, second] = directions;
    let keys = vec![
        GatherKey { order: order(Comparable::Int4, first.0, first.1), column: KeyColumn::Output(0) },
        GatherKey { order: order(Comparable::Text, second.0, second.1), column: KeyColumn::Hidden(0) },
    ];
    Gather { text: None, hidden: 1, keys, folds: Vec::new(), offset, limit }
}

fn compare_one<T: Ord>(a: &Option<T>, b: &Option<T>, (descending, nulls_first): (bool, bool)) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => {
            if nulls_first {
                Ordering::Less
            } else {
                Ordering::Greater
            }
        }
        (Some(_), None) => {
            if nulls_first {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
        (Some(a), Some(b)) => {
            if descending {
                b.cmp(a)
            } else {
                a.cmp(b)
            }
        }
    }
}

fn compare(a: &Row, b: &Row, directions: [(bool, bool); 2]) -> Ordering {
    compare_one(&a.0, &b.0, directions[0]).then_with(|| compare_one(&a.1, &b.1, directions[1]))
}

fn frame(row: &Row) -> BytesMut {
    let (mut out, mut values) = (BytesMut::new(), BytesMut::new());
    let id = row.2.to_string();
    let number = row.0.map(|number| number.to_string());
    for value in [number.as_deref(), Some(id.as_str()), row.1.as_deref()] {
        match value {
            None => values.put_i32(-1),
            Some(text) => {
                values.put_i32(text.len() as i32);
                values.put_slice(text.as_bytes());
            }
        }
    }
    row::put(&mut out, 3, &values);
    out
}

/// Number and id of the rows that are passed on.
fn read(out: &[u8]) -> Vec<(Option<i32>, u32)> {
    let mut rows = Vec::new();
    let mut rest = out;
    while let Some(header) = frame::header(rest, usize::MAX).expect("frames") {
        let text = |value: Option<&[u8]>| value.map(|v| String::from_utf8(v.to_vec()).expect("text"));
        let values: Vec<_> = row::values(&rest[HEADER..header.len]).map(text).collect();
        assert_eq!(values.len(), 2, "what is hidden is not passed on");
        let number = values[0].as_ref().map(|text| text.parse().expect("a number"));
        rows.push((number, values[1].as_ref().expect("an id").parse().expect("a number")));
        rest = &rest[header.len..];
    }
    rows
}

/// Feeds the streams piece by piece; what comes out, and the most that was kept of one stream.
fn merge(gather: &Gather, streams: &[Vec<u8>], piece: usize) -> Result<(Vec<u8>, usize), Broken> {
    let mut merger = Merger::new(Arc::new(gather.clone()), Vec::new(), streams.len());
    let mut out = BytesMut::new();
    let mut sent = vec![0; streams.len()];
    let mut most = 0;
    (0..streams.len()).for_each(|at| merger.open(at));
    loop {
        for at in 0..streams.len() {
            if sent[at] < streams[at].len() && merger.wants(at) {
                let end = (sent[at] + piece).min(streams[at].len());
                merger.ahead(at).extend_from_slice(&streams[at][sent[at]..end]);
                sent[at] = end;
            }
            if sent[at] == streams[at].len() {
                merger.end(at);
            }
            most = most.max(merger.streams[at].ahead.len());
        }
        match merger.step(&mut out, usize::MAX)? {
            Step::Over if sent.iter().zip(streams).all(|(sent, all)| *sent == all.len()) => {
                return Ok((out.to_vec(), most));
            }
            Step::Over | Step::Starved | Step::Full | Step::Paused => {}
        }
    }
}

fn rows() -> impl Strategy<Value = Vec<(Option<i32>, Option<String>)>> {
    let number = proptest::option::weighted(0.8, -3..4_i32);
    let text = proptest::option::weighted(0.8, "[ab\u{0}]{0,2}");
    proptest::collection::vec((number, text), 0..40)
}

proptest! {
    #[test]
    fn merging_is_sorting_the_concatenation(
        shards in proptest::collection::vec(rows(), 1..5),
        directions in any::<[(bool, bool); 2]>(),
        (offset, limit) in (0..20_u64, proptest::option::of(0..40_u64)),
        piece in 1..200_usize,
    ) {
        let mut id = 0;
        let mut all: Vec<Row> = Vec::new();
        let streams: Vec<Vec<u8>> = shards.into_iter().map(|shard| {
            let mut rows: Vec<Row> = shard.into_iter().map(|(number, text)| {
                id += 1;
                (number, text, id)
            }).collect();
            rows.sort_by(|a, b| compare(a, b, directions));
            all.extend(rows.iter().cloned());
            rows.iter().flat_map(frame).collect()
        }).collect();
        let (out, _) = merge(&gather(directions, offset, limit), &streams, piece).expect("in order");
        all.sort_by(|a, b| compare(a, b, directions));
        let wanted: Vec<&Row> =
            all.iter().skip(offset as usize).take(limit.map_or(usize::MAX, |limit| limit as usize)).collect();
        let got = read(&out);
        prop_assert_eq!(got.len(), wanted.len());
        // Rows that are equal come in any order: each is as good as the one that sorting has there.
        for ((number, id), wanted) in got.iter().zip(wanted) {
            let row = all.iter().find(|row| row.2 == *id).expect("a row that there is");
            prop_assert_eq!(*number, row.0);
            prop_assert_eq!(compare(row, wanted, directions), Ordering::Equal);
        }
        let mut ids: Vec<u32> = got.iter().map(|row| row.1).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), got.len(), "each row once");
    }
}

#[test]
fn a_stream_out_of_order_or_of_other_rows_is_noticed() {
    let up = [(false, false); 2];
    let row = |number| frame(&(Some(number), None, 1)).to_vec();
    let streams = [[row(1), row(3), row(2)].concat(), row(5)];
    assert_eq!(merge(&gather(up, 0, None), &streams, 1_000).err(), Some(Broken::Order));
    let mut short = BytesMut::new();
    row::put(&mut short, 0, b"");
    assert_eq!(merge(&gather(up, 0, None), &[short.to_vec()], 9).err(), Some(Broken::Columns));
    let mut text = BytesMut::new();
    row::put(&mut text, 3, b"\0\0\0\x01x\0\0\0\x011\xff\xff\xff\xff");
    assert_eq!(merge(&gather(up, 0, None), &[text.to_vec()], 9).err(), Some(Broken::Unreadable(Unreadable)));
}

#[test]
fn a_stream_that_is_ahead_is_made_to_wait() {
    let many: Vec<u8> = (0..50_000).flat_map(|number| frame(&(Some(number), None, 7))).collect();
    let late: Vec<u8> = frame(&(Some(-1), None, 8)).to_vec();
    let gather = gather([(false, false); 2], 0, None);
    let mut merger = Merger::new(Arc::new(gather), Vec::new(), 2);
    (0..2).for_each(|at| merger.open(at));
    let (mut out, mut sent) = (BytesMut::new(), 0);
    while merger.wants(0) {
        merger.ahead(0).extend_from_slice(&many[sent..sent + 8_192]);
        sent += 8_192;
        assert_eq!(merger.step(&mut out, 1_000).expect("in order"), Step::Starved);
    }
    assert!(sent <= AHEAD_BYTES + 8_192 && out.is_empty(), "{sent}");
    merger.ahead(1).extend_from_slice(&late);
    merger.end(1);
    assert_eq!(merger.step(&mut out, 1_000).expect("in order"), Step::Full);
    assert!(out.len() < 2_000, "{}", out.len());
}

#[test]
fn rows_in_any_order_come_from_any_stream_after_the_description() {
    let gather =
        Gather { text: None, hidden: 0, keys: Vec::new(), folds: Vec::new(), offset: 0, limit: Some(1) };
    let mut merger = Merger::new(Arc::new(gather), Vec::new(), 2);
    let mut out = BytesMut::new();
    let row = frame(&(Some(1), None, 1));
    (0..2).for_each(|at| merger.open(at));
    merger.ahead(1).extend_from_slice(&row);
    assert_eq!(merger.step(&mut out, usize::MAX).expect("no keys"), Step::Starved);
    assert!(out.is_empty(), "its columns are not known yet");
    merger.ahead(0).extend_from_slice(b"T\0\0\0\x06\0\0");
    merger.end(0);
    assert_eq!(merger.step(&mut out, usize::MAX).expect("no keys"), Step::Over);
    assert_eq!(out[..], [&b"T\0\0\0\x06\0\0"[..], &row].concat());
    assert!(merger.wants(1) && merger.ahead(1).is_empty(), "what comes is dropped");
}
