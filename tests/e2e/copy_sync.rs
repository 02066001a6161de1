//! COPY in the extended protocol, its Sync sent ahead of the data as some drivers do: the data passes over it, and what comes then
//! is worked off as usual.

use tests::cluster::Cluster;
use tests::wire::{Frame, PATIENCE, Wire};
use tests::wire_message as message;

use crate::beside::{Beside, brief};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_the_data_before_a_sync_is_answered() {
    let mut beside = Beside::start(&[
        "create table t (auction_id bigint, n int)",
        "create table users (id bigint, name text)",
    ])
    .await;
    let rows = [message::copy_data(b"1\t0\n2\t0\n3\t0\n"), message::copy_done()].concat();
    let wrong = [message::copy_data(b"x\t0\n"), message::copy_done()].concat();
    let data = [("rows", rows), ("a wrong row", wrong), ("no rows", message::copy_fail("enough"))];
    let behind = [
        ("Flush", message::flush()),
        ("Query", message::query("select 1")),
        ("a failing Query", message::query("select 1 / 0")),
        ("COMMIT", message::query("commit")),
        ("Execute", message::step("select 2")),
        ("nothing", Vec::new()),
    ];
    for (copy, ahead) in [
        ("copy t from stdin", 1),
        ("copy users from stdin", 1),
        ("copy t from stdin", 2),
        ("copy users from stdin", 2),
    ] {
        for (what, data) in &data {
            for (next, behind) in &behind {
                let told = beside.sides().map(|side| {
                    let syncs = message::sync().repeat(ahead);
                    side.send(&[message::step(copy), syncs].concat()).expect("sent");
                    let mut frames = Vec::new();
                    while frames.last().is_none_or(|frame: &Frame| frame.tag != b'G') {
                        frames.push(side.frame(PATIENCE).expect("in time").expect("an answer"));
                    }
                    side.send(&[data.as_slice(), behind].concat()).expect("sent");
                    // Of Flush and Query something is told at once, and of an error.
                    if matches!(behind.first(), Some(b'H' | b'Q')) || *what != "rows" {
                        frames.push(side.frame(PATIENCE).expect("in time").expect("an answer"));
                    }
                    side.send(&message::sync()).expect("sent");
                    frames.extend(side.read_until_ready(1).expect("an answer"));
                    let told = brief(&frames);
                    // A Query has an end of its own.
                    side.send(&message::query("rollback; select 'end'")).expect("sent");
                    let mut rest = Vec::new();
                    while !rest.iter().any(|frame: &Frame| frame.body.ends_with(b"end")) {
                        rest.push(side.frame(PATIENCE).expect("in time").expect("an answer"));
                    }
                    rest.extend(side.read_until_ready(1).expect("an answer"));
                    format!("{told} | {}", brief(&rest))
                });
                assert_eq!(told[0], told[1], "{copy}, {ahead} Sync ahead, {what}, then {next}");
            }
        }
    }
}

/// What comes in one piece is not for the limit of messages, nor kept as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_piece_of_copy_data_is_taken_as_it_comes() {
    let cluster = Cluster::builder()
        .config_extra("[limits]\nmessage_bytes = \"64KiB\"\nstatement_parse_bytes = \"64KiB\"")
        .start()
        .await;
    let mut wire = Wire::login(&cluster.login()).expect("login");
    for sql in ["create table t (auction_id bigint, n text)", "create table users (id bigint, name text)"] {
        wire.rows(sql).expect("a table");
    }
    let lines: String = (1..=40_000).map(|id| format!("{id}\tsome text\n")).collect();
    for table in ["t", "users"] {
        let copy = [
            message::query(&format!("copy {table} from stdin")),
            message::copy_data(lines.as_bytes()),
            message::copy_done(),
        ];
        wire.send(&copy.concat()).expect("sent");
        let frames = wire.read_until_ready(1).expect("an answer");
        assert_eq!(brief(&frames), "G | COPY 40000 | I", "{table}");
        // Data that nobody awaits is dropped.
        wire.send(&message::copy_data(lines.as_bytes())).expect("sent");
        assert_eq!(wire.rows("select 1").expect("an answer").len(), 1);
    }
    let rows = cluster.on_each_primary("select count(*) from t").await.concat();
    assert_eq!(rows.iter().filter_map(|count| count.parse::<u32>().ok()).sum::<u32>(), 40_000);
}
