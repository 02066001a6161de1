//! INSERT of many rows, however they are written: each row is where its key belongs, once, and the answer is PostgreSQL's.

use tests::cluster::{Cluster, first_column};
use tests::wire::Wire;
use tests::{wire_message as message, wire_print};
use tokio_postgres::Client;
use tokio_postgres::error::{ErrorPosition, SqlState};
use tokio_postgres::types::{ToSql, Type};

use crate::beside::{Beside, said, sorted_rows};
use crate::house::{build, holders};
use crate::set_off::refused;

/// Every row is found by its key, and nowhere else.
async fn all_in_place(cluster: &Cluster, client: &Client, table: &str, rows: usize) {
    let keys = cluster.on_each_primary(&format!("SELECT auction_id FROM {table}")).await;
    assert_eq!(keys.concat().len(), rows, "{keys:?}");
    for key in keys.concat() {
        let found = first_column(client, &format!("SELECT 1 FROM {table} WHERE auction_id = '{key}'")).await;
        assert!(!found.is_empty(), "{table} {key} lies where it is not looked for: {keys:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bound_arrays_are_rows() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let keys: Vec<i64> = (1..=50).rev().collect();
    let titles: Vec<String> = keys.iter().map(|key| format!("lot {key}")).collect();
    let insert = "INSERT INTO auctions (auction_id, title, price) SELECT *, 1.5 FROM unnest($1::bigint[], $2::text[]) \
                  RETURNING auction_id, title";
    let rows = client.query(insert, &[&keys, &titles]).await.expect("insert");
    let returned: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(returned, keys, "in their order");
    all_in_place(&cluster, &client, "auctions", 50).await;
    // Types as Parse names them, and none in the text.
    let typed = client
        .prepare_typed(
            "INSERT INTO auctions (auction_id, title) SELECT k, t FROM unnest($1, $2) AS u(k, t) ON CONFLICT DO NOTHING",
            &[Type::INT8_ARRAY, Type::TEXT_ARRAY],
        )
        .await
        .expect("prepare");
    let keys: Vec<i64> = (41..=60).collect();
    let titles = vec!["x".to_owned(); 20];
    assert_eq!(client.execute(&typed, &[&keys, &titles]).await.expect("insert"), 10);
    all_in_place(&cluster, &client, "auctions", 60).await;
    // The key is left to its default; NULL and strings take the columns' types.
    client
        .batch_execute("ALTER TABLE auctions ADD COLUMN data jsonb, ADD COLUMN ends date")
        .await
        .expect("alter");
    let insert = "INSERT INTO auctions (title, data, ends, price) SELECT unnest($1::text[]), '{\"a\": 1}', NULL, $2 \
                  RETURNING auction_id";
    let price: i32 = 7;
    let error = client.query(insert, &[&titles, &price]).await;
    assert!(error.is_err(), "$2 is numeric, as the column is");
    let insert = "INSERT INTO auctions (title, data, ends, price) SELECT t, '{\"a\": 1}', NULL, $2::int \
                  FROM unnest($1::text[]) AS u (t) ON CONFLICT DO NOTHING RETURNING auction_id, data->>'a'";
    client.batch_execute("SELECT setval('auctions_auction_id_seq', 1000)").await.expect("setval");
    let rows = client.query(insert, &[&titles, &price]).await.expect("insert");
    let mut keys: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    assert!(rows.iter().all(|row| row.get::<_, &str>(1) == "1"));
    assert!(keys.is_sorted(), "{keys:?}");
    keys.dedup();
    assert_eq!(keys.len(), 20);
    all_in_place(&cluster, &client, "auctions", 80).await;
    let error = client
        .query(
            "INSERT INTO auctions (auction_id, title) SELECT unnest($1::bigint[]), 'x'",
            &[&vec![None, Some(1_i64)]],
        )
        .await
        .expect_err("NULL is no key");
    assert_eq!(error.code(), Some(&SqlState::NOT_NULL_VIOLATION), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_bound_rows_come_back_in_order() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let rows: Vec<String> = (0..40).map(|n| format!("(${}, ${}, now())", 2 * n + 1, 2 * n + 2)).collect();
    client.batch_execute("ALTER TABLE auctions ADD COLUMN since timestamptz").await.expect("alter");
    let keys: Vec<i64> = (0..40).map(|n| (n * 7919) % 1000).collect();
    let titles: Vec<String> = keys.iter().map(|key| format!("lot {key}")).collect();
    let mut values: Vec<&(dyn ToSql + Sync)> = Vec::new();
    for (key, title) in keys.iter().zip(&titles) {
        values.extend([key as &(dyn ToSql + Sync), title]);
    }
    let insert = format!(
        "INSERT INTO auctions (auction_id, title, since) VALUES {} ON CONFLICT (auction_id) DO UPDATE SET title = \
         excluded.title || '!' RETURNING auction_id, title, since::text",
        rows.join(", ")
    );
    let returned = client.query(&insert, &values).await.expect("insert");
    assert_eq!(returned.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), keys);
    let since: Vec<String> = returned.iter().map(|row| row.get(2)).collect();
    assert!(since.iter().all(|time| *time == since[0]), "one statement has one time: {since:?}");
    all_in_place(&cluster, &client, "auctions", 40).await;
    let again = client.query(&insert, &values).await.expect("update");
    assert!(again.iter().all(|row| row.get::<_, &str>(1).ends_with('!')));
    all_in_place(&cluster, &client, "auctions", 40).await;
    let past = first_column(&client, "SELECT auction_id FROM auctions WHERE since < now()").await;
    assert_eq!(past.len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_16_reference_tables_have_the_same_rows_everywhere() {
    let cluster =
        Cluster::builder().config_extra("[[tables]]\nname = \"people\"\nkind = \"reference\"").start().await;
    let client = cluster.connect().await;
    let create = "CREATE TABLE people (id bigserial PRIMARY KEY, name text, token uuid DEFAULT gen_random_uuid(), \
                  since timestamptz DEFAULT now(), luck double precision DEFAULT random(), plain int DEFAULT 7)";
    client.batch_execute(create).await.expect("create");
    let insert = client.prepare("INSERT INTO people (name) VALUES ($1) RETURNING id").await.expect("prepare");
    let mut ids = Vec::new();
    for name in ["a", "b", "it's"] {
        ids.push(client.query_one(&insert, &[&name]).await.expect("insert").get::<_, i64>(0));
    }
    assert_eq!(ids, [1, 2, 3]);
    for sql in [
        "INSERT INTO people (name) VALUES ('c'), ('d'), ('e')",
        "INSERT INTO people VALUES (DEFAULT, 'f', DEFAULT), (100, 'g', DEFAULT)",
        "INSERT INTO people (id, name, since) VALUES (DEFAULT, 'h', now()), (200, 'i', DEFAULT)",
        "UPDATE people SET since = now(), plain = plain + 1 WHERE id < 4",
        "INSERT INTO people (id, name) VALUES (1, 'again') ON CONFLICT (id) DO UPDATE SET since = current_timestamp",
        "INSERT INTO people (name) SELECT 'x'",
        "CREATE TABLE people_too (n int)",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let refused = [
        "UPDATE people SET luck = random()",
        "INSERT INTO people DEFAULT VALUES",
        "UPDATE people SET token = gen_random_uuid()",
    ];
    for sql in refused {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{sql}: {error:?}");
    }
    // The driver loses its count of answers when a COPY is refused.
    let other = cluster.connect().await;
    let copy = other.copy_in::<_, std::io::Cursor<Vec<u8>>>("COPY people (name) FROM STDIN").await;
    assert_eq!(copy.err().and_then(|error| error.code().cloned()), Some(SqlState::FEATURE_NOT_SUPPORTED));
    let stamp = "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.since := now(); RETURN NEW; END$$";
    client.batch_execute(stamp).await.expect("function");
    let upper = "CREATE FUNCTION loud() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.name := upper(NEW.name); RETURN NEW; END$$";
    client.batch_execute(upper).await.expect("function");
    client
        .batch_execute("CREATE TRIGGER loud BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION loud()")
        .await
        .expect("trigger");
    client.batch_execute("INSERT INTO people (name) VALUES ('j')").await.expect("a harmless trigger");
    client
        .batch_execute("CREATE TRIGGER stamp BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION stamp()")
        .await
        .expect("trigger");
    let error =
        client.batch_execute("INSERT INTO people (name) VALUES ('k')").await.expect_err("times would differ");
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    let sum = "SELECT md5(string_agg(p::text, '|' ORDER BY id)) || count(*) FROM people p";
    let sums = cluster.on_each_primary(sum).await.concat();
    assert_eq!(sums[0], sums[1]);
    assert!(sums[0].ends_with("12"), "{sums:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_and_functions_stay_where_their_tables_are() {
    let cluster = Cluster::builder()
        .config_extra(
            "[[functions]]\nname = \"setting\"\n\n[[tables]]\nname = \"people\"\nkind = \"reference\"",
        )
        .start()
        .await;
    let client = cluster.connect().await;
    build(&client).await;
    for sql in [
        "CREATE TABLE settings (name text, value text)",
        "INSERT INTO settings VALUES ('a', 'b')",
        "CREATE FUNCTION setting(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT value FROM settings WHERE name = $1'",
        "CREATE FUNCTION setting_too(text) RETURNS text LANGUAGE sql STABLE AS 'SELECT value FROM settings WHERE name = $1'",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO notes VALUES (1, 'x'); RETURN NEW; END$$",
        "CREATE FUNCTION raise_price() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE auctions SET price = NEW.amount \
         WHERE auction_id = NEW.auction_id; RETURN NEW; END$$",
        "CREATE TRIGGER raise AFTER INSERT ON bids FOR EACH ROW EXECUTE FUNCTION raise_price()",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    crate::house::add_auctions(&client, 20).await;
    for call in ["setting('a')", "setting_too('a')"] {
        for _ in 0..4 {
            assert_eq!(first_column(&client, &format!("SELECT {call}")).await, ["b"], "{call}");
        }
        for key in 1..=20 {
            let sql = format!("SELECT {call} FROM auctions WHERE auction_id = {key}");
            assert_eq!(first_column(&client, &sql).await, ["b"], "{sql}");
        }
    }
    for key in 1..=20_i64 {
        let bid = "INSERT INTO bids (auction_id, amount) VALUES ($1, 5)";
        assert_eq!(client.execute(bid, &[&key]).await.expect("the trigger stays with the key"), 1);
    }
    assert_eq!(first_column(&client, "SELECT auction_id FROM auctions WHERE price = 5").await.len(), 20);
    client
        .batch_execute("CREATE TRIGGER note AFTER INSERT ON bids FOR EACH ROW EXECUTE FUNCTION note()")
        .await
        .expect("trigger");
    let bid = "INSERT INTO bids (auction_id, amount) VALUES (1, 6)";
    let error = client.batch_execute(bid).await.expect_err("the note would be on another shard");
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    // The driver loses its count of answers when a COPY is refused.
    let other = cluster.connect().await;
    let copy =
        other.copy_in::<_, std::io::Cursor<Vec<u8>>>("COPY bids (auction_id, amount) FROM STDIN").await;
    assert_eq!(copy.err().and_then(|error| error.code().cloned()), Some(SqlState::FEATURE_NOT_SUPPORTED));
    assert_eq!(holders(&cluster, "notes", "true").await, Vec::<usize>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_parts_do_not_point_into_other_rows() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let rows: Vec<String> =
        (1..=8).map(|id| format!("({id}, 'lot', {})", if id == 7 { "'x'" } else { "1" })).collect();
    let sql = format!("INSERT INTO auctions (auction_id, title, price) VALUES {}", rows.join(", "));
    let error = client.batch_execute(&sql).await.expect_err("no number");
    let error = error.as_db_error().expect("of the server");
    assert_eq!(error.code(), &SqlState::INVALID_TEXT_REPRESENTATION);
    let wrong = sql.find("'x'").map(|at| at as u32 + 1);
    match error.position() {
        None => {}
        Some(ErrorPosition::Original(at)) => assert_eq!(Some(*at), wrong),
        Some(other) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_literals_than_parameters_could_be_and_sources_in_parentheses() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE TABLE many (auction_id bigint, a int, b int)").await.expect("create");
    let rows: Vec<String> = (1..=30_000).map(|key| format!("({key},1,{key})")).collect();
    client
        .batch_execute(&format!("INSERT INTO many VALUES {}", rows.join(",")))
        .await
        .expect("90,000 literals");
    let wrong = "SELECT auction_id FROM many WHERE auction_id <> b";
    assert_eq!(first_column(&client, wrong).await, Vec::<String>::new());
    let counts = cluster.on_each_primary("SELECT count(*) FROM many").await.concat();
    let counts: Vec<u32> = counts.iter().map(|count| count.parse().expect("a number")).collect();
    assert!(counts.iter().sum::<u32>() == 30_000 && counts.iter().all(|count| *count > 0), "{counts:?}");
    for key in [1, 21_845, 21_846, 30_000] {
        let found = first_column(&client, &format!("SELECT b FROM many WHERE auction_id = {key}")).await;
        assert_eq!(found, [key.to_string()]);
    }
    client
        .batch_execute("CREATE TABLE wrapped (auction_id bigserial, a int, UNIQUE (auction_id))")
        .await
        .expect("create");
    for sql in [
        "INSERT INTO wrapped (SELECT 52, 1)",
        "INSERT INTO wrapped (auction_id, a) (SELECT 53, 1)",
        "INSERT INTO wrapped (VALUES (54, 1), (55, 1), (56, 2))",
        "INSERT INTO wrapped (auction_id, a) (VALUES (57, 1), (58, 1)) ON CONFLICT (auction_id) DO NOTHING",
        "INSERT INTO wrapped (auction_id, a) (SELECT * FROM unnest(array[59, 60]::bigint[], array[1, 2]))",
        "INSERT INTO wrapped (a) (VALUES (1), (2)) RETURNING auction_id",
        "INSERT INTO wrapped (a) (SELECT * FROM unnest(array[1, 2])) ON CONFLICT DO NOTHING RETURNING auction_id",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    all_in_place(&cluster, &client, "wrapped", 13).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_16_a_reference_table_gets_the_same_values_or_none() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE TABLE users (id int, at timestamptz, e text)").await.expect("create");
    for sql in [
        "INSERT INTO users VALUES (1, '2024-01-01', 'now and then, cheaply'), (2, now(), 'lot')",
        "INSERT INTO users (id, e) VALUES (3, coalesce(current_setting('app.x', true), ''))",
        "UPDATE users SET at = '2024-01-02 10:00' WHERE id = 3",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    for sql in [
        "INSERT INTO users VALUES (4, 'now', '')",
        "INSERT INTO users SELECT 4, ' Today 10:00'",
        "UPDATE users SET at = 'now' WHERE id = 1",
        "INSERT INTO users (id, e) VALUES (4, ('now'::timestamptz)::text)",
        "INSERT INTO users (id, e) VALUES (4, txid_current()::text)",
        "INSERT INTO users (id, e) VALUES (4, pg_backend_pid()::text)",
        "INSERT INTO users (id, e) VALUES (4, inet_server_port()::text)",
        "INSERT INTO users (id, e) VALUES (4, current_setting('port'))",
        "INSERT INTO users (id, e) VALUES (4, 'users'::regclass::oid::text)",
        "INSERT INTO users (id, e) SELECT 4, xmin::text FROM users WHERE id = 1",
        "UPDATE users SET e = tableoid::text",
        "DELETE FROM users WHERE users.ctid = '(0,1)'",
    ] {
        refused(&client, sql, "evaluated separately on each shard").await;
    }
    let mut wire = Wire::login(&cluster.login()).expect("login");
    let steps = [
        message::parse("", "INSERT INTO users VALUES (4, $1, '')", &[]),
        message::bind("", "", &[message::Value::Text(b"now".to_vec())], &[]),
        message::execute("", 0),
        message::sync(),
    ];
    wire.send(&steps.concat()).expect("sent");
    let frames = wire.read_until_ready(1).expect("answered");
    let states: Vec<_> = frames.iter().filter_map(wire_print::sqlstate).collect();
    assert_eq!(states, ["0A000"], "{frames:?}");
    let rows = cluster.on_each_primary("SELECT (id, at, e)::text FROM users ORDER BY id").await;
    assert!(rows[0].len() == 3 && rows[0] == rows[1], "{rows:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_arrays_in_a_reference_table_draw_their_keys_once() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    let create = "CREATE TABLE categories (id bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, slug text UNIQUE, \
                  made timestamptz DEFAULT now())";
    client.batch_execute(create).await.expect("create");
    let insert = "INSERT INTO categories (slug) SELECT * FROM unnest(($1)::text[]) RETURNING id, slug";
    let slugs = ["art", "home", "lamps"].map(str::to_owned).to_vec();
    let rows = client.query(insert, &[&slugs]).await.expect("insert");
    let returned: Vec<(i64, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    assert_eq!(returned, [(1, "art".to_owned()), (2, "home".to_owned()), (3, "lamps".to_owned())]);
    let again = "INSERT INTO categories (slug) SELECT * FROM unnest('{lamps,vases}'::text[]) \
                 ON CONFLICT (slug) DO UPDATE SET slug = upper(excluded.slug) RETURNING slug";
    assert_eq!(first_column(&client, again).await, ["LAMPS", "vases"]);
    client.batch_execute("INSERT INTO categories SELECT 9, title FROM auctions").await.unwrap_err();
    let bare = "INSERT INTO categories (slug) SELECT unnest('{art,rugs}'::text[]) ON CONFLICT (slug) DO NOTHING RETURNING slug";
    assert_eq!(first_column(&client, bare).await, ["rugs"]);
    let shards = cluster.on_each_primary("SELECT (id, slug, made)::text FROM categories ORDER BY id").await;
    assert!(shards[0].len() == 5 && shards[0] == shards[1], "{shards:?}");
}

/// Reading a statement takes time in proportion to its parameters: as many as there can be are no reason to wait.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_parameters_as_there_can_be() {
    let cluster = Cluster::builder().shards(2).start().await;
    let mut wire = Wire::login(&cluster.login()).expect("login");
    wire.rows("create table t (auction_id bigint primary key, title text)").expect("create");
    let keys: Vec<String> = (1..=30_000).map(|key| key.to_string()).collect();
    let pairs: Vec<String> = (0..keys.len()).map(|n| format!("(${}, ${})", 2 * n + 1, 2 * n + 2)).collect();
    let insert = format!("insert into t values {} returning auction_id", pairs.join(", "));
    let places: Vec<String> = (1..=keys.len()).map(|n| format!("${n}")).collect();
    let delete = format!("delete from t where auction_id in ({})", places.join(", "));
    let text = |key: &String| message::Value::Text(key.as_bytes().to_vec());
    let values: Vec<_> = keys.iter().map(text).collect();
    let doubled: Vec<_> = keys.iter().flat_map(|key| [text(key), text(key)]).collect();
    for (sql, values, rows) in [(insert, doubled, keys.len()), (delete, values, 0)] {
        let frames =
            [message::parse("", &sql, &[]), message::bind("", "", &values, &[]), message::execute("", 0)];
        wire.send(&[frames.concat(), message::sync()].concat()).expect("sent");
        let answer = wire.read_until_ready(1).expect("an answer");
        assert_eq!(
            answer.iter().filter(|frame| frame.tag == b'D').count(),
            rows,
            "{}",
            wire_print::print(&answer[0])
        );
        assert!(answer.iter().all(|frame| frame.tag != b'E'));
    }
    assert_eq!(wire.rows("select count(*) from t").expect("rows"), [[Some("0".to_owned())]]);
}

/// A subquery among the values reads what another shard may have: it is computed first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_of_a_row_may_be_subqueries() {
    let mut both = Beside::start(&[
        "CREATE TABLE lots (auction_id bigint PRIMARY KEY, n int DEFAULT 7, price numeric(6,1), note text)",
        "INSERT INTO lots SELECT k, k * 10, k / 4.0, 'lot ' || k FROM generate_series(1, 12) k",
    ])
    .await;
    for sql in [
        "INSERT INTO lots VALUES (51, (SELECT max(n) FROM lots))",
        "INSERT INTO lots VALUES (52, (SELECT n FROM lots WHERE auction_id = 3), (SELECT avg(price) FROM lots), 'x')",
        "INSERT INTO lots (auction_id, n) VALUES (53, DEFAULT), (54, (SELECT count(*) FROM lots)) RETURNING *",
        "INSERT INTO lots (note, auction_id) VALUES ((SELECT string_agg(note, ',' ORDER BY note) FROM lots), 55) \
         RETURNING length(note)",
        "INSERT INTO lots VALUES (56, (SELECT n FROM lots))",
        "INSERT INTO lots VALUES ((SELECT max(auction_id) + 1 FROM lots), 1)",
        "INSERT INTO lots VALUES (51, (SELECT min(n) FROM lots)) ON CONFLICT (auction_id) DO UPDATE SET n = excluded.n \
         RETURNING n",
        "INSERT INTO lots VALUES (57, (SELECT max(n) FROM lots WHERE nothing = 1))",
        "INSERT INTO lots VALUES (58, CASE WHEN EXISTS (SELECT FROM lots WHERE n > 100) THEN 1 ELSE 2 END, 2.25)",
    ] {
        let [ours, theirs] = both.sides().map(|side| said(side, &message::query(sql)));
        assert_eq!(ours, theirs, "{sql}");
    }
    let [ours, theirs] = both.sides().map(|side| sorted_rows(side, "SELECT * FROM lots"));
    assert_eq!(ours, theirs);
}
