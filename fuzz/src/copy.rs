//! The splitter of COPY data.

use proxy::route::copy::CopySplitter;
use proxy::route::values::TextRules;
use proxy::sql::copy_shape::{CopyFormat, CopyShape};
use router_config::key::KeyType;

const COLUMNS: usize = 3;

/// The first two bytes choose the format and where the data is cut.
pub(crate) fn copy(data: &[u8]) {
    let [how, cut, data @ ..] = data else { return };
    let format = [CopyFormat::Text, CopyFormat::Csv, CopyFormat::Binary][usize::from(how & 3).min(2)];
    let header = how & 4 != 0 && format != CopyFormat::Binary;
    let key_type = if how & 8 != 0 { KeyType::Text } else { KeyType::Int8 };
    let csv = format == CopyFormat::Csv;
    let shape = CopyShape {
        format,
        delimiter: if csv { b',' } else { b'\t' },
        null: if csv { String::new() } else { "\\N".to_owned() },
        quote: b'"',
        escape: if how & 16 != 0 { b'\\' } else { b'"' },
        header,
        key_field: Some(usize::from(how >> 5) % COLUMNS),
        key_type: Some(key_type),
        key_modifier: None,
        columns: COLUMNS,
        force_null_key: false,
        encoding: None,
        times: Vec::new(),
    };
    let whole = run(&shape, &[data]);
    let (head, tail) = data.split_at(usize::from(*cut).min(data.len()));
    let bytewise: Vec<&[u8]> = data.chunks(1).collect();
    let halves = run(&shape, &[head, tail]);
    let bytes = run(&shape, &bytewise);
    // What shards were given before an error may depend on the cuts; success and the error do not.
    assert_eq!(whole.error, halves.error);
    assert_eq!(whole.error, bytes.error);
    if whole.error.is_none() {
        assert_eq!(whole.shards, halves.shards);
        assert_eq!(whole.shards, bytes.shards);
        conserved(&shape, data, &whole.shards);
    }
}

#[derive(Debug)]
struct Outcome {
    shards: Vec<Vec<u8>>,
    error: Option<String>,
}

fn run(shape: &CopyShape, pieces: &[&[u8]]) -> Outcome {
    let mut shards = vec![Vec::new(); 4];
    let mut sink = |shard: router_config::topology::ShardId, bytes: &[u8]| {
        shards[usize::from(shard.0)].extend_from_slice(bytes);
    };
    let made = CopySplitter::new(shape, "public.bids", TextRules::default(), super::topology());
    let mut splitter =
        made.unwrap_or_else(|refusal| panic!("a shape that can be split: {}", refusal.message));
    let pushed = pieces.iter().try_for_each(|piece| splitter.push(piece, &mut sink));
    let error = pushed.and_then(|()| splitter.finish(&mut sink)).err();
    let error = error.map(|e| format!("{} {} {}", e.sqlstate, e.message, e.context));
    Outcome { shards, error }
}

/// Without a header or an end marker every byte goes to one shard.
fn conserved(shape: &CopyShape, data: &[u8], shards: &[Vec<u8>]) {
    let marked = data.windows(2).any(|pair| pair == b"\\.");
    if shape.header || marked || shape.format == CopyFormat::Binary {
        return;
    }
    let mut given: Vec<u8> = shards.concat();
    let mut sent = data.to_vec();
    given.sort_unstable();
    sent.sort_unstable();
    assert!(given == sent, "bytes were lost or made up: {} of {}", given.len(), sent.len());
}
