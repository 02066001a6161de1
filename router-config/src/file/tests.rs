//! Tests of the configuration file.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use expect_test::{Expect, expect};

use super::*;
use crate::key::KeyValue;
use crate::settings::DatabaseKind;
use crate::topology::{ShardId, TableKind};

fn env(name: &str) -> Option<String> {
    (name == "SECRET").then(|| "from the environment".to_owned())
}

fn read(path: &Path) -> io::Result<String> {
    match path.to_str() {
        Some("/etc/gavel/secret") => Ok("from the file\nand more".to_owned()),
        Some("/etc/gavel/empty") => Ok(String::new()),
        Some(name) if name.ends_with(".pem") => Ok("PEM".to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
    }
}

fn load_text(text: &str) -> Result<Config, Vec<Mistake>> {
    load(text, Path::new("/etc/gavel/gavel.toml"), &env, &read)
}

/// The least that is complete.
const LEAST: &str = "[[databases]]\nname = '*'\n[[shards]]\nname = 'a'\nprimary = 'h:1'\n[[shards]]\nname = 'b'\nprimary = 'h:2'\n";

fn good(text: &str) -> Config {
    load_text(&format!("{text}\n{LEAST}")).expect("it has no mistakes")
}

fn check(text: &str, expected: &Expect) {
    let mistakes = match load_text(text) {
        Ok(_) => "no mistakes".to_owned(),
        Err(mistakes) => mistakes.iter().map(|mistake| format!("{mistake}\n")).collect(),
    };
    expected.assert_eq(&mistakes);
}

fn check_with_least(text: &str, expected: &Expect) {
    check(&format!("{text}\n{LEAST}"), expected);
}

#[test]
fn the_example_is_the_defaults() {
    let config = load_text(&example()).expect("the example has no mistakes");
    let defaults = Settings { databases: config.settings.databases.clone(), ..Settings::default() };
    assert_eq!(config.settings, defaults);
    assert!(config.topology.check().is_empty());
    assert_eq!(config.topology.shards.len(), 2);
}

/// Words that start a line, commented out or not, followed by `=`.
fn keys_of_example() -> BTreeSet<String> {
    let lines = example();
    let keys = lines.lines().filter_map(|line| line.trim_start_matches("# ").split_once(" = "));
    keys.map(|(key, _)| key.to_owned()).collect()
}

#[test]
fn every_field_of_the_settings_is_in_the_example() {
    let keys = keys_of_example();
    let source = include_str!("../settings.rs");
    let sections = ["listen", "auth", "pool", "backend", "limits", "routing", "log", "admin", "databases"];
    let fields = source.lines().filter_map(|line| line.strip_prefix("    pub ")?.split_once(':'));
    let mut seen = 0;
    for (field, _) in fields.filter(|(field, _)| !field.contains(' ')) {
        let found =
            keys.contains(field) || (sections.contains(&field) && example().contains(&format!("[{field}]")));
        assert!(found, "{field} is not in the example");
        seen += 1;
    }
    assert!(seen > 50, "the fields were not found");
}

#[test]
fn the_commented_settings_of_the_example_are_settings() {
    let mut text = String::new();
    for line in example().lines() {
        let commented = line.strip_prefix("# ").filter(|rest| rest.contains(" = ") || rest.starts_with("[["));
        let line = commented
            .filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
            .unwrap_or(line);
        text.push_str(line);
        text.push('\n');
    }
    let unknown = match load_text(&text) {
        Ok(_) => Vec::new(),
        Err(mistakes) => {
            mistakes.into_iter().filter(|m| m.message == "is not a setting" || m.key.is_empty()).collect()
        }
    };
    assert_eq!(unknown, []);
}

#[test]
fn spellings_of_values() {
    let config = good(
        "[pool]\nwait = 1500\nidle = '2h'\n[limits]\nmessage_bytes = '64MiB'\ncopy_buffer_bytes = 65536",
    );
    assert_eq!(config.settings.pool.wait.as_millis(), 1500);
    assert_eq!(config.settings.pool.idle.as_secs(), 7200);
    assert_eq!(config.settings.limits.message_bytes, 64 << 20);
    assert_eq!(config.settings.limits.copy_buffer_bytes, 65_536);
}

#[test]
fn secrets() {
    let password = |text: &str| good(&format!("[auth]\n{text}")).settings.auth.query_password;
    assert_eq!(password("query_password = 'plain'").as_deref(), Some("plain"));
    assert_eq!(password("query_password_file = 'secret'").as_deref(), Some("from the file"));
    assert_eq!(password("query_password_env = 'SECRET'").as_deref(), Some("from the environment"));
    let shown = format!("{:?}", good("[auth]\nquery_password = 'plain'").settings);
    assert!(!shown.contains("plain"), "{shown}");
    check_with_least(
        "[auth]\nquery_password = 'x'\nquery_password_env = 'NOT_SET'\nquery_password_file = 'gone'",
        &expect![[r#"
            line 3, column 22: auth.query_password_env: the environment has no NOT_SET; set it before the proxy starts
            line 4, column 23: auth.query_password_file: is given besides auth.query_password; keep one of them
            line 4, column 23: auth.query_password_file: cannot read /etc/gavel/gone: no such file; name a file that the proxy's user may read
        "#]],
    );
    check_with_least(
        "[auth]\nquery_password_file = 'empty'",
        &expect![[r#"
        line 2, column 23: auth.query_password_file: the first line of /etc/gavel/empty is empty; put the secret on it
    "#]],
    );
}

#[test]
fn files_are_relative_to_the_configuration_file() {
    let text = "[listen]\ntls = 'require'\ntls_certificate = 'c.pem'\ntls_key = '/k/k.pem'\n";
    let listen = good(text).settings.listen;
    assert_eq!(listen.tls_certificate, Some(PathBuf::from("/etc/gavel/c.pem")));
    assert_eq!(listen.tls_key, Some(PathBuf::from("/k/k.pem")));
}

#[test]
fn the_map() {
    let config = good(
        "[[tables]]\nname = 'users'\nkind = 'reference'\n[[tables]]\ncolumn = 'auction_id'\nkind = 'sharded'\n\
         key_type = 'bigint'\n[[tables]]\npattern = 'x_*'\nkind = 'sharded'\nkey = 'k'\n\
         [[functions]]\nname = 'f'\nkey_argument = 2\n[[functions]]\nname = 'g'\n\
         [[overrides]]\nkey = 42\nshard = 'b'\n[[overrides]]\nkey_from = '100'\nkey_to = '200'\nring = true\n\
         [[overrides]]\nkey_from = '200'\nshard = 'a'",
    );
    let topology = config.topology;
    assert_eq!(topology.owner(&KeyValue::Int(42)), ShardId(1));
    assert_eq!(topology.owner(&KeyValue::Int(1_000_000)), ShardId(0));
    let sharded = |key: &str, key_type| TableKind::Sharded { key: key.to_owned(), key_type };
    assert_eq!(topology.tables[1].kind, sharded("auction_id", Some(crate::key::KeyType::Int8)));
    assert_eq!(topology.tables[2].kind, sharded("k", None));
    assert_eq!(topology.function("f").and_then(|f| f.key_argument), Some(2));
    assert_eq!(topology.function("g").map(|f| f.key_argument), Some(None));
    assert!(topology.check().is_empty());
}

#[test]
fn databases() {
    let text = "[[databases]]\nname = 'a'\npool_size = 5\n[[databases]]\nname = 'b'\nkind = 'node'\nnode = '[::1]:5'\n[[shards]]\nname = 's'\nprimary = 'h:1'";
    let databases = load_text(text).expect("it has no mistakes").settings.databases;
    assert_eq!(databases[0].kind, DatabaseKind::Sharded);
    assert_eq!(databases[0].pool_size, Some(5));
    assert!(matches!(&databases[1].kind, DatabaseKind::Node(node) if node.host == "::1" && node.port == 5));
}

#[test]
fn an_empty_file_lacks_what_is_needed() {
    check(
        "",
        &expect![[r#"
        line 1, column 1: databases: is missing; add [[databases]] with name = "NAME" (or "*" for any) and kind = "sharded"
        line 1, column 1: shards: is missing; add [[shards]] with name = "shard-1" and primary = "host:5432"
    "#]],
    );
}

#[test]
fn toml_mistakes_do_not_hide_the_others() {
    check_with_least(
        "[pool]\nsize = \nwait = 'x'\n[pool]\n",
        &expect![[r#"
        line 2, column 8: string values must be quoted, expected literal string; write key = value, with texts in double quotes and sections like [pool] or [[shards]]
        line 3, column 8: pool.wait: "x" is not a duration; write a number with a unit, like "500ms", "15s", "10min", "1h", "7d", or an integer of milliseconds
        line 4, column 2: duplicate key; remove one of the two; a list of sections is written [[name]]
    "#]],
    );
}

#[test]
fn an_unclosed_head_of_a_section_is_one_mistake() {
    check_with_least(
        "[pool\nsize = 20\n\nwait = '1s'\n[limits]\nclints = 5\n",
        &expect![[r#"
            line 1, column 6: unclosed table, expected `]`; write key = value, with texts in double quotes and sections like [pool] or [[shards]]
            line 6, column 1: limits.clints: is not a setting; did you mean "clients"?
        "#]],
    );
}

#[test]
fn unknown_keys() {
    check_with_least(
        "[pool]\nsice = 20\nxyzzy = 1\n[lisen]\n[routing]\nread = 'primary'\n[[databases]]\nname='q'\nmode = 'session'",
        &expect![[r#"
            line 2, column 1: pool.sice: is not a setting; did you mean "size"?
            line 3, column 1: pool.xyzzy: is not a setting; remove it; known here: mode, size, min_idle, wait, max_lifetime, idle, statements, combine_size
            line 4, column 2: lisen: is not a setting; did you mean "listen"?
            line 6, column 1: routing.read: is not a setting; did you mean "reads"?
            line 9, column 1: databases[1].mode: is not a setting; did you mean "pool_mode"?
        "#]],
    );
}

#[test]
fn wrong_values() {
    check_with_least(
        "[listen]\naddress = 6432\nthreads = -1\nmetrics = '*:1'\ntls = 'on'\n[pool]\nmode = 'statement'\nsize = '20'\n\
         wait = '30'\nmin_idle = 30\n[log]\njson = 'yes'\n[admin]\nusers = ['a', 1]\n[limits]\nmessage_bytes = '1 MB'\nclients = 0\n\
         statement_parse_bytes = 10\nlogin = true\n[auth]\nquery = 'select 1'\nquery_user = ''\nusers_file = 'nope'",
        &expect![[r#"
            line 2, column 11: listen.address: must be a text, not an integer; put it in double quotes
            line 3, column 11: listen.threads: -1 is out of range; write a number from 0 to 1024
            line 4, column 11: listen.metrics: "*:1" has no host; write host:port, like "127.0.0.1:6432", "0.0.0.0:6432" or "[::1]:6432"
            line 5, column 7: listen.tls: "on" is not one of its values; write "off", "allow" or "require"
            line 7, column 8: pool.mode: "statement" is not one of its values; write "transaction" or "session"
            line 8, column 8: pool.size: must be a whole number, not a string; write a number from 1 to 10000
            line 9, column 8: pool.wait: "30" is not a duration; write a number with a unit, like "500ms", "15s", "10min", "1h", "7d", or an integer of milliseconds
            line 10, column 12: pool.min_idle: 30 is more than the pool's size of 20; lower min_idle or raise size
            line 12, column 8: log.json: must be true or false, not a string; write true or false, without quotes
            line 14, column 15: admin.users: holds an integer; put each entry in double quotes
            line 17, column 11: limits.clients: 0 is out of range; write a number from 1 to 1000000
            line 18, column 25: limits.statement_parse_bytes: 10 bytes are out of range; write a size from 1024 to 1073741823 bytes
            line 18, column 25: limits.statement_parse_bytes: is more than message_bytes, which is 1000000; lower it or raise message_bytes
            line 19, column 9: limits.login: must be a duration, not a boolean; write a number with a unit, like "500ms", "15s", "10min", "1h", "7d", or an integer of milliseconds
            line 21, column 9: auth.query: has no $1; write $1 where the name of the user belongs, or "" for no look-up
            line 22, column 14: auth.query_user: is empty; give it a name, or leave the line out
            line 23, column 14: auth.users_file: cannot read /etc/gavel/nope: no such file; name a file that the proxy's user may read
        "#]],
    );
}

#[test]
fn settings_that_need_each_other() {
    check_with_least(
        "[listen]\ntls = 'require'\n[auth]\nmethod = 'cert'\n[backend]\ntls = 'verify-full'\n[admin]\ndatabase = '*'",
        &expect![[r#"
            line 2, column 7: listen.tls: needs tls_certificate; add tls_certificate = "FILE.pem", or write tls = "off"
            line 2, column 7: listen.tls: needs tls_key; add tls_key = "FILE.pem", or write tls = "off"
            line 3, column 1: auth: method "cert" needs the CA of client certificates; add tls_client_ca = "FILE.pem" to [listen]
            line 6, column 7: backend.tls: needs tls_ca; add tls_ca = "FILE.pem" with the certificates to trust
            line 7, column 1: admin: admin.database "*" is also one of [[databases]]; give the console a name of its own
        "#]],
    );
    check_with_least(
        "[listen]\ntls_key = 'k.pem'\n[auth]\nquery = ''",
        &expect![[r#"
        line 2, column 11: listen.tls_key: is given, but tls is off; add tls = "allow" or tls = "require"
        line 4, column 9: auth.query: is empty and there is no users_file: nobody could log in; give one of them
    "#]],
    );
}

#[test]
fn wrong_shards() {
    check(
        "[[databases]]\nname = '*'\n[[databases]]\nname = 'late'\nkind = 'node'\n[[databases]]\nkind = 'first_shard'\nnode = 'h:1'\n\
         [[shards]]\nname = 'a'\nprimary = 'h:1'\nreplicas = ['h:1', 'h:2', 'h:2', 'x']\nweight = -1\n\
         [[shards]]\nname = 'a'\nprimary = 'h:2'\nweight = 'heavy'\n[[shards]]\nname = 'no good'\n[[shards]]\nprimary = 'h'",
        &expect![[r#"
            line 3, column 1: databases[2].node: is missing; add node = "host:port"
            line 4, column 8: databases[2].name: "late" is never reached: an earlier entry matches it; remove it or move it up: the first match wins
            line 6, column 1: databases[3].name: is missing; add name = "NAME", or "*" for any other database
            line 8, column 8: databases[3].node: is given, but kind is not "node"; write kind = "node" or remove this line
            line 12, column 13: shards[1].replicas: h:1 is the primary; name another node
            line 12, column 27: shards[1].replicas: h:2 is listed twice; remove one of them
            line 12, column 34: shards[1].replicas: "x" has no port; write host:port, like "127.0.0.1:5432", "[::1]:5432" or "/run/postgresql:5432"
            line 13, column 10: shards[1].weight: is no weight; write a number from 0 (owns no slots) to 100; 1.0 is usual
            line 15, column 8: shards[2].name: "a" is the name of an earlier shard; give each shard its own name
            line 16, column 11: shards[2].primary: h:2 is a node of a already; name another node: shards share nothing
            line 17, column 10: shards[2].weight: is no weight; write a number from 0 (owns no slots) to 100; 1.0 is usual
            line 18, column 1: shards[3].primary: is missing; add primary = "host:5432"
            line 19, column 8: shards[3].name: "no good" is no name; use letters, digits, -, _ and . only
            line 20, column 1: shards[4].name: is missing; add name = "shard-1"
            line 21, column 11: shards[4].primary: "h" has no port; write host:port, like "127.0.0.1:5432", "[::1]:5432" or "/run/postgresql:5432"
        "#]],
    );
    check(
        "shards = []\n[[databases]]\nname = 'a'",
        &expect![[r#"
        line 1, column 1: shards: is missing; add [[shards]] with name = "shard-1" and primary = "host:5432"
    "#]],
    );
    check(
        "[shards]\n[[databases]]\nname = 'a'",
        &expect![[r#"
        line 1, column 1: shards: must be a list of sections, not a table; write [[shards]] on a line of its own before each entry
    "#]],
    );
    check(
        "[[databases]]\nname = 'a'\n[[shards]]\nname = 'a'\nprimary = 'h:1'\nweight = 0",
        &expect![[r#"
        line 3, column 1: shards: no shard has a weight: none could own a slot; give at least one shard a weight above 0
    "#]],
    );
}

/// Found by the fuzzer: the ring was searched in vain for each slot of a shard whose name it had already.
#[test]
fn many_shards_of_one_name_are_mistakes_soon() {
    let text = "[[shards]]\nname = 'a'\nprimary = 'h:1'\n".repeat(200);
    let repeated = load_text(&text).expect_err("mistakes").into_iter();
    assert_eq!(repeated.filter(|m| m.to_string().contains("the name of an earlier shard")).count(), 199);
}

#[test]
fn wrong_tables_and_functions() {
    check_with_least(
        "[[tables]]\nkind = 'sharded'\n[[tables]]\nname = 'a'\ncolumn = 'b'\nkind = 'reference'\nkey = 'x'\n[[tables]]\nname = 'c'\n\
         [[tables]]\nname = 'd'\nkind = 'shraded'\n[[tables]]\nname = 'e'\nkind = 'sharded'\nkey_type = 'float8'\n\
         [[tables]]\npattern = 'f*'\nkind = 'unsharded'\n[[tables]]\nname = 'foo'\nkind = 'unsharded'\n\
         [[functions]]\nkey_argument = 0\n[[functions]]\nname = 'f'\n[[functions]]\nname = 'f'",
        &expect![[r#"
            line 1, column 1: tables[1].name: is missing; write exactly one of name = "TABLE", pattern = "prefix_*", column = "COLUMN"
            line 5, column 10: tables[2].column: is given besides name; write exactly one of name = "TABLE", pattern = "prefix_*", column = "COLUMN"
            line 7, column 7: tables[2].key: is given, but the table is not sharded; remove it or write kind = "sharded"
            line 8, column 1: tables[3].kind: is missing; add kind = "sharded", "reference" or "unsharded"
            line 12, column 8: tables[4].kind: "shraded" is not one of its values; did you mean "sharded"? It can be "sharded", "reference" or "unsharded"
            line 13, column 1: tables[5].key: is missing; add key = "COLUMN": rows are placed by it
            line 16, column 12: tables[5].key_type: "float8" cannot be the type of a shard key; write smallint, integer, bigint, text, varchar, char, uuid, numeric, date or timestamptz
            line 20, column 1: tables[7]: never applies: tables[6] matches the same tables before it; remove it, or move it up: the first match wins
            line 23, column 1: functions[1].name: is missing; add name = "FUNCTION", without schema
            line 24, column 16: functions[1].key_argument: 0 is out of range; write a number from 1 to 100
            line 28, column 8: functions[3].name: "f" has an entry already; remove one of them
        "#]],
    );
}

#[test]
fn the_type_of_an_override_is_that_of_the_tables() {
    let table =
        |key_type: &str| format!("[[tables]]\ncolumn = 'k'\nkind = 'sharded'\nkey_type = '{key_type}'\n");
    let config = good(&format!("{}[[overrides]]\nkey = 'a'\nshard = 'b'", table("varchar")));
    assert_eq!(config.topology.key_overrides.get(&KeyValue::Text("a".to_owned())), Some(&ShardId(1)));
    check_with_least(
        &format!("{}[[overrides]]\nkey = 'a'\nkey_type = 'text'\nshard = 'b'", table("bigint")),
        &expect![[r#"
            line 7, column 12: overrides[1].key_type: no sharded table has a text key; write the type of the keys
        "#]],
    );
}

#[test]
fn wrong_overrides() {
    check_with_least(
        "[[overrides]]\nkey = 42\nshard = 'c'\n[[overrides]]\nkey = 'x'\nkey_type = 'bigint'\nshard = 'a'\n\
         [[overrides]]\nkey = 7\nshard = 'a'\n[[overrides]]\nkey = 7\nshard = 'b'\n[[overrides]]\nkey = 'x'\nshard = 'a'\n\
         [[overrides]]\nkey_from = 10\nkey_to = 10\nshard = 'a'\n[[overrides]]\nkey_from = 10\nshard = 'a'\n\
         [[overrides]]\nkey_to = 11\nshard = 'a'\n[[overrides]]\nkey_from = 'a'\nkey_type = 'text'\nshard = 'a'\n\
         [[overrides]]\nkey = 1\nkey_from = 2\nshard = 'a'\nring = true\n[[overrides]]\nkey = 1\nring = true\n[[overrides]]",
        &expect![[r#"
            line 3, column 9: overrides[1].shard: there is no shard "c"; shards are: a, b
            line 5, column 7: overrides[2].key: invalid input syntax for type bigint: "x"; write a value of the key's type, in ISO form with a zone for times
            line 12, column 7: overrides[4].key: has an override already; remove one of them
            line 14, column 1: overrides[5].key_type: is missing; add key_type = "bigint", or whatever the key column's type is
            line 19, column 10: overrides[6].key_to: is not above key_from: the range is empty; key_to is the first key after the range
            line 25, column 10: overrides[8].key_to: the range overlaps an earlier one; make the ranges meet: key_to is not part of its range
            line 28, column 12: overrides[9].key_from: the order of text depends on more than the value; name single keys: ranges are for smallint, integer, bigint, uuid, date and timestamptz
            line 32, column 7: overrides[10].key: is given besides a range; make them two entries
            line 35, column 8: overrides[10].ring: is given besides shard; keep one of them
            line 38, column 8: overrides[11].ring: is for ranges; remove the entry: keys live on the ring by default
            line 39, column 1: overrides[12].shard: is missing; add shard = "NAME", or ring = true
            line 39, column 1: overrides[12].key: is missing; add key = "42", or key_from and key_to for a range
        "#]],
    );
}

#[test]
fn zeros_of_pools_and_nul_characters_mean_something_or_are_refused() {
    check_with_least("[pool]\nmax_lifetime = 0\nidle = 0\nmin_idle = 0", &expect![[r#"no mistakes"#]]);
    check_with_least(
        "[pool]\nsize = 0\nwait = 0\nstatements = 0\n[auth]\nquery_user = \"\\u0000\"\n[admin]\nusers = [\"a\\u0000\"]",
        &expect![[r#"
            line 2, column 8: pool.size: 0 is out of range; write a number from 1 to 10000
            line 3, column 8: pool.wait: is 0: whoever finds no connection free would fail at once; write at least 1ms
            line 4, column 14: pool.statements: 0 is out of range; write a number from 1 to 10000000
            line 6, column 14: auth.query_user: contains a NUL character; remove it
            line 8, column 10: admin.users: contains a NUL character; remove it
        "#]],
    );
}

#[test]
fn what_begins_with_the_mistyped_word_is_nearer_than_what_contains_it() {
    let closest = |word| super::reader::closest(word, &["sharded", "first_shard", "node"]);
    assert_eq!(closest("shard"), Some("sharded"));
    assert_eq!(closest("first"), Some("first_shard"));
    assert_eq!(closest("x"), None);
}

#[test]
fn a_listener_is_no_socket_and_nobody_else_is_on_it() {
    check_with_least(
        "[listen]\naddress = '/tmp:6432'\nmetrics = '300.1.1.1:9127'\npeers = ['/tmp:1']\n",
        &expect![[r#"
            line 2, column 11: listen.address: "/tmp" is a directory: proxies do not listen on Unix sockets; write host:port, like "127.0.0.1:6432", "0.0.0.0:6432" or "[::1]:6432"
            line 3, column 11: listen.metrics: "300.1.1.1" is not an IPv4 address; write host:port, like "127.0.0.1:6432", "0.0.0.0:6432" or "[::1]:6432"
            line 4, column 10: listen.peers: "/tmp" is a directory: proxies do not listen on Unix sockets; write host:port, like "127.0.0.1:6432", "0.0.0.0:6432" or "[::1]:6432"
        "#]],
    );
    check_with_least(
        "[listen]\naddress = '0.0.0.0:6432'\nmetrics = '127.0.0.1:6432'\n",
        &expect![[r#"
        line 3, column 11: listen.metrics: is part of the address that applications use, 0.0.0.0:6432; choose another port
    "#]],
    );
    check(
        "[listen]\naddress = '0.0.0.0:6432'\n[[databases]]\nname = '*'\n[[shards]]\nname = 's'\n\
         primary = 'postgres://h:5432'\n[[shards]]\nname = 't'\nprimary = 'h:0'\nreplicas = ['localhost:6432']\n",
        &expect![[r#"
            line 7, column 11: shards[1].primary: "postgres://h:5432" is a URL; write host:port, like "127.0.0.1:5432", "[::1]:5432" or "/run/postgresql:5432"
            line 10, column 11: shards[2].primary: port 0 is nobody's port; write host:port, like "127.0.0.1:5432", "[::1]:5432" or "/run/postgresql:5432"
            line 11, column 12: shards[2].replicas: localhost:6432 is where the proxy itself listens (listen.address); name the address of a PostgreSQL server
        "#]],
    );
}

#[test]
fn names_that_nothing_can_have() {
    check_with_least(
        "[[tables]]\nname = 'users*'\nkind = 'reference'\n[[tables]]\nname = 'a.b.c'\nkind = 'reference'\n\
         [[tables]]\npattern = '.x'\nkind = 'reference'\n[[functions]]\nname = 'public.f(int)'\n",
        &expect![[r#"
            line 2, column 8: tables[1].name: "users*" is a pattern; write pattern = "users*" instead of name
            line 5, column 8: tables[2].name: "a.b.c" has more than two parts; write "table" or "schema.table", as stored in the catalog: in lower case unless made in quotes
            line 8, column 11: tables[3].pattern: ".x" has an empty part; write a pattern over "table" or "schema.table", as in "archive_*" or "archive.*"
            line 11, column 8: functions[1].name: "public.f(int)" is not a function's name alone; write "f": without schema, arguments and quotes, for all functions of that name
        "#]],
    );
}

#[test]
fn sizes_that_contradict_each_other_are_told_where_they_are() {
    check(
        "[pool]\nmin_idle = 10\n[limits]\nmessage_bytes = '512KiB'\n[[databases]]\nname = '*'\npool_size = 5\n\
         [[shards]]\nname = 's'\nprimary = 'h:1'",
        &expect![[r#"
            line 4, column 17: limits.message_bytes: is less than statement_parse_bytes, which is 1048576 by default; raise it, or write a lower statement_parse_bytes too
            line 7, column 13: databases[1].pool_size: 5 is less than pool.min_idle, which is 10; raise pool_size or lower min_idle in [pool]
        "#]],
    );
    check_with_least(
        "[limits]\nmessage_bytes = '512KiB'\nstatement_parse_bytes = '600KiB'\n[listen]\nthreads = 9223372036854775808",
        &expect![[r#"
            line 3, column 25: limits.statement_parse_bytes: is more than message_bytes, which is 524288; lower it or raise message_bytes
            line 5, column 11: listen.threads: 9223372036854775808 is out of range; write a number from 0 to 1024
        "#]],
    );
}

#[test]
fn a_file_without_line_feeds_is_one_mistake() {
    check(
        "[pool]\rsize = 1\rwait = 2\r",
        &expect![[r#"
        line 1, column 7: a carriage return without a line feed; save the file with lines that end in LF or CRLF
    "#]],
    );
    assert!(load_text(&LEAST.replace('\n', "\r\n")).is_ok());
}
