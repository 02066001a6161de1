//! What drivers, ORMs and psql ask of the catalog.

use tests::random::Random;

use crate::case::{Case, Class, Order, Step};
use crate::expr::Writer;
use crate::house::TABLES;

/// A question.
pub(crate) fn catalog(random: &mut Random) -> Case {
    let table = random.pick(TABLES).name;
    let writer = Writer::new(random);
    let sql = match writer.random.below(26) {
        0 => format!("select attname, format_type(atttypid, atttypmod), attnotnull from pg_attribute where attrelid = '{table}'::regclass and attnum > 0 order by attnum"),
        1 => format!("select column_name, data_type, is_nullable, ordinal_position from information_schema.columns where table_name = '{table}' order by ordinal_position"),
        2 => "select table_name from information_schema.tables where table_schema = 'public' order by 1".to_owned(),
        3 => format!("select indexname, indexdef from pg_indexes where tablename = '{table}' order by 1"),
        4 => format!("select conname, contype, pg_get_constraintdef(oid) from pg_constraint where conrelid = '{table}'::regclass order by 1"),
        5 => format!("select c.relname, c.relkind, n.nspname from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relname = '{table}'"),
        6 => "select enumlabel from pg_enum e join pg_type t on t.oid = e.enumtypid where typname = 'condition' order by enumsortorder".to_owned(),
        7 => "select current_database(), current_schema(), current_user, current_setting('server_version_num')".to_owned(),
        8 => "select proname, pg_get_function_arguments(oid) from pg_proc where pronamespace = 'public'::regnamespace order by 1".to_owned(),
        9 => "select viewname, definition from pg_views where schemaname = 'public' order by 1".to_owned(),
        10 => format!("select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey) where i.indrelid = '{table}'::regclass and i.indisprimary order by a.attnum"),
        11 => format!("select to_regclass('public.{table}')::text, to_regclass('nothing')::text"),
        12 => format!("select tgname, tgenabled from pg_trigger where tgrelid = '{table}'::regclass and not tgisinternal order by 1"),
        13 => "select 'auctions'::regclass::text, 'condition'::regtype::text, version() like 'PostgreSQL%'".to_owned(),
        14 => format!("select pg_get_serial_sequence('offers', 'auction_id'), has_table_privilege('{table}', 'select')"),
        15 => "show search_path".to_owned(),
        16 => format!("select n.nspname, c.relname, c.relkind, pg_get_userbyid(c.relowner) from pg_class c left join pg_namespace n \
               on n.oid = c.relnamespace where c.relkind in ('r','p','v','m','S','f','') and n.nspname <> 'pg_catalog' \
               and n.nspname !~ '^pg_toast' and n.nspname <> 'information_schema' and pg_table_is_visible(c.oid) and c.relname <> '{table}' order by 1, 2"),
        17 => format!("select kcu.column_name from information_schema.table_constraints tc join information_schema.key_column_usage kcu \
               using (constraint_name, table_schema) where tc.constraint_type = 'PRIMARY KEY' and tc.table_name = '{table}' order by 1"),
        18 => "select extname from pg_extension order by 1".to_owned(),
        19 => "select inhrelid::regclass::text, pg_get_expr(relpartbound, inhrelid) from pg_inherits join pg_class on oid = inhrelid order by 1".to_owned(),
        20 => "select conrelid::regclass::text, confrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint where contype = 'f' \
               and conparentid = 0 order by 1".to_owned(),
        21 => "select typname, typtype from pg_type where typname in ('condition', 'fees', 'citext') order by 1".to_owned(),
        22 => "select 1 as one, 'x'::text, null, array[1,2], current_setting('TimeZone')".to_owned(),
        23 => format!("select attname, pg_get_expr(adbin, adrelid) from pg_attrdef join pg_attribute on attrelid = adrelid and attnum = adnum \
               where adrelid = '{table}'::regclass order by 1"),
        24 => "select schemaname, sequencename, data_type::text from pg_sequences order by 2".to_owned(),
        _ => "select name, setting from pg_settings where name in ('TimeZone', 'DateStyle', 'search_path') order by 1".to_owned(),
    };
    Case::one(Class::Catalog, Step::written(sql, writer, Order::Total))
}
