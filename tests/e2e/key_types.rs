//! Keys bound as parameters, of every type and however the parameter's type is known: found where the row lies, or refused.

use bytes::BytesMut;
use tests::cluster::{Cluster, first_column};
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// A value sent as these bytes, whatever the type.
#[derive(Debug)]
struct Raw(Format, Vec<u8>);

impl ToSql for Raw {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        out.extend_from_slice(&self.1);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        self.0
    }

    to_sql_checked!();
}

fn text(value: &str) -> Raw {
    Raw(Format::Text, value.as_bytes().to_vec())
}

fn binary(bytes: &[u8]) -> Raw {
    Raw(Format::Binary, bytes.to_vec())
}

/// `numeric` in binary format: a small integer with two digits behind the point.
fn numeric(value: i16) -> Raw {
    let digits: &[i16] = if value == 0 { &[] } else { &[value] };
    let mut bytes = Vec::new();
    for part in [digits.len() as i16, 0, 0, 2].iter().chain(digits) {
        bytes.extend_from_slice(&part.to_be_bytes());
    }
    Raw(Format::Binary, bytes)
}

/// Tables with one row for each key, inserted with the key in the text.
async fn tables(cluster: &Cluster) -> tokio_postgres::Client {
    let client = cluster.connect().await;
    for (name, key, values) in [
        ("small", "smallint", (0..24).map(|n| n.to_string()).collect::<Vec<_>>()),
        ("medium", "integer", (0..24).map(|n| n.to_string()).collect()),
        ("big", "bigint", (0..24).map(|n| n.to_string()).collect()),
        ("exact", "numeric", (0..24).map(|n| n.to_string()).collect()),
        ("named", "text", (0..24).map(|n| n.to_string()).collect()),
        ("singular", "uuid", (0..24).map(|n| format!("00000000-0000-0000-0000-0000000000{n:02}")).collect()),
        ("daily", "date", (1..24).map(|n| format!("2024-01-{n:02}")).collect()),
    ] {
        let create = format!(
            "CREATE TABLE {name} (auction_id {key} PRIMARY KEY, n numeric, f double precision, t text)"
        );
        client.batch_execute(&create).await.expect("create");
        for (n, value) in values.iter().enumerate() {
            let insert = format!("INSERT INTO {name} VALUES ('{value}', {n}, {n}, '{n}')");
            client.batch_execute(&insert).await.expect("insert");
        }
        let held = cluster.on_each_primary(&format!("SELECT 1 FROM {name}")).await;
        assert!(held.iter().all(|rows| !rows.is_empty()), "{name} is on both shards");
    }
    client
}

/// As many rows as PostgreSQL finds, or a refusal.
async fn finds(client: &tokio_postgres::Client, sql: &str, types: &[Type], value: Raw, rows: usize) {
    let statement = client.prepare_typed(sql, types).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let shown = format!("{sql} {types:?} {value:?}");
    match client.query(&statement, &[&value]).await {
        Ok(found) => assert_eq!(found.len(), rows, "{shown}"),
        Err(error) => {
            let code = error.code().map(|code| code.code().to_owned());
            assert_eq!(code.as_deref(), Some("0A000"), "{shown}: {error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_19_every_spelling_of_a_key_is_found() {
    let cluster = Cluster::builder().start().await;
    let client = tables(&cluster).await;
    for n in 0..24_i16 {
        for table in ["small", "medium", "big", "exact"] {
            let sql = format!("SELECT * FROM {table} WHERE auction_id = $1");
            let wide = [Type::INT2, Type::INT4, Type::INT8];
            for (ty, bytes) in wide.iter().zip([
                n.to_be_bytes().to_vec(),
                i32::from(n).to_be_bytes().to_vec(),
                i64::from(n).to_be_bytes().to_vec(),
            ]) {
                finds(&client, &sql, std::slice::from_ref(ty), binary(&bytes), 1).await;
                finds(&client, &sql, std::slice::from_ref(ty), text(&n.to_string()), 1).await;
            }
            finds(&client, &sql, &[Type::NUMERIC], numeric(n), 1).await;
            finds(&client, &sql, &[Type::NUMERIC], text(&format!("{n}.00")), 1).await;
            finds(&client, &sql, &[Type::FLOAT8], binary(&f64::from(n).to_be_bytes()), 1).await;
            finds(&client, &sql, &[], text(&n.to_string()), 1).await;
            finds(&client, &sql, &[Type::UNKNOWN], text(&n.to_string()), 1).await;
            // The first use of a parameter decides its type.
            let sql = format!("SELECT * FROM {table} WHERE n = $1 AND auction_id = $1");
            finds(&client, &sql, &[], numeric(n), 1).await;
            finds(&client, &sql, &[], text(&format!("{n}.0")), 1).await;
            let sql = format!("SELECT * FROM {table} WHERE f = $1 AND auction_id = $1");
            finds(&client, &sql, &[], binary(&f64::from(n).to_be_bytes()), 1).await;
            // A list has one type.
            let sql = format!("SELECT * FROM {table} WHERE auction_id IN ($1, 1000.5)");
            finds(&client, &sql, &[], numeric(n), 1).await;
        }
        let sql = "SELECT * FROM named WHERE auction_id = $1";
        for types in [&[][..], &[Type::TEXT], &[Type::VARCHAR], &[Type::BPCHAR]] {
            finds(&client, sql, types, text(&n.to_string()), 1).await;
            finds(&client, sql, types, binary(n.to_string().as_bytes()), 1).await;
        }
        let spelled = format!("{{00000000-0000-0000-0000-0000000000{n:02}}}");
        let mut bytes = [0; 16];
        bytes[15] = u8::from_str_radix(&format!("{n:02}"), 16).expect("two digits");
        let sql = "SELECT * FROM singular WHERE auction_id = $1";
        for types in [&[][..], &[Type::UUID]] {
            finds(&client, sql, types, text(&spelled), 1).await;
            finds(&client, sql, types, binary(&bytes), 1).await;
        }
        let sql = "SELECT * FROM singular WHERE auction_id = $1::text::uuid";
        finds(&client, sql, &[], text(&spelled), 1).await;
    }
    for day in 1..24_i32 {
        let sql = "SELECT * FROM daily WHERE auction_id = $1";
        finds(&client, sql, &[], text(&format!("2024-01-{day:02}")), 1).await;
        finds(&client, sql, &[], binary(&(8765 + day).to_be_bytes()), 1).await;
        finds(&client, sql, &[Type::DATE], binary(&(8765 + day).to_be_bytes()), 1).await;
        finds(&client, sql, &[Type::TIMESTAMP], text(&format!("2024-01-{day:02} 00:00")), 1).await;
    }
    let missing = first_column(&client, "SELECT 1 FROM big WHERE auction_id = 7.5").await;
    assert!(missing.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_18_a_copy_complains_about_the_lines_of_the_application() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE TABLE lots (auction_id bigint PRIMARY KEY, n int)").await.expect("create");
    let oracle = Cluster::oracle().await;
    let plain = oracle.connect(shard_admin::local_proxy::DATABASE).await.expect("connect");
    plain.batch_execute("CREATE TABLE lots (auction_id bigint PRIMARY KEY, n int)").await.expect("create");
    let good = |n: i64| format!("{n}\t{n}\n");
    let lines = |bad: &[(i64, &str)]| {
        let line = |n: i64| {
            bad.iter().find(|(at, _)| *at == n).map_or_else(|| good(n), |(_, line)| format!("{line}\n"))
        };
        (1..=40).map(line).collect::<String>()
    };
    for data in [
        lines(&[(17, "17\tx")]),
        lines(&[(17, "x\t17")]),
        lines(&[(23, "23\tx"), (9, "9\tx")]),
        lines(&[(30, "x\t30"), (11, "11\ty")]),
        lines(&[(12, "5\t5")]),
        lines(&[(33, "33")]),
        lines(&[(33, "33\t1\t2")]),
    ] {
        let ours = failure(&client, &data).await;
        let theirs = failure(&plain, &data).await;
        assert_eq!(ours, theirs, "{data}");
    }
}

/// SQLSTATE, message, detail and context of a COPY that fails.
async fn failure(
    client: &tokio_postgres::Client,
    data: &str,
) -> (String, String, Option<String>, Option<String>) {
    use futures_util::SinkExt;
    let sink = client.copy_in::<_, std::io::Cursor<Vec<u8>>>("COPY lots FROM STDIN").await.expect("copy");
    let mut sink = std::pin::pin!(sink);
    let _ = sink.send(std::io::Cursor::new(data.as_bytes().to_vec())).await;
    let error = sink.finish().await.expect_err("bad data");
    let error = error.as_db_error().expect("the server's").clone();
    let owned = |text: Option<&str>| text.map(str::to_owned);
    (error.code().code().to_owned(), error.message().to_owned(), owned(error.detail()), owned(error.where_()))
}
