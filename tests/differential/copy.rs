//! COPY in and out, of tables and of queries.

use tests::random::Random;

use crate::case::{Case, Class, Order, Step, has_oids};
use crate::expr::Form;
use crate::house::{Table, Ty};
use crate::select::{grouped, join, sharded, sorted};
use crate::values::binary;

/// How data are written.
#[derive(Debug, Clone, Copy)]
struct Format {
    options: &'static str,
    delimiter: char,
    null: &'static str,
    /// Of csv.
    quote: Option<char>,
    header: bool,
}

const TEXT: Format = Format { options: "", delimiter: '\t', null: "\\N", quote: None, header: false };
const CSV: Format =
    Format { options: " with (format csv)", delimiter: ',', null: "", quote: Some('"'), header: false };

const FORMATS: [Format; 7] = [
    TEXT,
    Format { options: " with (delimiter '|', null '-')", delimiter: '|', null: "-", ..TEXT },
    Format { options: " with (format text, header)", header: true, ..TEXT },
    CSV,
    Format { options: " with (format csv, header)", header: true, ..CSV },
    Format { options: " csv quote '''' null 'none'", null: "none", quote: Some('\''), ..CSV },
    Format {
        options: " with (format csv, delimiter ';', force_null (FIRST), escape '\"')",
        delimiter: ';',
        ..CSV
    },
];

/// COPY in and out.
pub(crate) fn copy(random: &mut Random) -> Case {
    match random.below(10) {
        0..3 => Case::one(Class::Copy, table_out(random)),
        3..5 => Case::one(Class::Copy, query_out(random)),
        _ => copy_in(random),
    }
}

fn format_of(table: &Table, random: &mut Random) -> (Format, String) {
    let format = random.pick(&FORMATS);
    let last = table.columns[table.columns.len() - 1].0;
    (format, format.options.replace("FIRST", last))
}

fn table_out(random: &mut Random) -> Step {
    let source = sharded(random);
    let (_, options) = format_of(source, random);
    let options = if options.contains("force") { String::new() } else { options };
    let key: Vec<_> = source.key_names().collect();
    Step::simple(match random.below(4) {
        0 => format!("copy {} to stdout{options}", table_name(source)),
        1 => format!("copy {} ({}) to stdout{options}", table_name(source), key.join(", ")),
        2 => format!(
            "copy (select * from {} where {} is not null) to stdout{options}",
            source.name, source.columns[1].0
        ),
        _ if source.name == "things" => format!("copy {} to stdout", source.name),
        _ => format!("copy {} to stdout with (format binary)", table_name(source)),
    })
}

/// PostgreSQL copies a partitioned table as a query only.
fn table_name(table: &Table) -> &'static str {
    if table.name == "sales" { "sales_1" } else { table.name }
}

/// The rows of a query of another class.
fn query_out(random: &mut Random) -> Step {
    loop {
        let case = match random.below(3) {
            0 => join(random),
            1 => grouped(random),
            _ => sorted(random),
        };
        let [step] = case.steps.as_slice() else { continue };
        let options = random.pick(&["", " with (format csv, header)", " with (format binary)"]);
        let binary = options.contains("binary") && has_oids(&step.sql);
        if step.form == Form::Simple && step.order != Order::Count && !binary {
            return Step {
                order: step.order,
                ..Step::simple(format!("copy ({}) to stdout{options}", step.sql))
            };
        }
    }
}

fn copy_in(random: &mut Random) -> Case {
    let table = sharded(random);
    let (format, options) = format_of(table, random);
    let mut columns: Vec<_> = table.columns.to_vec();
    let mut list = String::new();
    if random.chance(30) {
        if columns.len() > table.key {
            columns.remove(table.key);
        }
        let by = random.below(columns.len());
        columns.rotate_left(by);
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        list = format!(" ({})", names.join(", "));
    }
    let rows = rows(random, table, &columns);
    let in_binary = if random.chance(25) { binary_data(&rows, &columns) } else { None };
    let (data, options) = match in_binary {
        Some(data) => (data, " with (format binary)".to_owned()),
        None => (lines(random, &rows, &columns, format), options),
    };
    let key: Vec<_> = table.key_names().collect();
    let look = Step::ordered(format!("select * from {} order by {}", table.name, key.join(", ")));
    let copy = Step { data, ..Step::simple(format!("copy {}{list} from stdin{options}", table.name)) };
    let end = Step::simple(if random.chance(20) { "commit" } else { "rollback" });
    let steps = match random.below(5) {
        0 => vec![copy, look],
        1 => vec![
            Step::simple("begin"),
            Step::simple("savepoint s"),
            copy,
            Step::simple("rollback to s"),
            look,
            end,
        ],
        _ => vec![Step::simple("begin"), copy, look, end],
    };
    Case { class: Class::Copy, steps }
}

/// Values in text format; `None` is NULL.
type Row = Vec<Option<String>>;

fn rows(random: &mut Random, table: &Table, columns: &[(&'static str, Ty)]) -> Vec<Row> {
    let key: Vec<_> = table.key_names().collect();
    let wrong = random.chance(8);
    let row = |line: usize, random: &mut Random| {
        let value = |(name, ty): &(&'static str, Ty)| {
            if !key.contains(name) && random.chance(10) {
                return None;
            }
            // Fresh keys, for the most part.
            Some(match ty {
                Ty::Int8 if *name == key[0] && table.name != "pictures" && random.chance(90) => {
                    (1_000 + line).to_string()
                }
                Ty::Text if *name == key[0] => format!("key {line}"),
                Ty::Int4 if wrong && random.chance(10) => "five".to_owned(),
                ty => ty.value(random),
            })
        };
        columns.iter().map(value).collect()
    };
    (0..random.below(14)).map(|line| row(line, random)).collect()
}

/// Text or csv; now and then a line that is too short.
fn lines(random: &mut Random, rows: &[Row], columns: &[(&'static str, Ty)], format: Format) -> Vec<u8> {
    let mut text = String::new();
    if format.header {
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        text = format!("{}\n", names.join(&format.delimiter.to_string()));
    }
    for row in rows {
        let field = |value: &Option<String>| match (value, format.quote) {
            (None, _) => format.null.to_owned(),
            (Some(value), Some(quote)) => {
                format!("{quote}{}{quote}", value.replace(quote, &quote.to_string().repeat(2)))
            }
            (Some(value), None) => {
                let escaped = value.replace('\\', "\\\\");
                escaped.replace(format.delimiter, &format!("\\{}", format.delimiter))
            }
        };
        let mut fields: Vec<_> = row.iter().map(field).collect();
        if random.chance(2) {
            fields.pop();
        }
        text.push_str(&fields.join(&format.delimiter.to_string()));
        text.push('\n');
    }
    text.into_bytes()
}

/// The binary format; `None` when a value has no such form here.
fn binary_data(rows: &[Row], columns: &[(&'static str, Ty)]) -> Option<Vec<u8>> {
    let mut data = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0".to_vec();
    for row in rows {
        data.extend((columns.len() as i16).to_be_bytes());
        for (value, (_, ty)) in row.iter().zip(columns) {
            match value {
                None => data.extend((-1_i32).to_be_bytes()),
                Some(value) => {
                    let bytes = binary(*ty, value)?;
                    data.extend((bytes.len() as i32).to_be_bytes());
                    data.extend(bytes);
                }
            }
        }
    }
    data.extend((-1_i16).to_be_bytes());
    Some(data)
}
