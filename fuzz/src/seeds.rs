//! The first inputs of each target, made from the transcripts and configurations of this repository.

use std::fs;
use std::io;
use std::path::Path;

/// Writes them below `out`, a directory for each target; `root` is the repository.
///
/// # Errors
/// What cannot be read or written.
pub fn write_all(root: &Path, out: &Path) -> io::Result<()> {
    let mut queries = Vec::new();
    let mut streams = Vec::new();
    for entry in fs::read_dir(root.join("tests/replay/corpus"))? {
        let text = fs::read_to_string(entry?.path())?;
        for transcript in text.split("\n== ") {
            let frames: Vec<Vec<u8>> =
                transcript.lines().filter_map(|line| frame(line, &mut queries)).collect();
            streams.push(frames.concat());
        }
    }
    let applications = fs::read_to_string(root.join("tests/oracle/applications/orm.sql"))?;
    queries.extend(applications.split_inclusive(";\n").map(|sql| sql.trim().as_bytes().to_vec()));
    write(out, "sql", &queries)?;
    write(out, "frames", &streams)?;
    write(out, "startup", &startups())?;
    write(
        out,
        "scram",
        &[
            b"n,,n=,r=fyko+d2lbbFgONRv9qkxdawL\nc=biws,r=x,p=AAAA\nSCRAM-SHA-256$4096:c2FsdA==$AAAA:BBBB"
                .to_vec(),
            b",s=c2FsdA==,i=4096\nv=AAAA\n".to_vec(),
            b"p=tls-server-end-point,,n=,r=abc\nc=,r=,p=\n".to_vec(),
        ],
    )?;
    write(out, "bind", &binds())?;
    write(out, "copy", &copies())?;
    write(out, "keys", &keys())?;
    write(out, "files", &files(root)?)
}

fn write(out: &Path, target: &str, seeds: &[Vec<u8>]) -> io::Result<()> {
    let directory = out.join(target);
    fs::create_dir_all(&directory)?;
    for (number, seed) in seeds.iter().filter(|s| !s.is_empty()).enumerate() {
        fs::write(directory.join(format!("{number:04}")), seed)?;
    }
    Ok(())
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// One line of a transcript as a frame; its SQL joins `queries`.
fn frame(line: &str, queries: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
    let (_, rest) = line.split_once("> ")?;
    let (word, rest) = rest.split_once(' ').unwrap_or((rest, ""));
    let unquoted = |text: &str| {
        let inner = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
        inner.replace("\\n", "\n").replace("\\t", "\t").replace("\\\"", "\"").replace("\\\\", "\\")
    };
    match word {
        "Query" => {
            let sql = unquoted(rest);
            queries.push(sql.clone().into_bytes());
            Some(message(b'Q', format!("{sql}\0").as_bytes()))
        }
        "Parse" => {
            let (name, sql) = rest.split_once(' ')?;
            let sql = unquoted(sql);
            queries.push(sql.clone().into_bytes());
            Some(message(b'P', format!("{}\0{sql}\0\0\0", unquoted(name)).as_bytes()))
        }
        "Bind" => Some(message(b'B', b"\0\0\0\0\0\x01\0\0\0\x015\0\0")),
        "Describe" => Some(message(b'D', b"S\0")),
        "Execute" => Some(message(b'E', b"\0\0\0\0\0")),
        "Close" => Some(message(b'C', b"Ss1\0")),
        "Sync" => Some(message(b'S', b"")),
        "Flush" => Some(message(b'H', b"")),
        _ => None,
    }
}

fn startups() -> Vec<Vec<u8>> {
    let packet = |code: u32, body: &[u8]| {
        let length = u32::try_from(body.len() + 8).unwrap_or(u32::MAX);
        [&length.to_be_bytes()[..], &code.to_be_bytes(), body].concat()
    };
    vec![
        packet(3 << 16, b"user\0u\0database\0d\0application_name\0x\0\0"),
        packet((3 << 16) + 2, b"user\0u\0_pq_.x\0y\0options\0-c search_path=a\\ b --geqo=off -e\0\0"),
        packet(80_877_102, &[0, 0, 0, 1, 9, 9, 9, 9]),
        packet(80_877_103, b""),
        packet(80_877_104, b""),
        b"-c a=b -cc=d --e-f=g".to_vec(),
    ]
}

fn binds() -> Vec<Vec<u8>> {
    vec![
        b"\x01\0\0\0\x02\0\0\0\x0242\xff\xff\xff\xff\0\0".to_vec(),
        b"\0\0\x01\0\x01\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x2a\0\x01\0\x01".to_vec(),
        b"\0\0\x02\0\0\0\x01\0\x02\0\0\0\x017\0\0\0\x01\x07\0\x02\0\0\0\x01".to_vec(),
    ]
}

fn copies() -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for how in (0..=255_u8).step_by(4) {
        out.push([&[how, 3][..], b"1\t2\t3\n\\N\tx\\ty\t4\n5\t6\t7"].concat());
        out.push([&[how | 1, 3][..], b"1,2,3\r\n\"4\",\"5\",\"a,\"\"\nb\"\r\n5,6,7\r\n"].concat());
    }
    let mut binary = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    binary.extend(b"\0\x03\0\0\0\x08\0\0\0\0\0\0\0\x05\0\0\0\x01x\xff\xff\xff\xff\xff\xff");
    out.push([&[2, 9][..], &binary].concat());
    out
}

fn keys() -> Vec<Vec<u8>> {
    let texts = [
        "42",
        "-7",
        "007",
        " 5 ",
        "1e3",
        "1.50",
        "NaN",
        "Infinity",
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "{A0EEBC99-9c0b4ef8-bb6d6bb9bd380a11}",
        "2024-02-29",
        "infinity",
        "2024-01-01 00:00:00+01",
        "Jan 1 2024",
        "20240101T000000Z",
        "0001-01-01 BC",
        "\u{e9}t\u{e9}  ",
        "0x1F",
        "1_000",
    ];
    let mut out = Vec::new();
    for kind in 0..9_u8 {
        out.extend(texts.iter().map(|text| [&[kind, 0], text.as_bytes()].concat()));
        out.push([&[kind, 2][..], &42_i64.to_be_bytes()].concat());
        out.push([&[kind, 11][..], &[0, 2, 0, 1, 0, 0, 0, 2, 0, 7, 0x13, 0x88]].concat());
    }
    out
}

fn files(root: &Path) -> io::Result<Vec<Vec<u8>>> {
    Ok(vec![
        fs::read(root.join("router-config/src/file/example.toml"))?,
        b"gavel-slots/1 epoch=7 shards=shard-1,shard-2 slots=0*16000,1,0*382,1".to_vec(),
        b"\"user\" \"password\"\nuser:secret\n".to_vec(),
    ])
}
