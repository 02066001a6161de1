-- What the transcripts find when they start. Run on every server before anything else, so that the ids of these
-- objects are the same everywhere.
create type mood as enum ('sad', 'ok', 'happy');
create domain positive as int check (value > 0);
create type pair as (a int, b text);
create table items (
    id int primary key,
    name text not null,
    price numeric(12, 2),
    tags text[],
    created timestamptz not null default '2024-01-02 03:04:05+00',
    data jsonb,
    feeling mood default 'ok'
);
insert into items (id, name, price, tags, data) values
    (1, 'clock', 10.50, '{old,brass}', '{"a": 1}'),
    (2, 'vase', 99.99, '{}', '{"a": [1, 2, {"b": null}]}'),
    (3, 'lamp', null, null, null),
    (4, 'ünïcode ☃', 0.01, '{"with,comma","with \"quote\"",null}', '"text"'),
    (5, 'chair', 123456789.12, '{x}', '{}');
create table numbers (n int primary key, square int);
insert into numbers select n, n * n from generate_series(1, 1000) n;
create table empty_table (id int, note text);
create table parents (id int primary key, name text unique);
create table children (
    id int primary key,
    parent int not null references parents (id) on delete cascade,
    amount int check (amount >= 0),
    label varchar(5)
);
insert into parents values (1, 'one'), (2, 'two');
insert into children values (1, 1, 10, 'a'), (2, 1, 20, 'b');
create table deferred (id int primary key, parent int references parents (id) deferrable initially deferred);
create table log_lines (id int generated always as identity, line text);
create table load_me (id int, name text, amount numeric, flag boolean, day date);
create view cheap_items as select id, name, price from items where price < 50;
create materialized view item_count as select count(*) as n from items;
create sequence counter start 100;
create index items_name on items (name);
create function add(a int, b int) returns int language sql immutable as 'select a + b';
create function complain(message text) returns void language plpgsql as $$
begin
    raise exception 'complaint: %', message using detail = 'some detail', hint = 'some hint', errcode = 'P0042';
end $$;
create function remark(message text) returns text language plpgsql as $$
begin
    raise notice 'remark: %', message;
    return upper(message);
end $$;
create function pairs(n int) returns setof pair language sql stable as
    'select i, ''p'' || i from generate_series(1, n) i';
create procedure write_log(line text) language sql as 'insert into log_lines (line) values (line)';
create table auctions (auction_id bigint primary key, title text not null, price numeric(12, 2) default 1);
create table bids (auction_id bigint references auctions, bid_id int, amount numeric(12, 2), primary key (auction_id, bid_id));
analyze;
