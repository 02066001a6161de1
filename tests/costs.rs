//! What it costs to pass frames on: allocations, system calls, locks.
//!
//! A node and an application are threads that move prepared bytes; the proxy's part runs on the thread of the test, where every
//! allocation is counted. The limits are far below one for each frame, so that whoever adds one per frame hears of it.
//! Locks need no count: [`ClientIo`], [`Conn`] and [`Events`] are owned by one task and borrowed by what passes frames on, none
//! of them holds a lock, and spare buffers belong to the thread.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener as Listener, TcpStream as Socket};
use std::sync::Arc;
use std::thread;

use allocation_counter::measure;
use bytes::{Bytes, BytesMut};
use proxy::backend::conn::{Conn, Events};
use proxy::backend::connect::Connected;
use proxy::backend::owed::{Owed, Show};
use proxy::exec::single;
use proxy::frontend::io::ClientIo;
use proxy::gather::merge::{Merger, Step};
use proxy::route::plan::{Gather, GatherKey, KeyColumn};
use proxy::sql::gather_shape::{Comparable, Order};
use proxy::wire::stream::Stream;
use tests::wire_message::{frame, query};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// The answer to one query: this many rows.
fn answer(rows: usize) -> Vec<u8> {
    let description = frame(b'T', b"\0\x01id\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0");
    let row = frame(b'D', b"\0\x02\0\0\0\x0242\0\0\0\x10sixteen letters!");
    [description, row.repeat(rows), frame(b'C', b"SELECT\0"), frame(b'Z', b"I")].concat()
}

/// A node that gives this answer to each query.
fn node(answer: Vec<u8>) -> SocketAddr {
    let listener = Listener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().expect("the proxy connects");
        socket.set_nodelay(true).expect("an option of TCP");
        let mut asked = [0; 1024];
        while socket.read(&mut asked).is_ok_and(|n| n > 0) {
            if socket.write_all(&answer).is_err() {
                break;
            }
        }
    });
    address
}

/// The proxy's part between a node and an application, with a runtime for it.
struct Between {
    runtime: Runtime,
    io: ClientIo,
    conn: Conn,
    events: Events,
    ask: Vec<u8>,
}

impl Between {
    fn new(answer: Vec<u8>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let node = node(answer);
        let listener = Listener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        thread::spawn(move || {
            let mut socket = Socket::connect(address).expect("the test listens");
            let mut buffer = vec![0; 1 << 20];
            while socket.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        let (io, conn) = runtime.block_on(async {
            let (socket, _) = listener.accept().expect("the application connects");
            socket.set_nonblocking(true).expect("an option of sockets");
            let application = TcpStream::from_std(socket).expect("a runtime is there");
            let io = ClientIo::new(Stream::Plain(application), BytesMut::new(), 1 << 20);
            let connected = Connected {
                stream: Stream::Plain(TcpStream::connect(node).await.expect("the node listens")),
                leftover: BytesMut::new(),
                parameters: Vec::new(),
                process_id: 1,
                secret: Bytes::new(),
            };
            (io, Conn::new(connected, Instant::now()))
        });
        Self { runtime, io, conn, events: Events::default(), ask: query("select") }
    }

    /// One query from being sent to the last byte of its answer; buffers are lent and given back as around a request.
    fn pass_on(&mut self) {
        let Self { runtime, io, conn, events, ask } = self;
        runtime.block_on(async {
            assert!(!conn.is_dead(), "the node is there");
            conn.write.extend_from_slice(ask);
            conn.owe(Owed::Query(Show::ALL));
            single::run(io, conn, events).await.expect("the node answers");
            io.flush().await.expect("the application reads");
            events.clear();
            conn.shrink();
            io.rest();
        });
    }

    /// Allocations and system calls of this many queries.
    fn cost(&mut self, queries: usize) -> (u64, u64) {
        let calls = |between: &Self| between.io.moved.calls + between.conn.moved.calls;
        let before = calls(self);
        let allocated = measure(|| (0..queries).for_each(|_| self.pass_on()));
        (allocated.count_total, calls(self) - before)
    }
}

#[test]
fn a_row_is_passed_on_without_an_allocation_and_without_a_system_call_of_its_own() {
    const ROWS: usize = 20_000;
    let mut between = Between::new(answer(ROWS));
    between.pass_on();
    let (allocations, calls) = between.cost(1);
    assert!(allocations < 64, "{allocations} allocations for {ROWS} rows");
    assert!(calls < ROWS as u64 / 50, "{calls} system calls for {ROWS} rows");
    let moved = between.io.moved.written as usize;
    assert_eq!(moved, 2 * answer(ROWS).len(), "every byte was passed on");
}

#[test]
fn a_short_answer_costs_three_system_calls_and_no_allocation() {
    const QUERIES: usize = 1000;
    let mut between = Between::new(answer(1));
    between.cost(10);
    let (allocations, calls) = between.cost(QUERIES);
    // Sent to the node, read from it, sent to the application. A node that is slow to write may be read in two parts.
    assert!(calls < 3 * QUERIES as u64 + 100, "{calls} system calls for {QUERIES} queries");
    assert!(allocations < QUERIES as u64 / 10, "{allocations} allocations for {QUERIES} queries");
}

/// Rows of a `numeric` and an `int8` column in ascending order, in text or in binary format.
fn ordered_rows(rows: u64, binary: bool) -> Vec<u8> {
    let field = |value: &[u8]| [&(value.len() as u32).to_be_bytes(), value].concat();
    let row = |n: u64| {
        let (price, id) = if binary {
            // One digit to the base 10,000 before the point and one behind it.
            let digits = [2, 0, 0, 2, 1 + n as u16 / 5000, 1 + n as u16 % 5000];
            (digits.iter().flat_map(|word| word.to_be_bytes()).collect(), n.to_be_bytes().to_vec())
        } else {
            (format!("{}.{:04}", 1 + n / 5000, 1 + n % 5000).into_bytes(), n.to_string().into_bytes())
        };
        frame(b'D', &[b"\0\x02".to_vec(), field(&price), field(&id)].concat())
    };
    (0..rows).flat_map(row).collect()
}

#[test]
fn rows_are_merged_without_an_allocation_for_each() {
    const ROWS: u64 = 5_000;
    const SHARDS: usize = 4;
    let key = |kind, column| GatherKey {
        order: Order { kind, descending: false, nulls_first: false },
        column: KeyColumn::Output(column),
    };
    let keys = vec![key(Comparable::Numeric, 0), key(Comparable::Int8, 1)];
    let gather = Arc::new(Gather { text: None, hidden: 0, keys, folds: Vec::new(), offset: 0, limit: None });
    for binary in [false, true] {
        let rows = ordered_rows(ROWS, binary);
        let mut merger = Merger::new(Arc::clone(&gather), vec![i16::from(binary)], SHARDS);
        for shard in 0..SHARDS {
            merger.open(shard);
            merger.ahead(shard).extend_from_slice(&rows);
            merger.end(shard);
        }
        let mut out = BytesMut::with_capacity(SHARDS * rows.len());
        let allocated =
            measure(|| assert_eq!(merger.step(&mut out, usize::MAX).expect("in order"), Step::Over));
        assert_eq!((merger.rows(), out.len()), (SHARDS as u64 * ROWS, SHARDS * rows.len()));
        assert!(allocated.count_total < 64, "{} allocations, binary: {binary}", allocated.count_total);
    }
}
